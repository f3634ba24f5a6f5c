"""What all iterative solvers share: fields, options, preconditioner, stopping rule, statistics.

A concrete solver gives its fields, says which operators it admits (`check`), and writes its recursion as a
`Method` (`method`).  Everything else, from lineax's protocol to the true-residual check, is here.
"""

import abc
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, PyTree

from .._reasons import as_reason, as_result, inexact_leaves, raise_in_words
from .._results import Stats
from .._stopping import Method, power_of_two_scale, solve_to_true_residual
from .._system import System
from .._upstream import solve_throws
from .._variable import AbstractVariablePreconditioner
from .._vectors import Vector, size
from ..monitor import AbstractMonitor
from ..operators import SparseLinearOperator, StencilLinearOperator
from ..operators.base import EXPLICIT, is_positive_semidefinite, require_operator, untagged
from ..operators.convert import as_one
from ..preconditioners.variable import as_preconditioner

#: A preconditioner: an operator `M ~ A^-1`, a variable one, or a constructor that makes either from `A`.
Preconditioner = lx.AbstractLinearOperator | AbstractVariablePreconditioner | Callable[[Any], Any]


def constant_field(**kwargs: Any) -> Any:
    """A field of a solver whose value is cut off from differentiation: no solution depends on it."""
    return eqx.field(converter=lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, **kwargs)


class Work(NamedTuple):
    """Work of a method: products with `A` and applications of `M`."""

    products_per_step: int
    applications_per_step: int
    applications_per_cycle: int


class AbstractIterativeSolver(lx.AbstractLinearSolver[System]):
    """Base of the iterative linear solvers; see any of them for use.

    Fields common to all:

    * `rtol, atol`: stop when `||b - A x||_2 <= max(rtol ||b||_2, atol)`, checked on the computed residual.
    * `max_steps`: default ten times the number of unknowns, at least 1000, at most 100 000.
    * `preconditioner`: a constructor such as `nsolve.preconditioners.Jacobi()`, built in `init` (so that
      `state=` reuses it), or an operator `M ~ A^-1`.  `options={"preconditioner": M}` takes precedence.
      A `state=` keeps the one that it was made with; options that hold another are a `ValueError`.
    * `history`: record `stats["residual_norms"]`, `(max_steps + 1,)`, NaN after the last step.
    * `monitor`: prints how far the solve has come, or ends it: `nsolve.Monitor(every=10)`.

    Options: `preconditioner`, and `y0`, the start (zero by default).

    Vectors and solutions are pytrees of the operator's structure: one array, or several of one dtype, float32
    to complex128; counts are int32 scalars, residual norms real scalars of the vector's precision.  The
    operator is square; its class and tags are checked in `init`.  The preconditioner must be a fixed linear
    operator, with a transpose where the solution is differentiated in reverse mode; `FlexibleCG` and `FGMRES`
    also take a variable one (`nsolve.preconditioners.AbstractVariablePreconditioner`), or any function of a
    vector.

    With `rtol=0, atol=0` and `max_steps=k` a solve takes exactly `k` steps and gives the last iterate
    (`RESULTS.max_steps_reached`: hand it `throw=False`).

    `rtol` and `atol` are cut off from differentiation.  Neither does a solution depend on the start, the
    preconditioner or the parameters of the method, but lineax refuses to differentiate with respect to them
    ("Unexpected tangent"): `jax.lax.stop_gradient` cuts them off, and `nsolve.unroll` differentiates in them.

    Statistics: `num_steps`, `max_steps`, `num_matvecs`, `num_preconditioner_applications`, `residual_norm`
    (the norm of the computed residual of the returned solution), `reason` (`nsolve.linear.REASONS`: why the
    solve ended; `print` shows it in words).

    A solve that fails returns the iterate with the smallest residual that it met, and never one worse than
    the start: for methods whose residual may rise, the steps of the last cycle (where rounding misled the
    method, also of the first) are taken once more, up to a few times as many as the solve itself took.
    With `throw=True` nobody would see it, and it is not looked for.
    A start whose residual exceeds `||b||` by more than the precision can tell apart is dropped.
    """

    rtol: eqx.AbstractVar[Any]
    atol: eqx.AbstractVar[Any]
    max_steps: eqx.AbstractVar[int | None]
    preconditioner: eqx.AbstractVar[Preconditioner | None]
    history: eqx.AbstractVar[bool]
    monitor: eqx.AbstractVar[AbstractMonitor | None]

    known_options: ClassVar[tuple[str, ...]] = ("preconditioner", "y0")
    #: Whether the method squares products, and so needs an operator of moderate size.
    squares_products: ClassVar[bool] = False
    #: Whether the method takes an `AbstractVariablePreconditioner`.
    takes_variable: ClassVar[bool] = False
    #: Whether that is handed residuals, not vectors of length one.
    preconditions_residuals: ClassVar[bool] = False

    def __check_init__(self):
        check_fields(self)

    @abc.abstractmethod
    def check(self, operator: lx.AbstractLinearOperator) -> None:
        """Raises where the method does not apply to the (square) operator."""

    @abc.abstractmethod
    def prepare(self, system: System) -> System:
        """Whatever the method computes from the operator alone, stored in `system.extra`."""

    @abc.abstractmethod
    def method(self, system: System) -> Method:
        """The method's recursion for one system."""

    @abc.abstractmethod
    def cost(self) -> Work:
        """The method's work."""

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> System:
        return self.prepare(self.precondition(operator, options))

    def precondition(
        self, operator: lx.AbstractLinearOperator, options: dict[str, Any], differentiable: bool = False
    ) -> System:
        """The system with its preconditioner: the given one, or one made by the constructor."""
        name = type(self).__name__
        check_options(self, options)
        require_operator(operator, "operator")
        if not eqx.tree_equal(operator.in_structure(), operator.out_structure()):
            raise ValueError(
                f"`{name}` solves square systems, but the operator maps {operator.in_structure()} to "
                f"{operator.out_structure()}."
            )
        self.check(operator)
        operator = as_one(operator)
        given = options.get("preconditioner", self.preconditioner)
        where = "options['preconditioner']" if "preconditioner" in options else f"{name}(preconditioner=...)"
        check_preconditioner(given, where)
        preconditioner = as_preconditioner(given, operator, differentiable, self.takes_variable, where)
        if preconditioner is not None:
            self.check_fit(preconditioner, operator)
        if isinstance(preconditioner, lx.AbstractLinearOperator):
            preconditioner = lx.linearise(preconditioner)
        operator = lx.linearise(operator)
        unit = size_of(operator) if self.squares_products else None
        in_options = options.get("preconditioner") is not None
        return System(operator, preconditioner, unit=unit, given=in_options)

    def check_fit(self, preconditioner: Any, operator: lx.AbstractLinearOperator) -> None:
        """Raises where `M` does not fit the operator."""
        name = type(self).__name__
        if isinstance(preconditioner, AbstractVariablePreconditioner):
            if self.takes_variable:
                return
            raise ValueError(
                f"`{name}` needs a fixed linear preconditioner, but this one may vary: "
                f"{type(preconditioner).__name__}. Use `FlexibleCG` (for positive definite operators) or "
                "`FGMRES`."
            )
        expected = operator.in_structure()
        for given in (preconditioner.in_structure(), preconditioner.out_structure()):
            if not eqx.tree_equal(given, expected):
                raise ValueError(
                    f"The preconditioner of `{name}` must act on {expected}, as the operator does, but acts "
                    f"on {given}."
                )

    def compute(
        self, state: System, vector: Vector, options: dict[str, Any]
    ) -> tuple[Vector, lx.RESULTS, dict[str, Any]]:
        check_options(self, options)
        if options.get("preconditioner") is not None:
            if state.preconditioner is None:
                state = self.init(state.operator, options)  # the state was made without it
            elif not state.given:
                raise ValueError(
                    f"`{type(self).__name__}` was handed two preconditioners, the one with which `state` was "
                    "made and `options['preconditioner']`: leave one of them out."
                )
        y0 = options.get("y0")
        if y0 is not None:
            y0 = as_vector(y0, state.operator.in_structure(), "options['y0']")
        recycled = options.get("recycled")
        if recycled is not None:
            state = System(
                state.operator, state.preconditioner, state.extra, recycled, state.unit, state.given
            )
        given = options.get("preconditioner", self.preconditioner)
        made = not isinstance(given, lx.AbstractLinearOperator)
        return _solve(self, state, vector, y0, made, solve_throws())

    def _solve(
        self, state: System, vector: Vector, y0: Vector | None, made: bool, throws: bool
    ) -> tuple[Vector, lx.RESULTS, dict[str, Any]]:
        system = state.in_units_of(power_of_two_scale(vector)) if self.preconditions_residuals else state
        max_steps, method = self.step_limit(vector), self.method(system)
        value, code, stats, memory, relative_residual = solve_to_true_residual(
            method,
            state.product,
            vector,
            y0,
            self.rtol,
            self.atol,
            max_steps,
            max_steps if self.history else None,
            self._blame(state, made),
            state.unit,
            keep_best=not throws,
            monitor=self.monitor,
            name=type(self).__name__,
        )
        if throws:
            value = raise_in_words(type(self).__name__, value, code, relative_residual)
        cost, cycles = self.cost(), stats.pop("num_cycles")
        stats["reason"] = as_reason(code)
        stats["max_steps"] = max_steps
        steps = stats["num_steps"] + stats.pop("num_replayed")
        residuals = stats.pop("num_residuals") + int(y0 is not None)
        stats["num_matvecs"] = cost.products_per_step * steps + residuals
        applications = cost.applications_per_step * steps + cost.applications_per_cycle * cycles
        stats["num_preconditioner_applications"] = (
            jnp.zeros_like(steps) if state.preconditioner is None else applications
        )
        if method.report is not None:
            stats |= method.report(memory, stats)
        return value, as_result(code), Stats(stats)

    def _blame(self, state: System, made: bool) -> tuple[tuple[str, PyTree], ...]:
        """Where NaN may come from, and the reason to give for it."""
        parameters = {k: v for k, v in vars(self).items() if k != "preconditioner"}
        return (
            ("nonfinite_operator", inexact_leaves(state.operator)),
            ("nonfinite_parameter", inexact_leaves((parameters, state.extra, state.recycled))),
            (
                "preconditioner_failed" if made else "nonfinite_preconditioner",
                inexact_leaves(state.preconditioner),
            ),
        )

    def step_limit(self, vector: Vector) -> int:
        """`max_steps`, or its default."""
        if self.max_steps is not None:
            return self.max_steps
        return min(max(10 * size(vector), 1000), 100_000)

    def transpose(self, state: System, options: dict[str, Any]) -> tuple[System, dict[str, Any]]:
        return _map_system(lambda operator: operator.transpose(), state, options)

    def conj(self, state: System, options: dict[str, Any]) -> tuple[System, dict[str, Any]]:
        return _map_system(lx.conj, state, options)

    def assume_full_rank(self) -> bool:
        return True


@eqx.filter_jit
def _solve(
    solver: AbstractIterativeSolver,
    state: System,
    vector: Vector,
    y0: Vector | None,
    made: bool,
    throws: bool,
) -> tuple[Vector, lx.RESULTS, dict[str, Any]]:
    """One trace for the many times that lineax asks for the same solve while it is differentiated."""
    return solver._solve(state, vector, y0, made, throws)


def _map_system(function: Callable, state: System, options: dict[str, Any]) -> tuple[System, dict[str, Any]]:
    """Applies `transpose` or `conj` to operator and preconditioner; the start belongs to another system."""
    preconditioner, given = state.preconditioner, options.get("preconditioner")
    if isinstance(preconditioner, AbstractVariablePreconditioner):  # never transposed itself
        preconditioner = _linear_part(preconditioner, state.operator)
    # A subspace serves the adjoint system as well where the operator is close to Hermitian.
    new_options = {key: value for key, value in options.items() if key == "recycled"}
    if preconditioner is not None:
        preconditioner = function(preconditioner)
        if given is not None:
            new_options["preconditioner"] = preconditioner
    elif isinstance(given, lx.AbstractLinearOperator):
        new_options["preconditioner"] = function(given)
    operator = function(state.operator)
    return System(operator, preconditioner, state.extra, unit=state.unit, given=state.given), new_options


def _linear_part(
    preconditioner: AbstractVariablePreconditioner, operator: lx.AbstractLinearOperator
) -> lx.AbstractLinearOperator | None:
    """Its linear part; raises where that does not act as the operator does."""
    part, expected = preconditioner.linear_part(operator), operator.in_structure()
    if part is None:
        return None
    for given in (part.in_structure(), part.out_structure()):
        if not eqx.tree_equal(given, expected):
            raise ValueError(
                f"The linear part of {type(preconditioner).__name__} must act on {expected}, as the operator "
                f"does, but acts on {given}."
            )
    return lx.linearise(part)


def check_fields(solver: Any) -> None:
    """Raises where a field that all iterative solvers have is not what it must be."""
    name = type(solver).__name__
    for field in ("rtol", "atol"):
        value = getattr(solver, field)
        if isinstance(value, int | float) and not 0 <= value < math.inf:
            raise ValueError(f"`{name}({field}=...)` must be finite and not negative, but is {value}.")
    if solver.max_steps is not None and (not isinstance(solver.max_steps, int) or solver.max_steps < 0):
        raise ValueError(
            f"`{name}(max_steps=...)` must be None or an integer >= 0, but is {solver.max_steps!r}."
        )
    concrete = isinstance(solver.rtol, int | float) and isinstance(solver.atol, int | float)
    if concrete and solver.rtol == 0 and solver.atol == 0 and solver.max_steps is None:
        raise ValueError(
            f"`{name}(rtol=0, atol=0)` never stops: give a positive `rtol` or `atol`, or `max_steps`."
        )
    check_preconditioner(solver.preconditioner, f"{name}(preconditioner=...)")
    if not isinstance(solver.monitor, AbstractMonitor | None):
        raise TypeError(
            f"`{name}(monitor=...)` must be a `nsolve.Monitor`, but is {solver.monitor!r}. For a function of "
            "the progress write `Monitor(function)`, for a line every ten steps `Monitor(every=10)`."
        )


def check_options(solver: Any, options: dict[str, Any]) -> None:
    """Raises where a key is not known: a misspelt one would be ignored silently."""
    unknown = set(options) - set(solver.known_options)
    if unknown:
        raise ValueError(
            f"`options` of `{type(solver).__name__}` may have the keys {list(solver.known_options)}, not "
            f"{sorted(unknown)}."
        )


def size_of(operator: lx.AbstractLinearOperator) -> Array:
    """A power of two near the largest entry of an operator, or of one product where it does not show them."""
    inner = untagged(operator)
    if isinstance(inner, SparseLinearOperator | StencilLinearOperator | EXPLICIT):
        shown = inexact_leaves(inner)
    else:  # a chirp is far from any null space and eigenvector that one thinks of
        chirp = jax.tree.map(
            lambda leaf: (
                jnp.cos(jnp.arange(leaf.size, dtype=float) ** 2).astype(leaf.dtype).reshape(leaf.shape)
            ),
            operator.in_structure(),
        )
        # Without the barrier, products with sharded coefficients would gather what follows from a constant.
        shown = operator.mv(jax.lax.optimization_barrier(chirp))
    return jax.lax.stop_gradient(power_of_two_scale(shown))


def as_vector(vector: Any, structure: PyTree, name: str) -> Vector:
    """The vector in the operator's dtypes; raises where it has another structure, or would lose digits."""
    given = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, vector))
    leaves, wanted = jax.tree.leaves(given), jax.tree.leaves(structure)
    fits = jax.tree.structure(given) == jax.tree.structure(structure) and all(
        leaf.shape == like.shape for leaf, like in zip(leaves, wanted, strict=True)
    )
    if not fits:
        raise ValueError(f"`{name}` must have the operator's structure {structure}, but is {given}.")
    for leaf, like in zip(leaves, wanted, strict=True):
        if not np.can_cast(leaf.dtype, like.dtype):
            raise ValueError(
                f"`{name}` is of dtype {leaf.dtype}, but the operator acts on {like.dtype}: cast `{name}` to "
                f"{like.dtype}, or the operator's values to {leaf.dtype}."
            )
    return jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), vector, structure)


def check_preconditioner(given: Any, name: str) -> None:
    """Raises unless a preconditioner is None, an operator, a variable one, or some function."""
    if isinstance(given, type):
        raise TypeError(f"`{name}` is the class `{given.__name__}`: write `{given.__name__}()`.")
    made = lx.AbstractLinearOperator | AbstractVariablePreconditioner
    if not (given is None or callable(given) or isinstance(given, made)):
        hint = ""
        if getattr(given, "ndim", 0) == 2:
            hint = " A matrix near the inverse becomes one by `nsolve.SparseLinearOperator.from_scipy`."
        raise TypeError(
            f"`{name}` must be a preconditioner constructor such as `nsolve.preconditioners.Jacobi()`, or a "
            f"linear operator approximating the inverse, but is {given!r}.{hint}"
        )


def require_definite_preconditioner(system: System, name: str) -> None:
    """Raises unless the preconditioner is tagged positive semidefinite."""
    preconditioner = system.preconditioner
    if preconditioner is None or is_positive_semidefinite(preconditioner):
        return
    raise ValueError(
        f"`{name}` needs a positive definite preconditioner, and this {type(preconditioner).__name__} is not "
        "tagged so. If it is, wrap it: `lx.TaggedLinearOperator(M, lx.positive_semidefinite_tag)`; if it "
        "varies or is not symmetric use `FlexibleCG` or `FGMRES`."
    )

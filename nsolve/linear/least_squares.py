"""Base of the solvers for rectangular systems: lineax's protocol, preconditioner, damping, statistics."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PyTree

from .._reasons import as_reason, as_result, inexact_leaves, raise_in_words
from .._results import Stats
from .._stopping import power_of_two_scale
from .._system import System
from .._upstream import solve_throws
from .._variable import AbstractVariablePreconditioner
from .._vectors import Vector, axpy, real_dtype, scale, zeros_like
from ..monitor import AbstractMonitor
from ..operators.base import require_operator, untagged
from ..operators.convert import as_one
from ..preconditioners.variable import as_preconditioner
from ._least_squares import Method, Products, solve_least_squares
from .base import (
    Preconditioner,
    as_vector,
    check_fields,
    check_options,
    check_preconditioner,
    size_of,
)


class _Form(NamedTuple):
    """How the system of a state is posed; static."""

    transposed: bool  # whether the state was transposed since `init` made it
    tall: bool  # more equations than unknowns, those of the damping counted
    left: bool  # whether the preconditioner acts on equations


class AbstractLeastSquaresSolver(lx.AbstractLinearSolver[System]):
    """Base of the solvers for rectangular systems; see `LSMR` for the first choice.

    * More rows than columns: the least-squares solution, `min ||b - A x||_2`.
    * More columns than rows: of all solutions the one with the smallest norm.
    * Square: the solution.  Where a square operator is singular, or the rows of a wide one are dependent, and
      there is no solution: the least-squares solution of the smallest norm.

    Any operator with products and a transpose, real or complex, on pytrees of arrays of one dtype.

    Fields common to all:

    * `rtol, atol`: a solve is successful when, for the residual `r = b - A x` *computed* at the end,
      `||r||_2 <= max(rtol ||b||_2, atol)`; or, with more rows than columns, when
      `||A^H r||_2 <= rtol ||A|| ||r||_2`, with `||A||` the largest `||A v|| / ||v||` met: then `x` is the
      exact solution for an operator that differs from `A` by at most `rtol`, relatively.  Where the residual
      is small, rounding hides `A^H r`, and `2 eps ||A||^2 ||x||` suffices.  Square and wide operators nearly
      always have a solution, and for them only the first rule counts, unless `A^H r` has vanished to 16 units
      of rounding.  The recursions only say when to look; where they were wrong, the method starts again from
      there, and ends with `stagnation` when nothing is gained any more.
    * `max_steps`: default ten times the smaller dimension, at least 1000, at most 100 000.
    * `preconditioner`: a constructor, such as `nsolve.preconditioners.SketchedQR()`, or an operator.  For
      tall and square operators it multiplies from the *right*: the iteration runs on `A P`, and `x = P z`
      (`P ~ R^-1` where `A = Q R`; it acts on unknowns).  For wide ones it multiplies from the *left*, `P A x
      = P b`, and acts on equations: from the right it would change which solution is the smallest.
      It must be fixed, linear and invertible, with a transpose.
    * `history`: record `stats["residual_norms"]`, `(max_steps + 1,)`, NaN after the last step.
    * `monitor`: prints how far the solve has come, or ends it: `nsolve.Monitor(every=10)`.
    * `damping`: with another value than 0.0, `min ||b - A x||^2 + damping^2 ||x||^2` is solved for any shape:
      the least-squares problem of the operator stacked on `damping I` and the vector stacked on zeros.  Rule,
      norms and condition are those of this problem, and the preconditioner multiplies from the right.

    Options: `preconditioner`, which takes precedence over the field, and `y0`, the start.  On a wide operator
    a start would select another solution, the one nearest to it, and its derivatives would be wrong, which is
    a `ValueError`; write `y0 + lx.linear_solve(A, b - A.mv(y0), solver).value`.

    Derivatives are lineax's: exact, forward and reverse, in the operator's values and in the vector, where
    `A` has full rank; where it has not, those in the operator are wrong.  With damping there are those in the
    vector only, and others raise: stack the operator yourself for them (the page "Least squares").

    Statistics: `num_steps`, `max_steps`, `num_matvecs` (products with `A` and with its transpose),
    `num_preconditioner_applications` (likewise), `residual_norm` and `normal_residual_norm` (`||r||` and
    `||A^H r||` of the returned solution, computed), `condition` (an estimate, usually from below, of the
    condition of `A`, or of what the preconditioner makes of it, as far as the vector saw it), `reason`.

    Failures: `conlim` where the condition passes `1 / eps` before the tolerance is met, `stagnation`,
    `max_steps_reached`, `breakdown` (a preconditioner that is singular or cannot be made), `nonfinite_input`.
    The value is then the best iterate, never worse than the start.

    As for other solvers, `rtol` and `atol` are cut off from differentiation; the start, the preconditioner
    and `damping` cannot be differentiated in ("Unexpected tangent").
    """

    rtol: eqx.AbstractVar[Any]
    atol: eqx.AbstractVar[Any]
    max_steps: eqx.AbstractVar[int | None]
    preconditioner: eqx.AbstractVar[Preconditioner | None]
    history: eqx.AbstractVar[bool]
    monitor: eqx.AbstractVar[AbstractMonitor | None]
    damping: eqx.AbstractVar[Any]

    known_options: ClassVar[tuple[str, ...]] = ("preconditioner", "y0")

    def __check_init__(self):
        check_fields(self)
        damping, name = self.damping, type(self).__name__
        if isinstance(damping, int | float) and not abs(damping) < float("inf"):
            raise ValueError(f"`{name}(damping=...)` must be finite, but is {damping}.")
        if jnp.ndim(damping) > 0 or jnp.iscomplexobj(damping):
            raise ValueError(
                f"`{name}(damping=...)` must be one real number, but is {damping!r}; for one a row "
                "or unknown scale the operator, or stack it on another."
            )

    @abc.abstractmethod
    def method(self, products: Products) -> Method:
        """The method's recursion."""

    @property
    def damped(self) -> bool:
        """Whether the system is stacked on another for the damping."""
        return not (isinstance(self.damping, int | float) and self.damping == 0)

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> System:
        check_options(self, options)
        require_operator(operator, "operator")
        return self._system(as_one(operator), options, transposed=False)

    def _system(
        self, operator: lx.AbstractLinearOperator, options: dict[str, Any], transposed: bool
    ) -> System:
        """The state, with the preconditioner that was given or is made."""
        name, (rows, columns) = type(self).__name__, (operator.out_size(), operator.in_size())
        tall = not transposed if self.damped else rows > columns
        wide = columns < rows if transposed else columns > rows  # as it was when `init` was called
        left = (wide and not self.damped) != transposed
        given = options.get("preconditioner", self.preconditioner)
        where = "options['preconditioner']" if "preconditioner" in options else f"{name}(preconditioner=...)"
        check_preconditioner(given, where)
        preconditioner = as_preconditioner(given, operator, False, False, where)
        if isinstance(preconditioner, AbstractVariablePreconditioner):
            raise ValueError(
                f"`{name}` needs a fixed linear preconditioner, but this one may vary: "
                f"{type(preconditioner).__name__}. Give a linear operator, or a constructor of one."
            )
        if preconditioner is not None:
            expected = operator.out_structure() if left else operator.in_structure()
            for structure in (preconditioner.in_structure(), preconditioner.out_structure()):
                if not eqx.tree_equal(structure, expected):
                    raise ValueError(
                        f"The preconditioner of `{name}` must act on the "
                        f"{'equations' if left else 'unknowns'} of this {rows} x {columns} operator, "
                        f"{expected}, but acts on {structure}."
                    )
            preconditioner = lx.linearise(preconditioner)
        operator = lx.linearise(operator)
        unit = size_of(operator)
        if self.damped:
            unit = jnp.maximum(unit, power_of_two_scale(jnp.asarray(self.damping, unit.dtype)))
        in_options = options.get("preconditioner") is not None
        form = _Form(transposed, tall, left)
        return System(operator, preconditioner, extra=form, unit=unit, given=in_options)

    def compute(
        self, state: System, vector: Vector, options: dict[str, Any]
    ) -> tuple[Vector, lx.RESULTS, dict[str, Any]]:
        check_options(self, options)
        name = type(self).__name__
        if options.get("preconditioner") is not None:
            if state.preconditioner is None:  # the state was made without it
                state = self._system(state.operator, options, state.extra.transposed)
            elif not state.given:
                raise ValueError(
                    f"`{name}` was handed two preconditioners, the one with which `state` was made and "
                    "`options['preconditioner']`: leave one of them out."
                )
        y0 = options.get("y0")
        if y0 is not None:
            structure, rows = state.operator.in_structure(), state.operator.out_size()
            if not self.damped and rows < state.operator.in_size():
                raise ValueError(
                    f"`{name}` takes no `options['y0']` on a wide operator ({rows} x "
                    f"{state.operator.in_size()}): the solution nearest to a start is another than the "
                    "smallest. For that one write `y0 + lx.linear_solve(A, b - A.mv(y0), solver).value`, "
                    "which is differentiable in everything."
                )
            y0 = as_vector(y0, structure, "options['y0']")
        given = options.get("preconditioner", self.preconditioner)
        made = not isinstance(given, lx.AbstractLinearOperator)
        return _solve(self, state, vector, y0, made, solve_throws())

    def _solve(
        self, state: System, vector: Vector, y0: Vector | None, made: bool, throws: bool
    ) -> tuple[Vector, lx.RESULTS, dict[str, Any]]:
        form, unit = state.extra, state.unit
        assert unit is not None
        zeros = zeros_like(state.operator.in_structure())
        forward, backward = state.product, _scaled_adjoint(state.operator, 1 / unit)
        b = vector
        if self.damped:  # the operator stacked on a multiple of the identity, or its transpose
            factor = jnp.asarray(self.damping, real_dtype(vector)) / unit
            if form.transposed:
                forward, backward = _beside(forward, factor), _stacked(backward, factor)
                zeros = (zeros, zeros_like(state.operator.out_structure()))
            else:
                forward, backward = _stacked(forward, factor), _beside(backward, factor)
                b = (vector, zeros)
        preconditioned = isinstance(state.preconditioner, lx.AbstractLinearOperator)
        precondition = (
            (state.precondition, _scaled_adjoint(state.preconditioner, unit)) if preconditioned else None
        )
        products = Products(forward, backward, precondition, form.left)
        max_steps = self.step_limit(state.operator)
        value, code, stats, relative_residual = solve_least_squares(
            self.method(products),
            products,
            b,
            y0,
            zeros,
            form.tall,
            self.rtol,
            self.atol,
            max_steps,
            self.history,
            self._blame(state, made),
            unit,
            self.monitor,
            name=type(self).__name__,
        )
        if self.damped and form.transposed:
            value, _ = value
        if throws:
            value = raise_in_words(type(self).__name__, value, code, relative_residual)
        cycles, steps = stats.pop("num_cycles"), stats["num_steps"]
        stats["reason"] = as_reason(code)
        stats["max_steps"] = max_steps
        # each cycle ends with `r` and `A^H r`, and one with `P` on the left begins with `A^H P^H P r`
        per_cycle = 3 if preconditioned and form.left else 2
        stats["num_matvecs"] = 2 * steps + per_cycle * cycles + 1 + int(preconditioned) + int(y0 is not None)
        applications = 2 * steps + 2 * cycles
        stats["num_preconditioner_applications"] = applications if preconditioned else jnp.zeros_like(steps)
        return value, as_result(code), Stats(stats)

    def _blame(self, state: System, made: bool) -> tuple[tuple[str, PyTree], ...]:
        """Where NaN may come from, and the reason to give for it."""
        return (
            ("nonfinite_operator", inexact_leaves(state.operator)),
            ("nonfinite_parameter", inexact_leaves((self.rtol, self.atol, self.damping))),
            (
                "preconditioner_failed" if made else "nonfinite_preconditioner",
                inexact_leaves(state.preconditioner),
            ),
        )

    def step_limit(self, operator: lx.AbstractLinearOperator) -> int:
        """`max_steps`, or its default."""
        if self.max_steps is not None:
            return self.max_steps
        return min(max(10 * min(operator.in_size(), operator.out_size()), 1000), 100_000)

    def transpose(self, state: System, options: dict[str, Any]) -> tuple[System, dict[str, Any]]:
        form = state.extra
        tall = not form.tall if self.damped else state.operator.in_size() > state.operator.out_size()
        form = _Form(not form.transposed, tall, not form.left)
        return _mapped(lambda operator: operator.transpose(), state, options, form)

    def conj(self, state: System, options: dict[str, Any]) -> tuple[System, dict[str, Any]]:
        if self.damped:
            # lineax asks for it where it differentiates in the operator, by a formula for pseudoinverses.
            raise ValueError(
                f"With damping `{type(self).__name__}` has no derivatives in the operator, since lineax's "
                "formula is that of a solve without. Solve the stacked system instead, without damping: "
                "`ns.function_operator(lambda x: (A.mv(x), damping * x), A.in_structure())` and the vector "
                "`(b, zeros)`."
            )
        return _mapped(lx.conj, state, options, state.extra)

    def assume_full_rank(self) -> bool:
        # With damping lineax shall ask for `conj`, which says what it does not know.
        return not self.damped


@eqx.filter_jit
def _solve(
    solver: AbstractLeastSquaresSolver,
    state: System,
    vector: Vector,
    y0: Vector | None,
    made: bool,
    throws: bool,
) -> tuple[Vector, lx.RESULTS, dict[str, Any]]:
    """One trace for the many times that lineax asks for the same solve while it is differentiated."""
    return solver._solve(state, vector, y0, made, throws)


def _scaled_adjoint(operator: lx.AbstractLinearOperator, factor: Array) -> Callable[[Vector], Vector]:
    """The product with the conjugate transpose, times a factor."""
    matrix = untagged(operator)
    if isinstance(matrix, lx.MatrixLinearOperator):  # XLA copies a transposed matrix: ten times slower
        return lambda u: jnp.matmul(scale(factor, u).conj(), matrix.matrix, precision="highest").conj()
    adjoint = lx.conj(operator).transpose()
    return lambda u: adjoint.mv(scale(factor, u))


def _stacked(product: Callable[[Vector], Vector], factor: Array) -> Callable[[Vector], Vector]:
    """`x -> (A x, factor x)`."""
    return lambda x: (product(x), scale(factor, x))


def _beside(product: Callable[[Vector], Vector], factor: Array) -> Callable[[Vector], Vector]:
    """`(u, w) -> A u + factor w`."""
    return lambda pair: axpy(factor, pair[1], product(pair[0]))


def _mapped(
    function: Any, state: System, options: dict[str, Any], form: _Form
) -> tuple[System, dict[str, Any]]:
    """Applies `transpose` or `conj` to operator and preconditioner; the start belongs to another system."""
    preconditioner, given, new_options = state.preconditioner, options.get("preconditioner"), {}
    if preconditioner is not None:
        preconditioner = function(preconditioner)
        if given is not None:
            new_options["preconditioner"] = preconditioner
    elif isinstance(given, lx.AbstractLinearOperator):
        new_options["preconditioner"] = function(given)
    changed = System(function(state.operator), preconditioner, extra=form, unit=state.unit, given=state.given)
    return changed, new_options

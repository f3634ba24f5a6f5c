"""Iterative refinement: a solver in low precision, residuals in the user's."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .._stopping import Method, power_of_two_scale
from .._system import System
from .._variable import AbstractVariablePreconditioner
from .._vectors import Vector, axpy, norm, scale, subtract, zeros_like
from ..monitor import AbstractMonitor
from ..operators.base import AbstractOperator
from ..operators.precision import cast, cast_array, narrower, require_real
from ..preconditioners.base import constant
from ..preconditioners.variable import as_preconditioner
from .base import AbstractIterativeSolver, Work, constant_field
from .gmres import FGMRES

#: Steps between two residuals that are computed anew, growth that is divergence, and what a round must leave.
_ROUND, _DIVERGED, _LEAST_PROGRESS = 4, 10, 0.9


class InnerSolve(AbstractOperator, AbstractVariablePreconditioner):
    """An approximate inverse: the inner solver on the operator in low precision.

    Linear but for the inner solver's tolerance, so that what needs its transpose has it."""

    inner: Any
    state: PyTree  # the inner solver's, or the preconditioner that the inner constructor made
    unit: Array  # what the operator was divided by before it was rounded
    dtype: Any = eqx.field(static=True)
    structure: PyTree = eqx.field(static=True)
    tags: frozenset[object] = eqx.field(static=True, default=frozenset())

    def init(self, structure: PyTree) -> Array:
        """No inner step was taken yet."""
        del structure
        return jnp.zeros((), jnp.int32)

    def apply(self, r: Vector, state: Array) -> tuple[Vector, Array]:
        """The correction, and how many steps all inner solves have taken."""
        size = power_of_two_scale(r)
        low = cast_array(scale(1 / size, r), self.dtype)
        if isinstance(self.inner, lx.AbstractLinearSolver):
            z, _, stats = self.inner.compute(self.state, low, {})
            steps = stats.get("num_steps", 1)
        else:
            z, steps = self.state.mv(low), 1
        z = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), z, r)
        return scale(size, scale(1 / self.unit, z)), state + jnp.asarray(steps, jnp.int32)

    def linear_part(self, operator: lx.AbstractLinearOperator) -> "InnerSolve":
        del operator
        return self

    def mv(self, vector: Vector) -> Vector:
        return self.apply(vector, self.init(None))[0]

    def as_matrix(self) -> Array:
        zero, unravel = ravel_pytree(zeros_like(self.structure))
        columns = jax.vmap(lambda e: ravel_pytree(self.mv(unravel(e)))[0], out_axes=-1)
        return columns(jnp.eye(zero.size, dtype=zero.dtype))

    def transpose(self) -> "InnerSolve":
        if isinstance(self.inner, lx.AbstractLinearSolver):
            return self._with(self.inner.transpose(self.state, {})[0])
        return self._with(self.state.transpose())

    def conj(self) -> "InnerSolve":
        if isinstance(self.inner, lx.AbstractLinearSolver):
            return self._with(self.inner.conj(self.state, {})[0])
        return self._with(lx.conj(self.state))

    def _with(self, state: PyTree) -> "InnerSolve":
        return dataclasses.replace(self, state=state)

    def in_structure(self) -> PyTree:
        return self.structure

    def out_structure(self) -> PyTree:
        return self.structure


class _State(NamedTuple):
    x: Vector
    r: Vector
    residual_norm: Array
    broken: Array
    limit: Array
    num_inner_steps: Array


class IterativeRefinement(AbstractIterativeSolver):
    """Iterative refinement: solves in a low precision, to the accuracy of the user's.

        solver = ns.IterativeRefinement(ns.CG(rtol=1e-4, preconditioner=Multigrid()), rtol=1e-12)

    A step solves `A d = r` with the inner solver on the operator rounded to `dtype`, and adds `d`; residuals
    and updates have the precision of the operator and the vector that were given.  It can pay where the inner
    solver's time goes to memory or arithmetic, which the low precision halves, and needs an operator whose
    condition number stays below about one over the low precision's rounding (1e7 for float32).

    * `inner`: a linear solver of this package or lineax's, with a tolerance that the low precision attains
      (`rtol` of 1e-3 to 1e-5 for float32); or a preconditioner constructor, such as
      `nsolve.preconditioners.Multigrid()`, which is then applied once a step.  It brings its own
      preconditioner, made for the rounded operator.
    * `dtype`: the low precision, a real type: complex systems are solved in complex numbers of it.  A system
      of this precision or below is refined in its own.
    * `restart`: None for plain refinement; a number for GMRES-IR, flexible GMRES in the user's precision,
      restarted after so many steps, with the inner solve as its preconditioner.  It converges where plain
      refinement diverges, for condition numbers up to the square of that limit and more, and keeps
      `2 restart + 1` vectors.

    Before they are rounded, the operator and every residual are divided by powers of two near their largest
    entries, so that nothing overflows; entries smaller than that by the type's range (1e-38 in float32)
    become zero: scale the rows of such a system first.  Operators other than sparse ones, stencils and
    matrices are applied in their own precision, and the products rounded.

    Cost of a step: one product, one inner solve, two vector updates; every fourth step, and the last, one
    product more.  An inner solve that misses its tolerance is no failure, as long as the refinement gains:
    four steps that leave more than 90 % of the residual end with `RESULTS.stagnation`, growth by ten with
    `RESULTS.breakdown` (`REASONS.diverged`).  An inner solve that gives NaN ends it with
    `RESULTS.breakdown` (`REASONS.preconditioner_failed`).

    Stopping rule, common fields, options and statistics: see `nsolve.linear.AbstractIterativeSolver`.  Of the
    options there is `y0` only.  `num_preconditioner_applications` counts inner solves, `num_inner_steps` all
    their steps.

    Higham, *Accuracy and Stability of Numerical Algorithms* (2002), chapter 12; Carson and Higham (2018),
    doi:10.1137/17M1140819.
    """

    inner: Any
    rtol: Any = constant_field()
    atol: Any = constant_field(default=0.0)
    max_steps: int | None = None
    history: bool = False
    monitor: AbstractMonitor | None = None
    dtype: Any = eqx.field(static=True, default=jnp.float32, converter=jnp.dtype)
    restart: int | None = None

    known_options: ClassVar[tuple[str, ...]] = ("y0",)
    squares_products: ClassVar[bool] = True  # for the unit that comes with it
    takes_variable: ClassVar[bool] = True

    def __check_init__(self):
        inner = self.inner
        if isinstance(inner, type) or not (isinstance(inner, lx.AbstractLinearSolver) or callable(inner)):
            raise TypeError(
                "`IterativeRefinement(inner=...)` must be a linear solver such as `ns.CG(rtol=1e-4)`, or a "
                f"preconditioner constructor such as `ns.preconditioners.Multigrid()`, but is {inner!r}."
            )
        require_real(self.dtype, "IterativeRefinement(dtype=...)")
        if self.restart is not None and (not isinstance(self.restart, int) or self.restart < 1):
            raise ValueError(
                "`IterativeRefinement(restart=...)` must be None or an integer >= 1, but is "
                f"{self.restart!r}."
            )

    @property
    def preconditioner(self) -> None:
        """None: the inner solver brings its own."""
        return None

    def check(self, operator: lx.AbstractLinearOperator) -> None:
        for leaf in jax.tree.leaves(operator.in_structure()):
            narrower(leaf.dtype, self.dtype)

    def prepare(self, system: System) -> System:
        operator, unit, inner = system.operator, system.unit, self.inner
        assert unit is not None
        low = cast(constant(operator), self.dtype, unit)
        if isinstance(inner, lx.AbstractLinearSolver):
            state = inner.init(low, {})
        else:
            state = as_preconditioner(inner, low, False, False, "IterativeRefinement(inner=...)")
        structure = operator.in_structure()
        solve = InnerSolve(inner, state, unit, self.dtype, structure)  # pyright: ignore[reportCallIssue]
        return System(operator, solve, unit=unit)

    def cost(self) -> Work:
        return Work(products_per_step=1, applications_per_step=1, applications_per_cycle=0)

    def method(self, system: System) -> Method:
        if self.restart is not None:
            method = FGMRES(rtol=self.rtol, restart=self.restart).method(system)
        else:
            method = _refinement(system)
        return method._replace(
            nonfinite_means="preconditioner_failed",
            report=lambda num_inner_steps, stats: {"num_inner_steps": num_inner_steps},
        )


def _refinement(system: System) -> Method:
    def start(x: Vector, r: Vector, num_inner_steps: Array) -> _State:
        r_norm = norm(r)
        return _State(x, r, r_norm, jnp.array(False), _DIVERGED * r_norm, num_inner_steps)

    def step(state: _State) -> _State:
        d, num_inner_steps = system.apply(state.r, state.num_inner_steps)
        r = subtract(state.r, system.product(d))
        r_norm = norm(r)
        broken = ~(r_norm < state.limit)
        return _State(axpy(1, d, state.x), r, r_norm, broken, state.limit, num_inner_steps)

    return Method(
        start,
        step,
        finish=lambda state: state.x,
        cycle_length=_ROUND,
        least_progress=_LEAST_PROGRESS,
        restarts_when_broken=False,
        broken_means="diverged",
        memory=system.memory(),
        remember=lambda state: state.num_inner_steps,
    )

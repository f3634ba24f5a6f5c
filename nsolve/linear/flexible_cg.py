"""Flexible conjugate gradients with truncated orthogonalisation."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PyTree

from .._stopping import Method
from .._system import System
from .._variable import AbstractVariablePreconditioner
from .._vectors import Vector, axpy, dot, norm, real, safe_divide
from ..monitor import AbstractMonitor
from ..operators.base import require_definite
from .base import (
    AbstractIterativeSolver,
    Preconditioner,
    Work,
    constant_field,
)


class _State(NamedTuple):
    x: Vector
    r: Vector
    directions: Vector  # the last `truncation` directions p_i, stacked
    products: Vector  # A p_i
    curvatures: Array  # p_i^H A p_i; zero for unused places
    count: Array
    residual_norm: Array
    broken: Array
    memory: PyTree[Array]  # of a variable preconditioner


class FlexibleCG(AbstractIterativeSolver):
    """Conjugate gradients for a preconditioner that is not symmetric, or not a linear function.

    Use it with inner iterations, nonlinear multigrid cycles or networks as preconditioner: it takes any
    function `z = preconditioner(r)` of a residual (see `nsolve.preconditioners.Variable`).  Every new
    direction is made A-orthogonal to the last `truncation` directions explicitly; `truncation=1` with a fixed
    symmetric preconditioner is CG up to rounding.  The operator must be tagged positive semidefinite; the
    preconditioner needs no tag.

    Cost of a step: one product, one application of `M`, `truncation + 2` inner products; `2 truncation + 2`
    vectors are kept.  `p^H A p <= 0` ends with `RESULTS.breakdown`.

    Stopping rule, common fields, options and statistics: see `nsolve.linear.AbstractIterativeSolver`.

    Notay (2000), doi:10.1137/S1064827599362314; the window slides as in PETSc's "standard" truncation.
    """

    rtol: Any = constant_field()
    atol: Any = constant_field(default=0.0)
    max_steps: int | None = None
    preconditioner: Preconditioner | None = None
    history: bool = False
    monitor: AbstractMonitor | None = None
    truncation: int = 2

    takes_variable: ClassVar[bool] = True
    preconditions_residuals: ClassVar[bool] = True

    def __check_init__(self):
        if not isinstance(self.truncation, int) or self.truncation < 1:
            raise ValueError(
                f"`FlexibleCG(truncation=...)` must be an integer >= 1, but is {self.truncation!r}."
            )

    def check(self, operator: lx.AbstractLinearOperator) -> None:
        require_definite(operator, "FlexibleCG")

    def prepare(self, system: System) -> System:
        return system

    def cost(self) -> Work:
        return Work(products_per_step=1, applications_per_step=1, applications_per_cycle=0)

    def method(self, system: System) -> Method:
        window = self.truncation

        def start(x: Vector, r: Vector, memory: PyTree[Array] = None) -> _State:
            stack = jax.tree.map(lambda a: jnp.zeros((window, *a.shape), a.dtype), r)
            r_norm = norm(r)
            curvatures = jnp.zeros(window, r_norm.dtype)
            count = jnp.zeros((), jnp.int32)
            return _State(x, r, stack, stack, curvatures, count, r_norm, jnp.array(False), memory)

        def step(state: _State) -> _State:
            z, memory = system.apply(state.r, state.memory)
            overlaps = jax.vmap(lambda q: dot(q, z))(state.products)
            weights = safe_divide(overlaps, state.curvatures.astype(overlaps.dtype))
            p = jax.tree.map(
                lambda a, b: a - jnp.tensordot(weights, b, 1, precision="highest"), z, state.directions
            )
            q = system.product(p)
            curvature = real(dot(p, q))
            definite = curvature > 0
            gain = dot(p, state.r)
            alpha = jnp.where(definite, safe_divide(gain, curvature.astype(gain.dtype)), 0)
            x, r = axpy(alpha, p, state.x), axpy(-alpha, q, state.r)
            place = state.count % window
            directions = jax.tree.map(lambda a, b: a.at[place].set(b), state.directions, p)
            products = jax.tree.map(lambda a, b: a.at[place].set(b), state.products, q)
            curvatures = state.curvatures.at[place].set(jnp.where(definite, curvature, 0))
            broken = ~definite | (alpha == 0)
            return _State(x, r, directions, products, curvatures, state.count + 1, norm(r), broken, memory)

        method = Method(
            start,
            step,
            finish=lambda state: state.x,
            cycle_length=None,
            least_progress=0.5,
            restarts_when_broken=False,
            broken_means="indefinite",
        )
        if isinstance(system.preconditioner, AbstractVariablePreconditioner):
            method = method.with_variable(system.memory(), lambda state: state.memory)
        return method

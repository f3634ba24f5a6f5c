"""Chebyshev iteration, for definite systems whose spectrum has known bounds."""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array

from .._lanczos import check_bounds, extreme_eigenvalues
from .._stopping import Method
from .._system import System
from .._vectors import Vector, axpy, norm, real_dtype, scale, subtract
from ..monitor import AbstractMonitor
from ..operators.base import require_definite
from .base import (
    AbstractIterativeSolver,
    Preconditioner,
    Work,
    constant_field,
    require_definite_preconditioner,
)
from .richardson import DIVERGED


class _State(NamedTuple):
    x: Vector
    r: Vector
    d: Vector
    rho: Array
    residual_norm: Array
    broken: Array
    limit: Array


class Chebyshev(AbstractIterativeSolver):
    """Chebyshev semi-iteration for Hermitian positive definite operators.

    Use it where inner products are dear (many devices) or the iteration must be linear in `b`.  It needs
    `bounds = (smallest, largest)` eigenvalue of `M A`; by default they are estimated by 20 Lanczos steps in
    `init` (widened: 0.9 times the smallest, 1.1 times the largest Ritz value).  Eigenvalues below the lower
    bound converge slowly; eigenvalues above the upper bound make it diverge, which ends with
    `RESULTS.breakdown`.

    Cost of a step: one product, one application of `M`, one norm (for the stopping rule); three vectors.

    Stopping rule, common fields, options and statistics: see `nsolve.linear.AbstractIterativeSolver`.

    Golub and Varga (1961), doi:10.1007/BF01386013; Saad, *Iterative Methods for Sparse Linear Systems*
    (2003), algorithm 12.1.
    """

    rtol: Any = constant_field()
    atol: Any = constant_field(default=0.0)
    max_steps: int | None = None
    preconditioner: Preconditioner | None = None
    history: bool = False
    monitor: AbstractMonitor | None = None
    bounds: tuple[Any, Any] | None = None

    squares_products: ClassVar[bool] = True

    def __check_init__(self):
        check_bounds("Chebyshev", self.bounds)

    def check(self, operator: lx.AbstractLinearOperator) -> None:
        require_definite(operator, "Chebyshev")

    def prepare(self, system: System) -> System:
        require_definite_preconditioner(system, "Chebyshev")
        if self.bounds is None:
            low, high = extreme_eigenvalues(system)
            bounds = (0.9 * low, 1.1 * high)
        else:
            # the eigenvalues of M A; without preconditioner the system's operator is A / unit
            unit = system.unit if system.preconditioner is None else None
            real = real_dtype(system.operator.in_structure())
            bounds = tuple(jnp.asarray(bound, real) for bound in self.bounds)
            bounds = bounds if unit is None else tuple(bound / unit for bound in bounds)
        return System(system.operator, system.preconditioner, bounds, unit=system.unit)

    def cost(self) -> Work:
        return Work(products_per_step=1, applications_per_step=1, applications_per_cycle=1)

    def method(self, system: System) -> Method:
        low, high = system.extra
        center, radius = (high + low) / 2, (high - low) / 2
        sigma = center / jnp.maximum(radius, jnp.finfo(radius.dtype).eps * center)

        def start(x: Vector, r: Vector) -> _State:
            r_norm = norm(r)
            d = scale((1 / center).astype(r_norm.dtype), system.precondition(r))
            return _State(
                x, r, d, (1 / sigma).astype(r_norm.dtype), r_norm, jnp.array(False), DIVERGED * r_norm
            )

        def step(state: _State) -> _State:
            x = axpy(1, state.d, state.x)
            r = subtract(state.r, system.product(state.d))
            r_norm = norm(r)
            rho = 1 / (2 * sigma.astype(r_norm.dtype) - state.rho)
            gain = 2 * rho * (sigma / center).astype(r_norm.dtype)  # 2 rho / radius
            d = axpy(rho * state.rho, state.d, scale(gain, system.precondition(r)))
            return _State(x, r, d, rho, r_norm, ~(r_norm < state.limit), state.limit)

        return Method(
            start,
            step,
            finish=lambda state: state.x,
            # Long enough not to lose the acceleration.
            cycle_length=1000,
            least_progress=0.9,
            restarts_when_broken=False,
            broken_means="diverged",
        )

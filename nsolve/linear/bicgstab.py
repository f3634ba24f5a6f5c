"""Stabilised bi-conjugate gradients."""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array

from .._stopping import Method
from .._system import System
from .._vectors import Vector, axpy, dot, dtype, norm, real, safe_divide, zeros_like
from ..monitor import AbstractMonitor
from .base import (
    AbstractIterativeSolver,
    Preconditioner,
    Work,
    constant_field,
)


class _State(NamedTuple):
    x: Vector
    r: Vector
    shadow: Vector
    p: Vector
    v: Vector
    rho: Array
    alpha: Array
    omega: Array
    residual_norm: Array
    broken: Array


class BiCGStab(AbstractIterativeSolver):
    """Right-preconditioned BiCGStab, for general square operators in little memory.

    Use it where GMRES would need too many vectors.  Convergence is irregular; where a vanishing inner product
    breaks the recursion off, it is restarted with a new shadow residual for as long as that makes progress,
    then the solve ends with `RESULTS.breakdown`.

    Cost of a step: *two* products, two applications of `M`, five inner products; six vectors are kept.
    `num_steps` counts steps as SciPy does; `num_matvecs` counts products.

    Stopping rule, common fields, options and statistics: see `nsolve.linear.AbstractIterativeSolver`.

    van der Vorst (1992), doi:10.1137/0913035.
    """

    rtol: Any = constant_field()
    atol: Any = constant_field(default=0.0)
    max_steps: int | None = None
    preconditioner: Preconditioner | None = None
    history: bool = False
    monitor: AbstractMonitor | None = None

    squares_products: ClassVar[bool] = True

    def check(self, operator: lx.AbstractLinearOperator) -> None:
        del operator

    def prepare(self, system: System) -> System:
        return system

    def cost(self) -> Work:
        return Work(products_per_step=2, applications_per_step=2, applications_per_cycle=0)

    def method(self, system: System) -> Method:
        def start(x: Vector, r: Vector) -> _State:
            one = jnp.ones((), dtype(r))
            zero = zeros_like(r)
            return _State(x, r, r, zero, zero, one, one, one, norm(r), jnp.array(False))

        def step(state: _State) -> _State:
            x, r, shadow, p, v, rho, alpha, omega, r_norm, _ = state
            rho_next = dot(shadow, r)
            # Orthogonal to the shadow far below rounding: nothing but noise would follow.
            floor = jnp.finfo(r_norm.dtype).eps ** 2 * norm(shadow) * r_norm
            lost = ~(jnp.abs(rho_next) > floor)
            beta = safe_divide(rho_next, rho) * safe_divide(alpha, omega)
            p = axpy(beta, axpy(-omega, v, p), r)
            p_hat = system.precondition(p)
            v = system.product(p_hat)
            alpha = safe_divide(rho_next, dot(shadow, v))
            s = axpy(-alpha, v, r)
            s_hat = system.precondition(s)
            t = system.product(s_hat)
            ts = dot(t, s)
            omega = safe_divide(ts, real(dot(t, t)).astype(ts.dtype))
            x = axpy(omega, s_hat, axpy(alpha, p_hat, x))
            r = axpy(-omega, t, s)
            broken = lost | (alpha == 0) | (omega == 0)
            return _State(x, r, shadow, p, v, rho_next, alpha, omega, norm(r), broken)

        return Method(
            start,
            step,
            finish=lambda state: state.x,
            cycle_length=None,
            least_progress=0.99,
            restarts_when_broken=True,
            broken_means="lost",
        )

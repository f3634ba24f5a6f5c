"""Conjugate gradients."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array

from .._stopping import Method
from .._system import System
from .._vectors import Vector, axpy, dot, norm, real, safe_divide, zeros_like
from ..operators.base import require_definite
from .base import (
    AbstractIterativeSolver,
    Cost,
    Preconditioner,
    require_definite_preconditioner,
)


class _State(NamedTuple):
    x: Vector
    r: Vector
    p: Vector
    gamma: Array  # r^H M r of the step before; zero before the first
    residual_norm: Array
    broken: Array


class CG(AbstractIterativeSolver):
    """Preconditioned conjugate gradients, for Hermitian positive (semi)definite operators.

    The first choice for symmetric positive definite systems; with a good preconditioner (incomplete Cholesky,
    multigrid) usually the last, too.  The operator must be tagged `lx.positive_semidefinite_tag`, the
    preconditioner likewise.

    Cost of a step: one product, one application of `M`, two inner products (three with `M`), three vector
    updates; four vectors are kept.  Non-positive curvature `p^H A p <= 0`, or `r^H M r <= 0`, ends the solve
    with `RESULTS.breakdown`: the operator or the preconditioner is not positive definite.  Singular
    consistent systems are solved; inconsistent ones end in `breakdown`, `stagnation` or `max_steps_reached`.

    Stopping rule, common fields, options and statistics: see `nsolve.linear.AbstractIterativeSolver`.

    Hestenes and Stiefel (1952), doi:10.6028/jres.049.044; in the form of Saad, *Iterative Methods for Sparse
    Linear Systems* (2003), algorithm 9.1.
    """

    rtol: Any
    atol: Any = 0.0
    max_steps: int | None = None
    preconditioner: Preconditioner | None = None
    history: bool = False

    def check(self, operator: lx.AbstractLinearOperator) -> None:
        require_definite(operator, "CG")

    def prepare(self, system: System) -> System:
        require_definite_preconditioner(system, "CG")
        return system

    def cost(self) -> Cost:
        return Cost(products_per_step=1, applications_per_step=1, applications_per_cycle=0)

    def method(self, system: System) -> Method:
        plain = system.preconditioner is None

        def start(x: Vector, r: Vector) -> _State:
            r_norm = norm(r)
            return _State(x, r, zeros_like(r), jnp.zeros_like(r_norm), r_norm, jnp.array(False))

        # M is applied at the head of a step: at one place in the program, which a multigrid cycle fills with
        # code, and never to the last residual, which needs no direction.
        def step(state: _State) -> _State:
            x, r, p, gamma, r_norm, _ = state
            z = system.precondition(r)
            gamma_next = r_norm**2 if plain else real(dot(r, z))
            p = axpy(safe_divide(gamma_next, gamma), p, z)
            q = system.product(p)
            curvature = real(dot(p, q))
            definite = (curvature > 0) & (gamma_next > 0)
            alpha = jnp.where(definite, safe_divide(gamma_next, curvature), 0)
            x = axpy(alpha, p, x)
            r = axpy(-alpha, q, r)
            return _State(x, r, p, gamma_next, norm(r), ~definite)

        return Method(
            start,
            step,
            finish=lambda state: state.x,
            cycle_length=None,
            least_progress=0.5,
            restarts_when_broken=False,
        )

"""Preconditioned Richardson iteration."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array

from .._stopping import Method
from .._system import System
from .._vectors import Vector, axpy, norm, real_dtype, scale, subtract
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
    residual_norm: Array
    broken: Array
    limit: Array


#: Growth of the residual at which an iteration has diverged; far below overflow in single precision.
DIVERGED = 1e15


def stationary(system: System, correction) -> Method:
    """`x <- x + correction(b - A x)`, with the residual carried along."""

    def start(x: Vector, r: Vector) -> _State:
        r_norm = norm(r)
        return _State(x, r, r_norm, jnp.array(False), DIVERGED * r_norm)

    def step(state: _State) -> _State:
        d = correction(state.r)
        x = axpy(1, d, state.x)
        r = subtract(state.r, system.product(d))
        r_norm = norm(r)
        return _State(x, r, r_norm, ~(r_norm < state.limit), state.limit)

    return Method(
        start,
        step,
        finish=lambda state: state.x,
        # Long, since a good iteration may grow at first, and a slow one gains little in few steps.
        cycle_length=1000,
        least_progress=0.9999,
        restarts_when_broken=False,
        broken_means="diverged",
    )


class Richardson(AbstractIterativeSolver):
    """Richardson iteration `x <- x + damping * M (b - A x)`.

    With `M` a multigrid cycle this is the stand-alone multigrid solver; with Jacobi it is the damped Jacobi
    iteration.  Any square operator; converges where the spectral radius of `I - damping M A` is below one.

    Cost of a step: one product and one application of `M`; two vectors are kept.  An iteration that
    diverges ends with `RESULTS.breakdown`, one that gains less than 0.01 % in 1000 steps with
    `RESULTS.stagnation`.

    Stopping rule, common fields, options and statistics: see `nsolve.linear.AbstractIterativeSolver`.

    Saad, *Iterative Methods for Sparse Linear Systems* (2003), section 4.2.1.
    """

    rtol: Any = constant_field()
    atol: Any = constant_field(default=0.0)
    max_steps: int | None = None
    preconditioner: Preconditioner | None = None
    history: bool = False
    monitor: AbstractMonitor | None = None
    damping: Any = 1.0

    def check(self, operator: lx.AbstractLinearOperator) -> None:
        del operator

    def prepare(self, system: System) -> System:
        return system

    def cost(self) -> Work:
        return Work(products_per_step=1, applications_per_step=1, applications_per_cycle=0)

    def method(self, system: System) -> Method:
        def correction(r: Vector) -> Vector:
            return scale(jnp.asarray(self.damping, real_dtype(r)), system.precondition(r))

        return stationary(system, correction)

"""Minimal residuals for Hermitian, possibly indefinite or singular operators."""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array

from .._stopping import Method
from .._system import System
from .._vectors import Vector, axpy, dot, hypot, norm, real, real_dtype, root, safe_divide, scale, zeros_like
from ..monitor import AbstractMonitor
from ..operators.base import is_hermitian
from ._condition import Condition
from .base import (
    AbstractIterativeSolver,
    Preconditioner,
    Work,
    constant_field,
    require_definite_preconditioner,
)


class _State(NamedTuple):
    x: Vector
    r: Vector  # the residual, by recurrence
    v_old: Vector  # Lanczos vectors, before preconditioning
    v: Vector
    z: Vector  # M v
    beta: Array
    d_old: Vector  # search directions
    d: Vector
    cosine: Array
    sine: Array
    delta_bar: Array
    epsilon: Array
    phi_bar: Array
    residual_norm: Array
    broken: Array
    growth: tuple[Condition, Array] | None = None  # of the triangular factor; the condition in cycles before


class MINRES(AbstractIterativeSolver):
    """Preconditioned MINRES, for symmetric (Hermitian) operators, indefinite ones included.

    Use it for saddle points, Helmholtz below resonance, shifted and singular consistent systems.  The
    operator must be tagged symmetric (`lx.symmetric_tag`), Hermitian (`nsolve.hermitian_tag`) or definite;
    the preconditioner must be positive definite and tagged so.

    Cost of a step: one product, one application of `M`, three inner products; seven vectors are kept.  With a
    preconditioner, what is minimised is the residual in the norm of `M`; what is tested is its 2-norm.  A
    preconditioner that is not positive definite ends with `RESULTS.breakdown`; a singular inconsistent system
    with `stagnation` or `max_steps_reached`.

    With `condition=True`, `stats["condition"]` is an estimate from below of the condition number of `M A`, as
    far as the vector saw it: that of the triangular factor of the Lanczos matrix, whose columns come one by
    one.  It is often too small by a factor of a few, and costs some scalars a step.

    Stopping rule, common fields, options and statistics: see `nsolve.linear.AbstractIterativeSolver`.

    Paige and Saunders (1975), doi:10.1137/0712047.  Deviation: the residual vector is carried along (one more
    vector update), so that its 2-norm is known with a preconditioner too.  The condition: Bischof (1990),
    doi:10.1137/0611021.
    """

    rtol: Any = constant_field()
    atol: Any = constant_field(default=0.0)
    max_steps: int | None = None
    preconditioner: Preconditioner | None = None
    history: bool = False
    monitor: AbstractMonitor | None = None
    condition: bool = False

    squares_products: ClassVar[bool] = True

    def check(self, operator: lx.AbstractLinearOperator) -> None:
        if not is_hermitian(operator):
            raise ValueError(
                "`MINRES` solves symmetric (or Hermitian) systems, and the operator is not tagged so. If it "
                "is one, say so: `lx.TaggedLinearOperator(A, lx.symmetric_tag)` for real operators, "
                "`nsolve.hermitian_tag` for complex ones; otherwise use `GMRES` or `BiCGStab`."
            )

    def prepare(self, system: System) -> System:
        require_definite_preconditioner(system, "MINRES")
        return system

    def cost(self) -> Work:
        return Work(products_per_step=1, applications_per_step=1, applications_per_cycle=1)

    def method(self, system: System) -> Method:
        def start(x: Vector, r: Vector) -> _State:
            z = system.precondition(r)
            beta_squared = real(dot(r, z))
            beta = root(jnp.maximum(beta_squared, 0))
            inverse = safe_divide(jnp.ones_like(beta), beta)
            zero, zeros = jnp.zeros_like(beta), zeros_like(r)
            return _State(
                x=x,
                r=r,
                v_old=zeros,
                v=scale(inverse, r),
                z=scale(inverse, z),
                beta=zero,
                d_old=zeros,
                d=zeros,
                cosine=-jnp.ones_like(beta),
                sine=zero,
                delta_bar=zero,
                epsilon=zero,
                phi_bar=beta,
                residual_norm=norm(r),
                broken=~(beta_squared > 0),
            )

        def step(s: _State) -> _State:
            # Lanczos
            q = system.product(s.z)
            alpha = real(dot(s.z, q))
            v_next = axpy(-s.beta, s.v_old, axpy(-alpha, s.v, q))
            z_next = system.precondition(v_next)
            beta_squared = real(dot(v_next, z_next))
            beta = root(jnp.maximum(beta_squared, 0))
            # the previous rotation, then a new one, applied to the tridiagonal's new column
            delta = s.cosine * s.delta_bar + s.sine * alpha
            gamma_bar = s.sine * s.delta_bar - s.cosine * alpha
            epsilon, delta_bar = s.sine * beta, -s.cosine * beta
            gamma = hypot(gamma_bar, beta)
            cosine, sine = safe_divide(gamma_bar, gamma), safe_divide(beta, gamma)
            phi, phi_bar = cosine * s.phi_bar, sine * s.phi_bar
            d = axpy(-s.epsilon, s.d_old, axpy(-delta, s.d, s.z))
            d = scale(safe_divide(jnp.ones_like(gamma), gamma), d)
            x = axpy(phi, d, s.x)
            inverse = safe_divide(jnp.ones_like(beta), beta)
            v_next, z_next = scale(inverse, v_next), scale(inverse, z_next)
            r = axpy(-phi_bar * cosine, v_next, scale(sine * sine, s.r))
            return _State(
                x=x,
                r=r,
                v_old=s.v,
                v=v_next,
                z=z_next,
                beta=beta,
                d_old=s.d,
                d=d,
                cosine=cosine,
                sine=sine,
                delta_bar=delta_bar,
                epsilon=epsilon,
                phi_bar=phi_bar,
                residual_norm=norm(r),
                broken=~(beta > 0) | ~(gamma > 0),
                growth=None
                if s.growth is None
                else (s.growth[0].with_column(gamma, delta, s.epsilon), s.growth[1]),
            )

        method = Method(
            start,
            step,
            finish=lambda s: s.x,
            cycle_length=None,
            least_progress=0.5,
            restarts_when_broken=False,
            broken_means="indefinite_preconditioner" if system.preconditioner is not None else "singular",
        )
        if not self.condition:
            return method
        one = jnp.ones((), real_dtype(system.operator.in_structure()))
        return method._replace(
            start=lambda x, r, memory: start(x, r)._replace(growth=(Condition.begin(memory), memory)),
            memory=one,
            remember=lambda s: jnp.maximum(s.growth[0].estimate, s.growth[1]),
            report=lambda memory, stats: {"condition": jnp.where(stats["num_steps"] > 0, memory, jnp.nan)},
        )

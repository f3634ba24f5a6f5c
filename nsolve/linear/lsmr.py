"""LSMR."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from .._vectors import Vector, axpy, hypot, safe_divide, zeros_like
from ..monitor import AbstractMonitor
from ._condition import Condition, rotation
from ._least_squares import Bidiagonal, Method, Products
from .base import Preconditioner, constant_field
from .least_squares import AbstractLeastSquaresSolver


class _Residual(NamedTuple):
    """For the norm of the residual: a third family of rotations, one step behind."""

    beta: Array  # not yet rotated, and what stays of it for good
    rest: Array
    rho: Array
    theta: Array
    tau: Array

    def advanced(
        self, cosine: Array, sine: Array, zeta_old: Array, rho_bar: Array, theta_bar: Array, zeta: Array
    ) -> tuple["_Residual", Array]:
        beta_hat, rest = cosine * self.rest, -sine * self.rest
        c, s, rho_old = rotation(self.rho, theta_bar)
        theta, rho = s * rho_bar, c * rho_bar
        beta = -s * self.beta + c * beta_hat
        tau_old = safe_divide(zeta_old - self.theta * self.tau, rho_old)
        tau = safe_divide(zeta - theta * tau_old, rho)
        return _Residual(beta, rest, rho, theta, tau_old), hypot(beta - tau, rest)


class _State(NamedTuple):
    x: Vector
    h: Vector
    h_bar: Vector
    bidiagonal: Bidiagonal
    alpha_bar: Array
    rho: Array
    rho_bar: Array
    cosine_bar: Array
    sine_bar: Array
    growth: Condition
    zeta: Array
    zeta_bar: Array
    residual: _Residual
    residual_norm: Array

    @property
    def normal_norm(self) -> Array:
        return jnp.abs(self.zeta_bar)

    @property
    def gains(self) -> Array:
        return self.bidiagonal.gains

    @property
    def condition(self) -> Array:
        return self.growth.estimate


class LSMR(AbstractLeastSquaresSolver):
    """LSMR: least squares, minimum norm and square systems by products with `A` and its transpose.

    The first choice among the three: `||A^H r||`, by which least-squares problems are judged, falls in every
    step, and so does `||r||`.  Mathematically MINRES on the normal equations.

    Cost of a step: one product with `A` and one with its transpose, two inner products, five vector updates;
    four vectors of the solution's size and two of the right-hand side's are kept.

    Stopping rule, common fields, options, statistics and derivatives: see
    `nsolve.linear.AbstractLeastSquaresSolver`.

    Fong and Saunders (2011), doi:10.1137/10079687X.  Deviation: the condition is estimated as by Bischof
    (1990), doi:10.1137/0611021.
    """

    rtol: Any = constant_field()
    atol: Any = constant_field(default=0.0)
    max_steps: int | None = None
    preconditioner: Preconditioner | None = None
    history: bool = False
    monitor: AbstractMonitor | None = None
    damping: Any = 0.0

    def method(self, products: Products) -> Method:
        def begin(r: Vector, normal: Vector) -> _State:
            first = Bidiagonal.begin(r, normal)
            zero, one = jnp.zeros_like(first.beta), jnp.ones_like(first.beta)
            return _State(
                x=zeros_like(first.v),
                h=first.v,
                h_bar=zeros_like(first.v),
                bidiagonal=first,
                alpha_bar=first.alpha,
                rho=one,
                rho_bar=one,
                cosine_bar=one,
                sine_bar=zero,
                growth=Condition.begin(one),
                zeta=zero,
                zeta_bar=first.alpha * first.beta,
                residual=_Residual(zero, first.beta, one, zero, zero),
                residual_norm=first.beta,
            )

        def step(old: _State) -> _State:
            bidiagonal = old.bidiagonal.advanced(products)
            cosine, sine, rho = rotation(old.alpha_bar, bidiagonal.beta)
            theta = sine * bidiagonal.alpha
            theta_bar = old.sine_bar * rho
            cosine_bar, sine_bar, rho_bar = rotation(old.cosine_bar * rho, theta)
            zeta = cosine_bar * old.zeta_bar
            weight = safe_divide(theta_bar * rho, old.rho * old.rho_bar)
            h_bar = axpy(-weight, old.h_bar, old.h)
            residual, residual_norm = old.residual.advanced(cosine, sine, old.zeta, rho_bar, theta_bar, zeta)
            return _State(
                x=axpy(safe_divide(zeta, rho * rho_bar), h_bar, old.x),
                h=axpy(-safe_divide(theta, rho), old.h, bidiagonal.v),
                h_bar=h_bar,
                bidiagonal=bidiagonal,
                alpha_bar=cosine * bidiagonal.alpha,
                rho=rho,
                rho_bar=rho_bar,
                cosine_bar=cosine_bar,
                sine_bar=sine_bar,
                growth=old.growth.advanced(rho, theta),
                zeta=zeta,
                zeta_bar=-sine_bar * old.zeta_bar,
                residual=residual,
                residual_norm=residual_norm,
            )

        return Method(begin, step)

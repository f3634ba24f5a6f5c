"""Conjugate gradients for least squares."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from .._vectors import Vector, axpy, norm, safe_divide, zeros_like
from ..monitor import AbstractMonitor
from ._condition import Condition
from ._least_squares import Method, Products
from .base import Preconditioner, constant_field
from .least_squares import AbstractLeastSquaresSolver


class _State(NamedTuple):
    x: Vector
    r: Vector
    p: Vector
    normal: Vector  # A^H r
    normal_norm: Array
    beta: Array
    growth: Condition
    gains: Array
    residual_norm: Array

    @property
    def condition(self) -> Array:
        return self.growth.estimate


class CGLS(AbstractLeastSquaresSolver):
    """CGLS: least squares, minimum norm and square systems by products with `A` and its transpose.

    Conjugate gradients on the normal equations, in the form that carries the residual along instead of
    forming `A^H A`.  In exact arithmetic its iterates are those of `LSQR`, with the least work a step; on
    ill-conditioned operators `LSQR` and `LSMR` lose fewer digits.

    Cost of a step: one product with `A` and one with its transpose, four inner products, three vector
    updates; three vectors of the solution's size and two of the right-hand side's are kept.

    Stopping rule, common fields, options, statistics and derivatives: see
    `nsolve.linear.AbstractLeastSquaresSolver`.

    Hestenes and Stiefel (1952), doi:10.6028/jres.049.044; Björck, *Numerical Methods for Least Squares
    Problems* (1996), algorithm 7.4.1, doi:10.1137/1.9781611971484.  The condition is estimated as in
    LSQR, whose bidiagonal factor the step lengths tell.
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
            residual_norm, zeros = norm(r), zeros_like(normal)
            zero = jnp.zeros_like(residual_norm)
            gains = jnp.stack([zero, zero])
            growth = Condition.begin(zero)
            return _State(zeros, r, zeros, normal, norm(normal), zero, growth, gains, residual_norm)

        def step(old: _State) -> _State:
            p = axpy(old.beta, old.p, old.normal)
            p_norm = norm(p)
            q, gains = products.apply(p, p_norm)
            q_norm = p_norm * gains[0]
            # the diagonal entry of the bidiagonal factor that LSQR would find, and the one beside it
            rho = safe_divide(q_norm, old.normal_norm)
            alpha = safe_divide(jnp.ones_like(rho), rho * rho)
            r = axpy(-alpha, q, old.r)
            normal = products.apply_adjoint(r)
            normal_norm = norm(normal)
            ratio = safe_divide(normal_norm, old.normal_norm)
            return _State(
                x=axpy(alpha, p, old.x),
                r=r,
                p=p,
                normal=normal,
                normal_norm=normal_norm,
                beta=ratio * ratio,
                growth=old.growth.advanced(rho, ratio * rho),
                gains=jnp.maximum(old.gains, gains),
                residual_norm=norm(r),
            )

        return Method(begin, step)

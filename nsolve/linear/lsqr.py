"""LSQR."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from .._vectors import Vector, axpy, safe_divide, zeros_like
from ..monitor import AbstractMonitor
from ._condition import Condition, rotation
from ._least_squares import Bidiagonal, Method, Products
from .base import Preconditioner, constant_field
from .least_squares import AbstractLeastSquaresSolver


class _State(NamedTuple):
    x: Vector
    w: Vector
    bidiagonal: Bidiagonal
    rho_bar: Array
    growth: Condition
    residual_norm: Array
    normal_norm: Array

    @property
    def gains(self) -> Array:
        return self.bidiagonal.gains

    @property
    def condition(self) -> Array:
        return self.growth.estimate


class LSQR(AbstractLeastSquaresSolver):
    """LSQR: least squares, minimum norm and square systems by products with `A` and its transpose.

    Of all iterates in the Krylov space it takes the one with the smallest residual: the choice where `||r||`
    is what counts, as in systems that have a solution; `LSMR` can stop earlier in least squares.
    Mathematically CG on the normal equations.

    Cost of a step: one product with `A` and one with its transpose, two inner products, four vector updates;
    three vectors of the solution's size and two of the right-hand side's are kept.

    Stopping rule, common fields, options, statistics and derivatives: see
    `nsolve.linear.AbstractLeastSquaresSolver`.

    Paige and Saunders (1982), doi:10.1145/355984.355989.  Deviation: the condition is estimated
    as by Bischof (1990), doi:10.1137/0611021.
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
            return _State(
                x=zeros_like(first.v),
                w=first.v,
                bidiagonal=first,
                rho_bar=first.alpha,
                growth=Condition.begin(first.beta),
                residual_norm=first.beta,
                normal_norm=first.alpha * first.beta,
            )

        def step(old: _State) -> _State:
            bidiagonal = old.bidiagonal.advanced(products)
            cosine, sine, rho = rotation(old.rho_bar, bidiagonal.beta)
            theta, rho_bar = sine * bidiagonal.alpha, -cosine * bidiagonal.alpha
            residual_norm = sine * old.residual_norm
            return _State(
                x=axpy(safe_divide(cosine * old.residual_norm, rho), old.w, old.x),
                w=axpy(-safe_divide(theta, rho), old.w, bidiagonal.v),
                bidiagonal=bidiagonal,
                rho_bar=rho_bar,
                growth=old.growth.advanced(rho, theta),
                residual_norm=residual_norm,
                normal_norm=residual_norm * jnp.abs(rho_bar),
            )

        return Method(begin, step)

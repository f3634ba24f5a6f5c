"""Smoothing: sweeps that damp what a coarser grid cannot see."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..._arrays import namespace
from ...operators.stencil import StencilLinearOperator
from ..base import AbstractApproximateInverse
from ..incomplete import IncompleteCholesky
from .stencils import Kind, Stencil, as_operator, diagonal_of, product

#: The smoother works on eigenvalues of D^-1 A from the largest down to this fraction of it.
_SMOOTHED = 0.2
#: Steps of the power method, and what its bound is raised by.
_POWER_STEPS, _MARGIN = 10, 1.05
#: To so much the eigenvalues of a damped incomplete factorisation go: up to 2 it converges.
_CONVERGENT = 1.9


class ChebyshevJacobi(eqx.Module):
    """Two sweeps of Jacobi whose step lengths are those of a Chebyshev polynomial."""

    inverse_diagonal: Array
    weights: Array

    def from_zero(self, operator: StencilLinearOperator, b: Array) -> Array:
        """Two sweeps from zero, the first of which needs no product."""
        return self._sweep(operator, 1, self.weights[0] * self.inverse_diagonal * b, b)

    def improve(self, operator: StencilLinearOperator, x: Array, b: Array) -> Array:
        """Two sweeps from `x`."""
        # Sweeps are polynomials in D^-1 A and commute: the cycle is symmetric in either order.  A loop is
        # compiled once for both, and is a wall to fusion as well.
        return jax.lax.fori_loop(0, 2, lambda k, x: self._sweep(operator, 1 - k, x, b), x)

    def __repr__(self) -> str:
        return "2 + 2 Chebyshev-Jacobi sweeps"

    def _sweep(self, operator: StencilLinearOperator, number: Any, x: Array, b: Array) -> Array:
        return x + self.weights[number] * self.inverse_diagonal * (b - operator.mv(x))


class IncompleteSmoother(eqx.Module):
    """One step with an incomplete Cholesky factorisation `M ~ A^-1`, which follows couplings in all
    directions, damped by `weight` so that it converges.

    Without fill it sees couplings to the neighbours ahead on both axes, or behind on both, better than those
    across: `flipped` takes the first axis in the other order."""

    inverse: AbstractApproximateInverse
    inverse_diagonal: Array
    weight: Array
    flipped: bool = eqx.field(static=True)

    def from_zero(self, operator: StencilLinearOperator, b: Array) -> Array:
        """A step from zero."""
        if self.flipped:
            return self.weight * jnp.flip(self.inverse.mv(jnp.flip(b, 0)), 0)
        return self.weight * self.inverse.mv(b)

    def improve(self, operator: StencilLinearOperator, x: Array, b: Array) -> Array:
        """A step from `x`."""
        return x + self.from_zero(operator, b - operator.mv(x))

    def __repr__(self) -> str:
        return "1 + 1 steps with IC(0)"


def incomplete_smoother(stencil: Stencil, kind: Kind, flipped: bool) -> IncompleteSmoother:
    """The smoother of a symmetric positive operator; points that nothing holds stay alone."""
    if flipped:
        xp = namespace(*stencil.values())
        stencil = {(-first, *rest): xp.flip(c, 0) for (first, *rest), c in stencil.items()}
    diagonal = diagonal_of(stencil, kind.periodic)
    centre, xp = (0,) * diagonal.ndim, namespace(diagonal)
    held = xp.where(diagonal == 0, 1, diagonal)
    operator = as_operator({**stencil, centre: held}, kind)
    inverse = IncompleteCholesky().build(operator)
    inverse_diagonal = jnp.asarray(1 / (xp.flip(held, 0) if flipped else held))
    return IncompleteSmoother(inverse, inverse_diagonal, _damping(operator, inverse), flipped)


@eqx.filter_jit
def _damping(operator: StencilLinearOperator, inverse: AbstractApproximateInverse) -> Array:
    """1, or less where steps of `M` would not converge."""
    start = _scattered(operator.shape, operator.dtype, jnp)
    return jnp.minimum(1, _CONVERGENT / _power_bound(operator.mv, inverse.mv, start))


def chebyshev_jacobi(inverse_diagonal: Any, largest: Any, dtype: Any) -> ChebyshevJacobi:
    """The smoother of an operator whose `D^-1 A` has no eigenvalue above `largest`.

    Its step lengths are those whose two sweeps are smallest on the upper part of the spectrum."""
    centre, radius = (1 + _SMOOTHED) / 2, (1 - _SMOOTHED) / 2
    roots = np.array([centre + radius * np.sqrt(0.5), centre - radius * np.sqrt(0.5)])
    weights = jnp.asarray(1 / (roots.astype(jnp.finfo(dtype).dtype) * largest), dtype)
    return ChebyshevJacobi(jnp.asarray(inverse_diagonal, dtype), weights)


def power_bound(stencil: Stencil, inverse_diagonal: Any, weight: Any, periodic: tuple[bool, ...]) -> Any:
    """Nearly a bound of the eigenvalues of `D^-1 A`, `A` symmetric: a Rayleigh quotient, and a margin that
    with the smoother's own is a quarter.

    The start is scattered, and largest where a local mode could have a large eigenvalue: where `weight`, the
    share of a row's sum in the largest, is."""
    start = _scattered(weight.shape, weight.dtype, namespace(weight)) * weight**4
    return _power_bound(lambda x: product(stencil, x, periodic), lambda y: inverse_diagonal * y, start)


def _power_bound(product: Callable[[Any], Any], inverse: Callable[[Any], Any], x: Any) -> Any:
    """Nearly a bound of the eigenvalues of `M A`, both symmetric and positive."""
    xp = namespace(x)

    def step(carry):
        x, _ = carry
        y = product(x)
        z = inverse(y)
        size = xp.sum(z * y)  # of z in the norm of M^-1
        quotient = size / xp.where(size == 0, 1, xp.sum(x * y))
        return z / xp.sqrt(xp.where(size == 0, 1, size)), quotient

    carry = x, xp.zeros((), x.dtype)
    if xp is np:
        for _ in range(_POWER_STEPS):
            carry = step(carry)
    else:
        carry = jax.lax.fori_loop(0, _POWER_STEPS, lambda _, carry: step(carry), carry)
    return _MARGIN * carry[1]


def _scattered(shape: tuple[int, ...], dtype: Any, xp: Any) -> Any:
    """Numbers between -1/2 and 1/2 as by chance, and the same in NumPy and JAX."""
    number = xp.arange(math.prod(shape), dtype=np.uint32) * xp.asarray(2654435761, np.uint32)
    number = (number ^ (number >> xp.asarray(15, np.uint32))) * xp.asarray(2246822519, np.uint32)
    number = number ^ (number >> xp.asarray(13, np.uint32))
    return number.astype(dtype).reshape(shape) / 2**32 - 0.5

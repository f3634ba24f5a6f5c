"""Smoothing: sweeps that damp what a coarser grid cannot see."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ...operators.stencil import StencilLinearOperator

#: The smoother works on eigenvalues of D^-1 A from the largest down to this fraction of it.
_SMOOTHED = 0.2


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

    def _sweep(self, operator: StencilLinearOperator, number: Any, x: Array, b: Array) -> Array:
        return x + self.weights[number] * self.inverse_diagonal * (b - operator.mv(x))


def chebyshev_jacobi(inverse_diagonal: Any, largest: Any, dtype: Any) -> ChebyshevJacobi:
    """The smoother of an operator whose `D^-1 A` has no eigenvalue above `largest`.

    Its step lengths are those whose two sweeps are smallest on the upper part of the spectrum."""
    centre, radius = (1 + _SMOOTHED) / 2, (1 - _SMOOTHED) / 2
    roots = np.array([centre + radius * np.sqrt(0.5), centre - radius * np.sqrt(0.5)])
    weights = jnp.asarray(1 / (roots.astype(jnp.finfo(dtype).dtype) * largest), dtype)
    return ChebyshevJacobi(jnp.asarray(inverse_diagonal, dtype), weights)

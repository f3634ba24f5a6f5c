"""Costs given as a matrix."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from ..operators.finite_volumes import is_traced
from . import _reductions as reductions
from .geometry import AbstractGeometry, as_epsilon, as_real, check_costs, replaced


class CostMatrix(AbstractGeometry):
    """Any cost, as a dense matrix.

    * `C` (n, m): the cost of moving a unit of mass from i to j; finite, negative ones allowed.  A pair that
      must not be used gets a large finite cost: with infinity its derivatives would be NaN.
    * `epsilon`: the weight of the entropy, in the units of `C`, positive.

    Both are differentiable.  float32 or float64; integers become the default float.  The transpose reads the
    same array along its other axis, uncopied.  A sum makes two passes over `C`, one for the largest exponent
    and one for the exponentials.

    Raises `ValueError` where `C` is not a matrix or not finite, `epsilon` is not positive, or so small that
    rounding of the costs exceeds it; `TypeError` for complex numbers.
    """

    matrix: Array
    epsilon: Array
    transposed: bool = eqx.field(static=True)

    def __init__(self, C: ArrayLike, epsilon: ArrayLike):
        if not is_traced(C) and np.any(np.isposinf(np.asarray(C))):
            raise ValueError(
                "`C` contains infinity; give a pair that must not be used a large finite cost, such as "
                "a hundred times the largest of the others."
            )
        matrix = as_real("C", C)
        if matrix.ndim != 2 or 0 in matrix.shape:
            raise ValueError(f"`C` must be a matrix (n, m) with n, m >= 1, but has shape {matrix.shape}.")
        self.matrix = matrix
        self.epsilon = as_epsilon(epsilon, matrix.dtype)
        self.transposed = False
        if not is_traced(C):
            check_costs(np.max(np.abs(np.asarray(C))), epsilon, matrix.dtype)

    @property
    def source_shape(self) -> tuple[int, ...]:
        return (self.matrix.shape[1 - self._axis],)

    @property
    def target_shape(self) -> tuple[int, ...]:
        return (self.matrix.shape[self._axis],)

    @property
    def dtype(self) -> np.dtype:
        return self.matrix.dtype

    @property
    def T(self) -> "CostMatrix":
        return replaced(self, transposed=not self.transposed)

    def softmin(self, g: Array, b: Array) -> Array:
        return reductions.softmin(self.matrix, self.epsilon, g, b, self._axis)

    def apply(self, f: Array, g: Array, a: Array, b: Array, v: Array) -> Array:
        return reductions.apply(self.matrix, self.epsilon, f, g, a, b, v, self._axis)

    def squares(self, f: Array, g: Array, a: Array, b: Array, v: Array) -> Array:
        return reductions.squares(self.matrix, self.epsilon, f, g, a, b, v, self._axis)

    def transport_cost(self, f: Array, g: Array, a: Array, b: Array) -> Array:
        return jnp.sum(reductions.transport_costs(self.matrix, self.epsilon, f, g, a, b, self._axis))

    def largest_cost(self) -> Array:
        return jnp.max(jnp.abs(jax.lax.stop_gradient(self.matrix)))

    def cost_rows(self, start: Any) -> Array:
        rows = start + jnp.arange(self.tile_rows)
        tile = jnp.take(self.matrix, rows, axis=1 - self._axis, mode="clip")
        return tile.T if self.transposed else tile

    def cost_matrix(self) -> Array:
        return self.matrix.T if self.transposed else self.matrix

    def precomputed(self) -> "CostMatrix":
        return self

    @property
    def _axis(self) -> int:
        """The array's axis that runs over targets."""
        return 0 if self.transposed else 1

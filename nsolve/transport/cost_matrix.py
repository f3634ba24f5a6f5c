"""Costs given as a matrix."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from . import _reductions as reductions
from .geometry import AbstractGeometry, as_epsilon, as_real, check_costs, heaviest, offsets, replaced


class CostMatrix(AbstractGeometry):
    """Any cost, as a dense matrix.

    * `C` (n, m): the cost of moving a unit of mass from i to j; finite, negative ones allowed.  A pair that
      must not be used gets a large finite cost: with infinity its derivatives would be NaN.  Rows and columns
      of sites of weight zero may be anything, also NaN.
    * `epsilon`: the weight of the entropy, in the units of `C`, positive.

    Both are differentiable.  float32 or float64; integers become the default float.  The transpose reads the
    same array along its other axis, uncopied.  A sum makes two passes over `C`, one for the largest exponent
    and one for the exponentials.

    Raises `ValueError` where `C` is not a matrix or `epsilon` is not positive; `TypeError` for complex ones.
    `solve`, which knows the weights, raises `ValueError` where the costs between sites with weight are not
    finite, or `epsilon` so small that their rounding exceeds it.
    """

    matrix: Array
    epsilon: Array
    transposed: bool = eqx.field(static=True)

    def __init__(self, C: ArrayLike, epsilon: ArrayLike):
        matrix = as_real("C", C, finite=False)
        if matrix.ndim != 2 or 0 in matrix.shape:
            raise ValueError(f"`C` must be a matrix (n, m) with n, m >= 1, but has shape {matrix.shape}.")
        self.matrix = matrix
        self.epsilon = as_epsilon(epsilon, matrix.dtype)
        self.transposed = False

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

    def check(self, a: Array, b: Array) -> None:
        C, heavy = np.asarray(self.cost_matrix()), (np.asarray(a) > 0, np.asarray(b) > 0)
        if not all(map(np.all, heavy)):
            C = C[np.ix_(*heavy)]
        if np.any(np.isposinf(C)):
            raise ValueError(
                "`C` contains infinity; give a pair that must not be used a large finite cost, such as "
                "a hundred times the largest of the others."
            )
        if not np.all(np.isfinite(C)):
            raise ValueError("`C` must be finite between sites with weight, but contains NaN or infinity.")
        check_costs(np.max(np.abs(C)), self.epsilon, self.dtype)

    def prepared(self, a: Array, b: Array, rows: bool, columns: bool) -> tuple["CostMatrix", Array, Array]:
        C = self.cost_matrix()
        finite, heavy = jnp.isfinite(C), (a > 0)[:, None] & (b > 0)[None, :]
        good_rows = (a > 0) | jnp.all(finite | (b == 0)[None, :], axis=1)
        good_columns = (b > 0) | jnp.all(finite | (a == 0)[:, None], axis=0)
        C = jnp.where(good_rows[:, None], C, heaviest(a, C)[None, :])
        C = jnp.where(good_columns[None, :], C, heaviest(b, C.T)[:, None])
        C = jnp.where(heavy | jnp.isfinite(C), C, 0)
        constant = jax.lax.stop_gradient(C)
        u, v = offsets(
            lambda g: reductions.lowest(constant, g),
            lambda f: reductions.lowest(constant, f, axis=0),
            a, b, rows, columns,
        )  # fmt: skip
        reduced = C - u[:, None] - v[None, :]
        return replaced(self, matrix=reduced, transposed=False), u, v

    def largest_cost(self, a: Array, b: Array) -> Array:
        largest = reductions.largest(jax.lax.stop_gradient(self.matrix), b, self._axis)
        return jnp.max(jnp.where(a > 0, largest, 0))

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

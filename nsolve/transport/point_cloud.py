"""Costs between points, computed where they are needed."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from .._vectors import absolute, root, safe_divide
from . import _reductions as reductions
from .cost_matrix import CostMatrix
from .geometry import (
    AbstractGeometry,
    as_epsilon,
    as_real,
    check_costs,
    check_finite,
    heaviest,
    offsets,
    replaced,
)


class PointCloud(AbstractGeometry):
    """Points in space and a cost `c(x_i, y_j)`; the cost matrix is never stored.

    * `x` (n, d), `y` (m, d): the points; `y=None` means `y = x`.  Points may coincide.  Points of weight zero
      may be anything, also NaN: so a cloud is filled up to a given shape.
    * `cost`: `"squared_euclidean"` (`|x - y|^2`), `"euclidean"`, `"manhattan"`, `"cosine"` (one minus the
      cosine of the angle), or a function of two points (d,), (d,) that returns a scalar of their dtype.  The
      arrays in an `equinox.Module` that is given as a cost are differentiable, like `x`, `y` and `epsilon`;
      so a cost can be learned.  Distances have a kink where points, or single coordinates, coincide: there
      the derivative is taken to be zero.
    * `epsilon`: the weight of the entropy, in the units of the cost, positive.

    float32 or float64, the wider of the two clouds' types.  A sum takes O(n m d) operations.  It goes over
    the rows in tiles of some million entries, and its derivatives recompute them: memory is that of the
    points and of one tile.  Costs that fit in one tile are best stored once if many sums follow:
    `precomputed`.

    Raises `ValueError` for points that do not match, a cost function that returns anything but a scalar, an
    `epsilon` that is not positive; `TypeError` for complex points and for costs of another dtype.  `solve`,
    which knows the weights, raises `ValueError` for points with weight that are not finite, zero vectors
    under the cosine cost (inside `jit`, where values are unknown, their cost is one), and an `epsilon` too
    small for the dtype.
    """

    x: Array
    y: Array
    epsilon: Array
    cost_parameters: Any
    # What `prepared` knows, constants: offsets of rows and columns; a place among the points, and a length.
    offsets: tuple[Array, Array] | None
    frame: tuple[Array, Array] | None
    cost_function: Any = eqx.field(static=True)
    transposed: bool = eqx.field(static=True)

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike | None = None,
        cost: str | Callable[[Array, Array], Array] = "squared_euclidean",
        *,
        epsilon: ArrayLike,
    ):
        xs = _as_points("x", x)
        ys = xs if y is None else _as_points("y", y)
        if xs.shape[1] != ys.shape[1]:
            raise ValueError(
                f"`x` has shape {xs.shape} and `y` {ys.shape}: the points have {xs.shape[1]} and "
                f"{ys.shape[1]} coordinates, but must have equally many."
            )
        dtype = np.promote_types(xs.dtype, ys.dtype)
        self.x, self.y = xs.astype(dtype), ys.astype(dtype)
        self.epsilon = as_epsilon(epsilon, dtype)
        if isinstance(cost, str) and cost not in _COSTS:
            raise ValueError(
                f"`cost` is {cost!r}; known are {', '.join(map(repr, _COSTS))}, or give a function c(x, y)."
            )
        self.cost_parameters, self.cost_function = eqx.partition(cost, eqx.is_array)
        self.offsets = self.frame = None
        self.transposed = False
        if not isinstance(cost, str):
            _check_function(cost, self.x, self.y)

    @property
    def source_shape(self) -> tuple[int, ...]:
        return (self.x.shape[0],)

    @property
    def target_shape(self) -> tuple[int, ...]:
        return (self.y.shape[0],)

    @property
    def dtype(self) -> np.dtype:
        return self.x.dtype

    @property
    def T(self) -> "PointCloud":
        swapped = None if self.offsets is None else self.offsets[::-1]
        return replaced(self, x=self.y, y=self.x, offsets=swapped, transposed=not self.transposed)

    def softmin(self, g: Array, b: Array) -> Array:
        return self._map(lambda cost: reductions.softmin(cost, self.epsilon, g, b))

    def apply(self, f: Array, g: Array, a: Array, b: Array, v: Array) -> Array:
        return self._map(lambda cost, f, a: reductions.apply(cost, self.epsilon, f, g, a, b, v), f, a)

    def squares(self, f: Array, g: Array, a: Array, b: Array, v: Array) -> Array:
        return self._map(lambda cost, f, a: reductions.squares(cost, self.epsilon, f, g, a, b, v), f, a)

    def transport_cost(self, f: Array, g: Array, a: Array, b: Array) -> Array:
        return jnp.sum(
            self._map(lambda cost, f, a: reductions.transport_costs(cost, self.epsilon, f, g, a, b), f, a)
        )

    def check(self, a: Array, b: Array) -> None:
        for name, points, weights in (("x", self.x, a), ("y", self.y, b)):
            check_finite(name, points, weights)
            if self.cost_function == "cosine":
                _check_directions(name, np.asarray(points)[np.asarray(weights) > 0])
        # The costs of one site of either cloud: by the triangle inequality no cost between the others is more
        # than three times as large, nine times where distances are squared.
        i, j = (np.asarray(weights).argmax() for weights in (a, b))
        check_costs(float(_largest_of_pair(self, a, b, i, j)), self.epsilon, self.dtype)

    def prepared(self, a: Array, b: Array, rows: bool, columns: bool) -> tuple["PointCloud", Array, Array]:
        cloud = replaced(self, frame=_frame(self.x, self.y, a, b))
        constant = jax.lax.stop_gradient(cloud)

        def finite(cloud: PointCloud, weights: Array, others: Array) -> Array:
            return (weights > 0) | jnp.isfinite(cloud._map(lambda cost: reductions.largest(cost, others)))

        good_x, good_y = jax.lax.cond(
            jnp.all(a > 0) & jnp.all(b > 0),
            lambda: (jnp.ones_like(a, bool), jnp.ones_like(b, bool)),
            lambda: (finite(constant, a, b), finite(constant.T, b, a)),
        )
        x = jnp.where(good_x[:, None], self.x, heaviest(a, self.x)[None, :])
        y = jnp.where(good_y[:, None], self.y, heaviest(b, self.y)[None, :])
        cloud = replaced(cloud, x=x, y=y)
        constant = jax.lax.stop_gradient(cloud)
        u, v = offsets(
            lambda g: constant._map(lambda cost: reductions.lowest(cost, g)),
            lambda f: constant.T._map(lambda cost: reductions.lowest(cost, f)),
            a, b, rows, columns,
        )  # fmt: skip
        total = (u, v) if self.offsets is None else (u + self.offsets[0], v + self.offsets[1])
        return replaced(cloud, offsets=total), u, v

    def largest_cost(self, a: Array, b: Array) -> Array:
        constant = jax.lax.stop_gradient(self)
        largest = constant._map(lambda cost: reductions.largest(cost, b))
        return jnp.max(jnp.where(a > 0, largest, 0))

    def cost_rows(self, start: Any) -> Array:
        rows = start + jnp.arange(self.tile_rows)
        x, u = (jnp.take(z, rows, axis=0, mode="clip") for z in (self.x, self._row_offsets))
        return self._costs(x, u)

    def cost_matrix(self) -> Array:
        return self._costs(self.x, self._row_offsets)

    def precomputed(self) -> AbstractGeometry:
        if not self.fits:
            return self
        return CostMatrix(self.cost_matrix(), self.epsilon)

    def _map(self, reduce: Callable, *rows: Array) -> Array:
        """`reduce(cost, *rows)` for the rows of the cost matrix, in tiles unless it is a single one."""
        if self.fits:
            return reduce(self.cost_matrix(), *rows)
        return reductions.map_rows(
            lambda x, u, *rows: reduce(self._costs(x, u), *rows),
            self.tile_rows, self.x, self._row_offsets, *rows,
        )  # fmt: skip

    @property
    def _row_offsets(self) -> Array:
        return jnp.zeros_like(self.x[:, 0]) if self.offsets is None else self.offsets[0]

    def _costs(self, x: Array, u: Array) -> Array:
        """The costs between some sources and all targets, less offsets; derivatives store the points only."""
        cost = eqx.combine(self.cost_parameters, self.cost_function)
        if isinstance(cost, str):
            frame = _frame(self.x, self.y) if self.frame is None else self.frame
            costs = jax.checkpoint(_COSTS[cost])(x, self.y, *frame)
        else:
            pair = (lambda s, t: cost(t, s)) if self.transposed else cost
            costs = jax.checkpoint(jax.vmap(jax.vmap(pair, (None, 0)), (0, None)))(x, self.y)
        if self.offsets is None:
            return costs
        return costs - u[:, None] - self.offsets[1][None, :]


@eqx.filter_jit
def _largest_of_pair(cloud: PointCloud, a: Array, b: Array, i: Any, j: Any) -> Array:
    """The largest cost of source `i` or target `j`."""
    row = replaced(cloud, x=cloud.x[i][None, :]).largest_cost(a[i][None], b)
    column = replaced(cloud, y=cloud.y[j][None, :]).largest_cost(a, b[j][None])
    return jnp.maximum(row, column)


def _frame(x: Array, y: Array, a: Array | None = None, b: Array | None = None) -> tuple[Array, Array]:
    """A point (d,) in the midst of those with weight and the length from there to the farthest."""
    x, y = jax.lax.stop_gradient((x, y))
    there = jnp.ones(y.shape[0], bool) if b is None else b > 0
    here = jnp.ones(x.shape[0], bool) if a is None else a > 0
    share = 1 / jnp.maximum(jnp.sum(there), 1).astype(y.dtype)
    middle = jnp.sum(jnp.where(there[:, None], y, 0) * share, axis=0)
    lengths = [
        jnp.max(jnp.where(present[:, None], jnp.abs(points - middle[None, :]), 0))
        for points, present in ((x, here), (y, there))
    ]
    length = jnp.maximum(*lengths)
    return middle, jnp.where((length > 0) & jnp.isfinite(length), length, 1)


def _squared_euclidean(x: Array, y: Array, middle: Array, length: Array) -> Array:
    if x.shape[1] <= _FEW_COORDINATES:
        return _sum_over_coordinates(jnp.square, x, y)
    # |x|^2 + |y|^2 - 2 x.y loses digits to the distance from the origin, so take it from the middle.
    x, y = x - middle[None, :], y - middle[None, :]
    return jnp.sum(x**2, axis=1)[:, None] + jnp.sum(y**2, axis=1)[None, :] - 2 * _products(x, y)


def _euclidean(x: Array, y: Array, middle: Array, length: Array) -> Array:
    # From differences in any dimension: the root would amplify the rounding errors of products.  Squares of
    # numbers about one stay in the range of the dtype.
    return root(_sum_over_coordinates(lambda d: jnp.square(d / length), x, y)) * length


def _manhattan(x: Array, y: Array, middle: Array, length: Array) -> Array:
    return _sum_over_coordinates(absolute, x, y)


def _cosine(x: Array, y: Array, middle: Array, length: Array) -> Array:
    return 1 - _products(_directions(x), _directions(y))


_COSTS = {
    "squared_euclidean": _squared_euclidean,
    "euclidean": _euclidean,
    "manhattan": _manhattan,
    "cosine": _cosine,
}

# Up to here differences are as fast as a matrix product.
_FEW_COORDINATES = 8


def _sum_over_coordinates(term: Callable, x: Array, y: Array) -> Array:
    """`sum_k term(x_ik - y_jk)`, a few coordinates at a time, so that no (n, m, d) array arises."""
    term = jax.checkpoint(lambda s, t, term=term: term(s[:, None] - t[None, :]))

    def add(total: Array, coordinates: tuple[Array, Array]) -> tuple[Array, None]:
        return total + term(*coordinates), None

    start = jnp.zeros((x.shape[0], y.shape[0]), x.dtype)
    return jax.lax.scan(add, start, (x.T, y.T), unroll=min(_FEW_COORDINATES, x.shape[1]))[0]


def _products(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


def _directions(x: Array) -> Array:
    """Unit vectors; zero, with derivative zero, for zero vectors."""
    # Scaled first: squares of large or small coordinates would leave the range of float32.
    x = safe_divide(x, jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=1, keepdims=True)))
    return safe_divide(x, root(jnp.sum(x**2, axis=1, keepdims=True)))


def _as_points(name: str, points: Any) -> Array:
    array = as_real(name, points, finite=False)
    if array.ndim != 2 or 0 in array.shape:
        advice = " (one coordinate: give it as (n, 1))" if array.ndim == 1 else ""
        raise ValueError(
            f"`{name}` must hold n >= 1 points with d >= 1 coordinates, shape (n, d), "
            f"but has shape {array.shape}{advice}."
        )
    return array


def _check_directions(name: str, points: Any) -> None:
    if not np.all(np.any(points, axis=1)):
        raise ValueError(
            f"`{name}` contains a zero vector, which has no angle: the cosine cost needs others."
        )


def _check_function(cost: Any, x: Array, y: Array) -> None:
    if not callable(cost):
        raise TypeError(f"`cost` must be a name or a function c(x, y), but is {cost!r}.")
    point = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    result = eqx.filter_eval_shape(cost, point, point)
    shape, dtype = getattr(result, "shape", None), getattr(result, "dtype", None)
    if shape != ():
        came = f"shape {shape}" if shape is not None else f"{type(result).__name__}"
        raise ValueError(
            f"`cost` must return a scalar for two points of shape {point.shape}, but returned {came}; "
            "it is called with one point of each cloud, not with all."
        )
    if dtype != x.dtype:
        raise TypeError(
            f"`cost` must return the points' dtype {x.dtype}, but returned {dtype}; convert its result."
        )

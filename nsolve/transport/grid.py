"""Costs between the points of tensor grids, summed axis by axis."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from .._arrays import is_traced
from .._vectors import absolute
from . import _reductions as reductions
from . import geometry
from .geometry import AbstractGeometry, as_epsilon, as_real, check_costs, offsets, replaced


class Grid(AbstractGeometry):
    """Images and volumes: a tensor grid with a cost that is a sum over its axes, `sum_k c_k(x_k, y_k)`.

    * `axes`: for each axis the coordinates of its points, arrays (n_k,), finite.  Weights and potentials have
      the grid's shape (n_1, ..., n_d).
    * `target_axes`: those of the targets, arrays (m_k,), where they live on another grid.
    * `cost`: `"squared_euclidean"` (`(s - t)^2` on each axis), `"manhattan"` (`|s - t|`, with derivative zero
      where coordinates coincide), a function c(s, t) of two scalars, or a sequence with one of these for each
      axis.
    * `epsilon`: the weight of the entropy, in the units of the cost, positive.

    It holds the costs along each axis, small matrices (n_k, m_k), differentiable like `epsilon`: build it
    inside the function that is differentiated in `axes`.  float32 or float64.

    A sum over N points takes O(N (n_1 + ... + n_d)) exponentials, not O(N^2), in the log domain: it never
    underflows, however small `epsilon`.  Memory is O(N) and a tile.

    Raises `ValueError` for axes that are not finite or do not match, a cost function that does not return a
    scalar, an `epsilon` that is not positive (`solve`: or too small for the dtype); `TypeError` for complex
    coordinates and costs of another dtype.
    """

    costs: tuple[Array, ...]
    epsilon: Array

    def __init__(
        self,
        axes: Sequence[ArrayLike],
        target_axes: Sequence[ArrayLike] | None = None,
        cost: str | Callable | Sequence[str | Callable] = "squared_euclidean",
        *,
        epsilon: ArrayLike,
    ):
        sources = _as_axes("axes", axes)
        targets = sources if target_axes is None else _as_axes("target_axes", target_axes)
        if len(sources) != len(targets):
            raise ValueError(f"`axes` has {len(sources)} axes and `target_axes` {len(targets)}.")
        kinds = [cost] * len(sources) if isinstance(cost, str) or callable(cost) else list(cost)
        if len(kinds) != len(sources):
            raise ValueError(f"`cost` has {len(kinds)} entries for {len(sources)} axes; give one for each.")
        dtype = np.result_type(*(axis.dtype for axis in (*sources, *targets)))
        self.costs = tuple(
            _axis_costs(kind, s.astype(dtype), t.astype(dtype))
            for kind, s, t in zip(kinds, sources, targets, strict=True)
        )
        self.epsilon = as_epsilon(epsilon, dtype)

    @property
    def source_shape(self) -> tuple[int, ...]:
        return tuple(c.shape[0] for c in self.costs)

    @property
    def target_shape(self) -> tuple[int, ...]:
        return tuple(c.shape[1] for c in self.costs)

    @property
    def dtype(self) -> np.dtype:
        return self.epsilon.dtype

    @property
    def T(self) -> "Grid":
        return replaced(self, costs=tuple(c.T for c in self.costs))

    def softmin(self, g: Array, b: Array) -> Array:
        scale, mass, _ = self._sum(self.epsilon, g, b, jnp.zeros((b.size, 0), b.dtype))
        return -self.epsilon * jnp.log(mass) - scale

    def apply(self, f: Array, g: Array, a: Array, b: Array, v: Array) -> Array:
        columns = v[:, None] if v.ndim == 1 else v
        scale, _, sums = self._sum(self.epsilon, g, b, b[:, None] * columns)
        result = (a * _exp(self.epsilon, f + scale, a))[:, None] * sums
        return result[:, 0] if v.ndim == 1 else result

    def squares(self, f: Array, g: Array, a: Array, b: Array, v: Array) -> Array:
        # The square of the plan is the plan of half the epsilon and squared weights.
        half = self.epsilon / 2
        scale, _, sums = self._sum(half, g, b, (b * b * v)[:, None])
        return a * a * _exp(half, f + scale, a) * sums[:, 0]

    def transport_cost(self, f: Array, g: Array, a: Array, b: Array) -> Array:
        scale, _, sums = self._sum(self.epsilon, g, b, jnp.zeros((b.size, 1), b.dtype), paid=True)
        return jnp.sum(a * _exp(self.epsilon, f + scale, a) * sums[:, 0])

    def check(self, a: Array, b: Array) -> None:
        check_costs(float(eqx.filter_jit(Grid.largest_cost)(self, a, b)), self.epsilon, self.dtype)

    def prepared(self, a: Array, b: Array, rows: bool, columns: bool) -> tuple["Grid", Array, Array]:
        # offsets axis by axis, so that the costs remain a sum over the axes
        heavy = zip(_lines(a, self.source_shape), _lines(b, self.target_shape), strict=True)
        pairs = [
            offsets(
                lambda g, c=c: reductions.lowest(c, g),
                lambda f, c=c: reductions.lowest(c, f, axis=0),
                lines.astype(c.dtype), columns_.astype(c.dtype), rows, columns,
            )
            for c, (lines, columns_) in zip(jax.lax.stop_gradient(self.costs), heavy, strict=True)
        ]  # fmt: skip
        costs = tuple(c - u[:, None] - v[None, :] for c, (u, v) in zip(self.costs, pairs, strict=True))
        u, v = (_sum_of_axes(side) for side in zip(*pairs, strict=True))
        return replaced(self, costs=costs), u, v

    def largest_cost(self, a: Array, b: Array) -> Array:
        top, bottom = jnp.zeros((), self.dtype), jnp.zeros((), self.dtype)
        heavy = zip(_lines(a, self.source_shape), _lines(b, self.target_shape), strict=True)
        for cost, (rows, columns) in zip(jax.lax.stop_gradient(self.costs), heavy, strict=True):
            both = rows[:, None] & columns[None, :]
            top = top + jnp.max(jnp.where(both, cost, -jnp.inf))
            bottom = bottom + jnp.min(jnp.where(both, cost, jnp.inf))
        return jnp.maximum(jnp.abs(top), jnp.abs(bottom))

    def cost_rows(self, start: Any) -> Array:
        last = self.shape[0] - 1
        return self._rows(jnp.minimum(start + jnp.arange(self.tile_rows), last))

    def cost_matrix(self) -> Array:
        return self._rows(jnp.arange(self.shape[0]))

    def precomputed(self) -> "Grid":
        return self

    def _rows(self, rows: Array) -> Array:
        total = jnp.zeros((rows.shape[0], 1), self.dtype)
        for cost, index in zip(self.costs, jnp.unravel_index(rows, self.source_shape), strict=True):
            total = (total[:, :, None] + cost[index][:, None, :]).reshape(rows.shape[0], -1)
        return total

    def _sum(
        self, epsilon: Array, g: Array, weights: Array, columns: Array, paid: bool = False
    ) -> tuple[Array, Array, Array]:
        """`scale` (n,), `mass` (n,) and `sums` (n, k) such that, with `K_ij = exp((g_j - C_ij) / epsilon)`,

            sum_j weights_j K_ij = mass_i exp(scale_i / epsilon),
            sum_j columns_jk K_ij = sums_ik exp(scale_i / epsilon).

        The `weights` (m,) alone decide the scale: signs and zeros of the `columns` (m, k) do no harm.  The
        two are kept apart, so that JAX can tell that the sums are linear in the columns and transpose them.
        `paid`: add those over `weights_j C_ij K_ij` to the sums.
        """
        d = len(self.costs)
        parts = [x.reshape(*self.target_shape, *x.shape[1:]) for x in (g, weights, columns)]
        for axis, cost in enumerate(self.costs):
            parts = [jnp.moveaxis(x, axis, d - 1) for x in parts]
            lines = parts[0].shape[:-1]
            parts = [x.reshape(math.prod(lines), *x.shape[d - 1 :]) for x in parts]
            parts = _sum_lines(cost, epsilon, *parts, paid)
            parts = [jnp.moveaxis(x.reshape(*lines, *x.shape[1:]), d - 1, axis) for x in parts]
        scale, mass, sums = (x.reshape(self.shape[0], *x.shape[d:]) for x in parts)
        return scale, mass, sums


def _lines(weights: Array, shape: tuple[int, ...]) -> list[Array]:
    """For each axis, which of its coordinates have any weight, arrays (n_k,)."""
    heavy = weights.reshape(shape) > 0
    return [jnp.any(heavy, axis=tuple(j for j in range(len(shape)) if j != k)) for k in range(len(shape))]


def _sum_of_axes(parts: Sequence[Array]) -> Array:
    """`sum_k parts[k][i_k]` at all points of a grid, flat."""
    total = parts[0]
    for part in parts[1:]:
        total = (total[:, None] + part[None, :]).reshape(-1)
    return total


def _exp(epsilon: Array, exponent: Array, weights: Array) -> Array:
    """`exp(exponent / epsilon)`, to be multiplied by the weights."""
    return jnp.exp(jnp.minimum(exponent / epsilon, reductions.bound(weights)))


def _sum_lines(
    cost: Array, epsilon: Array, scale: Array, weights: Array, columns: Array, paid: bool
) -> tuple[Array, Array, Array]:
    """Sum each line of a grid over one axis: (lines, m), (lines, m), (lines, m, k), m becomes n."""

    def reduce(scale: Array, weights: Array, columns: Array) -> tuple[Array, Array, Array]:
        measure = jax.lax.stop_gradient(weights)
        logs = epsilon * jnp.log(measure)
        logs = jnp.where(jnp.any(measure > 0, axis=1, keepdims=True), logs, 0)  # a line may be empty
        largest = jax.lax.stop_gradient(jnp.max((scale + logs)[:, None, :] - cost[None], axis=-1))
        exponent = (scale[:, None, :] - cost[None] - largest[:, :, None]) * (1 / epsilon)
        terms = jnp.exp(jnp.minimum(exponent, reductions.bound(measure)[:, None, :]))
        sums = _product(terms, columns)
        if paid:
            sums = sums + _product(terms * cost[None], weights)[..., None]
        return largest, _product(terms, weights), sums

    tile = max(1, geometry.TILE // cost.size)
    if scale.shape[0] <= tile:
        return reduce(scale, weights, columns)
    return reductions.map_rows(reduce, tile, scale, weights, columns)


def _product(terms: Array, values: Array) -> Array:
    """`sum_j terms_lij values_lj...`."""
    return jnp.einsum("lij,lj...->li...", terms, values, precision=jax.lax.Precision.HIGHEST)


def _as_axes(name: str, axes: Any) -> list[Array]:
    """The coordinates along each axis."""
    if getattr(axes, "ndim", None) == 1 or not len(axes):
        raise ValueError(
            f"`{name}` must be a sequence with one array of coordinates for each axis of the grid."
        )
    arrays = [as_real(f"{name}[{k}]", axis) for k, axis in enumerate(axes)]
    for k, array in enumerate(arrays):
        if array.ndim != 1 or array.size == 0:
            raise ValueError(f"`{name}[{k}]` must be an array (n,) with n >= 1, but has shape {array.shape}.")
    return arrays


def _axis_costs(kind: Any, s: Array, t: Array) -> Array:
    """The matrix of one axis' costs."""
    if isinstance(kind, str):
        if kind not in _COSTS:
            raise ValueError(
                f"`cost` is {kind!r}; a grid has {', '.join(map(repr, _COSTS))} or a function c(s, t) of two "
                "scalars.  Costs that are not sums over axes need a `PointCloud`."
            )
        return _COSTS[kind](s[:, None] - t[None, :])
    if not callable(kind):
        raise TypeError(f"`cost` must be a name or a function c(s, t), but is {kind!r}.")
    costs: Any = jax.vmap(jax.vmap(kind, (None, 0)), (0, None))(s, t)
    if jnp.shape(costs) != (s.size, t.size):
        raise ValueError(
            f"`cost` must return a scalar for two scalars, but returned shape {jnp.shape(costs)[2:]}."
        )
    if costs.dtype != s.dtype:
        raise TypeError(
            f"`cost` must return the coordinates' dtype {s.dtype}, but returned {costs.dtype}; "
            "convert its result."
        )
    if not is_traced(costs) and not bool(jnp.all(jnp.isfinite(costs))):
        raise ValueError("`cost` returned NaN or infinity; it must be finite.")
    return costs


_COSTS = {"squared_euclidean": jnp.square, "manhattan": absolute}

"""Costs between the points of tensor grids, summed axis by axis."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from ..operators.finite_volumes import is_traced
from . import _reductions as reductions
from . import geometry
from .geometry import AbstractGeometry, as_epsilon, as_real, check_costs, replaced


class Grid(AbstractGeometry):
    """Images and volumes: a tensor grid with a cost that is a sum over its axes, `sum_k c_k(x_k, y_k)`.

    * `axes`: for each axis the coordinates of its points, arrays (n_k,).  Weights and potentials have the
      grid's shape (n_1, ..., n_d).
    * `target_axes`: those of the targets, arrays (m_k,), where they live on another grid.
    * `cost`: `"squared_euclidean"` (`(s - t)^2` on each axis), `"manhattan"` (`|s - t|`), a function c(s, t)
      of two scalars, or a sequence with one of these for each axis.
    * `epsilon`: the weight of the entropy, in the units of the cost, positive.

    It holds the costs along each axis, small matrices (n_k, m_k), differentiable like `epsilon`: build it
    inside the function that is differentiated in `axes`.  float32 or float64.

    A sum over N points takes O(N (n_1 + ... + n_d)) exponentials, not O(N^2), in the log domain: it never
    underflows, however small `epsilon`.  Memory is O(N) and a tile.

    Raises `ValueError` for axes that are not finite or do not match, a cost function that does not return a
    scalar, an `epsilon` that is not positive or too small for the dtype; `TypeError` for complex coordinates
    and costs of another dtype.
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
        dtype = jnp.result_type(*sources, *targets)
        self.costs = tuple(
            _axis_costs(kind, s.astype(dtype), t.astype(dtype))
            for kind, s, t in zip(kinds, sources, targets, strict=True)
        )
        self.epsilon = as_epsilon(epsilon, dtype)
        check_costs(self.largest_cost(), epsilon, dtype)

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
        scale, sums = self._sum(self.epsilon, g, b[:, None])
        return -self.epsilon * jnp.log(sums[:, 0]) - scale

    def apply(self, f: Array, g: Array, a: Array, b: Array, v: Array) -> Array:
        columns = v[:, None] if v.ndim == 1 else v
        channels = jnp.concatenate([b[:, None], b[:, None] * columns], axis=1)
        scale, sums = self._sum(self.epsilon, g, channels)
        result = (a * _exp(self.epsilon, f + scale, a))[:, None] * sums[:, 1:]
        return result[:, 0] if v.ndim == 1 else result

    def squares(self, f: Array, g: Array, a: Array, b: Array, v: Array) -> Array:
        # The square of the plan is the plan of half the epsilon and squared weights.
        half = self.epsilon / 2
        scale, sums = self._sum(half, g, jnp.stack([b, b * b * v], axis=1))
        return a * a * _exp(half, f + scale, a) * sums[:, 1]

    def transport_cost(self, f: Array, g: Array, a: Array, b: Array) -> Array:
        scale, sums = self._sum(self.epsilon, g, jnp.stack([b, jnp.zeros_like(b)], axis=1), paid=True)
        return jnp.sum(a * _exp(self.epsilon, f + scale, a) * sums[:, 1])

    def largest_cost(self) -> Array:
        costs = jax.lax.stop_gradient(self.costs)
        return jnp.maximum(jnp.abs(sum(map(jnp.max, costs))), jnp.abs(sum(map(jnp.min, costs))))

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

    def _sum(self, epsilon: Array, g: Array, weights: Array, paid: bool = False) -> tuple[Array, Array]:
        """`scale` (n,), `sums` (n, k): `sum_j w_jk exp((g_j - C_ij)/epsilon) = sums_ik exp(scale_i/epsilon)`.

        The first of the `weights` (m, k) is that of the measure: it decides the scale, so that signs and
        zeros of the others do no harm.  `paid`: let the second sum have the weights `w_j0 C_ij`.
        """
        scale = g.reshape(self.target_shape)
        sums = weights.reshape(*self.target_shape, -1)
        for axis, cost in enumerate(self.costs):
            scale, sums = jnp.moveaxis(scale, axis, -1), jnp.moveaxis(sums, axis, -2)
            lines = scale.shape[:-1]
            scale, sums = _sum_lines(
                cost,
                epsilon,
                scale.reshape(-1, *scale.shape[-1:]),
                sums.reshape(-1, *sums.shape[-2:]),
                paid,
            )
            scale = jnp.moveaxis(scale.reshape(*lines, -1), -1, axis)
            sums = jnp.moveaxis(sums.reshape(*lines, *sums.shape[-2:]), -2, axis)
        return scale.reshape(-1), sums.reshape(scale.size, -1)


def _exp(epsilon: Array, exponent: Array, weights: Array) -> Array:
    """`exp(exponent / epsilon)`, to be multiplied by the weights."""
    return jnp.exp(jnp.minimum(exponent / epsilon, reductions.bound(weights)))


def _sum_lines(cost: Array, epsilon: Array, scale: Array, sums: Array, paid: bool) -> tuple[Array, Array]:
    """Sum each line of a grid over one axis: (lines, m) and (lines, m, k) to (lines, n) and (lines, n, k)."""

    def reduce(scale: Array, sums: Array) -> tuple[Array, Array]:
        weights = jax.lax.stop_gradient(sums[..., 0])
        logs = epsilon * jnp.log(weights)
        logs = jnp.where(jnp.any(weights > 0, axis=1, keepdims=True), logs, 0)  # a line may be empty
        largest = jax.lax.stop_gradient(jnp.max((scale + logs)[:, None, :] - cost, axis=-1))
        exponent = (scale[:, None, :] - cost - largest[:, :, None]) * (1 / epsilon)
        terms = jnp.exp(jnp.minimum(exponent, reductions.bound(weights)[:, None, :]))
        totals = _product(terms, sums)
        if paid:
            totals = totals.at[..., 1].add(_product(terms * cost, sums[..., :1])[..., 0])
        return largest, totals

    tile = max(1, geometry.TILE // cost.size)
    if scale.shape[0] <= tile:
        return reduce(scale, sums)
    return reductions.map_rows(reduce, tile, scale, sums)


def _product(terms: Array, sums: Array) -> Array:
    """`sum_j terms_lij sums_ljk`."""
    return jnp.einsum("lij,ljk->lik", terms, sums, precision=jax.lax.Precision.HIGHEST)


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


_COSTS = {"squared_euclidean": jnp.square, "manhattan": jnp.abs}

"""Interpolation between grids, one axis at a time or two at once.

Along an axis of `n` points every second one is kept: those with odd indices, so that every dropped
point has a kept one or a wall on each side, for even `n` as well as for odd.  A periodic axis of
odd length keeps the even indices instead; two kept points then meet at its seam.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ..._arrays import cut, namespace, padded


class AxisInterpolation(eqx.Module):
    """Interpolation `P` along one axis: `m` kept points to `n`.

    The `j`-th dropped point lies between the kept points `j - 1` and `j` and takes `left[j]` and
    `right[j]` of their values; the `j`-th kept point takes `centre[j]` of its own.  `left` and
    `right` have as many entries along the axis as `split` gives, `centre` has `m` or 1; along other
    axes they broadcast.
    """

    left: Array
    centre: Array
    right: Array
    axis: int = eqx.field(static=True)
    size: int = eqx.field(static=True)
    periodic: bool = eqx.field(static=True)

    def prolong(self, coarse: Array) -> Array:
        """`P x`."""
        axis, n = self.axis, self.size
        below, above = around(coarse, axis, n, self.periodic)
        between = self.left * below + self.right * above
        return joined(self.centre * coarse, between, axis, n, self.periodic)

    def restrict(self, fine: Array) -> Array:
        """`P^T x`."""
        kept, between = split(fine, self.axis, self.periodic)
        return self.centre * kept + gathered(self.left * between, self.right * between, self.axis, kept)


class PlaneInterpolation(eqx.Module):
    """Interpolation `P` along both axes of a plane: `m x m'` kept points to `n x n'`.

    Points between two kept ones along one axis take `left` and `right` of their values, `along` for each
    axis; those in the middle of four take `corners`, by the sides along both axes.  Arrays have as many
    entries as `split` gives along the axes on which a point lies between.
    """

    along: tuple[tuple[Array, Array], tuple[Array, Array]]
    corners: tuple[tuple[Array, Array], tuple[Array, Array]]
    size: tuple[int, int] = eqx.field(static=True)
    periodic: tuple[bool, bool] = eqx.field(static=True)

    def prolong(self, coarse: Array) -> Array:
        """`P x`."""
        (n, m), (wraps, across) = self.size, self.periodic
        sides = around(coarse, 0, n, wraps)
        pairs = [around(side, 1, m, across) for side in sides]
        first = sum(w * side for w, side in zip(self.along[0], sides, strict=True))
        second = sum(w * side for w, side in zip(self.along[1], around(coarse, 1, m, across), strict=True))
        middle = sum(
            w * corner
            for weights, pair in zip(self.corners, pairs, strict=True)
            for w, corner in zip(weights, pair, strict=True)
        )
        kept = joined(coarse, second, 1, m, across)
        return joined(kept, joined(first, middle, 1, m, across), 0, n, wraps)

    def restrict(self, fine: Array) -> Array:
        """`P^T x`."""
        wraps, across = self.periodic
        rows, between = split(fine, 0, wraps)
        (kept, second), (first, middle) = (split(part, 1, across) for part in (rows, between))
        # What each row between two kept ones gives to the one below it, and to the one above.
        to_below, to_above = (
            weight * first + gathered(left * middle, right * middle, 1, first)
            for weight, (left, right) in zip(self.along[0], self.corners, strict=True)
        )
        left, right = self.along[1]
        rest = gathered(left * second, right * second, 1, kept)
        return kept + rest + gathered(to_below, to_above, 0, kept)


def kept_size(n: int, periodic: bool) -> int:
    """Points that coarsening keeps along an axis."""
    return (n + 1) // 2 if periodic else n // 2


def coarser(shape: tuple[int, ...], axes: tuple[int, ...], periodic: tuple[bool, ...]) -> tuple[int, ...]:
    """A grid's shape once the given axes are halved."""
    return tuple(kept_size(n, periodic[k]) if k in axes else n for k, n in enumerate(shape))


def split(x: Any, axis: int, periodic: bool) -> tuple[Any, Any]:
    """Kept points, `m` of them, and the points before, between and after these.

    Of the latter there are `m + 1`, or `m` where the last point of the axis is kept.  A periodic
    axis repeats its first between-point at the end, or adds zeros at the two sides of its seam.
    """
    n = x.shape[axis]
    even, odd = cut(x, axis, 0, n, 2), cut(x, axis, 1, n, 2)
    if periodic and n % 2:
        return even, padded(odd, axis, 1, 1)
    if n % 2:
        return odd, even
    if periodic:
        return odd, namespace(x).concatenate([even, cut(even, axis, 0, 1)], axis)
    return odd, even


def lower(x: Any, axis: int, m: int) -> Any:
    """What lies below each of the `m` kept points."""
    return cut(x, axis, 0, m)


def upper(x: Any, axis: int, m: int) -> Any:
    """What lies above each of the `m` kept points; zero above the last of an axis."""
    above = cut(x, axis, 1, x.shape[axis])
    return above if above.shape[axis] == m else padded(above, axis, 0, 1)


def fitted(x: Any, shape: tuple[int, ...]) -> Any:
    """Cut, or padded with zeros, at the ends of its axes."""
    for axis, n in enumerate(shape):
        if x.shape[axis] > n:
            x = cut(x, axis, 0, n)
        elif x.shape[axis] < n:
            x = padded(x, axis, 0, n - x.shape[axis])
    return x


def around(kept: Any, axis: int, size: int, periodic: bool) -> tuple[Any, Any]:
    """The kept points below and above each of the between-points of an axis of `size` points."""
    m = kept.shape[axis]
    if not periodic and size % 2:
        return padded(kept, axis, 1, 0), padded(kept, axis, 0, 1)
    if not periodic:
        return padded(cut(kept, axis, 0, m - 1), axis, 1, 0), kept
    first, last = cut(kept, axis, 0, 1), cut(kept, axis, m - 1, m)
    xp = namespace(kept)
    return xp.concatenate([last, kept], axis), xp.concatenate([kept, first], axis)


def gathered(to_below: Any, to_above: Any, axis: int, kept: Any) -> Any:
    """What between-points give to the kept points on their two sides."""
    m = kept.shape[axis]
    return lower(to_above, axis, m) + upper(to_below, axis, m)


def joined(kept: Any, between: Any, axis: int, n: int, periodic: bool) -> Array:
    """Kept points and those between them in their order: the inverse of `split`."""
    if periodic and n % 2:
        return cut(_interleave(kept, cut(between, axis, 1, kept.shape[axis] + 1), axis), axis, 0, n)
    if n % 2:
        return cut(_interleave(between, padded(kept, axis, 0, 1), axis), axis, 0, n)
    return _interleave(lower(between, axis, kept.shape[axis]), kept, axis)


def _interleave(even: Array, odd: Array, axis: int) -> Array:
    # On CPUs several times faster than zero-stuffing pads, strided updates or gathers.
    shape = list(even.shape)
    shape[axis] *= 2
    return jnp.stack([even, odd], axis + 1).reshape(shape)

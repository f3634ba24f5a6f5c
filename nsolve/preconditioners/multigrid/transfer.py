"""Interpolation between grids, one axis at a time or all at once.

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


class BoxInterpolation(eqx.Module):
    """Interpolation `P` along all axes at once, from the kept points at the corners of boxes.

    A point takes of the kept ones around it by their directions from it, -1, 0 or 1 along each axis;
    `weights[direction]` has as many entries as `split` gives along the axes on which points lie between, and
    kept ones along the others. A kept point takes itself.
    """

    weights: dict[tuple[int, ...], Array]
    size: tuple[int, ...] = eqx.field(static=True)
    periodic: tuple[bool, ...] = eqx.field(static=True)

    def prolong(self, coarse: Array) -> Array:
        """`P x`."""
        return self._prolonged({(): coarse}, 0)

    def restrict(self, fine: Array) -> Array:
        """`P^T x`."""
        return self._restricted(fine, ())

    def _prolonged(self, corners: dict[tuple[int, ...], Array], axis: int) -> Array:
        """Kept points by their direction along the first axes, at one place there; fine along the others."""
        if axis == len(self.size):
            terms = [self._weighted(direction, x) for direction, x in corners.items()]
            return sum(terms[1:], start=terms[0])
        n, wraps = self.size[axis], self.periodic[axis]
        kept = {(*direction, 0): x for direction, x in corners.items()}
        between = {
            (*direction, side): y
            for direction, x in corners.items()
            for side, y in zip((-1, 1), around(x, axis, n, wraps), strict=True)
        }
        return joined(self._prolonged(kept, axis + 1), self._prolonged(between, axis + 1), axis, n, wraps)

    def _restricted(self, fine: Array, direction: tuple[int, ...]) -> Array:
        """What fine points at one place along the first axes give to the kept ones in a direction there."""
        axis = len(direction)
        if axis == len(self.size):
            return self._weighted(direction, fine)
        kept, between = split(fine, axis, self.periodic[axis])
        own, below, above = (
            self._restricted(part, (*direction, side))
            for part, side in ((kept, 0), (between, -1), (between, 1))
        )
        return own + gathered(below, above, axis, own)

    def _weighted(self, direction: tuple[int, ...], x: Array) -> Array:
        return self.weights[direction] * x if any(direction) else x


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

"""Interpolation between grids, one axis at a time.

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
        axis, n, m = self.axis, self.size, coarse.shape[self.axis]
        below, above = _extended(coarse, axis, self.periodic, n % 2)
        between = self.left * below + self.right * above
        kept = self.centre * coarse
        if self.periodic and n % 2:
            return cut(_interleave(kept, cut(between, axis, 1, m + 1), axis), axis, 0, n)
        if n % 2:
            return cut(_interleave(between, padded(kept, axis, 0, 1), axis), axis, 0, n)
        return _interleave(lower(between, axis, m), kept, axis)

    def restrict(self, fine: Array) -> Array:
        """`P^T x`."""
        kept, between = split(fine, self.axis, self.periodic)
        m = kept.shape[self.axis]
        to_above = lower(self.right * between, self.axis, m)
        return to_above + self.centre * kept + upper(self.left * between, self.axis, m)


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


def _extended(coarse: Array, axis: int, periodic: bool, odd: int) -> tuple[Array, Array]:
    """The kept neighbours below and above each of the between-points."""
    m = coarse.shape[axis]
    if not periodic and odd:
        return padded(coarse, axis, 1, 0), padded(coarse, axis, 0, 1)
    if not periodic:
        return padded(cut(coarse, axis, 0, m - 1), axis, 1, 0), coarse
    first, last = cut(coarse, axis, 0, 1), cut(coarse, axis, m - 1, m)
    return jnp.concatenate([last, coarse], axis), jnp.concatenate([coarse, first], axis)


def _interleave(even: Array, odd: Array, axis: int) -> Array:
    # On CPUs several times faster than zero-stuffing pads, strided updates or gathers.
    shape = list(even.shape)
    shape[axis] *= 2
    return jnp.stack([even, odd], axis + 1).reshape(shape)

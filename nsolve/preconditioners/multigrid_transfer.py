"""Interpolation between grids, one axis at a time.

Along an axis of `n` points every second one is kept: those with odd indices, so that every dropped
point has a kept one or a wall on each side, for even `n` as well as for odd.  A periodic axis of
odd length keeps the even indices instead; two kept points then meet at its seam.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


class AxisInterpolation(eqx.Module):
    """Interpolation `P` along one axis: `m` kept points to `n`.

    The `j`-th dropped point lies between the kept points `j - 1` and `j` and takes `left[j]` and
    `right[j]` of their values; the `j`-th kept point takes `centre[j]` of its own.  `left` and
    `right` have `m + 1` entries along the axis (see `split`), `centre` has `m` or 1; along other
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
        below, above = _extended(coarse, axis, self.periodic)
        between = self.left * below + self.right * above
        kept = self.centre * coarse
        if self.periodic and n % 2:
            return cut(_interleave(kept, cut(between, axis, 1, m + 1), axis), axis, 0, n)
        if n % 2:
            return cut(_interleave(between, padded(kept, axis, 0, 1), axis), axis, 0, n)
        return _interleave(cut(between, axis, 0, m), kept, axis)

    def restrict(self, fine: Array) -> Array:
        """`P^T x`."""
        kept, between = split(fine, self.axis, self.periodic)
        m = kept.shape[self.axis]
        return (
            _head(self.right, self.axis, m) * _head(between, self.axis, m)
            + self.centre * kept
            + _tail(self.left, self.axis, m) * _tail(between, self.axis, m)
        )


def kept_size(n: int, periodic: bool) -> int:
    """Points that coarsening keeps along an axis."""
    return (n + 1) // 2 if periodic else n // 2


def split(x: Any, axis: int, periodic: bool) -> tuple[Any, Any]:
    """Kept points, `m` of them, and the `m + 1` points before, between and after these.

    A periodic axis repeats its first between-point at the end.  Points that do not exist are zero.
    """
    n = x.shape[axis]
    even, odd = cut(x, axis, 0, n, 2), cut(x, axis, 1, n, 2)
    if periodic and n % 2:
        return even, padded(odd, axis, 1, 1)
    if n % 2:
        return odd, even
    if periodic:
        return odd, namespace(x).concatenate([even, cut(even, axis, 0, 1)], axis)
    return odd, padded(even, axis, 0, 1)


def namespace(x: Any):
    """NumPy or JAX: host arrays stay on the host, where nothing needs to be compiled."""
    return np if isinstance(x, np.ndarray) else jnp


def cut(x: Any, axis: int, start: int, stop: int, step: int = 1) -> Any:
    """A slice along one axis."""
    if isinstance(x, np.ndarray):
        return x[(slice(None),) * axis + (slice(start, stop, step),)]
    return jax.lax.slice_in_dim(x, start, stop, step, axis)


def padded(x: Any, axis: int, below: int, above: int) -> Any:
    """Zeros before and after one axis."""
    if isinstance(x, np.ndarray):
        return np.pad(x, [(below, above) if k == axis else (0, 0) for k in range(x.ndim)])
    widths = [(below, above, 0) if k == axis else (0, 0, 0) for k in range(x.ndim)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), widths)


def _extended(coarse: Array, axis: int, periodic: bool) -> tuple[Array, Array]:
    """The kept neighbours below and above each of the `m + 1` between-points."""
    m = coarse.shape[axis]
    if not periodic:
        return padded(coarse, axis, 1, 0), padded(coarse, axis, 0, 1)
    first, last = cut(coarse, axis, 0, 1), cut(coarse, axis, m - 1, m)
    return jnp.concatenate([last, coarse], axis), jnp.concatenate([coarse, first], axis)


def _interleave(even: Array, odd: Array, axis: int) -> Array:
    # On CPUs several times faster than zero-stuffing pads, strided updates or gathers.
    shape = list(even.shape)
    shape[axis] *= 2
    return jnp.stack([even, odd], axis + 1).reshape(shape)


def _head(x: Array, axis: int, m: int) -> Array:
    return x if x.shape[axis] == 1 else cut(x, axis, 0, m)


def _tail(x: Array, axis: int, m: int) -> Array:
    return x if x.shape[axis] == 1 else cut(x, axis, 1, m + 1)

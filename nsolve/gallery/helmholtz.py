"""Helmholtz's equation: indefinite systems, from waves."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, ArrayLike

from ..operators import StencilLinearOperator
from ._checks import broadcasts, grid_shape, positive, positive_integer, real_dtype, widths
from ._draw import Key
from .grids import combined
from .problem import LinearProblem, with_normal_vector


def helmholtz(
    key: Key,
    shape: Sequence[int],
    waves: ArrayLike = 4.3,
    slowness: ArrayLike = 1.0,
    damping: ArrayLike = 0.0,
    dtype: Any = None,
) -> LinearProblem:
    """`-laplace(u) - (1 - i damping) k^2 u` on the unit cube with `k = 2 pi waves slowness`, zero on the
    walls.

    `2d + 1` points on the interior points of one to three axes.  `waves` is the number of wavelengths along
    an axis, each of which takes some ten points to be resolved; `slowness` (the medium) and `damping` are
    numbers or arrays of the grid's shape. All three may be traced.

    Without damping real, symmetric and indefinite, singular where `k^2` meets an eigenvalue of `poisson`.
    With `damping` complex and symmetric, not Hermitian (waves `u exp(i omega t)` then decay): a constant one
    is the shifted Laplacian (Erlangga, Vuik & Oosterlee 2004, doi:10.1016/j.apnum.2004.01.009), one that
    grows towards the walls, a `sponge`, lets waves leave.  The right-hand side's entries are N(0, 1) in both
    parts.
    """
    shape, dtype = grid_shape(shape), real_dtype(dtype)
    positive(waves, "waves", or_zero=True)
    positive(slowness, "slowness", single=False)
    positive(damping, "damping", or_zero=True, single=False)
    broadcasts(slowness, shape, "slowness")
    broadcasts(damping, shape, "damping")
    laplacian = StencilLinearOperator.poisson(shape, widths(None, shape), dtype)
    medium = slowness if isinstance(slowness, int | float) else jnp.asarray(slowness, dtype)
    k = 2 * math.pi * waves * medium
    shift = jnp.asarray(-(k**2), dtype)
    if not (isinstance(damping, int | float) and damping == 0):
        shift = jax.lax.complex(*jnp.broadcast_arrays(shift, -shift * jnp.asarray(damping, dtype)))
    operator = combined(laplacian, 1, shift, lx.symmetric_tag)
    return with_normal_vector(operator, key, {"wave_number": jnp.asarray(k, dtype)})


def sponge(shape: Sequence[int], width: int, strength: ArrayLike = 1.0, dtype: Any = None) -> Array:
    """A layer along all walls that absorbs waves, as the `damping` of `helmholtz`: zero inside, and growing
    quadratically over the last `width` points up to `strength` at the wall.

    One or two wavelengths wide it sends little back: with 12 points a wavelength, `width=18`.  `strength` may
    be traced.
    """
    shape, dtype = grid_shape(shape), real_dtype(dtype)
    width = positive_integer(width, "width")
    positive(strength, "strength", or_zero=True)
    depth = np.zeros(shape)
    for axis, n in enumerate(shape):
        near = np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1))  # points to the wall
        along = np.maximum(1 - near / (width + 1), 0) ** 2
        others = [k for k in range(len(shape)) if k != axis]
        depth = np.maximum(depth, np.expand_dims(along, others))
    return jnp.asarray(strength, dtype) * jnp.asarray(depth, dtype)

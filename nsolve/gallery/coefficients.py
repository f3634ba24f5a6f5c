"""Coefficients of diffusion: one positive number in each cell of a grid."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._arrays import is_traced
from ._checks import grid_shape, positive, positive_integer, real_dtype, static_positive
from ._checks import probability as check_probability
from ._draw import Key, normal, uniform
from .fields import along_axes, gaussian_field


def lognormal(
    key: Key,
    shape: Sequence[int],
    sigma: ArrayLike = 1.0,
    covariance: str = "gaussian",
    length: float = 0.1,
    dtype: Any = None,
) -> Float[Array, "..."]:
    """`exp(sigma g)` with a Gaussian field `g` of mean 0 and variance 1: the uneven ground of porous flow.

    `covariance` of `g`: `"gaussian"` (smooth), `"exponential"` (rough) or `"white"` (independent cells), with
    the correlation length `length` in units of the unit cube's side; see `gaussian_field`, whose costs and
    sources are these.  So the logarithm has the standard deviation `sigma` at each cell, the mean is
    `exp(sigma^2 / 2)`, and the median 1.

    `sigma` may be traced; `shape`, `covariance` and `length` are static.
    """
    positive(sigma, "sigma", or_zero=True)
    g = gaussian_field(key, shape, covariance, length, dtype)
    if isinstance(g, np.ndarray):
        return np.exp(np.asarray(sigma, g.dtype) * g)  # pyright: ignore[reportReturnType]
    return jnp.exp(jnp.asarray(sigma, g.dtype) * g)


def lognormal_contrast(
    key: Key,
    shape: Sequence[int],
    contrast: ArrayLike = 1e4,
    length: float = 0.1,
    dtype: Any = None,
) -> Float[Array, "..."]:
    """`exp(g)` whose largest value is `contrast` times the smallest, whatever was drawn, and their product 1.

    `g` is affine in a periodic Gaussian field with the covariance `exp(-r^2 / (2 length^2))` (summed over the
    periods), `length` in units of the unit cube's side.  Not lognormal, since each draw is stretched; for a
    benchmark whose difficulty must not depend on luck.  `contrast`, at least 1, may be traced; `length` is
    static, and at most 1.  Costs a dense product an axis.
    """
    shape, dtype = grid_shape(shape), real_dtype(dtype)
    positive(contrast, "contrast")
    if not is_traced(contrast) and np.asarray(contrast) < 1:
        raise ValueError(f"`contrast` must be at least 1 (largest over smallest), but is {contrast}.")
    length = static_positive(length, "length")
    if length > 1:
        raise ValueError(f"`length` must be at most 1, the period, or nothing varies, but is {length}.")
    if math.prod(shape) == 1:
        raise ValueError(f"`shape` is {shape}: one cell has no contrast.")
    noise = normal(key, shape, dtype)
    waves = [2 * np.pi * np.fft.fftfreq(n, d=1 / n) for n in shape]
    if isinstance(noise, np.ndarray):
        square = sum(np.meshgrid(*(k**2 for k in waves), indexing="ij"))
        g = np.fft.ifftn(np.fft.fftn(noise) * np.exp(-(length**2) * square / 4)).real
        low, high = g.min(), g.max()
        return np.exp(np.log(contrast) * ((g - low) / (high - low) - 0.5)).astype(dtype)  # pyright: ignore
    # The same filter as circulant matrices, for the reason that `along_axes` gives.
    columns = [np.fft.ifft(np.exp(-(length**2) * k**2 / 4)).real for k in waves]
    g = along_axes([c[(np.arange(len(c))[:, None] - np.arange(len(c))) % len(c)] for c in columns], noise)
    low, high = jnp.min(g), jnp.max(g)
    return jnp.exp(jnp.log(jnp.asarray(contrast, dtype)) * ((g - low) / (high - low) - 0.5))


def blocks(
    key: Key,
    shape: Sequence[int],
    size: int = 8,
    contrast: ArrayLike = 1e3,
    probability: ArrayLike = 0.5,
    dtype: Any = None,
) -> Float[Array, "..."]:
    """Blocks of `size` cells along each axis: `contrast` in a block with `probability`, else 1,
    independently.

    The last blocks are cut where `size` does not divide the grid. `contrast` (positive, also below 1) and
    `probability` may be traced; `shape` and `size` are static.
    """
    shape, dtype = grid_shape(shape), real_dtype(dtype)
    size = positive_integer(size, "size")
    positive(contrast, "contrast")
    check_probability(probability, "probability")
    chosen = uniform(key, tuple(math.ceil(n / size) for n in shape), dtype)
    xp = np if isinstance(chosen, np.ndarray) else jnp
    return _two_values(_enlarged(chosen < xp.asarray(probability, dtype), shape, size), contrast, dtype)


def checkerboard(
    shape: Sequence[int], size: int = 8, contrast: ArrayLike = 1e3, dtype: Any = None
) -> Float[Array, "..."]:
    """Blocks of `size` cells along each axis, in turn 1 (the first) and `contrast`.

    Where four blocks meet, solutions are as singular as the contrast is large (Kellogg 1974,
    doi:10.1080/00036817408839086).  `contrast` (positive, also below 1) may be traced.
    """
    shape, dtype = grid_shape(shape), real_dtype(dtype)
    size = positive_integer(size, "size")
    positive(contrast, "contrast")
    number = sum(np.meshgrid(*(np.arange(n) // size for n in shape), indexing="ij"))
    return _two_values(jnp.asarray(number % 2 == 1), contrast, dtype)


def _enlarged(values: Any, shape: tuple[int, ...], size: int) -> Any:
    for axis, n in enumerate(shape):
        values = values.repeat(size, axis)[(slice(None),) * axis + (slice(n),)]
    return values


def _two_values(chosen: Any, contrast: ArrayLike, dtype: Any) -> Any:
    if isinstance(chosen, np.ndarray):
        return np.where(chosen, contrast, 1).astype(dtype)
    return jnp.where(chosen, jnp.asarray(contrast, dtype), jnp.ones((), dtype))

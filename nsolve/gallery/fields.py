"""Random functions on the cells of the unit cube: stationary Gaussian fields, the fields that neural
operators are tested with, and Chebyshev polynomials."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ._checks import choice, grid_shape, real_dtype, static_positive
from ._draw import Key, normal

COVARIANCES = ("gaussian", "exponential", "white")

#: Of an embedding's spectrum, the share that may be negative and is cut: as much as the covariances are off.
_CUT = 1e-5
_LARGEST = 50_000_000


def gaussian_field(
    key: Key,
    shape: Sequence[int],
    covariance: str = "gaussian",
    length: float = 0.1,
    dtype: Any = None,
) -> Float[Array, "..."]:
    """A stationary Gaussian field of mean 0 and variance 1 at the centres of the cells of the unit cube.

    Its covariance at a distance `r` is, with `length` in units of the cube's side,

    * `"gaussian"`: `exp(-r^2 / (2 length^2))`, smooth;
    * `"exponential"`: `exp(-r / length)`, continuous, and nowhere differentiable;
    * `"white"`: zero; all cells are independent (`length` has no meaning, and is not looked at).

    These laws are exact, walls included: Gaussian covariances are products over the axes, of which square
    roots are taken; exponential ones are embedded in a periodic covariance on a larger grid, whose spectrum
    is sampled (Dietrich & Newsam 1997, doi:10.1137/S1064827592240555), on a grid that grows until no more
    than 1e-5 of the spectrum is negative. A `length` for which there is no such grid is a ValueError.

    `shape`: one to three axes; `dtype`: float32 or float64, JAX's default if None. Legal under `jit` and
    `vmap` in a JAX `key`. Costs a dense product an axis, for exponential covariances on a grid at least twice
    as fine along each axis; the tables are made once, on the host.
    """
    shape, dtype = grid_shape(shape), real_dtype(dtype)
    choice(covariance, "covariance", COVARIANCES)
    if covariance == "white":
        return normal(key, shape, dtype)  # pyright: ignore[reportReturnType]
    length = static_positive(length, "length")
    if covariance == "gaussian":
        return along_axes([_gaussian_root(n, length) for n in shape], normal(key, shape, dtype))
    deviations = _exponential_deviations(shape, length)
    modes = normal(key, deviations.shape, dtype) * deviations.astype(dtype)
    return along_axes([_hartley(n, m) for n, m in zip(shape, deviations.shape, strict=True)], modes)


def along_axes(matrices: Sequence[np.ndarray], values: Any) -> Any:
    """Each axis of an array times a matrix, in the array's precision."""
    # As products with matrices: XLA's Fourier transforms on a CPU wait on the very threads that are to do
    # their work, and two at a time, as in a batch of problems, can wait for ever.
    host = isinstance(values, np.ndarray)
    xp: Any = np if host else jnp
    precision = {} if host else {"precision": "highest"}
    for axis, matrix in enumerate(matrices):
        product = xp.tensordot(matrix.astype(values.dtype), values, (1, axis), **precision)
        values = xp.moveaxis(product, 0, axis)
    return values


@functools.lru_cache(maxsize=16)
def _gaussian_root(n: int, length: float) -> np.ndarray:
    """`R` with `R R^T` the covariance of the cells' centres along an axis."""
    x = (np.arange(n) + 0.5) / n
    values, vectors = np.linalg.eigh(np.exp(-((x[:, None] - x) ** 2) / (2 * length**2)))
    return vectors * np.sqrt(np.maximum(values, 0))


@functools.lru_cache(maxsize=4)
def _exponential_deviations(shape: tuple[int, ...], length: float) -> np.ndarray:
    """Standard deviations of the modes of a periodic field that has the covariance inside of the cube."""
    for factor in (2, 3, 4, 6, 8, 12, 16):
        padded = tuple(factor * n for n in shape)
        if math.prod(padded) > _LARGEST:
            break
        lags = [np.minimum(np.arange(m), m - np.arange(m)) / n for n, m in zip(shape, padded, strict=True)]
        square = sum(lag**2 for lag in np.meshgrid(*lags, indexing="ij"))
        spectrum = np.fft.fftn(np.exp(-np.sqrt(square) / length)).real
        if -spectrum[spectrum < 0].sum() <= _CUT * spectrum.sum():
            return np.sqrt(np.maximum(spectrum, 0))
    raise ValueError(
        f"`length` is {length:g}, too long for exact samples of the exponential covariance on the grid "
        f"{shape}: use a shorter one (up to 1 in two dimensions, 0.4 in three; less where the grid is large)."
    )


@functools.lru_cache(maxsize=16)
def _hartley(n: int, m: int) -> np.ndarray:
    """The first `n` rows of the orthonormal real Fourier transform on `m` points, which diagonalises whatever
    is periodic and even."""
    angles = 2 * np.pi / m * (np.outer(np.arange(n), np.arange(m)) % m)
    return (np.cos(angles) + np.sin(angles)) / math.sqrt(m)


def gaussian_random_field(
    key: PRNGKeyArray, shape: tuple[int, ...], alpha: float = 2.5, tau: float = 7.0
) -> Array:
    """A Gaussian field of mean zero on the cells' centres of the unit cube, real, of shape `shape`.

    Its covariance is `tau^(2 alpha - d) (-laplace + tau^2)^(-alpha)` with Neumann walls and without the
    constant mode, `d` the number of axes: the field that neural operators are commonly tested with (Li et
    al., *Fourier neural operator*, arXiv:2010.08895). `alpha > d / 2` is the smoothness, `1 / tau` the
    correlation length. In the plane the variance at a point is about `1 / (4 pi (alpha - 1))`, whatever
    `tau`.

    Costs a dense product an axis. Legal under `jit` and `vmap` in `key`.
    """
    shape = grid_shape(shape)
    deviations = jnp.asarray(_mode_deviations(shape, float(alpha), float(tau)))
    modes = deviations * jax.random.normal(key, shape)
    # The orthonormal cosine transform, up to sqrt(cells), evaluates functions of unit L2 norm.
    return along_axes([_cosines(n) for n in shape], modes) * math.sqrt(math.prod(shape))


@functools.lru_cache(maxsize=16)
def _cosines(n: int) -> np.ndarray:
    """The matrix of the inverse orthonormal cosine transform."""
    values = np.cos(np.pi / n * np.outer(np.arange(n) + 0.5, np.arange(n))) * math.sqrt(2 / n)
    values[:, 0] = math.sqrt(1 / n)
    return values


@functools.lru_cache(maxsize=16)
def _mode_deviations(shape: tuple[int, ...], alpha: float, tau: float) -> np.ndarray:
    """Standard deviations of the cosine modes' coefficients."""
    if not alpha > len(shape) / 2:
        raise ValueError(f"`alpha` must exceed half the number of axes, {len(shape) / 2}, but is {alpha}.")
    if not tau > 0:
        raise ValueError(f"`tau` must be positive, but is {tau}.")
    waves = np.meshgrid(*(np.pi * np.arange(n) for n in shape), indexing="ij")
    eigenvalues = sum(wave**2 for wave in waves) + tau**2
    deviations = tau ** (alpha - len(shape) / 2) * eigenvalues ** (-alpha / 2)
    deviations[(0,) * len(shape)] = 0
    return deviations


def chebyshev_coefficients(key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
    """Random coefficients of products of Chebyshev polynomials, falling as 1 / (1 + total degree)."""
    degree = sum(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    return jax.random.normal(key, shape) / (1.0 + degree)


def chebyshev_values(coefficients: Array, size: int) -> Array:
    """The polynomial with these coefficients at the centres of `size` cells along each axis."""
    return along_axes([_chebyshev_basis(count, size) for count in coefficients.shape], coefficients)


@functools.lru_cache(maxsize=16)
def _chebyshev_basis(count: int, size: int) -> np.ndarray:
    points = 2 * (np.arange(size) + 0.5) / size - 1
    return np.polynomial.chebyshev.chebvander(points, count - 1)

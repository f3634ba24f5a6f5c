"""Random functions on the unit square: Gaussian fields and Chebyshev polynomials."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray


def gaussian_random_field(
    key: PRNGKeyArray, shape: tuple[int, ...], alpha: float = 2.5, tau: float = 7.0
) -> Array:
    """A Gaussian field of mean zero on the cells' centres of the unit cube, real, of shape `shape`.

    Its covariance is `tau^(2 alpha - d) (-laplace + tau^2)^(-alpha)` with Neumann walls and without the
    constant mode, `d` the number of axes: the field that neural operators are commonly tested with (Li et
    al., *Fourier neural operator*, arXiv:2010.08895). `alpha > d / 2` is the smoothness, `1 / tau` the
    correlation length. In the plane the variance at a point is about `1 / (4 pi (alpha - 1))`, whatever
    `tau`.

    Costs a dense product an axis.
    """
    deviations = jnp.asarray(_mode_deviations(tuple(shape), float(alpha), float(tau)))
    modes = deviations * jax.random.normal(key, shape)
    # The orthonormal cosine transform, up to sqrt(cells), evaluates functions of unit L2 norm.  As products
    # with matrices: XLA's Fourier transforms on a CPU wait on the very threads that are to do their work,
    # and two at a time, as in a batch of problems, can wait for ever.
    for axis, n in enumerate(shape):
        cosines = jnp.asarray(_cosines(n), modes.dtype)
        modes = jnp.moveaxis(jnp.tensordot(cosines, modes, axes=(1, axis), precision="highest"), 0, axis)
    return modes * math.sqrt(math.prod(shape))


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
    values = coefficients
    for axis in range(coefficients.ndim):
        basis = jnp.asarray(_chebyshev_basis(coefficients.shape[axis], size))
        values = jnp.moveaxis(jnp.tensordot(basis, values, (1, axis)), 0, axis)
    return values


@functools.lru_cache(maxsize=16)
def _chebyshev_basis(count: int, size: int) -> np.ndarray:
    points = 2 * (np.arange(size) + 0.5) / size - 1
    return np.polynomial.chebyshev.chebvander(points, count - 1)

"""Clouds of points, densities and costs: what optimal transport moves, and what bridges and flows are trained
on.

Draws from a distribution are `sampler(key, n) -> (n, d)`: legal under `jit` and `vmap` in a JAX key.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ._checks import positive_integer, real_dtype, static_positive
from ._draw import Key, generator, normal, split, uniform

#: Mean and standard deviation along each axis.
Normal = Sequence[tuple[float, float]]


class Assignment(NamedTuple):
    """Costs `(n, n)` and the weights of rows and columns, `(n,)`; also their batch, with a leading axis."""

    cost: Any
    a: Any
    b: Any


class Clouds(NamedTuple):
    """Two clouds of points `(n, d)` with weights `(n,)` that sum to 1."""

    x: Any
    y: Any
    a: Any
    b: Any


class Densities(NamedTuple):
    """Two densities at the points `(n^d, d)` of a grid on the unit cube, in C order: weights that sum to
    1."""

    points: np.ndarray
    a: np.ndarray
    b: np.ndarray


def assignment(key: Key, size: int, dtype: Any = None) -> Assignment:
    """Random assignment: costs uniform on (0, 1), scaled so that the largest is 1, and equal weights.

    Of the sharp problem's cost it is known that it tends to `pi^2 / 6 / size` (Aldous 2001,
    doi:10.1002/rsa.1015).
    """
    size, dtype = positive_integer(size, "size"), real_dtype(dtype)
    cost = uniform(key, (size, size), dtype)
    weights = np.full(size, 1 / size, dtype)
    return Assignment(cost / cost.max(), weights, weights)


def cube_and_normal(key: Key, size: int, dim: int = 3, dtype: Any = None) -> Clouds:
    """`size` points uniform in the unit cube of `dim` dimensions, and as many of N(1/2, 0.2^2) along each
    axis, with equal weights."""
    size, dim = positive_integer(size, "size"), positive_integer(dim, "dim")
    dtype = real_dtype(dtype)
    first, second = split(key, 2)
    x = uniform(first, (size, dim), dtype)
    y = 0.5 + 0.2 * normal(second, (size, dim), dtype)
    weights = np.full(size, 1 / size, dtype)
    return Clouds(x, y, weights, weights)


def gaussian_densities(
    size: int,
    first: Normal = ((0.45, 0.07),),
    second: Normal = ((0.55, 0.055),),
) -> Densities:
    """Two normal densities at the points of a grid, `size` an axis with both ends of the unit interval among
    them, in float64.

    `first`, `second`: mean and standard deviation along each axis.  `gaussian_transport` knows what transport
    between them costs.
    """
    _check_normals(first, second)
    points = grid_points(size, len(first))
    return Densities(points, *(_density(size, normals) for normals in (first, second)))


def grid_points(size: int, dim: int) -> np.ndarray:
    """The points `(size^dim, dim)` of a grid on the unit cube with points on its walls, in C order."""
    axis = np.linspace(0, 1, positive_integer(size, "size"))
    dim = positive_integer(dim, "dim")
    return np.stack(np.meshgrid(*[axis] * dim, indexing="ij"), axis=-1).reshape(-1, dim)


def gaussian_transport(first: Normal, second: Normal, epsilon: float) -> tuple[float, float]:
    """The least `<C, P>` between two normal distributions with axes along the coordinates', `C` the squared
    Euclidean distances, and the least `<C, P> + epsilon KL(P | a x b)`.

    `first`, `second`: mean and standard deviation along each axis.  Janati, Muzellec, Peyré & Cuturi (2020),
    arXiv:2006.02572, theorem 1, with `epsilon = 2 sigma^2`.
    """
    _check_normals(first, second)
    epsilon = static_positive(epsilon, "epsilon")
    axes = [_along_axis(p, q, epsilon) for p, q in zip(first, second, strict=True)]
    return sum(sharp for sharp, _ in axes), sum(whole for _, whole in axes)


def digits(key: Key, side: int = 28) -> tuple[np.ndarray, np.ndarray]:
    """Two different handwritten digits as weights `(side^2,)` that sum to 1, with a background of 1 % of the
    largest value, in float64.

    The images are the 8 x 8 ones that come with scikit-learn (Alpaydin & Kaynak 1998,
    doi:10.24432/C50P49), interpolated; the background as in Altschuler, Weed & Rigollet (2017),
    arXiv:1705.09634.  Drawn on the host.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError(
            "`nsolve.gallery.clouds.digits` needs scikit-learn, which is not installed: "
            "pip install 'nsolve[peers]' (or scikit-learn alone)."
        ) from None
    from scipy.ndimage import zoom

    side = positive_integer(side, "side", least=8)
    images = np.asarray(load_digits().images)
    weights = []
    for image in images[generator(key).choice(len(images), 2, replace=False)]:
        ink = np.clip(zoom(image, side / image.shape[0]), 0, None).ravel()
        ink = ink + 0.01 * ink.max()
        weights.append(ink / ink.sum())
    return weights[0], weights[1]


def standard_normal(key: PRNGKeyArray, n: int) -> Float[Array, "n 2"]:
    """The standard normal distribution of the plane."""
    return jax.random.normal(key, (n, 2))


def eight_gaussians(key: PRNGKeyArray, n: int) -> Float[Array, "n 2"]:
    """Eight equal clusters on a circle of radius 2, each of the standard deviation 0.15."""
    which, noise = jax.random.split(key)
    angle = jax.random.randint(which, (n,), 0, 8).astype(jnp.result_type(float)) * (jnp.pi / 4)
    centre = 2 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    return centre + 0.15 * jax.random.normal(noise, (n, 2))


def moons(key: PRNGKeyArray, n: int) -> Float[Array, "n 2"]:
    """Two half circles of radius 1.5 that reach into each other, with normal noise of 0.1."""
    along, which, noise = jax.random.split(key, 3)
    angle = jnp.pi * jax.random.uniform(along, (n,))
    sign = jnp.where(jax.random.bernoulli(which, shape=(n,)), 1, -1)
    arc = sign[:, None] * jnp.stack([jnp.cos(angle) - 0.5, jnp.sin(angle) - 0.25], -1)
    return 1.5 * arc + 0.1 * jax.random.normal(noise, (n, 2))


def swiss_roll(key: PRNGKeyArray, n: int) -> Float[Array, "n 2"]:
    """A spiral of a turn and a half, of radius 0.8 to 2.4, with normal noise of 0.1."""
    along, noise = jax.random.split(key)
    angle = 1.5 * jnp.pi * (1 + 2 * jax.random.uniform(along, (n,)))
    roll = angle[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    return roll / 6 + 0.1 * jax.random.normal(noise, (n, 2))


def _check_normals(first: Normal, second: Normal) -> None:
    if len(first) != len(second) or not first:
        raise ValueError(
            f"`first` and `second` need a mean and a deviation for each axis, but have {len(first)} and "
            f"{len(second)} of them."
        )
    for name, normals in (("first", first), ("second", second)):
        for _, deviation in normals:
            static_positive(deviation, name)


def _density(size: int, axes: Normal) -> np.ndarray:
    grid = np.linspace(0, 1, size)
    density = np.ones(1)
    for mean, deviation in axes:
        density = np.outer(density, np.exp(-0.5 * ((grid - mean) / deviation) ** 2)).ravel()
    return density / density.sum()


def _along_axis(
    first: tuple[float, float], second: tuple[float, float], epsilon: float
) -> tuple[float, float]:
    (mean_a, deviation_a), (mean_b, deviation_b) = first, second
    apart, a, b, half = (mean_a - mean_b) ** 2, deviation_a**2, deviation_b**2, epsilon / 2
    root = np.sqrt(4 * a * b + half**2)
    covariance = (root - half) / 2
    regularised = apart + a + b - root + half * (1 - np.log(2 * half)) + half * np.log(root + half)
    return float(apart + a + b - 2 * covariance), float(regularised)

"""Distributions to draw samples from by name: the gallery's shapes in the plane, and files of points."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nsolve.gallery import clouds

from .data.arrays import read_numpy, split_array

#: `sampler(key, n)`: `n` independent draws `(n, d)`.
Sampler = Callable[[PRNGKeyArray, int], Float[Array, "n d"]]


SHAPES: dict[str, Sampler] = {
    "gaussian": clouds.standard_normal,
    "8-gaussians": clouds.eight_gaussians,
    "moons": clouds.moons,
    "swiss-roll": clouds.swiss_roll,
}


class FixedPoints(eqx.Module):
    """The rows of an array, drawn with repetition."""

    points: Float[Array, "m d"]

    def __call__(self, key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        return self.points[jax.random.randint(key, (n,), 0, self.points.shape[0])]

    @property
    def digest(self) -> str:
        """A short hash of the numbers."""
        return hashlib.sha256(np.asarray(self.points).tobytes()).hexdigest()[:16]


def sampler(name: str) -> Sampler:
    """The shape of that name, or the points in a `.npy` or `.npz` file (`file.npz:array` of several arrays).

    Raises ValueError that says what is wrong with it, and what is known."""
    if name in SHAPES:
        return SHAPES[name]
    file, array = split_array(name)
    if Path(file).suffix not in (".npy", ".npz"):
        raise ValueError(f"unknown samples {name!r}: give {', '.join(SHAPES)}, or a .npy or .npz file")
    points = read_numpy(Path(file), file, array)
    if points.ndim != 2 or 0 in points.shape:
        raise ValueError(f"{name} has shape {points.shape}, not (samples, dimension)")
    if points.dtype.kind not in "fiu":
        raise ValueError(f"{name} holds {points.dtype}, not real numbers")
    points = jnp.asarray(points, jnp.result_type(float))
    bad = np.flatnonzero(~np.isfinite(points).all(1))
    if bad.size:
        raise ValueError(f"{name} has {bad.size} rows with NaN or infinity, the first is row {bad[0]}")
    return FixedPoints(points)

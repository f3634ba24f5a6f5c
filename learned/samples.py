"""Distributions to draw samples from: shapes in the plane, and files of points."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

#: `sampler(key, n)`: `n` independent draws `(n, d)`.
Sampler = Callable[[PRNGKeyArray, int], Float[Array, "n d"]]


def gaussian(key: PRNGKeyArray, n: int) -> Float[Array, "n 2"]:
    """The standard normal distribution."""
    return jax.random.normal(key, (n, 2))


def eight_gaussians(key: PRNGKeyArray, n: int) -> Float[Array, "n 2"]:
    """Eight equal clusters on a circle of radius 2."""
    which, noise = jax.random.split(key)
    angle = jax.random.randint(which, (n,), 0, 8).astype(jnp.result_type(float)) * (jnp.pi / 4)
    centre = 2 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    return centre + 0.15 * jax.random.normal(noise, (n, 2))


def moons(key: PRNGKeyArray, n: int) -> Float[Array, "n 2"]:
    """Two half circles that reach into each other."""
    along, which, noise = jax.random.split(key, 3)
    angle = jnp.pi * jax.random.uniform(along, (n,))
    sign = jnp.where(jax.random.bernoulli(which, shape=(n,)), 1, -1)
    arc = sign[:, None] * jnp.stack([jnp.cos(angle) - 0.5, jnp.sin(angle) - 0.25], -1)
    return 1.5 * arc + 0.1 * jax.random.normal(noise, (n, 2))


def swiss_roll(key: PRNGKeyArray, n: int) -> Float[Array, "n 2"]:
    """A spiral of a turn and a half."""
    along, noise = jax.random.split(key)
    angle = 1.5 * jnp.pi * (1 + 2 * jax.random.uniform(along, (n,)))
    roll = angle[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    return roll / 6 + 0.1 * jax.random.normal(noise, (n, 2))


SHAPES: dict[str, Sampler] = {
    "gaussian": gaussian,
    "8-gaussians": eight_gaussians,
    "moons": moons,
    "swiss-roll": swiss_roll,
}


class Points(eqx.Module):
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
    file, _, array = name.partition(".npz:")
    path = Path(file + ".npz" if array else name)
    if path.suffix not in (".npy", ".npz"):
        raise ValueError(f"unknown samples {name!r}: give {', '.join(SHAPES)}, or a .npy or .npz file")
    points = _read(path, array)
    if points.ndim != 2 or 0 in points.shape:
        raise ValueError(f"{name} has shape {points.shape}, not (samples, dimension)")
    if points.dtype.kind not in "fiu":
        raise ValueError(f"{name} holds {points.dtype}, not real numbers")
    points = jnp.asarray(points, jnp.result_type(float))
    bad = np.flatnonzero(~np.isfinite(points).all(1))
    if bad.size:
        raise ValueError(f"{name} has {bad.size} rows with NaN or infinity, the first is row {bad[0]}")
    return Points(points)


def _read(path: Path, array: str) -> np.ndarray:
    try:
        content = np.load(path, allow_pickle=False)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is no file of NumPy: {error}") from None
    if isinstance(content, np.ndarray):
        return content
    with content:
        names = content.files
        if array and array not in names:
            raise ValueError(f"{path} has no array {array!r}; it has {', '.join(names) or 'none'}")
        if not array and len(names) != 1:
            raise ValueError(f"{path} has the arrays {', '.join(names) or 'none'}: name one as {path}:ARRAY")
        try:
            return content[array or names[0]]
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

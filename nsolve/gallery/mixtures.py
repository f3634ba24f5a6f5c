"""Gaussians and mixtures of them as data of diffusion models, with exact scores at every noise level.

With x = alpha x0 + sigma eps, what the best network would say of x is a closed form in (alpha, sigma) alone,
in float32 and float64.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..diffusion.denoiser import Denoiser, Prediction
from ..diffusion.schedules import AbstractSchedule, Flow
from ._checks import positive_integer, static_positive
from ._draw import Key, generator, on_host, split


class Mixture(eqx.Module):
    """A mixture of K Gaussians in D dimensions, its data x0.

    `weights` (K,) sum to 1; `means` (K, D); `variances` (K, D), or (K, 1) for isotropic ones; `basis` (D, D)
    holds in its columns the orthonormal axes of the variances, None for the coordinates'.  States are (B, D)
    or (D,).
    """

    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray
    basis: np.ndarray | None = None

    def __check_init__(self):
        count, dimension = self.means.shape
        if self.weights.shape != (count,) or self.variances.shape not in ((count, dimension), (count, 1)):
            raise ValueError(
                f"means {self.means.shape} need weights ({count},) and variances ({count}, {dimension}) or "
                f"({count}, 1), got {self.weights.shape} and {self.variances.shape}"
            )

    @property
    def dimension(self) -> int:
        return self.means.shape[1]

    def x0(self, x: Float[Array, "*B D"], alpha: Any, sigma: Any) -> Float[Array, "*B D"]:
        """The mean of the data given its noisy state x."""
        shares, offsets, variances = self._components(x, alpha, sigma)
        ndim = offsets.ndim
        shrunk = self._cast(self.means, x, ndim) + alpha * self._turned(
            self._cast(self.variances, x, ndim) / variances * offsets, back=True
        )
        return jnp.sum(shares[..., None] * shrunk, axis=-2)

    def score(self, x: Float[Array, "*B D"], alpha: Any, sigma: Any) -> Float[Array, "*B D"]:
        """The gradient of the log-density of x."""
        shares, offsets, variances = self._components(x, alpha, sigma)
        return -self._turned(jnp.sum(shares[..., None] * offsets / variances, axis=-2), back=True)

    def eps(self, x: Float[Array, "*B D"], alpha: Any, sigma: Any) -> Float[Array, "*B D"]:
        """The mean of the noise given x; no digits are lost where sigma is small."""
        return -sigma * self.score(x, alpha, sigma)

    def log_density(self, x: Float[Array, "*B D"], alpha: Any, sigma: Any) -> Float[Array, "*B"]:
        """Of the noisy state x."""
        return jax.nn.logsumexp(self._log_parts(x, alpha, sigma)[0], axis=-1)

    def draw(self, key: Key, count: int) -> Array | np.ndarray:
        """Data (count, D); in NumPy and float64 for a seed of NumPy's."""
        shape = (positive_integer(count, "count"), self.dimension)
        if on_host(key):
            rng = generator(key)
            chosen = rng.choice(len(self.weights), count, p=self.weights)
            inner = np.sqrt(self.variances[chosen]) * rng.standard_normal(shape)
            return self.means[chosen] + (inner if self.basis is None else inner @ self.basis.T)
        first, second = split(key, 2)
        noise = jax.random.normal(second, shape)
        weights, means, variances = (
            jnp.asarray(v, noise.dtype) for v in (self.weights, self.means, self.variances)
        )
        chosen = jax.random.choice(first, len(self.weights), shape[:1], p=weights)
        return means[chosen] + self._turned(jnp.sqrt(variances[chosen]) * noise, back=True)

    def _components(self, x: Array, alpha: Any, sigma: Any) -> tuple[Array, Array, Array]:
        logs, offsets, variances = self._log_parts(x, alpha, sigma)
        return jax.nn.softmax(logs, axis=-1), offsets, variances

    def _log_parts(self, x: Array, alpha: Any, sigma: Any) -> tuple[Array, Array, Array]:
        """Log-densities (..., K) of the components with their weights, offsets (..., K, D) from their means
        and variances (..., K, D), the same for all states, along the axes of the basis."""
        ndim = x.ndim + 1
        means = self._cast(self.means, x, ndim)
        offsets = self._turned(x[..., None, :] - alpha * means, back=False)
        spread = alpha**2 * self._cast(self.variances, x, ndim) + sigma**2
        variances = jnp.broadcast_to(spread, means.shape)
        logs = jnp.log(self._cast(self.weights, x, x.ndim)) - 0.5 * jnp.sum(
            offsets**2 / variances + jnp.log(2 * np.pi * variances), axis=-1
        )
        return logs, offsets, variances

    def _turned(self, x: Array, back: bool) -> Array:
        if self.basis is None:
            return x
        basis = self._cast(self.basis, x, 2)
        return x @ (basis.T if back else basis)

    @staticmethod
    def _cast(value: np.ndarray, like: Array, ndim: int) -> Array:
        """In the precision of a state, with leading axes of one for those of the states."""
        return jnp.asarray(value, like.dtype).reshape((1,) * (ndim - value.ndim) + value.shape)


class Gaussian(Mixture):
    """One Gaussian, whose samplers are linear maps.  `covariance` is basis diag(variances) basis^T."""

    def __init__(self, mean: np.ndarray, variances: np.ndarray, basis: np.ndarray | None = None):
        self.weights = np.ones(1)
        self.means = np.asarray(mean, np.float64)[None]
        self.variances = np.asarray(variances, np.float64)[None]
        self.basis = basis

    def flow(
        self, x: Float[Array, "*B D"], start: tuple[Any, Any], end: tuple[Any, Any]
    ) -> Float[Array, "*B D"]:
        """Where the probability-flow ODE carries x, from one (alpha, sigma) to another."""
        variances, mean = (self._cast(value[0], x, x.ndim) for value in (self.variances, self.means))
        before, after = (alpha**2 * variances + sigma**2 for alpha, sigma in (start, end))
        inner = self._turned(x - start[0] * mean, back=False) * jnp.sqrt(after / before)
        return end[0] * mean + self._turned(inner, back=True)


def mixture1d() -> Mixture:
    """Two Gaussians on a line: 0.4 of N(-1, 0.4^2) and 0.6 of N(0.8, 0.6^2)."""
    return Mixture(np.array([0.4, 0.6]), np.array([[-1.0], [0.8]]), np.array([[0.4], [0.6]]) ** 2)


def ring(modes: int = 8, std: float = 0.2) -> Mixture:
    """Equal Gaussians on a circle of radius 2."""
    modes, std = positive_integer(modes, "modes"), static_positive(std, "std")
    angles = 2 * np.pi * np.arange(modes) / modes
    means = 2.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Mixture(np.full(modes, 1 / modes), means, np.full((modes, 1), std**2))


def lattice(side: int = 5, std: float = 0.15) -> Mixture:
    """Equal Gaussians on a square of side x side points, a distance 1 apart."""
    side, std = positive_integer(side, "side"), static_positive(std, "std")
    points = np.arange(side) - (side - 1) / 2
    means = np.stack(np.meshgrid(points, points, indexing="ij"), axis=-1).reshape(-1, 2)
    return Mixture(np.full(side**2, 1 / side**2), means, np.full((side**2, 1), std**2))


def clusters(key: Key, dimension: int = 64, modes: int = 40, std: float = 0.4) -> Mixture:
    """Gaussians of weights in proportion to uniform numbers in (0.5, 1.5), whose means are N(0, `std^2`),
    each of the variance `std^2`: they overlap in few dimensions, and lie apart in many."""
    dimension, modes = positive_integer(dimension, "dimension"), positive_integer(modes, "modes")
    std = static_positive(std, "std")
    rng = generator(key)
    weights = rng.uniform(0.5, 1.5, modes)
    means = std * rng.standard_normal((modes, dimension))
    return Mixture(weights / weights.sum(), means, np.full((modes, 1), std**2))


def near_singular(std: float = 1e-3) -> Mixture:
    """Eight Gaussians that are almost points, like data that a network has learned by heart."""
    return ring(8, std)


def gaussian(key: Key, dimension: int = 16, low: float = 1e-4, high: float = 1e2) -> Gaussian:
    """One Gaussian with a N(0, 1) mean along axes turned at random, with variances in geometric progression
    from `low` to `high`: stiff, as images are."""
    dimension = positive_integer(dimension, "dimension")
    if not static_positive(low, "low") <= static_positive(high, "high"):
        raise ValueError(f"`low` must not exceed `high`, but they are {low} and {high}.")
    rng = generator(key)
    basis, _ = np.linalg.qr(rng.standard_normal((dimension, dimension)))
    return Gaussian(rng.standard_normal(dimension), np.geomspace(low, high, dimension), basis)


class ExactNetwork(eqx.Module):
    """The network that has learned a mixture by heart, called as `model(x, t)`."""

    mixture: Mixture
    schedule: AbstractSchedule
    prediction: Prediction = eqx.field(static=True)

    def __call__(self, x: Array, t: Array) -> Array:
        # A flow's network is told the shifted time, which is the noise itself.
        schedule = Flow() if isinstance(self.schedule, Flow) else self.schedule
        alpha, sigma = (value.astype(x.dtype) for value in (schedule.alpha(t), schedule.sigma(t)))
        if self.prediction == "score":
            return self.mixture.score(x, alpha, sigma)
        x0, eps = self.mixture.x0(x, alpha, sigma), self.mixture.eps(x, alpha, sigma)
        return {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "flow": eps - x0}[self.prediction]


def denoiser(mixture: Mixture, schedule: AbstractSchedule, prediction: Prediction = "eps") -> Denoiser:
    """The exact denoiser of a mixture, for `ns.diffusion.sample`: what a network tends to that has all the
    data."""
    return Denoiser(ExactNetwork(mixture, schedule, prediction), prediction, schedule)

"""Data whose every noisy marginal is known: mixtures of Gaussians, a single Gaussian among them.

With x = alpha x0 + sigma eps, what the best network would say of x is a closed form in (alpha, sigma) alone,
in float32 and float64.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


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

    def draw(self, count: int, seed: int) -> np.ndarray:
        """Data (count, D)."""
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(self.weights), count, p=self.weights)
        inner = np.sqrt(self.variances[chosen]) * rng.standard_normal((count, self.dimension))
        return self.means[chosen] + (inner if self.basis is None else inner @ self.basis.T)

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

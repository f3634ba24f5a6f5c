"""PFGM++: diffusion with heavy tails, between an electric field (D = 1) and normal noise (D -> infinity).

Data of N dimensions are seen from N + D dimensions; by symmetry only the distance r from the data's own space
counts of the other D. With r = sigma sqrt(D) everything else is EDM: the schedule, the equation dx / dsigma =
(x - x0) / sigma, and so every sampler for an `x0` prediction on `EDM`. What changes is the noise, and with it
the prior.

Xu et al., arXiv:2302.04265.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .noise import sample_keys


def pfgm_noise(
    key: PRNGKeyArray, shape: tuple[int, ...], D: float, sigma: Any = 1.0, dtype: Any = float
) -> Array:
    """Noise of PFGM++, density proportional to (|x|^2 + sigma^2 D)^(-(N + D) / 2): a multivariate Student
    distribution with D degrees of freedom.

    - With `sigma` the schedule's `t_max` these are starts for sampling; with any `sigma`, a number or one a
      sample (B,), x = y + noise is what a network is trained on.
    - `shape`: (B, ...), a batch of states; N is the size of one. `key`: one key, or one a sample (B,).

    The radius is that of the paper, r sqrt(b / (1 - b)) with b from a Beta(N / 2, D / 2) and r = sigma
    sqrt(D), in a uniform direction; computed as a normal state over the root of an independent chi-square by
    D, nothing is lost where b rounds to 1.
    """
    _check_dimension(D)
    if len(shape) == 0:
        raise ValueError("`shape` must have a batch as its first axis, got ().")

    def one(key: PRNGKeyArray) -> Array:
        direction, radius = jr.split(key)
        chi_square = 2.0 * jr.gamma(radius, 0.5 * D, dtype=dtype)
        return jr.normal(direction, shape[1:], dtype) / jnp.sqrt(chi_square / D)

    sigma = jnp.asarray(sigma, dtype)
    if sigma.ndim == 1:
        sigma = sigma.reshape(-1, *(1,) * (len(shape) - 1))
    return sigma * jax.vmap(one)(sample_keys(key, shape[0]))


class PFGMField(eqx.Module):
    """The exact field of PFGM++ for data of M points, as a network with `x0` prediction on `EDM`:

    `Denoiser(PFGMField(data, D), "x0", EDM())`. The clean state is the mean of the data under weights
    proportional to (|x - y|^2 + sigma^2 D)^(-(N + D) / 2); as D grows, under those of normal noise. Sampling
    ends in the data: it is a reference for trained networks and a test of samplers, not a generator of new
    states.

    - `data` (M, ...): the points, states of size N. `D`: the number of further dimensions, any positive
      number.

    Called with states (B, ...) and a time of shape (). Costs B M N operations and as much memory.
    """

    data: Float[Array, "M ..."]
    D: Any

    def __check_init__(self):
        _check_dimension(self.D)
        if jnp.ndim(self.data) < 1 or len(self.data) == 0:
            raise ValueError(f"`data` must be an array of points (M, ...), got shape {jnp.shape(self.data)}.")

    def __call__(self, x: Float[Array, "B ..."], t: Any) -> Float[Array, "B ..."]:
        if x.shape[1:] != self.data.shape[1:]:
            raise ValueError(
                f"`x` must hold states of the data's shape, {self.data.shape[1:]}, got {x.shape[1:]}."
            )
        flat, points = x.reshape(len(x), -1), jnp.reshape(self.data, (len(self.data), -1)).astype(x.dtype)
        squares = jnp.sum((flat[:, None, :] - points[None]) ** 2, axis=-1)
        # log1p: the power of a ratio near 1 that large D makes
        logits = -0.5 * (points.shape[1] + self.D) * jnp.log1p(squares / (t**2 * self.D))
        return (jax.nn.softmax(logits, axis=1) @ points).reshape(x.shape)


def _check_dimension(D: Any) -> None:
    if isinstance(D, float | int) and not D > 0:
        raise ValueError(f"`D` must be a positive number of dimensions, got {D}.")

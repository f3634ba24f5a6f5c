"""The light Schroedinger bridge: entropic transport between two sampled distributions, in closed form.

Among all plans with a given first marginal, entropic transport picks one of the form
`pi(y | x) ~ exp(<x, y> / epsilon) v(y)`.  With a mixture of Gaussians for `v`,

    v(y) = sum_k alpha_k N(y; r_k, epsilon S_k),

all else is a mixture of Gaussians too, on each coordinate apart from the others since `S_k` is diagonal:

    c(x) = int exp(<x, y> / epsilon) v(y) dy = sum_k alpha_k exp((<x, S_k x> + 2 <r_k, x>) / (2 epsilon))
    pi(y | x) = sum_k w_k(x) N(y; r_k + S_k x, epsilon S_k),    w_k(x) ~ the k-th term of c(x)
    drift(t, x) = sum_k w_k(t, x) (r_k + (S_k - 1) x) / D_k,    D_k = 1 - t + t S_k
    log w_k(t, x) ~ log alpha_k - log|D_k| / 2 + <(S_k - 1) x^2 + 2 r_k x - t r_k^2, 1 / D_k> / (2 epsilon)

Korotin, Gushchin & Burnaev (ICLR 2024), arXiv:2310.01174, write the drift with a division by `1 - t`, which
cancels; this form holds for all `t` from 0 to 1.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.nn import log_softmax, logsumexp, softmax
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .._vectors import root


class DiscretePlan(NamedTuple):
    """Two weighted sets of points and the entropic plan between them, all known exactly.

    In the convention of `nsolve.transport.solve` with the cost `|x - y|^2` and this `epsilon`:
    `plan_ij = a_i b_j exp((f_i + g_j - |x_i - y_j|^2) / epsilon)`, up to a constant that may move from `f` to
    `g`."""

    #: masses of `x` `(n,)` and of `y` `(m,)`
    a: Float[Array, " n"]
    b: Float[Array, " m"]
    #: potentials
    f: Float[Array, " n"]
    g: Float[Array, " m"]
    #: logarithm of the plan, `(n, m)`
    log_plan: Float[Array, "n m"]
    #: twice the epsilon of the bridge
    epsilon: float


class LightBridge(eqx.Module):
    """Schroedinger bridge whose potential is a mixture of `K` Gaussians in `d` dimensions.

    Use it to carry samples of one distribution to samples of another where no pairs are known: train it on
    `loss`, then draw `sample`s in one shot, or follow `drift` in time.  It is light: no network, and no
    simulation in training.  Since a mixture must fit the target, it suits shapes, measurements and latent
    codes, not raw images.  Built from given parameters it is a transport problem with a known answer: see
    `on_points`.

    * `log_weights`: `log alpha`, `(K,)`; they need not sum to one in `alpha`: a common factor cancels.
    * `means`: `r`, `(K, d)`.
    * `covariances`: the diagonals `S`, `(K, d)`, positive.  The covariance of a component is `epsilon S_k`.
    * `epsilon`: positive.  It belongs to the problem, not to the answer: a constant, which training keeps.

    **Noise**: the bridge is `dX = drift(t, X) dt + sqrt(epsilon) dW`, `t` from 0 to 1, and its end points
    have the plan `pi` that minimises `E |x - y|^2 / 2 + epsilon KL(pi | p0 x p1)`.  For `PointCloud` with
    `"squared_euclidean"`, which has no half, that is twice this `epsilon`.

    Methods take one point `(d,)` or any number of them `(..., d)`, and work on logarithms throughout.  Each
    costs `O(K d)` a point, in time; memory too, for what XLA does not fuse.  What is stored is `epsilon
    log alpha` and `log S`: the first has the size of the data squared for any `epsilon`, so that one learning
    rate serves all, and the second keeps `S` positive.  Wrong shapes raise ValueError, complex numbers
    TypeError; values that are not finite go through.

    Korotin, Gushchin & Burnaev (ICLR 2024), arXiv:2310.01174.
    """

    #: `epsilon log alpha`
    scaled_log_weights: Float[Array, " K"]
    means: Float[Array, "K d"]
    log_covariances: Float[Array, "K d"]
    epsilon: float = eqx.field(static=True)

    def __init__(self, log_weights: ArrayLike, means: ArrayLike, covariances: ArrayLike, epsilon: float):
        self.epsilon = _positive_epsilon(epsilon)
        numbers = [_real(n, v) for n, v in (("log_weights", log_weights), ("means", means))]
        numbers.append(_positive("covariances", covariances))
        dtype = jnp.result_type(*numbers)
        log_weights, means, covariances = (jnp.asarray(v, dtype) for v in numbers)
        if means.ndim != 2 or 0 in means.shape:
            raise ValueError(f"`means` must have shape (K, d), neither of them 0; got {means.shape}.")
        if log_weights.shape != means.shape[:1]:
            raise ValueError(
                f"`log_weights` must have shape {means.shape[:1]}, one for each row of `means`; "
                f"got {log_weights.shape}."
            )
        if covariances.shape != means.shape:
            raise ValueError(
                f"`covariances` must have the shape {means.shape} of `means`, the diagonals of S; "
                f"got {covariances.shape}."
            )
        self.scaled_log_weights = self.epsilon * log_weights
        self.means = means
        self.log_covariances = jnp.log(covariances)

    @classmethod
    def from_samples(
        cls,
        y: ArrayLike,
        num_components: int,
        epsilon: float,
        *,
        covariance: float = 0.1,
        key: PRNGKeyArray,
    ) -> "LightBridge":
        """A bridge to start training from: means at `num_components` of the samples `y` `(m, d)` of the
        target, chosen at random without repetition, and `S = covariance` everywhere.

        The weights make it carry each point to the components that are near, `alpha_k ~ exp(-|r_k|^2 /
        (2 epsilon))`; with equal ones, all points would go to the few components that are farthest out.
        """
        y = _real("y", y)
        if y.ndim != 2:
            raise ValueError(f"`y` must have shape (m, d), a sample in each row; got {y.shape}.")
        if isinstance(num_components, bool) or not isinstance(num_components, int):
            raise TypeError(f"`num_components` must be an int, not {num_components!r}.")
        if not 1 <= num_components <= y.shape[0]:
            raise ValueError(
                f"`num_components` must be from 1 to {y.shape[0]}, the number of samples; got "
                f"{num_components}."
            )
        means = jax.random.choice(key, y, (num_components,), replace=False)
        log_weights = -jnp.sum(means**2, -1) / (2 * _positive_epsilon(epsilon))
        return cls(log_weights, means, jnp.full_like(means, covariance), epsilon)

    @property
    def log_weights(self) -> Float[Array, " K"]:
        """`log alpha`, `(K,)`."""
        return self.scaled_log_weights / self.epsilon

    @property
    def covariances(self) -> Float[Array, "K d"]:
        """The diagonals `S`, `(K, d)`."""
        return jnp.exp(self.log_covariances)

    def log_potential(self, y: Float[ArrayLike, "*n d"]) -> Float[Array, "*n"]:
        """`log v(y)`."""
        y = self._points("y", y)[..., None, :]
        log_weights, means = _raised(y.ndim - 1, self.log_weights), _raised(y.ndim, self.means)
        return logsumexp(log_weights + self._log_gaussians(y - means), -1)

    def log_normaliser(self, x: Float[ArrayLike, "*n d"]) -> Float[Array, "*n"]:
        """`log c(x)`, with `c(x)` the integral of `exp(<x, y> / epsilon) v(y)`."""
        return logsumexp(self._logits(self._points("x", x)), -1)

    def loss(self, x: Float[ArrayLike, "n d"], y: Float[ArrayLike, "m d"]) -> Float[Array, ""]:
        """Mean of `log c` over samples `x` of the source less mean of `log v` over samples `y` of the target.

        Up to a constant, the Kullback-Leibler divergence from the true plan to this one.  Samples are not
        paired, and `n` may differ from `m`: minibatches of both give an unbiased gradient."""
        return jnp.mean(self.log_normaliser(x)) - jnp.mean(self.log_potential(y))

    def log_prob(self, y: Float[ArrayLike, "*n d"], x: Float[ArrayLike, "*n d"]) -> Float[Array, "*n"]:
        """`log pi(y | x)`; leading axes of `x` and `y` broadcast."""
        y, x = self._points("y", y)[..., None, :], self._points("x", x)
        rank = max(y.ndim, x.ndim + 1)
        log_weights = _raised(rank - 1, log_softmax(self._logits(x), -1))
        y, x = _raised(rank, y), _raised(rank - 1, x)
        means = _raised(rank, self.means) + _raised(rank, self.covariances) * x[..., None, :]
        return logsumexp(log_weights + self._log_gaussians(y - means), -1)

    def sample(self, x: Float[ArrayLike, "*n d"], key: PRNGKeyArray) -> Float[Array, "*n d"]:
        """One draw from `pi(y | x)` for each point, without solving the equation in time."""
        x = self._points("x", x)
        which, noise = jax.random.split(key)
        k = jax.random.categorical(which, self._logits(x), -1)
        covariances = self.covariances[k]
        z = jax.random.normal(noise, x.shape, x.dtype)
        return self.means[k] + covariances * x + jnp.sqrt(self.epsilon * covariances) * z

    def drift(self, t: ArrayLike, x: Float[ArrayLike, "*n d"], args: Any = None) -> Float[Array, "*n d"]:
        """Drift of the bridge at the times `t` from 0 to 1: one number, or one for each point.

        It is a vector field of diffrax: `MultiTerm(ODETerm(bridge.drift), ControlTerm(lambda t, x, args:
        sqrt(epsilon) * eye(d), brownian_motion))`.  It equals `(E[X_1 | X_t = x] - x) / (1 - t)`."""
        del args
        x = self._points("x", x)[..., None, :]
        t = _raised(x.ndim, jnp.asarray(t, x.dtype)[..., None, None])
        r, s = _raised(x.ndim, self.means), _raised(x.ndim, self.covariances)
        d = 1 - t + t * s
        exponents = jnp.sum((((s - 1) * x + 2 * r) * x - t * r**2) / d, -1)
        log_weights = _raised(x.ndim - 1, self.scaled_log_weights)
        logits = (log_weights + exponents / 2) / self.epsilon - jnp.sum(jnp.log(d), -1) / 2
        weights = softmax(logits, -1)[..., None]
        return jnp.sum(weights * (r + (s - 1) * x) / d, -2)

    def interpolate(
        self, x: Float[ArrayLike, "*n d"], y: Float[ArrayLike, "*n d"], t: ArrayLike, key: PRNGKeyArray
    ) -> Float[Array, "*n d"]:
        """The bridge at the times `t` given both its ends, `x` at 0 and `y` at 1: a Brownian bridge.

        With `y = sample(x)` these are draws of `X_t`, at each `t` right by itself; draws at several times of
        one call are not one path."""
        x, y = self._points("x", x), self._points("y", y)
        rank = max(x.ndim, y.ndim, jnp.ndim(t) + 1)
        x, y, t = (_raised(rank, z) for z in (x, y, jnp.asarray(t, x.dtype)[..., None]))
        mean = (1 - t) * x + t * y
        z = jax.random.normal(key, mean.shape, mean.dtype)
        return mean + root(self.epsilon * t * (1 - t)) * z

    def on_points(
        self, x: Float[ArrayLike, "n d"], y: Float[ArrayLike, "m d"], a: Float[ArrayLike, " n"] | None = None
    ) -> DiscretePlan:
        """The plan restricted to points: a discrete transport problem whose answer is known to rounding.

        From `x` with masses `a` (uniform by default) mass goes to the points `y` in proportion to
        `exp(<x, y> / epsilon) v(y)`.  The masses `b` that arrive are the second marginal; a plan of this form
        is the only entropic plan between its marginals.  Hence

            exact = bridge.on_points(x, y)
            sol = solve(PointCloud(x, y, epsilon=exact.epsilon), exact.a, exact.b)

        must find `exact.log_plan`, and `exact.f` and `exact.g` but for a constant.  Any points do; on a grid
        `y` that covers the target, `b` is the target's density.  Masses of points to which next to nothing
        goes may round to 0; their `g` is right nevertheless.  Time and memory `O(n m d + m K d)`.
        """
        x, y = self._points("x", x), self._points("y", y)
        if x.ndim != 2 or y.ndim != 2:
            raise ValueError(f"`x` and `y` must have shapes (n, d) and (m, d); got {x.shape} and {y.shape}.")
        n = x.shape[0]
        a = jnp.full(n, 1 / n, x.dtype) if a is None else jnp.asarray(_positive("a", a), x.dtype)
        if a.shape != (n,):
            raise ValueError(f"`a` must have shape {(n,)}, a mass for each row of `x`; got {a.shape}.")
        # |x - y|^2 in place of -2 <x, y>: it does not lose digits where the points are far from the origin.
        epsilon = 2 * self.epsilon
        cost = jnp.sum((x[:, None] - y[None, :]) ** 2, -1)
        heights = self.epsilon * self.log_potential(y) * 2 + jnp.sum(y**2, -1)
        f = -epsilon * logsumexp((heights[None, :] - cost) / epsilon, -1)
        log_plan = jnp.log(a)[:, None] + (f[:, None] + heights[None, :] - cost) / epsilon
        log_b = logsumexp(log_plan, 0)
        return DiscretePlan(a, jnp.exp(log_b), f, heights - epsilon * log_b, log_plan, epsilon)

    def _points(self, name: str, points: ArrayLike) -> Array:
        points = _real(name, points)
        d = self.means.shape[-1]
        if points.ndim == 0 or points.shape[-1] != d:
            raise ValueError(
                f"`{name}` must have shape (..., {d}), the dimension of the bridge last; got {points.shape}."
            )
        return points.astype(np.promote_types(points.dtype, self.means.dtype))

    def _logits(self, x: Array) -> Array:
        """Logarithms of the terms of `c(x)`, `(..., K)`."""
        x = x[..., None, :]
        means, covariances = _raised(x.ndim, self.means), _raised(x.ndim, self.covariances)
        exponents = jnp.sum((covariances * x + 2 * means) * x, -1)
        return (_raised(x.ndim - 1, self.scaled_log_weights) + exponents / 2) / self.epsilon

    def _log_gaussians(self, offsets: Array) -> Array:
        """`log N(offset; 0, epsilon S_k)` of offsets `(..., K, d)` from the centres, `(..., K)`."""
        squares = offsets**2 / (self.epsilon * _raised(offsets.ndim, self.covariances))
        log_scales = math.log(2 * math.pi * self.epsilon) + _raised(offsets.ndim, self.log_covariances)
        return -jnp.sum(squares + log_scales, -1) / 2


def _raised(rank: int, array: Array) -> Array:
    """The array with axes of length one in front, so that it broadcasts without changing rank."""
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


def _real(name: str, value: ArrayLike) -> Array:
    """`value` as an array of floating-point numbers."""
    array = jnp.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"`{name}` must be real; got {array.dtype}.")
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(jnp.result_type(float))


def _positive(name: str, value: ArrayLike) -> Array:
    """`value` as an array, checked where its numbers are known."""
    array = _real(name, value)
    if not isinstance(array, Tracer) and not bool(jnp.all((array > 0) & (array < jnp.inf))):
        raise ValueError(f"`{name}` must be positive and finite everywhere.")
    return array


def _positive_epsilon(epsilon: float) -> float:
    if isinstance(epsilon, Tracer):
        raise TypeError("`epsilon` must be a number that is known before tracing; it is no parameter.")
    if jnp.ndim(epsilon) != 0:
        raise ValueError(f"`epsilon` must be one number; got shape {jnp.shape(epsilon)}.")
    _positive("epsilon", epsilon)
    return float(epsilon)

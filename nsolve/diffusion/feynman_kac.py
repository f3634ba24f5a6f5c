"""Feynman-Kac correctors: weighted particles for products, powers and tilts of densities."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._results import AbstractSolution, Stats
from ._arrays import accumulation_dtype, in_precision_of, is_traced, namespace, on_host, weighted
from ._backward import finite_points
from ._checks import check_batch, check_key, check_state, is_finite, raise_if_failed, verdict
from .denoiser import Denoiser, clean, combine
from .noise import normal_like
from .phi import phi
from .points import Points

Reward = Callable[[Any, Any], Any]


class Particles(AbstractSolution):
    """Weighted samples: E f = sum_i exp(log_weights_i) f(value_i).

    - `value`: the samples along the leading axis. `log_weights` (n,): the logarithms of weights of sum one.
    - `log_normaliser` (): log Z(t_N) - log Z(t_0), where Z(t) is the integral of the product whose samples
      these are. The exponential is an unbiased estimate, but for the error of the steps.
    - `result`: as in a `Sample`. `stats`: `num_evaluations`, of each network; `num_resamplings`, how often
      particles were drawn anew.
    """

    value: PyTree[Array]
    log_weights: Float[Array, " n"]
    log_normaliser: Float[Array, ""]
    result: lx.RESULTS
    stats: dict[str, Any]

    @property
    def effective_size(self) -> Float[Array, ""]:
        """Of how many equally weighted samples they are worth: 1 / sum of squared weights."""
        return jnp.exp(-logsumexp(2.0 * self.log_weights))


def sample_feynman_kac(
    denoisers: Denoiser | Sequence[Denoiser],
    powers: Any,
    x_T: PyTree[Array],
    grid: Any,
    key: PRNGKeyArray | None = None,
    *,
    reward: Reward | None = None,
    threshold: Any = 0.5,
    throw: bool = True,
) -> Particles:
    r"""Samples of the product q_1(x)^{b_1} ... q_k(x)^{b_k} e^{reward(x)} of the densities of k denoisers.

    A denoiser with the summed score sum_i b_i s_i (which is what guidance does) draws from no such product
    at any time but t_max. Here the particles follow that score, and carry weights that make up for the
    difference,

        dx = (-f + g^2 sum_i b_i s_i + g^2/2 grad reward) dt + g dW,
        d log w = g^2/2 (|sum_i b_i s_i|^2 - sum_i b_i |s_i|^2) dt
                  + <grad reward, g^2/2 sum_i b_i s_i - f> dt + d_t reward.

    **Uses:** one denoiser and a power: tempered sampling from q^b. Several denoisers with powers 1: a
    product of experts. Denoisers with and without a condition, powers (w, 1 - w): what `ClassifierFree`
    with `scale=w` aims at. A reward: tilted sampling.

    **Arguments:**

    - `denoisers`: one `Denoiser` or several, of the same schedule. `powers`: a number for each, of positive
      sum.
    - `x_T` (n, ...): n particles drawn from the product at the grid's first time. There the data hardly
      matter, and it is normal noise of standard deviation sigma(t_max) / sqrt(sum of powers).
    - `grid`: as for `sample`; it must start with signal and end with noise, since the weights are an
      integral over lam = log(alpha / sigma).
    - `reward`: called as `reward(x, t)` on all particles, returns (n,); smooth, and zero at the grid's
      first time: ramp it up as a factor of t. What counts is its value at the last time.
    - `threshold`: particles are drawn anew (systematic resampling) when the effective size falls below this
      share of n: 0 never, 1 in every step.
    - `throw`: raise where a network returns NaN or infinity.

    **Returns** `Particles`. Mean values have errors of second order in the step beside those of n samples.
    Weights of high powers and of densities far apart vary much, and need many samples. Z(t_0) of the normal
    start, for states of d numbers and powers of sum b, is log Z = d/2 ((1 - b) log(2 pi sigma^2) - log b).

    Cost: N+1 evaluations of every denoiser for N steps. Differentiable in everything but the choice of
    particles in resampling, whose derivative is not part of the result. Particles depend on each other: no
    `vmap` over them.

    Skreta et al., arXiv:2503.02819. Here the equations are integrated in z = x / alpha over lam, where f
    vanishes and the weights need the noises alone: d log w = (|sum_i b_i eps_i|^2 - sum_i b_i |eps_i|^2)
    dlam, by trapezoids.
    """
    denoisers = (denoisers,) if isinstance(denoisers, Denoiser) else tuple(denoisers)
    powers = _check_powers(powers, denoisers)
    check_state(x_T)
    check_batch(x_T)
    key = check_key(key, "sample_feynman_kac")
    if key.ndim != (0 if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else 1):
        raise ValueError(f"`key` must be one key, since particles are drawn together; got shape {key.shape}.")
    if not is_traced(threshold) and not 0 <= threshold <= 1:
        raise ValueError(f"`threshold` must lie in [0, 1], got {threshold}.")
    at = finite_points(denoisers[0].schedule, grid)
    table = in_precision_of(x_T, (at.t, at.alpha, at.sigma, *_steps(at, powers)))
    powers = in_precision_of(x_T, powers)
    threshold = in_precision_of(x_T, threshold)
    particles, failed = _run(denoisers, powers, reward, table, x_T, key, threshold)
    return raise_if_failed(particles, failed, "a network or the reward", "step") if throw else particles


def _check_powers(powers: Any, denoisers: tuple[Denoiser, ...]) -> Any:
    if not denoisers or not all(isinstance(denoiser, Denoiser) for denoiser in denoisers):
        raise TypeError("`denoisers` must be a Denoiser or a sequence of them.")
    same = [eqx.tree_equal(denoiser.schedule, denoisers[0].schedule) for denoiser in denoisers]
    if not is_traced(same) and not all(same):
        raise ValueError("`denoisers` must have the same schedule.")
    powers = jnp.asarray(powers) if is_traced(powers) else on_host(jnp.asarray(powers, float))
    powers = powers[None] if powers.ndim == 0 else powers
    if powers.shape != (len(denoisers),):
        raise ValueError(
            f"`powers` must be one for each of {len(denoisers)} denoisers, got shape {powers.shape}."
        )
    if not is_traced(powers) and not powers.sum() > 0:
        raise ValueError(f"`powers` must have a positive sum, got {powers}.")
    return powers


def _steps(at: Points, powers: Any) -> tuple[Any, ...]:
    """For each step: its length in lam, and what multiplies the state, the noise, and where both are held
    fixed and where they change linearly in lam, the summed clean states and the reward's gradient."""
    # z = x / alpha: dz = 2 (sum_i b_i x0_i - b z) dlam + e^{-2 lam} grad reward dlam + e^{-lam} sqrt(2) dW.
    xp, total = namespace(at.lam, powers), powers.sum()
    h, end = xp.diff(at.lam), at[1:]
    decay = end.alpha / at[:-1].alpha * xp.exp(-2.0 * total * h)
    spread = end.sigma * xp.sqrt(2.0 * h * phi(1, (2.0 - 4.0 * total) * h))
    gains = tuple(2.0 * h * end.alpha * phi(k, -2.0 * total * h) for k in (1, 2))
    pushes = tuple(h * end.sigma**2 / end.alpha * phi(k, (2.0 - 2.0 * total) * h) for k in (1, 2))
    return h, decay, spread, gains, pushes


def _inner(x: PyTree[Array], y: PyTree[Array]) -> Array:
    """<x_i, y_i> of each particle."""
    products = [
        jnp.sum((a * b).reshape(len(a), -1), axis=1, dtype=accumulation_dtype(a.dtype))
        for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    ]
    return weighted([1.0] * len(products), products)


class _View(eqx.Module):
    """What the networks and the reward say of the particles at one time."""

    clean: PyTree[Array]  # sum_i b_i x0_i
    pull: PyTree[Array] | None  # gradient of the reward in z = x / alpha
    rate: Array  # d log w / dlam without the reward's own change

    @staticmethod
    def of(denoisers: Any, powers: Any, reward: Any, x: PyTree[Array], level: Any) -> "_View":
        t, alpha, sigma = level
        total = noise = jax.tree.map(jnp.zeros_like, x)
        squares = jnp.zeros((), sigma.dtype)
        for denoiser, power in zip(denoisers, powers, strict=True):
            x0 = clean(denoiser, x, t, alpha, sigma)
            eps = combine(1.0 / sigma, x, -alpha / sigma, x0)
            total = combine(1.0, total, power, x0)
            noise = combine(1.0, noise, power, eps)
            squares = squares + power * _inner(eps, eps).astype(squares.dtype)
        rate = _inner(noise, noise).astype(squares.dtype) - squares
        if reward is None:
            return _View(total, None, rate)
        pull = jax.tree.map(
            lambda leaf: weighted((alpha,), (leaf,)), jax.grad(lambda x: jnp.sum(reward(x, t)))(x)
        )
        return _View(total, pull, rate - sigma / alpha * _inner(pull, noise).astype(rate.dtype))


@eqx.filter_jit
def _run(
    denoisers: Any, powers: Any, reward: Any, table: Any, x_T: Any, key: Any, threshold: Any
) -> tuple[Particles, Array]:
    t, alpha, sigma, *steps = table
    count, num_steps = check_batch(x_T), len(t) - 1
    noise_key, resampling_key = jr.split(key)

    def value(x: PyTree[Array], factor: Any, t: Any) -> Array:
        result = reward(jax.tree.map(lambda leaf: weighted((factor,), (leaf,)).astype(leaf.dtype), x), t)
        if jnp.shape(result) != (count,):
            raise ValueError(f"`reward` must return shape ({count},), got {jnp.shape(result)}.")
        return result.astype(sigma.dtype)

    @jax.checkpoint
    def step(carry: Any, row: Any) -> tuple[Any, None]:
        x, view, log_weights, log_normaliser, resamplings, failed = carry
        number, start, end, (h, decay, spread, gains, pushes) = row

        def move(x: PyTree[Array], order: int, view: _View) -> PyTree[Array]:
            x = combine(1.0, x, gains[order - 1], view.clean)
            return x if view.pull is None else combine(1.0, x, pushes[order - 1], view.pull)

        moved = combine(decay, x, spread, normal_like(noise_key, number, x))
        moved = move(moved, 1, view)
        seen = _View.of(denoisers, powers, reward, moved, end)
        # The corrector: the same, with what the networks say changing linearly over the step.
        moved = move(moved, 2, jax.tree.map(jnp.subtract, seen, view))
        log_weights = log_weights + 0.5 * h * (view.rate + seen.rate)
        if reward is not None:
            growth = end[1] / start[1]
            change = value(x, growth, end[0]) - value(x, 1.0, start[0])
            change += value(moved, 1.0, end[0]) - value(moved, 1.0 / growth, start[0])
            log_weights = log_weights + 0.5 * change
        failed = jnp.where((failed < 0) & ~is_finite(moved, seen), number, failed)
        # Not at the end, where drawing anew would merely add noise.
        mass = logsumexp(log_weights)
        effective = jnp.exp(2.0 * mass - logsumexp(2.0 * log_weights))
        anew = (effective < threshold * count) & (number < num_steps)
        chosen = _systematic(jr.fold_in(resampling_key, number), jnp.exp(log_weights - mass))
        chosen = jnp.where(anew, chosen, jnp.arange(count, dtype=chosen.dtype))
        moved, seen = jax.tree.map(lambda leaf: leaf[chosen], (moved, seen))
        log_normaliser = log_normaliser + jnp.where(anew, mass - math.log(count), 0.0)
        log_weights = jnp.where(anew, 0.0, log_weights)
        return (moved, seen, log_weights, log_normaliser, resamplings + anew.astype(int), failed), None

    levels_of = (t, alpha, sigma)
    view = _View.of(denoisers, powers, reward, x_T, tuple(part[0] for part in levels_of))
    failed = jnp.where(is_finite(view), -1, 0)
    zero = jnp.zeros((), view.rate.dtype)
    carry = (x_T, view, jnp.zeros(count, view.rate.dtype), zero, jnp.asarray(0), failed)
    starts, ends = tuple(p[:-1] for p in levels_of), tuple(p[1:] for p in levels_of)
    rows = (jnp.arange(1, num_steps + 1), starts, ends, tuple(steps))
    (x, _, log_weights, log_normaliser, resamplings, failed), _ = jax.lax.scan(step, carry, rows)
    mass = logsumexp(log_weights)
    # From densities of z = x / alpha to those of x.
    size = sum(leaf[0].size for leaf in jax.tree.leaves(x_T))
    scaling = size * (1.0 - powers.sum()) * (jnp.log(alpha[-1]) - jnp.log(alpha[0]))
    log_normaliser = log_normaliser + mass - math.log(count) + scaling
    stats = Stats(num_evaluations=jnp.asarray(num_steps + 1), num_resamplings=resamplings)
    particles = Particles(
        value=x,
        log_weights=log_weights - mass,
        log_normaliser=log_normaliser,
        result=verdict(failed, x_T),
        stats=stats,
    )
    return particles, failed


def _systematic(key: PRNGKeyArray, weights: Array) -> Array:
    """As many indices as weights, each as often as its weight says, rounded up or down."""
    count = len(weights)
    positions = (jr.uniform(key, (), weights.dtype) + jnp.arange(count, dtype=weights.dtype)) / count
    return jnp.minimum(jnp.searchsorted(jnp.cumsum(weights), positions), count - 1)

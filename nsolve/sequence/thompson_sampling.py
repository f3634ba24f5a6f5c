"""Thompson sampling for costs with a normal distribution."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PRNGKeyArray, PyTree

from .base import AbstractTuner, Bins, as_arms, as_bins, clean_cost, fold_in, real_dtype, require_key


class ThompsonSamplingState(NamedTuple):
    """Leading axis of `rounds`, `mean` and `deviation`: the bin of the context; then the arm."""

    key: Array
    count: Array
    #: largest finite cost
    largest: Array
    #: number, mean, and summed squared deviation from the mean, of each arm's costs
    rounds: Array
    mean: Array
    deviation: Array


class ThompsonSampling(AbstractTuner):
    """Plays each arm as often as it is likely to be the best.

    Use it where costs are random draws that do not drift: it then usually loses less than `TsallisINF`,
    without that one's guarantee for other sequences.

    * `arms`: array or pytree of arrays, leading axis of length `d`.
    * `bins`, `bounds`: as many independent learners, one for each of equal parts of `bounds` = (smallest,
      largest context).  One bin ignores the context.

    Costs of an arm are taken as normal with unknown mean and variance; a mean is drawn from each arm's
    posterior and the smallest wins.  The conjugate prior (normal-inverse-gamma) is flat in the mean, so every
    arm is played once first; in the variance it is worth two costs with the variance that arms have on
    average so far, at least (a tenth of the mean cost)^2.

    Cost of a step: `O(d)`, tens of microseconds.  Costs and contexts: see `AbstractTuner`'s module.

    Thompson (1933), doi:10.1093/biomet/25.3-4.285; Honda & Takemura (2014), arXiv:1311.1894; the posterior
    as in Gelman et al., *Bayesian Data Analysis*, 3rd ed. (2013), section 3.3.
    """

    arms: PyTree = eqx.field(converter=as_arms)
    bins: Bins = eqx.field(static=True)

    def __init__(self, arms: PyTree, bins: int = 1, bounds: Any = None):
        self.arms = arms
        self.bins = as_bins(bins, bounds)

    def init(self, key: PRNGKeyArray | None) -> ThompsonSamplingState:
        zeros = jnp.zeros((self.bins.number, self.num_arms), real_dtype())
        return ThompsonSamplingState(
            key=require_key("ThompsonSampling", key),
            count=jnp.zeros((), jnp.int32),
            largest=jnp.zeros((), real_dtype()),
            rounds=zeros,
            mean=zeros,
            deviation=zeros,
        )

    def check_context(self, context: Any) -> None:
        self.bins.check(context)

    def select(self, state: ThompsonSamplingState, context: ArrayLike | None = None) -> Array:
        bin_, _ = self.bins.find(context)
        n, mean, deviation = state.rounds[bin_], state.mean[bin_], state.deviation[bin_]
        total = jnp.maximum(jnp.sum(n), 1)
        least = (SPREAD * jnp.sum(n * mean) / total) ** 2
        variance = jnp.maximum(jnp.sum(deviation) / total, least)
        key_mean, key_precision, key_untried = jax.random.split(fold_in(state.key, state.count), 3)
        precision = jax.random.gamma(key_precision, 1 + n / 2) / (variance + deviation / 2)
        sample = mean + jax.random.normal(key_mean, n.shape, n.dtype) / jnp.sqrt(precision * n)
        # A flat prior says nothing of arms that were never played: they go first, in random order.
        untried = -1 - jax.random.uniform(key_untried, n.shape, n.dtype)
        unknown = jnp.any(n == 0)
        return jnp.argmin(jnp.where(unknown, jnp.where(n == 0, untried, 0), sample)).astype(jnp.int32)

    def update(
        self,
        state: ThompsonSamplingState,
        index: ArrayLike,
        cost: ArrayLike,
        context: ArrayLike | None = None,
    ) -> ThompsonSamplingState:
        bin_, usable = self.bins.find(context)
        cost, known = clean_cost(cost, state.largest)
        weight = (usable & known).astype(cost.dtype)
        # Welford's update: sums of squares would cancel
        n, mean = state.rounds[bin_, index] + weight, state.mean[bin_, index]
        change = weight * (cost - mean) / jnp.maximum(n, 1)
        return ThompsonSamplingState(
            key=state.key,
            count=state.count + 1,
            largest=jnp.maximum(state.largest, weight * cost),
            rounds=state.rounds.at[bin_, index].set(n),
            mean=state.mean.at[bin_, index].add(change),
            deviation=state.deviation.at[bin_, index].add(weight * (cost - mean) * (cost - mean - change)),
        )


#: Least standard deviation of the prior, as a part of the mean cost.
SPREAD = 0.1

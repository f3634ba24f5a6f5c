"""Epsilon-greedy: the simplest bandit that learns."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PRNGKeyArray, PyTree

from .base import AbstractTuner, as_arms, clean_cost, fold_in, real_dtype, require_key


class EpsilonGreedyState(NamedTuple):
    key: Array
    count: Array
    #: largest finite cost
    largest: Array
    #: number and sum of each arm's costs
    rounds: Array
    total: Array


class EpsilonGreedy(AbstractTuner):
    """Plays the arm of least mean cost, and with probability `min(1, epsilon d / t)` any.

    Use it as the baseline that a better tuner must beat.

    * `arms`: array or pytree of arrays, leading axis of length `d`.
    * `epsilon`: the first `epsilon d` systems explore only.  The regret grows as `log T` for independent
      draws if `epsilon` is at least `5 / gap^2`, for `gap` the least relative excess of an arm over the
      best.

    The context is ignored.  Cost of a step: `O(d)`, about a microsecond.  Costs: see `AbstractTuner`'s
    module.

    Auer, Cesa-Bianchi & Fischer (2002), doi:10.1023/A:1013689704352, theorem 3.
    """

    arms: PyTree = eqx.field(converter=as_arms)
    epsilon: float = eqx.field(static=True, default=5.0)

    def __check_init__(self):
        if isinstance(self.epsilon, jax.Array) or not 0 <= self.epsilon < math.inf:
            raise ValueError(f"`epsilon` must be a non-negative number, not {self.epsilon!r}.")

    def init(self, key: PRNGKeyArray | None) -> EpsilonGreedyState:
        zeros = jnp.zeros(self.num_arms, real_dtype())
        return EpsilonGreedyState(
            key=require_key("EpsilonGreedy", key),
            count=jnp.zeros((), jnp.int32),
            largest=jnp.zeros((), real_dtype()),
            rounds=zeros,
            total=zeros,
        )

    def check_context(self, context: Any) -> None:
        del context

    def select(self, state: EpsilonGreedyState, context: ArrayLike | None = None) -> Array:
        del context
        explore, any_ = jax.random.split(fold_in(state.key, state.count))
        # An arm that was never played counts as free: each is tried before any is preferred.
        best = jnp.argmin(state.total / jnp.maximum(state.rounds, 1)).astype(jnp.int32)
        epsilon = self.epsilon * self.num_arms / jnp.maximum(jnp.sum(state.rounds), 1)
        return jnp.where(
            jax.random.uniform(explore, (), real_dtype()) < epsilon,
            jax.random.randint(any_, (), 0, self.num_arms, jnp.int32),
            best,
        )

    def update(
        self, state: EpsilonGreedyState, index: ArrayLike, cost: ArrayLike, context: ArrayLike | None = None
    ) -> EpsilonGreedyState:
        del context
        cost, known = clean_cost(cost, state.largest)
        weight = known.astype(cost.dtype)
        return EpsilonGreedyState(
            key=state.key,
            count=state.count + 1,
            largest=jnp.maximum(state.largest, weight * cost),
            rounds=state.rounds.at[index].add(weight),
            total=state.total.at[index].add(weight * cost),
        )

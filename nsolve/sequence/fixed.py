"""`Fixed`: a tuner with one arm, to compare others with."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PRNGKeyArray, PyTree

from .base import AbstractTuner


class FixedState(NamedTuple):
    count: Array


class Fixed(AbstractTuner):
    """Always the same arm, `value`: a number, an array, or a pytree of them.

    Use it to run a sequence without tuning, by the same code.  It needs no key, and ignores context and cost.
    """

    arms: PyTree

    def __init__(self, value: PyTree):
        if not jax.tree.leaves(value):
            raise ValueError(f"`value` must be a number, an array or a pytree of them, not {value!r}.")
        self.arms = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], value)

    def init(self, key: PRNGKeyArray | None = None) -> FixedState:
        del key
        return FixedState(jnp.zeros((), jnp.int32))

    def check_context(self, context: Any) -> None:
        del context

    def select(self, state: FixedState, context: ArrayLike | None = None) -> Array:
        del state, context
        return jnp.zeros((), jnp.int32)

    def update(
        self, state: FixedState, index: ArrayLike, cost: ArrayLike, context: ArrayLike | None = None
    ) -> FixedState:
        del index, cost, context
        return FixedState(state.count + 1)

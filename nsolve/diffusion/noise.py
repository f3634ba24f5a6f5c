"""The noise of stochastic samplers."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, PRNGKeyArray, PyTree

from ._arrays import accumulation_dtype
from .plan import Plan


class AbstractNoise(eqx.Module):
    """Where a plan's standard normal numbers come from."""

    @abstractmethod
    def check(self, plan: Plan) -> None:
        """Raises ValueError if this noise cannot serve a plan."""

    @abstractmethod
    def init(self, like: PyTree[Array], clock: Any) -> PyTree:
        """What is carried from row to row, at the clock of the start."""

    @abstractmethod
    def draw(
        self, state: PyTree, row: Any, clock: Any, next_clock: Any, like: PyTree[Array]
    ) -> tuple[PyTree, PyTree]:
        """(xi, state): standard normal numbers in the shape of `like` for a row, between two times of the
        clock."""


class IndependentNoise(AbstractNoise):
    """Fresh numbers for every row and every sample: sample i of a batch gets the same ones whatever the
    batch's size.

    `key` is one key, of which sample i (along the leading axis) takes the i-th child, or an array of one key
    a sample.
    """

    key: PRNGKeyArray

    def check(self, plan: Plan) -> None:
        del plan

    def init(self, like: PyTree[Array], clock: Any) -> PyTree:
        del like, clock
        return None

    def draw(
        self, state: PyTree, row: Any, clock: Any, next_clock: Any, like: PyTree[Array]
    ) -> tuple[PyTree, PyTree]:
        del clock, next_clock
        return normal_like(self.key, row, like), state


def normal_like(key: PRNGKeyArray, counter: Any, like: PyTree[Array]) -> PyTree[Array]:
    """Standard normal numbers in the shape of `like`, a key for each sample (leading axis) and leaf."""
    leaves, structure = jax.tree.flatten(like)
    numbers = []
    for position, leaf in enumerate(leaves):
        dtype = accumulation_dtype(leaf.dtype)

        def of_sample(sample_key, shape, position=position, dtype=dtype):
            return jr.normal(jr.fold_in(jr.fold_in(sample_key, position), counter), shape, dtype)

        if leaf.ndim == 0:
            numbers.append(of_sample(key, ()))
        else:
            keys = sample_keys(key, leaf.shape[0])
            numbers.append(
                jax.vmap(lambda k, leaf=leaf, of_sample=of_sample: of_sample(k, leaf.shape[1:]))(keys)
            )
    return jax.tree.unflatten(structure, numbers)


def sample_keys(key: PRNGKeyArray, batch: int) -> PRNGKeyArray:
    """One key a sample: the children of `key`, or `key` itself where it holds one for each."""
    single = 0 if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else 1
    if key.ndim == single:
        return jax.vmap(lambda index: jr.fold_in(key, index))(jnp.arange(batch))
    if key.ndim != single + 1 or key.shape[0] != batch:
        raise ValueError(
            f"`key` must be one key or {batch} keys, one a sample; got an array of shape {key.shape}."
        )
    return key

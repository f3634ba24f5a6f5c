"""The contract that every tuner follows: a bandit that chooses a solver's parameter, one system at a time.

A *tuner* is an Equinox module with a set of arms.  Before each system `select` chooses an arm; after the
solve `update` is told what it cost.  Only the cost of the chosen arm is ever seen.  All three methods are
pure, and states are pytrees of arrays with fixed shapes and dtypes: they run inside `jit`, `lax.scan` and
`vmap`.

* A *cost* is a positive scalar, the smaller the better: iterations, products or seconds.  Tuners do not
  depend on its unit.  A cost that is not finite counts as the largest finite cost seen so far, whichever
  arm paid it, so that an arm that diverges is shunned and nothing is poisoned; before any finite cost it is
  skipped.
* A *context* is a scalar known before the solve (a diagonal shift, a diffusivity).  Outside the tuner's
  `bounds` a concrete one is a `ValueError`; a traced one is clipped.  A traced NaN selects as the centre of
  the bounds does, and its update is skipped.
"""

import abc
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, PRNGKeyArray, PyTree


class AbstractTuner(eqx.Module):
    """Chooses among arms by what they cost.

    `arms` is a pytree of arrays whose leading axis numbers the arms: `linspace(1, 1.95, 20)`, or an array of
    shape `(d, 2)` for `d` pairs of Chebyshev bounds.
    """

    arms: eqx.AbstractVar[PyTree]

    @property
    def num_arms(self) -> int:
        return jax.tree.leaves(self.arms)[0].shape[0]

    def arm(self, index: ArrayLike) -> PyTree:
        """The value of one arm."""
        return jax.tree.map(lambda leaf: leaf[index], self.arms)

    @abc.abstractmethod
    def init(self, key: PRNGKeyArray | None) -> PyTree:
        """The state before the first system."""

    @abc.abstractmethod
    def select(self, state: PyTree, context: ArrayLike | None = None) -> Array:
        """The index of the arm for the next system, an int32 scalar.

        The draw depends on the state alone: asked twice, the answer is the same.
        """

    @abc.abstractmethod
    def update(
        self, state: PyTree, index: ArrayLike, cost: ArrayLike, context: ArrayLike | None = None
    ) -> PyTree:
        """The state after arm `index`, chosen in `state` for `context`, has cost `cost`."""

    @abc.abstractmethod
    def check_context(self, context: Any) -> None:
        """Raises a `ValueError` where a concrete context, or any in an array of them, cannot be used."""


class Bounds(NamedTuple):
    """The interval of a scalar context."""

    lower: float
    upper: float

    def check(self, context: Any) -> None:
        if context is None:
            raise ValueError(
                "`context` is None, but this tuner needs one: a scalar for each system, within "
                f"`bounds` = ({self.lower}, {self.upper})."
            )
        if isinstance(context, Tracer):
            return
        values = np.asarray(context)
        wrong = ~((values >= self.lower) & (values <= self.upper))
        if wrong.any():
            position = f" (entry {int(np.argmax(wrong))}; {int(wrong.sum())} are)" if values.ndim else ""
            raise ValueError(
                f"`context` is {values[wrong].flat[0]}{position}, outside of `bounds` = ({self.lower}, "
                f"{self.upper}). Widen the tuner's bounds to hold every context, or clip the context."
            )

    def unit(self, context: ArrayLike | None) -> tuple[Array, Array]:
        """The context mapped to `[0, 1]`, and whether it is a number at all."""
        self.check(context)
        context = jnp.asarray(context, real_dtype())
        if context.shape != ():
            raise ValueError(f"`context` must be a scalar for each system, but has shape {context.shape}.")
        usable = ~jnp.isnan(context)
        unit = (context - self.lower) / (self.upper - self.lower)
        return jnp.where(usable, jnp.clip(unit, 0, 1), 0.5), usable


class Bins(NamedTuple):
    """Equal bins of a scalar context: as many independent learners.  Without bounds a single one."""

    number: int
    bounds: Bounds | None

    def check(self, context: Any) -> None:
        if self.bounds is not None:
            self.bounds.check(context)

    def find(self, context: ArrayLike | None) -> tuple[Array, Array]:
        """The bin whose centre is nearest, and whether the context can be used."""
        if self.bounds is None:
            return jnp.zeros((), jnp.int32), jnp.ones((), bool)
        unit, usable = self.bounds.unit(context)
        index = jnp.floor(unit * self.number).astype(jnp.int32)
        return jnp.minimum(index, self.number - 1), usable


def as_arms(arms: PyTree) -> PyTree:
    """Arms as arrays with one leading axis."""
    leaves = jax.tree.leaves(arms)
    shapes = [np.shape(leaf) for leaf in leaves]
    if not leaves or any(shape == () for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(
            "`arms` must be an array, or a pytree of arrays, with one leading axis that numbers the arms, "
            f"but its leaves have the shapes {shapes}. Write a list of numbers as `jnp.array([...])`."
        )
    if shapes[0][0] == 0:
        raise ValueError("`arms` is empty; give at least one arm.")
    return jax.tree.map(jnp.asarray, arms)


def as_bounds(bounds: Any) -> Bounds:
    try:
        lower, upper = (float(bound) for bound in bounds)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`bounds` must be a pair of numbers (smallest, largest context), not {bounds!r}."
        ) from error
    if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
        raise ValueError(f"`bounds` must be finite and in order, smallest context first, but are {bounds!r}.")
    return Bounds(lower, upper)


def as_bins(bins: Any, bounds: Any) -> Bins:
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise ValueError(f"`bins` must be a positive integer, not {bins!r}.")
    if bins == 1:
        return Bins(1, None)
    if bounds is None:
        raise ValueError(
            f"`bins` = {bins} needs `bounds` = (smallest, largest context), but `bounds` is None."
        )
    return Bins(bins, as_bounds(bounds))


def require_key(who: str, key: PRNGKeyArray | None) -> Array:
    """A key's numbers: states are arrays that any transformation can carry, typed keys are not."""
    if key is None:
        raise ValueError(f"`key` is None, but `{who}` draws at random: pass `key=jax.random.key(seed)`.")
    return jax.random.key_data(jax.random.key(jax.random.bits(key, dtype=jnp.uint32)))


def fold_in(numbers: Array, count: Array) -> PRNGKeyArray:
    """The key of one draw."""
    return jax.random.fold_in(jax.random.wrap_key_data(numbers), count)


def real_dtype() -> jnp.dtype:
    """The dtype of states: float64 where it is enabled, else float32."""
    return jnp.zeros(()).dtype


def clean_cost(cost: ArrayLike, largest: Array) -> tuple[Array, Array]:
    """A finite cost, and whether there is any.  `largest` is the largest seen, zero before the first.

    Costs are capped at a quarter of the range of exponents, so that no sum of squares overflows.
    """
    cost = jnp.asarray(cost, real_dtype())
    cap = float(jnp.finfo(cost.dtype).max) ** 0.25
    known = jnp.isfinite(cost)
    return jnp.where(known, jnp.clip(cost, 0, cap), largest), known | (largest > 0)


def draw(key: Array, count: Array, probabilities: Array) -> Array:
    """One sample of a categorical distribution, by inversion."""
    cumulative = jnp.cumsum(probabilities)
    u = jax.random.uniform(fold_in(key, count), (), probabilities.dtype) * cumulative[-1]
    index = jnp.sum(u >= cumulative, dtype=jnp.int32)
    return jnp.minimum(index, probabilities.shape[0] - 1)

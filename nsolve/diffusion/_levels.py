"""What loops share that are no plans: samplers that look at the whole ensemble, or keep a state."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from ._arrays import as_times, is_traced, on_host
from .grids import Grid
from .noise import accumulation_dtype
from .points import Points, check_grid
from .schedules import AbstractSchedule


def levels(grid: Any, schedule: AbstractSchedule) -> Points:
    """The checked points (N+1,) of a grid: in float64 on the host, unless traced."""
    times = grid(schedule) if isinstance(grid, Grid) else as_times(grid)
    if not is_traced((times, schedule)):
        schedule = on_host(schedule)
    return check_grid(Points.of(schedule, times))


def in_precision_of(state: PyTree, table: PyTree) -> PyTree:
    """A table of floats in the precision that the state's sums are made in."""
    dtype = accumulation_dtype(jnp.result_type(*jax.tree.leaves(state)))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), table)


def check_batch(x: PyTree, name: str = "x_T") -> int:
    """The number of samples along the leading axis that all leaves share."""
    shapes = [leaf.shape for leaf in jax.tree.leaves(x)]
    sizes = {shape[:1] for shape in shapes}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(f"`{name}` must have its samples along one leading axis, got shapes {shapes}.")
    return shapes[0][0]


def check_key(key: Any, who: str, what: str = "adds noise") -> PRNGKeyArray:
    if key is None:
        raise ValueError(f"`key` is missing: {who} {what}. Give a jax.random key.")
    if not isinstance(key, jax.Array):
        raise TypeError(f"`key` must be a jax.random key, got {type(key).__name__}.")
    return key


def is_finite(*trees: PyTree) -> jax.Array:
    """Whether all numbers are finite, at one pass over each array."""
    return jnp.stack([jnp.isfinite(jnp.sum(leaf)) for leaf in jax.tree.leaves(trees)]).all()


def raise_if_failed(x: Any, failed: jax.Array, who: str) -> Any:
    """`x`, or an error if the number of a failed step is not -1."""
    message = f"{who} returned NaN or infinity"
    if is_traced(failed):
        return eqx.error_if(x, failed >= 0, f"{message} while sampling; throw=False returns such a sample.")
    if int(failed) >= 0:
        raise FloatingPointError(f"{message} at step {int(failed)}; throw=False returns such a sample.")
    return x

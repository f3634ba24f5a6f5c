"""What hindsight would have chosen, from a table of what every arm costs on every system.

`costs` has shape `(T, d)`: systems by arms.  A cost that is not finite counts as infinite.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike


def best_fixed(costs: ArrayLike) -> tuple[Array, Array]:
    """The arm with the least total cost, and its costs, shape `(T,)`."""
    costs = _table(costs)
    arm = jnp.argmin(jnp.sum(costs, axis=0))
    return arm, costs[:, arm]


def instance_optimal(costs: ArrayLike) -> tuple[Array, Array]:
    """For each system the cheapest arm, and what it costs; both of shape `(T,)`."""
    costs = _table(costs)
    return jnp.argmin(costs, axis=1), jnp.min(costs, axis=1)


def regret(costs: ArrayLike, reference: ArrayLike) -> Array:
    """What was paid beyond the reference up to each system, shape `(T,)`, from costs of shape `(T,)` each."""
    costs, reference = jnp.asarray(costs), jnp.asarray(reference)
    if costs.ndim != 1 or costs.shape != reference.shape:
        raise ValueError(
            "`costs` and `reference` must both have shape (T,), one cost for each system, but have shapes "
            f"{costs.shape} and {reference.shape}."
        )
    return jnp.cumsum(costs.astype(jnp.result_type(costs, float)) - reference)


def _table(costs: ArrayLike) -> Array:
    costs = jnp.asarray(costs)
    if costs.ndim != 2 or 0 in costs.shape:
        raise ValueError(f"`costs` must have shape (T, d), systems by arms, but has shape {costs.shape}.")
    costs = costs.astype(jnp.result_type(costs, float))
    return jnp.where(jnp.isfinite(costs), costs, jnp.inf)

"""Best choices in hindsight, from a table of what every arm costs on every system.

`costs` has shape `(T, d)`: systems by arms.  A cost that is not finite counts as infinite.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from .._vectors import dtype


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
    costs, reference = _as_real(costs), _as_real(reference)
    if costs.ndim != 1 or costs.shape != reference.shape:
        raise ValueError(
            "`costs` and `reference` must both have shape (T,), one cost for each system, but have shapes "
            f"{costs.shape} and {reference.shape}."
        )
    wider = dtype((costs, reference))
    return jnp.cumsum(costs.astype(wider) - reference.astype(wider))


def _table(costs: ArrayLike) -> Array:
    costs = _as_real(costs)
    if costs.ndim != 2 or 0 in costs.shape:
        raise ValueError(f"`costs` must have shape (T, d), systems by arms, but has shape {costs.shape}.")
    return jnp.where(jnp.isfinite(costs), costs, jnp.inf)


def _as_real(costs: ArrayLike) -> Array:
    """Floating-point numbers of the precision given; whole numbers in the default one."""
    costs = jnp.asarray(costs)
    return costs if jnp.issubdtype(costs.dtype, jnp.floating) else costs.astype(float)

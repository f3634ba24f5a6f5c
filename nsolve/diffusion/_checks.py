"""What all loops ask of their input, and how they report a network that fails."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PRNGKeyArray, PyTree

from ._arrays import accumulation_dtype, is_traced


def check_state(x: PyTree[Array], name: str = "x_T") -> None:
    leaves = jax.tree.leaves(x)
    if not leaves:
        raise ValueError(f"`{name}` holds no array.")
    for leaf in leaves:
        if not (eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)):
            kind = leaf.dtype if eqx.is_array(leaf) else type(leaf).__name__
            raise TypeError(
                f"`{name}` must hold real floating-point arrays, got {kind}; carry complex ones as two reals."
            )


def check_batch(x: PyTree[Array], name: str = "x_T") -> int:
    """The number of samples along the leading axis that all leaves share."""
    check_state(x, name)
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


def is_finite(*trees: PyTree[Array]) -> Array:
    """Whether all numbers are finite, at one pass over each array."""
    # Sums of half precision would overflow.
    sums = [jnp.sum(leaf, dtype=accumulation_dtype(leaf.dtype)) for leaf in jax.tree.leaves(trees)]
    return jnp.stack([jnp.isfinite(total) for total in sums]).all()


def verdict(failed: Array, *given: PyTree[Array]) -> lx.RESULTS:
    """How a run ended, from the number of what was not finite (-1: nothing) and what it was given."""
    blame = lx.RESULTS.where(is_finite(*given), lx.RESULTS.breakdown, lx.RESULTS.nonfinite_input)
    return lx.RESULTS.where(failed < 0, lx.RESULTS.successful, blame)


def raise_if_failed(
    x: PyTree, failed: Array, who: str = "the network", counted: str = "evaluation"
) -> PyTree:
    """`x`, or an error if the number of what failed is not -1."""
    message = f"{who} returned NaN or infinity"
    if is_traced(failed):
        return eqx.error_if(x, failed >= 0, f"{message} while sampling; throw=False returns such a sample.")
    if int(failed) >= 0:
        raise FloatingPointError(f"{message} at {counted} {int(failed)}; throw=False returns such a sample.")
    return x

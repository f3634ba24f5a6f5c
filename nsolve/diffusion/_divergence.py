"""The trace of a Jacobian, sample by sample."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PyTree

from ._arrays import accumulation_dtype
from .noise import sample_keys

# So many columns of the Jacobian are worked out at once.
_TOGETHER = 64


def divergence(
    function: Callable[[PyTree[Array]], PyTree[Array]], x: PyTree[Array], probes: PyTree[Array] | None
) -> tuple[PyTree[Array], Float[Array, " batch"]]:
    """(function(x), trace of its Jacobian for each sample): exact, or the mean of v^T J v over probes
    (P, B, ...)."""
    value, push = jax.linearize(function, x)
    leaves, structure = jax.tree.flatten(x)
    dtype = accumulation_dtype(*leaves)

    def along(tangent: PyTree[Array]) -> Array:
        products = jax.tree.map(
            lambda v, jv: jnp.sum((v * jv).astype(dtype).reshape(v.shape[0], -1), axis=1),
            tangent,
            push(tangent),
        )
        return sum(jax.tree.leaves(products), jnp.zeros(leaves[0].shape[0], dtype))

    if probes is not None:
        return value, jnp.mean(jax.vmap(along)(probes), axis=0)

    sizes = [math.prod(leaf.shape[1:]) for leaf in leaves]
    offsets = np.cumsum([0, *sizes])

    def along_axis(number: Array) -> Array:
        unit = [
            jnp.broadcast_to(
                (jnp.arange(size) + offset == number).astype(leaf.dtype).reshape(leaf.shape[1:]), leaf.shape
            )
            for leaf, size, offset in zip(leaves, sizes, offsets, strict=False)
        ]
        return along(jax.tree.unflatten(structure, unit))

    total = int(offsets[-1])
    columns = jax.lax.map(along_axis, jnp.arange(total), batch_size=min(total, _TOGETHER))
    return value, jnp.sum(columns, axis=0)


def random_signs(key: Any, num_probes: int, x: PyTree[Array]) -> PyTree[Array]:
    """Random signs (P, B, ...), a key for each sample and leaf."""
    leaves, structure = jax.tree.flatten(x)
    keys = sample_keys(key, leaves[0].shape[0])

    def draw(position: int, leaf: Array) -> Array:
        def of_sample(sample_key: Any) -> Array:
            return jr.rademacher(jr.fold_in(sample_key, position), (num_probes, *leaf.shape[1:]), leaf.dtype)

        return jax.vmap(of_sample, out_axes=1)(keys)

    return jax.tree.unflatten(structure, [draw(position, leaf) for position, leaf in enumerate(leaves)])

"""Walls that XLA's compiler does not fuse across."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..._arrays import is_traced


def not_nan(known: Array, b: Array) -> Array:
    """A flag for `apart`, of two arrays."""
    # Values known to the compiler would let it see through.
    known = b if not is_traced(known) else known
    corner = known[(0,) * known.ndim]
    return corner == corner


def apart(defined: Array, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`, compiled on its own; NaN where the level is undefined anyway.

    XLA's CPU compiler fuses a stencil into each of its readers, neighbours and transfers, and
    computes it over and over: the program is then far slower than its parts, and takes long to compile.  It
    ignores optimisation barriers there, but never fuses across a branch.
    """
    result = jax.eval_shape(function, *arguments)

    def undefined(*_):
        return jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), result)

    return jax.lax.platform_dependent(
        *arguments,
        cpu=lambda *a: jax.lax.cond(defined, function, undefined, *a),
        default=lambda *a: jax.lax.optimization_barrier(function(*a)),
    )

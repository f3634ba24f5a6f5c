"""Arithmetic that runs on the host in float64 when it can, and inside a trace when it must.

Tables and schedules are written once against the names that NumPy and `jax.numpy` share. Concrete numbers are
worked out with NumPy in float64, whatever JAX's default precision; traced ones with `jax.numpy`, so that
gradients flow through them.
"""

from types import ModuleType
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_Tree = TypeVar("_Tree")


def namespace(*values: Any) -> ModuleType:
    """`jax.numpy` if any of the values is a JAX array, else NumPy."""
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def is_traced(tree: Any) -> bool:
    """Whether some leaf is known only while a function is being traced."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def on_host(tree: _Tree) -> _Tree:
    """`tree` with every real array as a NumPy array of float64; unchanged if any leaf is traced."""
    if is_traced(tree):
        return tree

    def convert(leaf: Any) -> Any:
        if eqx.is_inexact_array_like(leaf) and not isinstance(leaf, float | complex):
            return np.asarray(leaf, np.float64)
        return leaf

    return jax.tree.map(convert, tree)


def as_times(value: Any) -> Any:
    """A grid as a float array: NumPy float64 unless it is traced."""
    if is_traced(value):
        return jnp.asarray(value)
    return np.asarray(value, np.float64)


def accumulation_dtype(dtype: Any) -> Any:
    """Half precision is summed in float32."""
    return jnp.promote_types(dtype, jnp.float32)


def in_precision_of(state: Any, table: _Tree) -> _Tree:
    """A table of floats in the precision that the state's sums are made in."""
    dtype = accumulation_dtype(jnp.result_type(*jax.tree.leaves(state)))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), table)

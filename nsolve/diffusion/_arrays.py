"""Arithmetic that runs on the host in float64 when it can, and inside a trace when it must.

Tables and schedules are written once against the names that NumPy and `jax.numpy` share. Concrete numbers are
worked out with NumPy in float64, whatever JAX's default precision; traced ones with `jax.numpy`, so that
gradients flow through them.
"""

from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._arrays import is_traced as is_traced
from .._arrays import namespace as namespace

_Tree = TypeVar("_Tree")


def on_host(tree: _Tree) -> _Tree:
    """`tree` with every real array as a NumPy array of float64; in JAX's default precision if any leaf is
    traced."""
    asarray, dtype = (jnp.asarray, float) if is_traced(tree) else (np.asarray, np.float64)

    def convert(leaf: Any) -> Any:
        if eqx.is_inexact_array_like(leaf) and not isinstance(leaf, float | complex):
            return asarray(leaf, dtype)
        return leaf

    return jax.tree.map(convert, tree)


def as_times(value: Any) -> Any:
    """A grid as a float array: NumPy float64 unless it is traced."""
    if is_traced(value):
        return jnp.asarray(value, float)
    return np.asarray(value, np.float64)


def common_dtype(*values: Any) -> Any:
    """The dtype that JAX promotes to by default, in every mode: networks may answer in their own."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*values)


def accumulation_dtype(*values: Any) -> Any:
    """Of arrays or dtypes: half precision is summed in float32."""
    return common_dtype(*values, jnp.float32)


def together(*values: Any) -> tuple[Any, ...]:
    """The values in the dtype that they share; Python's numbers, and all of NumPy's, stay as they are."""
    if namespace(*values) is np:
        return values
    dtype = common_dtype(*values)
    return tuple(v if isinstance(v, bool | int | float) else jnp.asarray(v, dtype) for v in values)


def weighted(weights: Any, leaves: Any) -> Array:
    """sum_j weights_j leaves_j in the dtype that they share; weights are numbers, or one a component, of the
    shape of the leaves' last axes."""
    dtype = common_dtype(*weights, *leaves)
    total: Any = None
    for weight, leaf in zip(weights, leaves, strict=True):
        term = beside(jnp.asarray(weight, dtype), leaf) * leaf.astype(dtype)
        total = term if total is None else total + term
    return total


def beside(weight: Any, leaf: Any) -> Any:
    """The array `weight` with as many axes as `leaf`, new ones in front; one of shape () stays as it is."""
    missing = leaf.ndim - weight.ndim
    return weight if weight.ndim == 0 or missing <= 0 else weight.reshape((1,) * missing + weight.shape)


def root(square: Any) -> Any:
    """Square root, with derivative zero at zero."""
    xp = namespace(square)
    zero = square == 0  # false for NaN, which stays NaN
    return xp.where(zero, 0.0, xp.sqrt(xp.where(zero, 1.0, square)))


def in_precision_of(state: Any, table: _Tree) -> _Tree:
    """A table of floats in the precision that the state's sums are made in."""
    dtype = accumulation_dtype(*jax.tree.leaves(state))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), table)

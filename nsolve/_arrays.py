"""Arrays that may be on the host or being traced: one code for NumPy and `jax.numpy`.

Concrete arrays stay NumPy's, where nothing needs to be compiled; traced ones are `jax.numpy`'s.
"""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def namespace(*values: Any) -> ModuleType:
    """`jax.numpy` if any of the values is a JAX array, else NumPy."""
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def is_traced(tree: Any) -> bool:
    """Whether some leaf is known only while a function is being traced."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def cut(x: Any, axis: int, start: int, stop: int, step: int = 1) -> Any:
    """A slice along one axis."""
    if isinstance(x, np.ndarray):
        return x[(slice(None),) * axis + (slice(start, stop, step),)]
    return jax.lax.slice_in_dim(x, start, stop, step, axis)


def padded(x: Any, axis: int, below: int, above: int) -> Any:
    """Zeros before and after one axis."""
    if isinstance(x, np.ndarray):
        return np.pad(x, [(below, above) if k == axis else (0, 0) for k in range(x.ndim)])
    widths = [(below, above, 0) if k == axis else (0, 0, 0) for k in range(x.ndim)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), widths)

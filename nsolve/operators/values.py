"""Numbers that users hand over: which types are taken, and that none is lost on the way to JAX."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

#: NumPy's types that JAX or SciPy do not have, and what they become.
_NEAREST = {
    np.dtype(np.float16): np.dtype(np.float32),
    np.dtype(np.longdouble): np.dtype(np.float64),
    np.dtype(np.clongdouble): np.dtype(np.complex128),
}


def host_dtype(dtype: Any, name: str) -> np.dtype:
    """The floating-point type on the host for numbers of any type."""
    dtype = np.dtype(dtype)
    if dtype.kind in "biu":
        return np.dtype(jnp.result_type(float))
    if dtype.kind not in "fc":
        raise TypeError(f"`{name}` must hold numbers, but holds {dtype}.")
    return dtype if dtype in map(np.dtype, "fdFD") else _NEAREST[dtype]


def as_values(values: Any, name: str) -> Array | np.ndarray:
    """Floating-point or complex numbers: JAX's arrays as they are, others as NumPy's of a type that JAX has.

    A number that this turns into infinity or zero is a ValueError, see `fit`.
    """
    if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(values)):
        values = jnp.asarray(values)
    else:
        values = np.asarray(values)
    if not jnp.issubdtype(values.dtype, jnp.inexact):
        raise TypeError(
            f"`{name}` must be floating-point or complex, but are {values.dtype}; convert them first."
        )
    if isinstance(values, jax.Array) or values.dtype.kind not in "fc":  # bfloat16 and its kin are JAX's own
        return values
    return fit(values, jax.dtypes.canonicalize_dtype(host_dtype(values.dtype, name)), name)


def as_coefficients(values: Any, name: str) -> Any:
    """The same for coefficients, which may be whole numbers, and of Python's types, which stay."""
    if isinstance(values, bool | int | float | complex | jax.Array) and not isinstance(values, np.generic):
        return values
    values = np.asarray(values)
    if values.dtype.kind in "biu":
        return values.astype(host_dtype(values.dtype, name))
    return as_values(values, name)


def fit(values: Any, dtype: Any, name: str) -> np.ndarray:
    """Concrete numbers in another type.

    A number that becomes infinity or zero by it (or a subnormal, which XLA takes for zero) is a ValueError:
    with x64 off JAX has single precision only.
    """
    values, dtype = np.asarray(values), np.dtype(dtype)
    if dtype == values.dtype or values.dtype.kind not in "fc":
        return values.astype(dtype)
    with np.errstate(over="ignore", under="ignore"):
        converted = values.astype(dtype)
        infinite = np.isfinite(values) & ~np.isfinite(converted)
        lost = infinite | (values != 0) & (abs(converted) < jnp.finfo(dtype).tiny)
    if lost.any():
        where = np.unravel_index(int(np.argmax(lost)), values.shape)
        entry = f"entry {', '.join(map(str, where))}, " if where else ""
        becomes = "infinite" if infinite[where] else "zero"
        advice = "Scale the numbers."
        if jnp.finfo(jnp.result_type(float)).bits == 32:
            advice = 'Scale them, or choose double precision: `jax.config.update("jax_enable_x64", True)`.'
        raise ValueError(
            f"`{name}` does not fit into {dtype}: {entry}{values[where]}, would become {becomes}, as would "
            f"{int(lost.sum()) - 1} more of {values.size} numbers. {advice}"
        )
    return converted


def common_dtype(first: Any, second: Any) -> Any:
    """The dtype of a sum or product of two operators of one precision."""
    if jnp.finfo(first).bits != jnp.finfo(second).bits:
        raise ValueError(
            f"Operators of one precision can be added and multiplied, but these are {first} and {second}: "
            "convert the values of one of them."
        )
    return complex_dtype(first) if jnp.dtype(first) != jnp.dtype(second) else first


def complex_dtype(dtype: Any) -> np.dtype:
    """The complex type of the same precision."""
    return np.dtype({32: np.complex64, 64: np.complex128}[jnp.finfo(dtype).bits])

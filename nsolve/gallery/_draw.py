"""Random numbers from either of two kinds of keys.

A JAX key (traced or not) draws in JAX: legal under `jit` and `vmap`.  Anything else that NumPy's
`default_rng` takes (an integer, integers, a generator) draws on the host in NumPy, compiles nothing, and
gives the same numbers on every machine and with every version of JAX: what a benchmark that keeps records
wants.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from .._arrays import is_traced

Key = PRNGKeyArray | int | Sequence[int] | np.random.Generator


def on_host(key: Key) -> bool:
    """Whether a key draws in NumPy."""
    return not isinstance(key, jax.Array)


def split(key: Any, count: int) -> list[Any]:
    """Independent keys; on the host one generator, which draws for them in turn."""
    return [generator(key)] * count if on_host(key) else list(jax.random.split(key, count))


def normal(key: Any, shape: tuple[int, ...], dtype: Any) -> Array | np.ndarray:
    """Independent N(0, 1) numbers; of complex ones both parts."""
    if np.dtype(dtype).kind == "c":
        part = jnp.finfo(dtype).dtype
        if on_host(key):
            rng = generator(key)
            return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
        first, second = jax.random.split(key)
        return jax.lax.complex(jax.random.normal(first, shape, part), jax.random.normal(second, shape, part))
    if on_host(key):
        return generator(key).standard_normal(shape).astype(dtype)
    return jax.random.normal(key, shape, dtype)


def uniform(
    key: Any, shape: tuple[int, ...], dtype: Any, low: float = 0.0, high: float = 1.0
) -> Array | np.ndarray:
    """Independent numbers, uniform in (low, high)."""
    if on_host(key):
        return generator(key).uniform(low, high, shape).astype(dtype)
    return jax.random.uniform(key, shape, dtype, low, high)


def generator(key: Key) -> np.random.Generator:
    """NumPy's generator for a key; a JAX key has to be known, not traced."""
    if not on_host(key):
        if is_traced(key):
            raise TypeError(
                "`key` is traced, but this problem is made on the host: make it outside of `jit` and `vmap`."
            )
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)  # pyright: ignore
        data = jax.random.key_data(key) if typed else key  # pyright: ignore
        return np.random.default_rng(np.asarray(data).ravel())
    if key is None:
        raise TypeError("`key` is None: give a JAX key such as `jax.random.key(0)`, or an integer.")
    try:
        return np.random.default_rng(key)  # pyright: ignore
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`key` must be a JAX key such as `jax.random.key(0)`, or a seed of NumPy's, but is {key!r}."
        ) from error

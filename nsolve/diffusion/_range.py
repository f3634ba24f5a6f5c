"""Which times and levels of noise a schedule has: one rule for all of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._arrays import is_traced

# As much outside is rounding, also of times that were found from lam in float32.
_SLACK = 16 * float(np.finfo(np.float32).eps)


def inside(value: Any, low: Any, high: Any, name: str, owner: object) -> Any:
    """`value` where it lies in [low, high], or the end that it misses by rounding; NaN stays NaN.

    A concrete value outside raises ValueError, a traced one becomes NaN, with derivatives NaN."""
    if is_traced((value, low, high)):
        value = jnp.asarray(value, _float(value))
        low, high = (jax.lax.stop_gradient(jnp.asarray(end, value.dtype)) for end in (low, high))
        beyond = (value < low) | (value > high)
        slack = _SLACK * jnp.maximum(_size(low), _size(high))
        outside = (value < low - slack) | (value > high + slack)
        nearest = jax.lax.stop_gradient(jnp.clip(value, low, high) - value)
        return jnp.where(beyond, value + nearest, value) * jnp.where(outside, jnp.nan, 1.0).astype(
            value.dtype
        )
    numbers = np.asarray(value, np.float64)
    if not np.any((numbers < low) | (numbers > high)):
        return value
    slack = _SLACK * max(_size(low), _size(high))
    outside = (numbers < low - slack) | (numbers > high + slack)
    if np.any(outside):
        raise ValueError(
            f"`{name}` must lie in the range of {type(owner).__name__}, from {low:.9g} to {high:.9g}; got "
            f"{numbers[outside].ravel()[0]:.9g}."
        )
    nearest = np.clip(numbers, low, high)
    return jnp.asarray(nearest, _float(value)) if isinstance(value, jax.Array) else nearest


def _size(end: Any) -> Any:
    """|end|, 0 where it is infinite."""
    xp = jnp if isinstance(end, jax.Array) else np
    return xp.where(xp.isfinite(end), xp.abs(end), 0.0)


def _float(value: Any) -> Any:
    inexact = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.inexact)
    return value.dtype if inexact else float

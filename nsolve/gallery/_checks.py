"""What the gallery's functions are handed, checked before anything is drawn."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._arrays import is_traced


def grid_shape(shape: Any, name: str = "shape", axes: tuple[int, ...] = (1, 2, 3)) -> tuple[int, ...]:
    """The shape of a grid: positive integers, as many as one of `axes` says."""
    if not isinstance(shape, Sequence) or isinstance(shape, str):
        raise TypeError(
            f"`{name}` must be a tuple of integers, such as {(64,) * axes[-1]}, but is {shape!r}."
        )
    if len(shape) not in axes:
        allowed = " or ".join(map(str, axes))
        raise ValueError(f"`{name}` must have {allowed} axes, but is {tuple(shape)}.")
    return tuple(positive_integer(n, name) for n in shape)


def positive_integer(value: Any, name: str, least: int = 1) -> int:
    """An integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"`{name}` must be an integer (static, not traced), but holds {value!r}.")
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}, but holds {value}.")
    return int(value)


def positive(value: Any, name: str, *, or_zero: bool = False, single: bool = True) -> None:
    """ValueError unless a real number (or each of an array, where not `single`) is positive and finite; of
    traced ones nothing but the shape is known."""
    if single and np.shape(value):
        raise ValueError(f"`{name}` must be one number, but has shape {np.shape(value)}.")
    if is_traced(value):
        return
    numbers = np.asarray(value)
    if numbers.dtype.kind not in "iuf":
        raise TypeError(f"`{name}` must be a real number, but is {value!r}.")
    low = numbers >= 0 if or_zero else numbers > 0
    if not (np.all(low) and np.all(np.isfinite(numbers))):
        kind = "at least zero" if or_zero else "positive"
        raise ValueError(f"`{name}` must be {kind} and finite, but is {value}.")


def static_positive(value: Any, name: str) -> float:
    """A positive number that tables on the host are made of."""
    if is_traced(value):
        raise TypeError(
            f"`{name}` must be known before tracing (tables are made of it on the host), but is traced: "
            "give a Python number, or mark it static."
        )
    positive(value, name)
    return float(value)


def probability(value: Any, name: str) -> None:
    """ValueError unless 0 <= value <= 1."""
    if is_traced(value):
        return
    number = np.asarray(value)
    if number.ndim or number.dtype.kind not in "iuf" or not 0 <= number <= 1:
        raise ValueError(f"`{name}` must be a probability between 0 and 1, but is {value!r}.")


def choice(value: Any, name: str, allowed: Iterable[str]) -> None:
    """ValueError unless `value` is one of the words."""
    allowed = tuple(allowed)
    if value not in allowed:
        words = ", ".join(f'"{word}"' for word in allowed)
        raise ValueError(f"`{name}` must be one of {words}, but is {value!r}.")


def real_dtype(dtype: Any) -> np.dtype:
    """The type of the numbers: JAX's default where none is given."""
    found = np.dtype(jnp.result_type(float) if dtype is None else dtype)
    if found not in (np.float32, np.float64):
        raise TypeError(f"`dtype` must be float32 or float64, but is {dtype!r}.")
    if found == np.float64 and jnp.result_type(float) == np.float32:
        raise ValueError(
            '`dtype` is float64, but JAX is in single precision: `jax.config.update("jax_enable_x64", True)`.'
        )
    return found


def broadcasts(value: Any, shape: tuple[int, ...], name: str) -> None:
    """ValueError unless an array has a shape, or is one number, and is finite as far as that is known."""
    if np.shape(value) not in ((), shape):
        raise ValueError(f"`{name}` must be a number or of shape {shape}, but has shape {np.shape(value)}.")
    if not is_traced(value) and not np.all(np.isfinite(value)):
        raise ValueError(f"`{name}` must be finite, but contains NaN or infinity.")


def widths(spacing: Any, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """The spacing along each axis; None: the unit cube in `n + 1` intervals, of interior points."""
    if spacing is None:
        return tuple(1 / (n + 1) for n in shape)
    found = tuple(spacing) if isinstance(spacing, list | tuple | np.ndarray) else (spacing,) * len(shape)
    for width in found:
        positive(width, "spacing")
    if len(found) != len(shape):
        raise ValueError(f"`spacing` needs one number or {len(shape)}, but has {len(found)}.")
    return found

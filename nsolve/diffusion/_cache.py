"""A cache of tables, by the numbers from which they follow.

A plan takes a millisecond of host time, as much as many a small model's samples. It follows from the numbers
in the sampler, the grid and the schedule, so calls with the same numbers share it.
"""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PyTree

from ._arrays import common_dtype, is_traced
from ._rows import Rows
from .denoiser import Denoiser
from .plan import Plan
from .samplers.base import AbstractSampler

_Prepared = tuple[Plan, Rows]
_MOST_TABLES, _MOST_BYTES = 64, 2**17
_PACKAGE = __name__.rpartition(".")[0] + "."
_tables: dict[Any, _Prepared] = {}


def prepared(denoiser: Denoiser, sampler: AbstractSampler | Plan, grid: Any, x_T: PyTree[Array]) -> _Prepared:
    """The plan of a sampler on a grid, and its rows for a denoiser and a state."""

    def make() -> _Prepared:
        plan = sampler if isinstance(sampler, Plan) else sampler.plan(grid, denoiser.schedule)
        return plan, Rows.of(plan, denoiser, x_T)

    if isinstance(sampler, Plan):
        return make()
    dtype = common_dtype(*jax.tree.leaves(x_T))
    asked = (sampler, grid, denoiser.schedule, denoiser.prediction, denoiser.transform is None, str(dtype))
    try:
        key = _key(asked)
    except _NotShared:
        return make()
    if key not in _tables:
        if len(_tables) >= _MOST_TABLES:
            _tables.pop(next(iter(_tables)))  # the oldest
        _tables[key] = make()
    return _tables[key]


class _NotShared(Exception):
    """No key is known for something."""


def _key(value: Any) -> Any:
    """Equal where tables are: numbers for what is made of them, what `cache_key` says for classes that have
    one.  Functions, and classes of others, may change what they return."""
    if value is None or isinstance(value, bool | int | float | str):
        return type(value), value
    if isinstance(value, tuple):
        return tuple(_key(part) for part in value)
    if isinstance(value, np.ndarray | np.generic | jax.Array) and not is_traced(value):
        if value.nbytes > _MOST_BYTES:  # too long to compare
            raise _NotShared
        return value.shape, str(value.dtype), np.asarray(value).tobytes()
    if isinstance(value, eqx.Module):
        give = getattr(type(value), "cache_key", None)  # of the class: Equinox wraps those of instances
        if give is not None:
            return type(value), _given_key(value, give(value))
        if type(value).__module__.startswith(_PACKAGE):
            return type(value), tuple(_key(part) for part in vars(value).values())
    raise _NotShared


def _given_key(value: Any, key: Any) -> Any:
    if key is None or is_traced(value):
        raise _NotShared
    try:
        hash(key)
    except TypeError:
        raise TypeError(
            f"`{type(value).__name__}.cache_key()` must be hashable, such as a tuple of numbers, but is "
            f"{key!r}. For an array write `np.asarray(values).tobytes()`; None shares nothing."
        ) from None
    return key

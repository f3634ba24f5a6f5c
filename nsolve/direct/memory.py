"""Factors that the host remembers by the *content* of their matrix.

A state that holds the matrix and its fingerprint can then be passed through `jit`, `vmap`, `scan` and
transposition as arrays: whoever solves with it finds the factors, and makes them anew where they have been
forgotten since.
"""

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from .._reasons import CODES
from .factors import Factors, Quality, Recipe, factorise
from .structure import Structure

#: Bytes of remembered factors, as a share of the machine's memory.
_SHARE = 1 / 8
_lock = threading.RLock()
_remembered: OrderedDict[bytes, tuple[Any, Quality]] = OrderedDict()
#: Of all that is remembered.
_bytes = 0.0


def fingerprint(structure: Structure, values: np.ndarray, recipe: Recipe, origin: bytes = b"") -> bytes:
    """Sixteen bytes that stand for the matrix and what is to be made of it, by what was made of another."""
    digest = hashlib.sha256(f"{recipe} {values.dtype}".encode() + structure.digest + origin)
    digest.update(np.ascontiguousarray(values).data)
    return digest.digest()[:16]


def made(structure: Structure, values: np.ndarray, recipe: Recipe) -> tuple[Factors | None, Quality]:
    """Factors, and how it went; behind the matrix's entries there may be vectors that the recipe wants."""
    return factorise(structure.matrix(values[: structure.nnz]), recipe, values[structure.nnz :])


def remembered(key: bytes, make: Callable[[], tuple[Any, Quality]]) -> tuple[Any, Quality]:
    """The factors that are remembered, or what `make()` gives."""
    found = known(key)
    if found is not None:
        return found
    try:
        found = make()
    except MemoryError:
        return None, Quality(CODES["factors_failed"], 0.0, 0)
    remember(key, found)
    return found


def known(key: bytes) -> tuple[Any, Quality] | None:
    """The factors that are remembered, if they are."""
    with _lock:
        if key in _remembered:
            _remembered.move_to_end(key)
        return _remembered.get(key)


def remember(key: bytes, found: tuple[Any, Quality]) -> None:
    """Takes factors, and drops those that were not used for long where there is no room."""
    global _bytes
    with _lock:
        if key not in _remembered:  # another thread may have been here
            _bytes += _size(found)
        _remembered[key] = found
        while len(_remembered) > 1 and _bytes > _SHARE * physical_memory():
            _, dropped = _remembered.popitem(last=False)
            _bytes -= _size(dropped)


def has_room(size: float) -> bool:
    """Whether so many bytes of factors may be remembered at once."""
    return size <= _SHARE * physical_memory()


def forget() -> None:
    """Frees all remembered factors; states that need them make them anew."""
    global _bytes
    with _lock:
        _remembered.clear()
        _bytes = 0.0


def _size(found: tuple[Any, Quality]) -> float:
    """Bytes, about: factors, the matrix beside them, and what Python's objects take."""
    factors, quality = found
    matrices = 0 if factors is None else sum(structure.nnz for structure in factors.structures)
    return 2.0**13 + 24.0 * quality.entries + 48.0 * matrices


def physical_memory() -> float:
    """Bytes."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # not a POSIX system
        return 8e9

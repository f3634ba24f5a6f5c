"""Sparse factorisations, and solves with them, as functions that XLA calls."""

from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np
from jaxtyping import Array

from .._reasons import CODES
from ..direct import memory, refine
from ..direct.factors import Kind, Quality, Recipe, Side
from ..direct.factors import factorise as factorise_on_host
from ..direct.frozen_hierarchy import FrozenHierarchy, refreshed
from ..direct.structure import structure_of
from .host import call, host_kernel

_KINDS: tuple[Kind, ...] = get_args(Kind)
_SIDES: tuple[Side, ...] = ("N", "T", "C", "H")


def _as_array(recipe: Recipe, side: Side = "N") -> np.ndarray:
    return np.array([_KINDS.index(recipe.kind), *recipe[1:], _SIDES.index(side)], np.float32)


def _recipe(how: np.ndarray) -> Recipe:
    kind, *numbers = how.tolist()[:-1]
    return Recipe(_KINDS[int(kind)], *numbers)


def _made(recipe: Recipe, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray) -> Any:
    """Factors, and how it went; behind the matrix's entries there may be vectors that the recipe wants."""
    structure = structure_of(indptr, indices)
    return factorise_on_host(structure.matrix(values[: structure.nnz]), recipe, values[structure.nnz :])


def _frozen(
    recipe: Recipe, indptr: np.ndarray, indices: np.ndarray, origin: np.ndarray, key: bytes
) -> FrozenHierarchy | None:
    """The patterns of the hierarchy that is remembered under a key, of a matrix with the entries `origin`."""

    def make() -> tuple[FrozenHierarchy | None, Quality]:
        factors, quality = memory.remembered(key, lambda: _made(recipe, indptr, indices, origin))
        if factors is None or factors.hierarchy is None:
            return None, quality
        kept = FrozenHierarchy(structure_of(indptr, indices), origin, factors.hierarchy)
        return kept, quality._replace(entries=kept.nbytes // 24)

    return memory.remembered(b"frozen" + key, make)[0]


def _remade(
    recipe: Recipe, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, origin: np.ndarray
) -> Any:
    """What a state's factors are, once they are gone."""
    if len(origin) and not np.array_equal(values, origin):
        key = memory.fingerprint(structure_of(indptr, indices), origin, recipe)
        found = refreshed(_frozen(recipe, indptr, indices, origin, key), values)
        if found is not None:
            return found
    return _made(recipe, indptr, indices, values)


def _factorise(
    how: np.ndarray, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray
) -> Sequence[np.ndarray]:
    recipe, structure = _recipe(how), structure_of(indptr, indices)
    key = memory.fingerprint(structure, values, recipe)
    _, quality = memory.remembered(key, lambda: _made(recipe, indptr, indices, values))
    return _results(quality, values.dtype, key)


def _results(quality: Quality, dtype: Any, key: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.array([quality.reciprocal_condition], np.finfo(dtype).dtype),
        np.array([quality.code, quality.entries], np.int32),
        np.frombuffer(key, np.uint32),
    )


def _refresh(
    how: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    origin_key: np.ndarray,
    origin: np.ndarray,
) -> Sequence[np.ndarray]:
    recipe, structure, first = _recipe(how), structure_of(indptr, indices), origin_key.tobytes()
    key, found = first, None
    if np.array_equal(values, origin):
        found = memory.remembered(key, lambda: _made(recipe, indptr, indices, origin))
    else:
        key = memory.fingerprint(structure, values, recipe, first)
        found = memory.known(key)
    if found is None:
        try:
            found = refreshed(_frozen(recipe, indptr, indices, origin, first), values)
        except MemoryError:
            pass
        if found is None:
            return *_factorise(how, indptr, indices, values), np.zeros(1, np.int32)
        memory.remember(key, found)
    return *_results(found[1], values.dtype, key), np.ones(1, np.int32)


def _solve(
    how: np.ndarray,
    key: np.ndarray,
    tolerances: np.ndarray,
    b: np.ndarray,
    matrix: Callable[[], Sequence[np.ndarray]],
) -> Sequence[np.ndarray]:
    factors, quality = memory.remembered(key.tobytes(), lambda: _remade(_recipe(how), *matrix()))
    solved = refine.solve(factors, quality, b, _SIDES[int(how[-1])], *tolerances.tolist())
    return (
        solved.value,
        np.array(solved[3:], np.finfo(b.dtype).dtype),
        np.array(solved[1:3], np.int32),
    )


_FACTORISE = host_kernel("factorise", _factorise, failed=CODES["factors_failed"])
_REFRESH = host_kernel("refresh_hierarchy", _refresh, failed=CODES["factors_failed"])
_SOLVE = host_kernel("solve_with_factors", _solve, deferred=4, failed=CODES["factors_failed"])


def factorise(recipe: Recipe, indptr: Array, indices: Array, values: Array) -> tuple[Array, Array, Array]:
    """The reciprocal condition (of incomplete factors the shift) `(1,)`, a reason's number and the entries of
    the factors `(2,)`, and the key under which they are remembered `(4,)`; behind the entries, `values` may
    hold vectors that the recipe wants."""
    real = np.finfo(values.dtype).dtype
    measures, counts, key = call(
        _FACTORISE,
        *(_as_array(recipe), indptr, indices, values),
        like=[(1, real), (2, np.int32), (4, np.uint32)],
    )
    return measures, counts, key


def refresh(
    recipe: Recipe, indptr: Array, indices: Array, values: Array, origin_key: Array, origin: Array
) -> tuple[Array, Array, Array, Array]:
    """What `factorise` gives, on the patterns of the hierarchy of a matrix with the entries `origin` where
    they fit, and whether they do."""
    real = np.finfo(values.dtype).dtype
    measures, counts, key, fits = call(
        _REFRESH,
        *(_as_array(recipe), indptr, indices, values, origin_key, origin),
        like=[(1, real), (2, np.int32), (4, np.uint32), (1, np.int32)],
    )
    return measures, counts, key, fits[0] != 0


def solve(
    recipe: Recipe,
    side: Side,
    indptr: Array,
    indices: Array,
    values: Array,
    origin: Array,
    key: Array,
    tolerances: Array,
    b: Array,
) -> tuple[Array, Array, Array]:
    """The solution, the norm of its residual, its backward error and the relative residual `(3,)`, and a
    reason's number and the steps of refinement `(2,)`; `values` are those of the matrix that the key stands
    for, `origin` those whose patterns it is on, if any, `tolerances` are `rtol` and `atol`."""
    value, measures, counts = call(
        _SOLVE,
        *(_as_array(recipe, side), key, tolerances, b, indptr, indices, values, origin),
        like=[(b.size, b.dtype), (3, np.finfo(b.dtype).dtype), (2, np.int32)],
    )
    return value, measures, counts


def hierarchy(recipe: Recipe, *arrays: Array, key: Array) -> Any:
    """That of the state with these `indptr, indices, values, origin`; None where there is none."""
    matrix = [np.asarray(array) for array in arrays]
    found, _ = memory.remembered(
        np.asarray(key).tobytes(), lambda: _remade(_recipe(_as_array(recipe)), *matrix)
    )
    return None if found is None else found.hierarchy

"""Sparse factorisations, and solves with them, as functions that XLA calls."""

from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np
from jaxtyping import Array

from .._reasons import CODES
from ..direct import memory, refine
from ..direct.factors import Factors, Kind, Quality, Recipe, Side
from ..direct.frozen_hierarchy import FrozenHierarchy
from ..direct.structure import Structure, structure_of
from .host import call, host_kernel

_KINDS: tuple[Kind, ...] = get_args(Kind)
_SIDES: tuple[Side, ...] = ("N", "T", "C", "H")
#: For each entry of a matrix, bytes of two hierarchies and the patterns that they share, about.
_REFRESHABLE = 400


def _as_array(recipe: Recipe, side: Side = "N") -> np.ndarray:
    return np.array([_KINDS.index(recipe.kind), *recipe[1:], _SIDES.index(side)], np.float32)


def _recipe(how: np.ndarray) -> Recipe:
    kind, *numbers = how.tolist()[:-1]
    return Recipe(_KINDS[int(kind)], *numbers)


def _frozen(recipe: Recipe, structure: Structure, origin: np.ndarray, key: bytes) -> FrozenHierarchy | None:
    """The patterns of the hierarchy that is remembered under a key, of a matrix with the entries `origin`."""

    def make() -> tuple[FrozenHierarchy | None, Quality]:
        factors, quality = memory.remembered(key, lambda: memory.made(structure, origin, recipe))
        if factors is None or factors.hierarchy is None:
            return None, quality
        kept = FrozenHierarchy(structure, origin, factors.hierarchy)
        return kept, quality._replace(entries=kept.nbytes // 24)

    return memory.remembered(b"frozen" + key, make)[0]


def _refreshed(
    recipe: Recipe, structure: Structure, values: np.ndarray, origin: np.ndarray, key: bytes
) -> tuple[Factors, Quality] | None:
    """On the patterns of the hierarchy that `_frozen` finds; None where they do not fit."""
    kept = _frozen(recipe, structure, origin, key)
    made = None if kept is None else kept.refreshed(values)
    if kept is None or made is None:
        return None
    factors = Factors(made, None, made.order, made.order, values.dtype)
    factors.structures = (structure,)
    return factors, Quality(CODES["converged"], 0.0, made.nnz)


def _remade(
    recipe: Recipe, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, origin: np.ndarray
) -> tuple[Factors | None, Quality]:
    """What a state's factors are, once they are gone."""
    structure = structure_of(indptr, indices)
    if len(origin) and not np.array_equal(values, origin):
        key = memory.fingerprint(structure, origin, recipe)
        found = _refreshed(recipe, structure, values, origin, key)
        if found is not None:
            return found
    return memory.made(structure, values, recipe)


def _factorise(
    how: np.ndarray, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray
) -> Sequence[np.ndarray]:
    recipe, structure = _recipe(how), structure_of(indptr, indices)
    key = memory.fingerprint(structure, values, recipe)
    _, quality = memory.remembered(key, lambda: memory.made(structure, values, recipe))
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
    recipe, first, structure = _recipe(how), origin_key.tobytes(), structure_of(indptr, indices)
    if np.array_equal(values, origin):
        key, found = first, memory.remembered(first, lambda: memory.made(structure, origin, recipe))
    else:
        key = memory.fingerprint(structure, values, recipe, first)
        found = memory.known(key)
        if found is None:
            # What would be forgotten at once is not worth finding.
            if memory.has_room(_REFRESHABLE * len(values)):
                found = _refreshed(recipe, structure, values, origin, first)
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

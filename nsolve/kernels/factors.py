"""Sparse factorisations, and solves with them, as functions that XLA calls."""

from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np
from jaxtyping import Array

from .._reasons import CODES
from ..direct import memory, refine
from ..direct.factors import Kind, Recipe, Side
from ..direct.structure import structure_of
from .host import call, host_kernel

_KINDS: tuple[Kind, ...] = get_args(Kind)
_SIDES: tuple[Side, ...] = ("N", "T", "C", "H")


def _as_array(recipe: Recipe, side: Side = "N") -> np.ndarray:
    return np.array([_KINDS.index(recipe.kind), *recipe[1:], _SIDES.index(side)], np.float32)


def _recipe(how: np.ndarray) -> Recipe:
    kind, *numbers = how.tolist()[:-1]
    return Recipe(_KINDS[int(kind)], *numbers)


def _given(
    recipe: Recipe, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray
) -> tuple[Any, Recipe, np.ndarray]:
    """The matrix, the recipe, and the vectors that follow the matrix's entries."""
    structure = structure_of(indptr, indices)
    return structure.matrix(values[: structure.nnz]), recipe, values[structure.nnz :]


def _factorise(
    how: np.ndarray, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray
) -> Sequence[np.ndarray]:
    recipe, structure = _recipe(how), structure_of(indptr, indices)
    key = memory.fingerprint(structure, values, recipe)
    _, quality = memory.remembered(key, lambda: _given(recipe, indptr, indices, values))
    return (
        np.array([quality.reciprocal_condition], np.finfo(values.dtype).dtype),
        np.array([quality.code, quality.entries], np.int32),
        np.frombuffer(key, np.uint32),
    )


def _solve(
    how: np.ndarray,
    key: np.ndarray,
    tolerances: np.ndarray,
    b: np.ndarray,
    matrix: Callable[[], Sequence[np.ndarray]],
) -> Sequence[np.ndarray]:
    factors, quality = memory.remembered(key.tobytes(), lambda: _given(_recipe(how), *matrix()))
    solved = refine.solve(factors, quality, b, _SIDES[int(how[-1])], *tolerances.tolist())
    return (
        solved.value,
        np.array(solved[3:], np.finfo(b.dtype).dtype),
        np.array(solved[1:3], np.int32),
    )


_FACTORISE = host_kernel("factorise", _factorise, failed=CODES["factors_failed"])
_SOLVE = host_kernel("solve_with_factors", _solve, deferred=3, failed=CODES["factors_failed"])


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


def solve(
    recipe: Recipe,
    side: Side,
    indptr: Array,
    indices: Array,
    values: Array,
    key: Array,
    tolerances: Array,
    b: Array,
) -> tuple[Array, Array, Array]:
    """The solution, the norm of its residual, its backward error and the relative residual `(3,)`, and a
    reason's number and the steps of refinement `(2,)`; `values` are those of the matrix that the key stands
    for, `tolerances` are `rtol` and `atol`."""
    value, measures, counts = call(
        _SOLVE,
        *(_as_array(recipe, side), key, tolerances, b, indptr, indices, values),
        like=[(b.size, b.dtype), (3, np.finfo(b.dtype).dtype), (2, np.int32)],
    )
    return value, measures, counts


def table(recipe: Recipe, indptr: Array, indices: Array, values: Array, key: Array) -> list[tuple[int, int]]:
    """Unknowns and entries of each level of a hierarchy; none where there is no hierarchy."""
    arrays = [np.asarray(array) for array in (indptr, indices, values)]
    found, _ = memory.remembered(
        np.asarray(key).tobytes(), lambda: _given(_recipe(_as_array(recipe)), *arrays)
    )
    return [] if found is None else found.table

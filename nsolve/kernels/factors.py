"""Sparse factorisations, and solves with them, as functions that XLA calls."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array

from .._reasons import CODES
from ..direct import memory, refine
from ..direct.factors import Kind, Recipe, Side
from .host import call, host_kernel

_KINDS: tuple[Kind, ...] = ("lu", "cholesky", "incomplete", "incomplete_cholesky")
_SIDES: tuple[Side, ...] = ("N", "T", "C", "H")


def _csr(indptr: np.ndarray, indices: np.ndarray, values: np.ndarray) -> Any:
    import scipy.sparse as sp  # slow to import

    n = len(indptr) - 1
    return sp.csr_array((values, indices, indptr), shape=(n, n))


def _as_array(recipe: Recipe) -> np.ndarray:
    return np.array([_KINDS.index(recipe.kind), *recipe[1:]], np.float32)


def _recipe(array: np.ndarray) -> Recipe:
    return Recipe(_KINDS[int(array[0])], *map(float, array[1:]))


def _factorise(
    recipe: np.ndarray, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray
) -> Sequence[np.ndarray]:
    key = memory.fingerprint(indptr, indices, values, _recipe(recipe))
    _, quality = memory.remembered(key, _recipe(recipe), lambda: _csr(indptr, indices, values))
    real = np.finfo(values.dtype).dtype
    return (
        np.array([quality.reciprocal_condition], real),
        np.array([quality.code, quality.entries], np.int32),
        np.frombuffer(key, np.uint32),
    )


def _solve(
    recipe: np.ndarray,
    side: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    key: np.ndarray,
    tolerances: np.ndarray,
    b: np.ndarray,
) -> Sequence[np.ndarray]:
    factors, quality = memory.remembered(
        key.tobytes(), _recipe(recipe), lambda: _csr(indptr, indices, values)
    )
    solved = refine.solve(factors, quality, b, _SIDES[int(side[0])], *map(float, tolerances))
    return (
        solved.value,
        np.array([solved.residual_norm, solved.backward_error]).astype(np.finfo(b.dtype).dtype),
        np.array([solved.code, solved.steps], np.int32),
    )


_FACTORISE = host_kernel("factorise", _factorise, failed=CODES["factors_failed"])
_SOLVE = host_kernel("solve_with_factors", _solve, failed=CODES["factors_failed"])


def factorise(recipe: Recipe, indptr: Array, indices: Array, values: Array) -> tuple[Array, Array, Array]:
    """The reciprocal condition (of incomplete factors the shift) `(1,)`, a reason's number and the entries of
    the factors `(2,)`, and the key under which they are remembered `(4,)`."""
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
    """The solution, the norm of its residual and its backward error `(2,)`, and a reason's number and the
    steps of refinement `(2,)`; `values` are those of the matrix that the key stands for, `tolerances` are
    `rtol` and `atol`."""
    place = np.array([_SIDES.index(side)], np.int32)
    value, measures, counts = call(
        _SOLVE,
        *(_as_array(recipe), place, indptr, indices, values, key, tolerances, b),
        like=[(b.size, b.dtype), (2, np.finfo(b.dtype).dtype), (2, np.int32)],
    )
    return value, measures, counts

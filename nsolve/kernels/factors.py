"""Sparse factorisations, and solves with them, as functions that XLA calls: `nsolve.direct.factors` works."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array

from ..direct import factors as host
from ..direct.factors import Kind, Side
from .host import call, host_kernel

_KINDS: tuple[Kind, ...] = ("lu", "cholesky")
_SIDES: tuple[Side, ...] = ("N", "T", "C", "H")


def _csr(indptr: np.ndarray, indices: np.ndarray, values: np.ndarray) -> Any:
    import scipy.sparse as sp  # slow to import

    n = len(indptr) - 1
    return sp.csr_array((values, indices, indptr), shape=(n, n))


def _factorise(
    kind: np.ndarray, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray
) -> Sequence[np.ndarray]:
    name = _KINDS[int(kind[0])]
    key = host.fingerprint(indptr, indices, values, name)
    _, quality = host.remembered(key, name, lambda: _csr(indptr, indices, values))
    real = np.finfo(values.dtype).dtype
    return (
        np.array([quality.reciprocal_condition], real),
        np.array([quality.code, quality.entries], np.int32),
        np.frombuffer(key, np.uint32),
    )


def _solve(
    flags: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    key: np.ndarray,
    tolerances: np.ndarray,
    b: np.ndarray,
) -> Sequence[np.ndarray]:
    kind, side = _KINDS[int(flags[0])], _SIDES[int(flags[1])]
    factors, quality = host.remembered(key.tobytes(), kind, lambda: _csr(indptr, indices, values))
    solved = host.solve(factors, quality, b, side, *map(float, tolerances))
    return (
        solved.value,
        np.array([solved.residual_norm, solved.backward_error]).astype(np.finfo(b.dtype).dtype),
        np.array([solved.code, solved.steps], np.int32),
    )


_FACTORISE = host_kernel("factorise", _factorise)
_SOLVE = host_kernel("solve_with_factors", _solve)


def factorise(kind: Kind, indptr: Array, indices: Array, values: Array) -> tuple[Array, Array, Array]:
    """The reciprocal condition `(1,)`, a reason's number and the entries of the factors `(2,)`, and the key
    under which they are remembered `(4,)`."""
    real = np.finfo(values.dtype).dtype
    measures, counts, key = call(
        _FACTORISE,
        *(np.array([_KINDS.index(kind)], np.int32), indptr, indices, values),
        like=[(1, real), (2, np.int32), (4, np.uint32)],
    )
    return measures, counts, key


def solve(
    kind: Kind,
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
    flags = np.array([_KINDS.index(kind), _SIDES.index(side)], np.int32)
    value, measures, counts = call(
        _SOLVE,
        *(flags, indptr, indices, values, key, tolerances, b),
        like=[(b.size, b.dtype), (2, np.finfo(b.dtype).dtype), (2, np.int32)],
    )
    return value, measures, counts

"""One sweep of Gauss and Seidel before a coarse grid, and one in the other direction after it, on the host.

Matrices come without their diagonal, rows compressed, columns ascending; `middle` says where in each row the
entries right of the diagonal begin, `inverse` holds the inverses of the diagonal, zero for empty rows.
"""

from typing import Any

import numpy as np

from .. import _ffi
from ._numba import compiled


@compiled
def _down(indptr, middle, indices, values, inverse, p_indptr, p_indices, p_values, b, x, coarse):
    for i in range(b.size):
        total = b[i]
        for k in range(indptr[i], middle[i]):
            total -= values[k] * x[indices[k]]
        x[i] = total * inverse[i]
    for i in range(coarse.size):
        coarse[i] = 0
    # What is left is due to the entries on the right alone.
    for i in range(b.size):
        left = x.dtype.type(0)
        for k in range(middle[i], indptr[i + 1]):
            left -= values[k] * x[indices[k]]
        for k in range(p_indptr[i], p_indptr[i + 1]):
            coarse[p_indices[k]] += p_values[k].conjugate() * left


@compiled
def _up(indptr, middle, indices, values, inverse, p_indptr, p_indices, p_values, b, x, coarse):
    for i in range(b.size):
        total = x[i]
        for k in range(p_indptr[i], p_indptr[i + 1]):
            total += p_values[k] * coarse[p_indices[k]]
        x[i] = total
    one = np.uint64(1)
    i = np.uint64(b.size)
    for _ in range(b.size):
        i -= one
        total = b[i]
        for k in range(indptr[i], indptr[i + one]):
            total -= values[k] * x[indices[k]]
        x[i] = total * inverse[i]


def _parts(indptr: Any, middle: Any, indices: Any, values: Any, n: int) -> tuple[Any, Any]:
    import scipy.sparse as sp  # slow to import

    matrix = sp.csr_array((values, indices.astype(np.int32), indptr.astype(np.int32)), shape=(n, n))
    return sp.tril(matrix, -1, "csr"), sp.triu(matrix, 1, "csr")


def _solved(part: Any, inverse: np.ndarray, b: np.ndarray, lower: bool) -> np.ndarray:
    """`(D + part)^-1 b`."""
    import scipy.sparse as sp
    import scipy.sparse.linalg as spla

    unit = (part @ sp.diags_array(inverse) + sp.eye_array(b.size, dtype=b.dtype)).tocsr()
    return inverse * spla.spsolve_triangular(unit, b, lower=lower)


def _interpolation(p_indptr: Any, p_indices: Any, p_values: Any, coarse: np.ndarray) -> Any:
    import scipy.sparse as sp

    parts = p_values, p_indices.astype(np.int32), p_indptr.astype(np.int32)
    return sp.csr_array(parts, shape=(p_indptr.size - 1, coarse.size))


def _down_by_scipy(indptr, middle, indices, values, inverse, p_indptr, p_indices, p_values, b, x, coarse):
    below, above = _parts(indptr, middle, indices, values, b.size)
    x[:] = _solved(below, inverse, b, True)
    coarse[:] = _interpolation(p_indptr, p_indices, p_values, coarse).conj().T @ -(above @ x)


def _up_by_scipy(indptr, middle, indices, values, inverse, p_indptr, p_indices, p_values, b, x, coarse):
    below, above = _parts(indptr, middle, indices, values, b.size)
    x += _interpolation(p_indptr, p_indices, p_values, coarse) @ coarse
    x[:] = _solved(above, inverse, b - below @ x, False)


def down(level: tuple[np.ndarray, ...], b: np.ndarray, x: np.ndarray, coarse: np.ndarray) -> None:
    """`x = (D + L)^-1 b` and `coarse = P^H (b - A x)`, for a level `indptr, middle, indices, values, inverse`
    of `A` and `indptr, indices, values` of `P`."""
    _ffi.on_host(_down, _down_by_scipy, *level, b, x, coarse)


def up(level: tuple[np.ndarray, ...], b: np.ndarray, x: np.ndarray, coarse: np.ndarray) -> None:
    """`x + P coarse`, and then a sweep from the last unknown to the first, in place."""
    _ffi.on_host(_up, _up_by_scipy, *level, b, x, coarse)

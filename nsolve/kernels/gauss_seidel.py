"""One sweep of Gauss and Seidel before a coarse grid, and one in the other direction after it, on the host.

Matrices come without their diagonal, rows compressed, columns ascending; `middle` says where in each row the
entries right of the diagonal begin, `inverse` holds the inverses of the diagonal, zero for empty rows.

The time goes into reading the matrix.  Of a Hermitian one the lower triangle `L` is read, once in each
direction: whoever finds `x[i]` by row `i` has at hand what `x[i]` does to the rows above it.  Where
`(D + L) x = b`, and `x + P c` is swept from the last unknown to the first, the outcome `y` fulfils
`(D + L^H) y = D x - L P c`.
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


@compiled
def _down_by_half(indptr, indices, values, inverse, p_indptr, p_indices, p_values, b, x, left, coarse):
    for i in range(b.size):
        total = b[i]
        for k in range(indptr[i], indptr[i + 1]):
            total -= values[k] * x[indices[k]]
        total *= inverse[i]
        x[i] = total
        left[i] = 0
        for k in range(indptr[i], indptr[i + 1]):
            left[indices[k]] -= values[k].conjugate() * total
    for i in range(coarse.size):
        coarse[i] = 0
    for i in range(b.size):
        total = left[i]
        for k in range(p_indptr[i], p_indptr[i + 1]):
            coarse[p_indices[k]] += p_values[k].conjugate() * total


@compiled
def _up_by_half(indptr, indices, values, inverse, p_indptr, p_indices, p_values, x, coarse, step, above):
    for i in range(x.size):
        total = x.dtype.type(0)
        for k in range(p_indptr[i], p_indptr[i + 1]):
            total += p_values[k] * coarse[p_indices[k]]
        step[i] = total
        above[i] = 0
    one = np.uint64(1)
    i = np.uint64(x.size)
    for _ in range(x.size):
        i -= one
        total = x.dtype.type(0)
        for k in range(indptr[i], indptr[i + one]):
            total += values[k] * step[indices[k]]
        # What the row before has changed comes last, since it comes late.
        total = x[i] - total * inverse[i] + above[i] * inverse[i]
        x[i] = total
        for k in range(indptr[i], indptr[i + one]):
            above[indices[k]] -= values[k].conjugate() * total


@compiled
def _lower(indptr, middle, indices, values):
    n = middle.size
    starts = np.empty(n + 1, np.uint32)
    size = 0
    for i in range(n):
        starts[i] = size
        size += np.intp(middle[i]) - np.intp(indptr[i])
    starts[n] = size
    found, kept = np.empty(size, np.uint32), np.empty(size, values.dtype)
    place = 0
    for i in range(n):
        for k in range(indptr[i], middle[i]):
            found[place] = indices[k]
            kept[place] = values[k]
            place += 1
    return starts, found, kept


def _lower_by_numpy(indptr, middle, indices, values):
    lengths = np.diff(indptr.astype(np.int64))
    rows = np.repeat(np.arange(middle.size), lengths)
    below = np.arange(indices.size) < middle[rows]
    starts = np.concatenate([[0], np.cumsum(middle.astype(np.int64) - indptr[:-1])])
    return starts.astype(np.uint32), indices[below], values[below]


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


def _half(indptr: Any, indices: Any, values: Any) -> Any:
    import scipy.sparse as sp

    n = indptr.size - 1
    return sp.csr_array((values, indices.astype(np.int32), indptr.astype(np.int32)), shape=(n, n))


def _down_by_half_by_scipy(
    indptr, indices, values, inverse, p_indptr, p_indices, p_values, b, x, left, coarse
):
    below = _half(indptr, indices, values)
    x[:] = _solved(below, inverse, b, True)
    left[:] = -(below.conj().T @ x)
    coarse[:] = _interpolation(p_indptr, p_indices, p_values, coarse).conj().T @ left


def _up_by_half_by_scipy(
    indptr, indices, values, inverse, p_indptr, p_indices, p_values, x, coarse, step, above
):
    below = _half(indptr, indices, values)
    step[:] = _interpolation(p_indptr, p_indices, p_values, coarse) @ coarse
    scaled = np.divide(x, inverse, where=inverse != 0, out=np.zeros_like(x))
    x[:] = _solved(below.conj().T.tocsr(), inverse, scaled - below @ step, False)


def lower(level: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Of a Hermitian level what `down_by_half` and `up_by_half` read: `indptr, indices, values` of the lower
    triangle, and the rest."""
    return *_ffi.on_host(_lower, _lower_by_numpy, *level[:4]), *level[4:]


def down_by_half(level: tuple[np.ndarray, ...], b: np.ndarray, x: np.ndarray, coarse: np.ndarray) -> None:
    """`down`, of a Hermitian matrix by its lower triangle."""
    _ffi.on_host(_down_by_half, _down_by_half_by_scipy, *level, b, x, np.empty_like(x), coarse)


def up_by_half(level: tuple[np.ndarray, ...], x: np.ndarray, coarse: np.ndarray) -> None:
    """`up`, where `x` is as `down_by_half` has left it."""
    work = np.empty_like(x), np.empty_like(x)
    _ffi.on_host(_up_by_half, _up_by_half_by_scipy, *level, x, coarse, *work)


def down(level: tuple[np.ndarray, ...], b: np.ndarray, x: np.ndarray, coarse: np.ndarray) -> None:
    """`x = (D + L)^-1 b` and `coarse = P^H (b - A x)`, for a level `indptr, middle, indices, values, inverse`
    of `A` and `indptr, indices, values` of `P`."""
    _ffi.on_host(_down, _down_by_scipy, *level, b, x, coarse)


def up(level: tuple[np.ndarray, ...], b: np.ndarray, x: np.ndarray, coarse: np.ndarray) -> None:
    """`x + P coarse`, and then a sweep from the last unknown to the first, in place."""
    _ffi.on_host(_up, _up_by_scipy, *level, b, x, coarse)

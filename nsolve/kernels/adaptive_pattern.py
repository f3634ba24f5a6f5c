"""Where the rows of a factorised sparse approximate inverse have entries: found row by row, on the host.

Row `i` starts from its diagonal entry.  Of the row `g` that minimises `g A g^H` on the places that it has,
with one at the diagonal, the gradient `g A` says what each further place `j` is worth: `|(g A)_j|^2 / A_jj`
is what it alone would take from `g A g^H`.  The product of these numbers over all rows, divided by the
determinant, is the Kaporin number of `G A G^H` to the power of the size.  The best place is added, and so on.

Janna and Ferronato (2011), doi:10.1137/100810368; they add several places at a time, by the gradient alone,
which depends on how the matrix is scaled.
"""

from typing import Any

import numpy as np

from .. import _ffi
from ._numba import compiled

#: Rows that are worked on at a time, without the kernel.
_AT_A_TIME = 4096


@compiled
def _grow(indptr, indices, values, diagonal, entries):
    n = diagonal.size
    columns, counts = np.empty((n, entries), np.int32), np.zeros(n, np.int64)
    place = np.full(n, -1, np.int32)  # of a column among those that the row has
    met, round_number = np.full(n, -1, np.int64), 0
    gradient, candidates = np.zeros_like(diagonal), np.empty(n, np.int32)
    have, factor = np.empty(entries, np.int32), np.zeros((entries, entries), values.dtype)
    solved, row = np.zeros(entries, values.dtype), np.zeros(entries, values.dtype)
    for i in range(n):
        size = 0
        while size < entries:
            round_number += 1
            count = 0
            for source in range(-1, size):
                at, weight = i, values.dtype.type(1)
                if source >= 0:
                    at, weight = have[source], row[source].conjugate()
                for k in range(indptr[at], indptr[at + 1]):
                    j = indices[k]
                    if j >= i:
                        break
                    if place[j] >= 0:
                        continue
                    if met[j] != round_number:
                        met[j] = round_number
                        gradient[j] = 0
                        candidates[count] = j
                        count += 1
                    gradient[j] += weight * values[k]
            best, most = -1, 0.0
            for c in range(count):
                j = candidates[c]
                worth = (gradient[j] * gradient[j].conjugate()).real / diagonal[j].real
                if worth > most or (worth == most and worth > 0 and j > best):
                    best, most = j, worth
            if best < 0:
                break
            # One more row of the Cholesky factor of the small system A_PP h = -A_Pi, for the conjugate of the
            # row that minimises.
            for p in range(size):
                factor[size, p] = 0
            pivot, last = diagonal[best].real, values.dtype.type(0)
            for k in range(indptr[best], indptr[best + 1]):
                if indices[k] == i:
                    last = -values[k]
                elif place[indices[k]] >= 0:
                    factor[size, place[indices[k]]] = values[k]
            for p in range(size):
                total = factor[size, p]
                for q in range(p):
                    total -= factor[size, q] * factor[p, q].conjugate()
                total /= factor[p, p]
                factor[size, p] = total
                pivot -= (total * total.conjugate()).real
                last -= total * solved[p]
            if not pivot > 0:
                break
            factor[size, size] = np.sqrt(pivot)
            solved[size] = last / factor[size, size]
            place[best], have[size] = size, best
            size += 1
            for back in range(size):
                p = size - 1 - back
                total = solved[p]
                for q in range(p + 1, size):
                    total -= factor[q, p].conjugate() * row[q]
                row[p] = total / factor[p, p]
        counts[i] = size
        for p in range(size):
            place[have[p]] = -1
            columns[i, p] = have[p]
        columns[i, :size].sort()
    return columns, counts


def _grow_by_scipy(indptr, indices, values, diagonal, entries):
    """The same, all rows at once."""
    import scipy.sparse as sp  # slow to import

    n = len(diagonal)
    matrix = sp.csr_array((values, indices, indptr), shape=(n, n))
    columns, counts = np.full((n, entries), n, np.int32), np.zeros(n, np.int64)
    for _ in range(entries):
        inside = np.arange(entries) < counts[:, None]
        minimal = _minimal_rows(matrix, columns, inside)
        numbers = np.nonzero(inside)[0], columns[inside]
        factor = sp.csr_array((minimal[inside], numbers), shape=(n, n)) + sp.eye_array(n)
        gradient = sp.coo_array(sp.tril(factor @ matrix, -1))
        worth = abs(gradient.data) ** 2 / diagonal.real[gradient.col]
        keys = gradient.row.astype(np.int64) * n + gradient.col
        (good,) = np.nonzero(~np.isin(keys, numbers[0] * n + numbers[1]) & (worth > 0))
        order = good[np.lexsort((-gradient.col[good], -worth[good], gradient.row[good]))]
        rows, first = np.unique(gradient.row[order], return_index=True)
        columns[rows, counts[rows]] = gradient.col[order[first]]
        counts[rows] += 1
    return np.sort(columns, axis=1), counts


def _minimal_rows(matrix: Any, columns: np.ndarray, inside: np.ndarray) -> np.ndarray:
    minimal = np.zeros(columns.shape, matrix.dtype)
    for start in range(0, len(columns), _AT_A_TIME):
        here = slice(start, start + _AT_A_TIME)
        there, safe = inside[here], np.where(inside[here], columns[here], 0)
        both = there[:, :, None] & there[:, None, :]
        rows, cols = np.broadcast_arrays(safe[:, :, None], safe[:, None, :])
        systems = np.where(both, np.asarray(matrix[rows.ravel(), cols.ravel()]).reshape(both.shape), 0)
        systems += np.eye(columns.shape[1]) * ~there[:, None, :]
        own = np.broadcast_to(np.arange(start, start + len(safe))[:, None], safe.shape)
        vectors = np.where(there, np.asarray(matrix[own.ravel(), safe.ravel()]).reshape(safe.shape), 0)
        minimal[here] = -np.linalg.solve(systems.transpose(0, 2, 1), vectors[..., None])[..., 0]
    return minimal


def adaptive_pattern(
    indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, diagonal: np.ndarray, entries: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where each row has at most so many entries left of the diagonal, and itself: `indptr, indices`.

    The matrix is Hermitian and stored as a whole; its diagonal is positive.
    """
    columns, counts = _ffi.on_host(_grow, _grow_by_scipy, indptr, indices, values, diagonal, entries)
    n = len(diagonal)
    columns = np.concatenate([columns, np.empty((n, 1), np.int32)], axis=1)
    columns[np.arange(n), counts] = np.arange(n)
    inside = np.arange(entries + 1) <= counts[:, None]
    return np.concatenate([[0], np.cumsum(counts + 1)]), columns[inside]

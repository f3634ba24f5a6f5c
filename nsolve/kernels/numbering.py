"""Another order of the unknowns, where neighbours are numbered far apart."""

from typing import Any

import numpy as np

from .. import _ffi
from ._numba import compiled
from .galerkin import first_gap

#: Unknowns that are numbered so near to each other are found in a cache.
_NEAR = 2**15
#: From this share of far entries on the unknowns are numbered anew.
_SCATTERED = 0.25


@compiled
def _far(indptr, indices, distance):
    """How many entries lie so far from the diagonal."""
    count = 0
    for i in range(indptr.size - 1):
        for k in range(indptr[i], indptr[i + 1]):
            count += abs(indices[k] - i) > distance
    return count


@compiled
def _breadth_first(indptr, indices):
    """The unknowns in an order in which neighbours are near to each other."""
    n = indptr.size - 1
    order, seen = np.empty(n, np.int32), np.zeros(n, np.bool_)
    size, head, start = 0, 0, 0
    while size < n:
        while seen[start]:
            start += 1
        seen[start] = True
        order[size] = start
        size += 1
        while head < size:
            i = order[head]
            head += 1
            for k in range(indptr[i], indptr[i + 1]):
                j = indices[k]
                if not seen[j]:
                    seen[j] = True
                    order[size] = j
                    size += 1
    return order


@compiled
def _reordered(indptr, indices, values, order):
    """`A[order][:, order]`, columns ascending."""
    n = order.size
    rank, starts = np.empty(n, np.int32), np.empty(n + 1, np.int32)
    found, result = np.empty(indices.size, np.int32), np.empty(indices.size)
    for i in range(n):
        rank[order[i]] = i
    starts[0] = 0
    for i in range(n):
        start, old = starts[i], indptr[order[i]]
        size = indptr[order[i] + 1] - old
        starts[i + 1] = start + size
        for k in range(size):
            found[start + k] = rank[indices[old + k]]
            result[start + k] = values[old + k]
        gap = first_gap(size)
        while gap > 0:
            for k in range(start + gap, start + size):
                column, value, m = found[k], result[k], k - gap
                while m >= start and found[m] > column:
                    found[m + gap], result[m + gap] = found[m], result[m]
                    m -= gap
                found[m + gap], result[m + gap] = column, value
            gap //= 3
    return starts, found, result


def nearby(matrix: Any) -> np.ndarray | None:
    """An order of the unknowns in which neighbours stand near to each other, for a `csr_array` with a
    symmetric pattern; None where they do already."""
    return _ffi.on_host(_nearby, _nearby_by_scipy, matrix.indptr, matrix.indices)


def reordered(matrix: Any, order: np.ndarray) -> Any:
    """`A[order][:, order]` in canonical format."""
    return _ffi.on_host(_reordered_matrix, _reordered_by_scipy, matrix, order)


def _nearby(indptr: np.ndarray, indices: np.ndarray) -> np.ndarray | None:
    if indptr.size <= _NEAR or _far(indptr, indices, _NEAR) < _SCATTERED * indices.size:
        return None
    return _breadth_first(indptr, indices)


def _reordered_matrix(matrix: Any, order: np.ndarray) -> Any:
    import scipy.sparse as sp

    indptr, indices, values = _reordered(matrix.indptr, matrix.indices, matrix.data, order)
    return sp.csr_array((values, indices, indptr), shape=matrix.shape)


def _nearby_by_scipy(indptr, indices):
    return None


def _reordered_by_scipy(matrix, order):
    made = matrix[order][:, order]
    made.sort_indices()
    return made

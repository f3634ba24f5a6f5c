"""The Galerkin product `P^T A P` of a level, in two stages, in threads where there are many rows.

Numbers are in double precision; see `levels` for how matrices are stored.
"""

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from .. import _ffi
from ._numba import compiled
from .levels import Interpolation, Matrix, split_by_numpy

#: Fewer rows are not shared among threads.
_FEW = 4096
#: What a Galerkin product gains from more of them is little: it waits for the memory.
_THREADS = 4
#: Where numbers are known to be positive: numba would test signed ones for counting from the end.
_U = np.uint64


@compiled
def _transposed(indptr, indices, values, columns):
    starts = np.zeros(columns + 1, np.int32)
    found, moved = np.empty(indices.size, np.int32), np.empty(indices.size)
    for k in range(indices.size):
        starts[indices[k] + 1] += 1
    for i in range(columns):
        starts[i + 1] += starts[i]
    at = starts[:-1].copy()
    for i in range(indptr.size - 1):
        for k in range(indptr[i], indptr[i + 1]):
            j = indices[k]
            found[at[j]] = i
            moved[at[j]] = values[k]
            at[j] += 1
    return starts, found, moved


@compiled
def first_gap(size):
    """Of Shell's sort: 1, 4, 13, 40, and so on."""
    gap = 1
    while 9 * gap + 3 < size:
        gap = 3 * gap + 1
    return gap


@compiled
def _product_bound(first, last, indptr, indices, p_indptr):
    """Of the entries in rows `first` to `last` of `A P`."""
    bound = 0
    for i in range(first, last):
        bound += p_indptr[i + 1] - p_indptr[i]
        for k in range(indptr[i], indptr[i + 1]):
            bound += p_indptr[indices[k] + 1] - p_indptr[indices[k]]
    return bound


@compiled
def _product(
    first, last, place, indptr, indices, values, diagonal, p_indptr, p_indices, p_values, begin, end, found,
    result, columns,
):  # fmt: skip
    """Writes rows `first` to `last` of `A P` from a place on, columns in any order."""
    at = np.zeros(columns, np.int32)  # of a column in the row, if it is there
    for i in range(first, last):
        start, size = place, 0
        for m in range(_U(p_indptr[i]), _U(p_indptr[i + 1])):
            at[p_indices[m]] = size
            found[start + size] = p_indices[m]
            result[start + size] = diagonal[i] * p_values[m]
            size += 1
        for k in range(_U(indptr[i]), _U(indptr[i + 1])):
            j, value = indices[k], values[k]
            for m in range(_U(p_indptr[j]), _U(p_indptr[j + 1])):
                column = p_indices[m]
                q = at[column]
                if q < size and found[start + q] == column:
                    result[start + q] += value * p_values[m]
                else:
                    at[column] = size
                    found[start + size] = column
                    result[start + size] = value * p_values[m]
                    size += 1
        place += size
        begin[i], end[i] = start, place


@compiled
def _restricted_bound(first, last, r_indptr, r_indices, begin, end):
    """Of the entries in rows `first` to `last` of `P^T` times a product, and of the longest row."""
    bound, longest = 0, 0
    for i in range(first, last):
        size = 0
        for k in range(r_indptr[i], r_indptr[i + 1]):
            size += end[r_indices[k]] - begin[r_indices[k]]
        bound += size
        longest = max(longest, size)
    return bound, longest


@compiled
def _restricted(first, last, r_indptr, r_indices, r_values, begin, end, indices, values, columns):
    """Rows `first` to `last` of `P^T` times a product, as a level; ends instead of `indptr`."""
    bound, longest = _restricted_bound(first, last, r_indptr, r_indices, begin, end)
    longest = min(longest, columns)
    n = last - first
    ends, middle, diagonal = np.empty(n, np.int64), np.empty(n, np.int64), np.zeros(n)
    found, result = np.empty(bound, np.int32), np.empty(bound)  # what is never touched takes no memory
    at, row, total = np.zeros(columns, np.int32), np.empty(longest, np.int32), np.empty(longest)
    place = 0
    for i in range(first, last):
        size = 0
        for k in range(_U(r_indptr[i]), _U(r_indptr[i + 1])):
            j, value = r_indices[k], r_values[k]
            for m in range(_U(begin[j]), _U(end[j])):
                column = indices[m]
                q = at[column]
                if q < size and row[q] == column:
                    total[q] += value * values[m]
                else:
                    at[column] = size
                    row[size] = column
                    total[size] = value * values[m]
                    size += 1
        gap = first_gap(size)
        while gap > 0:  # Shell's sort, of short rows by insertion
            for k in range(gap, size):
                column, m = row[k], k - gap
                while m >= 0 and row[m] > column:
                    row[m + gap] = row[m]
                    m -= gap
                row[m + gap] = column
            gap //= 3
        middle[i - first] = -1
        for k in range(size):
            column = row[k]
            value = total[at[column]]
            if column == i:
                diagonal[i - first] = value
                continue
            if value == 0:
                continue
            if column > i and middle[i - first] < 0:
                middle[i - first] = place
            found[place] = column
            result[place] = value
            place += 1
        if middle[i - first] < 0:
            middle[i - first] = place
        ends[i - first] = place
    return ends, middle, found[:place], result[:place], diagonal


def galerkin(matrix: Matrix, across: Interpolation) -> Matrix:
    """`P^T A P`."""
    indptr, _, *rest = matrix
    return Matrix(*_ffi.on_host(_galerkin, _galerkin_by_scipy, indptr, *rest, *across[:4]))


def threads(n: int) -> int:
    """How many so many rows are worth: compiled functions take no lock."""
    return 1 if n < _FEW else min(_THREADS, os.cpu_count() or 1)


def _galerkin(indptr, indices, values, diagonal, p_indptr, p_indices, p_values, columns):
    count = threads(len(diagonal))
    if count == 1:
        return _in_parts(map, 1, indptr, indices, values, diagonal, p_indptr, p_indices, p_values, columns)
    with ThreadPoolExecutor(count) as pool:
        return _in_parts(
            pool.map, count, indptr, indices, values, diagonal, p_indptr, p_indices, p_values, columns
        )


def _in_parts(each, count, indptr, indices, values, diagonal, p_indptr, p_indices, p_values, columns):
    n, matrix, across = len(diagonal), (indptr, indices, values, diagonal), (p_indptr, p_indices, p_values)
    rows = [n * k // count for k in range(count + 1)]
    bounds = [_product_bound(*part, indptr, indices, p_indptr) for part in itertools.pairwise(rows)]
    places = np.cumsum([0, *bounds])
    # What is never touched takes no memory.
    begin, end = np.empty(n, np.int64), np.empty(n, np.int64)
    found, result = np.empty(places[-1], np.int32), np.empty(places[-1])

    def multiply(k: int) -> None:
        part = rows[k], rows[k + 1], places[k]
        _product(*part, *matrix, *across, begin, end, found, result, columns)

    r_indptr, r_indices, r_values = _transposed(*across, columns)

    def restrict(k: int) -> Any:
        part = columns * k // count, columns * (k + 1) // count
        return _restricted(*part, r_indptr, r_indices, r_values, begin, end, found, result, columns)

    for _ in each(multiply, range(count)):
        pass
    parts = list(each(restrict, range(count)))
    starts = np.cumsum([0, *(len(part[2]) for part in parts)])
    if starts[-1] > np.iinfo(np.int32).max:
        raise MemoryError("A Galerkin product has more entries than can be numbered.")
    ends, middle = (
        np.concatenate([part[k] + start for part, start in zip(parts, starts, strict=False)]).astype(np.int32)
        for k in (0, 1)
    )
    rest = (np.concatenate([part[k] for part in parts]) for k in (2, 3, 4))
    return np.concatenate([np.zeros(1, np.int32), ends]), middle, *rest


def _galerkin_by_scipy(indptr, indices, values, diagonal, p_indptr, p_indices, p_values, columns):
    matrix = Matrix(indptr, indptr, indices, values, diagonal).scipy
    across = Interpolation(p_indptr, p_indices, p_values, columns).scipy
    made = (across.T @ (matrix @ across)).tocsr()
    made.sum_duplicates()
    made.eliminate_zeros()
    return split_by_numpy(made.indptr.astype(np.int32), made.indices.astype(np.int32), made.data)

"""Coarser levels by Ruge and Stüben: strong couplings, a splitting in two passes, direct interpolation, and
the Galerkin product.

A level is `indptr, middle, indices, values, diagonal`: rows compressed without their diagonal, columns
ascending; `middle` says where in each row the entries right of the diagonal begin. All indices are int32; the
kernels that coarsen take numbers in double precision.

Ruge and Stüben (1987), doi:10.1137/1.9781611971057.ch4.
"""

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from .. import _ffi
from ._numba import compiled

#: Fewer rows are not shared among threads.
_FEW = 4096
#: What a Galerkin product gains from more of them is little: it waits for the memory.
_THREADS = 4
#: Where numbers are known to be positive: numba would test signed ones for counting from the end.
_U = np.uint64
#: Unknowns that are numbered so near to each other are found in a cache.
_NEAR = 2**15
#: From this share of far entries on the unknowns are numbered anew.
_SCATTERED = 0.25


@compiled
def _split(indptr, indices, values):
    """A level, of a matrix in canonical format."""
    n = indptr.size - 1
    starts, middle = np.empty(n + 1, np.int32), np.empty(n, np.int32)
    others, rest = np.empty(indices.size, np.int32), np.empty_like(values)
    diagonal = np.zeros(n, values.dtype)
    place = 0
    starts[0] = 0
    for i in range(n):
        middle[i] = -1
        for k in range(indptr[i], indptr[i + 1]):
            j = indices[k]
            if j == i:
                diagonal[i] = values[k]
                continue
            if j > i and middle[i] < 0:
                middle[i] = place
            others[place] = j
            rest[place] = values[k]
            place += 1
        if middle[i] < 0:
            middle[i] = place
        starts[i + 1] = place
    return starts, middle, others[:place].copy(), rest[:place].copy(), diagonal


@compiled
def _is_hermitian(indptr, middle, indices, values):
    at = middle.copy()
    for i in range(middle.size):
        for k in range(indptr[i], middle[i]):
            j = indices[k]
            place = at[j]
            if place == indptr[j + 1] or indices[place] != i or values[place] != np.conj(values[k]):
                return False
            at[j] += 1
    same = True
    for i in range(middle.size):
        same &= at[i] == indptr[i + 1]
    return same


@compiled
def _strong(indptr, indices, values, theta):
    """The couplings that are negative and at least `theta` times the most negative one of their row."""
    n = indptr.size - 1
    starts, found = np.empty(n + 1, np.int32), np.empty(indices.size, np.int32)
    place = 0
    starts[0] = 0
    for i in range(n):
        lowest = 0.0
        for k in range(indptr[i], indptr[i + 1]):
            lowest = min(lowest, values[k])
        limit = theta * lowest
        for k in range(indptr[i], indptr[i + 1]):
            if values[k] < 0 and values[k] <= limit:
                found[place] = indices[k]
                place += 1
        starts[i + 1] = place
    return starts, found[:place]


@compiled
def _transposed_pattern(indptr, indices):
    n = indptr.size - 1
    starts, found = np.zeros(n + 1, np.int32), np.empty(indices.size, np.int32)
    for k in range(indices.size):
        starts[indices[k] + 1] += 1
    for i in range(n):
        starts[i + 1] += starts[i]
    at = starts[:-1].copy()
    for i in range(n):
        for k in range(indptr[i], indptr[i + 1]):
            j = indices[k]
            found[at[j]] = i
            at[j] += 1
    return starts, found


@compiled
def _first_pass(s_indptr, s_indices, t_indptr, t_indices):
    """1 for what is kept, 0 for what is dropped: kept is each time what most others hang on, those that are
    dropped already counted twice."""
    n = s_indptr.size - 1
    kept = np.zeros(n, np.int8)
    # Of each unknown its weight, once it is decided -1 less that, and its place among
    # all, in order of their weights; of each weight where its interval begins and how long it is.
    state, ordered, largest = np.empty(2 * n, np.int32), np.empty(n, np.int32), 0
    for i in range(n):
        state[2 * i] = t_indptr[i + 1] - t_indptr[i]
        largest = max(largest, state[2 * i])
    first, count = np.zeros(2 * largest + 2, np.int32), np.zeros(2 * largest + 2, np.int32)
    for i in range(n):
        count[state[2 * i]] += 1
    for w in range(1, first.size):
        first[w] = first[w - 1] + count[w - 1]
    count[:] = 0
    for i in range(n):
        w = state[2 * i]
        place = first[w] + count[w]
        state[2 * i + 1], ordered[place] = place, i
        count[w] += 1
        if w == 0:
            state[2 * i] = -1  # dropped, since nothing hangs on it
    dropped = np.empty(largest, np.int32)
    for top in range(n - 1, -1, -1):
        i = ordered[top]
        w = state[2 * i]
        if w < 0:
            count[-1 - w] -= 1
            continue
        if w == 0:
            break
        count[w] -= 1
        kept[i], state[2 * i] = 1, -1 - w
        size = 0
        for k in range(t_indptr[i], t_indptr[i + 1]):
            j = t_indices[k]
            if state[2 * j] >= 0:
                state[2 * j] = -1 - state[2 * j]
                dropped[size] = j
                size += 1
        for k in range(size):
            j = dropped[k]
            for m in range(s_indptr[j], s_indptr[j + 1]):
                other = s_indices[m]
                w = state[2 * other]
                if w < 0:
                    continue
                # To the end of its interval, which then begins the next one.
                place, last = state[2 * other + 1], first[w] + count[w] - 1
                swapped = ordered[last]
                ordered[place], ordered[last] = swapped, other
                state[2 * swapped + 1] = place
                state[2 * other], state[2 * other + 1] = w + 1, last
                count[w] -= 1
                count[w + 1] += 1
                first[w + 1] = last
        for k in range(s_indptr[i], s_indptr[i + 1]):
            j = s_indices[k]
            w = state[2 * j]
            if w <= 0:
                continue
            # And to the beginning of its interval, which then ends the one before it.
            place, last = state[2 * j + 1], first[w]
            swapped = ordered[last]
            ordered[place], ordered[last] = swapped, j
            state[2 * swapped + 1] = place
            state[2 * j], state[2 * j + 1] = w - 1, last
            count[w] -= 1
            count[w - 1] += 1
            first[w] += 1
            first[w - 1] = first[w] - count[w - 1]
    return kept


@compiled
def _second_pass(indptr, indices, kept):
    """Keeps more, until each two dropped ones of which one hangs on the other hang on the same kept one."""
    n = kept.size
    mark = np.full(n, -1, np.int32)
    for i in range(n):
        if kept[i] != 0:
            continue
        for k in range(indptr[i], indptr[i + 1]):
            if kept[indices[k]] == 1:
                mark[indices[k]] = i
        tried = -1
        for k in range(indptr[i], indptr[i + 1]):
            j = indices[k]
            if kept[j] != 0:
                continue
            shared = False
            for m in range(indptr[j], indptr[j + 1]):
                if mark[indices[m]] == i:
                    shared = True
                    break
            if shared:
                continue
            if tried < 0:
                tried = j
                kept[j] = 1
                mark[j] = i
            else:
                kept[tried] = 0
                kept[i] = 1
                break


@compiled
def _interpolation(indptr, indices, values, diagonal, s_indptr, s_indices, kept):
    """`P` by rows: for what is dropped, of its strong neighbours that are kept, in the share of all negative
    couplings; positive ones go to the diagonal."""
    n = kept.size
    number = np.empty(n, np.int32)
    coarse, size = 0, 0
    for i in range(n):
        number[i] = coarse
        if kept[i] == 1:
            coarse += 1
            size += 1
        else:
            for k in range(s_indptr[i], s_indptr[i + 1]):
                size += kept[s_indices[k]]
    p_indptr, p_indices, p_values = np.empty(n + 1, np.int32), np.empty(size, np.int32), np.empty(size)
    place = 0
    p_indptr[0] = 0
    for i in range(n):
        if kept[i] == 1:
            p_indices[place] = number[i]
            p_values[place] = 1.0
            place += 1
            p_indptr[i + 1] = place
            continue
        start, k = place, s_indptr[i]
        some, negative, total = 0.0, 0.0, diagonal[i]
        for m in range(indptr[i], indptr[i + 1]):
            if values[m] < 0:
                negative += values[m]
            else:
                total += values[m]
            if k < s_indptr[i + 1] and indices[m] == s_indices[k]:
                k += 1
                if kept[indices[m]] == 1:
                    some += values[m]
                    p_indices[place] = number[indices[m]]
                    p_values[place] = values[m]
                    place += 1
        for k in range(start, place):
            p_values[k] *= -(negative / some) / total
        p_indptr[i + 1] = place
    return p_indptr, p_indices, p_values, coarse


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
def _first_gap(size):
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
        gap = _first_gap(size)
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
        gap = _first_gap(size)
        while gap > 0:
            for k in range(start + gap, start + size):
                column, value, m = found[k], result[k], k - gap
                while m >= start and found[m] > column:
                    found[m + gap], result[m + gap] = found[m], result[m]
                    m -= gap
                found[m + gap], result[m + gap] = column, value
            gap //= 3
    return starts, found, result


class Matrix(NamedTuple):
    """A level's."""

    indptr: np.ndarray
    middle: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    diagonal: np.ndarray

    @property
    def size(self) -> int:
        return len(self.diagonal)

    @property
    def nnz(self) -> int:
        """How many entries it has, those of the diagonal that are not zero among them."""
        return len(self.values) + int(np.count_nonzero(self.diagonal))

    @property
    def scipy(self) -> Any:
        """As a `csr_array`, its diagonal included."""
        import scipy.sparse as sp  # slow to import

        n = self.size
        others = sp.csr_array((self.values, self.indices, self.indptr), shape=(n, n))
        return sp.csr_array(others + sp.diags_array(self.diagonal))


class Interpolation(NamedTuple):
    """From a level to the one before it, by rows."""

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    columns: int

    @property
    def scipy(self) -> Any:
        import scipy.sparse as sp

        parts = self.values, self.indices, self.indptr
        return sp.csr_array(parts, shape=(len(self.indptr) - 1, self.columns))


def split(matrix: Any) -> Matrix:
    """Of a `csr_array` in canonical format."""
    return Matrix(*_ffi.on_host(_split, _split_by_numpy, matrix.indptr, matrix.indices, matrix.data))


def is_hermitian(matrix: Matrix) -> bool:
    """Whether it equals its adjoint."""
    if np.imag(matrix.diagonal).any():
        return False
    return bool(_ffi.on_host(_is_hermitian, _is_hermitian_by_scipy, *matrix[:4]))


def coarsen(matrix: Matrix, theta: float) -> Interpolation:
    """Direct interpolation from what two passes keep, where couplings count as strong from the share `theta`
    of the row's most negative one on."""
    indptr, _, *rest = matrix
    return Interpolation(*_ffi.on_host(_coarsen, _coarsen_by_numpy, indptr, *rest, theta))


def galerkin(matrix: Matrix, across: Interpolation) -> Matrix:
    """`P^T A P`."""
    indptr, _, *rest = matrix
    return Matrix(*_ffi.on_host(_galerkin, _galerkin_by_scipy, indptr, *rest, *across))


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


def _coarsen(indptr, indices, values, diagonal, theta):
    s_indptr, s_indices = _strong(indptr, indices, values, theta)
    t_indptr, t_indices = _transposed_pattern(s_indptr, s_indices)
    kept = _first_pass(s_indptr, s_indices, t_indptr, t_indices)
    _second_pass(s_indptr, s_indices, kept)
    return _interpolation(indptr, indices, values, diagonal, s_indptr, s_indices, kept)


def _galerkin(indptr, indices, values, diagonal, p_indptr, p_indices, p_values, columns):
    n = len(diagonal)
    # In threads where there are many rows: compiled functions take no lock.
    count = 1 if n < _FEW else min(_THREADS, os.cpu_count() or 1)
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


def _plain(function: Any) -> Any:
    return getattr(function, "py_func", function)


def _split_by_numpy(indptr, indices, values):
    n = len(indptr) - 1
    rows = np.repeat(np.arange(n), np.diff(indptr))
    off, diagonal = rows != indices, np.zeros(n, values.dtype)
    diagonal[rows[~off]] = values[~off]
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows[off], minlength=n))])
    middle = starts[:-1] + np.bincount(rows[indices < rows], minlength=n)
    return starts.astype(np.int32), middle.astype(np.int32), indices[off], values[off], diagonal


def _is_hermitian_by_scipy(indptr, middle, indices, values):
    import scipy.sparse as sp

    matrix = sp.csr_array((values, indices, indptr), shape=(len(middle), len(middle)))
    return (matrix != matrix.conj().T).nnz == 0


def _coarsen_by_numpy(indptr, indices, values, diagonal, theta):
    import scipy.sparse as sp

    n = len(diagonal)
    rows, lowest = np.repeat(np.arange(n), np.diff(indptr)), np.zeros(n)
    np.minimum.at(lowest, rows, values)
    is_strong = (values < 0) & (values <= theta * lowest[rows])
    ones = np.ones(is_strong.sum(), np.int8)
    strong = sp.csr_array((ones, (rows[is_strong], indices[is_strong])), shape=(n, n))
    hanging = strong.T.tocsr()
    kept = _plain(_first_pass)(strong.indptr, strong.indices, hanging.indptr, hanging.indices)
    _plain(_second_pass)(strong.indptr, strong.indices, kept)
    taken = is_strong & (kept[rows] == 0) & (kept[indices] == 1)
    negative = np.bincount(rows, np.minimum(values, 0), n)
    total = diagonal + np.bincount(rows, np.maximum(values, 0), n)
    some = np.bincount(rows[taken], values[taken], n)
    number, (own,) = np.cumsum(kept) - kept, np.nonzero(kept)
    row = rows[taken]
    weights = -(negative[row] / some[row]) / total[row] * values[taken]
    columns = int(kept.sum())
    made = sp.csr_array(
        (
            np.concatenate([weights, np.ones(columns)]),
            (np.concatenate([row, own]), number[np.concatenate([indices[taken], own])]),
        ),
        shape=(n, columns),
    )
    return *(part.astype(np.int32) for part in (made.indptr, made.indices)), made.data, columns


def _galerkin_by_scipy(indptr, indices, values, diagonal, p_indptr, p_indices, p_values, columns):
    matrix = Matrix(indptr, indptr, indices, values, diagonal).scipy
    across = Interpolation(p_indptr, p_indices, p_values, columns).scipy
    made = (across.T @ (matrix @ across)).tocsr()
    made.sum_duplicates()
    made.eliminate_zeros()
    return _split_by_numpy(made.indptr.astype(np.int32), made.indices.astype(np.int32), made.data)


def _nearby_by_scipy(indptr, indices):
    return None


def _reordered_by_scipy(matrix, order):
    made = matrix[order][:, order]
    made.sort_indices()
    return made

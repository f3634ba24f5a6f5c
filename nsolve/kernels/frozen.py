"""Interpolation and Galerkin products anew, on the patterns of an earlier matrix: numbers only.

Where each product of two entries is added to was found once, row by row; so nothing is looked up, and nothing
sorted. Numbers are in double precision; see `levels` for how matrices are stored.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from .. import _ffi
from ._numba import compiled
from .galerkin import first_gap, threads
from .levels import Interpolation, Matrix, split_by_numpy

#: A dropped unknown of which less than this share of its negative couplings leads to what it is interpolated
#: from is not represented.
_LEAST = 0.1
#: Longer rows are not numbered.
LONGEST = np.iinfo(np.uint16).max
#: Where numbers are known to be positive: numba would test signed ones for counting from the end.
_U = np.uint64


class Pattern(NamedTuple):
    """A level's matrix without its values."""

    indptr: np.ndarray
    middle: np.ndarray
    indices: np.ndarray


class Places(NamedTuple):
    """Of a level and the next coarser one what their values do not change.

    * `kept`, `p_indptr`, `p_indices`, `columns`: the interpolation; `couplings`: which entries of the matrix
      its values come from.
    * `r_indptr`, `r_rows`, `r_places`: its columns, and where their values are.
    * `begin`: where rows of `A P` begin; `products`: for each product of `A P`, in the order of `A`, the place
      in its row; `sums`: the same of `P^T (A P)`, in the order of `P^T`, that of the diagonal last.
    * `rows`: those of the level that threads share; `coarse_rows`: those of the next one; both with the
      number of the products before them.
    """

    kept: np.ndarray
    p_indptr: np.ndarray
    p_indices: np.ndarray
    columns: int
    couplings: np.ndarray
    r_indptr: np.ndarray
    r_rows: np.ndarray
    r_places: np.ndarray
    begin: np.ndarray
    products: np.ndarray
    sums: np.ndarray
    rows: list[tuple[int, int, int]]
    coarse_rows: list[tuple[int, int, int]]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self if isinstance(part, np.ndarray))


@compiled
def _couplings(indptr, indices, kept, p_indptr, p_indices):
    """Which entries of the matrix an interpolation's values come from; 0 for what is kept."""
    n = kept.size
    number, places = np.empty(n, np.int32), np.zeros(p_indices.size, np.int32)
    coarse = 0
    for i in range(n):
        number[i] = coarse
        coarse += kept[i]
    for i in range(n):
        if kept[i] == 1:
            continue
        place = p_indptr[i]
        for k in range(indptr[i], indptr[i + 1]):
            if place == p_indptr[i + 1]:
                break
            j = indices[k]
            if kept[j] == 1 and number[j] == p_indices[place]:
                places[place] = k
                place += 1
    return places


@compiled
def _columns(indptr, indices, columns):
    """The rows of each column's entries, and where these are."""
    starts = np.zeros(columns + 1, np.int32)
    rows, places = np.empty(indices.size, np.int32), np.empty(indices.size, np.int32)
    for k in range(indices.size):
        starts[indices[k] + 1] += 1
    for j in range(columns):
        starts[j + 1] += starts[j]
    at = starts[:-1].copy()
    for i in range(indptr.size - 1):
        for k in range(indptr[i], indptr[i + 1]):
            j = indices[k]
            rows[at[j]], places[at[j]] = i, k
            at[j] += 1
    return starts, rows, places


@compiled
def _products(indptr, indices, p_indptr, p_indices, columns):
    """Of `A P` where rows begin, its columns in any order, the places of its products, how many come before
    each row, and the longest row's length."""
    n = indptr.size - 1
    before = np.zeros(n + 1, np.int64)
    for i in range(n):
        count = np.int64(p_indptr[i + 1] - p_indptr[i])
        for k in range(indptr[i], indptr[i + 1]):
            count += p_indptr[indices[k] + 1] - p_indptr[indices[k]]
        before[i + 1] = before[i] + count
    begin, places = np.empty(n + 1, np.int64), np.empty(before[n], np.uint16)
    found = np.empty(before[n], np.int32)  # what is never touched takes no memory
    at = np.zeros(columns, np.int32)  # of a column in the row, if it is there
    start, t, longest = 0, 0, 0
    for i in range(n):
        begin[i] = start
        size = 0
        for k in range(indptr[i] - 1, indptr[i + 1]):
            j = i if k < indptr[i] else indices[k]  # the diagonal comes first
            for m in range(p_indptr[j], p_indptr[j + 1]):
                column = p_indices[m]
                q = at[column]
                if q >= size or found[start + q] != column:
                    q = size
                    at[column] = q
                    found[start + q] = column
                    size += 1
                places[t] = q
                t += 1
        start += size
        longest = max(longest, size)
    begin[n] = start
    return begin, found[:start].copy(), places, before, longest


@compiled
def _sums(r_indptr, r_rows, begin, found, columns):
    """Of `P^T (A P)` the pattern, its diagonal left out, the places of its products, how many come before
    each row, and the longest row's length."""
    before = np.zeros(columns + 1, np.int64)
    for i in range(columns):
        count = np.int64(0)
        for k in range(r_indptr[i], r_indptr[i + 1]):
            count += begin[r_rows[k] + 1] - begin[r_rows[k]]
        before[i + 1] = before[i] + count
    indptr, middle = np.zeros(columns + 1, np.int64), np.empty(columns, np.int64)
    indices, places = np.empty(before[columns], np.int32), np.empty(before[columns], np.uint16)
    seen, rank = np.full(columns, -1, np.int32), np.empty(columns, np.int32)
    t, longest = 0, 0
    for i in range(columns):
        start = indptr[i]
        size = 0
        for k in range(r_indptr[i], r_indptr[i + 1]):
            for m in range(begin[r_rows[k]], begin[r_rows[k] + 1]):
                column = found[m]
                if seen[column] != i and column != i:
                    seen[column] = i
                    indices[start + size] = column
                    size += 1
        gap = first_gap(size)
        while gap > 0:  # Shell's sort, of short rows by insertion
            for k in range(start + gap, start + size):
                column, m = indices[k], k - gap
                while m >= start and indices[m] > column:
                    indices[m + gap] = indices[m]
                    m -= gap
                indices[m + gap] = column
            gap //= 3
        middle[i] = start + size
        for q in range(size):
            column = indices[start + q]
            rank[column] = q
            if column > i and middle[i] == start + size:
                middle[i] = start + q
        rank[i] = size
        for k in range(r_indptr[i], r_indptr[i + 1]):
            for m in range(begin[r_rows[k]], begin[r_rows[k] + 1]):
                places[t] = rank[found[m]]
                t += 1
        indptr[i + 1] = start + size
        longest = max(longest, size + 1)
    return indptr, middle, indices[: indptr[columns]].copy(), places, before, longest


@compiled
def _taken(first, last, source, values, into):
    for k in range(first, last):
        into[k] = values[source[k]]


@compiled
def _interpolated(first, last, indptr, values, diagonal, kept, p_indptr, couplings, p_values):
    """Writes rows `first` to `last` of `P`; how many unknowns are not represented by what they are
    interpolated from."""
    missed = 0
    for i in range(first, last):
        start, end = p_indptr[i], p_indptr[i + 1]
        if kept[i] == 1:
            p_values[start] = 1.0
            continue
        some, negative, total = 0.0, 0.0, diagonal[i]
        for m in range(_U(indptr[i]), _U(indptr[i + 1])):
            value = values[m]
            if value < 0:
                negative += value
            else:
                total += value
        for k in range(start, end):
            some += min(values[couplings[k]], 0.0)
        missed += some > _LEAST * negative
        scale = -(negative / some) / total if some < 0 else 0.0
        for k in range(start, end):
            p_values[k] = min(values[couplings[k]], 0.0) * scale
    return missed


@compiled
def _multiplied(
    first, last, t, indptr, indices, values, diagonal, p_indptr, p_values, begin, products, result
):  # fmt: skip
    """Writes rows `first` to `last` of `A P`, before which there are `t` products."""
    t = _U(t)
    for i in range(_U(first), _U(last)):
        start = _U(begin[i])
        for m in range(start, _U(begin[i + _U(1)])):
            result[m] = 0.0
        value = diagonal[i]
        for m in range(_U(p_indptr[i]), _U(p_indptr[i + _U(1)])):
            result[start + products[t]] += value * p_values[m]
            t += _U(1)
        for k in range(_U(indptr[i]), _U(indptr[i + _U(1)])):
            j, value = _U(indices[k]), values[k]
            for m in range(_U(p_indptr[j]), _U(p_indptr[j + _U(1)])):
                result[start + products[t]] += value * p_values[m]
                t += _U(1)


@compiled
def _summed(
    first, last, t, r_indptr, r_rows, r_places, p_values, begin, product, sums, indptr, values, diagonal
):  # fmt: skip
    """Writes rows `first` to `last` of `P^T (A P)`, before which there are `t` products."""
    longest = 0
    for i in range(first, last):
        longest = max(longest, indptr[i + 1] - indptr[i])
    total = np.zeros(longest + 1)
    t = _U(t)
    for i in range(_U(first), _U(last)):
        start = _U(indptr[i])
        size = _U(indptr[i + _U(1)]) - start
        for q in range(size + _U(1)):
            total[q] = 0.0
        for k in range(_U(r_indptr[i]), _U(r_indptr[i + _U(1)])):
            j, value = _U(r_rows[k]), p_values[r_places[k]]
            for m in range(_U(begin[j]), _U(begin[j + _U(1)])):
                total[sums[t]] += value * product[m]
                t += _U(1)
        for q in range(size):
            values[start + q] = total[q]
        diagonal[i] = total[size]


class Values(NamedTuple):
    """Of a level, on its patterns: the interpolation, the share of unknowns that are not represented, and the
    next coarser matrix."""

    interpolation: np.ndarray
    missed: float
    others: np.ndarray
    diagonal: np.ndarray


def places_of(pattern: Pattern, across: Interpolation) -> tuple[Places, Pattern] | None:
    """Of a level and what interpolates to it, and the pattern of the next coarser one; None where rows are
    too long."""
    return _ffi.on_host(_places_of, _places_by_scipy, pattern, across)


def taken(source: np.ndarray, values: np.ndarray, each: Callable[..., Iterable[Any]] = map) -> np.ndarray:
    """`values[source]` in double precision."""
    return _ffi.on_host(_taken_in_parts, _taken_by_numpy, source, values, each)


def values_on(
    pattern: Pattern,
    places: Places,
    coarse: Pattern,
    values: np.ndarray,
    diagonal: np.ndarray,
    each: Callable[..., Iterable[Any]] = map,
) -> Values:
    """The numbers of a level; `each`, a `map`, may use threads."""
    compute = _values_on if len(places.begin) else _values_by_scipy
    return _ffi.on_host(compute, _values_by_scipy, pattern, places, coarse, values, diagonal, each)


def shares(n: int) -> list[int]:
    """Where rows are cut for as many threads as they are worth."""
    count = threads(n)
    return [n * k // count for k in range(count + 1)]


def _taken_in_parts(source: np.ndarray, values: np.ndarray, each: Callable[..., Iterable[Any]]) -> np.ndarray:
    into = np.empty(len(source))
    for _ in each(lambda part: _taken(*part, source, values, into), itertools.pairwise(shares(len(source)))):
        pass
    return into


def _taken_by_numpy(source: np.ndarray, values: np.ndarray, each: Any) -> np.ndarray:
    return values[source].astype(float)


def _places_of(pattern: Pattern, across: Interpolation) -> tuple[Places, Pattern] | None:
    indptr, _, indices = pattern
    p_indptr, p_indices, _, columns, kept = across
    couplings = _couplings(indptr, indices, kept, p_indptr, p_indices)
    columnwise = _columns(p_indptr, p_indices, columns)
    begin, found, products, before, longest = _products(indptr, indices, p_indptr, p_indices, columns)
    if longest > LONGEST:
        return None
    c_indptr, c_middle, c_indices, sums, c_before, longest = _sums(*columnwise[:2], begin, found, columns)
    if longest > LONGEST or len(c_indices) > np.iinfo(np.int32).max:
        return None
    rows, coarse_rows = (
        [(a, b, int(count[a])) for a, b in itertools.pairwise(shares(len(count) - 1))]
        for count in (before, c_before)
    )
    made = Places(
        *(kept, p_indptr, p_indices, columns, couplings, *columnwise, begin, products, sums),
        rows,
        coarse_rows,
    )
    return made, Pattern(c_indptr.astype(np.int32), c_middle.astype(np.int32), c_indices)


def _values_on(
    pattern: Pattern,
    places: Places,
    coarse: Pattern,
    values: np.ndarray,
    diagonal: np.ndarray,
    each: Callable[..., Iterable[Any]],
) -> Values:
    (indptr, _, indices), at = pattern, places
    weights, product = np.empty(len(at.p_indices)), np.empty(at.begin[-1])
    others, across = np.empty(len(coarse.indices)), np.empty(at.columns)

    def interpolate(part: tuple[int, int, int]) -> int:
        return _interpolated(
            *part[:2], indptr, values, diagonal, at.kept, at.p_indptr, at.couplings, weights
        )

    def multiply(part: tuple[int, int, int]) -> None:
        matrix = indptr, indices, values, diagonal
        _multiplied(*part, *matrix, at.p_indptr, weights, at.begin, at.products, product)

    def add(part: tuple[int, int, int]) -> None:
        columnwise = at.r_indptr, at.r_rows, at.r_places
        _summed(*part, *columnwise, weights, at.begin, product, at.sums, coarse.indptr, others, across)

    missed = sum(each(interpolate, at.rows))
    for work, rows in ((multiply, at.rows), (add, at.coarse_rows)):
        for _ in each(work, rows):
            pass
    return Values(weights, missed / max(len(diagonal) - at.columns, 1), others, across)


def _places_by_scipy(pattern: Pattern, across: Interpolation) -> tuple[Places, Pattern]:
    import scipy.sparse as sp

    n = len(pattern.middle)
    ones, number = np.ones(len(pattern.indices)), np.cumsum(across.kept) - 1
    matrix = Matrix(*pattern, ones, np.ones(n)).scipy
    rows, p_rows = (np.repeat(np.arange(n), np.diff(indptr)) for indptr in (pattern.indptr, across.indptr))
    # An entry's key is its row and the coarse unknown in its column.
    keys = rows * across.columns + np.where(across.kept[pattern.indices] == 1, number[pattern.indices], 0)
    to_kept, couplings = np.flatnonzero(across.kept[pattern.indices]), np.zeros(len(p_rows), np.int32)
    wanted = np.flatnonzero(across.kept[p_rows] == 0)
    found = np.searchsorted(keys[to_kept], p_rows[wanted] * across.columns + across.indices[wanted])
    couplings[wanted] = to_kept[found]
    p = sp.csr_array((np.ones(len(p_rows)), across.indices, across.indptr), shape=(n, across.columns))
    coarse = sp.csr_array(p.T @ matrix @ p)
    coarse.sum_duplicates()
    indptr, middle, indices, _, _ = split_by_numpy(coarse.indptr, coarse.indices, coarse.data)
    none = np.empty(0, np.int32)
    made = Places(
        *(across.kept, across.indptr, across.indices, across.columns, couplings, *6 * (none,)), [], []
    )
    return made, Pattern(indptr, middle, indices.astype(np.int32))


def _values_by_scipy(
    pattern: Pattern,
    places: Places,
    coarse: Pattern,
    values: np.ndarray,
    diagonal: np.ndarray,
    each: Callable[..., Iterable[Any]],
) -> Values:
    n, at = len(diagonal), places
    rows, p_rows = (np.repeat(np.arange(n), np.diff(indptr)) for indptr in (pattern.indptr, at.p_indptr))
    dropped, weights = at.kept[p_rows] == 0, np.ones(len(p_rows))
    weights[dropped] = np.minimum(values[at.couplings[dropped]], 0)
    some = np.bincount(p_rows[dropped], weights[dropped], n)
    negative = np.bincount(rows, np.minimum(values, 0), n)
    total = diagonal + np.bincount(rows, np.maximum(values, 0), n)
    scale = np.divide(-negative, some * total, where=some < 0, out=np.zeros(n))
    weights[dropped] *= scale[p_rows[dropped]]
    missed = np.count_nonzero((at.kept == 0) & (some > _LEAST * negative))
    across = Interpolation(at.p_indptr, at.p_indices, weights, at.columns).scipy
    made = (across.T @ Matrix(*pattern, values, diagonal).scipy @ across).tocoo()
    keys = np.repeat(np.arange(at.columns), np.diff(coarse.indptr)) * at.columns + coarse.indices
    off = made.row != made.col
    others = np.zeros(len(keys))
    others[np.searchsorted(keys, made.row[off].astype(np.int64) * at.columns + made.col[off])] = made.data[off]
    return Values(weights, missed / max(n - at.columns, 1), others, made.diagonal())

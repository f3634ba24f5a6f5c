"""Interpolation and Galerkin products anew, on the patterns of an earlier matrix: numbers only.

Where each product `p a p'` of `P^T A P` is added to was found once; so nothing is looked up, and nothing
sorted. Of a symmetric matrix the lower triangle is enough: its entry `a` at `(k, l)` stands for the one at
`(l, k)`, too. Numbers are in double precision; see `levels` for how matrices are stored.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from .. import _ffi
from ._numba import compiled
from .galerkin import galerkin, threads
from .levels import Interpolation, Matrix

#: A dropped unknown of which less than this share of its negative couplings leads to what it is interpolated
#: from is not represented, if it was more than twice as much before.
_LEAST = 0.1
#: Where numbers are known to be positive: numba would test signed ones for counting from the end.
_U = np.uint64


class Pattern(NamedTuple):
    """A matrix without its values."""

    indptr: np.ndarray
    middle: np.ndarray
    indices: np.ndarray


class AtHand(NamedTuple):
    """The entries of a matrix that are at hand: all, or those below the diagonal; where they stand among all,
    and, of a symmetric one, where their mirror images do."""

    pattern: Pattern
    own: np.ndarray
    mirrored: np.ndarray

    @property
    def number(self) -> np.ndarray:
        """Of all entries, which ones of those at hand they are."""
        found = np.empty(len(self.own) + len(self.mirrored), np.int32)
        found[self.own] = np.arange(len(self.own))
        found[self.mirrored] = np.arange(len(self.mirrored))
        return found


class Places(NamedTuple):
    """Of a level and the next coarser one what their values do not change.

    * `kept`, `p_indptr`, `p_indices`, `columns`: the interpolation; `couplings`: which entries of the matrix
      its values come from.
    * `targets`: of each product which number it is added to, of the entries, the diagonal, and half the
      diagonal.
    * `least`: which share of its negative couplings has to be left to each unknown that is interpolated.
    * `parts`: rows that threads share, and how many products come before them.
    """

    kept: np.ndarray
    p_indptr: np.ndarray
    p_indices: np.ndarray
    columns: int
    couplings: np.ndarray
    targets: np.ndarray
    least: np.ndarray
    parts: list[tuple[int, int, int]]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self if isinstance(part, np.ndarray))


class Values(NamedTuple):
    """Of a level, on its patterns: the interpolation, the share of unknowns that are not represented, and the
    next coarser matrix."""

    interpolation: np.ndarray
    missed: float
    others: np.ndarray
    diagonal: np.ndarray


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
def _place(row, column, half, on_diagonal, c_indptr, c_indices):
    """Of an entry's number."""
    if row == column:
        return on_diagonal + row
    if half and row < column:
        row, column = column, row
    low, high = c_indptr[row], c_indptr[row + 1] - 1
    while low < high:
        middle = (low + high) // 2
        if c_indices[middle] < column:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _products_before(half, indptr, indices, p_indptr):
    """How many products there are before each row."""
    n = indptr.size - 1
    before = np.zeros(n + 1, np.int64)
    for k in range(n):
        own = np.int64(p_indptr[k + 1] - p_indptr[k])
        count = own * (own + 1) // 2 if half else own * own
        for m in range(indptr[k], indptr[k + 1]):
            count += own * (p_indptr[indices[m] + 1] - p_indptr[indices[m]])
        before[k + 1] = before[k] + count
    return before


@compiled
def _find(first, last, t, half, indptr, indices, p_indptr, p_indices, c_indptr, c_indices, targets):
    """Writes the targets of the products of rows `first` to `last`, before which there are `t`."""
    diagonal = c_indices.size
    twice = diagonal + c_indptr.size - 1 if half else diagonal
    for k in range(first, last):
        for a in range(p_indptr[k], p_indptr[k + 1]):
            for b in range(p_indptr[k], a + 1 if half else p_indptr[k + 1]):
                targets[t] = _place(p_indices[a], p_indices[b], half, diagonal, c_indptr, c_indices)
                t += 1
        for m in range(indptr[k], indptr[k + 1]):
            j = indices[m]
            for a in range(p_indptr[k], p_indptr[k + 1]):
                for b in range(p_indptr[j], p_indptr[j + 1]):
                    targets[t] = _place(p_indices[a], p_indices[b], half, twice, c_indptr, c_indices)
                    t += 1


@compiled
def _taken(source, values, into):
    for k in range(source.size):
        into[k] = values[source[k]]


@compiled
def _are_equal(source, values, others):
    same = True
    for k in range(source.size):
        same &= values[source[k]] == others[k]
    return same


@compiled
def _interpolated(half, indptr, indices, values, diagonal, kept, p_indptr, couplings, least):
    """The values of `P`, and how many unknowns are not represented by what they are interpolated from."""
    n = kept.size
    weights, negative, total = np.empty(couplings.size), np.zeros(n), diagonal.copy()
    for i in range(_U(n)):
        low, high = 0.0, 0.0
        for m in range(_U(indptr[i]), _U(indptr[i + _U(1)])):
            below, above = min(values[m], 0.0), max(values[m], 0.0)
            low += below
            high += above
            if half:
                negative[indices[m]] += below
                total[indices[m]] += above
        negative[i] += low
        total[i] += high
    missed = 0
    for i in range(n):
        start, end = p_indptr[i], p_indptr[i + 1]
        if kept[i] == 1:
            weights[start] = 1.0
            continue
        some = 0.0
        for k in range(start, end):
            weights[k] = min(values[couplings[k]], 0.0)
            some += weights[k]
        missed += some > least[i] * negative[i]
        scale = -(negative[i] / some) / total[i] if some < 0 else 0.0
        for k in range(start, end):
            weights[k] *= scale
    return weights, missed


@compiled
def _add(
    first, last, t, half, indptr, indices, values, diagonal, p_indptr, weights, targets, total
):  # fmt: skip
    """The products of rows `first` to `last`, before which there are `t`."""
    one, t = _U(1), _U(t)
    for k in range(_U(first), _U(last)):
        start, end = _U(p_indptr[k]), _U(p_indptr[k + one])
        for a in range(start, end):
            value = diagonal[k] * weights[a]
            for b in range(start, a + one if half else end):
                total[targets[t]] += value * weights[b]
                t += one
        for m in range(_U(indptr[k]), _U(indptr[k + one])):
            low, high = _U(p_indptr[indices[m]]), _U(p_indptr[indices[m] + 1])
            for a in range(start, end):
                value = values[m] * weights[a]
                for b in range(low, high):
                    total[targets[t]] += value * weights[b]
                    t += one


def at_hand(pattern: Pattern, half: bool) -> AtHand:
    """All entries, or those below the diagonal of a symmetric pattern."""
    indptr, middle, indices = pattern
    if not half:
        return AtHand(pattern, np.arange(len(indices)), np.empty(0, np.intp))
    rows = np.repeat(np.arange(len(middle)), np.diff(indptr))
    below, above = np.flatnonzero(indices < rows), np.flatnonzero(indices > rows)
    # By columns, these are the mirror images in the order of the others.
    above = above[np.argsort(indices[above], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(middle - indptr[:-1])]).astype(np.int32)
    return AtHand(Pattern(starts, starts[1:], indices[below]), below, above)


def places_of(
    half: bool,
    pattern: Pattern,
    some: AtHand,
    across: Interpolation,
    each: Callable[..., Iterable[Any]] = map,
) -> tuple[Places, Pattern, AtHand]:
    """Of a level, its entries at hand and what interpolates to it; and the next coarser level's pattern and
    entries at hand."""
    p_indptr, p_indices, _, columns, kept = across
    assert kept is not None
    ones = np.ones(len(pattern.indices)), np.ones(len(kept))
    made = galerkin(Matrix(*pattern, *ones), across._replace(values=np.ones(len(p_indices))))
    coarse = Pattern(*made[:3])
    less = at_hand(coarse, half)
    found = _ffi.on_host(
        *(_couplings, _couplings_by_numpy), pattern.indptr, pattern.indices, kept, p_indptr, p_indices
    )
    given = half, some.pattern, p_indptr, p_indices, less.pattern, each
    targets, parts = _ffi.on_host(_targets, _no_targets, *given)
    places = Places(kept, p_indptr, p_indices, columns, some.number[found], targets, np.zeros(0), parts)
    return places, coarse, less


def with_least(half: bool, matrix: Matrix, places: Places) -> Places:
    """The same, with what is asked of other matrices by what is so of this one."""
    some, negative, _ = _sums(half, matrix, places)
    captured = np.divide(some, negative, where=some < 0, out=np.zeros_like(some))
    return places._replace(least=np.minimum(captured / 2, _LEAST))


def taken(source: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`values[source]` in double precision."""
    into = np.empty(len(source))
    _ffi.on_host(_taken, _taken_by_numpy, source, values, into)
    return into


def are_equal(source: np.ndarray, values: np.ndarray, others: np.ndarray) -> bool:
    """Whether `values[source]` are."""
    return bool(_ffi.on_host(_are_equal, _are_equal_by_numpy, source, values, others))


def values_on(
    half: bool, matrix: Matrix, places: Places, coarse: Pattern, each: Callable[..., Iterable[Any]] = map
) -> Values:
    """The numbers of a level, and of the next one at the places that are at hand; `each`, a `map`, may use
    threads."""
    compute = _values_on if len(places.targets) else _values_by_scipy
    return _ffi.on_host(compute, _values_by_scipy, half, matrix, places, coarse, each)


def _targets(half, pattern, p_indptr, p_indices, coarse, each):
    """Of all products, and the parts of them that threads share."""
    pairs = (pattern.indptr, pattern.indices), (coarse.indptr, coarse.indices)
    before = _products_before(half, *pairs[0], p_indptr)
    count, n = threads(len(before) - 1), len(before) - 1
    cuts = np.searchsorted(before, before[-1] * np.arange(count) // count).tolist()
    parts = [(a, b, int(before[a])) for a, b in itertools.pairwise([*cuts, n])]
    targets = np.empty(before[-1], np.int32)
    for _ in each(lambda part: _find(*part, half, *pairs[0], p_indptr, p_indices, *pairs[1], targets), parts):
        pass
    return targets, parts


def _values_on(
    half: bool, matrix: Matrix, at: Places, coarse: Pattern, each: Callable[..., Iterable[Any]]
) -> Values:
    indptr, _, *rest = matrix
    weights, missed = _interpolated(half, indptr, *rest, at.kept, at.p_indptr, at.couplings, at.least)
    size = len(coarse.indices)

    def add(part: tuple[int, int, int]) -> np.ndarray:
        total = np.zeros(size + 2 * at.columns)
        _add(*part, half, indptr, *rest, at.p_indptr, weights, at.targets, total)
        return total

    total, *others = each(add, at.parts)
    for other in others:
        total += other
    diagonal = total[size : size + at.columns] + 2 * total[size + at.columns :]
    return Values(weights, missed / max(matrix.size - at.columns, 1), total[:size], diagonal)


def _couplings_by_numpy(indptr, indices, kept, p_indptr, p_indices):
    n, columns = len(kept), int(kept.sum())
    rows, p_rows = (np.repeat(np.arange(n), np.diff(starts)) for starts in (indptr, p_indptr))
    to_kept, wanted = np.flatnonzero(kept[indices]), np.flatnonzero(kept[p_rows] == 0)
    number = np.cumsum(kept, dtype=np.int64) - 1
    keys = rows[to_kept] * columns + number[indices[to_kept]]
    places = np.zeros(len(p_rows), np.int32)
    places[wanted] = to_kept[np.searchsorted(keys, p_rows[wanted] * columns + p_indices[wanted])]
    return places


def _no_targets(*given):
    return np.empty(0, np.int32), []


def _taken_by_numpy(source, values, into):
    into[:] = values[source]


def _are_equal_by_numpy(source, values, others):
    return np.array_equal(values[source], others)


def _values_by_scipy(
    half: bool, matrix: Matrix, at: Places, coarse: Pattern, each: Callable[..., Iterable[Any]]
) -> Values:
    import scipy.sparse as sp

    n, dropped, whole = matrix.size, at.kept == 0, matrix.scipy
    if half:
        whole = sp.csr_array(whole + whole.T - sp.diags_array(matrix.diagonal))
    p_rows = np.repeat(np.arange(n), np.diff(at.p_indptr))
    some, negative, total = _sums(half, matrix, at)
    scale = np.divide(-negative, some * total, where=some < 0, out=np.zeros(n))
    weights = np.where(dropped[p_rows], np.minimum(matrix.values[at.couplings], 0) * scale[p_rows], 1.0)
    missed = np.count_nonzero(dropped & (some > at.least * negative))
    across = Interpolation(at.p_indptr, at.p_indices, weights, at.columns).scipy
    made = (across.T @ whole @ across).tocoo()
    rows = np.repeat(np.arange(at.columns), np.diff(coarse.indptr))
    is_there = made.row > made.col if half else made.row != made.col
    others, keys = np.zeros(len(rows)), rows * at.columns + coarse.indices
    found = made.row[is_there].astype(np.int64) * at.columns + made.col[is_there]
    others[np.searchsorted(keys, found)] = made.data[is_there]
    return Values(weights, missed / max(n - at.columns, 1), others, made.diagonal())


def _sums(half: bool, matrix: Matrix, at: Places) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each row, the negative couplings to what it is interpolated from, all negative ones, and what is
    positive."""
    n = matrix.size
    rows, p_rows = (np.repeat(np.arange(n), np.diff(indptr)) for indptr in (matrix.indptr, at.p_indptr))
    below, above = np.minimum(matrix.values, 0), np.maximum(matrix.values, 0)
    some = np.where(at.kept[p_rows] == 0, below[at.couplings], 0.0)
    negative, total = np.bincount(rows, below, n), matrix.diagonal + np.bincount(rows, above, n)
    if half:
        negative, total = (
            x + np.bincount(matrix.indices, y, n) for x, y in ((negative, below), (total, above))
        )
    return np.bincount(p_rows, some, n), negative, total

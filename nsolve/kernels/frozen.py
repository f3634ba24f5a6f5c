"""Interpolation and Galerkin products anew, on the patterns of an earlier matrix: numbers only.

Nothing is looked up, and nothing sorted: see `frozen_places`. Numbers are in double precision.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from .. import _ffi
from ._numba import compiled
from .frozen_places import Pattern, Places
from .levels import Interpolation, Matrix

#: A dropped unknown of which less than this share of its negative couplings leads to what it is interpolated
#: from is not represented, if it was more than twice as much before.
_LEAST = 0.1
#: Where numbers are known to be positive: numba would test signed ones for counting from the end.
_U = np.uint64


class Values(NamedTuple):
    """Of a level, on its patterns: the interpolation, the share of unknowns that are not represented, and the
    next coarser matrix."""

    interpolation: np.ndarray
    missed: float
    others: np.ndarray
    diagonal: np.ndarray


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

"""Where the numbers of a hierarchy come from and go to: what other matrices on its patterns have in common.

Of each product `p a p'` of `P^T A P` it is found once to which number it is added. Of a symmetric matrix the
lower triangle is enough: its entry `a` at `(k, l)` stands for the one at `(l, k)`, too. See `levels` for how
matrices are stored.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from .. import _ffi
from ._numba import compiled
from .galerkin import galerkin, threads
from .levels import Interpolation, Matrix


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
    given = pattern.indptr, pattern.indices, kept, p_indptr, p_indices
    found = _ffi.on_host(_couplings, _couplings_by_numpy, *given)
    given = half, some.pattern, p_indptr, p_indices, less.pattern, each
    targets, parts = _ffi.on_host(_targets, _no_targets, *given)
    places = Places(kept, p_indptr, p_indices, columns, some.number[found], targets, np.zeros(0), parts)
    return places, coarse, less


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

"""Coarser levels by Ruge and Stüben: strong couplings, a splitting in two passes, direct interpolation.

Numbers are in double precision; see `levels` for how matrices are stored.

Ruge and Stüben (1987), doi:10.1137/1.9781611971057.ch4.
"""

from typing import Any

import numpy as np

from .. import _ffi
from ._numba import compiled
from .levels import Interpolation, Matrix


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


def coarsen(matrix: Matrix, theta: float) -> Interpolation:
    """Direct interpolation from what two passes keep, where couplings count as strong from the share `theta`
    of the row's most negative one on."""
    indptr, _, *rest = matrix
    return Interpolation(*_ffi.on_host(_coarsen, _coarsen_by_numpy, indptr, *rest, theta))


def _coarsen(indptr, indices, values, diagonal, theta):
    s_indptr, s_indices = _strong(indptr, indices, values, theta)
    t_indptr, t_indices = _transposed_pattern(s_indptr, s_indices)
    kept = _first_pass(s_indptr, s_indices, t_indptr, t_indices)
    _second_pass(s_indptr, s_indices, kept)
    return *_interpolation(indptr, indices, values, diagonal, s_indptr, s_indices, kept), kept


def _plain(function: Any) -> Any:
    return getattr(function, "py_func", function)


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
    return *(part.astype(np.int32) for part in (made.indptr, made.indices)), made.data, columns, kept

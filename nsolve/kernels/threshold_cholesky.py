"""Incomplete Cholesky factors with a drop tolerance and a limit of fill, column after column, on the host.

Left-looking: a column of the matrix takes off the multiples of the columns before it that meet its row, which
a list for each row keeps.  Rows of a column ascend, so that each column knows which row it meets next.
"""

from typing import Any

import numpy as np

from .. import _ffi
from ._numba import INDEX, compiled


@compiled
def _to_front(rows, sizes, size, count):
    """Moves the `count` largest of the first `size` to the front."""
    low, high = 0, size - 1
    while low < high:
        middle = sizes[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while sizes[i] > middle:
                i += 1
            while sizes[j] < middle:
                j -= 1
            if i <= j:
                rows[i], rows[j] = rows[j], rows[i]
                sizes[i], sizes[j] = sizes[j], sizes[i]
                i += 1
                j -= 1
        if count <= j:
            high = j
        elif count >= i:
            low = i
        else:
            return


@compiled
def _sort(rows, size):
    """Shell's sort of the first `size`."""
    gap = 1
    while gap < size // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, size):
            row, at = rows[i], i
            while at >= gap and rows[at - gap] > row:
                rows[at] = rows[at - gap]
                at -= gap
            rows[at] = row
        gap //= 3


@compiled
def _grown(array, space):
    larger = np.empty(space, array.dtype)
    for k in range(array.size):
        larger[k] = array[k]
    return larger


@compiled
def _factor(indptr, indices, values, limits, shift, fill_factor):
    n = indptr.size - 1
    starts, rows, factor = np.zeros(n + 1, np.int64), np.empty(indices.size, INDEX), np.empty_like(values)
    pivots, work = np.zeros(n, limits.dtype), np.zeros(n, values.dtype)
    found, sizes = np.empty(n, np.int64), np.empty(n, limits.dtype)
    seen, place = np.full(n, -1, np.int64), np.empty(n, np.int64)
    # The columns whose next entry stands in a row: the first, and which comes after each.
    head, after = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    least = np.finfo(limits.dtype).eps
    for j in range(n):
        count, pivot = 0, least
        for at in range(indptr[j], indptr[j + 1]):
            i = indices[at]
            if i == j:
                pivot = values[at].real * (1 + shift)
            else:
                work[i], seen[i], found[count] = values[at].conjugate(), j, i
                count += 1
        smallest = least * pivot
        k = head[j]
        while k >= 0:
            following, at, stop = after[k], place[k], starts[k + 1]
            multiple = factor[at].conjugate() * pivots[k]
            pivot -= (factor[at] * multiple).real
            for entry in range(at + 1, stop):
                i = np.int64(rows[entry])
                if seen[i] != j:
                    work[i], seen[i], found[count] = 0, j, i
                    count += 1
                work[i] -= factor[entry] * multiple
            if at + 1 < stop:
                place[k] = at + 1
                i = np.int64(rows[at + 1])
                after[k], head[i] = head[i], k
            k = following
        if not pivot > smallest or pivot - pivot != 0:
            return starts, rows, factor, pivots, False
        # What is small beside the column of the matrix goes, then what is too much.
        kept, limit = 0, limits[j] * limits[j] * pivot
        for k in range(count):
            i = found[k]
            size = work[i].real * work[i].real + work[i].imag * work[i].imag
            if size > limit:
                found[kept], sizes[kept] = i, size
                kept += 1
        room = np.int64(fill_factor * indptr[j + 1]) - starts[j] - j - 1
        if kept > room:
            _to_front(found, sizes, kept, room)
            kept = room
        _sort(found, kept)
        end = starts[j] + kept
        if end > rows.size:
            rows, factor = _grown(rows, 2 * end), _grown(factor, 2 * end)
        pivots[j] = pivot
        for k in range(kept):
            rows[starts[j] + k] = found[k]
            factor[starts[j] + k] = work[found[k]] / pivot
        starts[j + 1] = end
        if kept > 0:
            place[j] = starts[j]
            after[j], head[found[0]] = head[found[0]], j
    return starts, rows, factor, pivots, True


def factorise(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    limits: np.ndarray,
    shift: float,
    fill_factor: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """`A + shift diag(A) ~ (I + L) D (I + L)^H`: the columns of `L` (where they start, rows ascending, and
    entries), and `D`.  None where a pivot is not positive.

    `A`: its upper triangle and diagonal, in CSR order.  Of `L D^(1/2)`, entries of column `j` up to
    `limits[j]` are dropped; the first columns, with `D`, never have more than `fill_factor` times the entries
    of their rows in the upper triangle."""
    portable = getattr(_factor, "py_func", _factor)  # the same, interpreted
    arguments: tuple[Any, ...] = indptr, indices, values, limits, limits.dtype.type(shift), fill_factor
    starts, rows, factor, pivots, definite = _ffi.on_host(_factor, portable, *arguments)
    return (starts, rows[: starts[-1]], factor[: starts[-1]], pivots) if definite else None

"""An assignment of least cost on a sparse matrix, with its dual variables, on the host."""

import numpy as np

from .. import _ffi
from ._numba import compiled


@compiled
def _assign(indptr, indices, costs, v):
    n, m = indptr.size - 1, v.size
    u = np.zeros(n)
    for k in range(indices.size):
        v[indices[k]] = min(v[indices[k]], costs[k])
    row_of = np.full(m, -1, np.int64)  # the row that holds a column
    place_of = np.full(n, -1, np.int64)  # where the column that a row holds stands among the entries
    for i in range(n):
        least = np.inf
        for k in range(indptr[i], indptr[i + 1]):
            least = min(least, costs[k] - v[indices[k]])
        u[i] = least
        for k in range(indptr[i], indptr[i + 1]):
            j = indices[k]
            if row_of[j] < 0 and costs[k] - v[j] <= least:
                row_of[j], place_of[i] = i, k
                break
    # Free rows: Dijkstra's search over the columns, by reduced costs, for the nearest free column.
    distance, came_from = np.full(m, np.inf), np.zeros(m, np.int64)  # the entry by which a column was reached
    heap, spot = np.zeros(m, np.int64), np.full(m, -1, np.int64)
    reached = np.zeros(m, np.int64)
    for start in range(n):
        if place_of[start] >= 0:
            continue
        i, before, last, best, size, count = start, 0.0, -1, np.inf, 0, 0
        while True:
            for k in range(indptr[i], indptr[i + 1]):
                j = indices[k]
                length = before + max(costs[k] - u[i] - v[j], 0.0)
                if length >= best or length >= distance[j]:
                    continue
                if distance[j] == np.inf:
                    reached[count] = j
                    count += 1
                distance[j], came_from[j] = length, k
                if row_of[j] < 0:
                    best, last = length, j
                    continue
                at = spot[j]
                if at < 0:
                    at = size
                    size += 1
                while at > 0 and distance[heap[(at - 1) // 2]] > length:
                    heap[at] = heap[(at - 1) // 2]
                    spot[heap[at]] = at
                    at = (at - 1) // 2
                heap[at], spot[j] = j, at
            if size == 0 or distance[heap[0]] >= best:
                break
            nearest = heap[0]
            size -= 1
            moved, at = heap[size], 0
            while 2 * at + 1 < size:
                child = 2 * at + 1
                if child + 1 < size and distance[heap[child + 1]] < distance[heap[child]]:
                    child += 1
                if distance[heap[child]] >= distance[moved]:
                    break
                heap[at] = heap[child]
                spot[heap[at]] = at
                at = child
            if size > 0:
                heap[at], spot[moved] = moved, at
            i, before = row_of[nearest], distance[nearest]
        if last < 0:  # nor will any other search find a free column from what this one reached
            for r in range(count):
                distance[reached[r]] = -np.inf
            continue
        u[start] += best
        for r in range(count):
            j = reached[r]
            if distance[j] < best:
                v[j] += distance[j] - best
                u[row_of[j]] -= distance[j] - best
        j = last
        while True:
            k = came_from[j]
            i = np.searchsorted(indptr, k, side="right") - 1
            left = place_of[i]
            place_of[i], row_of[j] = k, i
            if i == start:
                break
            j = indices[left]
        for r in range(count):
            distance[reached[r]] = np.inf
            spot[reached[r]] = -1
    return place_of, u


def least_assignment(
    indptr: np.ndarray, indices: np.ndarray, costs: np.ndarray, num_columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The column of each row of a pattern, with the least sum of costs, and dual variables `u, v` with
    `u[i] + v[j] <= costs[i, j]`, equal where they are assigned.

    Where there is no assignment for all rows, as many as can be have one, the others -1, and neither the sum
    nor the dual variables mean anything.  Costs are finite; the rows' columns need no order.
    """
    portable = getattr(_assign, "py_func", _assign)  # the same, interpreted
    indptr, indices = indptr.astype(np.int64), indices.astype(np.int64)
    v = np.full(num_columns, np.inf)
    place, u = _ffi.on_host(_assign, portable, indptr, indices, costs, v)
    columns = np.where(place >= 0, np.append(indices, -1)[place], -1)
    u = np.where(place >= 0, np.append(costs, 0.0)[place] - np.append(v, 0.0)[columns], u)
    return columns, u, v

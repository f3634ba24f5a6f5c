"""An elimination order by approximate minimum degree, on the host.

The graph of what is left is kept as a quotient graph: a variable's neighbours are other variables, or the
members of *elements*, the cliques that eliminated pivots left behind.  Its storage never grows.  Variables
with the same neighbours are merged into one of larger weight.
"""

import numpy as np

from .. import _ffi
from ._numba import compiled


@compiled
def _ranks(indptr, indices, dense):
    n = indptr.size - 1
    # The list of a variable: elements, then variables; of an element: variables.
    start, length, num_elements = np.empty(n, np.int64), np.empty(n, np.int64), np.zeros(n, np.int64)
    degree = np.empty(n, np.int64)
    for i in range(n):
        start[i] = indptr[i]
        degree[i] = length[i] = indptr[i + 1] - indptr[i]
    space = indices.size + indices.size // 4 + 2 * n + 1
    lists = np.empty(space, np.int64)
    for k in range(indices.size):
        lists[k] = indices[k]
    free = indices.size
    weight = np.ones(n, np.int64)  # 0: merged or eliminated; negative: a member of the newest element
    parent = np.full(n, -1, np.int64)  # what a variable was merged into, or the pivot that eliminated it
    seen = np.ones(n, np.int64)  # 0: an element that was absorbed
    rank = np.full(n, n, np.int64)  # of pivots
    head = np.full(n + 1, -1, np.int64)  # variables by degree, doubly linked
    after, ahead = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    bucket = np.full(n + 1, -1, np.int64)  # variables of the newest element by a checksum of their lists
    chain, checksum = np.full(n, -1, np.int64), np.zeros(n, np.int64)

    done, num_pivots, least, stamp = 0, 0, 0, 2
    for i in range(n - 1, -1, -1):
        if dense[i]:
            weight[i] = 0
            done += 1
            continue
        d = degree[i]
        after[i] = head[d]
        if head[d] >= 0:
            ahead[head[d]] = i
        head[d] = i

    while done < n:
        while head[least] < 0:
            least += 1
        pivot = head[least]
        head[least] = after[pivot]
        if after[pivot] >= 0:
            ahead[after[pivot]] = -1
        rank[pivot] = num_pivots
        num_pivots += 1

        # The new element: all neighbours of the pivot.
        bound = length[pivot]
        for k in range(start[pivot], start[pivot] + num_elements[pivot]):
            bound += length[lists[k]]
        if free + bound > space:
            packed, free = np.empty(space, np.int64), 0
            for i in range(n):
                if (weight[i] > 0 or (rank[i] < n and seen[i] > 0)) and length[i] > 0:
                    for k in range(length[i]):
                        packed[free + k] = lists[start[i] + k]
                    start[i] = free
                    free += length[i]
            lists = packed
        pivot_weight = weight[pivot]
        done += pivot_weight
        weight[pivot] = -pivot_weight
        begin, size = free, 0
        first_variable = start[pivot] + num_elements[pivot]
        for part in range(num_elements[pivot] + 1):
            if part < num_elements[pivot]:
                element = lists[start[pivot] + part]
                low, high = start[element], start[element] + length[element]
                seen[element], length[element] = 0, 0
            else:
                low, high = first_variable, start[pivot] + length[pivot]
            for k in range(low, high):
                i = lists[k]
                if weight[i] <= 0:
                    continue
                size += weight[i]
                weight[i] = -weight[i]
                lists[free] = i
                free += 1
                if after[i] >= 0:
                    ahead[after[i]] = ahead[i]
                if ahead[i] >= 0:
                    after[ahead[i]] = after[i]
                else:
                    head[degree[i]] = after[i]
        end = free
        start[pivot], length[pivot], num_elements[pivot] = begin, end - begin, 0

        # How much of every element that touches it lies outside of the new one: `seen - stamp`.
        for k in range(begin, end):
            i = lists[k]
            for at in range(start[i], start[i] + num_elements[i]):
                element = lists[at]
                if seen[element] >= stamp:
                    seen[element] += weight[i]
                elif seen[element] > 0:
                    seen[element] = degree[element] + stamp + weight[i]

        # New lists and bounds of degrees of its members.
        for k in range(begin, end):
            i = lists[k]
            low, middle = start[i], start[i] + num_elements[i]
            high = start[i] + length[i]
            to, total, check = low, 0, 0
            for at in range(low, middle):
                element = lists[at]
                if seen[element] == 0:
                    continue
                outside = seen[element] - stamp
                if outside > 0:
                    total += outside
                    check += element
                    lists[to] = element
                    to += 1
                else:  # the new element has all of it
                    seen[element], length[element] = 0, 0
            variables = to
            for at in range(middle, high):
                j = lists[at]
                if weight[j] > 0:
                    total += weight[j]
                    check += j
                    lists[to] = j
                    to += 1
            if total == 0:  # no other neighbours: it goes with the pivot
                parent[i] = pivot
                pivot_weight -= weight[i]
                size += weight[i]
                done -= weight[i]
                weight[i], length[i] = 0, 0
                continue
            degree[i] = min(degree[i], total)
            # The pivot's element goes to the front; one place at least has become free.
            lists[to] = lists[variables]
            lists[variables] = lists[low]
            lists[low] = pivot
            num_elements[i], length[i] = variables - low + 1, to - low + 1
            check %= n
            checksum[i], chain[i] = check, bucket[check]
            bucket[check] = i
        degree[pivot] = size
        stamp += n + 1

        # Members with the same list become one.
        for k in range(begin, end):
            i = lists[k]
            if weight[i] == 0:
                continue
            i = bucket[checksum[i]]
            bucket[checksum[lists[k]]] = -1
            while i >= 0 and chain[i] >= 0:
                for at in range(start[i] + 1, start[i] + length[i]):
                    seen[lists[at]] = stamp
                previous, j = i, chain[i]
                while j >= 0:
                    same = length[j] == length[i] and num_elements[j] == num_elements[i]
                    at = start[j] + 1
                    while same and at < start[j] + length[j]:
                        same = seen[lists[at]] == stamp
                        at += 1
                    if same:
                        parent[j] = i
                        weight[i] += weight[j]
                        weight[j], length[j] = 0, 0
                        chain[previous] = chain[j]
                    else:
                        previous = j
                    j = chain[j]
                stamp += 1
                i = chain[i]

        # Its members go back to the lists of degrees.
        to = begin
        for k in range(begin, end):
            i = lists[k]
            if weight[i] >= 0:
                continue
            weight[i] = -weight[i]
            d = min(degree[i] + size - weight[i], n - done - weight[i])
            degree[i] = d
            after[i], ahead[i] = head[d], -1
            if head[d] >= 0:
                ahead[head[d]] = i
            head[d] = i
            least = min(least, d)
            lists[to] = i
            to += 1
        length[pivot] = to - begin
        free = to
        weight[pivot] = 0
        seen[pivot] = stamp if length[pivot] > 0 else 0
        stamp += 1

    for i in range(n):  # what was merged is eliminated with its pivot
        root = i
        while parent[root] >= 0:
            root = parent[root]
        rank[i] = rank[root]
    return rank


def approximate_minimum_degree(indptr: np.ndarray, indices: np.ndarray, dense: int) -> np.ndarray:
    """The order of elimination, `(n,)`, for a symmetric pattern without its diagonal.

    Rows with more than `dense` entries come last."""
    portable = getattr(_ranks, "py_func", _ranks)  # the same, interpreted
    indptr, indices = indptr.astype(np.int64), indices.astype(np.int64)
    ranks = _ffi.on_host(_ranks, portable, indptr, indices, np.diff(indptr) > dense)
    return np.argsort(ranks, kind="stable")

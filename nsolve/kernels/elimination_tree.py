"""Elimination trees, and how many entries each column of a Cholesky factor has, on the host."""

import numpy as np

from .. import _ffi
from ._numba import compiled


@compiled
def _tree(indptr, indices):
    n = indptr.size - 1
    parent, ancestor = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    for k in range(n):
        for at in range(indptr[k], indptr[k + 1]):
            i = indices[at]
            while i >= 0 and i < k:  # up to the root of the subtree, whose shortcut this row becomes
                above = ancestor[i]
                ancestor[i] = k
                if above < 0:
                    parent[i] = k
                i = above
    # Children before their parents, subtree after subtree.
    child, sibling = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    for i in range(n - 1, -1, -1):
        if parent[i] >= 0:
            sibling[i], child[parent[i]] = child[parent[i]], i
    post, stack, count = np.empty(n, np.int64), np.empty(n, np.int64), 0
    for root in range(n):
        if parent[root] >= 0:
            continue
        stack[0], size = root, 1
        while size > 0:
            i = stack[size - 1]
            if child[i] >= 0:
                stack[size] = child[i]
                child[i] = sibling[child[i]]
                size += 1
            else:
                post[count] = i
                count += 1
                size -= 1
    return parent, post


@compiled
def _counts(indptr, indices, parent, post):
    n = indptr.size - 1
    first = np.full(n, -1, np.int64)  # the first of a node's descendants
    counts = np.zeros(n, np.int64)
    for k in range(n):
        j = post[k]
        counts[j] = 1 if first[j] < 0 else 0
        while j >= 0 and first[j] < 0:
            first[j] = k
            j = parent[j]
    # The entries of row i lie on a subtree of the tree. A leaf adds one from itself to the root; where two
    # paths meet, one is taken off.
    furthest, leaf, above = np.full(n, -1, np.int64), np.full(n, -1, np.int64), np.arange(n)
    for k in range(n):
        j = post[k]
        if parent[j] >= 0:
            counts[parent[j]] -= 1
        for at in range(indptr[j], indptr[j + 1]):
            i = indices[at]
            if i <= j or first[j] <= furthest[i]:
                continue
            furthest[i] = first[j]
            counts[j] += 1
            if leaf[i] >= 0:
                meet = leaf[i]
                while meet != above[meet]:
                    meet = above[meet]
                s = leaf[i]
                while s != meet:
                    s, above[s] = above[s], meet
                counts[meet] -= 1
            leaf[i] = j
        if parent[j] >= 0:
            above[j] = parent[j]
    for k in range(n):
        j = post[k]
        if parent[j] >= 0:
            counts[parent[j]] += counts[j]
    return counts


def elimination_tree(indptr: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The parent of each column, -1 for roots, and a postorder, `(n,)` each, of a symmetric pattern."""
    portable = getattr(_tree, "py_func", _tree)  # the same, interpreted
    return _ffi.on_host(_tree, portable, indptr.astype(np.int64), indices.astype(np.int64))


def column_counts(
    indptr: np.ndarray, indices: np.ndarray, parent: np.ndarray, post: np.ndarray
) -> np.ndarray:
    """The entries of each column of the Cholesky factor, its diagonal included, `(n,)`."""
    portable = getattr(_counts, "py_func", _counts)
    return _ffi.on_host(_counts, portable, indptr.astype(np.int64), indices.astype(np.int64), parent, post)

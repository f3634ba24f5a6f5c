"""Greedy colouring of the unknowns, on the host."""

import numpy as np

from .. import _ffi
from ._numba import compiled


@compiled
def _colours(indptr, indices):
    n = indptr.size - 1
    colours = np.full(n, -1, np.int64)
    last_seen = np.full(n + 1, -1, np.int64)  # the last row that had a neighbour of this colour
    for i in range(n):
        for k in range(indptr[i], indptr[i + 1]):
            j = indices[k]
            if j != i and colours[j] >= 0:
                last_seen[colours[j]] = i
        colour = 0
        while last_seen[colour] == i:
            colour += 1
        colours[i] = colour
    return colours


def _portable(indptr, indices):
    # Over lists: reading single numbers from arrays takes several times as long.
    neighbours, colours = indices.tolist(), [-1] * (len(indptr) - 1)
    start = 0
    for i, stop in enumerate(indptr[1:].tolist()):
        seen = {colours[j] for j in neighbours[start:stop]}
        colour = 0
        while colour in seen:
            colour += 1
        colours[i], start = colour, stop
    return np.asarray(colours, np.int64)


def greedy_colouring(indptr: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Gives each row, in turn, the first colour that no neighbour has, `(n,)`; the pattern is symmetric."""
    return _ffi.on_host(_colours, _portable, indptr, indices)

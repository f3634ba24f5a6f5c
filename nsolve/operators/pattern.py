"""Sparsity patterns: everything about a sparse matrix that its values do not change.

A pattern lives on the host as NumPy arrays, is immutable, and hashes by content.  Operators carry it as a
*static* field, so that symbolic work (transposes, levels, colourings, fill) can be done, and is done once,
even while a function is being traced.
"""

import functools
import hashlib
import weakref
from collections.abc import Callable

import numpy as np


def _frozen(array) -> np.ndarray:
    array = np.ascontiguousarray(array)
    array.setflags(write=False)
    return array


class SparsityPattern:
    """The positions of a sparse matrix's entries, compressed by rows, columns ascending, no duplicates.

    `indptr` has `shape[0] + 1` entries, `indices` one column per stored entry ("CSR order").
    """

    def __init__(self, indptr, indices, shape: tuple[int, int]):
        dtype = np.int32 if max(len(indices), *shape) < 2**31 - 1 else np.int64
        self.indptr = _frozen(np.asarray(indptr, dtype))
        self.indices = _frozen(np.asarray(indices, dtype))
        self.shape = (int(shape[0]), int(shape[1]))

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return len(self.indices)

    @functools.cached_property
    def _digest(self) -> bytes:
        digest = hashlib.blake2b(repr(self.shape).encode(), digest_size=16)
        digest.update(self.indptr.tobytes())
        digest.update(self.indices.tobytes())
        return digest.digest()

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other) -> bool:
        if self is other:
            return True
        return isinstance(other, SparsityPattern) and self._digest == other._digest

    def __repr__(self) -> str:
        return f"SparsityPattern(shape={self.shape}, nnz={self.nnz})"

    @functools.cached_property
    def row_lengths(self) -> np.ndarray:
        """Stored entries in each row."""
        return _frozen(np.diff(self.indptr))

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """The row of each entry, in CSR order."""
        return _frozen(np.repeat(np.arange(self.shape[0], dtype=self.indices.dtype), self.row_lengths))

    @functools.cached_property
    def diagonal_positions(self) -> np.ndarray:
        """Where each row's diagonal entry stands among the values; `nnz` where the row has none."""
        return _frozen(self.band_positions(0))

    @functools.cached_property
    def lower_positions(self) -> np.ndarray:
        """Where the entries of the lower triangle, diagonal included, stand among the values."""
        return _frozen(np.flatnonzero(self.rows >= self.indices).astype(self.indptr.dtype))

    def band_positions(self, offset: int) -> np.ndarray:
        """The same for the diagonal `offset` places to the right of the main one."""
        length = min(self.shape[0] + min(offset, 0), self.shape[1] - max(offset, 0))
        positions = np.full(max(length, 0), self.nnz, self.indptr.dtype)
        (on_band,) = np.nonzero(self.indices - self.rows == offset)
        positions[self.rows[on_band] + min(offset, 0)] = on_band
        return positions

    @functools.cached_property
    def transposed(self) -> tuple["SparsityPattern", np.ndarray]:
        """The transpose's pattern, and `order` such that `values[order]` are the transpose's values."""
        import scipy.sparse as sp  # slow to import

        numbered = sp.csr_array((np.arange(self.nnz), self.indices, self.indptr), shape=self.shape)
        transpose = numbered.T.tocsr()
        transpose.sort_indices()
        pattern = SparsityPattern(transpose.indptr, transpose.indices, (self.shape[1], self.shape[0]))
        if pattern == self:
            pattern = self
        return pattern, _frozen(transpose.data.astype(self.indptr.dtype))

    @functools.cached_property
    def bandwidth(self) -> tuple[int, int]:
        """Largest distance of an entry below and above the diagonal."""
        if self.nnz == 0:
            return 0, 0
        distance = self.indices.astype(np.int64) - self.rows
        return int(max(0, -distance.min())), int(max(0, distance.max()))

    @functools.cached_property
    def diagonal_offsets(self) -> tuple[int, ...] | None:
        """The diagonals on which the entries lie, ascending, if they are few and well filled; else None."""
        if self.nnz == 0 or self.shape[0] != self.shape[1]:
            return None
        offsets = np.flatnonzero(np.bincount(self.indices.astype(np.int64) - self.rows + self.shape[0]))
        if len(offsets) > _MAX_DIAGONALS or len(offsets) * self.shape[0] > _MAX_PADDING * self.nnz:
            return None
        return tuple(int(offset) - self.shape[0] for offset in offsets)

    @functools.cached_property
    def buckets(self) -> tuple[np.ndarray, ...]:
        """Rows grouped by similar length, for storage in padded blocks: see `_bucket_rows`."""
        return tuple(_frozen(rows) for rows in _bucket_rows(self.row_lengths))


def per_pattern(function: Callable) -> Callable:
    """Remembers symbolic results for as long as the pattern (first argument) lives."""
    known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    @functools.wraps(function)
    def remembering(pattern: SparsityPattern, *arguments):
        results = known.setdefault(pattern, {})
        if arguments not in results:
            results[arguments] = function(pattern, *arguments)
        return results[arguments]

    return remembering


#: More diagonals than this are not unrolled into one sum.
_MAX_DIAGONALS = 32
#: Stored slots may exceed the entries by this factor.
_MAX_PADDING = 1.3


def _bucket_rows(lengths: np.ndarray) -> list[np.ndarray]:
    """Splits rows into few groups such that padding each group to its longest row wastes little.

    Where one group suffices (grids, meshes with even valence) the rows keep their order; otherwise they are
    sorted by length and cut greedily from the longest down, a new group starting where the padding of the
    current one passes the limit.  Group sizes then fall geometrically: a matrix with a few dense rows costs
    what its entries cost.
    """
    n = len(lengths)
    total = int(lengths.sum())
    if n == 0 or int(lengths.max()) * n <= _MAX_PADDING * total + 16:
        return [np.arange(n)]
    order = np.argsort(-lengths, kind="stable")
    longest_first = lengths[order]
    entries_before = np.concatenate([[0], np.cumsum(longest_first)])
    groups, start = [], 0
    while start < n:
        width = longest_first[start]
        size = np.arange(1, n - start + 1)
        entries = entries_before[start + 1 :] - entries_before[start]
        good = width * size <= _MAX_PADDING * entries
        stop = start + int(size[good][-1])
        groups.append(np.sort(order[start:stop]))
        start = stop
    return groups

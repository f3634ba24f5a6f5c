"""A level of algebraic multigrid: its matrix, and what interpolates to it.

A matrix is `indptr, middle, indices, values, diagonal`: rows compressed without their diagonal, columns
ascending; `middle` says where in each row the entries right of the diagonal begin. All indices are int32.
"""

from typing import Any, NamedTuple

import numpy as np

from .. import _ffi
from ._numba import compiled


@compiled
def _split(indptr, indices, values):
    """A level, of a matrix in canonical format."""
    n = indptr.size - 1
    starts, middle = np.empty(n + 1, np.int32), np.empty(n, np.int32)
    others, rest = np.empty(indices.size, np.int32), np.empty_like(values)
    diagonal = np.zeros(n, values.dtype)
    place = 0
    starts[0] = 0
    for i in range(n):
        middle[i] = -1
        for k in range(indptr[i], indptr[i + 1]):
            j = indices[k]
            if j == i:
                diagonal[i] = values[k]
                continue
            if j > i and middle[i] < 0:
                middle[i] = place
            others[place] = j
            rest[place] = values[k]
            place += 1
        if middle[i] < 0:
            middle[i] = place
        starts[i + 1] = place
    return starts, middle, others[:place].copy(), rest[:place].copy(), diagonal


@compiled
def _is_hermitian(indptr, middle, indices, values):
    at = middle.copy()
    for i in range(middle.size):
        for k in range(indptr[i], middle[i]):
            j = indices[k]
            place = at[j]
            if place == indptr[j + 1] or indices[place] != i or values[place] != np.conj(values[k]):
                return False
            at[j] += 1
    same = True
    for i in range(middle.size):
        same &= at[i] == indptr[i + 1]
    return same


class Matrix(NamedTuple):
    """A level's."""

    indptr: np.ndarray
    middle: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    diagonal: np.ndarray

    @property
    def size(self) -> int:
        return len(self.diagonal)

    @property
    def nnz(self) -> int:
        """How many entries it has, those of the diagonal that are not zero among them."""
        return len(self.values) + int(np.count_nonzero(self.diagonal))

    @property
    def scipy(self) -> Any:
        """As a `csr_array`, its diagonal included."""
        import scipy.sparse as sp  # slow to import

        n = self.size
        others = sp.csr_array((self.values, self.indices, self.indptr), shape=(n, n))
        return sp.csr_array(others + sp.diags_array(self.diagonal))


class Interpolation(NamedTuple):
    """From a level to the one before it, by rows; `kept` is 1 for the unknowns that are those of the level,
    and None where they are not among the others."""

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    columns: int
    kept: np.ndarray | None = None

    @property
    def scipy(self) -> Any:
        import scipy.sparse as sp

        parts = self.values, self.indices, self.indptr
        return sp.csr_array(parts, shape=(len(self.indptr) - 1, self.columns))


def split(matrix: Any) -> Matrix:
    """Of a `csr_array` in canonical format."""
    return Matrix(*_ffi.on_host(_split, split_by_numpy, matrix.indptr, matrix.indices, matrix.data))


def is_hermitian(matrix: Matrix) -> bool:
    """Whether it equals its adjoint."""
    if np.imag(matrix.diagonal).any():
        return False
    return bool(_ffi.on_host(_is_hermitian, _is_hermitian_by_scipy, *matrix[:4]))


def split_by_numpy(indptr, indices, values):
    n = len(indptr) - 1
    rows = np.repeat(np.arange(n), np.diff(indptr))
    off, diagonal = rows != indices, np.zeros(n, values.dtype)
    diagonal[rows[~off]] = values[~off]
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows[off], minlength=n))])
    middle = starts[:-1] + np.bincount(rows[indices < rows], minlength=n)
    return starts.astype(np.int32), middle.astype(np.int32), indices[off], values[off], diagonal


def _is_hermitian_by_scipy(indptr, middle, indices, values):
    import scipy.sparse as sp

    matrix = sp.csr_array((values, indices, indptr), shape=(len(middle), len(middle)))
    return (matrix != matrix.conj().T).nnz == 0

"""Sparse matrices with a static pattern; how the values are stored and multiplied is in `storage`.

JAX's own BCOO and BCSR are input formats only: they go through scatter-adds or a serial loop over rows.
"""

from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp
from jax.core import Tracer
from jaxtyping import Array, Inexact

from .._vectors import take
from .base import AbstractOperator, as_tags, hermitian_tag
from .pattern import SparsityPattern
from .storage import Diagonals, PaddedRows, read, store, with_zero


class SparseLinearOperator(AbstractOperator):
    """A sparse matrix with a fixed sparsity pattern and differentiable values.

    Build one with [`from_scipy`][nsolve.SparseLinearOperator.from_scipy], `from_coo`, `from_bcoo` or
    `from_matrix_market`.  It acts on flat arrays: `(columns,) -> (rows,)`.

    * `values`: the stored entries, `(nnz,)`, in CSR order (by rows, columns ascending): the order of
      `scipy.sparse.csr_array.data` after `sort_indices()`.  Gradients live on these entries only.
    * `with_values(v)`: the same pattern with other values; legal under `jit`, `grad` and `vmap`.
    * `tags`: lineax's promises about the structure.  Positive (semi)definiteness is the user's word:
      `lx.TaggedLinearOperator(A, lx.positive_semidefinite_tag)` or `tags=`.

    One product costs `nnz` multiply-adds and reads 8 bytes an entry (float64) where the entries lie on few
    diagonals, 12 bytes otherwise; empty slots add at most 30 %.
    The pattern is static: a function that takes the operator is traced once per pattern.
    """

    _blocks: tuple[Diagonals | PaddedRows, ...]
    _restore_order: Array | None
    pattern: SparsityPattern = eqx.field(static=True)
    tags: frozenset[object] = eqx.field(static=True)

    def __init__(self, values: Array | np.ndarray, pattern: SparsityPattern, tags: Any = ()):
        """Use the `from_…` constructors; this one takes values in CSR order and a ready pattern."""
        if values.shape != (pattern.nnz,):
            raise ValueError(
                f"`values` must have shape ({pattern.nnz},), one for each entry of the pattern in CSR "
                f"order, but has shape {values.shape}."
            )
        if not jnp.issubdtype(values.dtype, jnp.inexact):
            raise TypeError(
                f"`values` must be floating-point or complex, but are {values.dtype}; convert them first."
            )
        self.pattern = pattern
        self.tags = as_tags(tags)
        self._blocks = store(values, pattern)
        if len(self._blocks) == 1:
            self._restore_order = None
        else:
            order = np.empty(pattern.shape[0], np.int32)
            order[np.concatenate(pattern.buckets)] = np.arange(pattern.shape[0], dtype=np.int32)
            self._restore_order = jnp.asarray(order)

    @staticmethod
    def from_scipy(matrix: Any, tags: Any = ()) -> "SparseLinearOperator":
        """From any SciPy sparse matrix or array (or dense NumPy array).

        Duplicate entries are summed, explicit zeros kept.  A symmetry tag that the entries contradict is a
        `ValueError`.  Integer and boolean matrices become the default floating-point type.
        """
        matrix = sp.csr_array(matrix, copy=True)
        matrix.sum_duplicates()
        matrix.sort_indices()
        if not np.issubdtype(matrix.dtype, np.inexact):
            matrix = matrix.astype(jnp.result_type(float))
        tags = as_tags(tags)
        _check_symmetry_tags(matrix, tags)
        pattern = SparsityPattern(matrix.indptr, matrix.indices, matrix.shape)
        return SparseLinearOperator(matrix.data, pattern, tags)

    @staticmethod
    def from_coo(
        values: Inexact[Array, " nnz"], rows: Any, cols: Any, shape: tuple[int, int], tags: Any = ()
    ) -> "SparseLinearOperator":
        """From coordinates.  `values` may be traced; `rows` and `cols` must be concrete integers.

        Entries at the same position are summed.  `A.values` are in CSR order, whatever the order given.
        """
        values = jnp.asarray(values)
        rows, cols = _concrete_indices(rows, "rows"), _concrete_indices(cols, "cols")
        if not (values.shape == rows.shape == cols.shape and values.ndim == 1):
            raise ValueError(
                "`values`, `rows` and `cols` must be flat and of one length, but have shapes "
                f"{values.shape}, {rows.shape} and {cols.shape}."
            )
        for name, index, size in (("rows", rows, shape[0]), ("cols", cols, shape[1])):
            if index.size and (index.min() < 0 or index.max() >= size):
                raise ValueError(
                    f"`{name}` must lie in [0, {size}) for shape {tuple(shape)}, but ranges over "
                    f"[{index.min()}, {index.max()}]."
                )
        order = np.lexsort((cols, rows))
        rows, cols = rows[order], cols[order]
        first = np.ones(len(rows), bool)
        first[1:] = (np.diff(rows) != 0) | (np.diff(cols) != 0)
        values = values[order]
        if not first.all():
            values = jax.ops.segment_sum(
                values, np.cumsum(first) - 1, int(first.sum()), indices_are_sorted=True
            )
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows[first], minlength=shape[0]))])
        return SparseLinearOperator(values, SparsityPattern(indptr, cols[first], shape), tags)

    @staticmethod
    def from_bcoo(matrix: Any, tags: Any = ()) -> "SparseLinearOperator":
        """From a `jax.experimental.sparse.BCOO` with concrete indices, no batch and no dense dimensions."""
        if matrix.n_batch or matrix.n_dense or matrix.ndim != 2:
            raise ValueError(
                "`matrix` must be a two-dimensional BCOO with n_batch = n_dense = 0, but has shape "
                f"{matrix.shape}, n_batch = {matrix.n_batch}, n_dense = {matrix.n_dense}; "
                "to batch, `jax.vmap` over the values."
            )
        indices = _concrete_indices(matrix.indices, "matrix.indices")
        inside = np.all(indices < np.asarray(matrix.shape), axis=1)  # BCOO pads with indices out of range
        (kept,) = np.nonzero(inside)
        return SparseLinearOperator.from_coo(
            matrix.data[kept], indices[kept, 0], indices[kept, 1], matrix.shape, tags
        )

    @staticmethod
    def from_matrix_market(path: Any) -> "SparseLinearOperator":
        """Reads a Matrix Market file (`.mtx`, `.mtx.gz`); symmetric and Hermitian headers become tags."""
        from .matrix_market import read_matrix_market

        matrix, tags = read_matrix_market(path)
        return SparseLinearOperator.from_scipy(matrix, tags)

    @property
    def values(self) -> Array:
        """The stored entries in CSR order, shape `(nnz,)`."""
        return read(self._blocks, self.pattern)

    @property
    def dtype(self):
        """Type of the values."""
        return self._blocks[0].values.dtype

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return self.pattern.nnz

    def with_values(self, values: Inexact[Array, " nnz"]) -> "SparseLinearOperator":
        """The same pattern and tags with other values, `(nnz,)` in CSR order."""
        return SparseLinearOperator(jnp.asarray(values), self.pattern, self.tags)

    def as_scipy(self) -> sp.csr_array:
        """As a SciPy CSR array (concrete values only)."""
        pattern = self.pattern
        data = np.array(self.values)
        return sp.csr_array((data, pattern.indices.copy(), pattern.indptr.copy()), shape=pattern.shape)

    def mv(self, vector: Inexact[Array, " columns"]) -> Inexact[Array, " rows"]:
        """`A @ vector`."""
        parts = [block.mv(vector) for block in self._blocks]
        if self._restore_order is None:
            return parts[0]
        return jnp.concatenate(parts).at[self._restore_order].get(mode="promise_in_bounds")

    def as_matrix(self) -> Array:
        pattern = self.pattern
        dense = jnp.zeros(pattern.shape, self.dtype)
        return dense.at[pattern.rows, pattern.indices].set(self.values)

    def transpose(self) -> "SparseLinearOperator":
        if lx.is_symmetric(self):
            return self
        pattern, order = self.pattern.transposed
        return SparseLinearOperator(take(self.values, order), pattern, lx.transpose_tags(self.tags))

    def conj(self) -> "SparseLinearOperator":
        blocks = jax.tree.map(lambda x: x.conj() if eqx.is_inexact_array(x) else x, self._blocks)
        return eqx.tree_at(lambda operator: operator._blocks, self, blocks)

    def diagonal(self) -> Array:
        return take(with_zero(self.values), self.pattern.diagonal_positions)

    def tridiagonal(self) -> tuple[Array, Array, Array]:
        values = with_zero(self.values)
        bands = (self.pattern.band_positions(offset) for offset in (0, -1, 1))
        main, lower, upper = (take(values, positions) for positions in bands)
        return main, lower, upper

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.pattern.shape[1],), self.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.pattern.shape[0],), self.dtype)

    def is_structurally(self, tag: object) -> bool:
        below, above = self.pattern.bandwidth
        limits = {
            lx.diagonal_tag: (0, 0),
            lx.tridiagonal_tag: (1, 1),
            lx.lower_triangular_tag: (np.inf, 0),
            lx.upper_triangular_tag: (0, np.inf),
        }
        return tag in limits and below <= limits[tag][0] and above <= limits[tag][1]

    def __repr__(self) -> str:
        rows, columns = self.pattern.shape
        tags = f", tags={{{', '.join(sorted(map(repr, self.tags)))}}}" if self.tags else ""
        return f"SparseLinearOperator({rows} x {columns}, {self.nnz} entries, {self.dtype}{tags})"


def _concrete_indices(index: Any, name: str) -> np.ndarray:
    if isinstance(index, Tracer):
        raise TypeError(
            f"`{name}` must be concrete: the sparsity pattern is static. Build the operator outside of "
            "`jit`/`vmap` and pass new values with `with_values`."
        )
    index = np.asarray(index)
    if not np.issubdtype(index.dtype, np.integer):
        raise TypeError(f"`{name}` must be integers, but are {index.dtype}.")
    return index.astype(np.int64)


def _check_symmetry_tags(matrix: sp.csr_array, tags: Iterable[object]) -> None:
    definite = {lx.positive_semidefinite_tag, lx.negative_semidefinite_tag, hermitian_tag}
    for tag in tags:
        if tag is not lx.symmetric_tag and tag not in definite:
            continue
        transpose = matrix.T if tag is lx.symmetric_tag else matrix.conj().T
        if matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"`tags` contain {tag}, but the matrix is not square: {matrix.shape}.")
        largest = abs(matrix - transpose).max() if matrix.nnz else 0
        if largest > 1e-10 * (abs(matrix).max() if matrix.nnz else 0):
            kind = "symmetric" if tag is lx.symmetric_tag else "Hermitian"
            raise ValueError(
                f"`tags` contain {tag}, but the matrix is not {kind}: entries differ from its "
                f"transpose's by up to {largest:.3g}. Leave the tag out, or symmetrise the matrix."
            )

"""Sparse matrices with a static pattern; how the values are stored and multiplied is in `storage`.

JAX's own BCOO and BCSR are input formats only: they go through scatter-adds or a serial loop over rows.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Inexact

from .._vectors import take
from .base import AbstractOperator, as_tags, hermitian_tag, is_jax_sparse
from .pattern import SparsityPattern
from .storage import Entries, Mirrored, mirror, read, store, with_zero
from .values import as_values, fit, host_dtype

if TYPE_CHECKING:
    import scipy.sparse as sp

Symmetry = Literal["symmetric", "hermitian"]
_SYMMETRY_TAGS: dict[Symmetry, object] = {"symmetric": lx.symmetric_tag, "hermitian": hermitian_tag}


class SparseLinearOperator(AbstractOperator):
    """A sparse matrix with a fixed sparsity pattern and differentiable values.

    Build one with [`from_scipy`][nsolve.SparseLinearOperator.from_scipy], `from_coo`, `from_bcoo` or
    `from_matrix_market`.  It acts on flat arrays: `(columns,) -> (rows,)`.

    * `values`: the stored entries, `(nnz,)`, in CSR order (by rows, columns ascending): the order of
      `scipy.sparse.csr_array.data` after `sort_indices()`.  Gradients live on these entries only.
    * `with_values(v)`: the same pattern with other values; legal under `jit`, `grad` and `vmap`.
    * `tags`: lineax's promises about the structure.  Positive (semi)definiteness is the user's word:
      `lx.TaggedLinearOperator(A, lx.positive_semidefinite_tag)` or `tags=`.  Tags that are given hold for all
      values that the pattern is given later; they choose methods, and `transpose()` does not rely on them.

    With *symmetric storage* (`from_scipy(matrix, symmetry=...)`, and symmetric or Hermitian Matrix Market
    files) the operator's only floating-point array is its lower triangle, diagonal included:

    * `triangle`: these entries, in CSR order; `with_triangle(t)`: the same pattern with others.
      Gradients with respect to them, or to the operator as a pytree, and steps along these keep the matrix
      symmetric (Hermitian).  `values` are still all entries; `with_values(v)` gives general storage, without
      the tag.

    One product costs `nnz` multiply-adds and reads 8 bytes an entry (float64) where the entries lie on few
    diagonals, 12 bytes otherwise; empty slots add at most 30 %.  Symmetric storage writes all entries out
    before a solve's first product, which takes the time of a few; each product outside of a solve does, too.
    The pattern is static: a function that takes the operator is traced once per pattern.
    """

    _storage: Entries | Mirrored
    pattern: SparsityPattern = eqx.field(static=True)
    tags: frozenset[object] = eqx.field(static=True)
    _of_these_values: frozenset[object] = eqx.field(static=True)

    def __init__(
        self,
        values: Array | np.ndarray | Entries | Mirrored,
        pattern: SparsityPattern,
        tags: Any = (),
        *,
        tags_of_values: Any = (),
    ):
        """Use the `from_…` constructors; this one takes values in CSR order, or the storage of another
        operator, and a ready pattern.

        `tags_of_values` are further tags, which `with_values` drops."""
        if not isinstance(pattern, SparsityPattern):
            raise TypeError(
                f"`pattern` must be a `SparsityPattern`, but is a {type(pattern).__name__}; build operators "
                "with `SparseLinearOperator.from_scipy(matrix)` or `from_coo(values, rows, cols, shape)`."
            )
        if not isinstance(values, Entries | Mirrored):
            values = as_values(values, "values")
            if values.shape != (pattern.nnz,):
                raise ValueError(
                    f"`values` must have shape ({pattern.nnz},), one for each entry of the pattern in CSR "
                    f"order, but has shape {values.shape}."
                )
            values = store(values, pattern)
        self._storage = values
        self.pattern = pattern
        self._of_these_values = as_tags(tags_of_values) - as_tags(tags)
        self.tags = as_tags(tags) | self._of_these_values

    @staticmethod
    def from_scipy(
        matrix: Any, tags: Any = (), *, symmetry: Symmetry | None = None
    ) -> "SparseLinearOperator":
        """From any SciPy sparse matrix or array (or dense NumPy array).

        Duplicate entries are summed, explicit zeros kept.  A symmetry tag that the entries contradict is a
        `ValueError`.  Integers and booleans become the default floating-point type, half precision becomes
        single, extended precision double; numbers that become infinite or zero are a `ValueError`.

        `symmetry="symmetric"` or `"hermitian"` chooses symmetric storage, for matrices whose pattern is
        symmetric: the lower triangle is kept, the upper one is its mirror image for good.
        """
        matrix = _as_csr(matrix)
        tags = as_tags(tags)
        pattern = SparsityPattern(matrix.indptr, matrix.indices, matrix.shape)
        if symmetry is None:
            _check_symmetry_tags(matrix, tags)
            return SparseLinearOperator(matrix.data, pattern, tags)
        if symmetry not in _SYMMETRY_TAGS:
            raise ValueError(f'`symmetry` must be "symmetric", "hermitian" or None, but is {symmetry!r}.')
        tag = _SYMMETRY_TAGS[symmetry]
        _check_symmetry_tags(matrix, tags | {tag})
        if pattern.transposed[0] is not pattern:
            raise ValueError(
                f'`symmetry="{symmetry}"` needs a symmetric pattern, but some entries have no mirror image; '
                "store explicit zeros there, or use `matrix = (matrix + matrix.conj().T) / 2`."
            )
        triangle = as_values(matrix.data[pattern.lower_positions], "matrix")
        storage = mirror(triangle, pattern, symmetry == "hermitian")
        return SparseLinearOperator(storage, pattern, tags, tags_of_values=tag)

    @staticmethod
    def from_coo(
        values: Inexact[Array, " nnz"], rows: Any, cols: Any, shape: tuple[int, int], tags: Any = ()
    ) -> "SparseLinearOperator":
        """From coordinates.  `values` may be traced; `rows` and `cols` must be concrete integers.

        Entries at the same position are summed.  `A.values` are in CSR order, whatever the order given.
        """
        values = jnp.asarray(as_values(values, "values"))
        rows, cols = concrete_indices(rows, "rows"), concrete_indices(cols, "cols")
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
        if not is_jax_sparse(matrix) or type(matrix).__name__ != "BCOO":
            raise TypeError(
                f"`matrix` must be a `jax.experimental.sparse.BCOO`, but is a {type(matrix).__name__}; "
                "SciPy's matrices and NumPy's arrays go through `from_scipy`."
            )
        if matrix.n_batch or matrix.n_dense or matrix.ndim != 2:
            raise ValueError(
                "`matrix` must be a two-dimensional BCOO with n_batch = n_dense = 0, but has shape "
                f"{matrix.shape}, n_batch = {matrix.n_batch}, n_dense = {matrix.n_dense}; "
                "to batch, `jax.vmap` over the values."
            )
        indices = concrete_indices(matrix.indices, "matrix.indices")
        inside = np.all(indices < np.asarray(matrix.shape), axis=1)  # BCOO pads with indices out of range
        (kept,) = np.nonzero(inside)
        return SparseLinearOperator.from_coo(
            matrix.data[kept], indices[kept, 0], indices[kept, 1], (matrix.shape[0], matrix.shape[1]), tags
        )

    @staticmethod
    def from_matrix_market(path: Any) -> "SparseLinearOperator":
        """Reads a Matrix Market file (`.mtx`, `.mtx.gz`), strictly: see `read_matrix_market`.

        Symmetric and Hermitian headers become symmetric storage, with the tag.
        """
        from .matrix_market import read_matrix_market

        matrix, tags = read_matrix_market(path)
        symmetry: Symmetry | None = None
        for name, tag in _SYMMETRY_TAGS.items():
            symmetry = name if tag in tags else symmetry
        try:
            return SparseLinearOperator.from_scipy(matrix, symmetry=symmetry)
        except ValueError as error:  # numbers beyond single precision
            raise ValueError(f"{path}: {error}") from None

    @property
    def values(self) -> Array:
        """The stored entries in CSR order, shape `(nnz,)`."""
        return read(self._storage.written_out(), self.pattern)

    @property
    def triangle(self) -> Array:
        """The entries of the lower triangle, diagonal included, in CSR order; symmetric storage only."""
        return self._mirrored().triangle

    @property
    def dtype(self):
        """Type of the values."""
        return self._storage.dtype

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return self.pattern.nnz

    def with_values(self, values: Inexact[Array, " nnz"]) -> "SparseLinearOperator":
        """The same pattern with other values, `(nnz,)` in CSR order, and the tags that the user gave.

        Tags that were known of the old values are left out: a symmetric file's, a stencil's."""
        return SparseLinearOperator(values, self.pattern, self.tags - self._of_these_values)

    def with_triangle(self, triangle: Array) -> "SparseLinearOperator":
        """Symmetric storage with another lower triangle, `(entries,)` in CSR order; legal while tracing.

        Keeps the tags that the user gave, and the symmetry."""
        storage, triangle = self._mirrored(), jnp.asarray(as_values(triangle, "triangle"))
        if triangle.shape != storage.triangle.shape:
            raise ValueError(
                f"`triangle` must have shape {storage.triangle.shape}, one for each entry of the lower "
                f"triangle, but has shape {triangle.shape}."
            )
        storage = eqx.tree_at(lambda mirrored: mirrored.triangle, storage, triangle)
        symmetry = self._of_these_values & {lx.symmetric_tag, hermitian_tag}
        return SparseLinearOperator(
            storage, self.pattern, self.tags - self._of_these_values, tags_of_values=symmetry
        )

    def add_diagonal(self, d: Any) -> "SparseLinearOperator":
        """`A + diag(d)`, `d` a number or `(rows,)`, which may be traced; sparse, and differentiable in both.

        Keeps the tags by the rules of sums: positive semidefinite stays so where `d` is known to be nowhere
        negative."""
        from .algebra import add_diagonal

        return add_diagonal(self, d)

    def select(self, rows: Any = None, cols: Any = None) -> "SparseLinearOperator":
        """The matrix at the chosen rows and columns, in the order chosen.

        `rows`, `cols`: integers `(k,)` (negative ones count from the end, repeated ones are taken again), a
        mask, a slice, or None for all; concrete.  Where the two choices are one and the same, symmetry and
        definiteness stay."""
        from .algebra import select

        return select(self, rows, cols)

    def written_out(self) -> "SparseLinearOperator":
        """The same matrix with all entries stored, as products need them."""
        return _with_storage(self, self._storage.written_out())

    def _mirrored(self) -> Mirrored:
        if not isinstance(self._storage, Mirrored):
            raise ValueError(
                "`triangle` and `with_triangle` are for symmetric storage; build the operator with "
                '`from_scipy(matrix, symmetry="symmetric")` or `"hermitian"`.'
            )
        return self._storage

    def as_scipy(self) -> "sp.csr_array":
        """As a SciPy CSR array (concrete values only)."""
        import scipy.sparse as sp  # slow to import

        pattern = self.pattern
        data = np.array(self.values)
        return sp.csr_array((data, pattern.indices.copy(), pattern.indptr.copy()), shape=pattern.shape)

    def mv(self, vector: Inexact[Array, " columns"]) -> Inexact[Array, " rows"]:
        """`A @ vector`."""
        return self._storage.written_out().mv(vector)

    def as_matrix(self) -> Array:
        pattern = self.pattern
        dense = jnp.zeros(pattern.shape, self.dtype)
        return dense.at[pattern.rows, pattern.indices].set(self.values)

    def transpose(self) -> "SparseLinearOperator":
        if isinstance(self._storage, Mirrored):
            return self.conj() if self._storage.hermitian else self
        # Also where a tag says that nothing changes: the values may have moved on from what it promised.
        pattern, order = self.pattern.transposed
        tags = lx.transpose_tags(self.tags - self._of_these_values)
        of_values = lx.transpose_tags(self._of_these_values)
        return SparseLinearOperator(take(self.values, order), pattern, tags, tags_of_values=of_values)

    def conj(self) -> "SparseLinearOperator":
        return _with_storage(
            self, jax.tree.map(lambda x: x.conj() if eqx.is_inexact_array(x) else x, self._storage)
        )

    def diagonal(self) -> Array:
        values, positions = self.values, self.pattern.diagonal_positions
        if isinstance(values, Tracer):
            return take(with_zero(values), positions)
        return jax.device_put(np.append(np.asarray(values), values.dtype.type(0))[positions])  # not compiled

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


@lx.linearise.register(SparseLinearOperator)
def _(operator):
    return operator.written_out()


def _with_storage(operator: SparseLinearOperator, storage: Entries | Mirrored) -> SparseLinearOperator:
    return eqx.tree_at(lambda operator: operator._storage, operator, storage)


def _as_csr(matrix: Any) -> "sp.csr_array":
    """A copy without duplicates, columns ascending, of a type that JAX has."""
    import scipy.sparse as sp  # slow to import

    if isinstance(matrix, Tracer | lx.AbstractLinearOperator | type) or is_jax_sparse(matrix):
        raise TypeError(
            f"`matrix` must be a SciPy sparse matrix or a dense NumPy array, but is {matrix!r}. `from_bcoo` "
            "takes JAX's sparse arrays, `from_coo` traced values with their coordinates."
        )
    if not sp.issparse(matrix):
        matrix = np.asarray(matrix)
    if matrix.ndim != 2:
        raise ValueError(f"`matrix` must be two-dimensional, but has shape {matrix.shape}.")
    dtype = host_dtype(matrix.dtype, "matrix")
    matrix = sp.csr_array(matrix if sp.issparse(matrix) else fit(matrix, dtype, "matrix"), copy=True)
    matrix.data = fit(matrix.data, dtype, "matrix")
    matrix.sum_duplicates()
    matrix.sort_indices()
    matrix.data = np.asarray(as_values(matrix.data, "matrix"))
    return matrix


def concrete_indices(index: Any, name: str) -> np.ndarray:
    """Integers whose values are known."""
    if isinstance(index, Tracer):
        raise TypeError(
            f"`{name}` must be concrete: the sparsity pattern is static. Build the operator outside of "
            "`jit`/`vmap` and pass new values with `with_values`."
        )
    index = np.asarray(index)
    if not np.issubdtype(index.dtype, np.integer):
        raise TypeError(f"`{name}` must be integers, but are {index.dtype}.")
    return index.astype(np.int64)


def _check_symmetry_tags(matrix: "sp.csr_array", tags: Iterable[object]) -> None:
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

"""Incomplete Cholesky factorisation with a drop tolerance and a limit of fill, on the host.

Lin & Moré, *Incomplete Cholesky factorizations with limited memory* (1999, doi:10.1137/S1064827597327334);
Saad (1994), doi:10.1002/nla.1680010405.  Deviations: fill that the first columns leave unused is the later
ones'; the order is by minimum degree, which takes fewer steps for the same time than to keep entries near the
diagonal.
"""

from typing import Any, NamedTuple

import numpy as np

from .. import _ffi
from .._reasons import CODES
from .._upstream import bounded_cache
from ..kernels import threshold_cholesky as kernel
from ..kernels._numba import INDEX
from ..kernels.triangular_solves import solve_both
from .factors import Quality, Recipe, Side
from .ordering import minimum_degree

#: The first shift to try where the factorisation breaks down, and how often to double it.
_FIRST_SHIFT, _MAX_TRIES = 1e-3, 24


class Triangles:
    """`P^T S (I + L)^-H D^-1 (I + L)^-1 S P`, Hermitian, from the columns of `L`; `order` are the rows as
    they were eliminated, `scale` is the diagonal of `S`."""

    def __init__(
        self,
        starts: np.ndarray,
        rows: np.ndarray,
        factor: np.ndarray,
        pivots: np.ndarray,
        order: np.ndarray,
        scale: np.ndarray,
    ):
        import scipy.sparse as sp  # slow to import

        n, starts = order.size, starts.astype(np.int32)
        by_rows = sp.csc_array((factor, rows.view(np.int32), starts), shape=(n, n)).tocsr()
        lower = by_rows.indptr.view(INDEX), by_rows.indices.view(INDEX), by_rows.data
        upper = starts.view(INDEX), rows, factor.conj()
        self._arrays = *lower, (1 / pivots).astype(factor.dtype), *upper
        self._order, self._scale = order, scale
        self.nnz = 2 * factor.size + n

    def solve(self, b: np.ndarray, side: Side) -> np.ndarray:
        if side in ("T", "C"):
            return self.solve(b.conj(), "N").conj()
        part, x = self._scale * b[self._order], np.empty_like(b)
        _ffi.on_host(solve_both, _solve_both, *self._arrays, part, part)
        x[self._order] = self._scale * part
        return x


class Elimination(NamedTuple):
    """What a pattern alone decides: the order of the rows; and of the upper triangle in that order, diagonal
    first in each row, its CSR arrays, the row of each entry, and which entry of the matrix it is."""

    order: np.ndarray
    indptr: np.ndarray
    indices: np.ndarray
    rows: np.ndarray
    entries: np.ndarray


@bounded_cache(8)
def _elimination(indptr: bytes, indices: bytes) -> Elimination:
    import scipy.sparse as sp  # slow to import

    starts, columns = np.frombuffer(indptr, np.int32), np.frombuffer(indices, np.int32)
    numbered = sp.csr_array((np.arange(columns.size), columns, starts))
    order = minimum_degree(numbered)
    upper = sp.triu(numbered[order][:, order]).tocsr()
    upper.sort_indices()
    rows = np.repeat(np.arange(order.size), np.diff(upper.indptr))
    return Elimination(order, upper.indptr, upper.indices, rows, upper.data)


def threshold_cholesky(matrix: Any, recipe: Recipe) -> tuple[Triangles | None, Quality]:
    """Factors of a Hermitian `scipy.sparse.csr_array` with what is small left out; where need be, of the
    matrix with a larger diagonal."""
    failed = Quality(CODES["preconditioner_failed"], recipe.shift, 0)
    if not (matrix.diagonal().real > 0).all():
        return None, failed
    order, indptr, indices, rows, entries = _elimination(
        matrix.indptr.astype(np.int32).tobytes(), matrix.indices.astype(np.int32).tobytes()
    )
    upper, real = matrix.data[entries], np.finfo(matrix.dtype).dtype
    # One factor after the other, lest their product overflow.
    scale = np.exp2(np.rint(np.log2(upper[indptr[:-1]].real) / -2)).astype(real)
    upper = upper * scale[rows] * scale[indices]
    squares, shift = np.square(abs(upper)), recipe.shift
    columns = sum(np.bincount(places, squares, order.size) for places in (rows, indices))
    limits = (recipe.drop_tolerance * np.sqrt(columns - squares[indptr[:-1]])).astype(real)
    # More entries than this cannot be numbered.
    fill_factor = min(recipe.fill_factor, (2**30 - 1) / upper.size)
    for _ in range(_MAX_TRIES):
        parts = kernel.factorise(indptr, indices, upper, limits, shift, fill_factor)
        if parts is not None:
            triangles = Triangles(*parts, order, scale)
            return triangles, Quality(CODES["converged"], shift, triangles.nnz)
        shift = max(2 * shift, _FIRST_SHIFT)
    return None, failed


def _solve_both(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    scale: np.ndarray,
    upper_indptr: np.ndarray,
    upper_indices: np.ndarray,
    upper_values: np.ndarray,
    b: np.ndarray,
    x: np.ndarray,
) -> None:
    """The kernel's results by SciPy, which copies the factors each time."""
    import scipy.sparse as sp
    import scipy.sparse.linalg as spla

    unit = sp.eye_array(b.size, dtype=b.dtype)
    parts = (
        sp.csr_array((data, columns.view(np.int32), starts.view(np.int32)), shape=unit.shape)
        for data, columns, starts in ((values, indices, indptr), (upper_values, upper_indices, upper_indptr))
    )
    lower, upper = ((unit + part).tocsr() for part in parts)
    x[:] = spla.spsolve_triangular(upper, scale * spla.spsolve_triangular(lower, b), lower=False)

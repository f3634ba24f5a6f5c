"""In which order to eliminate, and what the factors will cost; on the host.

Only the pattern matters, and only that of `A + A^T`.  Patterns are what has `indptr`, `indices` and a square
`shape`: SciPy's CSR and CSC arrays, and the `pattern` of a `SparseLinearOperator`, which is concrete while a
function is traced.

Amestoy, Davis & Duff, *An approximate minimum degree ordering algorithm* (1996,
doi:10.1137/S0895479894278952); Liu, *The role of elimination trees in sparse factorization* (1990,
doi:10.1137/0611010); Gilbert, Ng & Peyton, *An efficient algorithm to compute row and column counts for
sparse Cholesky factorization* (1994, doi:10.1137/S0895479892236921).
"""

from typing import Any, NamedTuple

import numpy as np


class Fill(NamedTuple):
    """What a factorisation will cost, see `predicted_fill`."""

    entries: int
    flops: float


def minimum_degree(pattern: Any) -> np.ndarray:
    """An order that keeps factors sparse: `A[order][:, order]`, `(n,)`.

    By approximate minimum degree, in a postorder of the elimination tree, so that columns with the same
    entries stand together.  Rows with more than `10 sqrt(n)` entries (and more than 16) come last.

    **Cost:** about that of a few products with the factor's pattern.
    """
    from ..kernels.elimination_tree import elimination_tree
    from ..kernels.minimum_degree import approximate_minimum_degree

    indptr, indices = adjacency(pattern)
    n = indptr.size - 1
    order = approximate_minimum_degree(indptr, indices, max(16, int(10 * np.sqrt(n))))
    _, post = elimination_tree(*_permuted(indptr, indices, order))
    return order[post]


def reverse_cuthill_mckee(pattern: Any) -> np.ndarray:
    """An order that keeps entries near the diagonal: `A[order][:, order]`, `(n,)`; SciPy's.

    For banded solvers, incomplete factorisations and SOR; factors are sparser by `minimum_degree`."""
    import scipy.sparse as sp
    from scipy.sparse.csgraph import reverse_cuthill_mckee as scipys

    indptr, indices = adjacency(pattern)
    graph = sp.csr_array((np.ones(indices.size, np.int8), indices, indptr), shape=(indptr.size - 1,) * 2)
    return scipys(graph, symmetric_mode=True).astype(np.int64)


def predicted_fill(pattern: Any, order: np.ndarray | None = None) -> Fill:
    """Entries and operations of a factorisation of `A[order][:, order]`, without computing one.

    * `entries`: of the Cholesky factor `L` of a matrix with the pattern of `A + A^T` and a full diagonal,
      which is included: exact, but for entries that cancel.  `L` and `U` of an LU factorisation that pivots
      on the diagonal have at most as many each; other pivots may give more.
    * `flops`: the sum of the squares of the columns' counts: additions and multiplications of a Cholesky
      factorisation; an LU factorisation takes twice as many.

    Without `order`: in the order in which the matrix stands.  Stored zeros count as entries.

    **Cost:** nearly linear in the entries of `A`.
    """
    from ..kernels.elimination_tree import column_counts, elimination_tree

    indptr, indices = adjacency(pattern)
    if order is not None:
        indptr, indices = _permuted(indptr, indices, order)
    counts = column_counts(indptr, indices, *elimination_tree(indptr, indices))
    return Fill(int(counts.sum()), float(np.sum(counts.astype(np.float64) ** 2)))


def adjacency(pattern: Any) -> tuple[np.ndarray, np.ndarray]:
    """`indptr, indices` of the pattern of `A + A^T` without its diagonal."""
    import scipy.sparse as sp  # slow to import

    if not all(hasattr(pattern, name) for name in ("indptr", "indices", "shape")):
        raise TypeError(
            "`pattern` must have `indptr`, `indices` and `shape`, as SciPy's CSR arrays and the `pattern` of "
            f"a `SparseLinearOperator` have, but is a {type(pattern).__name__}."
        )
    n = pattern.shape[0]
    if pattern.shape != (n, n):
        raise ValueError(f"`pattern` must be square, but has shape {pattern.shape}.")
    rows = np.repeat(np.arange(n), np.diff(pattern.indptr))
    off = rows != pattern.indices
    ones = np.ones(np.count_nonzero(off), bool)
    half = sp.csr_array((ones, (rows[off], pattern.indices[off])), shape=(n, n))
    both = (half + half.T).tocsr()
    return both.indptr, both.indices


def _permuted(indptr: np.ndarray, indices: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for rows and columns in another order."""
    place = np.empty(order.size, np.int64)
    place[order] = np.arange(order.size)
    lengths = np.diff(indptr)[order]
    ends = np.cumsum(lengths)
    gather = np.arange(indices.size) + np.repeat(indptr[:-1][order] - (ends - lengths), lengths)
    return np.concatenate([[0], ends]), place[indices[gather]]

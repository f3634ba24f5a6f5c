"""Which entries of a sparse matrix can be pivots, and what its zeros alone say about it; on the host.

Duff & Koster, *The design and use of algorithms for permuting large entries to the diagonal of sparse
matrices* (1999, doi:10.1137/S0895479897317661) and *On algorithms for permuting large entries to the diagonal
of a sparse matrix* (2001, doi:10.1137/S0895479899358443); Dulmage & Mendelsohn, *Coverings of bipartite
graphs* (1958, doi:10.4153/CJM-1958-052-0).

Matrices are SciPy's sparse arrays with concrete values, real or complex.  Stored zeros are no entries.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse as sp


class Matching(NamedTuple):
    """Pivots with the largest product, see `maximum_product`."""

    rows: np.ndarray
    row_scale: np.ndarray
    column_scale: np.ndarray


class Deficiency(NamedTuple):
    """Why a matrix is singular for any values, see `deficiency`."""

    rank: int
    rows: np.ndarray
    row_columns: np.ndarray
    columns: np.ndarray
    column_rows: np.ndarray

    def __str__(self) -> str:
        texts = []
        if self.rows.size:
            texts.append(_in_words("row", self.rows, "column", self.row_columns))
        if self.columns.size:
            texts.append(_in_words("column", self.columns, "row", self.column_rows))
        return "; ".join(texts)


class Blocks(NamedTuple):
    """An upper block triangular form, see `block_triangular`."""

    rows: np.ndarray
    columns: np.ndarray
    sizes: np.ndarray


def maximum_product(matrix: Any) -> Matching:
    """The pivots with the largest product of moduli, and scalings by which they dominate.

    `matrix[rows]` has those pivots on its diagonal.  With `S = diag(row_scale) @ abs(matrix) @
    diag(column_scale)`, both `(n,)` in float64, `S[rows]` has ones on its diagonal and no entry above one,
    to rounding (of matrices whose entries span more than 1e600 also to the range of float64).

    **Cost:** a search for a shortest path for each row that a greedy choice leaves without pivot: next to
    nothing where the diagonal is large.  **Raises**
    `ValueError` for matrices that are not square, hold NaN or infinity, or have no complete set of pivots;
    the text then names the rows or columns that have too few entries.
    """
    from ..kernels.matching import least_assignment

    matrix = host_matrix(matrix)
    n = _check_square(matrix)
    if not np.all(np.isfinite(matrix.data)):
        raise ValueError("`matrix` holds NaN or infinity: pivots cannot be compared.")
    size = log2_modulus(matrix.data)
    largest = row_maxima(matrix, size)
    costs = largest[rows_of(matrix)] - size
    columns, u, v = least_assignment(matrix.indptr, matrix.indices, costs, n)
    rows = _inverse(matrix, columns)
    u = u - largest
    middle = (u.mean() - v.mean()) / 2 if n else 0.0  # the larger factors on neither side
    return Matching(rows, _power_of_two(u - middle), _power_of_two(v + middle))


def structural_rank(matrix: Any) -> int:
    """The largest rank that a matrix with these zeros can have."""
    return int(np.sum(_largest_matching(host_matrix(matrix)) >= 0))


def deficiency(matrix: Any) -> Deficiency:
    """Rows and columns that have too few entries for a full rank; printed, it says so in words.

    * `rank`: the structural rank.
    * `rows`, `row_columns`: rows, more than there are columns in which they have entries; both empty where
      all rows have pivots.
    * `columns`, `column_rows`: the same with the roles exchanged.

    Of several such blocks the one with the fewest rows (columns) is named.  **Cost:** linear in the entries
    for each row without pivot, of which up to 64 are looked at, beside a matching.
    """
    matrix = host_matrix(matrix)
    column_of = _largest_matching(matrix)
    row_of = np.full(matrix.shape[1], -1, np.int64)
    matched = np.flatnonzero(column_of >= 0)
    row_of[column_of[matched]] = matched
    rows, row_columns = _overdetermined(matrix, column_of, row_of)
    columns, column_rows = _overdetermined(matrix.T.tocsr(), row_of, column_of)
    return Deficiency(len(matched), rows, row_columns, columns, column_rows)


def block_triangular(matrix: Any) -> Blocks:
    """Permutations to upper block triangular form, `matrix[rows][:, columns]`, with the most blocks.

    `sizes`: the orders of the square blocks along the diagonal, which has no zeros.  Only those blocks need
    be factorised.  Pivots are any, not the largest.  **Raises** `ValueError` where the matrix is not square
    or structurally singular.  **Cost:** a matching and one pass for the strongly connected components.
    """
    import scipy.sparse as sp
    from scipy.sparse.csgraph import connected_components

    matrix = host_matrix(matrix)
    n = _check_square(matrix)
    rows = _inverse(matrix, _largest_matching(matrix))
    if n == 0:
        return Blocks(rows, rows, rows)
    # A component is numbered when all that can be reached from it have been (Pearce, 2005).
    ones = np.ones(matrix.nnz, np.int8)  # a graph's weights are real
    graph = sp.csr_array((ones, matrix.indices, matrix.indptr), shape=matrix.shape)[rows]
    _, labels = connected_components(graph, directed=True, connection="strong")
    order = np.argsort(-labels, kind="stable")
    return Blocks(rows[order], order, np.bincount(labels)[::-1])


def host_matrix(matrix: Any) -> "sp.csr_array":
    """A CSR array with sorted indices, no duplicates and no stored zeros; a copy only where need be."""
    import scipy.sparse as sp  # slow to import

    if not sp.issparse(matrix):
        raise TypeError(
            f"`matrix` must be a SciPy sparse array, but is a {type(matrix).__name__}. `A.as_scipy()` gives "
            "that of a `SparseLinearOperator` or `StencilLinearOperator`."
        )
    matrix = sp.csr_array(matrix)
    if not matrix.has_canonical_format or np.any(matrix.data == 0):
        matrix = matrix.copy()
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
    return matrix


def rows_of(matrix: "sp.csr_array") -> np.ndarray:
    """The row of each entry."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def row_maxima(matrix: "sp.csr_array", values: np.ndarray, empty: float = -np.inf) -> np.ndarray:
    """The largest of each row's values."""
    out = np.full(matrix.shape[0], empty)
    filled = np.flatnonzero(np.diff(matrix.indptr))
    if filled.size:
        out[filled] = np.maximum.reduceat(values, matrix.indptr[filled])
    return out


def log2_modulus(values: Any) -> np.ndarray:
    """Binary logarithms of moduli, also where a modulus would over- or underflow."""
    if not np.iscomplexobj(values):
        return np.log2(np.abs(values.astype(np.float64)))
    parts = np.abs(values.real.astype(np.float64)), np.abs(values.imag.astype(np.float64))
    largest = np.maximum(*parts)
    _, exponent = np.frexp(largest)
    with np.errstate(invalid="ignore"):
        unit = np.hypot(*(np.ldexp(part, -exponent) for part in parts))
        return np.log2(unit) + exponent


def _power_of_two(exponents: np.ndarray) -> np.ndarray:
    return np.exp2(np.clip(exponents, -1022.0, 1023.0))


def _check_square(matrix: "sp.csr_array") -> int:
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"`matrix` must be square, but has shape {matrix.shape}.")
    return matrix.shape[0]


def _largest_matching(matrix: "sp.csr_array") -> np.ndarray:
    """The column in which each row has its pivot, -1 for none; as many pivots as can be."""
    from ..kernels.matching import least_assignment

    # Not SciPy's `maximum_bipartite_matching`: on a shuffled grid of 3000 points it takes minutes.
    return least_assignment(matrix.indptr, matrix.indices, np.zeros(matrix.nnz), matrix.shape[1])[0]


def _inverse(matrix: "sp.csr_array", columns: np.ndarray) -> np.ndarray:
    """The row of each column, where each row has one."""
    if np.any(columns < 0):
        raise ValueError(f"`matrix` is singular whatever the values of its entries: {deficiency(matrix)}.")
    rows = np.empty(columns.size, np.int64)
    rows[columns] = np.arange(columns.size)
    return rows


#: Rows without pivot whose blocks are compared.
_MOST_STARTS = 64


def _overdetermined(
    matrix: "sp.csr_array", column_of: np.ndarray, row_of: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The smallest set found of rows with entries in fewer columns than there are rows, and these columns."""
    import scipy.sparse as sp
    from scipy.sparse.csgraph import breadth_first_order

    best = np.zeros(0, np.int64)
    starts = np.flatnonzero(column_of < 0)
    lengths = np.diff(matrix.indptr)
    if starts.size == 0:
        return best, best
    if lengths[starts].min() == 0:
        return starts[lengths[starts] == 0], best
    # From a row to the rows that hold its columns: no free column is reached, or there were one pivot more.
    held = row_of[matrix.indices]
    edges = held >= 0
    coordinates = (rows_of(matrix)[edges], held[edges])
    graph = sp.csr_array((np.ones(edges.sum(), np.int8), coordinates), shape=(matrix.shape[0],) * 2)
    for start in starts[:_MOST_STARTS]:
        found = breadth_first_order(graph, start, return_predecessors=False)
        if best.size == 0 or found.size < best.size:
            best = found
    best = np.sort(best).astype(np.int64)
    return best, np.unique(column_of[best][column_of[best] >= 0])


def _in_words(one: str, ones: np.ndarray, other: str, others: np.ndarray) -> str:
    """`rows 3, 7, 9 have entries in the 2 columns 1, 4 only`."""
    many = ones.size > 1
    subject = f"{one}s {listed(ones)}" if many else f"{one} {ones[0]}"
    if others.size == 0:
        return f"{subject} {'are' if many else 'is'} empty"
    place = f"{others.size} {other}s {listed(others)}" if others.size > 1 else f"{other} {others[0]}"
    return f"the {ones.size} {subject} have entries in the {place} only"


def listed(numbers: np.ndarray, most: int = 8) -> str:
    """The first of them, with commas."""
    return ", ".join(map(str, numbers[:most].tolist())) + (", ..." if numbers.size > most else "")

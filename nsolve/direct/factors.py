"""Factorisations on the host: how a matrix is scaled, ordered and factorised.

SciPy's SuperLU does the elimination.  What is added here: scaling by powers of two, the choice of an order,
further attempts with large entries on the diagonal, and an estimate of the condition.

Li (2005), doi:10.1145/1089014.1089017 (SuperLU); Higham, *Accuracy and Stability of Numerical Algorithms*,
2nd ed. (2002), algorithm 15.1, doi:10.1137/1.9780898718027.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from .._reasons import CODES
from .equilibrate import Scaling, equilibrate, rounded
from .matching import maximum_product, rows_of, structural_rank

Kind = Literal["lu", "cholesky", "incomplete", "incomplete_cholesky"]
Side = Literal["N", "T", "C", "H"]  # A x = b, with A as it is, transposed, conjugated, both

#: A factorisation without pivoting keeps a diagonal entry this small beside the largest of its column.
_THRESHOLD = 0.01
#: Patterns with this share of entries whose mirror image is stored are ordered as symmetric ones.
_SYMMETRIC = 0.7
#: From this share of entries on a matrix is factorised densely.
DENSE = 0.2
#: Up to so many rows nothing is compiled that can be done without.
_FEW = 3000
#: Added to the diagonal of the scaled matrix where an incomplete factorisation breaks down, and then doubled.
_FIRST_SHIFT = 1e-3
#: Those whose fill is limited.
INCOMPLETE: tuple[Kind, ...] = ("incomplete", "incomplete_cholesky")


class Recipe(NamedTuple):
    """What is to be made of a matrix; the numbers are those of incomplete factors."""

    kind: Kind
    drop_tolerance: float = 0.0
    fill_factor: float = 0.0
    shift: float = 0.0


class Quality(NamedTuple):
    """How a factorisation went: a reason's number, the estimated reciprocal condition of the scaled matrix in
    the 1-norm (of incomplete factors the shift that they needed), and the entries of both factors."""

    code: int
    reciprocal_condition: float
    entries: int


class Factors:
    """`P R A C Q = L U`: diagonal scalings `R, C` and permutations; `order` are rows of `A`, or None, and
    SuperLU knows its own."""

    def __init__(self, lu: Any, scaling: Scaling, order: np.ndarray | None, dtype: Any):
        real = np.finfo(dtype).dtype
        self._lu, self._order = lu, order
        self._rows, self._columns = scaling.row_scale.astype(real), scaling.column_scale.astype(real)
        self.entries = 0 if lu is None else int(lu.nnz)

        #: The matrix in double precision and in a unit in which no norm leaves the range, as it is multiplied
        #: with on each side; and its Frobenius norm.
        self.products: dict[Side, Any] = {}
        self.size, self.norm = 1.0, 0.0

    def apply(self, b: np.ndarray, side: Side) -> np.ndarray:
        """`op(A)^-1 b` for one vector, without refinement."""
        if side == "C":
            return self.apply(b.conj(), "N").conj()
        first, last = (self._rows, self._columns) if side == "N" else (self._columns, self._rows)
        b = first * b
        if side == "N" and self._order is not None:
            b = b[self._order]
        x = self._lu.solve(b, side)
        if side != "N" and self._order is not None:
            there = np.empty_like(x)
            there[self._order] = x
            x = there
        return last * x


def factorise(matrix: Any, recipe: Recipe) -> tuple[Factors | None, Quality]:
    """Factors of a square `scipy.sparse.csr_array`, and how it went."""
    factors, quality = _factors_of(matrix, recipe)
    return (None if factors is None else _measured(factors, matrix)), quality


def _factors_of(matrix: Any, recipe: Recipe) -> tuple[Factors | None, Quality]:
    failed = Quality(CODES["nonfinite_operator"], 0.0, 0)
    if not np.isfinite(matrix.data).all():
        return None, failed
    n = matrix.shape[0]
    if n == 0:
        none = np.zeros(0, np.int32)
        return Factors(None, Scaling(none, none), None, matrix.dtype), Quality(CODES["converged"], 1.0, 0)
    if is_structurally_singular(matrix):  # SuperLU may run out of bounds there
        return None, Quality(CODES["singular_matrix"], 0.0, 0)
    if recipe.kind == "incomplete":
        return _incomplete(matrix, recipe)
    if recipe.kind == "incomplete_cholesky":
        from .threshold_cholesky import threshold_cholesky  # here, since it imports numba

        triangles, quality = threshold_cholesky(matrix, recipe)
        one = Scaling(*np.zeros((2, n), np.int32))
        return None if triangles is None else Factors(triangles, one, None, matrix.dtype), quality
    if _is_balanced(matrix):
        scaling, scaled = Scaling(*np.zeros((2, n), np.int32)), matrix
    else:
        scaling = equilibrate(matrix, recipe.kind == "cholesky", max_steps=3)
        scaled = scaling.apply(matrix)
    dense = matrix.nnz > DENSE * n * n
    if recipe.kind == "cholesky":
        lu = _cholesky(scaled) if dense else _superlu(scaled, symmetric=True, threshold=0.0)
        if lu is None or not (isinstance(lu, _Dense) or (lu.U.diagonal().real > 0).all()):
            return None, Quality(CODES["not_definite"], 0.0, 0)
        return _judged(Factors(lu, scaling, None, matrix.dtype), scaled)
    if dense:
        return _judged(Factors(_lu(scaled), scaling, None, matrix.dtype), scaled)
    found = None
    if _looks_symmetric(scaled):
        if n > _FEW and _has_weak_diagonal(scaled):
            scaling, scaled = _with_large_diagonal(matrix, scaling, scaled)
        found = _tried(scaled, scaling, None, symmetric=True, threshold=_THRESHOLD)
    if found is None or found[1].code != CODES["converged"]:
        found = _better(found, _tried(scaled, scaling, None, symmetric=False, threshold=1.0))
    if found is None or found[1].code != CODES["converged"]:
        found = _better(found, _matched(matrix))
    return (None, Quality(CODES["singular_matrix"], 0.0, 0)) if found is None else found


def _incomplete(matrix: Any, recipe: Recipe) -> tuple[Factors | None, Quality]:
    """Factors with what is small left out; where need be, of the matrix plus a multiple of the identity."""
    import scipy.sparse as sp
    import scipy.sparse.linalg as spla

    scaling, order = equilibrate(matrix, max_steps=3), None
    if (matrix.diagonal() == 0).any():
        order, rows, columns = maximum_product(matrix)
        scaling = rounded(np.log2(rows), np.log2(columns))
    scaled = scaling.apply(matrix)
    scaled = scaled if order is None else scaled[order]
    shift = 0.0
    while shift < 1:
        more = np.full(scaled.shape[0], shift, scaled.dtype)
        shifted = scaled if shift == 0 else scaled + sp.diags_array(more)
        try:
            lu = spla.spilu(shifted.tocsc(), recipe.drop_tolerance, recipe.fill_factor, diag_pivot_thresh=0.1)
        except RuntimeError:  # a pivot is zero
            lu = None
        if lu is not None:
            factors = Factors(lu, scaling, order, matrix.dtype)
            if np.isfinite(factors.apply(np.ones(matrix.shape[0], matrix.dtype), "N")).all():
                return factors, Quality(CODES["converged"], shift, factors.entries)
        shift = max(2 * shift, _FIRST_SHIFT)
    return None, Quality(CODES["preconditioner_failed"], shift, 0)


def is_structurally_singular(matrix: Any) -> bool:
    """Whether the zeros of a square matrix make it singular."""
    if (matrix.diagonal() != 0).all():
        return False
    return not _has_easy_matching(matrix) and structural_rank(matrix) < matrix.shape[0]


def _has_easy_matching(matrix: Any) -> bool:
    """Whether rows find a column each by taking the rarest that is left, or by moving one row that is in the
    way.  Most matrices of a few thousand rows are through here; numba takes a second to be imported."""
    if matrix.shape[0] > _FEW:
        return False
    nonzero = matrix.astype(bool)
    nonzero.eliminate_zeros()
    rarity = np.bincount(nonzero.indices, minlength=matrix.shape[1])
    columns = [
        row[np.argsort(rarity[row])].tolist() for row in np.split(nonzero.indices, nonzero.indptr[1:-1])
    ]
    row_of: dict[int, int] = {}
    for row in np.argsort(np.diff(nonzero.indptr)).tolist():
        free = next((column for column in columns[row] if column not in row_of), None)
        if free is None:
            moves = (
                (column, other)
                for column in columns[row]
                for other in columns[row_of[column]]
                if other not in row_of
            )
            taken, free = next(moves, (None, None))
            if taken is None or free is None:
                return False
            row_of[free], free = row_of[taken], taken
        row_of[free] = row
    return True


class _Dense(NamedTuple):
    """Factors of LAPACK, which SuperLU is no match for where there are few zeros."""

    solve: Any
    nnz: int


def _lu(scaled: Any) -> _Dense:
    import scipy.linalg as la

    with warnings.catch_warnings():  # a zero on the diagonal is seen in the condition
        warnings.simplefilter("ignore", la.LinAlgWarning)
        factors = la.lu_factor(scaled.toarray(), overwrite_a=True, check_finite=False)
    return _Dense(
        lambda b, side: la.lu_solve(factors, b, "NTH".index(side), check_finite=False), scaled.shape[0] ** 2
    )


def _cholesky(scaled: Any) -> _Dense | None:
    import scipy.linalg as la

    try:
        factors = la.cho_factor(scaled.toarray(), overwrite_a=True, check_finite=False)
    except la.LinAlgError:
        return None

    def solve(b: np.ndarray, side: Side) -> np.ndarray:
        b = b.conj() if side == "T" else b  # the matrix is its own adjoint
        x = la.cho_solve(factors, b, check_finite=False)
        return x.conj() if side == "T" else x

    return _Dense(solve, scaled.shape[0] ** 2)


def _measured(factors: Factors, matrix: Any) -> Factors:
    size = unit_of(matrix.data)
    factors.size = 1.0 if 1e-100 < size < 1e100 else size
    wide = matrix.astype(np.promote_types(matrix.dtype, np.float64))  # a copy: the values are XLA's
    wide.data /= factors.size
    factors.norm = norm(wide.data)
    conjugate = wide.conj() if np.iscomplexobj(wide.data) else wide
    factors.products = {"N": wide, "T": wide.T, "C": conjugate, "H": conjugate.T}
    return factors


def _tried(
    scaled: Any, scaling: Scaling, order: np.ndarray | None, **how: Any
) -> tuple[Factors, Quality] | None:
    lu = _superlu(scaled, **how)
    return None if lu is None else _judged(Factors(lu, scaling, order, scaled.dtype), scaled)


def _better(
    first: tuple[Factors, Quality] | None, second: tuple[Factors, Quality] | None
) -> tuple[Factors, Quality] | None:
    """The one with the larger reciprocal condition: the other has seen more rounding."""
    both = [found for found in (first, second) if found is not None]
    return max(both, key=lambda found: found[1].reciprocal_condition, default=None)


def _matched(matrix: Any) -> tuple[Factors, Quality] | None:
    """With the largest product of entries permuted to the diagonal, and scaled to ones there."""
    try:
        order, rows, columns = maximum_product(matrix)
    except ValueError:  # structurally singular
        return None
    scaling = rounded(np.log2(rows), np.log2(columns))
    scaled = scaling.apply(matrix)[order]
    return _tried(scaled, scaling, order, symmetric=False, threshold=0.1)


def _superlu(scaled: Any, symmetric: bool, threshold: float) -> Any:
    """SuperLU's factors; None where it gives up, which is where a pivot is zero."""
    import scipy.sparse.linalg as spla

    order = "MMD_AT_PLUS_A" if symmetric else "COLAMD"
    try:
        return spla.splu(
            scaled.tocsc(), order, threshold, options={"SymmetricMode": symmetric, "Equil": False}
        )
    except RuntimeError:
        return None


def _is_balanced(matrix: Any) -> bool:
    """Whether the largest entries of all rows and columns are of much the same size."""
    sizes, columns = abs(matrix.data), np.zeros(matrix.shape[1], np.finfo(matrix.dtype).dtype)
    rows = np.maximum.reduceat(sizes, matrix.indptr[:-1])  # none is empty: the matrix might be regular
    np.maximum.at(columns, matrix.indices, sizes)
    # The bounds on the size itself keep products of pivots in range.
    return min(rows.min(), columns.min()) > max(1e-6, rows.max() / 100) and rows.max() < 1e6


def _looks_symmetric(matrix: Any) -> bool:
    """Whether most entries have a mirror image and the diagonal has no zeros: then it can be pivoted on."""
    # SuperLU's minimum degree takes long where a row is dense.
    dense_row = np.diff(matrix.indptr).max() > 10 * np.sqrt(matrix.shape[0]) + 16
    return not dense_row and (matrix.diagonal() != 0).all() and is_nearly_symmetric(matrix)


def is_nearly_symmetric(matrix: Any) -> bool:
    """Whether most stored entries have a mirror image."""
    n, rows, columns = matrix.shape[0], rows_of(matrix).astype(np.int64), matrix.indices.astype(np.int64)
    there, mirrored = rows * n + columns, columns * n + rows
    return np.isin(mirrored, there, assume_unique=True).sum() >= _SYMMETRIC * matrix.nnz


def _has_weak_diagonal(matrix: Any) -> bool:
    """Whether some diagonal entry is small beside the largest of its column, and might not be pivoted on."""
    largest = abs(matrix).max(axis=0).toarray().ravel()
    return bool((abs(matrix.diagonal()) < 0.1 * largest).any())


def _with_large_diagonal(matrix: Any, scaling: Scaling, scaled: Any) -> tuple[Scaling, Any]:
    """Another scaling, and the matrix scaled by it, by which the diagonal dominates, if there is one: pivots
    off the diagonal would spoil the order, and fill the factors."""
    order, rows, columns = maximum_product(matrix)
    if (order != np.arange(order.size)).any():
        return scaling, scaled
    scaling = rounded(np.log2(rows), np.log2(columns))
    return scaling, scaling.apply(matrix)


def _judged(factors: Factors, scaled: Any) -> tuple[Factors, Quality]:
    """With the condition of the scaled matrix, and whether a solution can be refined at all: pivots that grew
    may have cost all digits."""
    norm, n = abs(scaled).sum(axis=0).max(), scaled.shape[0]
    none, eps = np.zeros(1, np.int32), np.finfo(scaled.dtype).eps
    plain = Factors(factors._lu, Scaling(none, none), None, scaled.dtype)
    with np.errstate(all="ignore"):
        b = scaled @ np.ones(n, scaled.dtype)
        x = plain.apply(b, "N")
        error = abs(b - scaled @ x).max() / (norm * abs(x).max() + abs(b).max())
        product = float(norm) * inverse_norm(plain.apply, n, scaled.dtype)
    reciprocal = 1 / product if 0 < product < np.inf else 0.0
    code = CODES["converged"] if error <= np.sqrt(eps) else CODES["precision"]
    code = CODES["singular_matrix"] if reciprocal < eps else code
    return factors, Quality(code, min(reciprocal, 1.0), factors.entries)


def inverse_norm(solve: Callable[[np.ndarray, Side], np.ndarray], n: int, dtype: Any) -> float:
    """A lower bound of `||A^-1||_1`, rarely too small by more than three, by a few solves (Higham's algorithm
    15.1; SciPy's `onenormest` is for blocks of vectors, with which SuperLU takes longer than one by one)."""
    x = np.full(n, 1 / n, dtype)
    best, last = 0.0, -1
    for _ in range(5):
        y = solve(x, "N")
        size = np.abs(y)
        best = max(best, float(size.sum()))
        z = solve(np.where(size > 0, y / np.where(size > 0, size, 1), 1).astype(dtype), "H")
        j = int(np.argmax(np.abs(z)))
        if j == last or not np.abs(z[j]) > abs(np.vdot(z, x)):
            break
        x, last = np.zeros(n, dtype), j
        x[j] = 1
    waves = (1 + np.arange(n) / max(n - 1, 1)) * (-1.0) ** np.arange(n)
    return max(best, float(2 * np.abs(solve(waves.astype(dtype), "N")).sum() / (3 * n)))


def norm(x: np.ndarray) -> float:
    """The Euclidean norm; for long vectors BLAS would wake up its threads."""
    return math.sqrt(np.add.reduce(np.square(np.abs(x))))


def unit_of(x: np.ndarray) -> float:
    """A power of two near the largest entry; zero for none."""
    largest = float(abs(x).max(initial=0))
    return float(np.exp2(np.floor(np.log2(largest)))) if largest > 0 else 0.0

"""Factorisations on the host: how a matrix is scaled, ordered and factorised.

SciPy's SuperLU does the elimination.  What is added here: scaling by powers of two, the choice of an order,
which is remembered for later matrices on the same pattern, further attempts with large entries on the
diagonal, and an estimate of the condition.

Li (2005), doi:10.1145/1089014.1089017 (SuperLU).
"""

from typing import Any, Literal, NamedTuple

import numpy as np

from .._reasons import CODES
from .dense import dense_cholesky, dense_lu
from .equilibrate import Scaling, equilibrate, rounded
from .matching import maximum_product
from .norms import inverse_norm, norm, uneven, unit_of
from .structure import FEW, Structure, structure_of

Kind = Literal["lu", "cholesky", "incomplete", "incomplete_cholesky", "ruge_stuben", "smoothed_aggregation"]
Side = Literal["N", "T", "C", "H"]  # A x = b, with A as it is, transposed, conjugated, both

#: A factorisation without pivoting keeps a diagonal entry this small beside the largest of its column.
_THRESHOLD = 0.01
#: Added to the diagonal of the scaled matrix where an incomplete factorisation breaks down, and then doubled.
_FIRST_SHIFT = 1e-3
#: Those whose fill is limited.
INCOMPLETE: tuple[Kind, ...] = ("incomplete", "incomplete_cholesky")
#: Those that are no factors, but coarser and coarser matrices.
HIERARCHIES: tuple[Kind, ...] = ("ruge_stuben", "smoothed_aggregation")


class Recipe(NamedTuple):
    """What is to be made of a matrix; the numbers are those of incomplete factors, the last two those of
    hierarchies."""

    kind: Kind
    drop_tolerance: float = 0.0
    fill_factor: float = 0.0
    shift: float = 0.0
    theta: float = 0.0
    block_size: float = 1.0


class Quality(NamedTuple):
    """How a factorisation went: a reason's number, the estimated reciprocal condition of the scaled matrix in
    the 1-norm (of incomplete factors the shift that they needed), and the entries of both factors."""

    code: int
    reciprocal_condition: float
    entries: int


class Factors:
    """Factors `lu` of `(R A C)[rows][:, columns]`: diagonal scalings `R, C` and orders, each None for none.
    How the library permutes that is its own affair."""

    def __init__(
        self,
        lu: Any,
        scaling: Scaling | None,
        rows: np.ndarray | None,
        columns: np.ndarray | None,
        dtype: Any,
    ):
        real = np.finfo(dtype).dtype
        self._lu, self._orders = lu, (rows, columns)
        self._scales = scaling and (scaling.row_scale.astype(real), scaling.column_scale.astype(real))
        self.entries = 0 if lu is None else int(lu.nnz)

        #: The matrix in double precision and in a unit in which no norm leaves the range; its Frobenius norm.
        self._matrix: Any = None
        self._products: dict[Side, Any] = {}
        self.size, self.norm = 1.0, 0.0
        #: What is to be found again as long as these factors are remembered.
        self.structures: tuple[Structure, ...] = ()

    def measure(self, structure: Structure, values: np.ndarray) -> None:
        """Takes the matrix, for its norm and its products."""
        wide = values.astype(np.promote_types(values.dtype, np.float64))  # a copy: the values are XLA's
        size = unit_of(wide)
        if not 1e-100 < size < 1e100:
            wide /= size
            self.size = size
        self._matrix, self.norm = structure.matrix(wide), norm(wide)
        if structure not in self.structures:
            self.structures += (structure,)

    def product(self, x: np.ndarray, side: Side) -> np.ndarray:
        """`op(A / size) x` for one vector in double precision."""
        if side not in self._products:
            matrix = self._matrix.conj() if side in "CH" else self._matrix
            self._products[side] = matrix.T if side in "TH" else matrix
        return self._products[side] @ x

    @property
    def hierarchy(self) -> Any:
        """That of algebraic multigrid; None where there are factors."""
        return self._lu if hasattr(self._lu, "table") else None

    def apply(self, b: np.ndarray, side: Side) -> np.ndarray:
        """`op(A)^-1 b` for one vector, without refinement."""
        if side == "C":
            return self.apply(b.conj(), "N").conj()
        turn = 1 if side == "N" else -1
        here, there = self._orders[::turn]
        if self._scales is not None:
            b = self._scales[::turn][0] * b
        x = self._lu.solve(b if here is None else b[here], side)
        if there is not None:
            ordered, x = x, np.empty_like(x)
            x[there] = ordered
        return x if self._scales is None else self._scales[::turn][1] * x


class _Scaled(NamedTuple):
    """A matrix as it is factorised: scaled, and its rows in another order, each None for not."""

    structure: Structure
    values: np.ndarray
    scaling: Scaling | None
    order: np.ndarray | None = None

    @property
    def matrix(self) -> Any:
        return self.structure.matrix(self.values)


@np.errstate(all="ignore")  # what leaves the range is seen in the end
def factorise(
    matrix: Any, recipe: Recipe, vectors: np.ndarray | None = None
) -> tuple[Factors | None, Quality]:
    """Factors of a square `scipy.sparse.csr_array` in canonical format, and how it went; `vectors` as a
    hierarchy wants them."""
    structure = structure_of(matrix.indptr, matrix.indices)
    factors, quality = _factors_of(structure, matrix.data, recipe, vectors)
    if factors is not None and recipe.kind in HIERARCHIES:  # what they give is not refined
        factors.structures += (structure,)
    elif factors is not None:
        factors.measure(structure, matrix.data)
    return factors, quality


def _factors_of(
    structure: Structure, values: np.ndarray, recipe: Recipe, vectors: np.ndarray | None
) -> tuple[Factors | None, Quality]:
    singular = Quality(CODES["singular_matrix"], 0.0, 0)
    if not np.isfinite(values).all():
        return None, Quality(CODES["nonfinite_operator"], 0.0, 0)
    if structure.size == 0:
        return Factors(None, None, None, None, values.dtype), Quality(CODES["converged"], 1.0, 0)
    if not values.all():
        matrix = structure.matrix(values).copy()
        matrix.eliminate_zeros()
        structure, values = structure_of(matrix.indptr, matrix.indices), matrix.data
    if recipe.kind in HIERARCHIES:
        from .hierarchy import hierarchy  # here, since it imports numba

        made, quality = hierarchy(structure.matrix(values), recipe, vectors)
        if made is None:
            return None, quality
        return Factors(made, None, made.order, made.order, values.dtype), quality
    if structure.is_singular:  # SuperLU may run out of bounds there
        return None, singular
    if recipe.kind == "incomplete":
        return _incomplete(structure.matrix(values), recipe)
    if recipe.kind == "incomplete_cholesky":
        from .threshold_cholesky import threshold_cholesky  # here, since it imports numba

        triangles, quality = threshold_cholesky(structure.matrix(values), recipe)
        return None if triangles is None else Factors(triangles, None, None, None, values.dtype), quality
    scaled = _Scaled(structure, values, None)
    if not _is_balanced(structure, values):
        scaling = equilibrate(scaled.matrix, recipe.kind == "cholesky", max_steps=3)
        scaled = _scaled(structure, values, scaling)
    if recipe.kind == "cholesky":
        return _cholesky(scaled) or (None, Quality(CODES["not_definite"], 0.0, 0))
    if structure.is_dense:
        return _judged(dense_lu(scaled.matrix), None, scaled)
    found = None
    if structure.looks_symmetric:
        if structure.size > FEW and _has_weak_diagonal(scaled):
            scaled = _with_large_diagonal(structure, values) or scaled
        found = _tried(scaled, symmetric=True, threshold=_THRESHOLD)
    if found is None or found[1].code != CODES["converged"]:
        found = _better(found, _tried(scaled, symmetric=False, threshold=1.0))
    if found is None or found[1].code != CODES["converged"]:
        found = _better(found, _matched(structure, values))
    return found or (None, singular)


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
            factors = Factors(lu, scaling, order, None, matrix.dtype)
            if np.isfinite(factors.apply(np.ones(matrix.shape[0], matrix.dtype), "N")).all():
                return factors, Quality(CODES["converged"], shift, factors.entries)
        shift = max(2 * shift, _FIRST_SHIFT)
    return None, Quality(CODES["preconditioner_failed"], shift, 0)


def _scaled(structure: Structure, values: np.ndarray, scaling: Scaling) -> _Scaled:
    return _Scaled(structure, scaling.applied(values, structure.rows, structure.indices), scaling)


def _cholesky(scaled: _Scaled) -> tuple[Factors, Quality] | None:
    """None where a pivot is not positive."""
    if scaled.structure.is_dense:
        lu = dense_cholesky(scaled.matrix)
        return None if lu is None else _judged(lu, None, scaled)
    found = _superlu(scaled, symmetric=True, threshold=0.0)
    if found is None or not (found[0].U.diagonal().real > 0).all():
        return None
    return _judged(*found, scaled)


def _tried(scaled: _Scaled, symmetric: bool, threshold: float) -> tuple[Factors, Quality] | None:
    found = _superlu(scaled, symmetric, threshold)
    return None if found is None else _judged(*found, scaled)


def _better(
    first: tuple[Factors, Quality] | None, second: tuple[Factors, Quality] | None
) -> tuple[Factors, Quality] | None:
    """The one with the larger reciprocal condition: the other has seen more rounding."""
    both = [found for found in (first, second) if found is not None]
    return max(both, key=lambda found: found[1].reciprocal_condition, default=None)


def _matched(structure: Structure, values: np.ndarray) -> tuple[Factors, Quality] | None:
    """With the largest product of entries permuted to the diagonal, and scaled to ones there."""
    try:
        order, rows, columns = maximum_product(structure.matrix(values))
    except ValueError:  # structurally singular
        return None
    scaling = rounded(np.log2(rows), np.log2(columns))
    matrix = _scaled(structure, values, scaling).matrix[order]
    ordered = structure_of(matrix.indptr, matrix.indices)
    return _tried(_Scaled(ordered, matrix.data, scaling, order), symmetric=False, threshold=0.1)


def _superlu(scaled: _Scaled, symmetric: bool, threshold: float) -> tuple[Any, np.ndarray | None] | None:
    """SuperLU's factors, and the order of the rows and columns that were handed to it; None where it gives
    up, which is where a pivot is zero."""
    import scipy.sparse.linalg as spla

    structure, options = scaled.structure, {"SymmetricMode": symmetric, "Equil": False}
    order = structure.order(symmetric)
    try:
        if order is not None:
            matrix = order.permuted(scaled.values)
            lu = spla.splu(matrix, "NATURAL", threshold, panel_size=order.panel_size, options=options)
            return lu, order.rows
        by = "MMD_AT_PLUS_A" if symmetric else "COLAMD"
        lu = spla.splu(scaled.matrix.tocsc(), by, threshold, options=options)
    except RuntimeError:
        return None
    structure.remember(symmetric, lu)
    return lu, None


def _is_balanced(structure: Structure, values: np.ndarray) -> bool:
    """Whether the largest entries of all rows and columns are of much the same size."""
    sizes, (order, starts) = abs(values), structure.by_columns
    rows = np.maximum.reduceat(sizes, structure.indptr[:-1])  # none is empty: the matrix might be regular
    columns = np.maximum.reduceat(sizes[order], starts)
    # The bounds on the size itself keep products of pivots in range.
    return min(rows.min(), columns.min()) > max(1e-6, rows.max() / 100) and rows.max() < 1e6


def _has_weak_diagonal(scaled: _Scaled) -> bool:
    """Whether some diagonal entry is small beside the largest of its column, and might not be pivoted on."""
    sizes, (order, starts) = abs(scaled.values), scaled.structure.by_columns
    largest = np.maximum.reduceat(sizes[order], starts)
    return bool((sizes[scaled.structure.diagonal] < 0.1 * largest).any())


def _with_large_diagonal(structure: Structure, values: np.ndarray) -> _Scaled | None:
    """Scaled such that the diagonal dominates, if it can: pivots off the diagonal would spoil the order, and
    fill the factors."""
    order, rows, columns = maximum_product(structure.matrix(values))
    if (order != np.arange(order.size)).any():
        return None
    return _scaled(structure, values, rounded(np.log2(rows), np.log2(columns)))


def _judged(lu: Any, order: np.ndarray | None, scaled: _Scaled) -> tuple[Factors, Quality]:
    """Factors of the scaled matrix in another order, its condition, and whether a solution can be refined at
    all: pivots that grew may have cost all digits."""
    structure, values = scaled.structure, scaled.values
    dtype, n, eps = values.dtype, structure.size, np.finfo(values.dtype).eps
    by_columns, starts = structure.by_columns
    size = float(np.add.reduceat(abs(values)[by_columns], starts).max())  # in the 1-norm
    plain = Factors(lu, None, order, order, dtype)
    b = uneven(n, dtype)
    x = plain.apply(b, "N")
    error = abs(b - scaled.matrix @ x).max() / (size * abs(x).max() + abs(b).max())
    product = size * inverse_norm(plain.apply, b, x)
    reciprocal = 1 / product if 0 < product < np.inf else 0.0
    code = CODES["converged"] if error <= np.sqrt(eps) else CODES["precision"]
    code = CODES["singular_matrix"] if reciprocal < eps else code
    rows = order
    if scaled.order is not None:
        rows = scaled.order if order is None else scaled.order[order]
    factors = Factors(lu, scaled.scaling, rows, order, dtype)
    factors.structures = (structure,)
    return factors, Quality(code, min(reciprocal, 1.0), factors.entries)

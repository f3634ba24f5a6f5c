"""Incomplete factorisations with a threshold: LU with pivoting, and Cholesky."""

import math
from typing import Any

import equinox as eqx
import jax
import lineax as lx

from ..operators.convert import entries_of
from ..operators.sparse import SparseLinearOperator
from .base import AbstractApproximateInverse, AbstractPreconditioner, array_structure, constant
from .incomplete import require_diagonal_entries, require_hermitian, require_positive_diagonal


class ThresholdLU(AbstractPreconditioner):
    """Incomplete LU factorisation with a drop tolerance, a limit of fill and pivoting, ILUTP.

    For unsymmetric matrices on which `IncompleteLU` fails or is too weak: circuits, chemical processes,
    saddle points, flow.  Between that and `SparseLU`, which it becomes as the tolerance falls.

    * `drop_tolerance`: entries below this share of the largest of their column are dropped.  Smaller is
      stronger and dearer: 1e-4 to 1e-2.
    * `fill_factor`: the factors have at most so many times the entries of `A`.

    Rows and columns are scaled by powers of two; where the diagonal has zeros, rows are permuted so that the
    product of its entries is largest.  A pivot that vanishes is met by a multiple of the identity, doubled
    until all goes well, which `repr(M)` then tells.  SuperLU works on the host, as for `SparseLU`, also where
    the solver runs on another device: each application then carries a vector there and back.  The factors are
    constant under differentiation, and `M.transpose()` is exact.

    **Cost:** set-up a good part of what `SparseLU` would take; each application two triangular solves with at
    most `fill_factor * nnz` entries.  **Raises** `ValueError` for a pattern that makes every matrix singular.
    Where no shift helps, `M` holds NaN and the solve reports it.

    Li and Shao (2011), doi:10.1145/1916461.1916467; Saad (1994), doi:10.1002/nla.1680010405.
    """

    drop_tolerance: float = eqx.field(default=1e-3, static=True)
    fill_factor: float = eqx.field(default=10.0, static=True)

    def __check_init__(self):
        _check_dropping(self)

    def build(self, operator: lx.AbstractLinearOperator) -> AbstractApproximateInverse:
        structure = array_structure(operator, "ThresholdLU")
        matrix = entries_of(constant(operator), "ThresholdLU")
        recipe = ("incomplete", self.drop_tolerance, self.fill_factor)
        return _inverse(self, recipe, matrix, structure, frozenset())


class ThresholdCholesky(AbstractPreconditioner):
    """Incomplete Cholesky factorisation with a drop tolerance and a limit of fill, ICT.

    For sparse symmetric (Hermitian) positive definite matrices on which `IncompleteCholesky` is too weak:
    structures, meshes, strong jumps of coefficients.  Between that and `SparseCholesky`, which it becomes as
    the tolerance falls.  The operator must be Hermitian by its tags; `M` is positive definite, whatever is
    dropped.

    * `drop_tolerance`: entries of `L` below this share of the norm of their column of `A` are dropped.
      Smaller is stronger and dearer: 1e-4 to 1e-2.
    * `fill_factor`: `L` has at most so many times the entries of the triangle of `A`; the largest are kept.
    * `shift`: the diagonal of `A` is multiplied by `1 + shift` before factorising.  Where a pivot is not
      positive, the factorisation is repeated with the shift doubled (from at least 0.001 on) until all are,
      which `repr(M)` then tells: Manteuffel's remedy, never needed for M-matrices.

    Rows and columns are scaled by powers of two to a diagonal near one, and eliminated in an order of minimum
    degree.  The work is done on the host, as for `SparseLU`, also where the solver runs on another device:
    each application then carries a vector there and back.  It may be traced and batched; the factors are
    constant under differentiation, and `M.transpose()` is exact.

    **Cost:** set-up a good part of what `SparseCholesky` would take; each application two triangular solves
    with at most `fill_factor * nnz` entries.  **Raises** `ValueError` for a diagonal entry that is missing
    from the pattern or, of a concrete operator, not positive, naming the row.  In a traced operator, and for
    NaN or Inf anywhere, `M` holds NaN and the solve reports it.

    Lin and Moré (1999), doi:10.1137/S1064827597327334; Saad (1994), doi:10.1002/nla.1680010405; Manteuffel
    (1980), doi:10.1090/S0025-5718-1980-0559197-0.
    """

    drop_tolerance: float = eqx.field(default=1e-3, static=True)
    fill_factor: float = eqx.field(default=10.0, static=True)
    shift: float = eqx.field(default=0.0, static=True)

    def __check_init__(self):
        _check_dropping(self)
        if not 0 <= self.shift < math.inf:
            raise ValueError(
                f"`ThresholdCholesky(shift=...)` must be finite and not negative, but is {self.shift}."
            )

    def build(self, operator: lx.AbstractLinearOperator) -> AbstractApproximateInverse:
        who = "ThresholdCholesky"
        structure = array_structure(operator, who)
        require_hermitian(operator, who, "ThresholdLU")
        matrix = entries_of(constant(operator), who)
        require_diagonal_entries(matrix.pattern, who)
        require_positive_diagonal(matrix, who, "ThresholdLU")
        recipe = ("incomplete_cholesky", self.drop_tolerance, self.fill_factor, self.shift)
        return _inverse(self, recipe, matrix, structure, frozenset([lx.positive_semidefinite_tag]))


def _check_dropping(constructor: Any) -> None:
    """Refuses numbers that a factorisation with a threshold cannot take."""
    name = type(constructor).__name__
    if not 0 <= constructor.drop_tolerance < 1:
        raise ValueError(
            f"`{name}(drop_tolerance=...)` must lie in [0, 1), but is {constructor.drop_tolerance}."
        )
    if not 1 <= constructor.fill_factor < math.inf:
        raise ValueError(
            f"`{name}(fill_factor=...)` must be finite and at least 1, but is {constructor.fill_factor}."
        )


def _inverse(
    constructor: AbstractPreconditioner,
    recipe: tuple,
    matrix: SparseLinearOperator,
    structure: jax.ShapeDtypeStruct,
    tags: frozenset[object],
) -> AbstractApproximateInverse:
    from ..direct.base import DirectInverse, factorised  # here, since solvers import preconditioners
    from ..direct.factors import Recipe

    name = type(constructor).__name__
    state = factorised(Recipe(*recipe), name, matrix.pattern, matrix.values, structure)
    return DirectInverse(state, constructor, structure, tags)

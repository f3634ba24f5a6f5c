"""Incomplete LU factorisation with threshold and pivoting."""

import math

import lineax as lx

from ..operators.convert import entries_of
from .base import AbstractApproximateInverse, AbstractPreconditioner, array_structure, constant


class ThresholdLU(AbstractPreconditioner):
    """Incomplete LU factorisation with a drop tolerance, a limit of fill and pivoting, ILUTP.

    For unsymmetric matrices on which `IncompleteLU` fails or is too weak: circuits, chemical processes,
    saddle points, flow.  Between that and `SparseLU`, which it becomes as the tolerance falls.

    * `drop_tolerance`: entries below this share of the largest of their column are dropped.  Smaller is
      stronger and dearer: 1e-4 to 1e-2.
    * `fill_factor`: the factors have at most so many times the entries of `A`.

    Rows and columns are scaled by powers of two; where the diagonal has zeros, rows are permuted so that the
    product of its entries is largest.  A pivot that vanishes is met by a multiple of the identity, doubled
    until all goes well, which `repr(M)` then tells.  SuperLU works on the host, as for `SparseLU`; the
    factors are constant under differentiation, and `M.transpose()` is exact.

    **Cost:** set-up a good part of what `SparseLU` would take; each application two triangular solves with at
    most `fill_factor * nnz` entries.  **Raises** `ValueError` for a pattern that makes every matrix singular.
    Where no shift helps, `M` holds NaN and the solve reports it.

    Li and Shao (2011), doi:10.1145/1916461.1916467; Saad (1994), doi:10.1002/nla.1680010405.
    """

    drop_tolerance: float = 1e-3
    fill_factor: float = 10.0

    def __check_init__(self):
        if not 0 <= self.drop_tolerance < 1:
            raise ValueError(
                f"`ThresholdLU(drop_tolerance=...)` must lie in [0, 1), but is {self.drop_tolerance}."
            )
        if not 1 <= self.fill_factor < math.inf:
            raise ValueError(
                f"`ThresholdLU(fill_factor=...)` must be finite and at least 1, but is {self.fill_factor}."
            )

    def build(self, operator: lx.AbstractLinearOperator) -> AbstractApproximateInverse:
        from ..direct.base import DirectInverse, factorised  # here, since solvers import preconditioners
        from ..direct.factors import Recipe

        structure = array_structure(operator, "ThresholdLU")
        matrix = entries_of(constant(operator), "ThresholdLU")
        recipe = Recipe("incomplete", self.drop_tolerance, self.fill_factor)
        state = factorised(recipe, "ThresholdLU", matrix.pattern, matrix.values, structure)
        return DirectInverse(state, self, structure, frozenset())

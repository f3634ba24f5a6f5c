"""Sparse factorisation of Hermitian positive definite matrices."""

from typing import Any, ClassVar

import lineax as lx

from ..linear.base import constant_field
from ..operators.base import require_definite
from .base import AbstractDirectSolver
from .factors import Recipe


class SparseCholesky(AbstractDirectSolver):
    """Direct solution of sparse Hermitian positive definite systems by `P S A S P^T = L D L^H`, unpivoted.

    For operators tagged `lx.positive_semidefinite_tag`.  It finds out whether that is true: a pivot that is
    not positive is `RESULTS.breakdown`, where `SparseLU` would solve the system and say nothing.  The order
    is by minimum degree on the pattern, and does not depend on the values.

    SuperLU does the elimination and keeps both triangles: time and memory are those of `SparseLU` on the same
    matrix.  `rtol`, `atol`, states, precision, statistics and where it runs: see `SparseLU`.  As a
    preconditioner it is tagged positive definite, for `CG`.

    Li (2005), doi:10.1145/1089014.1089017; George and Liu, *Computer Solution of Large Sparse Positive
    Definite Systems* (1981).
    """

    rtol: Any = constant_field(default=None)
    atol: Any = constant_field(default=0.0)

    recipe: ClassVar[Recipe] = Recipe("cholesky")

    def check(self, operator: lx.AbstractLinearOperator) -> None:
        require_definite(operator, "SparseCholesky")

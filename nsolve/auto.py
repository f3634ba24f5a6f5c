"""A sensible solver for an operator, from what is known of it."""

from typing import Any

import lineax as lx
import numpy as np

from . import preconditioners
from .linear import CG, GMRES, MINRES, AbstractIterativeSolver
from .operators import SparseLinearOperator, StencilLinearOperator
from .operators.base import is_hermitian, untagged


def auto(
    operator: lx.AbstractLinearOperator,
    rtol: Any = 1e-6,
    atol: Any = 0.0,
    max_steps: int | None = None,
) -> AbstractIterativeSolver:
    """Chooses solver and preconditioner by the operator's class and tags; nothing is computed.

    | operator | choice |
    |---|---|
    | positive semidefinite, a stencil | CG with geometric multigrid |
    | positive semidefinite, sparse | CG with IC(0) |
    | positive semidefinite, products only | CG |
    | symmetric or Hermitian | MINRES |
    | other, sparse or stencil, full diagonal | GMRES(50) with ILU(0) |
    | other | GMRES(50) |
    """
    common = {"rtol": rtol, "atol": atol, "max_steps": max_steps}
    inner = untagged(operator)
    if lx.is_positive_semidefinite(operator):
        if isinstance(inner, StencilLinearOperator):
            return CG(**common, preconditioner=preconditioners.Multigrid())
        if isinstance(inner, SparseLinearOperator):
            return CG(**common, preconditioner=preconditioners.IncompleteCholesky())
        return CG(**common)
    if is_hermitian(operator):
        return MINRES(**common)
    if isinstance(inner, StencilLinearOperator):
        return GMRES(**common, restart=50, preconditioner=preconditioners.IncompleteLU())
    if isinstance(inner, SparseLinearOperator):
        pattern = inner.pattern
        if np.all(pattern.diagonal_positions < pattern.nnz):
            return GMRES(**common, restart=50, preconditioner=preconditioners.IncompleteLU())
    return GMRES(**common, restart=50)

"""`auto`: a solver chosen from what is known of an operator."""

from typing import Any

import equinox as eqx
import lineax as lx
import numpy as np

from . import preconditioners
from .linear import CG, GMRES, MINRES, AbstractIterativeSolver
from .operators import SparseLinearOperator, StencilLinearOperator
from .operators.base import hermitian_tag, require_operator, tags_of
from .operators.convert import as_sparse, as_stencil, has_few_entries


def auto(
    operator: lx.AbstractLinearOperator,
    rtol: Any = 1e-6,
    atol: Any = 0.0,
    max_steps: int | None = None,
) -> AbstractIterativeSolver:
    """Chooses solver and preconditioner by the operator's class and tags; nothing is computed.

    | operator | choice |
    |---|---|
    | positive semidefinite, a compact stencil | `CG` with `Multigrid` |
    | positive semidefinite, another stencil or sparse | `CG` with `IncompleteCholesky` |
    | positive semidefinite, products only | `CG` |
    | symmetric or Hermitian | `MINRES` |
    | other, sparse or stencil, with a full diagonal | `GMRES(restart=50)` with `IncompleteLU` |
    | other | `GMRES(restart=50)` |

    **Arguments:** a square operator, and the solver's `rtol`, `atol` and `max_steps`.  **Returns** the
    solver, to be handed to `lx.linear_solve`; what does not suit the operator after all is reported there.
    """
    require_operator(operator, "operator")
    # Nothing is computed, and signs of numbers stay unknown, as they are to the solve.
    common = {"rtol": rtol, "atol": atol, "max_steps": max_steps}
    inner, known = eqx.filter_eval_shape(lambda operator: (_form_of(operator), tags_of(operator)), operator)
    grid = isinstance(inner, StencilLinearOperator)
    if lx.positive_semidefinite_tag in known:
        if grid and all(abs(step) <= 1 for offset in inner.offsets for step in offset):
            return CG(**common, preconditioner=preconditioners.Multigrid())
        if grid or isinstance(inner, SparseLinearOperator):
            return CG(**common, preconditioner=preconditioners.IncompleteCholesky())
        return CG(**common)
    if hermitian_tag in known:
        return MINRES(**common)
    if grid:
        full_diagonal = (0,) * len(inner.shape) in inner.offsets
    else:
        full_diagonal = isinstance(inner, SparseLinearOperator) and bool(
            np.all(inner.pattern.diagonal_positions < inner.pattern.nnz)
        )
    if full_diagonal:
        return GMRES(**common, restart=50, preconditioner=preconditioners.IncompleteLU())
    return GMRES(**common, restart=50)


def _form_of(operator: lx.AbstractLinearOperator) -> Any:
    """The stencil or the sparse matrix that the operator is or is composed to; else None."""
    stencil = as_stencil(operator)
    return as_sparse(operator) if stencil is None and has_few_entries(operator) else stencil

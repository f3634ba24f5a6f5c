"""Assembled form of whatever operator a matrix-based method is given."""

import lineax as lx
import numpy as np

from .base import untagged
from .pattern import SparsityPattern
from .sparse import SparseLinearOperator
from .stencil import StencilLinearOperator


def as_sparse(operator: lx.AbstractLinearOperator, who: str) -> SparseLinearOperator:
    """The operator as a sparse matrix on flat vectors; `who` asks, for the error message.

    Sparse operators are returned as they are, stencils are assembled, lineax's explicit matrices become full
    patterns.  Tags put around the operator are left out: they say nothing of the entries.  Legal while
    tracing: patterns are static.
    """
    inner = untagged(operator)
    if isinstance(inner, SparseLinearOperator):
        return inner
    if isinstance(inner, StencilLinearOperator):
        return inner.as_sparse()
    if isinstance(inner, lx.MatrixLinearOperator | lx.DiagonalLinearOperator | lx.TridiagonalLinearOperator):
        return _from_explicit(inner)
    raise ValueError(
        f"`{who}` needs the entries of the matrix, but was given a {type(inner).__name__}, which only has "
        "products. Pass a `SparseLinearOperator`, a `StencilLinearOperator`, or one of lineax's explicit "
        "matrices; or choose a preconditioner that needs products only, such as `preconditioners.Chebyshev`."
    )


def _from_explicit(operator) -> SparseLinearOperator:
    matrix = operator.as_matrix()
    rows, columns = np.indices(matrix.shape)
    if isinstance(operator, lx.DiagonalLinearOperator):
        kept = rows == columns
    elif isinstance(operator, lx.TridiagonalLinearOperator):
        kept = abs(rows - columns) <= 1
    else:
        kept = np.ones(matrix.shape, bool)
    indptr = np.concatenate([[0], np.cumsum(kept.sum(1))])
    pattern = SparsityPattern(indptr, columns[kept], matrix.shape)
    return SparseLinearOperator(matrix[rows[kept], columns[kept]], pattern)

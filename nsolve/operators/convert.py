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
    patterns.  Tags put around the operator are kept.  Legal while tracing: patterns are static.
    """
    inner = untagged(operator)
    tags = getattr(inner, "tags", frozenset())
    for tag, check in (
        (lx.symmetric_tag, lx.is_symmetric),
        (lx.positive_semidefinite_tag, lx.is_positive_semidefinite),
        (lx.negative_semidefinite_tag, lx.is_negative_semidefinite),
    ):
        if check(operator):
            tags = tags | {tag}
    if isinstance(inner, StencilLinearOperator):
        inner = inner.as_sparse()
    elif isinstance(
        inner,
        lx.MatrixLinearOperator | lx.DiagonalLinearOperator | lx.TridiagonalLinearOperator,
    ):
        inner = _from_explicit(inner)
    elif not isinstance(inner, SparseLinearOperator):
        raise ValueError(
            f"`{who}` needs the entries of the matrix, but was given a {type(inner).__name__}, which only "
            "has products. Pass a `SparseLinearOperator`, a `StencilLinearOperator`, or one of lineax's "
            "explicit matrices; or choose a preconditioner that needs products only, such as "
            "`preconditioners.Chebyshev`."
        )
    if inner.tags == tags:
        return inner
    return SparseLinearOperator(inner.values, inner.pattern, tags)


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

"""Assembled form of whatever operator a matrix-based method is given."""

import jax.numpy as jnp
import lineax as lx
import numpy as np

from .base import EXPLICIT, untagged
from .sparse import SparseLinearOperator
from .stencil import StencilLinearOperator


def as_sparse(operator: lx.AbstractLinearOperator, who: str) -> SparseLinearOperator:
    """The operator as a sparse matrix on flat vectors; `who` asks, for the error message.

    Sparse operators are returned as they are, stencils are assembled, lineax's explicit matrices become full
    patterns.  Tags put around the operator are left out: they say nothing of the entries.  Legal while
    tracing: patterns are static.
    """
    inner = untagged(operator)
    if isinstance(inner, lx.NegLinearOperator | lx.MulLinearOperator | lx.DivLinearOperator):
        matrix = as_sparse(inner.operator, who)
        if isinstance(inner, lx.NegLinearOperator):
            return matrix.with_values(-matrix.values)
        factor = inner.scalar if isinstance(inner, lx.MulLinearOperator) else 1 / inner.scalar
        return matrix.with_values((factor * matrix.values).astype(matrix.dtype))
    if isinstance(inner, SparseLinearOperator):
        return inner
    if isinstance(inner, StencilLinearOperator):
        return inner.as_sparse()
    if isinstance(inner, EXPLICIT):
        return _from_explicit(inner)
    raise ValueError(
        f"`{who}` needs the entries of the matrix, but was given a {type(inner).__name__}, which only has "
        "products. Pass a `SparseLinearOperator`, a `StencilLinearOperator`, or one of lineax's explicit "
        "matrices; or choose a preconditioner that needs products only, such as `preconditioners.Chebyshev`."
    )


def _from_explicit(operator) -> SparseLinearOperator:
    n, shape = operator.in_size(), (operator.out_size(), operator.in_size())
    if isinstance(operator, lx.MatrixLinearOperator):
        rows, columns = np.indices(shape).reshape(2, -1)
        return SparseLinearOperator.from_coo(operator.matrix.reshape(-1), rows, columns, shape)
    i = np.arange(n)
    if isinstance(operator, lx.DiagonalLinearOperator):
        return SparseLinearOperator.from_coo(lx.diagonal(operator), i, i, shape)
    bands = jnp.concatenate(lx.tridiagonal(operator))
    rows = np.concatenate([i, i[1:], i[:-1]])
    columns = np.concatenate([i, i[:-1], i[1:]])
    return SparseLinearOperator.from_coo(bands, rows, columns, shape)

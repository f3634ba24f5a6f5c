"""Assembled form of whatever operator a matrix-based method is given."""

import jax.numpy as jnp
import lineax as lx
import numpy as np

from .base import EXPLICIT, require_operator, untagged
from .sparse import SparseLinearOperator
from .stencil import StencilLinearOperator


def as_sparse(operator: lx.AbstractLinearOperator, who: str) -> SparseLinearOperator:
    """The operator as a sparse matrix on flat vectors; `who` asks, for the error message.

    Of sparse operators all entries are written out, stencils are assembled, lineax's explicit matrices become
    full patterns.  Tags put around the operator are left out, those of an operator inside a multiple as
    well: they say nothing of the entries.  Legal while tracing: patterns are static.
    """
    require_operator(operator, f"operator of {who}")
    inner = untagged(operator)
    if isinstance(inner, lx.NegLinearOperator | lx.MulLinearOperator | lx.DivLinearOperator):
        matrix = as_sparse(inner.operator, who)
        values = matrix.values
        if isinstance(inner, lx.NegLinearOperator):
            return SparseLinearOperator(-values, matrix.pattern)
        scalar = jnp.asarray(inner.scalar, values.dtype)
        scaled = values * scalar if isinstance(inner, lx.MulLinearOperator) else values / scalar
        return SparseLinearOperator(scaled, matrix.pattern)
    if isinstance(inner, SparseLinearOperator):
        return inner.written_out()
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

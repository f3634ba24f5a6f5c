"""Where geometric multigrid turns algebraic, and what it then stands on.

A grid halved again and again has its points where the grid wants them, not the coefficients: islands of
large coefficients that no kept point lies on cannot be represented by any interpolation. Compatible
relaxation finds them; from there on the coarse points are chosen by the matrix.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array

from ..._arrays import is_traced
from ...operators.sparse import SparseLinearOperator
from ...operators.stencil import StencilLinearOperator
from .algebraic import AlgebraicMultigrid
from .stencils import Kind, Stencil, as_operator

#: Shares of points that relaxation misses above which a grid is not halved: on the finest grid, and below
#: it in the plane and in space. Where more than the last is missed on the finest, whose points then are the
#: wrong ones, algebraic grids below it mend little. Of random blocks, checkers and lognormal media.
_FINEST, _PLANE, _SPACE, _ROUGH = 0.06, 0.015, 0.002, 0.02


class AlgebraicTail(eqx.Module):
    """Algebraic multigrid on a grid's operator: one cycle from zero."""

    inverse: Any
    operator: StencilLinearOperator

    def __call__(self, b: Array) -> Array:
        return self.inverse.mv(b.reshape(-1)).reshape(b.shape)

    def transpose(self) -> "AlgebraicTail":
        return AlgebraicTail(self.inverse.transpose(), self.operator.transpose())

    @property
    def table(self) -> list[tuple[int, int]]:
        """Unknowns and nonzeros of each level; empty while tracing."""
        return self.inverse.table


def may_decide(operator: StencilLinearOperator) -> bool:
    """Whether algebraic levels and incomplete factors apply: to real positive operators whose coefficients
    are known, and on the host."""
    real = not jnp.issubdtype(operator.dtype, jnp.complexfloating)
    known = not any(map(is_traced, operator.coefficients))
    return real and known and bool(lx.is_positive_semidefinite(operator)) and jax.default_backend() == "cpu"


def turns_algebraic(shares: Sequence[Any], dim: int) -> bool:
    """Whether a level has to be coarsened by the matrix, by the `unrelaxed` shares of the levels down to
    it."""
    first, last = float(shares[0]), float(shares[-1])
    if len(shares) == 1:
        return last > _FINEST
    return first <= _ROUGH and last > (_PLANE if dim <= 2 else _SPACE)


def algebraic_tail(stencil: Stencil, kind: Kind, earlier: AlgebraicTail | None = None) -> AlgebraicTail:
    """Of the operator of a grid, `earlier` refreshed if there is one; points that nothing holds stay
    alone."""
    operator = as_operator(stencil, kind)
    matrix: SparseLinearOperator = operator.as_sparse()
    diagonal = matrix.diagonal()
    values = matrix.values.at[matrix.pattern.diagonal_positions].set(jnp.where(diagonal == 0, 1, diagonal))
    positive = lx.TaggedLinearOperator(matrix.with_values(values), lx.positive_semidefinite_tag)
    if earlier is not None and earlier.inverse.state.pattern == matrix.pattern:
        return AlgebraicTail(earlier.inverse.refresh(positive), operator)
    return AlgebraicTail(AlgebraicMultigrid().build(positive), operator)

"""The coarsest grid's solver: an exact inverse, in plain array operations.

No LAPACK: its threads may wait for those of the program that calls it, and a system of a hundred
unknowns gains nothing from it.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..._arrays import is_traced
from ...operators.stencil import StencilLinearOperator

#: Pivots below so many units of rounding are zero: coarse operators carry the errors of finer ones.
_ROUNDING = 1024


class DenseInverse(eqx.Module):
    """The inverse of a small operator as a matrix; its null space is projected out."""

    matrix: Array

    def __call__(self, b: Array) -> Array:
        return jnp.matmul(self.matrix, b.reshape(-1), precision="highest").reshape(b.shape)

    def transpose(self) -> "DenseInverse":
        return DenseInverse(self.matrix.T)

    def __repr__(self) -> str:
        return "exact, dense inverse"


def dense_inverse(operator: StencilLinearOperator) -> DenseInverse:
    """Inverts the operator as a matrix; on the host where its coefficients are concrete."""
    if any(map(is_traced, operator.coefficients)):
        return DenseInverse(invert(operator.as_matrix()))
    return DenseInverse(jnp.asarray(invert(operator.as_scipy().toarray()), operator.dtype))


def invert(matrix: Any) -> Any:
    """The inverse of a square matrix, by Gauss-Jordan elimination with row pivoting.

    A pivot that is zero up to rounding shows a null vector: the constants of a part of the grid
    that has no Dirichlet wall.  The inverse then is the one of the other modes: it gives vectors
    orthogonal to the null space, from vectors orthogonal to that of the transpose.
    """
    xp = jnp if is_traced(matrix) else np
    n = len(matrix)
    places = xp.arange(n)
    negligible = _ROUNDING * float(jnp.finfo(matrix.dtype).eps) * abs(matrix).max(0)

    def eliminate(k, carry):
        # Solved rows say x = table b, the others b + table b = table x.
        table, order, singular = carry
        here = places == k
        best = xp.argmax(xp.where(places < k, -1, abs(table[:, k])))
        swapped = xp.where(here, best, xp.where(places == best, k, places))
        table, order = table[swapped], order[swapped]
        column, row, pivot = table[:, k], table[k], table[k, k]
        null = abs(pivot) <= negligible[k]
        solved = here & ~null
        row = xp.where(here, 1, row) * xp.where(null, 0, 1 / xp.where(null, 1, pivot))
        rest = xp.where(solved[None, :], 0, table) - xp.where(here, 0, column)[:, None] * row[None, :]
        return xp.where(solved[:, None], row[None, :], rest), order, singular | (here & null)

    carry = matrix, places, places < 0
    if xp is jnp:
        carry = jax.lax.fori_loop(0, n, eliminate, carry)
    else:
        for k in range(n):
            carry = eliminate(k, carry)
    table, order, singular = carry
    free, bound = singular[None, :], ~singular[:, None]
    itself = xp.eye(n, dtype=bool)
    null = xp.where(free & (bound | itself), xp.where(itself, 1, -table), 0)
    dual = xp.where(free & (bound | itself), xp.where(itself, 1, table.T), 0)
    back = (order[:, None] == places[None, :]).astype(matrix.dtype)  # undoes the pivoting
    inverse = _product(xp.where(bound & bound.T, table, 0), back)
    null, dual = _normalised(null), _normalised(_product(back.T, dual)).conj()
    inverse = inverse - _product(null, _product(null.conj().T, inverse))
    return inverse - _product(_product(inverse, dual), dual.conj().T)


def _normalised(columns: Any) -> Any:
    xp = jnp if is_traced(columns) else np
    square = xp.sum(abs(columns) ** 2, 0, keepdims=True)
    return columns / xp.sqrt(xp.where(square == 0, 1, square)).astype(columns.dtype)


def _product(a: Any, b: Any) -> Any:
    return a @ b if isinstance(a, np.ndarray) else jnp.matmul(a, b, precision="highest")

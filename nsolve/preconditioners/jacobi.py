"""Jacobi (diagonal) preconditioning."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.core import Tracer
from jaxtyping import Array

from ..operators.base import is_complex, is_positive_semidefinite
from ..operators.convert import diagonal_of, knows_its_entries, what_lacks_entries
from .base import AbstractApproximateInverse, AbstractPreconditioner, array_structure


class JacobiInverse(AbstractApproximateInverse):
    """Multiplies by the inverse of the diagonal."""

    inverse_diagonal: Array
    structure: jax.ShapeDtypeStruct = eqx.field(static=True)
    tags: frozenset[object] = eqx.field(static=True)

    def mv(self, vector: Array) -> Array:
        return self.inverse_diagonal * vector

    def refresh(self, operator: lx.AbstractLinearOperator) -> "JacobiInverse":
        return Jacobi()(operator)

    def transpose(self) -> "JacobiInverse":
        return self

    def conj(self) -> "JacobiInverse":
        return JacobiInverse(self.inverse_diagonal.conj(), self.structure, self.tags)

    def diagonal(self) -> Array:
        return self.inverse_diagonal.reshape(-1)

    def is_structurally(self, tag: object) -> bool:
        return tag in (lx.diagonal_tag, lx.tridiagonal_tag)

    def __repr__(self) -> str:
        return f"Jacobi preconditioner ({self.in_size()} unknowns; one multiplication an unknown)"


class Jacobi(AbstractPreconditioner):
    """Jacobi preconditioner, `M = diag(A)^-1`.

    Use it when rows differ in scale (variable coefficients, adaptive meshes); it cannot help where the
    diagonal is constant.  Set-up reads the diagonal; applying it costs one multiplication an unknown.

    A zero on the diagonal of a concrete operator is a `ValueError` naming the row; a traced one makes the
    solve end in `RESULTS.breakdown` or `nonfinite_input`.

    Saad, *Iterative Methods for Sparse Linear Systems*, 2nd ed. (2003), section 10.2,
    doi:10.1137/1.9780898718003.
    """

    def build(self, operator: lx.AbstractLinearOperator) -> JacobiInverse:
        structure = array_structure(operator, "Jacobi")
        if not knows_its_entries(operator):
            raise ValueError(
                f"`Jacobi` reads the diagonal, but {what_lacks_entries(operator)} Or write "
                "`lx.TaggedLinearOperator(lx.DiagonalLinearOperator(1 / diagonal), "
                "lx.positive_semidefinite_tag)` as the preconditioner."
            )
        diagonal = diagonal_of(operator)
        require_nonzero(diagonal, "Jacobi")
        tags = {lx.diagonal_tag}
        if is_positive_semidefinite(operator):
            tags |= {lx.positive_semidefinite_tag}
            if is_complex(operator):
                diagonal = diagonal.real.astype(structure.dtype)
        return JacobiInverse((1 / diagonal).reshape(structure.shape), structure, frozenset(tags))


def require_nonzero(diagonal: Array, who: str) -> None:
    """Refuses a concrete diagonal with a zero."""
    if isinstance(diagonal, Tracer):
        return
    zero = diagonal == 0
    if zero.any():
        raise ValueError(
            f"`{who}` divides by the diagonal, but entry {int(jnp.argmax(zero))} of it is zero "
            f"({int(zero.sum())} of {diagonal.size} are). Reorder or shift the matrix, or choose another "
            "preconditioner."
        )

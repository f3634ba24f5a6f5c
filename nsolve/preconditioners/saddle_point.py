"""Block diagonal preconditioning of saddle points."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from .._vectors import take
from ..operators import sparse_algebra
from ..operators.base import is_hermitian
from ..operators.convert import entries_of
from ..operators.sparse import SparseLinearOperator
from .base import AbstractApproximateInverse, AbstractPreconditioner, array_structure, constant
from .incomplete import IncompleteCholesky

_PSD = lx.positive_semidefinite_tag


class SaddlePointInverse(AbstractApproximateInverse):
    """`blkdiag(M1, M2)`: `block` acts on the first unknowns, `schur` on the others."""

    block: AbstractApproximateInverse
    schur: AbstractApproximateInverse
    constructor: "SaddlePoint"
    structure: jax.ShapeDtypeStruct = eqx.field(static=True)

    @property
    def tags(self) -> frozenset[object]:
        definite = all(lx.is_positive_semidefinite(part) for part in (self.block, self.schur))
        return frozenset([_PSD] if definite else [])

    def mv(self, vector: Array) -> Array:
        flat, split = vector.reshape(-1), self.block.in_size()
        parts = self.block.mv(flat[:split]), self.schur.mv(flat[split:])
        return jnp.concatenate(parts).reshape(vector.shape)

    def refresh(self, operator: lx.AbstractLinearOperator) -> "SaddlePointInverse":
        leading, schur = self.constructor.blocks(constant(operator))
        return self._with(self.block.refresh(leading), self.schur.refresh(schur))

    def transpose(self) -> "SaddlePointInverse":
        return self._with(self.block.transpose(), self.schur.transpose())

    def conj(self) -> "SaddlePointInverse":
        return self._with(lx.conj(self.block), lx.conj(self.schur))

    def _with(self, block: Any, schur: Any) -> "SaddlePointInverse":
        return SaddlePointInverse(block, schur, self.constructor, self.structure)

    def __repr__(self) -> str:
        return f"SaddlePoint preconditioner ({self.in_size()} unknowns; {self.block!r}; {self.schur!r})"


class SaddlePoint(AbstractPreconditioner):
    """Block diagonal preconditioner of a saddle point `K = [[A, B^H], [B, -C]]`, for `MINRES`: nearly
    `M = blkdiag(A, C + B diag(A)^-1 B^H)^-1`.

    For optimality conditions, mixed finite elements and flow through porous media: `K` Hermitian and
    indefinite, `A` positive definite, `C` positive semidefinite or zero.  Were both inverses exact and `A`
    diagonal, `MINRES` would end after three steps where there is no `C`.  The steps grow with how far `A` is
    from its diagonal: where it is a mass matrix or a barrier, they hardly depend on the size, but for what
    the two parts add; where it is a Laplacian, as in Stokes flow, they grow with one over the width of a
    cell, since the true Schur complement is close to a mass matrix there.

    * `split`: how many unknowns `A` has; they stand first.
    * `block`, `schur`: the preconditioners of `A` and of `C + B diag(A)^-1 B^H`, both sparse matrices tagged
      positive semidefinite: any constructors that take these.  `M` is tagged positive semidefinite where both
      parts are.  `SparseCholesky()` inverts exactly.

    **Cost:** set-up one sparse product, with as many multiplications as the squares of the lengths of `B`'s
    columns sum up to, and those of the parts; an application is one of each part.  Set-up, application and
    `refresh` may be traced and batched where those of the parts may.

    **Raises** `ValueError` for operators that are not Hermitian by their tags or do not know their entries,
    a `split` that does not divide the unknowns, a diagonal entry of `A` that is missing or, where concrete,
    not positive, and an empty row of the Schur complement: each names the row.  Traced, such entries make the
    solve fail.

    Benzi, Golub and Liesen (2005), doi:10.1017/S0962492904000212; Murphy, Golub and Wathen (2000),
    doi:10.1137/S1064827599355153; Silvester and Wathen (1994), doi:10.1137/0731070.
    """

    split: int = eqx.field(static=True)
    block: AbstractPreconditioner = IncompleteCholesky()
    schur: AbstractPreconditioner = IncompleteCholesky()

    def __check_init__(self):
        if isinstance(self.split, bool) or not isinstance(self.split, int | np.integer) or self.split < 1:
            raise ValueError(
                f"`SaddlePoint(split=...)` must be a positive integer, the number of unknowns of the leading "
                f"block, but is {self.split!r}."
            )
        for name in ("block", "schur"):
            if not isinstance(made := getattr(self, name), AbstractPreconditioner):
                raise TypeError(
                    f"`SaddlePoint({name}=...)` must be a preconditioner constructor, such as "
                    f"`IncompleteCholesky()`, but is {made!r}."
                )

    def build(self, operator: lx.AbstractLinearOperator) -> SaddlePointInverse:
        structure = array_structure(operator, "SaddlePoint")
        leading, schur = self.blocks(operator)
        return SaddlePointInverse(self.block.build(leading), self.schur.build(schur), self, structure)

    def blocks(
        self, operator: lx.AbstractLinearOperator
    ) -> tuple[SparseLinearOperator, SparseLinearOperator]:
        """`A` and `C + B diag(A)^-1 B^H`."""
        if not is_hermitian(operator):
            raise ValueError(
                "`SaddlePoint` preconditions symmetric (Hermitian) operators, and this one is not tagged so. "
                "If it is one, say so: `lx.TaggedLinearOperator(A, lx.symmetric_tag)` for real operators, "
                "`nsolve.hermitian_tag` for complex ones."
            )
        matrix, split = entries_of(operator, "SaddlePoint"), self.split
        if split >= operator.in_size():
            raise ValueError(
                "`SaddlePoint(split=...)` must be less than the number of unknowns, "
                f"{operator.in_size()}, but is {split}."
            )
        first, others = slice(split), slice(split, None)
        leading, coupling = matrix.select(first, first), matrix.select(others, first)
        inverse = 1 / _positive_diagonal(leading)
        scaled = coupling.with_values(coupling.values * take(inverse, coupling.pattern.indices))
        product = sparse_algebra.compose(scaled, coupling.conj().transpose())
        schur = sparse_algebra.add(sparse_algebra.negate(matrix.select(others, others)), product)
        empty = schur.pattern.row_lengths == 0
        if empty.any():
            raise ValueError(
                f"`SaddlePoint`: row {split + int(np.argmax(empty))} of the matrix has no entries, so that "
                f"it is singular ({int(empty.sum())} such rows)."
            )
        return _definite(leading), _definite(schur)


def _definite(matrix: SparseLinearOperator) -> SparseLinearOperator:
    return SparseLinearOperator(matrix.values, matrix.pattern, _PSD)


def _positive_diagonal(leading: SparseLinearOperator) -> Array:
    """The diagonal of the leading block; refuses what is known not to be positive."""
    diagonal = leading.diagonal()
    bad = leading.pattern.diagonal_positions == leading.nnz
    if not isinstance(diagonal, Tracer):
        bad |= np.real(np.asarray(diagonal)) <= 0
    if bad.any():
        row = int(np.argmax(bad))
        value = 0 if isinstance(diagonal, Tracer) else diagonal[row]
        raise ValueError(
            f"`SaddlePoint` needs a positive definite leading block, but entry {row} of its diagonal is "
            f"{value}. Are the unknowns in another order, or is `split` another number?"
        )
    return diagonal.real.astype(diagonal.dtype)

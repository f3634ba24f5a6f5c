"""A diagonal plus a matrix of low rank."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Inexact

from .._dense import solve
from .base import AbstractOperator, as_tags, hermitian_tag


class LowRankPlusDiagonalLinearOperator(AbstractOperator):
    """`diag(d) + left @ right^H`, acting on flat arrays `(n,) -> (n,)`.

    Covariances of factor models, deflated operators, sums of few outer products.

    * `diagonal_part`: `d`, `(n,)`.
    * `left`: `(n, k)`; `right`: `(n, k)`, or None for `left` itself (then the operator is Hermitian if `d` is
      real, and it is tagged so; positive definiteness is the user's word).

    One product costs `2 n k` multiply-adds.  `inverse()` is exact (Woodbury): `O(n k^2)` once, and again an
    operator of this class, so it serves as preconditioner for anything close by.
    """

    diagonal_part: Inexact[Array, " n"]
    left: Inexact[Array, "n k"]
    right: Inexact[Array, "n k"] | None
    tags: frozenset[object] = eqx.field(static=True)

    def __init__(self, diagonal_part, left, right=None, tags=()):
        diagonal_part, left = jnp.asarray(diagonal_part), jnp.asarray(left)
        right = None if right is None else jnp.asarray(right)
        for name, factor in (("left", left), ("right", right)):
            if factor is not None and (
                factor.ndim != 2 or factor.shape != (diagonal_part.size, left.shape[-1])
            ):
                raise ValueError(
                    f"`{name}` must have shape (n, k) with n = {diagonal_part.size}, as many rows as "
                    f"`diagonal_part` has entries, but has shape {factor.shape}."
                )
        if diagonal_part.ndim != 1:
            raise ValueError(f"`diagonal_part` must be flat, but has shape {diagonal_part.shape}.")
        dtype = jnp.result_type(*(a for a in (diagonal_part, left, right) if a is not None))
        self.diagonal_part = diagonal_part.astype(dtype)
        self.left = left.astype(dtype)
        self.right = None if right is None else right.astype(dtype)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(f"The entries must be floating-point or complex, but are {dtype}.")
        tags = as_tags(tags)
        if right is None and not jnp.issubdtype(diagonal_part.dtype, jnp.complexfloating):
            tags |= {hermitian_tag}
            if not jnp.issubdtype(dtype, jnp.complexfloating):
                tags |= {lx.symmetric_tag}
        self.tags = tags

    @property
    def _right(self) -> Array:
        return self.left if self.right is None else self.right

    def mv(self, vector: Array) -> Array:
        inner = jnp.matmul(self._right.conj().T, vector, precision="highest")
        return self.diagonal_part * vector + jnp.matmul(self.left, inner, precision="highest")

    def as_matrix(self) -> Array:
        return jnp.diag(self.diagonal_part) + self.left @ self._right.conj().T

    def diagonal(self) -> Array:
        return self.diagonal_part + jnp.sum(self.left * self._right.conj(), axis=1)

    def transpose(self) -> "LowRankPlusDiagonalLinearOperator":
        if lx.is_symmetric(self):
            return self
        tags = lx.transpose_tags(self.tags)
        left, right = self._right.conj(), self.left.conj()
        return LowRankPlusDiagonalLinearOperator(self.diagonal_part, left, right, tags)

    def conj(self) -> "LowRankPlusDiagonalLinearOperator":
        right = None if self.right is None else self.right.conj()
        return LowRankPlusDiagonalLinearOperator(
            self.diagonal_part.conj(), self.left.conj(), right, self.tags
        )

    def inverse(self) -> "LowRankPlusDiagonalLinearOperator":
        """The inverse, by the Sherman-Morrison-Woodbury formula; `diagonal_part` must have no zeros.

        Loses digits where the `k x k` matrix `I + right^H D^-1 left` is ill-conditioned.
        Hager (1989), doi:10.1137/1031049.
        """
        inverse_diagonal = 1 / self.diagonal_part
        scaled = inverse_diagonal[:, None] * self.left
        small = jnp.eye(self.left.shape[1], dtype=self.left.dtype)
        small = small + jnp.matmul(self._right.conj().T, scaled, precision="highest")
        left = -solve(small.T, scaled.T).T
        right = inverse_diagonal.conj()[:, None] * self._right
        kept = {lx.symmetric_tag, hermitian_tag, lx.positive_semidefinite_tag, lx.negative_semidefinite_tag}
        return LowRankPlusDiagonalLinearOperator(inverse_diagonal, left, right, self.tags & kept)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.diagonal_part.shape, self.diagonal_part.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return self.in_structure()

    def __repr__(self) -> str:
        n, k = self.left.shape
        return f"LowRankPlusDiagonalLinearOperator({n} x {n}, rank {k}, {self.left.dtype})"

"""Randomised Nyström preconditioning."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PRNGKeyArray

from .. import _dense
from ..operators.base import require_definite
from ..operators.convert import as_one
from .base import AbstractApproximateInverse, AbstractPreconditioner, array_structure

#: Adaptive ranks begin here, and are doubled until the last eigenvalue is so many shifts.
_FIRST_RANK, _ENOUGH = 16, 10.0
_SHARE = 1 / 4


class NystromInverse(AbstractApproximateInverse):
    """`U (diag(l) + s)^-1 U^H + (I - U U^H) / (l_r + s)`: `vectors` are `U^H`, `eigenvalues` `l`, from the
    largest down, `shift` `s`."""

    vectors: Array
    eigenvalues: Array
    shift: Array
    constructor: "Nystrom"
    structure: jax.ShapeDtypeStruct = eqx.field(static=True)
    tags: frozenset[object] = eqx.field(static=True)

    def mv(self, vector: Array) -> Array:
        x, last = vector.reshape(-1), self.eigenvalues[-1]
        gains = (last - self.eigenvalues) / (self.eigenvalues + self.shift)
        inner = jnp.matmul(self.vectors, x, precision="highest")
        inner = gains.astype(x.dtype) * inner
        x = x + jnp.matmul(self.vectors.conj().T, inner, precision="highest")
        return (x / (last + self.shift).astype(x.dtype)).reshape(vector.shape)

    def refresh(self, operator: lx.AbstractLinearOperator) -> Any:
        return dataclasses.replace(self.constructor, rank=self.eigenvalues.shape[-1])(operator)

    def transpose(self) -> "NystromInverse":
        return self.conj()

    def conj(self) -> "NystromInverse":
        return eqx.tree_at(lambda inverse: inverse.vectors, self, self.vectors.conj())

    def __repr__(self) -> str:
        rank, last = self.eigenvalues.shape[-1], self.eigenvalues[-1:]
        found = "" if isinstance(last, Tracer) or last.ndim != 1 else f" {float(last[0]):.3g}"
        return (
            f"Nystrom preconditioner ({self.in_size()} unknowns; rank {rank}, its smallest eigenvalue{found}"
            f"; {2 * rank} inner products or sums of vectors an application)"
        )


class Nystrom(AbstractPreconditioner):
    """Randomised Nyström preconditioner of `A = B + shift I`, `B` positive semidefinite: the inverse on the
    space where `B` is large, by products only.

    For regularised least squares, kernel and Gaussian process matrices: dense or matrix-free operators whose
    eigenvalues decay fast.  Where `B`'s eigenvalue of number `rank` is near `shift`, `CG` takes few steps
    whatever the condition.  Where they decay slowly, as a Laplacian's do, it does not help.

    * `rank`: how many eigenvectors, at most the number of unknowns.  None: doubled from 16 on until the last
      estimated eigenvalue is at most ten times the shift.  Concrete operators only: call it before the
      solve, and pass what it makes as `options={"preconditioner": M}`.
    * `shift`: what was added to the diagonal of `B`; more precisely, any positive number that `A`'s
      eigenvalues are not below.  The operator to precondition is `A`, the shift included.
    * `key`: a key of `jax.random`; without one the same is used each time.

    **Cost:** set-up `rank` products, in one batch, and about `6 rank^2 n` multiplications; without a rank,
    twice as many products; `rank` vectors are kept (while it is made, five times as many).  An application
    takes `2 rank n` multiplications.  `refresh` keeps the rank and does all else again.  Set-up, application
    and `refresh` may be traced and batched.

    `repr(M)` shows the rank and the estimated eigenvalue of that number.  `M` is positive definite.

    **Raises** `ValueError` for a rank below 1 or above the number of unknowns, a shift that is not positive
    and finite, an operator that is not tagged positive semidefinite, one without rank that is traced, one
    that is concrete with eigenvalues below the shift where that is seen, and where the vectors would take
    more than a quarter of the memory.  Traced, such an operator's `M` is NaN and the solve reports failure.

    Frangella, Tropp and Udell (2023), doi:10.1137/21M1466244, algorithms 2.1 and 5.1; theirs is
    `eigenvalues[-1] + shift` times this one.
    """

    rank: int | None = eqx.field(static=True)
    shift: Any
    key: PRNGKeyArray | None = None

    def __check_init__(self):
        rank, shift = self.rank, self.shift
        number: Any = shift
        if rank is not None and (
            isinstance(rank, bool) or not isinstance(rank, int | np.integer) or rank < 1
        ):
            raise ValueError(f"`Nystrom(rank=...)` must be a positive integer or None, but is {rank!r}.")
        if isinstance(shift, int | float | np.generic | np.ndarray | jax.Array) and not isinstance(
            shift, Tracer
        ):
            if np.ndim(shift) or np.iscomplexobj(shift) or not 0 < number < np.inf:
                raise ValueError(f"`Nystrom(shift=...)` must be a positive finite number, but is {shift!r}.")
        elif not isinstance(shift, Tracer):
            raise TypeError(f"`Nystrom(shift=...)` must be a number, but is a {type(shift).__name__}.")

    def build(self, operator: lx.AbstractLinearOperator) -> NystromInverse:
        structure = array_structure(operator, "Nystrom")
        require_definite(operator, "preconditioners.Nystrom")
        size = operator.in_size()
        if self.rank is not None and self.rank > size:
            raise ValueError(
                f"`Nystrom(rank=...)` must be at most the number of unknowns, {size}, but is {self.rank}."
            )
        operator = lx.linearise(as_one(operator))
        key = jax.random.key(0) if self.key is None else self.key
        shift = jnp.asarray(self.shift).astype(jnp.finfo(structure.dtype).dtype)
        rank = min(_FIRST_RANK, size) if self.rank is None else int(self.rank)
        while True:
            _require_memory(rank, structure)
            vectors, eigenvalues = _approximate(operator, shift, key, rank)
            known = not isinstance(eigenvalues, Tracer)
            if self.rank is None and not (known and not isinstance(shift, Tracer)):
                raise ValueError(
                    "`Nystrom(rank=None)` finds the rank from the numbers, and the operator or the shift is "
                    "traced, as all inside a solve are. Set the rank, or make the preconditioner before: "
                    '`M = Nystrom(None, shift)(A)`, then `options={"preconditioner": M}`. `M.refresh` may be '
                    "traced."
                )
            if known and not jnp.isfinite(eigenvalues).all():
                raise ValueError(
                    f"`Nystrom(shift={self.shift})`: the operator minus the shift is not positive "
                    "semidefinite, or holds NaN or Inf. Is the shift larger than what was added to the "
                    "diagonal?"
                )
            if self.rank is not None or rank == size or eigenvalues[-1] <= _ENOUGH * shift:
                break
            rank = min(2 * rank, size)
        tags = frozenset([lx.positive_semidefinite_tag])
        return NystromInverse(vectors, eigenvalues, shift, self, structure, tags)


@eqx.filter_jit
def _approximate(
    operator: lx.AbstractLinearOperator, shift: Array, key: PRNGKeyArray, rank: int
) -> tuple[Array, Array]:
    """The vectors `(rank, n)`, and the eigenvalues of the Nyström approximation; algorithm 2.1."""
    structure = operator.in_structure()
    size, dtype = operator.in_size(), structure.dtype
    test = _dense.orthonormal_columns(jax.random.normal(key, (size, rank), dtype))
    products = jax.vmap(operator.mv)(test.T.reshape(rank, *structure.shape)).reshape(rank, size).T
    # Powers of two: squares of what is left neither overflow nor underflow.
    largest = jnp.maximum(jnp.max(jnp.abs(products)), shift)
    unit = jnp.exp2(jnp.round(jnp.log2(largest)))
    shift = shift / unit
    products = products / unit.astype(dtype) - shift.astype(dtype) * test
    # What makes the small matrix definite in spite of rounding, and is taken off again.
    added = float(jnp.finfo(dtype).eps * np.sqrt(size)) * (jnp.linalg.norm(products) + shift)
    products = products + added.astype(dtype) * test
    small = jnp.matmul(test.conj().T, products, precision="highest")
    upper = _dense.cholesky((small + small.conj().T) / 2).conj().T
    rooted = _dense.solve_triangular(upper, products.T, transposed=True).T
    # The singular values and vectors of `rooted`, whose rounding errors are those of `added`.
    basis = _dense.orthonormal_columns(rooted)
    inner = jnp.matmul(basis.conj().T, rooted, precision="highest")
    squares, turn = _dense.eigh(jnp.matmul(inner, inner.conj().T, precision="highest"))
    vectors = jnp.matmul(turn.conj().T, basis.conj().T, precision="highest")
    eigenvalues = jnp.maximum(squares - added, 0) * unit  # NaN stays
    return vectors[::-1], eigenvalues[::-1]


def _require_memory(rank: int, structure: jax.ShapeDtypeStruct) -> None:
    from ..direct.memory import physical_memory  # here, since that package imports solvers

    size = int(np.prod(structure.shape))
    needed, limit = 5.0 * rank * size * structure.dtype.itemsize, _SHARE * physical_memory()
    if needed > limit:
        raise ValueError(
            f"`Nystrom(rank={rank})` of {size} unknowns would take {needed / 1e9:.3g} GB, more than a "
            f"quarter of this machine's memory ({limit / 1e9:.3g} GB). Choose a smaller rank; without one, "
            "the eigenvalues decay too slowly for this preconditioner."
        )

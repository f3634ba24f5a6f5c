"""Incomplete factorisations without fill: IC(0) and ILU(0)."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from .._vectors import take
from ..operators.base import is_hermitian
from ..operators.convert import entries_of
from ..operators.pattern import SparsityPattern
from ..operators.sparse import SparseLinearOperator
from .base import AbstractPreconditioner, array_structure
from .local import is_count
from .triangular import TriangularInverse, UnitTriangular, triangle

#: The first shift to try where the factorisation breaks down, and how often to double it.
_FIRST_SHIFT, _MAX_TRIES = 1e-3, 24


class IncompleteCholesky(AbstractPreconditioner):
    """Incomplete Cholesky factorisation without fill, IC(0): `M = (L D L^H)^-1`.

    The standard choice for sparse symmetric (Hermitian) positive definite matrices when multigrid
    does not apply. `L` has the pattern of the lower triangle of `A`; rows are eliminated in the
    order given, so a bandwidth-reducing order of the unknowns helps.  The operator must be
    Hermitian by its tags; `M` is positive definite.

    * `shift`: the diagonal of `A` is multiplied by `1 + shift` before factorising.  Where a pivot
      is not positive, the factorisation is repeated with the shift doubled (from at least 0.001 on)
      until all are: Manteuffel's remedy, never needed for M-matrices.  `repr(M)` and `M.shift` say
      what was used.
    * `sweeps`: in so many sweeps over all unknowns at once is each triangular solve done.  None:
      exactly on CPUs, and elsewhere in as many as it takes.

    **On devices other than CPUs** nothing waits for a long chain.  The factorisation sweeps over all
    entries at once until none moves by more than 1e-4.  The triangular solves are Jacobi's sweeps, so
    many that by the row sums of the factor's powers they leave at most a tenth of an error; `repr(M)`
    says how many.  Both are exact after as many sweeps as there are levels, so that it never takes
    more; where levels are few, solves go level by level.  The second solve is the adjoint of the
    first, whatever the number: `M` stays positive definite.  Factors that couple strongly along lines
    take many sweeps; `SparseApproximateInverse`, `Chebyshev` and `Multigrid` need none.  `sweeps=k`
    does the same on a CPU.  An `M` that was set up on a CPU does a sweep for each level elsewhere: set
    it up, or refresh it, where it is applied.

    Set-up costs about as much as a few products (more where the shift is needed); applying it two
    triangular solves, as many multiply-adds as a product with `A`.  Set-up, application and
    `refresh` may be traced and batched; the factorisation itself is not differentiable.

    A zero or negative diagonal entry of a concrete operator is a `ValueError` naming the row, as is
    a missing one.  In a traced operator, and for NaN or Inf anywhere, the factors become NaN and
    the solve reports failure.

    Meijerink and van der Vorst (1977), doi:10.1090/S0025-5718-1977-0438681-4; Manteuffel (1980),
    doi:10.1090/S0025-5718-1980-0559197-0; sweeps: Chow and Patel (2015), doi:10.1137/140968896, and
    Anzt, Chow and Dongarra (2015), doi:10.1007/978-3-662-48096-0_50.
    """

    shift: Any = 0.0
    sweeps: int | None = eqx.field(default=None, static=True)

    def __check_init__(self):
        _check_sweeps(self)
        if isinstance(self.shift, int | float) and not 0 <= self.shift < np.inf:
            raise ValueError(
                f"`IncompleteCholesky(shift=...)` must be finite and not negative, but is {self.shift}."
            )

    def build(self, operator: lx.AbstractLinearOperator) -> TriangularInverse:
        who = "IncompleteCholesky"
        structure = array_structure(operator, who)
        require_hermitian(operator, who, "IncompleteLU")
        matrix = entries_of(operator, who)
        require_diagonal_entries(matrix.pattern, who)
        shift = jnp.asarray(self.shift, jnp.finfo(matrix.dtype).dtype)
        swept = self.sweeps is not None
        lower, scale, upper, enough, shift = _cholesky(jax.lax.stop_gradient(matrix), shift, swept)
        if not isinstance(scale, Tracer) and not jnp.isfinite(scale).all():
            require_positive_diagonal(matrix, who, "IncompleteLU")
        tags = frozenset([lx.positive_semidefinite_tag])
        return TriangularInverse(
            *(lower, scale, upper, None, shift, self, matrix.pattern, structure, tags, enough, self.sweeps)
        )


class IncompleteLU(AbstractPreconditioner):
    """Incomplete LU factorisation without fill and without pivoting, ILU(0): `M = (L U)^-1`.

    For unsymmetric matrices with `GMRES` or `BiCGStab`; most at home with diagonally dominant and
    M-matrices. The factors have the pattern of `A`; the order of the unknowns matters (along the
    flow is good).

    * `sweeps`: in so many sweeps over all unknowns at once is each triangular solve done.  None:
      exactly on CPUs, and elsewhere in as many as it takes: see `IncompleteCholesky`.

    Set-up costs about as much as a few products, applying it two triangular solves: as many
    multiply-adds as one product with `A`.  Set-up, application and `refresh` may be traced and
    batched; the factorisation itself is not differentiable.  `M.transpose()` is exact: `L^-T U^-T`.

    A diagonal entry missing from the pattern, and a zero pivot of a concrete operator, are a
    `ValueError` naming the row.  In a traced operator, and for NaN or Inf anywhere, the factors
    become NaN and the solve reports failure.

    Meijerink and van der Vorst (1977), doi:10.1090/S0025-5718-1977-0438681-4; Saad, *Iterative
    Methods for Sparse Linear Systems*, 2nd ed. (2003), section 10.3.2, doi:10.1137/1.9780898718003.
    """

    sweeps: int | None = eqx.field(default=None, static=True)

    def __check_init__(self):
        _check_sweeps(self)

    def build(self, operator: lx.AbstractLinearOperator) -> TriangularInverse:
        who = "IncompleteLU"
        structure = array_structure(operator, who)
        matrix = entries_of(operator, who)
        require_diagonal_entries(matrix.pattern, who)
        swept = self.sweeps is not None
        lower, scale, upper, enough = _lu(jax.lax.stop_gradient(matrix), swept)
        _require_pivots(matrix, scale)
        return TriangularInverse(
            *(lower, scale, upper, None, None, self, matrix.pattern, structure, frozenset()),
            *(enough, self.sweeps),
        )


def _check_sweeps(constructor: "IncompleteCholesky | IncompleteLU") -> None:
    if constructor.sweeps is not None and not is_count(constructor.sweeps, 0):
        raise ValueError(
            f"`{type(constructor).__name__}(sweeps=...)` must be None or an integer >= 0, but is "
            f"{constructor.sweeps!r}."
        )


@eqx.filter_jit
def _cholesky(
    matrix: SparseLinearOperator, shift: Array, swept: bool
) -> tuple[UnitTriangular, Array, UnitTriangular, Array | None, Array]:
    """The unit lower factor, the inverse pivots, the lower factor's adjoint, how many sweeps are enough, and
    the shift that was used."""
    from ..kernels import incomplete_cholesky  # here, since it imports numba

    strict, positions = triangle(matrix.pattern, True)
    lower, diagonal = take(matrix.values, positions), matrix.diagonal()
    sound = jnp.isfinite(lower).all() & jnp.isfinite(diagonal).all() & (diagonal.real > 0).all()

    def attempt(shift):
        shifted = diagonal * (1 + shift).astype(diagonal.dtype)
        return incomplete_cholesky.factorise(strict, lower, shifted, swept)

    def failed(carry):
        _, scale, _, tries = carry
        return sound & ~jnp.isfinite(scale).all() & (tries < _MAX_TRIES)

    def again(carry):
        *_, shift, tries = carry
        shift = jnp.maximum(2 * shift, _FIRST_SHIFT)
        return (*attempt(shift), shift, tries + 1)

    factor, scale, shift, _ = jax.lax.while_loop(failed, again, (*attempt(shift), shift, jnp.asarray(0)))
    factor = UnitTriangular(factor, strict, True)
    upper = factor.transpose().conj()
    return factor, scale, upper, _enough(factor, scale, upper, swept), shift


@eqx.filter_jit
def _lu(
    matrix: SparseLinearOperator, swept: bool
) -> tuple[UnitTriangular, Array, UnitTriangular, Array | None]:
    """The unit lower factor, the inverse pivots, the upper factor scaled to a unit diagonal, and how many
    sweeps are enough."""
    from ..kernels import incomplete_lu  # here, since it imports numba

    pattern, values = matrix.pattern, matrix.values
    factor, scale = incomplete_lu.factorise(pattern, values, swept)
    below, lower_positions = triangle(pattern, True)
    above, upper_positions = triangle(pattern, False)
    lower = UnitTriangular(take(factor, lower_positions), below, True)
    upper = UnitTriangular(take(factor, upper_positions) * take(scale, above.rows), above, False)
    return lower, scale, upper, _enough(lower, scale, upper, swept)


def _enough(lower: UnitTriangular, scale: Array, upper: UnitTriangular, swept: bool) -> Array | None:
    """How many sweeps a device does; None where the user has said so."""
    from ..kernels import triangular_solves  # here, since it imports numba

    if swept:
        return None
    return triangular_solves.enough_sweeps((lower.pattern, upper.pattern), lower.values, scale, upper.values)


def require_diagonal_entries(pattern: SparsityPattern, who: str) -> None:
    """Refuses a pattern that lacks an entry of the diagonal."""
    missing = pattern.diagonal_positions == pattern.nnz
    if missing.any():
        raise ValueError(
            f"`{who}` needs every diagonal entry, but row {int(np.argmax(missing))} of the "
            f"pattern has none ({int(missing.sum())} of {len(missing)} rows have none). Permute "
            "the rows so that the diagonal is filled, or store explicit entries there."
        )
    if pattern.indptr.dtype != np.int32:
        raise ValueError(f"`{who}` can number at most 2^31 - 2 entries, but the matrix has {pattern.nnz}.")


def require_hermitian(operator: lx.AbstractLinearOperator, who: str, instead: str) -> None:
    """Refuses an operator that is not tagged Hermitian."""
    if not is_hermitian(operator):
        raise ValueError(
            f"`{who}` factorises symmetric (Hermitian) positive definite matrices, and the "
            "operator is not tagged so. If it is, say so: `lx.TaggedLinearOperator(A, "
            f"lx.positive_semidefinite_tag)`; otherwise use `{instead}`."
        )


def require_positive_diagonal(matrix: SparseLinearOperator, who: str, instead: str) -> None:
    """Refuses a concrete diagonal with an entry that is not positive."""
    if not isinstance(values := matrix.diagonal(), Tracer):
        require_positive(np.asarray(values), who, instead)


def require_positive(diagonal: np.ndarray, who: str, instead: str) -> None:
    """Refuses one with an entry that is not positive."""
    bad = np.real(diagonal) <= 0
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"`{who}` needs a positive diagonal, but entry {row} of the diagonal is {diagonal[row]}. If the "
            f"matrix is negative definite, use `-A`; otherwise `{instead}`."
        )


def _require_pivots(matrix: SparseLinearOperator, scale: Array) -> None:
    if isinstance(scale, Tracer) or jnp.isfinite(scale).all():
        return
    if jnp.isfinite(matrix.values).all():
        row = int(jnp.argmin(jnp.isfinite(scale)))
        raise ValueError(
            f"`IncompleteLU` met a zero pivot (or overflowed) in row {row}. It does not pivot: "
            "reorder the unknowns, add a multiple of the identity to the matrix for the "
            "preconditioner, or choose another one."
        )

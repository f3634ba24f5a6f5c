"""Relaxation sweeps, `x <- x + M (b - A x)`, and the symmetric one as a preconditioner."""

import functools
from typing import Any, Literal, get_args

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array

from .._vectors import take
from ..operators.base import is_positive_semidefinite
from ..operators.convert import entries_of
from ..operators.sparse import SparseLinearOperator
from .base import AbstractPreconditioner, array_structure
from .incomplete import require_diagonal_entries
from .jacobi import require_nonzero
from .multicolour import ColouredTriangular, sorted_by_colour
from .triangular import TriangularInverse, UnitTriangular, triangle

Ordering = Literal["lexicographic", "multicolour"]
Sweep = Literal["forward", "backward", "symmetric"]


class SSOR(AbstractPreconditioner):
    """Symmetric successive over-relaxation: `M = omega (2 - omega) (D + omega U)^-1 D (D + omega
    L)^-1`.

    A forward and a backward Gauss-Seidel sweep, with over-relaxation, from a start of zero; `A = L
    + D + U`. Needs no factorisation and never breaks down; for symmetric positive definite systems
    usually somewhat weaker than `IncompleteCholesky`, unless `omega` is well chosen (for Poisson
    problems `2 / (1 + sin(pi h))` makes the number of CG steps grow as the square root of the
    grid's width only).

    * `omega`: between 0 and 2; may be traced, and `build` is differentiable in it and in `A`.
    * `ordering`: `"lexicographic"`, the order of the unknowns as given, a compiled sweep on CPUs;
      or `"multicolour"`, which sorts them by the colours of a greedy colouring: few large parallel
      stages, the choice for accelerators, at some cost in convergence.

    Positive semidefinite where `A` is.  Set-up scales the entries of `A`, applying costs about one
    product with `A`.  A zero on the diagonal of a concrete operator is a `ValueError` naming the
    row; in a traced one it makes the solve report failure.

    Axelsson (1972), doi:10.1007/BF01932955; Saad, *Iterative Methods for Sparse Linear Systems*,
    2nd ed. (2003), section 10.2, doi:10.1137/1.9780898718003.
    """

    omega: Any = 1.0
    ordering: Ordering = eqx.field(default="lexicographic", static=True)

    def __check_init__(self):
        check_relaxation("SSOR", self.omega, "symmetric", self.ordering)

    def build(self, operator: lx.AbstractLinearOperator) -> TriangularInverse:
        return _build(operator, self, "SSOR", self.omega, "symmetric", self.ordering)


class Relaxation(AbstractPreconditioner):
    """The `M` of one sweep of `SOR`: `x <- x + M (b - A x)` sweeps exactly, unknown after unknown.

    Forward `omega (D + omega L)^-1`, backward `omega (D + omega U)^-1`, symmetric one after the
    other.
    """

    omega: Any
    sweep: Sweep = eqx.field(static=True)
    ordering: Ordering = eqx.field(static=True)

    def build(self, operator: lx.AbstractLinearOperator) -> TriangularInverse:
        return _build(operator, self, "SOR", self.omega, self.sweep, self.ordering)


def check_relaxation(who: str, omega: Any, sweep: Any, ordering: Any) -> None:
    """Refuses options that no relaxation converges with."""
    if isinstance(omega, int | float) and not 0 < omega < 2:
        raise ValueError(
            f"`{who}(omega=...)` must lie between 0 and 2, where relaxation can converge, but is {omega}."
        )
    for name, value, allowed in (
        ("sweep", sweep, get_args(Sweep)),
        ("ordering", ordering, get_args(Ordering)),
    ):
        if value not in allowed:
            raise ValueError(f"`{who}({name}=...)` must be one of {allowed}, but is {value!r}.")


def _build(
    operator: lx.AbstractLinearOperator,
    constructor: AbstractPreconditioner,
    who: str,
    omega: Any,
    sweep: Sweep,
    ordering: Ordering,
) -> TriangularInverse:
    structure = array_structure(operator, who)
    matrix = entries_of(operator, who)
    require_diagonal_entries(matrix.pattern, who)
    require_nonzero(matrix.diagonal(), who)
    omega = jnp.asarray(omega, jnp.finfo(matrix.dtype).dtype).astype(matrix.dtype)
    if omega.shape != ():
        raise ValueError(f"`{who}(omega=...)` must be a scalar, but has shape {omega.shape}.")
    lower, scale, upper, order = _factors(matrix, omega, sweep, ordering)
    definite = sweep == "symmetric" and is_positive_semidefinite(operator)
    tags = frozenset([lx.positive_semidefinite_tag] if definite else [])
    return TriangularInverse(lower, scale, upper, order, None, constructor, matrix.pattern, structure, tags)


@eqx.filter_jit
def _factors(
    matrix: SparseLinearOperator, omega: Array, sweep: Sweep, ordering: Ordering
) -> tuple[Any, Array, Any, tuple[Array, Array] | None]:
    """`I + omega L D^-1`, the scale, `I + omega D^-1 U`, and the order in which they hold."""
    pattern, values = matrix.pattern, matrix.values
    factor, order = UnitTriangular, None
    if ordering == "multicolour":
        reordered = sorted_by_colour(pattern)
        pattern, values = reordered.pattern, take(values, reordered.positions)
        factor = functools.partial(ColouredTriangular, offsets=reordered.offsets)
        order = jnp.asarray(reordered.order), jnp.asarray(reordered.inverse)
    inverse = 1 / take(values, pattern.diagonal_positions)
    lower = upper = None
    if sweep != "backward":
        below, positions = triangle(pattern, True)
        lower = factor(omega * take(values, positions) * take(inverse, below.indices), below, lower=True)
    if sweep != "forward":
        above, positions = triangle(pattern, False)
        upper = factor(omega * take(values, positions) * take(inverse, above.rows), above, lower=False)
    weight = omega * (2 - omega) if sweep == "symmetric" else omega
    return lower, weight * inverse, upper, order

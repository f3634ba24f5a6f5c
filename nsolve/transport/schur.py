"""The one linear system of entropic transport: Newton's, and that of implicit derivatives.

The Hessian of the dual is `-1/epsilon` times `[[D1, P], [P^T, D2]]`, with `D1 = P 1 + (epsilon / tau_a) a'`,
`D2 = P^T 1 + (epsilon / tau_b) b'` and `a', b'` the marginals that the dual asks for.  Eliminating the rows
leaves `S = D2 - P^T D1^-1 P`, the Hessian of the semi-dual.  `S` is the Laplacian of a weighted graph between
target sites, plus a non-negative diagonal where a marginal is relaxed: symmetric, positive semidefinite, no
positive entry off the diagonal.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array

from .._dense import cholesky, solve_factored
from .._vectors import safe_divide
from ..operators.base import AbstractOperator
from ..preconditioners.base import AbstractApproximateInverse, constant
from ._problem import EntropicProblem, wanted

#: Up to this many unknowns a stored system may be factorised.
DENSE = 1024


class SchurLinearOperator(AbstractOperator):
    """`R^-1 S R^-1` with `R^2` the diagonal of `S`, deflated: symmetric, positive definite, unit diagonal.

    In this scaling residuals weigh weakly coupled sites as much as others: plain norms will do.  Where both
    marginals are exact, constants are in the kernel of `S` (potentials are unique up to one); the projection
    on them, `q q^T`, is added, which leaves solutions of consistent systems as they are.

    * `plan`: anything with `mv`, `rmv` and `squares`: the plan in memory, streamed, or its largest entries.
    * `inverse_rows`: `1 / D1`, zero at sites without weight.
    * `columns`: `D2`; `rest`: what `S` has on its diagonal beyond a Laplacian; `scale`: `R`; all are one at
      sites without weight.  `kernel`: `q` or None.

    One product costs one product with the plan and one with its transpose.
    """

    plan: Any
    inverse_rows: Array
    columns: Array
    rest: Array
    scale: Array
    kernel: Array | None
    tags: frozenset[object] = eqx.field(static=True, default=frozenset({lx.positive_semidefinite_tag}))

    def mv(self, vector: Array) -> Array:
        x = vector / self.scale
        moved = self.plan.rmv(self.inverse_rows * self.plan.mv(x))
        # the excess: what rounding may take from a definite matrix
        result = (self.columns * x - moved) / self.scale + _excess(vector) * vector
        return result if self.kernel is None else result + self.kernel * jnp.vdot(self.kernel, vector)

    def as_matrix(self) -> Array:
        """The Laplacian's diagonal is the sum of the entries beside it: nothing cancels.

        Works with a stored plan.
        """
        plan = self.plan.scale[:, None] * self.plan.matrix
        shares = self.inverse_rows[:, None] * plan
        weights = jnp.matmul(plan.T, shares, precision=jax.lax.Precision.HIGHEST)
        weights = weights - jnp.diag(jnp.diagonal(weights))
        diagonal = jnp.sum(weights, axis=1) + self.rest
        result = (jnp.diag(diagonal) - weights) / self.scale[:, None] / self.scale[None, :]
        result = result + _excess(result) * jnp.eye(self.scale.size, dtype=result.dtype)
        return result if self.kernel is None else result + jnp.outer(self.kernel, self.kernel)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.scale.shape, self.scale.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return self.in_structure()

    def transpose(self) -> "SchurLinearOperator":
        return self

    def conj(self) -> "SchurLinearOperator":
        return self

    def is_structurally(self, tag: object) -> bool:
        return tag is lx.symmetric_tag


def diagonals(
    problem: EntropicProblem, rows: Array, columns: Array, g: Array, shift: Array | None
) -> tuple[Array, Array, Array]:
    """`D1`, `D2` and what `S` has on its diagonal beyond a Laplacian, from the plan's sums."""
    epsilon = problem.geometry.epsilon
    added = jnp.zeros_like(columns) if shift is None else shift
    if problem.tau_b is not None:
        added = added + (epsilon / problem.tau_b) * wanted(problem.b, g, problem.tau_b)
    rest = added
    if problem.tau_a is not None:
        ratio = epsilon / problem.tau_a  # the rows are what the dual asks for
        rows = rows * (1 + ratio)
        rest = rest + columns * ratio / (1 + ratio)
    return rows, columns + added, rest


def schur(
    problem: EntropicProblem, plan: Any, rows: Array, columns: Array, g: Array, shift: Array | None = None
) -> SchurLinearOperator:
    """The operator at a point whose plan has these sums; `shift` is added to the diagonal of `S`."""
    rows, columns, rest = diagonals(problem, rows, columns, g, shift)
    weighted = columns > 0
    inverse_rows = safe_divide(jnp.ones_like(rows), rows)
    # a plan that is nearly a permutation leaves a rounding error, of either sign
    diagonal = jnp.maximum(columns - plan.squares(inverse_rows), 10 * _excess(columns) * columns)
    diagonal = jax.lax.stop_gradient(diagonal)  # any scaling gives the same solution
    scale = jnp.where(weighted, jnp.sqrt(jnp.where(weighted, diagonal, 1)), 1)
    kernel = None
    if problem.balanced:
        kernel = jnp.where(weighted, scale, 0)
        kernel = kernel / jnp.linalg.norm(kernel)
    columns, rest = jnp.where(weighted, columns, 1), jnp.where(weighted, rest, 1)
    return SchurLinearOperator(plan, inverse_rows, columns, rest, scale, kernel)


def _excess(x: Array) -> Array:
    return jnp.asarray(50 * jnp.finfo(x.dtype).eps, x.dtype)


class CholeskyInverse(AbstractApproximateInverse):
    """Solves with the Cholesky factor of a dense matrix."""

    factor: Array
    structure: jax.ShapeDtypeStruct = eqx.field(static=True)
    tags: frozenset[object] = eqx.field(static=True, default=frozenset({lx.positive_semidefinite_tag}))

    def mv(self, vector: Array) -> Array:
        return solve_factored(self.factor, vector)

    def refresh(self, operator: lx.AbstractLinearOperator) -> "CholeskyInverse":
        return factorised(operator)

    def transpose(self) -> "CholeskyInverse":
        return self

    def conj(self) -> "CholeskyInverse":
        return self

    def is_structurally(self, tag: object) -> bool:
        return tag is lx.symmetric_tag


def factorised(operator: lx.AbstractLinearOperator) -> CholeskyInverse:
    """The operator's inverse, to rounding; NaN where it is not positive definite."""
    return CholeskyInverse(cholesky(constant(operator).as_matrix()), operator.in_structure())

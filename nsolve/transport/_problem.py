"""A transport problem, its dual, and the point of the dual that a solver stands at.

With `P_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon)` the dual to be maximised is

    D(f, g) = V(f; a, rho_a) + V(g; b, rho_b) - epsilon (sum_ij P_ij - sum_i a_i sum_j b_j),

`V(f; a, rho) = sum a f` for a marginal that must hold and `sum a rho (1 - exp(-f / rho))` for one that costs
`rho KL(P 1 | a)` to violate.  Its gradient is what is missing in the marginals, `a exp(-f / rho) - P 1`.
Solvers eliminate `f`, the row that is best for given `g`: what remains is the semi-dual, concave in `g`
alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array

from .._vectors import safe_divide
from .cost_matrix import CostMatrix
from .geometry import AbstractGeometry
from .plan import Plan


class Problem(eqx.Module):
    """Geometry, flat weights, and the strengths of relaxed marginals (None: exact)."""

    geometry: AbstractGeometry
    a: Array
    b: Array
    rho_a: Array | None = None
    rho_b: Array | None = None

    @property
    def balanced(self) -> bool:
        """Whether both marginals must hold."""
        return self.rho_a is None and self.rho_b is None

    @property
    def mass(self) -> Array:
        """The larger of the two masses: the unit of marginal errors."""
        return jnp.maximum(jnp.sum(self.a), jnp.sum(self.b))

    @property
    def exchanged(self) -> "Problem":
        """The same problem with source and target exchanged."""
        return Problem(self.geometry.T, self.b, self.a, self.rho_b, self.rho_a)

    def at_epsilon(self, epsilon: Array) -> "Problem":
        """The same problem with another regularisation."""
        return eqx.tree_at(lambda problem: problem.geometry.epsilon, self, epsilon)

    def plan(self, f: Array, g: Array) -> Plan:
        """The plan of a pair of potentials."""
        return Plan(self.geometry, f, g, self.a, self.b)

    def best_row(self, g: Array) -> Array:
        """The `f` that maximises the dual for given `g`; zero-weight sites get theirs too."""
        return shrink(self.geometry.softmin(g, self.b), self.geometry.epsilon, self.rho_a)

    def missing(self, f: Array, g: Array) -> tuple[Array, Array]:
        """The gradient of the dual: what the plan lacks in either marginal."""
        plan = self.plan(f, g)
        rows, columns = plan.mv(jnp.ones_like(g)), plan.rmv(jnp.ones_like(f))
        return wanted(self.a, f, self.rho_a) - rows, wanted(self.b, g, self.rho_b) - columns

    def dual(self, f: Array, g: Array) -> Array:
        """`D(f, g)`."""
        total = jnp.sum(self.plan(f, g).mv(jnp.ones_like(g)))
        product = jnp.sum(self.a) * jnp.sum(self.b)
        values = value(self.a, f, self.rho_a) + value(self.b, g, self.rho_b)
        return values - self.geometry.epsilon * (total - product)


def shrink(softmin: Array, epsilon: Array, rho: Array | None) -> Array:
    """The best potential from the soft minimum: itself, or pulled towards zero where the marginal gives."""
    return softmin if rho is None else softmin * (rho / (rho + epsilon))


def wanted(weights: Array, potential: Array, rho: Array | None) -> Array:
    """The marginal that the dual asks for."""
    return weights if rho is None else weights * jnp.exp(-potential / rho)


def value(weights: Array, potential: Array, rho: Array | None) -> Array:
    """A marginal's term of the dual."""
    gains = potential if rho is None else -rho * jnp.expm1(-potential / rho)
    return jnp.sum(weights * gains)


class Kernel(eqx.Module):
    """The plan `diag(scale) K` as a stored matrix, `K` being at most 1."""

    matrix: Array
    scale: Array

    def mv(self, v: Array) -> Array:
        """`P v`."""
        return self.scale * jnp.matmul(self.matrix, v, precision=Precision.HIGHEST)

    def rmv(self, u: Array) -> Array:
        """`P^T u`."""
        return jnp.matmul(self.scale * u, self.matrix, precision=Precision.HIGHEST)

    def squares(self, u: Array) -> Array:
        """`sum_i P_ij^2 u_i`."""
        return jnp.matmul(self.scale**2 * u, self.matrix**2, precision=Precision.HIGHEST)


class Point(NamedTuple):
    """Potentials with the plan that they give, whose rows are best for `g`."""

    f: Array
    g: Array
    plan: Kernel | Plan
    rows: Array  # P 1
    columns: Array  # P^T 1
    gradient: Array  # of the semi-dual: what the columns lack
    error: Array  # L1, both marginals
    value: Array  # of the dual, up to a constant


def stand_at(problem: Problem, g: Array, choose_row: Callable[[Array], Array] | None = None) -> Point:
    """The point of the dual at `g` with the best `f`, or the one that `choose_row` makes of the soft minimum.

    One pass over the costs where they are stored: soft minimum, rows and columns come from the same
    exponentials.  Two passes where they are streamed.
    """
    epsilon = problem.geometry.epsilon
    matrix = sums = None
    if isinstance(problem.geometry, CostMatrix):
        # the exponents' maximum is over columns with weight: log 0 = -inf leaves the others out
        h = g + epsilon * jnp.log(problem.b)
        exponents = (h - problem.geometry.cost_matrix()) * (1 / epsilon)
        top = jnp.max(exponents, axis=1)
        matrix = jnp.exp(exponents - top[:, None])
        sums = jnp.sum(matrix, axis=1)
        softmin = -epsilon * (top + jnp.log(sums))
    else:
        softmin = problem.geometry.softmin(g, problem.b)
    row = shrink(softmin, epsilon, problem.rho_a) if choose_row is None else choose_row(softmin)
    rows = problem.a * jnp.exp((row - softmin) / epsilon)
    if matrix is not None:
        plan = Kernel(matrix, rows / sums)
        columns = jnp.matmul(plan.scale, matrix, precision=Precision.HIGHEST)
    else:
        plan = problem.plan(row, g)
        columns = plan.rmv(jnp.ones_like(row))
    gradient = wanted(problem.b, g, problem.rho_b) - columns
    lacking = wanted(problem.a, row, problem.rho_a) - rows
    error = jnp.sum(jnp.abs(gradient)) + jnp.sum(jnp.abs(lacking))
    values = value(problem.a, row, problem.rho_a) + value(problem.b, g, problem.rho_b)
    total = values - epsilon * jnp.sum(columns)
    return Point(row, g, plan, rows, columns, gradient, error, total)


def best_column(problem: Problem, point: Point) -> Array:
    """The `g` that is best for the point's `f`: the other half of a Sinkhorn sweep, from the column sums."""
    # a column that lost all of its mass to underflow moves as far as the smallest number tells
    columns = jnp.maximum(point.columns, jnp.finfo(point.columns.dtype).tiny)
    ratio = jnp.where(problem.b > 0, safe_divide(columns, problem.b), 1)
    softmin = point.g - problem.geometry.epsilon * jnp.log(ratio)
    return shrink(softmin, problem.geometry.epsilon, problem.rho_b)

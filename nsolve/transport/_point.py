"""Value, gradient and plan of the dual problem at given potentials, from one pass over the costs."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array

from .._vectors import safe_divide
from ._problem import EntropicProblem, shrink, value, wanted
from .cost_matrix import CostMatrix
from .coupling import Coupling


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
    """A pair of potentials and what its plan sends and receives."""

    f: Array
    g: Array
    plan: Kernel | Coupling  # without its matrix, unless that was asked for
    rows: Array  # P 1
    columns: Array  # P^T 1
    gradient: Array  # of the dual in g: what the columns lack
    error: Array  # L1, both marginals
    value: Array  # of the dual, up to a constant


def stand_at(
    problem: EntropicProblem, g: Array, relax: tuple[Array, Array] | None = None, keep: bool = False
) -> Point:
    """The point of the dual at `g` with the best `f`; `relax = (f, omega)`: with an over-relaxed one.

    One pass over the costs where they are stored: soft minimum, rows and columns come from the same
    exponentials.  Two passes where they are streamed.  `keep` stores the plan's matrix if the costs are one.
    """
    geometry, epsilon = problem.geometry, problem.geometry.epsilon

    def masses(softmin: Array, a: Array, f: Array | None) -> tuple[Array, ...]:
        """The rows' masses for the best potential, and for the relaxed one."""
        best = shrink(softmin, epsilon, problem.tau_a)
        rows = [best] if f is None or relax is None else [best, f + relax[1] * (best - f)]
        return tuple(a * jnp.exp((row - softmin) / epsilon) for row in rows)

    matrix = sums = None
    f = None if relax is None else relax[0]
    if isinstance(geometry, CostMatrix):
        softmin, sums, columns, matrix = sweep(geometry, g, problem.a, problem.b, f, masses, keep)
    else:
        softmin = geometry.softmin(g, problem.b)
        columns = None
    best = row = shrink(softmin, epsilon, problem.tau_a)
    column = None if columns is None else columns[0]
    if relax is not None:
        row = relaxed(*relax, best, problem.a, softmin, epsilon, problem.tau_a)
        column = None if columns is None else jnp.where(jnp.all(row == best), columns[0], columns[1])
    rows = problem.a * jnp.exp((row - softmin) / epsilon)
    plan = problem.plan(row, g)
    if column is None:
        column = plan.rmv(jnp.ones_like(row))
    if matrix is not None and sums is not None:
        plan = Kernel(matrix, rows / sums)
    gradient = wanted(problem.b, g, problem.tau_b) - column
    lacking = wanted(problem.a, row, problem.tau_a) - rows
    error = jnp.sum(jnp.abs(gradient)) + jnp.sum(jnp.abs(lacking))
    values = value(problem.a, row, problem.tau_a) + value(problem.b, g, problem.tau_b)
    return Point(row, g, plan, rows, column, gradient, error, values - epsilon * jnp.sum(column))


#: Entries of the costs that are worked on at once, by all cores; larger matrices go block by block.
_BLOCK = 2**22


def sweep(
    geometry: CostMatrix, g: Array, a: Array, b: Array, f: Array | None, masses: Callable, keep: bool
) -> tuple[Array, Array, tuple[Array, ...], Array | None]:
    """One pass over stored costs: soft minima, `sum_j K_ij`, column sums for each of `masses`, and `K`.

    `K_ij = b_j exp((g_j - C_ij) / epsilon - top_i)`, at most 1.  The rows' masses, elementwise in the soft
    minimum, are needed at once for the column sums.
    """
    n, m = geometry.shape
    cost, epsilon = geometry.cost_matrix(), geometry.epsilon
    # log 0 = -inf leaves columns without weight out
    h = g + epsilon * jnp.log(b)

    def block(cost: Array, a: Array, f: Array | None) -> tuple:
        exponents = (h[None, :] - cost) * (1 / epsilon)
        top = jnp.max(exponents, axis=1)
        kernel = jnp.exp(exponents - top[:, None])
        sums = jnp.sum(kernel, axis=1)
        softmin = -epsilon * (top + jnp.log(sums))
        return softmin, sums, tuple(mass / sums for mass in masses(softmin, a, f)), kernel

    def received(scales: tuple[Array, ...], kernel: Array) -> tuple[Array, ...]:
        return tuple(jnp.matmul(scale, kernel, precision=Precision.HIGHEST) for scale in scales)

    height = max(1, _BLOCK // m)
    if height >= n:
        softmin, sums, scales, kernel = block(cost, a, f)
        return softmin, sums, received(scales, kernel), kernel if keep else None

    def body(carry: tuple, first: Array) -> tuple[tuple, None]:
        softmin, sums, columns, matrix = carry
        # the last block overlaps the one before it
        start = jnp.minimum(first, n - height)
        new = start + jnp.arange(height) >= first

        def part(x: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, start, height)

        s, k, scales, kernel = block(part(cost), part(a), None if f is None else part(f))
        scales = tuple(jnp.where(new, scale, 0) for scale in scales)
        columns = tuple(c + r for c, r in zip(columns, received(scales, kernel), strict=True))

        def put(x: Array, y: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(x, y, start, 0)

        matrix = None if matrix is None else put(matrix, kernel)
        return (put(softmin, s), put(sums, k), columns, matrix), None

    empty = jnp.zeros(m, cost.dtype)
    columns = (empty,) if f is None else (empty, empty)
    rows = jnp.zeros(n, cost.dtype)
    carry = (rows, rows, columns, jnp.zeros((n, m), cost.dtype) if keep else None)
    (softmin, sums, columns, matrix), _ = jax.lax.scan(body, carry, jnp.arange(0, n, height))
    return softmin, sums, columns, matrix


def relaxed(
    old: Array, omega: Array, best: Array, weights: Array, softmin: Array, epsilon: Array, tau: Array | None
) -> Array:
    """`old + omega (best - old)` where that raises the dual, else `best`, the best potential of its side."""
    new = old + omega * (best - old)
    gain = value(weights, new, tau) - value(weights, old, tau)
    sent = weights * (jnp.exp((new - softmin) / epsilon) - jnp.exp((old - softmin) / epsilon))
    # close to the solution rounding decides the sign
    rounding = 10 * jnp.finfo(new.dtype).eps * jnp.sum(weights * (jnp.abs(new) + epsilon))
    return jnp.where(gain - epsilon * jnp.sum(sent) >= -rounding, new, best)


def soft_column(problem: EntropicProblem, point: Point) -> Array:
    """The soft minimum over rows, `-epsilon log sum_i a_i exp((f_i - C_ij) / epsilon)`, from column sums."""
    # a column that lost all of its mass to underflow moves as far as the smallest number tells
    columns = jnp.maximum(point.columns, jnp.finfo(point.columns.dtype).tiny)
    ratio = jnp.where(problem.b > 0, safe_divide(columns, problem.b), 1)
    return point.g - problem.geometry.epsilon * jnp.log(ratio)


def best_column(problem: EntropicProblem, point: Point) -> Array:
    """The `g` that is best for the point's `f`: the other half of a Sinkhorn sweep."""
    return shrink(soft_column(problem, point), problem.geometry.epsilon, problem.tau_b)

"""The entries of a plan that matter to a Newton step.

At small `epsilon` nearly all of a plan's mass sits on few entries.  A Hessian that keeps only those, beside
its exact diagonal blocks, is still positive semidefinite: what is dropped stays on the diagonal.  So any
choice is safe, and a choice that drops little of each row and column gives nearly Newton's step.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._vectors import take
from ._point import Point
from ._problem import EntropicProblem

#: Entries that are kept at most, per site.
_PER_SITE = 16
#: The thresholds that are tried are powers of this; so many of them.
_FACTOR, _TRIALS = 4.0, 6


class Entries(eqx.Module):
    """Some entries of a plan `(n, m)`; unused places hold zeros."""

    values: Array
    rows: Array
    columns: Array
    shape: tuple[int, int] = eqx.field(static=True)

    def mv(self, v: Array) -> Array:
        """`P v`."""
        products = self.values * take(v, self.columns)
        return jnp.zeros(self.shape[0], products.dtype).at[self.rows].add(products, mode="promise_in_bounds")

    def rmv(self, u: Array) -> Array:
        """`P^T u`."""
        products = self.values * take(u, self.rows)
        return (
            jnp.zeros(self.shape[1], products.dtype).at[self.columns].add(products, mode="promise_in_bounds")
        )

    def squares(self, u: Array) -> Array:
        """`sum_i P_ij^2 u_i`."""
        return Entries(self.values**2, self.rows, self.columns, self.shape).rmv(u)


class Chosen(eqx.Module):
    """The kept entries where they are enough, else the whole plan."""

    entries: Entries
    plan: Any
    enough: Array

    def mv(self, v: Array) -> Array:
        """`P v`."""
        return jax.lax.cond(self.enough, lambda x: self.entries.mv(x), lambda x: self.plan.mv(x), v)

    def rmv(self, u: Array) -> Array:
        """`P^T u`."""
        return jax.lax.cond(self.enough, lambda x: self.entries.rmv(x), lambda x: self.plan.rmv(x), u)

    def squares(self, u: Array) -> Array:
        """`sum_i P_ij^2 u_i`."""
        return jax.lax.cond(self.enough, lambda x: self.entries.squares(x), lambda x: self.plan.squares(x), u)


def by_mass(problem: EntropicProblem, point: Point, fraction: Array) -> Chosen:
    """Drops at most about `fraction` of the mass of each row and column.

    An entry is dropped where it is below `fraction * min(rows_i / m, columns_j / n)`.  What is kept must fit
    into 16 (n + m) places: with a larger fraction if it does not, up to a half; then the whole plan is used.
    """
    n, m = problem.geometry.shape
    height = problem.geometry.tile_rows
    capacity = min(n * m, _PER_SITE * (n + m))
    fractions = jnp.stack([fraction * _FACTOR**k for k in range(_TRIALS)])

    def ratios(start: Array) -> tuple[Array, Array]:
        """A tile of the plan, and the largest fraction at which each entry is kept."""
        tile = _tile(problem, point, start)
        rows = start + jnp.arange(height)
        limit = jnp.minimum(_rows(point.rows, rows, n)[:, None] / m, point.columns[None, :] / n)
        return tile, jnp.where(tile > 0, tile / jnp.where(limit > 0, limit, 1), 0)

    starts = jnp.arange(0, n, height)

    def count(total: Array, start: Array) -> tuple[Array, None]:
        _, ratio = ratios(start)
        return total + jnp.stack([jnp.sum(ratio > f) for f in fractions]), None

    counts, _ = jax.lax.scan(count, jnp.zeros(_TRIALS, int), starts)
    fits = (counts <= capacity) & (fractions <= 0.5)
    chosen = fractions[jnp.argmax(fits)]
    places = min(height * m, max(1, 4 * capacity // len(starts)))

    def gather(carry: tuple, start: Array) -> tuple[tuple, None]:
        values, flat, used = carry
        tile, ratio = ratios(start)
        found = jnp.nonzero(ratio.reshape(-1) > chosen, size=places, fill_value=height * m)[0]
        here = jnp.take(tile.reshape(-1), found, mode="fill", fill_value=0)
        row, column = jnp.minimum(start + found // m, n - 1), found % m
        values = jax.lax.dynamic_update_slice(values, here, (used,))
        flat = jax.lax.dynamic_update_slice(flat, jnp.stack([row, column]), (0, used))
        return (values, flat, jnp.minimum(used + jnp.sum(here > 0), capacity)), None

    empty = jnp.zeros(capacity + places, point.g.dtype)
    carry = (empty, jnp.zeros((2, capacity + places), starts.dtype), jnp.zeros((), starts.dtype))
    (values, (rows, columns), used), _ = jax.lax.scan(gather, carry, starts)
    values = jnp.where(jnp.arange(values.size) < used, values, 0)
    return Chosen(Entries(values, rows, columns, (n, m)), point.plan, jnp.any(fits))


def by_density(problem: EntropicProblem, point: Point, density: float) -> Entries:
    """Keeps the largest entries: as many as make the Hessian, of size n + m, have this density.

    The rule of Sinkhorn-Newton-Sparse counts entries of the Hessian; its diagonal is among them, and each
    entry of the plan occurs twice.
    """
    n, m = problem.geometry.shape
    height = problem.geometry.tile_rows
    total = -(-density * (n + m) ** 2 // 1)
    kept = int(min(n * m, max(1, (total - (n + m)) // 2)))

    def merge(carry: tuple, start: Array) -> tuple[tuple, None]:
        values, rows, columns = carry
        tile = _tile(problem, point, start)
        row, column = jnp.divmod(jnp.arange(height * m), m)
        values, order = jax.lax.top_k(jnp.concatenate([values, tile.reshape(-1)]), kept)
        rows = jnp.concatenate([rows, jnp.minimum(start + row, n - 1)])[order]
        columns = jnp.concatenate([columns, column])[order]
        return (values, rows, columns), None

    index = jnp.zeros(kept, int)
    carry = (jnp.zeros(kept, point.g.dtype), index, index)
    (values, rows, columns), _ = jax.lax.scan(merge, carry, jnp.arange(0, n, height))
    return Entries(values, rows, columns, (n, m))


def _tile(problem: EntropicProblem, point: Point, start: Array) -> Array:
    """Rows of the plan from `start`; those beyond the last are zero."""
    geometry = problem.geometry
    n, _ = geometry.shape
    rows = start + jnp.arange(geometry.tile_rows)
    f, a = _rows(point.f, rows, n), _rows(problem.a, rows, n)
    exponents = (f[:, None] + point.g[None, :] - geometry.cost_rows(start)) / geometry.epsilon
    weights = a[:, None] * problem.b[None, :]
    return jnp.where(weights > 0, weights * jnp.exp(jnp.where(weights > 0, exponents, 0)), 0)


def _rows(vector: Array, rows: Array, n: int) -> Array:
    return jnp.where(rows < n, jnp.take(vector, rows, mode="clip"), 0)

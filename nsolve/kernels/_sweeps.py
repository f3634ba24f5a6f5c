"""Sweeps over all entries or all unknowns at once, for devices on which a chain of small steps is slow.

Both kinds compute a thing from those that stand before it, and from nothing else: after as many sweeps as the
longest chain has links they are exact, whatever happened in between.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._vectors import take
from ..operators.pattern import SparsityPattern

#: Factors have settled where no entry moves by more, relative to itself and to its row's and column's pivots.
_SETTLED = 1e-4
#: What the sweeps of a triangular solve leave of an error.
_LEFT = 0.1


def settled(
    sweep: Callable[[Array], Array], sizes: Callable[[Array], Array], start: Array, level: np.ndarray
) -> Array:
    """The fixed point of the sweeps of a factorisation, whose rows have these levels."""
    # What stands in row or column `k`, not left of it or above, waits for columns and rows of lower levels.
    most = int(level.max(initial=0))

    def moving(carry):
        _, change, count = carry
        return ~(change <= _SETTLED) & (count < most)  # NaN moves: the sweeps to come may flush it

    def again(carry):
        work, _, count = carry
        new = sweep(work)
        moved = jnp.abs(new - work) / jnp.maximum(jnp.abs(new), sizes(new))
        return new, jnp.max(jnp.where(new == work, 0, moved), initial=0), count + 1

    change = jnp.asarray(jnp.inf, jnp.finfo(start.dtype).dtype)
    work, _, _ = jax.lax.while_loop(moving, again, (start, change, jnp.asarray(0)))
    return work


def strict_product(pattern: SparsityPattern, values: Array, x: Array) -> Array:
    """`N x`."""
    terms = values * take(x, pattern.indices)
    return jax.ops.segment_sum(terms, pattern.rows, pattern.shape[0], indices_are_sorted=True)


def solve_by_sweeps(pattern: SparsityPattern, values: Array, b: Array, sweeps: int | Array) -> Array:
    """`(I - N + N^2 - ...) b` up to that power of `N`, by Jacobi's sweeps from `b`: nearly `(I + N)^-1 b`.

    Anzt, Chow and Dongarra (2015), doi:10.1007/978-3-662-48096-0_50.
    """
    return jax.lax.fori_loop(0, sweeps, lambda _, x: b - strict_product(pattern, values, x), b)


def count_sweeps(pattern: SparsityPattern, values: Array, root: Array) -> Array:
    """How many of these leave little of any error, by the row sums of the powers of `|N|`.

    `root`: the units, a row's, in which rows and columns are measured.
    """
    size = jnp.abs(values) * take(root, pattern.rows) / take(root, pattern.indices)
    most = float(np.sqrt(jnp.finfo(root.dtype).max))

    def product(sums):
        return jnp.minimum(strict_product(pattern, size, sums), most)

    def much(carry):
        sums, _ = carry
        return jnp.max(sums, initial=0) > _LEFT  # N^n is zero

    start = product(jnp.ones_like(root)), jnp.asarray(0, jnp.int32)
    _, count = jax.lax.while_loop(much, lambda carry: (product(carry[0]), carry[1] + 1), start)
    return count

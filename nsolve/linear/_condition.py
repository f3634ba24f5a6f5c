"""The condition of the triangular factor that a Krylov method makes column by column, estimated as it grows.

Bischof (1990), doi:10.1137/0611021: of all right-hand sides that differ from the last good one `d` by a turn
towards the new entry, the one which makes the solution of `R^H x = d` the longest.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from .._vectors import hypot, safe_divide


class Condition(NamedTuple):
    """The condition, estimated from below, of an upper triangular `R` with up to two superdiagonals."""

    largest: Array  # column of `R`
    squared_length: Array  # of `x`
    last: Array  # entry of `x`
    before_last: Array
    theta: Array  # of a bidiagonal `R`: the superdiagonal entry above the next diagonal one
    estimate: Array

    @staticmethod
    def begin(like: Array) -> "Condition":
        zero = jnp.zeros_like(like)
        return Condition(zero, zero, zero, zero, zero, jnp.ones_like(like))

    def advanced(self, rho: Array, theta: Array) -> "Condition":
        """With the next diagonal entry of a bidiagonal `R` and the superdiagonal one beside it."""
        return self.with_column(rho, self.theta)._replace(theta=theta)

    def with_column(self, rho: Array, above: Array, two_above: Array | float = 0.0) -> "Condition":
        """With the next column: its diagonal entry, and those above, the nearest first."""
        two_above = jnp.asarray(two_above, rho.dtype)
        known = above * self.last + two_above * self.before_last
        # The largest eigenvalue, and its vector, of [[a, -known], [-known, 1]].
        a = rho * rho * self.squared_length + known * known
        half = (a - 1) / 2
        eigenvalue = (a + 1) / 2 + hypot(half, known)
        turn, new, _ = rotation(-known, eigenvalue - a)
        # With nothing to turn (no `x` yet, or one that is orthogonal) the better of both directions.
        straight = known == 0
        turn = jnp.where(straight, jnp.where(a > 1, 1, 0), turn).astype(rho.dtype)
        new = jnp.where(straight, jnp.where(a > 1, 0, 1), new).astype(rho.dtype)
        largest = jnp.maximum(self.largest, hypot(rho, hypot(above, two_above)))
        squared_length = eigenvalue / (rho * rho)
        last = (new - turn * known) / rho
        estimate = largest * jnp.sqrt(squared_length)
        return Condition(largest, squared_length, last, turn * self.last, self.theta, estimate)


def rotation(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """Cosine, sine and length of `(a, b)`."""
    length = hypot(a, b)
    return safe_divide(a, length), safe_divide(b, length), length

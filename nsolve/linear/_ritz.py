"""The condition number of `M A` from the coefficients of conjugate gradients, without a product.

Their Lanczos matrix is `T = L D L^H` with the pivots `1 / alpha_k`.  Its extreme eigenvalues, Ritz values of
`M A`, are found by counting: as many pivots of `T - shift` are negative as there are eigenvalues below.
The pivots come from those of `T` by the stationary qd transformation, which keeps the smallest eigenvalue to
high relative accuracy, and shifts lie close together on a logarithmic scale.

Saad, *Iterative Methods for Sparse Linear Systems* (2003), section 6.7.3; Dhillon and Parlett (2004),
doi:10.1137/S0895479800370978, section 2.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

#: So many decades below the largest eigenvalue the smallest one is looked for.
_DECADES = 30
#: Shifts of a sweep for each of the two, and sweeps: the decades over `(shifts + 1)^sweeps` are left.
_SHIFTS, _SWEEPS = 32, 5


class Coefficients(NamedTuple):
    """The first `count` of conjugate gradients' step lengths `alpha`, and the `beta` before each of them."""

    alpha: Array
    beta: Array
    count: Array

    @staticmethod
    def none(length: int, like: Array) -> "Coefficients":
        """Room for so many steps."""
        zeros = jnp.zeros(length, like.dtype)
        return Coefficients(zeros, zeros, jnp.zeros((), jnp.int32))

    def recorded(self, alpha: Array, beta: Array, valid: Array) -> "Coefficients":
        """With a step, if it is one: `beta` is zero where the method starts again, which splits `T`."""
        here = jnp.where(valid, self.count, self.alpha.size)
        return Coefficients(
            self.alpha.at[here].set(alpha, mode="drop"),
            self.beta.at[here].set(beta, mode="drop"),
            self.count + valid.astype(jnp.int32),
        )

    def condition(self) -> Array:
        """The largest Ritz value over the smallest; NaN before the first step."""
        there = jnp.arange(self.alpha.size, dtype=jnp.int32) < self.count
        pivots = jnp.where(there, 1 / self.alpha, 0)  # D
        links = jnp.where(there, jnp.append(self.beta[1:], 0) * pivots, 0)  # l_k^2 D_k
        off = jnp.sqrt(links * pivots)
        off_before, links_before = (jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]]) for x in (off, links))
        bound = jnp.max(pivots + links_before + off + off_before)  # Gershgorin's
        pivots, links = pivots / bound, links / bound
        tiny = jnp.finfo(pivots.dtype).tiny

        def number_below(shift: Array) -> Array:
            def step(k, carry):
                s, number = carry
                pivot = pivots[k] + s
                pivot = jnp.where(pivot == 0, tiny, pivot)
                return links[k] / pivot * s - shift, number + (pivot < 0).astype(jnp.int32)

            begin = -shift, jnp.zeros(shift.shape, jnp.int32)
            return jax.lax.fori_loop(0, self.count, step, begin)[1]

        def sweep(_, bounds):
            low, high = bounds  # logarithms around the smallest and the largest
            parts = jnp.linspace(low, high, _SHIFTS + 2, axis=-1)
            number = number_below(jnp.exp(parts[:, 1:-1]))
            wanted = jnp.stack([jnp.ones_like(self.count), self.count])[:, None]
            at = jnp.sum(number < wanted, axis=-1)[:, None]
            return tuple(jnp.take_along_axis(parts, at + k, axis=-1)[:, 0] for k in (0, 1))

        zeros = jnp.zeros(2, pivots.dtype)
        low, high = jax.lax.fori_loop(0, _SWEEPS, sweep, (zeros - _DECADES * jnp.log(10.0), zeros + 0.1))
        smallest, largest = (low + high) / 2
        return jnp.where(self.count > 0, jnp.exp(largest - smallest), jnp.nan)

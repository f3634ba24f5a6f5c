"""What a solve hands on to the next: a subspace, and the knowledge whether it pays."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._dense import eigh
from .._vectors import size

#: Systems solved cold after a recycled solve that cost more than a cold one; doubled each time.
FIRST_PAUSE = 4
#: A space of k vectors is not tried where a cold solve takes fewer than this many times k products: if it
#: saved nothing, a short sequence could not make good for the trial.
LEAST_WORK = 3


class Recycled(eqx.Module):
    """A subspace of `k` vectors on which a method converges slowly, with what it was worth so far.

    `stats["recycled"]` of one solve is `options["recycled"]` of the next, on any operator of the same size.

    * `vectors`: `(k, n)`, flat vectors in the solution's space; rows of zeros are unused.
    * `sources`: `(k, n)`, what the preconditioner made them from; the vectors themselves where there is none.
    * `values`: `(k,)`, real, the singular or Ritz values that go with them.
    * `cold_matvecs`: products of the last solve without the subspace, 0 where there was none;
      `least_matvecs`: of the cheapest solve with it; `excess`: what later solves took above that, in all.
    * `pause`: how many solves go without the subspace before it is tried again; `next_pause`: the pause after
      the next disappointment.
    """

    vectors: Array
    sources: Array
    values: Array
    cold_matvecs: Array
    least_matvecs: Array
    excess: Array
    pause: Array
    next_pause: Array

    @property
    def wanted(self) -> Array:
        """Whether the next solve should use the subspace."""
        return (self.pause == 0) & jnp.any(self.vectors != 0)

    def after(
        self,
        warm: Array,
        num_matvecs: Array,
        vectors: Array,
        sources: Array,
        values: Array,
        setup: int,
    ) -> "Recycled":
        """What to hand on after a solve, warm or cold, that took so many products.

        `setup`: products that it takes to make the subspace ready for an operator.
        """
        finite = jnp.all(jnp.isfinite(vectors)) & jnp.all(jnp.isfinite(sources)) & jnp.any(vectors != 0)
        vectors, sources, values = (
            jnp.where(finite, new, old)
            for new, old in ((vectors, self.vectors), (sources, self.sources), (values, self.values))
        )
        cold = jnp.where(warm, self.cold_matvecs, num_matvecs)
        disappointed = warm & (self.cold_matvecs > 0) & (num_matvecs >= self.cold_matvecs)
        hopeless = ~warm & (num_matvecs < LEAST_WORK * setup)
        pause = jnp.where(disappointed, self.next_pause, jnp.maximum(self.pause - 1, 0))
        pause = jnp.where(hopeless, jnp.maximum(pause, 1), pause)
        next_pause = jnp.where(disappointed, 2 * self.next_pause, self.next_pause)
        next_pause = jnp.where(warm & ~disappointed, FIRST_PAUSE, next_pause)
        first = self.least_matvecs == 0
        least = jnp.where(first, num_matvecs, jnp.minimum(self.least_matvecs, num_matvecs))
        least = jnp.where(warm, least, 0)
        excess = jnp.where(warm, self.excess + num_matvecs - least, 0)
        return Recycled(vectors, sources, values, cold, least, excess, pause, next_pause)

    def unless_idle(self, num_steps: Array, handed_on: "Recycled") -> "Recycled":
        """What to hand on, but a solve that took no step (`b = 0`, an exact start) has taught nothing."""
        return jax.tree.map(lambda new, old: jnp.where(num_steps > 0, new, old), handed_on, self)

    def renewed_when_stale(self) -> "Recycled":
        """Without its vectors once their ageing has cost as much as a solve without them would.

        For methods that learn a subspace in cold solves only: to rent until the price of buying is spent
        costs at most twice what the best moment would have cost.
        """
        price = jnp.maximum(self.cold_matvecs - self.least_matvecs, 1)
        stale = (self.least_matvecs > 0) & (self.cold_matvecs > 0) & (self.excess >= price)
        return eqx.tree_at(
            lambda space: (space.vectors, space.sources),
            self,
            (jnp.where(stale, 0, self.vectors), jnp.where(stale, 0, self.sources)),
        )


def nothing_recycled(structure: PyTree, count: int) -> Recycled:
    """An empty subspace for vectors of this structure."""
    leaves = jax.tree.leaves(structure)
    dtype = jnp.result_type(*(leaf.dtype for leaf in leaves))
    zeros = jnp.zeros((count, size(structure)), dtype)
    return start_from(zeros)


def start_from(vectors: Array) -> Recycled:
    """A subspace of which nothing is known but the vectors."""
    count = jnp.zeros((), jnp.int32)
    values = jnp.zeros(vectors.shape[0], jnp.finfo(vectors.dtype).dtype)
    return Recycled(vectors, vectors, values, count, count, count, count, count + FIRST_PAUSE)


def as_recycled(given: Any, empty: Recycled, who: str) -> Recycled:
    """`options["recycled"]`, checked against an empty one; vectors that are not finite are dropped."""
    count = empty.vectors.shape[0]
    if given is None:
        return empty
    if isinstance(given, Recycled):
        shape, dtype = given.vectors.shape, given.vectors.dtype
    elif eqx.is_array_like(given):
        given = jnp.asarray(given)
        shape, dtype = given.shape, given.dtype
    else:
        raise TypeError(
            f"`options['recycled']` of `{who}` must be the `stats['recycled']` of an earlier solve, or an "
            f"array of vectors, but is {given!r}."
        )
    if shape != empty.vectors.shape or dtype != empty.vectors.dtype:
        raise ValueError(
            f"`options['recycled']` of `{who}` must hold {count} vectors of the operator's "
            f"{empty.vectors.shape[1]} unknowns as rows, shape {empty.vectors.shape} and dtype "
            f"{empty.vectors.dtype}, but has shape {shape} and dtype {dtype}. Give the `stats['recycled']` "
            "of a solve with the same `recycle` and size, or leave it out."
        )
    recycled = given if isinstance(given, Recycled) else start_from(given)
    finite = jnp.all(jnp.isfinite(recycled.vectors) & jnp.isfinite(recycled.sources), axis=1)[:, None]
    return eqx.tree_at(
        lambda space: (space.vectors, space.sources),
        recycled,
        (jnp.where(finite, recycled.vectors, 0), jnp.where(finite, recycled.sources, 0)),
    )


def orthonormalise(rows: Array) -> tuple[Array, Array]:
    """`(T @ rows, T)` with orthonormal rows, zero where the rank is lower than their number.

    Through the eigenvectors of the Gram matrix, twice: two matrix products instead of a chain of
    Householder vectors.  Stathopoulos and Wu (2002), doi:10.1137/S1064827500370883.
    """
    transform = jnp.eye(rows.shape[0], dtype=rows.dtype)
    for _ in range(2):
        norms = jnp.linalg.norm(rows, axis=1)
        scaling = jnp.where(norms > 0, 1 / jnp.where(norms > 0, norms, 1), 0).astype(rows.dtype)
        unit = scaling[:, None] * rows
        eigenvalues, vectors = eigh(jnp.matmul(unit.conj(), unit.T, precision="highest"))
        # Below the square of this the Gram matrix shows rounding only.
        independent = eigenvalues > 100 * jnp.finfo(norms.dtype).eps * jnp.max(eigenvalues, initial=0)
        weights = jnp.where(independent, jax.lax.rsqrt(jnp.where(independent, eigenvalues, 1)), 0)
        change = (vectors * weights.astype(rows.dtype)[None, :]).T * scaling[None, :]
        rows = jnp.matmul(change, rows, precision="highest")
        transform = jnp.matmul(change, transform, precision="highest")
    return rows, transform

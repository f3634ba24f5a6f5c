"""Recycled subspaces: vectors that a solve hands on to the next, and what they have saved so far."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .. import _basis
from .._basis import Basis
from .._dense import eigh
from .._vectors import dtype, real_dtype, safe_divide, size, where

#: Systems solved cold after a recycled solve that cost more than a cold one; doubled each time.
FIRST_PAUSE = 4
#: A space of k vectors is not tried where a cold solve takes fewer than this many times k products: if it
#: saved nothing, a short sequence could not make good for the trial.
LEAST_WORK = 3


class Recycled(eqx.Module):
    """A subspace of `k` vectors on which a method converges slowly, with what it was worth so far.

    `stats["recycled"]` of one solve is `options["recycled"]` of the next, on any operator of the same size.

    * `vectors`: vectors in the solution's space, stacked: each leaf of a vector with an axis `k` in front,
      `(k, n)` for vectors `(n,)`; those of zeros are unused.
    * `sources`: likewise, what the preconditioner made them from; the vectors themselves where there is none.
    * `values`: `(k,)`, real, the singular or Ritz values that go with them.
    * `cold_matvecs`: products of the last solve without the subspace, 0 where there was none;
      `least_matvecs`: of the cheapest solve with it; `excess`: what later solves took above that, in all.
    * `pause`: how many solves go without the subspace before it is tried again; `next_pause`: the pause after
      the next disappointment.
    """

    vectors: Basis
    sources: Basis
    values: Array
    cold_matvecs: Array
    least_matvecs: Array
    excess: Array
    pause: Array
    next_pause: Array

    @property
    def wanted(self) -> Array:
        """Whether the next solve should use the subspace."""
        return (self.pause == 0) & _basis.nonzero(self.vectors)

    def after(
        self,
        warm: Array,
        num_matvecs: Array,
        vectors: Basis,
        sources: Basis,
        values: Array,
        setup: int,
    ) -> "Recycled":
        """What to hand on after a solve, warm or cold, that took so many products.

        `setup`: products that it takes to make the subspace ready for an operator.
        """
        sound = jnp.all(_basis.finite(vectors) & _basis.finite(sources)) & _basis.nonzero(vectors)
        vectors, sources, values = where(
            sound, (vectors, sources, values), (self.vectors, self.sources, self.values)
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
        vectors, sources = (_basis.kept(~stale, basis) for basis in (self.vectors, self.sources))
        return dataclasses.replace(self, vectors=vectors, sources=sources)


def nothing_recycled(structure: PyTree, count: int) -> Recycled:
    """An empty subspace for vectors of this structure."""
    return start_from(_basis.zeros(count, structure))


def start_from(vectors: Basis) -> Recycled:
    """A subspace of which nothing is known but the vectors."""
    count = jnp.zeros((), jnp.int32)
    values = jnp.zeros(_basis.length(vectors), real_dtype(vectors))
    return Recycled(vectors, vectors, values, count, count, count, count, count + FIRST_PAUSE)


def as_recycled(given: Any, empty: Recycled, structure: PyTree, who: str) -> Recycled:
    """`options["recycled"]` for vectors of a structure, checked against an empty one; vectors that are not
    finite are dropped."""
    if given is None:
        return empty
    wanted = _describe(empty.vectors)
    parts = (given.vectors, given.sources) if isinstance(given, Recycled) else (given, given)
    if not all(map(eqx.is_array_like, jax.tree.leaves(parts))) or not jax.tree.leaves(parts):
        raise TypeError(
            f"`options['recycled']` of `{who}` must be the `stats['recycled']` of an earlier solve, or an "
            f"array of vectors, but is {given!r}."
        )
    vectors, sources = (_stacked(jax.tree.map(jnp.asarray, part), structure) for part in parts)
    for part in (vectors, sources):
        if _describe(part) != wanted:
            count, unknowns = _basis.length(empty.vectors), size(structure)
            raise ValueError(
                f"`options['recycled']` of `{who}` must hold {count} vectors of the operator's {unknowns} "
                f"unknowns: {wanted}, or as the rows of a matrix, ({count}, {unknowns}), but is "
                f"{_describe(part)}. Give the `stats['recycled']` of a solve with the same `recycle` and "
                "size, or leave it out."
            )
    recycled = given if isinstance(given, Recycled) else start_from(vectors)
    finite = _basis.finite(vectors) & _basis.finite(sources)
    vectors, sources = (_basis.kept(finite, part) for part in (vectors, sources))
    return dataclasses.replace(recycled, vectors=vectors, sources=sources)


def _stacked(given: Any, structure: PyTree) -> Basis:
    """Vectors as the rows of a matrix become a stacked tree; what is none stays as it is."""
    if not isinstance(given, jax.Array) or given.ndim != 2 or given.shape[1] != size(structure):
        return given
    same = {leaf.dtype for leaf in jax.tree.leaves(structure)} == {given.dtype}
    return _basis.from_rows(given, structure) if same else given


def _describe(basis: Basis) -> str:
    """Shapes and dtypes."""
    described = jax.tree.map(lambda rows: f"shape {rows.shape} and dtype {rows.dtype}", basis)
    return described if isinstance(described, str) else str(described)


def orthonormalise(basis: Basis) -> tuple[Basis, Array]:
    """The vectors combined by a matrix `T`, `(k, k)`, to orthonormal ones, and `T`; zero where the rank is
    lower than their number.

    Through the eigenvectors of the Gram matrix, twice: two matrix products instead of a chain of
    Householder vectors.  Stathopoulos and Wu (2002), doi:10.1137/S1064827500370883.
    """
    kind = dtype(basis)
    transform = jnp.eye(_basis.length(basis), dtype=kind)
    for _ in range(2):
        norms = _basis.norms(basis)
        scaling = safe_divide(jnp.ones_like(norms), norms).astype(kind)
        unit = _basis.scaled(scaling, basis)
        eigenvalues, vectors = eigh(_basis.gram(unit, unit))
        # Below the square of this the Gram matrix shows rounding only.
        independent = eigenvalues > 100 * jnp.finfo(norms.dtype).eps * jnp.max(eigenvalues, initial=0)
        weights = jnp.where(independent, jax.lax.rsqrt(jnp.where(independent, eigenvalues, 1)), 0)
        change = (vectors * weights.astype(kind)[None, :]).T * scaling[None, :]
        basis = _basis.combine(change, basis)
        transform = jnp.matmul(change, transform, precision="highest")
    return basis, transform

"""Several vectors as one stacked tree: each leaf has an axis more, in front, than that of a vector.

Krylov bases and subspaces have this form, so that the leaves of a vector stay apart, and sharded ones stay
where they are: only inner products travel.  For vectors of a single array each function is one product with a
matrix.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._vectors import Vector, dtype, root

#: A stacked tree of `m` vectors, each leaf `(m, *shape)`.
Basis = PyTree[Array]

# Some accelerators would multiply in lower precision and lose orthogonality.
_contract = functools.partial(jnp.tensordot, precision="highest")


def zeros(count: int, like: Vector) -> Basis:
    """So many zero vectors; `like`: arrays, or their structures."""
    return jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), like)


def length(basis: Basis) -> int:
    """How many vectors."""
    return jax.tree.leaves(basis)[0].shape[0]


def vector(basis: Basis, index: Any) -> Vector:
    """One of the vectors."""
    return jax.tree.map(lambda rows: jax.lax.dynamic_index_in_dim(rows, index, keepdims=False), basis)


def put(basis: Basis, x: Vector, index: Any) -> Basis:
    """The basis with `x` in this place."""
    return jax.tree.map(lambda rows, row: jax.lax.dynamic_update_index_in_dim(rows, row, index, 0), basis, x)


def joined(*bases: Basis) -> Basis:
    """One after the other."""
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *bases)


def overlaps(basis: Basis, x: Vector) -> Array:
    """`v_i^H x`, `(m,)`."""

    def leaf(rows: Array, entries: Array) -> Array:
        return _contract(rows.conj(), entries, axes=(tuple(range(1, rows.ndim)), tuple(range(entries.ndim))))

    return _total(jax.tree.map(leaf, basis, x))


def gram(left: Basis, right: Basis) -> Array:
    """`v_i^H w_j`, `(k, m)`."""

    def leaf(a: Array, b: Array) -> Array:
        axes = tuple(range(1, a.ndim))
        return _contract(a.conj(), b, axes=(axes, axes))

    return _total(jax.tree.map(leaf, left, right))


def norms(basis: Basis) -> Array:
    """`||v_i||`, real, `(m,)`."""
    squares = jax.tree.map(lambda rows: jnp.sum(abs(rows) ** 2, axis=tuple(range(1, rows.ndim))), basis)
    return root(_total(squares))


def combine(coefficients: Array, basis: Basis) -> Any:
    """`sum_j c_j v_j` for coefficients `(m,)`; for `(k, m)` so many of them, stacked."""
    return jax.tree.map(lambda rows: _contract(coefficients.astype(rows.dtype), rows, axes=1), basis)


def scaled(factors: Array, basis: Basis) -> Basis:
    """`c_i v_i`."""
    return jax.tree.map(lambda rows: _beside(factors.astype(rows.dtype), rows) * rows, basis)


def kept(condition: Array, basis: Basis) -> Basis:
    """The vectors for which the condition, `(m,)` or a scalar, holds; zero instead of the others."""
    return jax.tree.map(lambda rows: jnp.where(_beside(condition, rows), rows, 0), basis)


def finite(basis: Basis) -> Array:
    """Which of the vectors hold neither NaN nor infinity, `(m,)`."""
    found = [jnp.all(jnp.isfinite(rows), axis=tuple(range(1, rows.ndim))) for rows in jax.tree.leaves(basis)]
    return functools.reduce(jnp.logical_and, found)


def nonzero(basis: Basis) -> Array:
    """Whether any entry of any vector is not zero."""
    return functools.reduce(jnp.logical_or, [jnp.any(rows != 0) for rows in jax.tree.leaves(basis)])


def from_rows(rows: Array, structure: PyTree) -> Basis:
    """The vectors that stand in the rows of a matrix, `(m, n)`, in the order of
    `jax.flatten_util.ravel_pytree`."""
    leaves, treedef = jax.tree.flatten(structure)
    arrays, start = [], 0
    for leaf in leaves:
        part = rows[:, start : start + leaf.size]
        arrays.append(part.reshape(rows.shape[0], *leaf.shape).astype(leaf.dtype))
        start += leaf.size
    return jax.tree.unflatten(treedef, arrays)


def _total(terms: PyTree[Array]) -> Array:
    """The sum over the leaves, in their common dtype."""
    common = dtype(terms)
    return functools.reduce(jnp.add, [leaf.astype(common) for leaf in jax.tree.leaves(terms)])


def _beside(factors: Array, rows: Array) -> Array:
    return factors.reshape(factors.shape + (1,) * (rows.ndim - factors.ndim))

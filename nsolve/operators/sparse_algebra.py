"""Sums, products, scalings and selections of sparse operators, entry by entry.

Where an entry of the result comes from depends on the patterns alone: it is found once, on the host, and
remembered for the last few pairs of patterns.  The values are then read through these static maps, so that
everything is legal while tracing, differentiable, and costs time and memory in the number of entries (of a
product: of multiplications).

Symmetric storage is kept where the result is symmetric (Hermitian) by that of the parts.  Tags are not set
here: see `tags`.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from .._upstream import bounded_cache
from .._vectors import take
from .pattern import SparsityPattern
from .sparse import SparseLinearOperator, Symmetry, concrete_indices
from .storage import Entries, Mirrored, mirror, with_zero
from .values import common_dtype, complex_dtype


def add(first: SparseLinearOperator, second: SparseLinearOperator) -> SparseLinearOperator:
    """`A + B`, on the joint pattern."""
    dtype = common_dtype(first.dtype, second.dtype)
    a, b = first._storage, second._storage
    if first.pattern == second.pattern and (first.dtype, _kind(a)) == (second.dtype, _kind(b)):
        return SparseLinearOperator(_of_values(jnp.add, a, b), first.pattern)
    pattern, ours, theirs = _joint(first.pattern, second.pattern)
    values = _sum(first.values.astype(dtype), second.values.astype(dtype), ours, theirs)
    return _stored(values, pattern, _symmetries(first) & _symmetries(second), first, second)


def multiply(operator: SparseLinearOperator, scalar: Any) -> SparseLinearOperator:
    """`s A`; a complex `s` makes a real operator complex."""
    return _of_each_value(jnp.multiply, operator, scalar)


def divide(operator: SparseLinearOperator, scalar: Any) -> SparseLinearOperator:
    """`A / s`."""
    return _of_each_value(jnp.divide, operator, scalar)


def negate(operator: SparseLinearOperator) -> SparseLinearOperator:
    """`-A`."""
    return SparseLinearOperator(_of_values(jnp.negative, operator._storage), operator.pattern)


def compose(first: SparseLinearOperator, second: SparseLinearOperator) -> SparseLinearOperator:
    """`A B`: each entry is the sum of the products that meet there."""
    dtype = common_dtype(first.dtype, second.dtype)
    pattern, ours, theirs, entries = _products(first.pattern, second.pattern)
    factors = first.values.astype(dtype), second.values.astype(dtype)
    values = _sum_of_products(*factors, ours, theirs, entries, pattern.nnz)
    return SparseLinearOperator(values, pattern)


def num_products(first: SparsityPattern, second: SparsityPattern) -> int:
    """How many multiplications `A B` takes."""
    return int(second.row_lengths[first.indices].sum(dtype=np.int64))


def scale(
    left: Array, operator: SparseLinearOperator, right: Array, keeps: set[Symmetry]
) -> SparseLinearOperator:
    """`diag(left) A diag(right)`; `keeps`: the symmetries of `A` that survive it."""
    pattern, dtype = operator.pattern, common_dtype(operator.dtype, left.dtype)
    rows = take(left.reshape(-1).astype(dtype), pattern.rows)
    columns = take(right.reshape(-1).astype(dtype), pattern.indices)
    values = rows * operator.values.astype(dtype) * columns
    return _stored(values, pattern, _symmetries(operator) & keeps, operator)


def select(operator: SparseLinearOperator, rows: Any, cols: Any) -> tuple[SparseLinearOperator, bool]:
    """The chosen rows and columns, in the order of the choice, and whether the two choices are one."""
    import scipy.sparse as sp  # slow to import

    pattern = operator.pattern
    rows, cols = _choice(rows, pattern.shape[0], "rows"), _choice(cols, pattern.shape[1], "cols")
    numbered = sp.csr_array(
        (np.arange(1, pattern.nnz + 1), pattern.indices, pattern.indptr), shape=pattern.shape
    )
    chosen = sp.csr_array(numbered[rows][:, cols])
    chosen.sort_indices()
    alike = pattern.shape[0] == pattern.shape[1] and np.array_equal(rows, cols)
    values = take(operator.values, chosen.data - 1)
    part = SparsityPattern(chosen.indptr, chosen.indices, (len(rows), len(cols)))
    return _stored(values, part, _symmetries(operator) if alike else set(), operator), alike


def diagonal(entries: Array, shape: tuple[int, int] | None = None) -> SparseLinearOperator:
    """`diag(d)`, of a shape that need not be square."""
    return SparseLinearOperator(entries, _diagonal_pattern(*(shape or 2 * entries.shape)))


@bounded_cache(8)
def _diagonal_pattern(rows: int, columns: int) -> SparsityPattern:
    size = min(rows, columns)
    return SparsityPattern(np.minimum(np.arange(rows + 1), size), np.arange(size), (rows, columns))


@bounded_cache(8)
def _joint(first: SparsityPattern, second: SparsityPattern) -> tuple[SparsityPattern, np.ndarray, np.ndarray]:
    """The union of two patterns, and where its entries stand in each: behind its last where in none."""
    keys = [pattern.rows.astype(np.int64) * first.shape[1] + pattern.indices for pattern in (first, second)]
    joint = np.union1d(*keys)
    positions = []
    for key in keys:
        where = np.full(len(joint), len(key), np.int32 if len(joint) < 2**31 - 1 else np.int64)
        where[np.searchsorted(joint, key)] = np.arange(len(key))
        positions.append(where)
    rows, columns = np.divmod(joint, max(first.shape[1], 1))
    pattern = SparsityPattern(np.searchsorted(rows, np.arange(first.shape[0] + 1)), columns, first.shape)
    for known in (first, second):
        pattern = known if pattern == known else pattern
    return pattern, *positions


@bounded_cache(8)
def _products(first: SparsityPattern, second: SparsityPattern):
    """The pattern of `A B`, and of each multiplication, sorted by entry: the factors' places, the entry.

    The latter is None where entries and multiplications are one to one."""
    import scipy.sparse as sp  # slow to import

    lengths = second.row_lengths[first.indices].astype(np.int64)
    before = np.concatenate([[0], np.cumsum(lengths)])
    ours = np.repeat(np.arange(first.nnz), lengths)
    theirs = np.arange(before[-1]) + np.repeat(second.indptr[first.indices] - before[:-1], lengths)
    numbers = np.arange(before[-1]), second.indices[theirs], before[first.indptr]
    # SciPy's conversions sort by counting, and keep entries that share a place apart.
    by_entry = sp.csr_array(numbers, shape=(first.shape[0], second.shape[1])).tocsc().tocsr()
    rows = np.repeat(np.arange(first.shape[0]), np.diff(by_entry.indptr))
    opens = np.ones(len(rows), bool)
    opens[1:] = (np.diff(rows) != 0) | (np.diff(by_entry.indices) != 0)
    indptr = np.concatenate([[0], np.cumsum(opens)])[by_entry.indptr]
    pattern = SparsityPattern(indptr, by_entry.indices[opens], by_entry.shape)
    entries = None if opens.all() else (np.cumsum(opens) - 1).astype(pattern.indptr.dtype)
    order = by_entry.data
    return pattern, ours[order].astype(first.indptr.dtype), theirs[order].astype(second.indptr.dtype), entries


@jax.jit
def _sum(a: Array, b: Array, ours: Array, theirs: Array) -> Array:
    return take(with_zero(a), ours) + take(with_zero(b), theirs)


@functools.partial(jax.jit, static_argnames="size")
def _sum_of_products(a: Array, b: Array, ours: Array, theirs: Array, entries: Array | None, size: int):
    terms = take(a, ours) * take(b, theirs)
    if entries is None:
        return terms
    return (
        jnp.zeros(size, terms.dtype)
        .at[entries]
        .add(terms, indices_are_sorted=True, mode="promise_in_bounds", wrap_negative_indices=False)
    )


def _of_each_value(function: Any, operator: SparseLinearOperator, scalar: Any) -> SparseLinearOperator:
    if not jnp.iscomplexobj(scalar):
        scalar = jnp.asarray(scalar, operator.dtype)
        storage = _of_values(lambda values: function(values, scalar), operator._storage)
        return SparseLinearOperator(storage, operator.pattern)
    dtype = complex_dtype(operator.dtype)
    values = function(operator.values.astype(dtype), jnp.asarray(scalar, dtype))
    return _stored(values, operator.pattern, _symmetries(operator) & {"symmetric"}, operator)


def _of_values(function: Any, storage: Entries | Mirrored, *others: Entries | Mirrored) -> Any:
    """Storage of the same kind, with a function of the values; it leaves zeros, in empty slots, zero."""
    return jax.tree.map(lambda x, *y: function(x, *y) if eqx.is_inexact_array(x) else x, storage, *others)


def _kind(storage: Entries | Mirrored) -> bool | None:
    return storage.hermitian if isinstance(storage, Mirrored) else None


def _symmetries(operator: SparseLinearOperator) -> set[Symmetry]:
    """The symmetries that the storage guarantees, whatever the values."""
    storage, real = operator._storage, not jnp.issubdtype(operator.dtype, jnp.complexfloating)
    if isinstance(storage, Mirrored):
        return {"symmetric", "hermitian"} if real else {"hermitian" if storage.hermitian else "symmetric"}
    if operator.is_structurally(lx.diagonal_tag):
        return {"symmetric", "hermitian"} if real else {"symmetric"}
    return set()


def _stored(
    values: Array, pattern: SparsityPattern, symmetries: set[Symmetry], *origins: SparseLinearOperator
) -> SparseLinearOperator:
    """An operator with these values, in symmetric storage where an operator that it is made of has it."""
    mirrored = [origin for origin in origins if isinstance(origin._storage, Mirrored)]
    if not symmetries or not mirrored:
        return SparseLinearOperator(values, pattern)
    hermitian, triangle = "symmetric" not in symmetries, take(values, pattern.lower_positions)
    for origin in mirrored:  # one with the same places saves finding them
        if origin.pattern == pattern and _kind(origin._storage) == hermitian:
            storage = eqx.tree_at(lambda mirrored: mirrored.triangle, origin._storage, triangle)
            return SparseLinearOperator(storage, pattern)
    return SparseLinearOperator(mirror(triangle, pattern, hermitian), pattern)


def _choice(index: Any, size: int, name: str) -> np.ndarray:
    """The numbers of chosen rows or columns."""
    if index is None:
        return np.arange(size)
    if isinstance(index, slice):
        return np.arange(size)[index]
    if not isinstance(index, Tracer) and np.asarray(index).dtype == bool:
        index = np.asarray(index)
        if index.shape != (size,):
            raise ValueError(f"`{name}` as a mask must have shape ({size},), but has shape {index.shape}.")
        return np.flatnonzero(index)
    index = concrete_indices(index if np.size(index) else np.zeros(0, int), name)
    if index.ndim != 1:
        raise ValueError(
            f"`{name}` must be flat integers, a mask, a slice or None, but has shape {index.shape}."
        )
    if index.size and not -size <= index.min() <= index.max() < size:
        raise ValueError(
            f"`{name}` must lie in [-{size}, {size}), but ranges over [{index.min()}, {index.max()}]."
        )
    return np.where(index < 0, index + size, index)

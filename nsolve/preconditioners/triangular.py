"""Sparse triangular solves, and approximate inverses that are products of two of them.

A triangular solve is a chain of dependent rows.  On the CPU a compiled kernel walks down the chain;
elsewhere the entries are sorted by *level* (the length of the longest chain that leads to their
column), and all entries of a level are treated at once.  Both read the entries one after the other
and do no work on padding that grows with the widest row.

Reference for level scheduling: Saad, *Iterative Methods for Sparse Linear Systems*, 2nd ed. (2003),
section 11.6, doi:10.1137/1.9780898718003.
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from .._vectors import take
from ..operators.pattern import SparsityPattern
from .base import AbstractApproximateInverse


def per_pattern(function: Callable) -> Callable:
    """Remembers symbolic results for as long as the pattern (first argument) lives."""
    known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    @functools.wraps(function)
    def remembering(pattern: SparsityPattern, *arguments):
        results = known.setdefault(pattern, {})
        if arguments not in results:
            results[arguments] = function(pattern, *arguments)
        return results[arguments]

    return remembering


@per_pattern
def triangle(pattern: SparsityPattern, lower: bool) -> tuple[SparsityPattern, np.ndarray]:
    """The strictly lower or upper part of a pattern, and where its entries stand in the whole."""
    part = pattern.rows > pattern.indices if lower else pattern.rows < pattern.indices
    (positions,) = np.nonzero(part)
    indptr = np.concatenate([[0], np.cumsum(part)])[pattern.indptr]
    strict = SparsityPattern(indptr, pattern.indices[positions], pattern.shape)
    return strict, positions.astype(pattern.indptr.dtype)


class UnitTriangular(eqx.Module):
    """`T = I + N`: a triangular matrix with ones on the diagonal, `N` sparse and strictly
    triangular.

    * `values`: the entries of `N`, `(nnz,)` in CSR order; differentiable.
    * `pattern`: where they stand.
    * `lower`: lower or upper triangular.

    `solve(b)` costs `nnz` multiply-adds, one after the other on a CPU.  It is differentiable in
    `values` and in `b`, in forward and reverse mode, and can be batched.  A factorisation with a
    diagonal is written with that diagonal scaled out; the chain of dependent operations is then as
    short as it can be.
    """

    values: Array
    indptr: Array
    indices: Array
    pattern: SparsityPattern = eqx.field(static=True)
    lower: bool = eqx.field(static=True)

    def __init__(self, values: Array, pattern: SparsityPattern, lower: bool):
        if values.shape != (pattern.nnz,):
            raise ValueError(
                f"`values` must have shape ({pattern.nnz},), one for each entry of `pattern`, but "
                f"has shape {values.shape}."
            )
        side = pattern.rows > pattern.indices if lower else pattern.rows < pattern.indices
        if pattern.shape[0] != pattern.shape[1] or not side.all():
            raise ValueError(
                f"`pattern` must be square and strictly {'lower' if lower else 'upper'} "
                "triangular; take the part of it that is with `triangle(pattern, lower)`."
            )
        if pattern.indptr.dtype != np.int32:
            raise ValueError(f"`pattern` has {pattern.nnz} entries, more than triangular solves can number.")
        self.values = jnp.asarray(values)
        self.indptr = jnp.asarray(pattern.indptr)
        self.indices = jnp.asarray(pattern.indices)
        self.pattern = pattern
        self.lower = lower

    def mv(self, x: Array) -> Array:
        """`T @ x`."""
        return x + _strict_product(self.pattern, self.values, x)

    def solve(self, b: Array) -> Array:
        """`T^-1 @ b`."""
        return triangular_solve(self, b)

    def transpose(self) -> "UnitTriangular":
        pattern, order = self.pattern.transposed
        return UnitTriangular(take(self.values, order), pattern, not self.lower)

    def conj(self) -> "UnitTriangular":
        return eqx.tree_at(lambda factor: factor.values, self, self.values.conj())


def triangular_solve(factor: UnitTriangular, b: Array) -> Array:
    """`T^-1 @ b` for `b` of shape `(n,)`: compiled on CPUs, level-scheduled elsewhere."""
    if b.shape != (factor.pattern.shape[0],):
        raise ValueError(f"`b` must have shape ({factor.pattern.shape[0]},), but has shape {b.shape}.")
    dtype = np.promote_types(factor.values.dtype, b.dtype)
    values, b = factor.values.astype(dtype), b.astype(dtype)
    return _solve(factor.pattern, factor.lower, values, factor.indptr, factor.indices, b)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _solve(pattern, lower, values, indptr, indices, b):
    def compiled(values, indptr, indices, b):
        from .. import _compiled  # here, since it imports numba

        kernel = "solve_lower" if lower else "solve_upper"
        return _compiled.call(kernel, indptr, indices, values, b, like=[b])[0]

    def portable(values, indptr, indices, b):
        return scheduled_solve(pattern, values, b)

    return by_platform(compiled, portable, values, indptr, indices, b)


@_solve.defjvp
def _solve_jvp(pattern, lower, primals, tangents):
    values, indptr, indices, b = primals
    values_dot, _, _, b_dot = tangents
    x = _solve(pattern, lower, values, indptr, indices, b)

    def transpose_solve(_, b):
        transposed, order = pattern.transposed
        arrays = jnp.asarray(transposed.indptr), jnp.asarray(transposed.indices)
        return _solve(transposed, not lower, take(values, order), *arrays, b)

    x_dot = jax.lax.custom_linear_solve(
        lambda x: x + _strict_product(pattern, values, x),
        b_dot - _strict_product(pattern, values_dot, x),
        solve=lambda _, b: _solve(pattern, lower, values, indptr, indices, b),
        transpose_solve=transpose_solve,
    )
    return x, x_dot


def _strict_product(pattern: SparsityPattern, values: Array, x: Array) -> Array:
    terms = values * take(x, pattern.indices)
    return jax.ops.segment_sum(terms, pattern.rows, pattern.shape[0], indices_are_sorted=True)


def by_platform(compiled: Callable, portable: Callable, *arguments: Any) -> Any:
    """Chooses when the computation is lowered; where a CPU is all there is, saves tracing both."""
    if jax.default_backend() == "cpu":
        return compiled(*arguments)
    return jax.lax.platform_dependent(*arguments, cpu=compiled, default=portable)


def scheduled_solve(pattern: SparsityPattern, values: Array, b: Array) -> Array:
    """`(I + N)^-1 b` level by level, in pure JAX.

    Once all unknowns of a level are final, their contributions are subtracted from the rows that
    need them.
    """

    def subtract(x, chunk):
        rows, columns, positions = chunk
        entries = values.at[positions].get(mode="fill", fill_value=0)
        terms = entries * x.at[columns].get(mode="promise_in_bounds")
        return x.at[rows].add(-terms, mode="drop"), None

    if pattern.nnz == 0:
        return b
    x, _ = jax.lax.scan(subtract, b, schedule(pattern))
    return x


@per_pattern
def levels(pattern: SparsityPattern) -> np.ndarray:
    """The level of each row: 0 where it needs no other, else one more than the highest that it
    needs."""
    needed_by, _ = pattern.transposed
    waiting_for = pattern.row_lengths.astype(np.int64)
    level = np.zeros(pattern.shape[0], np.int32)
    ready, number = np.flatnonzero(waiting_for == 0), 0
    while ready.size:
        level[ready] = number
        lengths = needed_by.row_lengths[ready]
        starts = np.repeat(needed_by.indptr[ready] - np.cumsum(lengths) + lengths, lengths)
        rows, counts = np.unique(needed_by.indices[starts + np.arange(lengths.sum())], return_counts=True)
        waiting_for[rows] -= counts
        ready, number = rows[waiting_for[rows] == 0], number + 1
    return level


@per_pattern
def schedule(pattern: SparsityPattern) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and CSR positions of the entries in the order of their columns' levels.

    Shape `(chunks, size)`: a level takes as many chunks as it needs and pads its last one (with the
    row `n` and the position `nnz`, which do not exist).  The size is such that padding at most
    doubles or triples the work.
    """
    n = pattern.shape[0]
    level = levels(pattern)[pattern.indices]
    order = np.argsort(level, kind="stable")
    counts = np.bincount(level) if level.size else np.zeros(0, np.int64)
    size = 1 << int(np.ceil(np.log2(max(1, pattern.nnz / max(1, len(counts))))))
    chunks = -(-counts // size)
    slots = np.arange(pattern.nnz) - np.repeat(np.cumsum(counts) - counts, counts)
    slots += np.repeat((np.cumsum(chunks) - chunks) * size, counts)
    shape = (int(chunks.sum()), size)

    def chunked(entries, padding):
        array = np.full(shape, padding, np.int32)
        array.reshape(-1)[slots] = entries
        return array

    return (
        chunked(pattern.rows[order], n),
        chunked(pattern.indices[order], 0),
        chunked(order, pattern.nnz),
    )


def _one_by_one(lower: Any, scale: Array, upper: Any, b: Array) -> Array:
    x = b if lower is None else lower.solve(b)
    dtype = np.promote_types(scale.dtype, x.dtype)
    x = scale.astype(dtype) * x.astype(dtype)
    return x if upper is None else upper.solve(x)


@eqx.filter_custom_jvp
def solve_both(lower: UnitTriangular, scale: Array, upper: UnitTriangular, b: Array) -> Array:
    """`(I + U)^-1 diag(scale) (I + L)^-1 b`; on CPUs in one compiled call, sparing trips to memory."""
    dtype = np.result_type(*(x.dtype for x in (lower.values, scale, upper.values, b)))

    def compiled(lower, scale, upper, b):
        from .. import _compiled  # here, since it imports numba

        arguments = (
            *(lower.indptr, lower.indices, lower.values.astype(dtype), scale.astype(dtype)),
            *(upper.indptr, upper.indices, upper.values.astype(dtype), b.astype(dtype)),
        )
        return _compiled.call("solve_both", *arguments, like=[arguments[-1]])[0]

    return by_platform(compiled, _one_by_one, lower, scale, upper, b)


@solve_both.def_jvp
def _solve_both_jvp(primals, tangents):
    return eqx.filter_jvp(_one_by_one, primals, tangents)


class TriangularInverse(AbstractApproximateInverse):
    """`M = P^T (I + U)^-1 D (I + L)^-1 P`, what incomplete factorisations and relaxation sweeps
    come to.

    `L` and `U` are strictly triangular, `D` is diagonal (`scale`), `P` a reordering (`order`: row
    `k` of the reordered system is row `order[k]`; its inverse permutation stands second).  A
    missing factor is the identity. `shift` says by what multiple the diagonal of `A` was increased,
    where the method does that.
    """

    lower: Any
    scale: Array
    upper: Any
    order: tuple[Array, Array] | None
    shift: Array | None
    constructor: Any
    pattern: SparsityPattern = eqx.field(static=True)
    structure: jax.ShapeDtypeStruct = eqx.field(static=True)
    tags: frozenset[object] = eqx.field(static=True)

    def mv(self, vector: Array) -> Array:
        x = vector.reshape(-1)
        if self.order is not None:
            x = x.at[self.order[0]].get(mode="promise_in_bounds", unique_indices=True)
        if isinstance(self.lower, UnitTriangular) and isinstance(self.upper, UnitTriangular):
            x = solve_both(self.lower, self.scale, self.upper, x)
        else:
            x = _one_by_one(self.lower, self.scale, self.upper, x)
        if self.order is not None:
            x = x.at[self.order[1]].get(mode="promise_in_bounds", unique_indices=True)
        return x.reshape(vector.shape)

    def refresh(self, operator: lx.AbstractLinearOperator) -> "TriangularInverse":
        refreshed = self.constructor(operator)
        if refreshed.pattern != self.pattern:
            raise ValueError(
                "`refresh` needs an operator with the pattern that the preconditioner was made "
                f"for, {self.pattern}, but was given {refreshed.pattern}. Make a new "
                "preconditioner instead."
            )
        return refreshed

    def transpose(self) -> "TriangularInverse":
        if lx.is_symmetric(self):
            return self
        return TriangularInverse(
            None if self.upper is None else self.upper.transpose(),
            self.scale,
            None if self.lower is None else self.lower.transpose(),
            self.order,
            self.shift,
            self.constructor,
            self.pattern.transposed[0],
            self.structure,
            lx.transpose_tags(self.tags),
        )

    def conj(self) -> "TriangularInverse":
        def parts(inverse):
            return inverse.lower, inverse.scale, inverse.upper

        conjugate = jax.tree.map(lambda x: x.conj() if eqx.is_inexact_array(x) else x, parts(self))
        return eqx.tree_at(parts, self, conjugate, is_leaf=lambda x: x is None)

    def __repr__(self) -> str:
        factors = [factor for factor in (self.lower, self.upper) if factor is not None]
        entries = sum(factor.pattern.nnz for factor in factors)
        shifted = ""
        if self.shift is not None and not isinstance(self.shift, Tracer):
            shifted = f"; shift {np.asarray(self.shift):.3g}"
        return (
            f"{type(self.constructor).__name__} preconditioner ({self.in_size()} unknowns; "
            f"{len(factors)} triangular solves with {entries} entries{shifted})"
        )

"""Sparse triangular solves, and approximate inverses that are products of two of them."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from .. import _ffi as _ffi  # here already, so that its switch is read when the package is imported
from .._vectors import take
from ..kernels._sweeps import solve_by_sweeps, strict_product
from ..operators.pattern import SparsityPattern, per_pattern
from .base import AbstractApproximateInverse


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
        return x + strict_product(self.pattern, self.values, x)

    def solve(self, b: Array) -> Array:
        """`T^-1 @ b`."""
        return triangular_solve(self, b)

    def sweep(self, b: Array, sweeps: int) -> Array:
        """Nearly that, by so many of Jacobi's sweeps."""
        dtype = np.promote_types(self.values.dtype, b.dtype)
        return solve_by_sweeps(self.pattern, self.values.astype(dtype), b.astype(dtype), sweeps)

    def transpose(self) -> "UnitTriangular":
        pattern, order = self.pattern.transposed
        return UnitTriangular(take(self.values, order), pattern, not self.lower)

    def conj(self) -> "UnitTriangular":
        return eqx.tree_at(lambda factor: factor.values, self, self.values.conj())


def triangular_solve(factor: UnitTriangular, b: Array, sweeps: Array | None = None) -> Array:
    """`T^-1 @ b` for `b` of shape `(n,)`: compiled on CPUs, level by level elsewhere, or by sweeps."""
    if b.shape != (factor.pattern.shape[0],):
        raise ValueError(f"`b` must have shape ({factor.pattern.shape[0]},), but has shape {b.shape}.")
    dtype = np.promote_types(factor.values.dtype, b.dtype)
    values, b = factor.values.astype(dtype), b.astype(dtype)
    return _solve(factor.pattern, factor.lower, values, factor.indptr, factor.indices, b, sweeps)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _solve(pattern, lower, values, indptr, indices, b, sweeps):
    from ..kernels import triangular_solves  # here, since it imports numba

    return triangular_solves.solve(pattern, lower, values, indptr, indices, b, sweeps)


@_solve.defjvp
def _solve_jvp(pattern, lower, primals, tangents):
    values, indptr, indices, b, sweeps = primals
    values_dot, _, _, b_dot, _ = tangents
    x = _solve(pattern, lower, values, indptr, indices, b, sweeps)

    def transpose_solve(_, b):
        transposed, order = pattern.transposed
        arrays = jnp.asarray(transposed.indptr), jnp.asarray(transposed.indices)
        return _solve(transposed, not lower, take(values, order), *arrays, b, sweeps)

    # Of sweeps this is the derivative in `b`, and in `values` that of the solve that they come close to.
    x_dot = jax.lax.custom_linear_solve(
        lambda x: x + strict_product(pattern, values, x),
        b_dot - strict_product(pattern, values_dot, x),
        solve=lambda _, b: _solve(pattern, lower, values, indptr, indices, b, sweeps),
        transpose_solve=transpose_solve,
    )
    return x, x_dot


def _one_by_one(lower: Any, scale: Array, upper: Any, b: Array, solve: Callable) -> Array:
    x = b if lower is None else solve(lower, b)
    dtype = np.promote_types(scale.dtype, x.dtype)
    x = scale.astype(dtype) * x.astype(dtype)
    return x if upper is None else solve(upper, x)


@eqx.filter_custom_jvp
def solve_both(
    lower: UnitTriangular, scale: Array, upper: UnitTriangular, b: Array, sweeps: Array | None
) -> Array:
    """`(I + U)^-1 diag(scale) (I + L)^-1 b` in one call; on a device by so many sweeps each."""
    from ..kernels import triangular_solves  # here, since it imports numba

    dtype = np.result_type(*(x.dtype for x in (lower.values, scale, upper.values, b)))
    return triangular_solves.solve_twice(
        (lower.pattern, upper.pattern),
        *(lower.indptr, lower.indices, lower.values.astype(dtype), scale.astype(dtype)),
        *(upper.indptr, upper.indices, upper.values.astype(dtype), b.astype(dtype)),
        sweeps=sweeps,
    )


@solve_both.def_jvp
def _solve_both_jvp(primals, tangents):
    def one_by_one(lower, scale, upper, b, sweeps):
        return _one_by_one(lower, scale, upper, b, lambda factor, b: triangular_solve(factor, b, sweeps))

    return eqx.filter_jvp(one_by_one, primals, tangents)


class TriangularInverse(AbstractApproximateInverse):
    """`M = P^T (I + U)^-1 D (I + L)^-1 P`, what incomplete factorisations and relaxation sweeps
    come to.

    `L` and `U` are strictly triangular, `D` is diagonal (`scale`), `P` a reordering (`order`: row
    `k` of the reordered system is row `order[k]`; its inverse permutation stands second).  A
    missing factor is the identity. `shift` says by what multiple the diagonal of `A` was increased,
    where the method does that.

    `sweeps`: in how many sweeps each solve is done, on any platform.  Where it is None, `enough` says
    so for platforms other than the CPU; -1 means exactly.
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
    enough: Array | None = None
    sweeps: int | None = eqx.field(static=True, default=None)

    def mv(self, vector: Array) -> Array:
        x = vector.reshape(-1)
        if self.order is not None:
            x = x.at[self.order[0]].get(mode="promise_in_bounds", unique_indices=True)
        sweeps = self.sweeps
        if sweeps is not None:
            x = _one_by_one(self.lower, self.scale, self.upper, x, lambda factor, b: factor.sweep(b, sweeps))
        elif isinstance(self.lower, UnitTriangular) and isinstance(self.upper, UnitTriangular):
            x = solve_both(self.lower, self.scale, self.upper, x, self.enough)
        else:
            x = _one_by_one(self.lower, self.scale, self.upper, x, lambda factor, b: factor.solve(b))
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
            self.enough,
            self.sweeps,
        )

    def conj(self) -> "TriangularInverse":
        def parts(inverse):
            return inverse.lower, inverse.scale, inverse.upper

        conjugate = jax.tree.map(lambda x: x.conj() if eqx.is_inexact_array(x) else x, parts(self))
        return eqx.tree_at(parts, self, conjugate, is_leaf=lambda x: x is None)

    def __repr__(self) -> str:
        factors = [factor for factor in (self.lower, self.upper) if factor is not None]
        entries = sum(factor.pattern.nnz for factor in factors)
        shifted, sweeps = "", self.sweeps
        if sweeps is None and self.enough is not None and not isinstance(self.enough, Tracer):
            sweeps = int(self.enough) if self.enough >= 0 else None
        swept = "" if sweeps is None else f", each by {sweeps} sweep{'s' * (sweeps != 1)}"
        if self.shift is not None and not isinstance(self.shift, Tracer):
            shifted = f"; shift {np.asarray(self.shift):.3g}"
        return (
            f"{type(self.constructor).__name__} preconditioner ({self.in_size()} unknowns; "
            f"{len(factors)} triangular solves with {entries} entries{swept}{shifted})"
        )

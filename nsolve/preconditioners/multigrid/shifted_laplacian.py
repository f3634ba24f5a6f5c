"""Multigrid for waves: the shifted Laplacian, on grids that all resolve the wave."""

import dataclasses
import functools
import itertools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array

from ..._arrays import cut, is_traced, padded
from ...operators.base import tags_of
from ...operators.finite_volumes import Offset
from ...operators.stencil import StencilLinearOperator
from ..base import AbstractApproximateInverse, AbstractPreconditioner
from .cycle import AbstractLevel, cycle
from .smoothers import PolynomialSmoother, polynomial_smoother
from .smoothing import Smoothing
from .stencils import on_grid
from .transfer import gathered, joined, lower, split, upper

#: Points a wavelength that the coarsest grid keeps: below two a wave is mistaken for another.
_RESOLVED = 2.4
#: Points from which on a direct solver is cheap enough.
_COARSEST = 1024
#: Axes of so few points are never halved.
_SHORTEST = 8
#: Coarser grids where the wavelength is not known, while tracing: ten points a wavelength allow two.
_UNKNOWN = 2


class WaveLevel(AbstractLevel):
    """A grid: its operator, smoother, and interpolation by cubic splines from the next coarser one."""

    operator: StencilLinearOperator
    smoother: PolynomialSmoother

    def restrict(self, r: Array) -> Array:
        """To the next coarser grid: the transpose of `prolong`."""
        for axis, n in enumerate(self.operator.shape):
            r = _restricted(r, axis) if n >= _SHORTEST else r
        return r

    def prolong(self, e: Array) -> Array:
        """From the next coarser grid."""
        for axis, n in enumerate(self.operator.shape):
            e = _prolonged(e, axis, n) if n >= _SHORTEST else e
        return e

    def transpose(self) -> "WaveLevel":
        return WaveLevel(self.operator.transpose(), self.smoother)


class ShiftedLaplacianInverse(AbstractApproximateInverse):
    """One V-cycle from a zero guess; `print` it for the hierarchy."""

    levels: tuple[WaveLevel, ...]
    coarse: AbstractApproximateInverse
    constructor: "ShiftedLaplacian"
    offsets: frozenset[Offset] = eqx.field(static=True)
    structure: jax.ShapeDtypeStruct = eqx.field(static=True)
    tags: frozenset[object] = eqx.field(static=True)

    def mv(self, vector: Array) -> Array:
        return cycle(self.levels, self.coarse.mv, vector)

    def refresh(self, operator: lx.AbstractLinearOperator) -> "ShiftedLaplacianInverse":
        stencil = _as_waves(operator)
        if (stencil.in_structure(), frozenset(stencil.offsets)) != (self.structure, self.offsets):
            raise ValueError(
                "`operator` must have the grid and the stencil that this multigrid was made for, "
                f"{self.structure}, but is {stencil}. Build a new one with `ShiftedLaplacian()(operator)`."
            )
        same = dataclasses.replace(self.constructor, levels=len(self.levels) + 1)
        return same.build(jax.lax.stop_gradient(stencil))

    def transpose(self) -> "ShiftedLaplacianInverse":
        if lx.is_symmetric(self):
            return self
        levels, coarse = tuple(level.transpose() for level in self.levels), self.coarse.transpose()
        offsets = frozenset(tuple(-k for k in offset) for offset in self.offsets)
        return dataclasses.replace(self, levels=levels, coarse=coarse, offsets=offsets)

    def conj(self) -> "ShiftedLaplacianInverse":
        levels = jax.tree.map(lambda x: x.conj() if eqx.is_inexact_array(x) else x, self.levels)
        return dataclasses.replace(self, levels=levels, coarse=lx.conj(self.coarse))

    def __repr__(self) -> str:
        head = f"ShiftedLaplacian preconditioner: V(2,2), shift {self.constructor.shift:g}"
        rows = ["level  grid               unknowns  points  smoother, or solver"]
        for k, level in enumerate(self.levels):
            size, points = math.prod(level.operator.shape), len(level.operator.offsets)
            grid = " x ".join(map(str, level.operator.shape))
            rows.append(f"{k:<7}{grid:<17}{size:>10}{points:>8}  2 + 2 Chebyshev-Jacobi sweeps")
        shape = self.coarse.in_structure().shape
        grid, size = " x ".join(map(str, shape)), math.prod(shape)
        rows.append(f"{len(self.levels):<7}{grid:<17}{size:>10}{'':>8}  sparse LU factors, on the host")
        return "\n".join([head, *rows])


class ShiftedLaplacian(AbstractPreconditioner):
    """Multigrid preconditioner for Helmholtz's equation `-div(a grad u) - k^2 u = f`, whose waves are damped
    a little in the preconditioner: one V(2,2)-cycle on `A -+ i shift k^2`.

    For complex stencils of waves with absorption, such as `gallery.helmholtz` with a `damping`, also with a
    varying speed; with `FGMRES` or `GMRES`. It takes some ten steps at 12
    points a wavelength. In two dimensions `SparseLU` is a rival for many right-hand sides of one medium; on
    large grids, and in three dimensions, its factors are what this avoids.

    * `shift`: how much of `k^2` is added as damping, at least 0. The smaller, the fewer steps, and 0 is best
      where hardly anything absorbs; with fewer than ten points a wavelength 0.05 may be better than less.
    * `levels`: grids, each of half the points along each axis, of which the last is solved by sparse LU
      factors. It must resolve the shortest wave, by three points or so: with less the steps run into
      hundreds. By default so many that it has at least 2.4, as concrete coefficients tell; while tracing
      three, right for ten to twenty points a wavelength on the finest.
    * `wavenumber_squared`: `k^2`, a number or an array of the grid's shape, real and not negative. By default
      it is read off the stencil: the sum over a row of `-div(a grad u)` is zero, so what is left is `-k^2`,
      and at the edge of the grid the value of the nearest inner point.

    The shift takes the sign that the imaginary parts of these sums have, that of absorption: positive where
    waves depend on time by `exp(i omega t)`, negative for `exp(-i omega t)`. Layers may be a damping or
    coordinates stretched by complex factors `s`, which slow it down where `abs(s)` exceeds two.

    Interpolation is by cubic splines along the axes, not by the operator, and coarse operators are Galerkin
    products: they carry waves of three points a wavelength with little error in their length, where linear
    interpolation needs some six. Smoothing is that of `Multigrid`. `M` is complex, symmetric where `A` is
    (`A^T = A`), and never definite.

    **Cost:** set-up some 40 products with `A` in two dimensions and 170 in three, and a factorisation of
    up to `7^d` entries a row on the coarsest grid; an application about 15 products and two triangular
    solves there. All but the factors may run on accelerators; these are made and used on the host, as for
    `SparseLU`. `refresh` may be traced and batched; `M` is constant under differentiation. Compiled once for
    a grid; that takes long in three dimensions, where coarse stencils have 125 and 343 points.

    **Raises** `ValueError` for operators that are no stencils or are periodic, for real ones (give a complex
    one, `A * (1 + 0j)`, and a complex right-hand side), and for concrete ones that damp waves at some points
    and amplify them at others, of which no shift is the damping one.

    Erlangga, Oosterlee and Vuik (2006), doi:10.1137/040615195; Gander, Graham and Spence (2015),
    doi:10.1007/s00211-015-0700-2 (the size of the shift); Dwarka and Vuik (2020), doi:10.1137/18M1192093
    (interpolation of high order).
    """

    shift: float = eqx.field(default=0.02, static=True)
    levels: int | None = eqx.field(default=None, static=True)
    wavenumber_squared: Any = None

    def __check_init__(self):
        if isinstance(self.shift, bool) or not isinstance(self.shift, int | float | np.number):
            raise TypeError(f"`ShiftedLaplacian(shift=...)` must be a number, but is {self.shift!r}.")
        if not 0 <= self.shift < math.inf:
            raise ValueError(
                f"`ShiftedLaplacian(shift=...)` must be finite and not negative, but is {self.shift}: its "
                "sign is taken from the operator."
            )
        count = self.levels
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise ValueError(
                f"`ShiftedLaplacian(levels=...)` must be None or a positive integer, but is {count!r}."
            )

    def build(self, operator: lx.AbstractLinearOperator) -> ShiftedLaplacianInverse:
        from ...direct.sparse_lu import SparseLU  # here, since solvers import preconditioners

        stencil = _as_waves(operator)
        square, sign = self._wavenumbers(stencil)
        count = self._num_levels(stencil, square)
        shifted = stencil.add_diagonal(jax.lax.complex(jnp.zeros_like(square), self.shift * sign * square))
        levels, coarsest = _hierarchy(shifted, count)
        coarse = SparseLU().build(coarsest)
        tags = tags_of(stencil) & {lx.symmetric_tag}
        offsets, structure = frozenset(stencil.offsets), stencil.in_structure()
        return ShiftedLaplacianInverse(levels, coarse, self, offsets, structure, tags)

    def _wavenumbers(self, stencil: StencilLinearOperator) -> tuple[Array, Array]:
        """`k^2` at each point, and the sign of absorption."""
        left = _row_sums(stencil)
        sign = jnp.where(jnp.sum(left.imag) < 0, -1, 1).astype(left.real.dtype)
        if not is_traced(left):
            wrong = jnp.max(-sign * left.imag)
            if wrong > 1e-6 * jnp.max(abs(left)):
                raise ValueError(
                    "`ShiftedLaplacian`: the operator damps waves at some points and amplifies them at "
                    f"others: the imaginary parts of its row sums range from {jnp.min(left.imag):.3g} to "
                    f"{jnp.max(left.imag):.3g}. Absorption has one sign."
                )
        if self.wavenumber_squared is None:
            return jnp.maximum(-left.real, 0), sign
        given = jax.lax.stop_gradient(jnp.asarray(self.wavenumber_squared))
        name, shape = "`ShiftedLaplacian(wavenumber_squared=...)`", stencil.shape
        if given.shape not in ((), shape):
            raise ValueError(f"{name} must be a number or of shape {shape}, but has shape {given.shape}.")
        if jnp.iscomplexobj(given):
            raise ValueError(
                f"{name} must be real, but is {given.dtype}: absorption belongs to the operator."
            )
        if not is_traced(given) and not bool(jnp.all((given >= 0) & jnp.isfinite(given))):
            raise ValueError(f"{name} must be finite and nowhere negative.")
        return jnp.broadcast_to(given.astype(left.real.dtype), shape), sign

    def _num_levels(self, stencil: StencilLinearOperator, square: Array) -> int:
        most, shape = 1, stencil.shape
        while max(shape) >= _SHORTEST and (self.levels is not None or math.prod(shape) > _COARSEST):
            shape, most = _coarser(shape), most + 1
        if self.levels is not None:
            return min(self.levels, most)
        if is_traced(square) or is_traced(stencil.coefficients):
            return min(_UNKNOWN + 1, most)
        # Of waves along the axes; `diagonal + k^2` is that of the Laplacian, 2 d / h^2.
        laplacian = np.asarray(stencil.diagonal().real).reshape(stencil.shape) + np.asarray(square)
        angle = np.sqrt(2 * len(stencil.shape) * np.max(np.asarray(square) / laplacian))
        points = 2 * math.pi / angle if angle > 0 else math.inf
        halvings = max(0, math.floor(math.log2(points / _RESOLVED))) if points < math.inf else most
        return min(1 + halvings, most)


@eqx.filter_jit
def _hierarchy(operator: StencilLinearOperator, count: int):
    """All levels, and the operator of the coarsest grid."""
    levels = []
    for _ in range(count - 1):
        diagonal = operator.diagonal().reshape(operator.shape)
        total = functools.reduce(jnp.add, map(abs, operator.coefficients))
        largest = jnp.max(jnp.broadcast_to(total, operator.shape) / abs(diagonal))  # Gershgorin
        smoother = polynomial_smoother(Smoothing(), 1 / diagonal, largest, diagonal.ndim, operator.dtype)
        level = WaveLevel(operator, smoother)
        levels.append(level)
        operator = _galerkin(level)
    return tuple(levels), operator


def _galerkin(level: WaveLevel) -> StencilLinearOperator:
    """`P^T A P` as a stencil, from its products with combs, whose teeth are too far apart to meet.

    A spline reaches two points, so with the operator's reach `r` two of them meet up to `2 + r / 2` coarse
    points apart."""
    fine, dim = level.operator, len(level.operator.shape)
    shape = _coarser(fine.shape)
    reach = []
    for axis, (n, m) in enumerate(zip(fine.shape, shape, strict=True)):
        r = max(abs(offset[axis]) for offset in fine.offsets)
        reach.append(min(r if n == m else 2 + r // 2, m - 1))
    apart = [min(2 * r + 1, m) for r, m in zip(reach, shape, strict=True)]

    def comb(colour):
        found = jnp.ones(shape, bool)
        for axis, period in enumerate(apart):
            found = found & (jax.lax.broadcasted_iota(colour.dtype, shape, axis) % period == colour[axis])
        return found.astype(fine.dtype)

    def product(some):
        # A loop for each: XLA's CPU compiler would fuse the stencil into each of its readers.
        for function in (comb, level.prolong, fine.mv, level.restrict):
            some = jax.lax.map(function, some)
        return some

    colours = np.stack(np.meshgrid(*map(np.arange, apart), indexing="ij"), -1)
    colours = jnp.asarray(colours.reshape(apart[0], -1, dim))
    products = jax.lax.map(product, colours).reshape(*apart, *shape)
    combs, points, inside = [], [], jnp.ones((1,) * 2 * dim, bool)
    for axis, (r, m, period) in enumerate(zip(reach, shape, apart, strict=True)):
        # Which comb has its tooth so far from a point; offsets lie along `axis`, points along `dim + axis`.
        sizes = [1] * 2 * dim
        sizes[axis], sizes[dim + axis] = 2 * r + 1, m
        column = np.arange(m) + np.arange(-r, r + 1)[:, None]
        combs.append((column % period).reshape(sizes))
        sizes[axis] = 1
        points.append(np.arange(m).reshape(sizes))
        sizes[axis] = 2 * r + 1
        inside = inside & jnp.asarray((column >= 0) & (column < m)).reshape(sizes)
    table = jnp.where(inside, products[(*combs, *points)], 0).reshape(-1, *shape)
    offsets = tuple(itertools.product(*(range(-r, r + 1) for r in reach)))
    tags = fine.tags & {lx.symmetric_tag}
    return StencilLinearOperator(tuple(table), offsets, shape, fine.periodic, tags)


def _coarser(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n // 2 if n >= _SHORTEST else n for n in shape)


def _prolonged(coarse: Array, axis: int, n: int) -> Array:
    """Cubic splines, zero outside of the grid."""
    m = n // 2
    beyond = padded(coarse, axis, 1, 1)
    pairs = cut(beyond, axis, 0, m + 1) + cut(beyond, axis, 1, m + 2)
    kept = 0.125 * (lower(pairs, axis, m) + upper(pairs, axis, m)) + 0.5 * coarse
    return joined(kept, 0.5 * pairs, axis, n, False)


def _restricted(fine: Array, axis: int) -> Array:
    """The transpose of `_prolonged`."""
    kept, between = split(fine, axis, False)
    m = kept.shape[axis]
    between = between if between.shape[axis] > m else padded(between, axis, 0, 1)
    beyond = padded(kept, axis, 1, 1)
    pairs = 0.5 * between + 0.125 * (cut(beyond, axis, 0, m + 1) + cut(beyond, axis, 1, m + 2))
    return gathered(pairs, pairs, axis, kept) + 0.5 * kept


def _row_sums(stencil: StencilLinearOperator) -> Array:
    """Of the rows whose neighbours are all inside of the grid; others take the nearest one's."""
    total = jnp.broadcast_to(functools.reduce(jnp.add, stencil.coefficients), stencil.shape)
    for axis, n in enumerate(stencil.shape):
        below = max(max(-offset[axis], 0) for offset in stencil.offsets)
        above = max(max(offset[axis], 0) for offset in stencil.offsets)
        if below + above < n:
            inner = cut(total, axis, below, n - above)
            total = jnp.pad(
                inner, [(below, above) if k == axis else (0, 0) for k in range(total.ndim)], mode="edge"
            )
    return total


def _as_waves(operator: lx.AbstractLinearOperator) -> StencilLinearOperator:
    stencil = on_grid(operator, "ShiftedLaplacian", "For matrices without a grid use `SparseLU`.")
    if any(stencil.periodic):
        raise ValueError("`ShiftedLaplacian` takes grids with walls, but `operator` has a periodic axis.")
    if not jnp.issubdtype(stencil.dtype, jnp.complexfloating):
        raise ValueError(
            f"`ShiftedLaplacian` is complex, but `operator` is {stencil.dtype}, so its solver's vectors are "
            "real: waves without absorption. Give the system in complex numbers, `operator * (1 + 0j)`, or "
            "use `MINRES`."
        )
    return stencil

"""Coarse grids of constant stencils, stored in one-dimensional arrays.

A constant symmetric stencil with `2d + 1` points is `sum_k kappa_k T_k + s`: `T_k` is the second
difference along axis `k`, `s` a shift.  With linear interpolation and a lumped mass every Galerkin
coarse operator has that form again; scaled on both sides by the square roots of the mass, it is
`sum_k kappa_k T'_k + s` with tridiagonal `T'_k` that depend on the grid alone.  So the hierarchy is
geometry, made once on the host for each length of an axis; the values stay `d + 1` scalars.
"""

import functools
from typing import TYPE_CHECKING, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array

from ..._arrays import is_traced
from ...operators.finite_volumes import unit_offset
from ...operators.stencil import StencilLinearOperator
from .cycle import Level
from .gauss_seidel import GaussSeidel
from .plan import Coarsening
from .smoothers import polynomial_smoother
from .transfer import AxisInterpolation, split

if TYPE_CHECKING:
    import scipy.sparse as sp


class _Axis(NamedTuple):
    """One axis of a grid: `T` and the mass before, the bands of `T'` after the scaling."""

    matrix: "sp.csr_array"
    mass: np.ndarray
    lower: np.ndarray
    diagonal: np.ndarray
    upper: np.ndarray


@functools.lru_cache(maxsize=256)
def _axis(n: int, periodic: bool, halvings: int) -> _Axis:
    """An axis of `n` points after some coarsening steps."""
    import scipy.sparse as sp  # slow to import

    if halvings == 0:
        i = np.arange(n)
        rows, columns = np.concatenate([i, i, i]), np.concatenate([i, i - 1, i + 1])
        values = np.repeat([2.0, -1.0, -1.0], n)
        if periodic:
            columns %= n
        inside = (columns >= 0) & (columns < n)
        entries = values[inside], (rows[inside], columns[inside])
        matrix, mass = sp.csr_array(sp.coo_array(entries, shape=(n, n))), np.ones(n)
    else:
        fine = _axis(n, periodic, halvings - 1)
        interpolation = _linear(len(fine.mass), periodic)
        matrix = sp.csr_array(interpolation.T @ fine.matrix @ interpolation)
        mass = interpolation.T @ fine.mass
    i = np.arange(len(mass))
    below, above = (i - 1) % len(i), (i + 1) % len(i)
    scaling = 1 / np.sqrt(mass)
    # Two periodic points are each other's neighbours on both sides; a single one has none.
    share = {1: 0.0, 2: 0.5}.get(len(i), 1.0) if periodic else float(len(i) > 1)
    lower = share * matrix[i, below] * scaling * scaling[below]
    upper = share * matrix[i, above] * scaling * scaling[above]
    if not periodic:
        lower[0] = upper[-1] = 0
    return _Axis(matrix, mass, lower, matrix.diagonal() / mass, upper)


def _linear(n: int, periodic: bool) -> "sp.csr_array":
    """Linear interpolation to `n` points."""
    import scipy.sparse as sp  # slow to import

    kept, between = (np.asarray(part) for part in split(np.arange(n), 0, periodic))
    m = len(kept)
    exists = np.ones(len(between), bool)
    if periodic:
        exists[0], exists[m] = n % 2 == 0, False
    rows, columns, values = [kept], [np.arange(m)], [np.ones(m)]
    for column in (np.arange(len(between)) - 1, np.arange(len(between))):
        column = column % m if periodic else column
        used = exists & (column >= 0) & (column < m)
        rows.append(between[used])
        columns.append(column[used])
        values.append(np.full(used.sum(), 0.5))
    rows, columns, values = map(np.concatenate, (rows, columns, values))
    return sp.csr_array(sp.coo_array((values, (rows, columns)), shape=(n, m)))


@functools.lru_cache(maxsize=256)
def _weights(n: int, periodic: bool, halvings: int):
    """Interpolation weights, left, centre and right, onto the axis after `halvings` steps."""
    fine = _axis(n, periodic, halvings).mass
    coarse = _axis(n, periodic, halvings + 1).mass
    kept, between = (np.asarray(part) for part in split(fine, 0, periodic))
    if periodic:
        below, above = np.append(coarse[-1], coarse), np.append(coarse, coarse[0])
    else:
        below, above = np.append(np.inf, coarse), np.append(coarse, np.inf)
    below, above = below[: len(between)], above[: len(between)]
    return 0.5 * np.sqrt(between / below), np.sqrt(kept / coarse), 0.5 * np.sqrt(between / above)


@functools.lru_cache(maxsize=256)
def _modes(n: int, periodic: bool, halvings: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of `T'`."""
    import scipy.sparse as sp  # slow to import

    axis = _axis(n, periodic, halvings)
    scaling = sp.diags_array(1 / np.sqrt(axis.mass))
    return np.linalg.eigh((scaling @ axis.matrix @ scaling).toarray())


class FastDiagonalisation(eqx.Module):
    """The exact inverse of `sum_k kappa_k T'_k + s`, by the eigenvectors of each axis.

    Modes of eigenvalue zero (the constants, where every axis is periodic) are projected out.
    """

    modes: tuple[Array, ...]
    inverse_eigenvalues: Array

    def __call__(self, b: Array) -> Array:
        x = b
        for axis, modes in enumerate(self.modes):
            x = _along(modes.T, x, axis)
        x = self.inverse_eigenvalues * x
        for axis, modes in enumerate(self.modes):
            x = _along(modes, x, axis)
        return x

    def transpose(self) -> "FastDiagonalisation":
        return self

    def __repr__(self) -> str:
        return "exact, fast diagonalisation"


def _along(matrix: Array, x: Array, axis: int) -> Array:
    return jnp.moveaxis(jnp.tensordot(matrix, x, (1, axis), precision="highest"), 0, axis)


def is_constant(operator: StencilLinearOperator) -> bool:
    """Whether the structure alone says that `constant_hierarchy` applies."""
    return (
        lx.is_symmetric(operator)
        and len(set(operator.offsets)) == len(operator.offsets)
        and all(c.size == 1 for c in operator.coefficients)
        and all(sum(map(abs, offset)) <= 1 for offset in operator.offsets)
    )


def constant_hierarchy(operator: StencilLinearOperator, plan: Coarsening):
    """All levels and the coarsest grid's solver."""
    kappa, shift = _constant_form(operator)
    dim = len(operator.shape)
    halvings = [0] * dim
    levels = []
    for axes in plan.steps:
        level, diagonal = _coarse_operator(operator, kappa, shift, tuple(halvings))
        interpolations = []
        for axis in axes:
            interpolations.append(_interpolation(operator, axis, halvings[axis]))
            halvings[axis] += 1
        smoother = _smoother(plan, level, diagonal)
        levels.append(Level(level, smoother, tuple(interpolations)))
    return tuple(levels), None, _coarse_inverse(operator, kappa, shift, tuple(halvings))


def _smoother(plan: Coarsening, level: StencilLinearOperator, diagonal):
    smoothing, dim, row_sums = plan.smoothing, len(level.shape), None
    if smoothing.name == "multicolour":
        return GaussSeidel(jnp.asarray(1 / diagonal, level.dtype), (), smoothing.sweeps)
    if smoothing.name == "l1_jacobi":
        row_sums = sum(map(abs, level.coefficients)) / abs(diagonal)
    # Gershgorin: rows are diagonally dominant.
    return polynomial_smoother(smoothing, 1 / diagonal, 2.0, dim, level.dtype, row_sums)


def _constant_form(operator: StencilLinearOperator):
    """`(kappa, s)`: scalars, on the host where they are concrete."""
    dim = len(operator.shape)
    xp = jnp if any(map(is_traced, operator.coefficients)) else np
    values = dict(zip(operator.offsets, operator.coefficients, strict=True))
    values = {offset: xp.asarray(c).reshape(()) for offset, c in values.items()}
    zero = xp.zeros((), operator.dtype)
    kappa = [-values.get(unit_offset(dim, axis, 1), zero) for axis in range(dim)]
    return kappa, values.get((0,) * dim, zero) - 2 * sum(kappa)


def _axes(operator: StencilLinearOperator, halvings: tuple[int, ...]):
    """For each axis its geometry, and how to lay its arrays along it."""
    dim = len(halvings)
    arguments = zip(operator.shape, operator.periodic, halvings, strict=True)
    for k, (n, wraps, times) in enumerate(arguments):
        along = tuple(-1 if j == k else 1 for j in range(dim))
        yield k, along, (n, wraps, times)


def _coarse_operator(operator: StencilLinearOperator, kappa, shift, halvings: tuple[int, ...]):
    """The operator after so many coarsening steps along each axis, and its diagonal."""
    if not any(halvings):
        return operator, shift + 2 * sum(kappa)
    dim, shape, diagonal = len(halvings), [], shift
    offsets, coefficients = [(0,) * dim], [shift]
    for k, along, key in _axes(operator, halvings):
        axis = _axis(*key)
        shape.append(len(axis.mass))
        lower, centre, upper = (
            band.reshape(along).astype(operator.dtype) for band in (axis.lower, axis.diagonal, axis.upper)
        )
        diagonal = diagonal + kappa[k] * centre
        for step, band in ((-1, lower), (0, centre), (1, upper)):
            offsets.append(unit_offset(dim, k, step))
            coefficients.append(kappa[k] * band)
    coarse = StencilLinearOperator(
        coefficients=tuple(jnp.asarray(c, operator.dtype) for c in coefficients),
        offsets=tuple(offsets),
        shape=tuple(shape),
        periodic=operator.periodic,
        tags=operator.tags,
    )
    return coarse, diagonal


def _interpolation(operator: StencilLinearOperator, k: int, halvings: int) -> AxisInterpolation:
    """Interpolation along axis `k`, onto its grid after so many coarsening steps."""
    n, wraps = operator.shape[k], operator.periodic[k]
    along = tuple(-1 if j == k else 1 for j in range(len(operator.shape)))
    left, centre, right = (
        jnp.asarray(weight.reshape(along), operator.dtype) for weight in _weights(n, wraps, halvings)
    )
    return AxisInterpolation(
        left=left,
        centre=centre,
        right=right,
        axis=k,
        size=len(_axis(n, wraps, halvings).mass),
        periodic=wraps,
    )


def _coarse_inverse(operator: StencilLinearOperator, kappa, shift, halvings: tuple[int, ...]):
    """The exact inverse after so many coarsening steps."""
    eigenvalues, modes, constants = shift, [], np.True_
    for k, along, key in _axes(operator, halvings):
        values, vectors = _modes(*key)
        eigenvalues = eigenvalues + kappa[k] * values.reshape(along).astype(operator.dtype)
        constants = constants & (abs(values) <= 1e-10 * abs(values).max()).reshape(along)
        modes.append(jnp.asarray(vectors, operator.dtype))
    xp = jnp if is_traced(eigenvalues) else np
    # The only null space is that of the constants, where every axis is periodic and rows sum to zero.
    rounding = 8 * float(jnp.finfo(operator.dtype).eps) * abs(shift + 2 * sum(kappa))
    null = constants & (abs(shift) <= rounding)
    inverse = xp.where(null, 0, 1 / xp.where(null, 1, eigenvalues))
    return FastDiagonalisation(tuple(modes), jnp.asarray(inverse, operator.dtype))

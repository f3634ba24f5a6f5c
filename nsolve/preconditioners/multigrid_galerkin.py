"""Coarse grids of varying stencils: operator-dependent interpolation and Galerkin products.

One axis is coarsened at a time.  A dropped point is interpolated along that axis by its own row of
the operator, summed over the other axes (the collapse of black-box multigrid; Dendy 1982,
doi:10.1016/0021-9991(82)90057-2), so that fluxes stay continuous across jumps of the coefficient.
The next axis then sees the Galerkin product `P^T A P` of the one before.  Against Dendy's form,
which takes all axes at once, this needs only short sums, never leaves the `3^d`-point stencils, and
halves any subset of the axes.

A stencil here is a dictionary from offsets to full arrays, in which entries that leave the grid are
zero.  NumPy arrays stay on the host; traced ones are traced.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._dense import inverse_of_definite
from ..operators.finite_volumes import Offset, is_traced
from ..operators.stencil import StencilLinearOperator
from .multigrid_levels import Level, Plan, chebyshev_weights
from .multigrid_transfer import AxisInterpolation, cut, namespace, padded, split

Stencil = dict[Offset, Any]


class DenseInverse(eqx.Module):
    """The inverse of a small operator as a matrix; a null space of constants is projected out."""

    matrix: Array

    def __call__(self, b: Array) -> Array:
        return jnp.matmul(self.matrix, b.reshape(-1), precision="highest").reshape(b.shape)

    def transpose(self) -> "DenseInverse":
        return DenseInverse(self.matrix.T)

    def __repr__(self) -> str:
        return "exact, dense inverse"


def galerkin_hierarchy(operator: StencilLinearOperator, plan: Plan):
    """All levels and the coarsest grid's solver."""
    periodic = operator.periodic
    xp = jnp if any(map(is_traced, operator.coefficients)) else np
    stencil = {
        offset: xp.asarray(c) for offset, c in zip(operator.offsets, operator.coefficients, strict=True)
    }
    stencil = masked(stencil, operator.shape, periodic)
    level, levels = operator, []
    for axes in plan.steps:
        inverse_diagonal = 1 / _diagonal(stencil, periodic)
        row_sums = xp.asarray(sum(abs(c) for c in stencil.values()))
        largest = (row_sums * abs(inverse_diagonal)).max()  # Gershgorin
        interpolations = []
        for axis in axes:
            size = next(iter(stencil.values())).shape[axis]
            left, right, stencil = coarsen_axis(stencil, axis, periodic)
            interpolations.append(
                AxisInterpolation(
                    left=jnp.asarray(left),
                    centre=jnp.ones((1,) * left.ndim, left.dtype),
                    right=jnp.asarray(right),
                    axis=axis,
                    size=size,
                    periodic=periodic[axis],
                )
            )
        weights = chebyshev_weights(largest, operator.dtype)
        levels.append(Level(level, jnp.asarray(inverse_diagonal), weights, tuple(interpolations)))
        level = _as_operator(stencil, operator)
    return tuple(levels), _dense_inverse(level)


def _as_operator(stencil: Stencil, finest: StencilLinearOperator) -> StencilLinearOperator:
    return StencilLinearOperator(
        coefficients=tuple(jnp.asarray(c) for c in stencil.values()),
        offsets=tuple(stencil),
        shape=next(iter(stencil.values())).shape,
        periodic=finest.periodic,
        tags=finest.tags,
    )


def _diagonal(stencil: Stencil, periodic: tuple[bool, ...]):
    """The centre, and on periodic axes of one point their neighbours, which are the same."""
    shape = next(iter(stencil.values())).shape
    return _total(
        *(
            coefficient
            for offset, coefficient in stencil.items()
            if all(k == 0 or w and n == 1 for k, n, w in zip(offset, shape, periodic, strict=True))
        )
    )


def _dense_inverse(operator: StencilLinearOperator) -> DenseInverse:
    matrix = operator.as_matrix()
    xp = jnp if is_traced(matrix) else np
    matrix = xp.asarray(matrix)
    n = len(matrix)
    scale = xp.abs(xp.diagonal(matrix)).max()
    singular = xp.abs(matrix.sum(1)).max() <= np.sqrt(jnp.finfo(matrix.dtype).eps) * 1e-2 * scale
    # Raise the constants' eigenvalue from zero to `scale`, invert, and take it out again.
    raised = matrix + xp.where(singular, scale / n, 0).astype(matrix.dtype)
    inverse = np.linalg.inv(raised) if xp is np else inverse_of_definite(raised)
    inverse = inverse - xp.where(singular, 1 / (scale * n), 0).astype(matrix.dtype)
    return DenseInverse(jnp.asarray(inverse, operator.dtype))


def masked(stencil: Stencil, shape: tuple[int, ...], periodic: tuple[bool, ...]) -> Stencil:
    """Full arrays, with zeros where an offset leaves the grid."""
    full = {}
    for offset, coefficient in stencil.items():
        coefficient = namespace(coefficient).broadcast_to(coefficient, shape)
        for axis, (step, wraps) in enumerate(zip(offset, periodic, strict=True)):
            if step and not wraps:
                n = shape[axis]
                inside = cut(coefficient, axis, max(0, -step), n - max(0, step))
                coefficient = padded(inside, axis, max(0, -step), max(0, step))
        full[offset] = coefficient
    return full


def coarsen_axis(stencil: Stencil, axis: int, periodic: tuple[bool, ...]):
    """Interpolation weights `(left, right)` along an axis, and the stencil of `P^T A P`."""
    wraps = periodic[axis]
    n = next(iter(stencil.values())).shape[axis]
    rows: dict[Offset, dict[int, tuple]] = {}  # offset across -> step along -> (kept, between)
    for offset, coefficient in stencil.items():
        across = offset[:axis] + (0,) + offset[axis + 1 :]
        rows.setdefault(across, {})[offset[axis]] = split(coefficient, axis, wraps)
    left, right = _weights(rows, axis, wraps)
    m = left.shape[axis] - 1

    def lower(x):  # the between-point below each kept one
        return cut(x, axis, 0, m)

    def upper(x):
        return cut(x, axis, 1, m + 1)

    coarse: Stencil = {}
    for across, parts in rows.items():
        zero = None, None
        below, centre, above = (parts.get(step, zero) for step in (-1, 0, 1))
        l_across, r_across = (_shifted(w, across, periodic) for w in (left, right))
        # A P: a kept point's row reaches the kept points below, itself and above, by step ...
        row = {
            -1: _product(below[0], lower(l_across)),
            0: _total(_product(below[0], lower(r_across)), centre[0], _product(above[0], upper(l_across))),
            1: _product(above[0], upper(r_across)),
        }
        # ... and a between-point's row reaches the two around it.
        to_left = _total(below[1], _product(centre[1], l_across))
        to_right = _total(_product(centre[1], r_across), above[1])
        if wraps and n % 2:  # the seam joins the last kept point to the first
            row[-1] = _total(row[-1], _only(below[0], axis, 0))
            row[1] = _total(row[1], _only(above[0], axis, m - 1))
        result = {
            -1: _total(row[-1], _product(lower(right), to_left, lower)),
            0: _total(
                row[0],
                _product(lower(right), to_right, lower),
                _product(upper(left), to_left, upper),
            ),
            1: _total(row[1], _product(upper(left), to_right, upper)),
        }
        for step, coefficient in result.items():
            if coefficient is not None:
                coarse[across[:axis] + (step,) + across[axis + 1 :]] = coefficient
    return left, right, coarse


def _weights(rows: dict, axis: int, wraps: bool):
    below, centre, above = (
        _total(*(parts[step][1] for parts in rows.values() if step in parts)) for step in (-1, 0, 1)
    )
    xp = namespace(centre)
    below, above = (xp.zeros_like(centre) if x is None else x for x in (below, above))
    # Complex operators are interpolated by their real part: P^T and P^H agree.
    dtype = centre.dtype
    below, centre, above = (xp.real(x) for x in (below, centre, above))
    safe = xp.where(centre == 0, 1, centre)
    left, right = (xp.where(centre == 0, 0, xp.clip(-x / safe, 0, 1)) for x in (below, above))
    return left.astype(dtype), right.astype(dtype)


def _shifted(x: Any, offset: Offset, periodic: tuple[bool, ...]) -> Any:
    """`x[i + offset]`, zero outside or wrapped around."""
    for axis, (step, wraps) in enumerate(zip(offset, periodic, strict=True)):
        if step and wraps:
            x = namespace(x).roll(x, -step, axis)
        elif step:
            n = x.shape[axis]
            inside = cut(x, axis, max(0, step), n - max(0, -step))
            x = padded(inside, axis, max(0, -step), max(0, step))
    return x


def _only(x: Any, axis: int, index: int) -> Any:
    """Zero but for one index along the axis."""
    if x is None:
        return None
    n = x.shape[axis]
    return padded(cut(x, axis, index, index + 1), axis, index, n - 1 - index)


def _product(x: Any, y: Any, select=lambda z: z) -> Any:
    return None if x is None or y is None else x * select(y)


def _total(*terms: Any) -> Any:
    present = [term for term in terms if term is not None]
    return sum(present[1:], start=present[0]) if present else None

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

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from ..._arrays import cut, is_traced, namespace, padded
from ...operators.finite_volumes import Offset
from ...operators.stencil import StencilLinearOperator
from .coarse import dense_inverse
from .cycle import Level
from .plan import Coarsening
from .smoothers import chebyshev_jacobi
from .transfer import AxisInterpolation, fitted, kept_size, lower, split, upper

Stencil = dict[Offset, Any]


def galerkin_hierarchy(operator: StencilLinearOperator, plan: Coarsening):
    """All levels and the coarsest grid's solver."""
    periodic = operator.periodic
    xp = jnp if any(map(is_traced, operator.coefficients)) else np
    stencil = {
        offset: xp.asarray(c) for offset, c in zip(operator.offsets, operator.coefficients, strict=True)
    }
    stencil = masked(stencil, operator.shape, periodic)
    apart = len(plan.steps) - plan.shared
    levels, small = [], None
    for axes in plan.steps[:apart]:
        level, stencil = _coarsen(stencil, axes, operator)
        levels.append(level)
    if levels:  # what it was made from, not a copy
        levels[0] = dataclasses.replace(levels[0], operator=operator)
    if plan.shared:
        small, stencil = _coarsen_padded(stencil, plan, operator)
    return tuple(levels), small, dense_inverse(_as_operator(stencil, operator))


def _coarsen(stencil: Stencil, axes: tuple[int, ...], finest: StencilLinearOperator):
    """A level, and the stencil of the next coarser grid."""
    periodic = finest.periodic
    operator, diagonal = _as_operator(stencil, finest), _diagonal(stencil, periodic)
    xp = namespace(diagonal)
    empty = diagonal == 0  # where the grid is padded
    inverse_diagonal = xp.where(empty, 0, 1 / xp.where(empty, 1, diagonal))
    row_sums = xp.asarray(sum(abs(c) for c in stencil.values()))
    largest = (row_sums * abs(inverse_diagonal)).max()  # Gershgorin
    interpolations = []
    # Entries below the diagonal are those above it, read from the other row.
    mirrored = lx.is_symmetric(finest) and not any(periodic)
    for axis in axes:
        size = next(iter(stencil.values())).shape[axis]
        left, right, stencil = coarsen_axis(stencil, axis, periodic, mirrored)
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
    smoother = chebyshev_jacobi(inverse_diagonal, largest, finest.dtype)
    return Level(operator, smoother, tuple(interpolations)), stencil


def _coarsen_padded(stencil: Stencil, plan: Coarsening, finest: StencilLinearOperator):
    """Several levels of one size, stacked, and the stencil of the coarsest grid."""
    axes, shape = plan.steps[-1], next(iter(stencil.values())).shape
    xp = namespace(next(iter(stencil.values())))
    reach = [(-1, 0, 1) if axis in axes else (0,) for axis in range(len(shape))]
    reach = [sorted({k for o in stencil for k in (o[axis],)} | set(r)) for axis, r in enumerate(reach)]
    empty = xp.zeros(shape, finest.dtype)
    full = {offset: stencil.get(offset, empty) for offset in itertools.product(*reach)}

    def step(stencil, _):
        level, coarse = _coarsen(stencil, axes, finest)
        return {offset: fitted(coarse[offset], shape) for offset in stencil}, level

    if xp is np:
        levels = []
        for _ in range(plan.shared):
            full, level = step(full, None)
            levels.append(level)
        stacked = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *levels)
    else:
        full, stacked = jax.lax.scan(step, full, None, plan.shared)
    return stacked, {offset: fitted(c, plan.coarsest) for offset, c in full.items()}


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


def coarsen_axis(stencil: Stencil, axis: int, periodic: tuple[bool, ...], mirrored: bool = False):
    """Interpolation weights `(left, right)` along an axis, and the stencil of `P^T A P`.

    Where the operator is symmetric, `mirrored` spares half of the work.
    """
    wraps = periodic[axis]
    n = next(iter(stencil.values())).shape[axis]
    rows: dict[Offset, dict[int, tuple]] = {}  # offset across -> step along -> (kept, between)
    for offset, coefficient in stencil.items():
        across = offset[:axis] + (0,) + offset[axis + 1 :]
        rows.setdefault(across, {})[offset[axis]] = split(coefficient, axis, wraps)
    left, right = _weights(rows, axis, wraps)
    m = kept_size(n, wraps)

    def below_kept(x, y=None):  # of between-points, or of products of two
        return None if x is None else lower(x if y is None else x * y, axis, m)

    def above_kept(x, y=None):
        return None if x is None else upper(x if y is None else x * y, axis, m)

    coarse: Stencil = {}
    for across, parts in rows.items():
        zero = None, None
        below, centre, above = (parts.get(step, zero) for step in (-1, 0, 1))
        l_across, r_across = (_shifted(w, across, periodic) for w in (left, right))
        # A P: a kept point's row reaches the kept points below, itself and above, by step ...
        row = {
            -1: _product(below[0], below_kept(l_across)),
            0: _total(
                _product(below[0], below_kept(r_across)),
                centre[0],
                _product(above[0], above_kept(l_across)),
            ),
            1: _product(above[0], above_kept(r_across)),
        }
        # ... and a between-point's row reaches the two around it.
        to_left = _total(below[1], _product(centre[1], l_across))
        to_right = _total(_product(centre[1], r_across), above[1])
        if wraps and n % 2:  # the seam joins the last kept point to the first
            row[-1] = _total(row[-1], _only(below[0], axis, 0))
            row[1] = _total(row[1], _only(above[0], axis, m - 1))
        result = {
            -1: _total(row[-1], below_kept(to_left, right)),
            0: _total(row[0], below_kept(to_right, right), above_kept(to_left, left)),
            1: _total(row[1], above_kept(to_right, left)),
        }
        if across == (0,) * len(across):
            # What remains of a part of the grid that nothing holds is zero, but for rounding.
            xp, size = namespace(left), abs(centre[0])
            rounding = 32 * float(jnp.finfo(size.dtype).eps)
            result[0] = xp.where(abs(result[0]) <= rounding * size, 0, result[0])
        for step, coefficient in result.items():
            offset = across[:axis] + (step,) + across[axis + 1 :]
            if coefficient is not None and not (mirrored and offset < (0,) * len(offset)):
                coarse[offset] = coefficient
    if mirrored:
        for offset, coefficient in tuple(coarse.items()):
            back = tuple(-k for k in offset)
            coarse[back] = coarse.get(back, _shifted(coefficient, back, periodic))
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


def _product(x: Any, y: Any) -> Any:
    return None if x is None or y is None else x * y


def _total(*terms: Any) -> Any:
    present = [term for term in terms if term is not None]
    return sum(present[1:], start=present[0]) if present else None

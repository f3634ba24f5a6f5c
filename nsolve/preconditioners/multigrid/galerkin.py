"""Coarse grids of varying stencils: operator-dependent interpolation and Galerkin products.

In the plane both axes are halved at once (`black_box`). Elsewhere one axis is coarsened at a time: a dropped
point is interpolated along that axis by its own row of the operator, summed over the other axes (the collapse
of black-box multigrid; Dendy 1982, doi:10.1016/0021-9991(82)90057-2), so that fluxes stay continuous across
jumps of the coefficient, and the next axis then sees the Galerkin product `P^T A P` of the one before. This
needs only short sums, never leaves the `3^d`-point stencils, and halves any subset of the axes.

A stencil here is a dictionary from offsets to full arrays, in which entries that leave the grid are zero.
Small ones are NumPy's and stay on the host; the set-up of larger
ones is one compiled program for each size.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..._arrays import cut, is_traced, namespace, padded
from ...operators.finite_volumes import Offset
from ...operators.stencil import StencilLinearOperator
from .apart import apart, not_nan
from .black_box import coarsen_box
from .coarse import dense_inverse
from .compatible import unrelaxed
from .cycle import Level
from .gauss_seidel import gauss_seidel
from .hybrid import AlgebraicTail, algebraic_tail, turns_algebraic
from .plan import Coarsening
from .smoothers import incomplete_smoother, polynomial_smoother, power_bound
from .smoothing import Smoothing
from .stencils import Kind, Stencil, as_operator, diagonal_of, masked, neighbour
from .transfer import AxisInterpolation, fitted, kept_size, lower, split, upper

#: Grids of so few points are set up by NumPy, where they are known.
_SMALL = 64**2


def galerkin_hierarchy(
    operator: StencilLinearOperator, plan: Coarsening, decide: bool, tail: AlgebraicTail | None = None
):
    """All levels, the coarsest grid's solver, and the plan, which ends where a grid turns algebraic; where
    `decide` says so, it is looked at whether one does. An algebraic `tail` is refreshed."""
    plain = _on_host(operator) or is_traced(operator.coefficients)
    make = _made if plain else _compiled_made
    kind, (levels, small, stencil, inverse, shares) = Kind.of(operator), make(operator, plan)
    if decide and not plan.algebraic:
        found = np.asarray(shares).tolist()
        turns = [turns_algebraic(found[: k + 1], len(operator.shape)) for k in range(len(found))]
        if any(turns):
            plan = plan.cut(turns.index(True), operator)
            levels, stencil = _above(levels, small, plan, kind)
            small = None
    if plan.algebraic:
        return on_top(levels, operator), None, algebraic_tail(stencil, kind, tail), plan
    return on_top(levels, operator), small, inverse, plan


def _made(operator: StencilLinearOperator, plan: Coarsening):
    """All levels, the last ones stacked; the coarsest grid's stencil, and its inverse if that is wanted; the
    levels' shares of points as `coarsen` gives them."""
    stencil, kind = masked_stencil(operator), Kind.of(operator)
    levels, shares, small = [], [], None
    for axes in plan.steps[: len(plan.steps) - plan.shared]:
        level, stencil, share = coarsen(stencil, axes, kind, plan)
        levels.append(level)
        shares.append(share)
    if plan.shared:
        small, stencil, more = _coarsen_padded(stencil, plan, kind)
        shares.extend(more[k] for k in range(plan.shared))
    inverse = None if plan.algebraic else dense_inverse(as_operator(stencil, kind))
    xp = namespace(*stencil.values())
    return levels, small, stencil, inverse, xp.stack(shares) if shares else xp.zeros(0)


_compiled_made = eqx.filter_jit(_made)


def _above(levels: list[Level], small: Level | None, plan: Coarsening, kind: Kind):
    """The levels of a plan that has been cut, and the stencil of the grid below them."""
    count = len(plan.steps)
    if count < len(levels):
        return levels[:count], _stencil(levels[count].operator)
    assert small is not None
    # Those that were stacked are made again, in their own sizes.
    levels, stencil = list(levels), _stencil(small.operator, lambda c: np.asarray(c[0]))
    for axes in plan.steps[len(levels) :]:
        level, stencil, _ = coarsen(stencil, axes, kind, plan)
        levels.append(level)
    return levels, stencil


def _stencil(operator: StencilLinearOperator, taken: Callable[[Any], Any] = lambda c: c) -> Stencil:
    return {o: taken(c) for o, c in zip(operator.offsets, operator.coefficients, strict=True)}


def on_top(levels: list[Level], operator: StencilLinearOperator) -> tuple[Level, ...]:
    """The first level with the operator that it was made from, not a copy."""
    return tuple(dataclasses.replace(level, operator=operator) for level in levels[:1]) + tuple(levels[1:])


def _on_host(operator: StencilLinearOperator) -> bool:
    return math.prod(operator.shape) <= _SMALL and not is_traced(operator.coefficients)


def masked_stencil(operator: StencilLinearOperator) -> Stencil:
    """Full arrays, with zeros where an offset leaves the grid: NumPy's where the operator is concrete and so
    small that compiling would take longer than it saves."""
    xp = np if _on_host(operator) else jnp
    stencil = {
        offset: xp.asarray(c) for offset, c in zip(operator.offsets, operator.coefficients, strict=True)
    }
    return masked(stencil, operator.shape, operator.periodic)


def coarsen(stencil: Stencil, axes: tuple[int, ...], kind: Kind, plan: Coarsening):
    """A level, the stencil of the next coarser grid, and the share of points that only that grid can smooth
    (`unrelaxed`; NaN where the operator is not known to be positive, or smoothed by incomplete factors)."""
    smoother, share = _look(stencil, axes, kind, plan.smoothing)
    interpolations, coarse = halve(stencil, axes, kind, plan.energy)
    return Level(as_operator(stencil, kind), smoother, interpolations), coarse, share


def _look(stencil: Stencil, axes: tuple[int, ...], kind: Kind, smoothing: Smoothing):
    """A level's smoother, and the share as `coarsen` gives it."""
    periodic = kind.periodic
    diagonal, dim = diagonal_of(stencil, periodic), len(periodic)
    xp = namespace(diagonal)
    empty = diagonal == 0  # where the grid is padded
    inverse_diagonal = xp.where(empty, 0, 1 / xp.where(empty, 1, diagonal))
    row_sums = xp.asarray(sum(abs(c) for c in stencil.values())) * abs(inverse_diagonal)
    largest, share = row_sums.max(), xp.asarray(np.nan)  # Gershgorin
    if kind.definite and not jnp.iscomplexobj(diagonal):
        if smoothing.margin is not None and len(stencil) > 2 * dim + 1:  # else Gershgorin's is sharp
            bound = partial(power_bound, periodic=periodic)
            found = _run(diagonal, bound, stencil, inverse_diagonal, row_sums / largest)
            largest = xp.minimum(largest, smoothing.margin * found)
        if smoothing.name != "incomplete_cholesky":
            relax = partial(unrelaxed, axes=axes, periodic=periodic)
            share = _run(diagonal, relax, stencil, inverse_diagonal)
    if smoothing.name == "incomplete_cholesky":
        return incomplete_smoother(stencil, kind, smoothing), share
    if smoothing.name in ("multicolour", "line"):
        return gauss_seidel(smoothing, stencil, diagonal, inverse_diagonal), share
    return polynomial_smoother(smoothing, inverse_diagonal, largest, dim, diagonal.dtype, row_sums), share


def _run(diagonal: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    if not isinstance(diagonal, jax.Array):
        return function(*arguments)
    return apart(not_nan(diagonal, diagonal), function, *arguments)


def halve(stencil: Stencil, axes: tuple[int, ...], kind: Kind, energy: bool = False):
    """A level's interpolations, and the stencil of the next coarser grid; `energy` as of `coarsen_box`, where
    all axes are halved."""
    periodic, interpolations = kind.periodic, []
    diagonal = diagonal_of(stencil, periodic)
    # Entries below the diagonal are those above it, read from the other row.
    mirrored = kind.symmetric and not any(periodic)
    seams = any(wraps and n % 2 for wraps, n in zip(periodic, diagonal.shape, strict=True))
    # In space all axes at once, with their many products, are for interpolation that saves steps only.
    at_once = axes == tuple(range(len(periodic))) and not seams and (len(periodic) == 2 or energy)
    steps = [axes] if at_once else [(axis,) for axis in axes]
    for together in steps:
        coarsened = partial(_halved, axes=together, periodic=periodic, mirrored=mirrored, energy=energy)
        interpolation, stencil = _run(diagonal, coarsened, stencil)
        interpolations.append(jax.tree.map(jnp.asarray, interpolation))
    return tuple(interpolations), stencil


def _halved(
    stencil: Stencil, axes: tuple[int, ...], periodic: tuple[bool, ...], mirrored: bool, energy: bool
):
    """The interpolation from the grid with these axes halved, and the stencil there."""
    if len(axes) == len(periodic) > 1:
        interpolation, coarse = coarsen_box(stencil, periodic, mirrored, energy)
    else:
        interpolation, coarse = coarsen_axis(stencil, axes[0], periodic, mirrored)
    return interpolation, _completed(coarse, periodic) if mirrored else coarse


def _completed(coarse: Stencil, periodic: tuple[bool, ...]) -> Stencil:
    """The entries below the diagonal, too."""
    for offset, coefficient in tuple(coarse.items()):
        back = tuple(-k for k in offset)
        coarse[back] = coarse.get(back, neighbour(coefficient, back, periodic))
    return coarse


def _coarsen_padded(stencil: Stencil, plan: Coarsening, kind: Kind):
    """Several levels of one size, stacked, the stencil of the coarsest grid, and the levels' shares of points
    as `coarsen` gives them."""
    axes, shape = plan.steps[-1], next(iter(stencil.values())).shape
    xp, dtype = namespace(*stencil.values()), next(iter(stencil.values())).dtype
    reach = [(-1, 0, 1) if axis in axes else (0,) for axis in range(len(shape))]
    reach = [sorted({k for o in stencil for k in (o[axis],)} | set(r)) for axis, r in enumerate(reach)]
    empty = xp.zeros(shape, dtype)
    full = {offset: stencil.get(offset, empty) for offset in itertools.product(*reach)}

    if xp is np:
        made = []
        for _ in range(plan.shared):
            full, level = _step(full, axes, kind, plan)
            made.append(level)
        stacked, shares = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *made)
    else:
        full, (stacked, shares) = jax.lax.scan(
            lambda stencil, _: _step(stencil, axes, kind, plan), full, None, plan.shared
        )
    return stacked, {offset: fitted(c, plan.coarsest) for offset, c in full.items()}, shares


def _step(stencil: Stencil, axes: tuple[int, ...], kind: Kind, plan: Coarsening):
    level, coarse, share = coarsen(stencil, axes, kind, plan)
    shape = next(iter(stencil.values())).shape
    return {offset: fitted(coarse[offset], shape) for offset in stencil}, (level, share)


def coarsen_axis(stencil: Stencil, axis: int, periodic: tuple[bool, ...], mirrored: bool = False):
    """The interpolation along an axis, and the stencil of `P^T A P`.

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
        l_across, r_across = (neighbour(w, across, periodic) for w in (left, right))
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
    centre = namespace(left).ones((1,) * left.ndim, left.dtype)
    return AxisInterpolation(left, centre, right, axis, n, wraps), coarse


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

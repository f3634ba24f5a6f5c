"""Coarse grids of plane stencils by black-box multigrid: both axes are halved at once.

A point between two kept ones is interpolated along its axis by its own row of the operator, summed over the
other axis, and a point in the middle of four by its whole row, in which the points around it are interpolated
already (Dendy 1982, doi:10.1016/0021-9991(82)90057-2).  The coarse operator is the Galerkin product
`P^T A P`.

Points are sorted by whether they are kept (0) or lie between kept ones (1), along each axis: a *place*.  At
each place `A P` reaches few kept points, counted along each axis by -1, 0, 1 from a kept point, and by 0 and
1 for the one below and the one above a point between.
"""

import itertools
from typing import Any

import jax.numpy as jnp

from ..._arrays import namespace
from .stencils import Stencil
from .transfer import PlaneInterpolation, around, kept_size, lower, split, upper

_PLACES = ((0, 0), (0, 1), (1, 0), (1, 1))
_Place = tuple[int, ...]


def coarsen_plane(stencil: Stencil, periodic: tuple[bool, ...], mirrored: bool):
    """The interpolation, and the stencil of `P^T A P`; where the operator is symmetric, `mirrored` spares
    half of the work."""
    shape = next(iter(stencil.values())).shape
    kept = tuple(kept_size(n, wraps) for n, wraps in zip(shape, periodic, strict=True))
    rows = {offset: _sorted(coefficient, periodic) for offset, coefficient in stencil.items()}
    grid = _Grid(shape, kept, periodic)
    weights = _weights(rows, grid)
    reached = {place: _product(rows, weights, place, grid) for place in _PLACES}
    coarse: dict[_Place, Any] = {}
    for place in _PLACES:
        # A point between gives to the one below it (side 0), and to the one above.
        for sides in itertools.product(*((0, 1) if between else (0,) for between in place)):
            for columns, value in reached[place].items():
                offset = tuple(
                    column - 1 + (1 - side) if between else column
                    for between, side, column in zip(place, sides, columns, strict=True)
                )
                if mirrored and offset < (0, 0):
                    continue
                weight = weights[place].get(sides)
                value_here = value if weight is None else weight * value
                for axis, (between, side) in enumerate(zip(place, sides, strict=True)):
                    if between:
                        value_here = (lower if side else upper)(value_here, axis, kept[axis])
                coarse[offset] = coarse[offset] + value_here if offset in coarse else value_here
    # What remains of a part of the grid that nothing holds is zero, but for rounding.
    size = abs(rows[0, 0][0, 0])
    xp, rounding = namespace(size), 32 * float(jnp.finfo(size.dtype).eps)
    coarse[0, 0] = xp.where(abs(coarse[0, 0]) <= rounding * size, 0, coarse[0, 0])
    corners = (weights[1, 1][0, 0], weights[1, 1][0, 1]), (weights[1, 1][1, 0], weights[1, 1][1, 1])
    along = (weights[1, 0][0, 0], weights[1, 0][1, 0]), (weights[0, 1][0, 0], weights[0, 1][0, 1])
    return PlaneInterpolation(along, corners, (shape[0], shape[1]), (periodic[0], periodic[1])), coarse


class _Grid:
    """How arrays at one place are read at another."""

    def __init__(self, shape: tuple[int, ...], kept: tuple[int, ...], periodic: tuple[bool, ...]):
        self._shape, self._kept, self._periodic = shape, kept, periodic

    def seen(self, x: Any, place: _Place, offset: _Place) -> Any:
        """The neighbours at `offset` of the points at `place`, of an array where these neighbours are."""
        for axis, (between, step) in enumerate(zip(place, offset, strict=True)):
            if step and between:
                x = around(x, axis, self._shape[axis], self._periodic[axis])[step > 0]
            elif step:
                x = (upper if step > 0 else lower)(x, axis, self._kept[axis])
        return x


def _sorted(x: Any, periodic: tuple[bool, ...]) -> dict[_Place, Any]:
    """An array by the places of its points."""
    parts = zip((0, 1), split(x, 0, periodic[0]), strict=True)
    return {(i, k): y for i, part in parts for k, y in enumerate(split(part, 1, periodic[1]))}


def _neighbour(place: _Place, offset: _Place) -> _Place:
    return place[0] ^ (offset[0] & 1), place[1] ^ (offset[1] & 1)


def _weights(rows: dict[_Place, dict[_Place, Any]], grid: _Grid) -> dict[_Place, dict[_Place, Any]]:
    """For each place the weights of the kept points around it, by their sides; a kept one takes itself."""
    weights: dict[_Place, dict[_Place, Any]] = {(0, 0): {}}
    for axis, place in enumerate(((1, 0), (0, 1))):
        like, along = rows[0, 0][place], {-1: [], 0: [], 1: []}
        for offset, parts in rows.items():
            along[offset[axis]].append(parts[place])
        below, centre, above = (_total(terms, like) for terms in along.values())
        first, second = _shares([below, above], centre)
        weights[place] = {(0, 0): first, place: second}
    sides, shares = list(itertools.product((0, 1), repeat=2)), []
    for x, y in sides:
        s, t = 2 * x - 1, 2 * y - 1
        terms = []
        if (s, t) in rows:
            terms.append(rows[s, t][1, 1])
        if (s, 0) in rows:
            terms.append(rows[s, 0][1, 1] * grid.seen(weights[0, 1][0, y], (1, 1), (s, 0)))
        if (0, t) in rows:
            terms.append(rows[0, t][1, 1] * grid.seen(weights[1, 0][x, 0], (1, 1), (0, t)))
        shares.append(_total(terms, rows[0, 0][1, 1]))
    weights[1, 1] = dict(zip(sides, _shares(shares, rows[0, 0][1, 1]), strict=True))
    return weights


def _total(terms: list[Any], like: Any) -> Any:
    return sum(terms[1:], start=terms[0]) if terms else namespace(like).zeros_like(like)


def _shares(couplings: list[Any], centre: Any) -> list[Any]:
    xp, dtype = namespace(centre), centre.dtype
    # Complex operators are interpolated by their real part: P^T and P^H agree.
    centre = xp.real(centre)
    safe = xp.where(centre == 0, 1, centre)
    zero = xp.zeros_like(centre)
    return [xp.clip(xp.where(centre == 0, zero, -xp.real(x) / safe), 0, 1).astype(dtype) for x in couplings]


def _product(rows: dict, weights: dict, place: _Place, grid: _Grid) -> dict[_Place, Any]:
    """The rows of `A P` at a place, by the kept points that they reach."""
    total: dict[_Place, Any] = {}
    for offset, parts in rows.items():
        there = _neighbour(place, offset)
        for sides in itertools.product(*((0, 1) if between else (0,) for between in there)):
            columns = tuple(
                # A kept point sees those between it and the next ...
                (step - 1) // 2 + side
                if step and not between
                # ... one between sees kept ones, or the two around itself.
                else (step + 1) // 2
                if step
                else side
                for between, step, side in zip(place, offset, sides, strict=True)
            )
            weight = weights[there].get(sides)
            value = parts[place]
            if weight is not None:
                value = value * grid.seen(weight, place, offset)
            total[columns] = total[columns] + value if columns in total else value
    return total

"""Coarse grids of stencils by black-box multigrid: all axes are halved at once.

A point between two kept ones is interpolated along its axis by its own row of the operator, summed over the
other axes; a point in the middle of four by its row summed over the axes that are left, in which the points
around it are interpolated already; in space one in the middle of eight by its whole row (Dendy 1982,
doi:10.1016/0021-9991(82)90057-2).  The coarse operator is the Galerkin product `P^T A P`.

Points are sorted by whether they are kept (0) or lie between kept ones (1), along each axis: a *place*.  The
kept points around one are told by their *directions* from it, -1 or 1 along an axis on which it lies between,
else 0.  `A P` reaches kept points at *distances* in points of the fine grid: even ones from where a point is
kept, odd ones from between.
"""

import itertools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from ..._arrays import namespace
from .stencils import Stencil
from .transfer import BoxInterpolation, around, kept_size, lower, split, upper

#: Steps towards the interpolation of least energy.
_ENERGY_STEPS = 3
_Place = tuple[int, ...]
_Direction = tuple[int, ...]


def coarsen_box(stencil: Stencil, periodic: tuple[bool, ...], mirrored: bool, energy: bool = False):
    """The interpolation, and the stencil of `P^T A P`; where the operator is symmetric, `mirrored` spares
    half of the work. `energy`: whether interpolation is improved until the trace of that is nearly smallest,
    of symmetric positive operators."""
    shape = next(iter(stencil.values())).shape
    kept = tuple(kept_size(n, wraps) for n, wraps in zip(shape, periodic, strict=True))
    rows = {offset: _sorted(coefficient, periodic) for offset, coefficient in stencil.items()}
    grid, zero = _Grid(shape, kept, periodic), (0,) * len(shape)
    weights = _weights(rows, grid)
    if energy:
        weights = _least_energy(rows, weights, grid)
    coarse: Stencil = {}
    for place in _places(len(shape)):
        for distance, value in _product(rows, weights, place, grid).items():
            for direction in _directions(place):
                offset = tuple((far - near) // 2 for far, near in zip(distance, direction, strict=True))
                if mirrored and offset < zero:
                    continue
                given = value if direction == zero else weights[direction] * value
                for axis, side in enumerate(direction):
                    if side:
                        given = (lower if side > 0 else upper)(given, axis, kept[axis])
                coarse[offset] = coarse[offset] + given if offset in coarse else given
    # What remains of a part of the grid that nothing holds is zero, but for rounding.
    size = abs(rows[zero][zero])
    xp, rounding = namespace(size), 32 * float(jnp.finfo(size.dtype).eps)
    coarse[zero] = xp.where(abs(coarse[zero]) <= rounding * size, 0, coarse[zero])
    return BoxInterpolation(weights, shape, periodic), coarse


class _Grid:
    """How arrays at one place are read at another."""

    def __init__(self, shape: tuple[int, ...], kept: tuple[int, ...], periodic: tuple[bool, ...]):
        self._shape, self._kept, self._periodic = shape, kept, periodic

    def seen(self, x: Any, place: _Place, offset: _Direction) -> Any:
        """The neighbours at `offset` of the points at `place`, of an array where these neighbours are."""
        for axis, (between, step) in enumerate(zip(place, offset, strict=True)):
            if step and between:
                x = around(x, axis, self._shape[axis], self._periodic[axis])[step > 0]
            elif step:
                x = (upper if step > 0 else lower)(x, axis, self._kept[axis])
        return x


def _places(dim: int) -> list[_Place]:
    """Kept ones first, then those whose neighbours come before."""
    return sorted(itertools.product((0, 1), repeat=dim), key=sum)


def _directions(place: _Place) -> Iterable[_Direction]:
    """To the kept points around."""
    return itertools.product(*((-1, 1) if between else (0,) for between in place))


def _sorted(x: Any, periodic: tuple[bool, ...]) -> dict[_Place, Any]:
    """An array by the places of its points."""
    parts: dict[_Place, Any] = {(): x}
    for axis, wraps in enumerate(periodic):
        parts = {
            (*place, between): y
            for place, part in parts.items()
            for between, y in enumerate(split(part, axis, wraps))
        }
    return parts


def _weights(rows: dict[_Direction, dict[_Place, Any]], grid: _Grid) -> dict[_Direction, Any]:
    """What points take of the kept points around them, by direction."""
    weights: dict[_Direction, Any] = {}
    for place in _places(len(next(iter(rows))))[1:]:
        along: dict[_Direction, list[Any]] = {}  # the rows, summed over the axes on which a point is kept
        for offset, parts in rows.items():
            among = tuple(step * between for step, between in zip(offset, place, strict=True))
            along.setdefault(among, []).append(parts[place])
        summed = {offset: _total(terms) for offset, terms in along.items()}
        centre, shares = summed.pop((0,) * len(place)), {}
        for direction in _directions(place):
            terms = []
            for offset, coefficient in summed.items():
                if any(step not in (0, side) for step, side in zip(offset, direction, strict=True)):
                    continue
                rest = tuple(side - step for side, step in zip(direction, offset, strict=True))
                there = weights.get(rest)  # of a neighbour that is interpolated itself
                terms.append(coefficient if there is None else coefficient * grid.seen(there, place, offset))
            shares[direction] = _total(terms) if terms else namespace(centre).zeros_like(centre)
        weights |= {direction: _share(coupling, centre) for direction, coupling in shares.items()}
    return weights


def _total(terms: list[Any]) -> Any:
    return sum(terms[1:], start=terms[0])


def _share(coupling: Any, centre: Any) -> Any:
    xp, dtype = namespace(centre), centre.dtype
    # Complex operators are interpolated by their real part: P^T and P^H agree.
    centre = xp.real(centre)
    safe, zero = xp.where(centre == 0, 1, centre), xp.zeros_like(centre)
    return xp.clip(xp.where(centre == 0, zero, -xp.real(coupling) / safe), 0, 1).astype(dtype)


def _least_energy(
    rows: dict[_Direction, dict[_Place, Any]], weights: dict[_Direction, Any], grid: _Grid
) -> dict[_Direction, Any]:
    """Steps of conjugate gradients, scaled by the diagonal, towards the least trace of `P^T A P` among all
    weights with the same sums, where there are weights."""
    places = _places(len(next(iter(rows))))[1:]
    centres = rows[(0,) * len(places[0])]
    xp = namespace(*weights.values())
    # Nothing is taken of points that nothing was taken of: beyond the grid, and where cells are inactive.
    there = {direction: (weight != 0).astype(weight.dtype) for direction, weight in weights.items()}

    def projected(x: dict) -> dict:
        result = {}
        for place in places:
            inside = list(_directions(place))
            mean = _total([x[d] * there[d] for d in inside]) / xp.maximum(
                _total([there[d] for d in inside]), 1
            )
            result |= {d: (x[d] - mean) * there[d] for d in inside}
        return result

    def scaled(x: dict) -> dict:
        return {
            d: xp.where(centre == 0, 0, y / xp.where(centre == 0, 1, centre))
            for d, y in x.items()
            for centre in (centres[tuple(map(abs, d))],)
        }

    def dot(x: dict, y: dict) -> Any:
        return _total([xp.sum(x[d] * y[d]) for d in x])

    def forces(x: dict, whole: bool) -> dict:
        found: dict[_Direction, Any] = {}
        for place in places:
            product = _product(rows, x, place, grid, whole)
            found |= {d: product[d] for d in _directions(place)}
        return projected(found)

    def step(carry):
        weights, r, z, p, size = carry
        q = forces(p, False)
        curvature = dot(p, q)
        length = xp.where(curvature > 0, size / xp.where(curvature > 0, curvature, 1), 0)
        weights, r = {d: weights[d] + length * p[d] for d in p}, {d: r[d] - length * q[d] for d in r}
        z, before = scaled(r), size
        size = dot(r, z)
        ratio = xp.where(before > 0, size / xp.where(before > 0, before, 1), 0)
        return weights, r, z, {d: z[d] + ratio * p[d] for d in p}, size

    r = {d: -x for d, x in forces(weights, True).items()}
    z = scaled(r)
    carry = weights, r, z, z, dot(r, z)
    if xp is jnp:
        return jax.lax.fori_loop(0, _ENERGY_STEPS, lambda _, carry: step(carry), carry)[0]
    for _ in range(_ENERGY_STEPS):
        carry = step(carry)
    return carry[0]


def _product(
    rows: dict, weights: dict, place: _Place, grid: _Grid, kept: bool = True
) -> dict[tuple[int, ...], Any]:
    """The rows of `A P` at a place, by the distances of the kept points that they reach; `kept`: whether
    kept points take themselves."""
    total: dict[tuple[int, ...], Any] = {}
    for offset, parts in rows.items():
        there = tuple(between ^ (step & 1) for between, step in zip(place, offset, strict=True))
        if not (kept or any(there)):
            continue
        for direction in _directions(there):
            distance = tuple(step + side for step, side in zip(offset, direction, strict=True))
            weight, value = weights.get(direction), parts[place]
            if weight is not None:
                value = value * grid.seen(weight, place, offset)
            total[distance] = total[distance] + value if distance in total else value
    return total

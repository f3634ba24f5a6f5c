"""Which axes each coarsening step halves, and where a direct solver takes over."""

from typing import NamedTuple

import numpy as np

from ..._arrays import is_traced
from ...operators.finite_volumes import unit_offset
from ...operators.stencil import StencilLinearOperator
from .transfer import kept_size

#: Points at which coarsening stops: fast diagonalisation takes more than a dense inverse, whose
#: elimination stays within one thread at 64.
_COARSEST = {True: 4096, False: 64}
#: Longest axis of a coarsest grid.
_LONGEST = {True: 128, False: 64}
#: Axes of so few points are never halved; 64 points are always few enough for a direct solver.
_SHORTEST = 4
#: Points up to which grids are padded to a common size.
_SHARED = 64**2
#: Axes coupled less than this, relative to the strongest, are not coarsened yet.
_STRONG = 0.3


class Coarsening(NamedTuple):
    """For each coarsening step the axes that are halved; hashable.

    The last `shared` grids are padded to the size of the first of them, so that one program, run
    again and again, serves them all: it is the many small grids that take long to compile.
    """

    constant: bool
    steps: tuple[tuple[int, ...], ...]
    coarsest: tuple[int, ...]
    shared: int


def plan_coarsening(operator: StencilLinearOperator, constant: bool) -> Coarsening:
    """Halves all axes that are strongly coupled, until a direct solver can take over."""
    shape, periodic = list(operator.shape), operator.periodic
    strength = _coupling(operator)
    steps, sizes = [], []
    while np.prod(shape) > _COARSEST[constant] or max(shape) > _LONGEST[constant]:
        long = [axis for axis, n in enumerate(shape) if n > _SHORTEST]
        strongest = max(strength[axis] for axis in long)
        axes = tuple(axis for axis in long if strength[axis] >= _STRONG * strongest)
        sizes.append(int(np.prod(shape)))
        for axis in axes:
            shape[axis] = kept_size(shape[axis], periodic[axis])
            strength[axis] /= 4
        steps.append(axes)
    may_share = not constant and not any(periodic)
    same = [k for k, size in enumerate(sizes) if k and size <= _SHARED and set(steps[k:]) == {steps[-1]}]
    return Coarsening(constant, tuple(steps), tuple(shape), len(same) if may_share and len(same) > 1 else 0)


def _coupling(operator: StencilLinearOperator) -> list[float]:
    """Typical size of the coefficients along each axis; equal where they are traced."""
    dim = len(operator.shape)
    coupling = [0.0] * dim
    if any(map(is_traced, operator.coefficients)):
        return [1.0] * dim
    for offset, coefficient in zip(operator.offsets, operator.coefficients, strict=True):
        for axis in range(dim):
            if offset in (unit_offset(dim, axis, -1), unit_offset(dim, axis, 1)):
                coupling[axis] += float(np.mean(np.abs(coefficient)))
    return coupling

"""From which level on a grid asks for algebraic multigrid, as a part of it tells, on the host: nothing is
compiled, and grids of any size take as long as a small one."""

import itertools

import numpy as np

from ...operators.stencil import StencilLinearOperator
from .compatible import unrelaxed
from .galerkin import halve
from .hybrid import turns_algebraic
from .plan import Coarsening
from .stencils import Kind, Stencil, diagonal_of, masked

#: Points along an axis of the part by dimension, and below which a grid tells nothing.
_PART, _FEWEST = {1: 1024, 2: 128, 3: 32}, 8


@np.errstate(all="ignore")  # the solve says what is not finite
def algebraic_level(operator: StencilLinearOperator, plan: Coarsening) -> int | None:
    """The first level that has to be coarsened by the matrix; None where all may be halved."""
    stencil, dim = _part(operator), len(operator.shape)
    kind = Kind.of(operator)._replace(periodic=(False,) * dim)
    shares = []
    for axes in plan.steps:
        diagonal = diagonal_of(stencil, kind.periodic)
        if min(diagonal.shape[axis] for axis in axes) < _FEWEST:
            break
        inverse_diagonal = np.where(diagonal == 0, 0, 1 / np.where(diagonal == 0, 1, diagonal))
        shares.append(unrelaxed(stencil, inverse_diagonal, axes, kind.periodic))
        if turns_algebraic(shares, dim):
            return len(shares) - 1
        _, stencil = halve(stencil, axes, kind)
    return None


def _part(operator: StencilLinearOperator) -> Stencil:
    """The part whose diagonal varies most; it starts where a kept point of the whole would be the second."""
    shape, most = operator.shape, _PART[len(operator.shape)]
    size = tuple(min(n, most) for n in shape)
    diagonal = np.asarray(diagonal_of(_full(operator), (True,) * len(shape)))
    logarithm = np.log(np.where(diagonal > 0, diagonal, 1))
    parts = [
        tuple(slice(first, first + m) for first, m in zip(corner, size, strict=True))
        for corner in itertools.product(
            *(range(0, n - m + 1, m + m % 2) for n, m in zip(shape, size, strict=True))
        )
    ]
    inside = max(parts, key=lambda part: np.var(logarithm[part]))
    return masked({o: c[inside] for o, c in _full(operator).items()}, size, (False,) * len(shape))


def _full(operator: StencilLinearOperator) -> Stencil:
    """Of all offsets, coefficients on the whole grid."""
    return {
        offset: np.broadcast_to(np.asarray(c), operator.shape)
        for offset, c in zip(operator.offsets, operator.coefficients, strict=True)
    }

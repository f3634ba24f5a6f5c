"""Stencils as dictionaries, from offsets to full arrays in which entries that leave the grid are zero.  The
arrays are NumPy's, on the host, or JAX's."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import lineax as lx

from ..._arrays import cut, namespace, padded
from ...operators.base import require_operator, untagged
from ...operators.convert import as_stencil
from ...operators.finite_volumes import Offset
from ...operators.stencil import StencilLinearOperator

Stencil = dict[Offset, Any]


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


def on_grid(operator: lx.AbstractLinearOperator, who: str, otherwise: str) -> StencilLinearOperator:
    """The operator as a stencil; `otherwise` says what to do with one that is none."""
    require_operator(operator, f"operator of {who}")
    stencil = as_stencil(operator)
    if stencil is None:
        raise ValueError(
            f"`{who}` is geometric: it needs a grid and takes a `StencilLinearOperator`, but was given a "
            f"{type(untagged(operator)).__name__}. {otherwise}"
        )
    return stencil


class Kind(NamedTuple):
    """What is true of an operator on all grids; hashable."""

    periodic: tuple[bool, ...]
    tags: frozenset[object]
    symmetric: bool
    definite: bool

    @staticmethod
    def of(operator: StencilLinearOperator) -> "Kind":
        symmetric, definite = bool(lx.is_symmetric(operator)), bool(lx.is_positive_semidefinite(operator))
        return Kind(operator.periodic, operator.tags, symmetric, definite)


def as_operator(stencil: Stencil, kind: Kind) -> StencilLinearOperator:
    """Of any grid."""
    return StencilLinearOperator(
        coefficients=tuple(jnp.asarray(c) for c in stencil.values()),
        offsets=tuple(stencil),
        shape=next(iter(stencil.values())).shape,
        periodic=kind.periodic,
        tags=kind.tags,
    )


def diagonal_of(stencil: Stencil, periodic: tuple[bool, ...]) -> Any:
    """The centre, and on periodic axes of one point their neighbours, which are the same."""
    shape = next(iter(stencil.values())).shape
    itself = [
        coefficient
        for offset, coefficient in stencil.items()
        if all(k == 0 or w and n == 1 for k, n, w in zip(offset, shape, periodic, strict=True))
    ]
    return sum(itself[1:], start=itself[0])


def neighbour(x: Any, offset: Offset, periodic: tuple[bool, ...]) -> Any:
    """`x[i + offset]`, zero outside or wrapped around."""
    for axis, (step, wraps) in enumerate(zip(offset, periodic, strict=True)):
        if step and wraps:
            x = namespace(x).roll(x, -step, axis)
        elif step:
            n = x.shape[axis]
            inside = cut(x, axis, max(0, step), n - max(0, -step))
            x = padded(inside, axis, max(0, -step), max(0, step))
    return x


def product(stencil: Stencil, x: Any, periodic: tuple[bool, ...]) -> Any:
    """`A x`."""
    return sum(c * neighbour(x, offset, periodic) for offset, c in stencil.items())

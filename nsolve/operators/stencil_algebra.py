"""Sums, products and scalings of stencils: on the joint offsets, or the sums of two offsets.

A product takes into account that what a factor reads beyond a wall is zero: constant coefficients come out
varying there.  Tags are not set here: see `tags`.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from .finite_volumes import Offset
from .stencil import StencilLinearOperator, shifted
from .values import common_dtype, complex_dtype


class NoStencil(Exception):
    """An axis wraps around in one operator and ends in another: their sum or product is no stencil."""


def diagonal(entries: Array, shape: tuple[int, ...]) -> StencilLinearOperator:
    """`diag(d)`: a number, or an array that broadcasts to the grid."""
    size = entries.shape and (1,) * (len(shape) - entries.ndim) + entries.shape
    centre = (0,) * len(shape)
    return StencilLinearOperator((entries.reshape(size),), (centre,), shape, (False,) * len(shape))


def add(first: StencilLinearOperator, second: StencilLinearOperator) -> StencilLinearOperator:
    """`A + B`."""
    dtype = common_dtype(first.dtype, second.dtype)
    terms = [
        (offset, coefficient.astype(dtype))
        for operator in (first, second)
        for offset, coefficient in zip(operator.offsets, operator.coefficients, strict=True)
    ]
    return _collected(terms, first, _periodic(first, second))


def multiply(operator: StencilLinearOperator, scalar: Any) -> StencilLinearOperator:
    """`s A`; a complex `s` makes a real operator complex."""
    return _of_each(jnp.multiply, operator, scalar)


def divide(operator: StencilLinearOperator, scalar: Any) -> StencilLinearOperator:
    """`A / s`."""
    return _of_each(jnp.divide, operator, scalar)


def negate(operator: StencilLinearOperator) -> StencilLinearOperator:
    """`-A`."""
    return _like(operator, tuple(-c for c in operator.coefficients))


def scale(left: Array, operator: StencilLinearOperator, right: Array, keeps: Any) -> StencilLinearOperator:
    """`diag(left) A diag(right)`."""
    del keeps
    first, last = diagonal(left, operator.shape), diagonal(right, operator.shape)
    return compose(compose(first, operator), last)


def compose(first: StencilLinearOperator, second: StencilLinearOperator) -> StencilLinearOperator:
    """`A B`."""
    periodic = _periodic(first, second)
    dtype = common_dtype(first.dtype, second.dtype)
    terms = []
    for step, a in zip(first.offsets, first.coefficients, strict=True):
        for further, b in zip(second.offsets, second.coefficients, strict=True):
            offset = tuple(k + m for k, m in zip(step, further, strict=True))
            terms.append((offset, a.astype(dtype) * _moved(b.astype(dtype), step, first.shape, periodic)))
    return _collected(terms, first, periodic)


def _moved(c: Array, step: tuple[int, ...], shape: tuple[int, ...], periodic: tuple[bool, ...]) -> Array:
    """The coefficient that stands at the neighbour: zero beyond a wall."""
    if not any(step):
        return c
    c = c.reshape(c.shape or (1,) * len(shape))
    axes = zip(c.shape, shape, step, periodic, strict=True)
    size = tuple(n if k and not wraps else m for m, n, k, wraps in axes)
    return shifted(jnp.broadcast_to(c, size), step, periodic)


def _periodic(first: StencilLinearOperator, second: StencilLinearOperator) -> tuple[bool, ...]:
    """Which axes wrap around in both; where an operator does not move along an axis, the other decides."""
    joint = []
    for axis, wraps in enumerate(zip(first.periodic, second.periodic, strict=True)):
        moves = [any(offset[axis] for offset in operator.offsets) for operator in (first, second)]
        if all(moves) and wraps[0] != wraps[1]:
            raise NoStencil
        joint.append(wraps[1] if moves[1] else wraps[0])
    return tuple(joint)


def _collected(
    terms: list[tuple[Offset, Array]], like: StencilLinearOperator, periodic: tuple[bool, ...]
) -> StencilLinearOperator:
    """The stencil with these offsets and coefficients, those of one offset summed."""
    sums: dict[Offset, Array] = {}
    for offset, coefficient in terms:
        sums[offset] = sums[offset] + coefficient if offset in sums else coefficient
    return StencilLinearOperator(tuple(sums.values()), tuple(sums), like.shape, periodic)


def _of_each(function: Any, operator: StencilLinearOperator, scalar: Any) -> StencilLinearOperator:
    dtype = operator.dtype
    if jnp.iscomplexobj(scalar):
        dtype = complex_dtype(dtype)
    scalar = jnp.asarray(scalar, dtype)
    return _like(operator, tuple(function(c.astype(dtype), scalar) for c in operator.coefficients))


def _like(operator: StencilLinearOperator, coefficients: tuple[Array, ...]) -> StencilLinearOperator:
    return StencilLinearOperator(coefficients, operator.offsets, operator.shape, operator.periodic)

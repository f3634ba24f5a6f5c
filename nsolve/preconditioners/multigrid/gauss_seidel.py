"""Gauss and Seidel's sweeps by colours: points, or lines of points, of one colour are solved for at once.

Colours are parities: of the sum of a point's indices where the operator couples it along the axes only, else
of each index, so that points of one colour are not coupled. At the seam of a periodic axis of odd length they
are: there the sweep is Jacobi's, and its adjoint still the one in the reverse order.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..._arrays import namespace
from ...operators.finite_volumes import unit_offset
from ...operators.stencil import StencilLinearOperator
from .smoothing import AbstractSmoother, Smoothing
from .stencils import Stencil


class Lines(eqx.Module):
    """The lines along an axis, each a tridiagonal matrix `(I + L) D (I + U)`; a periodic axis is cut open.

    Arrays have that axis in front. The entries of `L` and `U` between a point and the next one stand where
    the point does, so that the transpose swaps them."""

    lower: Array
    upper: Array
    inverse_pivots: Array
    axis: int = eqx.field(static=True)

    def solve(self, r: Array) -> Array:
        """Solves all lines."""

        def forward(left, lower_r):
            lower, r = lower_r
            y = r - left
            return lower * y, y

        def backward(x, upper_y):
            upper, y = upper_y
            x = y - upper * x
            return x, x

        r = jnp.moveaxis(r, self.axis, 0)
        nothing = jnp.zeros_like(r[0])
        _, y = jax.lax.scan(forward, nothing, (self.lower, r))
        _, x = jax.lax.scan(backward, nothing, (self.upper, self.inverse_pivots * y), reverse=True)
        return jnp.moveaxis(x, 0, self.axis)

    def transpose(self) -> "Lines":
        return Lines(self.upper, self.lower, self.inverse_pivots, self.axis)


def factorised_lines(stencil: Stencil, diagonal: Any, axis: int) -> Lines:
    """The lines of a stencil along an axis; a part of one that nothing holds is zero at its last point."""
    xp, dim = namespace(diagonal), diagonal.ndim
    below, above = (stencil.get(unit_offset(dim, axis, step), xp.zeros_like(diagonal)) for step in (-1, 1))
    below, centre, above = (xp.moveaxis(c, axis, 0) for c in (below, diagonal, above))
    inside = (np.arange(len(centre)) > 0).reshape(-1, *(1,) * (dim - 1))
    rows = xp.where(inside, below, 0), centre, xp.where(inside[::-1], above, 0)
    rounding = 32 * float(jnp.finfo(diagonal.dtype).eps)

    def eliminate(last, row):
        (inverse, above_last), (below, centre, above) = last, row
        lower = below * inverse
        pivot = centre - lower * above_last
        null = abs(pivot) <= rounding * abs(centre)
        inverse = xp.where(null, 0, 1 / xp.where(null, 1, pivot))
        return (inverse, above), (lower, inverse, inverse * above)

    start = xp.zeros_like(centre[0]), xp.zeros_like(centre[0])
    if xp is np:
        made = []
        for row in zip(*rows, strict=True):
            start, factors = eliminate(start, row)
            made.append(factors)
        lower, inverse, upper = (np.stack(arrays) for arrays in zip(*made, strict=True))
    else:
        _, (lower, inverse, upper) = jax.lax.scan(eliminate, start, rows)
    lower = xp.roll(lower, -1, 0)  # the first is zero
    return Lines(jnp.asarray(lower), jnp.asarray(upper), jnp.asarray(inverse), axis)


class GaussSeidel(AbstractSmoother):
    """Sweeps over all colours of points, or of the lines along each axis in turn; after the coarser grid in
    the reverse order."""

    inverse_diagonal: Array
    lines: tuple[Lines, ...]
    sweeps: int = eqx.field(static=True)

    def from_zero(self, operator: StencilLinearOperator, b: Array) -> Array:
        """Sweeps from zero, whose first colour needs no product."""
        colours, _ = _colours(operator, self._across(operator, 0))
        x = self._swept(operator, jnp.where(colours == 0, self._solved(0, b), 0), b, False, begun=1)
        return jax.lax.fori_loop(1, self.sweeps, lambda _, x: self._swept(operator, x, b, False), x)

    def improve(self, operator: StencilLinearOperator, x: Array, b: Array) -> Array:
        """Sweeps from `x`."""
        return jax.lax.fori_loop(0, self.sweeps, lambda _, x: self._swept(operator, x, b, True), x)

    def transpose(self) -> "GaussSeidel":
        return GaussSeidel(self.inverse_diagonal, tuple(line.transpose() for line in self.lines), self.sweeps)

    def __repr__(self) -> str:
        kind = "zebra line" if self.lines else "multicolour"
        return f"{self.sweeps} + {self.sweeps} {kind} Gauss-Seidel sweeps"

    def _swept(
        self, operator: StencilLinearOperator, x: Array, b: Array, backward: bool, begun: int = 0
    ) -> Array:
        """After one sweep, of which so many colours are done already."""
        stages = range(max(1, len(self.lines)))
        for stage in reversed(stages) if backward else stages:
            colours, count = _colours(operator, self._across(operator, stage))

            def improve(k, x, stage=stage, colours=colours, count=count):
                k = count - 1 - k if backward else k
                return x + jnp.where(colours == k, self._solved(stage, b - operator.mv(x)), 0)

            x = jax.lax.fori_loop(begun if stage == 0 else 0, count, improve, x)
        return x

    def _solved(self, stage: int, r: Array) -> Array:
        return self.lines[stage].solve(r) if self.lines else self.inverse_diagonal * r

    def _across(self, operator: StencilLinearOperator, stage: int) -> tuple[int, ...]:
        """The axes along which colours alternate."""
        along = self.lines[stage].axis if self.lines else None
        return tuple(axis for axis in range(len(operator.shape)) if axis != along)


def gauss_seidel(smoothing: Smoothing, stencil: Stencil, diagonal: Any, inverse_diagonal: Any) -> GaussSeidel:
    """The smoother of a stencil, by points or by lines along all axes."""
    axes = [axis for axis, n in enumerate(diagonal.shape) if n > 1] if smoothing.name == "line" else []
    lines = tuple(factorised_lines(stencil, diagonal, axis) for axis in axes)
    return GaussSeidel(jnp.asarray(inverse_diagonal), lines, smoothing.sweeps)


def _colours(operator: StencilLinearOperator, axes: tuple[int, ...]) -> tuple[Array, int]:
    """The colour of each point, and how many there are."""
    parities = [jax.lax.broadcasted_iota(jnp.int32, operator.shape, axis) % 2 for axis in axes]
    if not axes:
        return jnp.zeros(operator.shape, jnp.int32), 1
    if all(sum(offset[axis] != 0 for axis in axes) <= 1 for offset in operator.offsets):
        return sum(parities) % 2, 2  # pyright: ignore[reportReturnType]
    return sum(parity << place for place, parity in enumerate(parities)), 2 ** len(axes)  # pyright: ignore[reportReturnType]

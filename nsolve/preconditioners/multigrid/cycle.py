"""The V-cycle on levels, wherever these come from."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array

from ...operators.stencil import StencilLinearOperator
from .apart import apart, not_nan
from .smoothers import ChebyshevJacobi, IncompleteSmoother
from .transfer import AxisInterpolation, BoxInterpolation, coarser, fitted


class AbstractLevel(eqx.Module):
    """A grid, and what a cycle does on it."""

    operator: eqx.AbstractVar[StencilLinearOperator]
    smoother: eqx.AbstractVar[ChebyshevJacobi | IncompleteSmoother]

    @abc.abstractmethod
    def restrict(self, r: Array) -> Array:
        """To the next coarser grid."""

    @abc.abstractmethod
    def prolong(self, e: Array) -> Array:
        """From the next coarser grid."""


class Level(AbstractLevel):
    """A grid: its operator, smoother, and interpolation from the next coarser one by axes."""

    operator: StencilLinearOperator
    smoother: ChebyshevJacobi | IncompleteSmoother
    interpolations: tuple[AxisInterpolation | BoxInterpolation, ...]

    def restrict(self, r: Array) -> Array:
        for interpolation in self.interpolations:
            r = interpolation.restrict(r)
        return r

    def prolong(self, e: Array) -> Array:
        for interpolation in reversed(self.interpolations):
            e = interpolation.prolong(e)
        return e

    def transpose(self) -> "Level":
        return Level(self.operator.transpose(), self.smoother, self.interpolations)


def v_cycle(levels: tuple[AbstractLevel, ...], solve_rest: Callable[[Array], Array], b: Array) -> Array:
    """One cycle from zero; `solve_rest` treats the grid below the last of the levels."""
    r, left = b, []
    for level in levels:
        x, coarse = _down(level, r)
        left.append((level, x, r))
        r = coarse
    e = solve_rest(r)
    for level, x, r in reversed(left):
        e = _up(level, x, r, e)
    return e


def padded_v_cycle(
    levels: Level,
    axes: tuple[int, ...],
    coarsest: tuple[int, ...],
    solve: Callable[[Array], Array],
    b: Array,
) -> Array:
    """The same for stacked levels, all padded to the size of the first, of which each halves these axes."""

    def down(b, level):
        x, r = _down(level, b)
        return fitted(r, b.shape), (level, x, b)

    def up(e, level_x_b):
        level, x, b = level_x_b
        shape = coarser(b.shape, axes, level.operator.periodic)
        return _up(level, x, b, fitted(e, shape)), None

    r, left = jax.lax.scan(down, b, levels)
    e = fitted(solve(fitted(r, coarsest)), b.shape)
    return jax.lax.scan(up, e, left, reverse=True)[0]


def _down(level: AbstractLevel, b: Array) -> tuple[Array, Array]:
    """What smoothing finds from zero, and the residual that it leaves, on the next coarser grid."""
    defined = not_nan(level.smoother.inverse_diagonal, b)
    x = apart(defined, lambda b: level.smoother.from_zero(level.operator, b), b)
    r = apart(defined, lambda x, b: b - level.operator.mv(x), x, b)
    return x, level.restrict(r)


def _up(level: AbstractLevel, x: Array, b: Array, e: Array) -> Array:
    """The correction from the next coarser grid, smoothed."""
    defined = not_nan(level.smoother.inverse_diagonal, b)
    x = apart(defined, lambda x, e: x + level.prolong(e), x, e)
    return level.smoother.improve(level.operator, x, b)

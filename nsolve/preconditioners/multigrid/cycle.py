"""Cycles on levels, wherever these come from."""

import abc
from collections.abc import Callable, Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array

from ..._vectors import dot, largest_entry, norm, safe_divide
from ...operators.stencil import StencilLinearOperator
from .apart import apart, not_nan
from .smoothing import AbstractSmoother
from .transfer import AxisInterpolation, BoxInterpolation, coarser, fitted

CycleName = Literal["V", "W", "F"]
#: Where one step of conjugate gradients leaves less than this of a residual, the K-cycle takes no second.
_ENOUGH = 0.25


class AbstractLevel(eqx.Module):
    """A grid, and what a cycle does on it."""

    operator: eqx.AbstractVar[StencilLinearOperator]
    smoother: eqx.AbstractVar[AbstractSmoother]

    @abc.abstractmethod
    def restrict(self, r: Array) -> Array:
        """To the next coarser grid."""

    @abc.abstractmethod
    def prolong(self, e: Array) -> Array:
        """From the next coarser grid."""


class Level(AbstractLevel):
    """A grid: its operator, smoother, and interpolation from the next coarser one by axes."""

    operator: StencilLinearOperator
    smoother: AbstractSmoother
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
        return Level(self.operator.transpose(), self.smoother.transpose(), self.interpolations)


def cycle(
    levels: Sequence[AbstractLevel],
    solve_rest: Callable[[Array], Array],
    b: Array,
    kind: CycleName | Literal["K"] = "V",
    rest: lx.AbstractLinearOperator | None = None,
    again: Array | bool = True,
) -> Array:
    """One cycle from zero; `solve_rest` treats the grid below the last of the levels, and `rest` is the
    operator there, unless that one visit is all that it needs.

    From each grid a V-cycle visits the next coarser one once, a W-cycle twice. An F-cycle visits it by an
    F-cycle and then by a V-cycle, for which `again` is false. A K-cycle takes up to two steps of conjugate
    gradients there, each preconditioned by a visit, and so is no linear function of `b`."""
    if not levels:
        return solve_rest(b)
    level, *below = levels
    operator = below[0].operator if below else rest

    def visit(r: Array, again: Array | bool) -> Array:
        return cycle(below, solve_rest, r, kind, rest, again)

    x, r = _down(level, b)
    if kind == "V" or operator is None:
        e = visit(r, again)
    elif kind == "K":
        e = _two_steps(lambda r: visit(r, again), operator, r)
    else:
        e = _visited_twice(visit, operator, r, again, kind == "F")
    return _up(level, x, b, e)


def _visited_twice(
    visit: Callable[[Array, Array], Array],
    operator: lx.AbstractLinearOperator,
    b: Array,
    again: Array | bool,
    first_only: bool,
) -> Array:
    """What two visits of a grid find, the second of them made only where `again` says so, and with that flag
    down unless `first_only`. As a loop, since each grid is compiled once, however often it is visited."""
    again = jnp.asarray(again)

    def improve(k: Array, e: Array) -> Array:
        first = k == 0
        r = jax.lax.cond(first, lambda e: b, lambda e: b - operator.mv(e), e)
        return e + visit(r, again & first if first_only else again)

    def step(k: Array, e: Array) -> Array:
        return jax.lax.cond((k == 0) | again, improve, lambda k, e: e, k, e)

    return jax.lax.fori_loop(0, 2, step if first_only else improve, jnp.zeros_like(b))


def _two_steps(visit: Callable[[Array], Array], operator: lx.AbstractLinearOperator, b: Array) -> Array:
    """Up to two steps of flexible conjugate gradients from zero, preconditioned by a visit each."""
    unit = largest_entry(b)
    b = safe_divide(b, unit.astype(b.dtype))  # no power of it may overflow
    enough = _ENOUGH * norm(b)

    def improve(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        e, r, d_last, q_last, curvature = carry
        d = visit(r)
        d = d - safe_divide(dot(q_last, d), curvature) * d_last
        q = operator.mv(d)
        curvature = dot(d, q)
        step = safe_divide(dot(d, r), curvature)
        return e + step * d, r - step * q, d, q, curvature

    def step(k: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        return jax.lax.cond((k == 0) | ~(norm(carry[1]) <= enough), improve, lambda carry: carry, carry)

    zero = jnp.zeros_like(b)
    return unit.astype(b.dtype) * jax.lax.fori_loop(0, 2, step, (zero, b, zero, zero, dot(zero, zero)))[0]


def padded_v_cycle(
    levels: Level,
    axes: tuple[int, ...],
    coarsest: tuple[int, ...],
    solve: Callable[[Array], Array],
    b: Array,
) -> Array:
    """One V-cycle on stacked levels, all padded to the size of the first, of which each halves these axes."""

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

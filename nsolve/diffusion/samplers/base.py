"""What a sampler is: a module that turns a grid into a plan."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._arrays import is_traced, on_host
from ..grids import grid_points
from ..plan import Plan, clean_step, followed
from ..points import Points
from ..schedules import AbstractSchedule


class AbstractSampler(eqx.Module):
    """A sampler with fixed steps. Its fields are the method's options.

    `order`: the power of the step with which its error falls on smooth problems, of the drift where it adds
    noise; for predictors with a corrector, the predictor's.

    `sample` works out a table once for all calls with equal numbers in the fields of this package's samplers,
    schedules and grids. It does so for a class of yours if that has a method `cache_key()`: anything
    hashable, equal only where the tables are (`return self.order, self.eta`), or None where they cannot be
    shared.
    """

    order: eqx.AbstractVar[int]

    @abstractmethod
    def table(self, grid: Points, known: int) -> Plan:
        """The plan on the points of a grid, whose first `known` outputs the registers 0 ... known-1 already
        hold."""

    def plan(self, grid: Any, schedule: AbstractSchedule, known: int = 0) -> Plan:
        """The table of this sampler on a grid (times (N+1,) from large to small, or a `TimeGrid`).

        Worked out in float64 on the host, or within a trace where the grid, the schedule or the sampler's own
        fields are traced. With `known` = m the plan begins at the grid's point m, and the outputs at the m
        points before it are taken from the registers: a multistep method then needs no start-up steps of
        lower order.
        """
        points = grid_points(grid, schedule)
        if len(points) == 1:  # straight to sigma = 0
            return clean_step(points)
        if known and not 0 < known < len(points) - 1:
            raise ValueError(f"`known` must leave at least one step of {len(points) - 1}, got {known}.")
        plan = table_of(self, points, known)
        if not is_traced(plan) and not np.all(np.isfinite(plan.weights)):
            raise ValueError(
                f"{type(self).__name__} cannot step over this grid: some weight is not finite. Where there "
                "is no signal (`t_max` of some schedules) or no noise (t = 0), begin later or end earlier."
            )
        return followed(plan, clean_step(points[-1:])) if points.final else plan


# On fewer steps than these, or where the last is so much longer in lam than the one before, a last step of
# high order does harm. (diffusers looks at the number alone: on grids even in t more steps do worse.)
_FEW_STEPS, _LONG_STEP = 15, 1.5


def table_of(sampler: AbstractSampler, grid: Points, known: int = 0) -> Plan:
    """The table of a sampler on points, which may also run backwards; `lower_order_final=None` is settled
    here."""
    sampler = sampler if is_traced((grid, sampler)) else on_host(sampler)
    if getattr(sampler, "lower_order_final", False) is not None:
        return sampler.table(grid, known)
    lower, full = (dataclasses.replace(sampler, lower_order_final=flag) for flag in (True, False))
    if grid.final or len(grid) - 1 < _FEW_STEPS:
        return lower.table(grid, known)
    last, before = grid.lam[-1] - grid.lam[-2], grid.lam[-2] - grid.lam[-3]
    is_long = last > _LONG_STEP * before
    if not is_traced(is_long):
        return (lower if is_long else full).table(grid, known)
    plans = lower.table(grid, known), full.table(grid, known)
    return jax.tree.map(lambda a, b: jnp.where(is_long, a, b), *plans)


Output = Callable[[Literal["x0", "eps"], PyTree[Array], Points], PyTree[Array]]


class Attempt(NamedTuple):
    """What a step of an adaptive sampler would do: the next state, an estimate of its error, two states whose
    size the error is measured by, and what is remembered if the step is accepted."""

    x: PyTree[Array]
    error: PyTree[Array]
    sizes: tuple[PyTree[Array], PyTree[Array]]
    memory: Any


class AbstractAdaptiveSampler(eqx.Module):
    """A sampler that chooses its steps while it runs (`sample_adaptive`).

    `output(form, x, point)` calls the network at one point of the schedule and gives x0 or eps.
    """

    first_step: eqx.AbstractVar[float]
    initial_evaluations: eqx.AbstractVar[int]
    evaluations: eqx.AbstractVar[int]

    @abstractmethod
    def init(self, output: Output, x: PyTree[Array], start: Points) -> Any:
        """What is remembered at the start (`initial_evaluations` calls of the network)."""

    @abstractmethod
    def step(self, output: Output, x: PyTree[Array], memory: Any, start: Points, end: Points) -> Attempt:
        """One step from `start` to `end` (`evaluations` calls of the network)."""

    @abstractmethod
    def growth(self, ratio: Array, previous: Array, memory: Any) -> Array:
        """How much longer the next step should be, from the last two ratios of error to tolerance."""


def no_history(known: int, sampler: AbstractSampler) -> None:
    if known:
        raise ValueError(f"`known` must be 0: {type(sampler).__name__} keeps no outputs from step to step.")


def check_order(order: Any, largest: int) -> None:
    if isinstance(order, bool) or not isinstance(order, int) or not 1 <= order <= largest:
        raise ValueError(f"`order` must be a number from 1 to {largest}, got {order!r}.")


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}, got {value!r}.")

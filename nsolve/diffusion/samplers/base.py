"""What a sampler is: a module that turns a grid into a plan."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, PyTree

from .._arrays import is_traced, on_host
from ..grids import grid_points
from ..plan import Plan
from ..points import Points
from ..schedules import AbstractSchedule


class AbstractSampler(eqx.Module):
    """A sampler with fixed steps. Its fields are the method's options.

    `order`: the power of the step with which its error falls on smooth problems, of the drift where it adds
    noise; for predictors with a corrector, the predictor's.
    """

    order: eqx.AbstractVar[int]

    @abstractmethod
    def table(self, grid: Points, known: int) -> Plan:
        """The plan on the points of a grid, whose first `known` outputs the registers 0 ... known-1 already
        hold."""

    def plan(self, grid: Any, schedule: AbstractSchedule, known: int = 0) -> Plan:
        """The table of this sampler on a grid (times (N+1,) from large to small, or a `Grid`).

        Worked out in float64 on the host, or within a trace where the grid, the schedule or the sampler's own
        fields are traced. With `known` = m the plan begins at the grid's point m, and the outputs at the m
        points before it are taken from the registers: a multistep method then needs no start-up steps of
        lower order.
        """
        checked = grid_points(grid, schedule)
        sampler = self if is_traced((checked, self)) else on_host(self)
        if known and not 0 < known < len(checked) - 1:
            raise ValueError(f"`known` must leave at least one step of {len(checked) - 1}, got {known}.")
        plan = sampler.table(checked, known)
        if not is_traced(plan) and not np.all(np.isfinite(plan.weights)):
            raise ValueError(
                f"{type(self).__name__} cannot step over this grid: some weight is not finite. Where there "
                "is no signal (`t_max` of some schedules) or no noise (t = 0), begin later or end earlier."
            )
        return plan


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

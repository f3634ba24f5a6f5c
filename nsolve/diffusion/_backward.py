"""Plans that run from the data to the noise.

The formulas of the exponential integrators hold for steps of either sign, so a sampler's table on the points
of a grid in reverse order integrates the probability-flow ODE backwards, at the sampler's own order.
"""

from typing import Any

import numpy as np

from ._arrays import is_traced
from .grids import grid_points
from .plan import Plan
from .points import Points
from .samplers.base import AbstractSampler, table_of
from .schedules import AbstractSchedule


def finite_points(schedule: AbstractSchedule, grid: Any) -> Points:
    """The checked points of a grid, of which both ends must have signal and noise."""
    checked = grid_points(grid, schedule)
    if checked.final:
        raise ValueError(
            "`grid` must end with noise: a last step to sigma = 0 cannot be taken back or halved."
        )
    check_finite(checked.lam)
    return checked


def check_finite(lam: Any) -> None:
    if not is_traced(lam) and not np.all(np.isfinite(lam)):
        raise ValueError(
            "`grid` must have signal and noise at both ends, where lam = log(alpha / sigma) is finite; got "
            f"lam from {lam[0]} to {lam[-1]}. Begin and end it inside the schedule's range."
        )


def backward_plan(sampler: AbstractSampler, schedule: AbstractSchedule, grid: Any) -> Plan:
    """The plan of a deterministic sampler from the grid's last time to its first."""
    points = finite_points(schedule, grid)[::-1]
    with np.errstate(invalid="ignore"):  # backwards, noise would need a negative variance
        plan = table_of(sampler, points)
    if plan.stochastic:
        raise ValueError(f"`sampler` must be deterministic, but {type(sampler).__name__} adds noise.")
    return plan

"""EDM's sampler: Heun's method in the noise, with churn."""

import math
from dataclasses import replace
from typing import Any

import equinox as eqx

from .._arrays import namespace, root
from ..plan import Plan
from ..points import Points
from ..schedules import EDM
from ._adams import needs_signal, rho_of
from ._multistep import is_noisy
from ._singlestep import singlestep
from .base import AbstractSampler, no_history
from .runge_kutta import RHO, step_groups, two_stages


class EDMHeun(AbstractSampler):
    """Heun's method in rho = sigma / alpha, with noise added before each step ("churn") and removed by it.

    Two evaluations a step, one in a last step to sigma = 0 (Euler's): 2 N - 1 on EDM's own grids, which are
    `karras_grid` with t = 0 appended. Order 2, of the drift with churn. Without churn it is `RhoRK("heun")`.

    - `churn`: S_churn; every step raises rho by the factor 1 + min(churn / N, sqrt(2) - 1), where rho lies
      between `churn_min` and `churn_max` (S_min, S_max). Keep `churn_max` below the largest noise of the
      training: on `EDM` alone it may be raised beyond `t_max`, as published. A `final` step has no churn.
    - `noise_scale`: S_noise, the standard deviation of the fresh noise (1.003 to 1.007 for the paper's
      networks).
    - `alpha`: where in the step the second evaluation stands: 1 for Heun, 1/2 for the midpoint rule, 2/3 for
      Ralston's (appendix C of the paper; steps here are in rho on every schedule). Below 1 the last step,
      too, has two.

    The churn has no clock: it is not the noise of an SDE, so no path refines it.

    Karras et al., arXiv:2206.00364.
    """

    churn: Any = 0.0
    churn_min: Any = 0.0
    churn_max: Any = float("inf")
    noise_scale: Any = 1.0
    alpha: float = eqx.field(static=True, default=1.0)
    order: int = eqx.field(static=True, default=2, init=False)

    def __check_init__(self):
        for name in ("churn", "noise_scale"):
            value = getattr(self, name)
            if isinstance(value, float | int) and not value >= 0:
                raise ValueError(f"`{name}` must not be negative, got {value}.")
        if not 0 < self.alpha <= 1:
            raise ValueError(f"`alpha` must lie in (0, 1], got {self.alpha}.")

    def table(self, grid: Points, known: int) -> Plan:
        no_history(known, self)
        needs_signal(grid, self)
        churned = is_noisy(self.churn)
        if churned and isinstance(grid.schedule, EDM):  # where any noise is a time
            grid = replace(grid, schedule=replace(grid.schedule, t_max=math.inf))
        start, steps = grid[:-1], len(grid) - 1 + grid.final
        raised = self._raise(start, steps) if churned else start
        groups = step_groups(RHO, raised, grid[1:], two_stages(self.alpha))
        plan = singlestep("eps", groups, grid[-1:], 2)
        if raised is start:
            return plan
        # The row that makes the first point of a step also raises its noise: these are rows 0, 2, 4, ...
        xp = namespace(plan.weights, raised.lam)
        factor = raised.alpha / start.alpha
        added = rho_of(raised) ** 2 - rho_of(start) ** 2
        noise = self.noise_scale * raised.alpha * root(added)
        ones, zeros = xp.ones_like(factor), xp.zeros_like(factor)
        rows = len(plan.weights)
        scale = xp.concatenate([xp.stack([factor, ones], axis=1).reshape(-1), ones[:1]])[:rows, None]
        column = xp.concatenate([xp.stack([noise, zeros], axis=1).reshape(-1), zeros[:1]])[:rows, None]
        weights = xp.concatenate([scale * plan.weights[:, :-1], column], axis=1)
        return replace(plan, weights=weights, stochastic=True)

    def _raise(self, start: Points, steps: int) -> Points:
        """The points with churned noise."""
        xp = namespace(start.lam, self.churn, self.churn_min, self.churn_max)
        rho = rho_of(start)
        inside = (rho >= self.churn_min) & (rho <= self.churn_max)
        gamma = xp.where(inside, xp.minimum(self.churn / steps, math.sqrt(2.0) - 1.0), 0.0)
        lam, schedule = start.lam - xp.log1p(gamma), start.schedule
        if not isinstance(schedule, EDM):
            lam = xp.maximum(lam, schedule.lam(schedule.t_max))
        moved = Points.of(schedule, schedule.t_of_lam(lam))

        def choose(field: str) -> Any:
            return xp.where(gamma > 0, getattr(moved, field), getattr(start, field))

        return Points(choose("t"), choose("log_alpha"), choose("log_sigma"), schedule)

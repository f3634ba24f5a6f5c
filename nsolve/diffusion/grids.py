"""Grids: the times of the points at which a sampler calls the network.

Each function returns a `TimeGrid`, resolved against a schedule when it is used: `grid(schedule)` gives N+1
times, from large to small. An explicit array of times does as well, and is differentiable.

Schedules like `Discrete` have no time without noise. With `final="sigma0"` the last of the N steps goes from
`end` to sigma = 0 all the same: whatever the sampler, its result is the clean state that the network sees at
`end`. In an array of times that step is the time -inf at the end.
"""

from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ._arrays import as_times, is_traced, namespace, on_host
from .points import Points, check_grid
from .schedules import AbstractSchedule

Final = Literal["sigma0"] | None


class TimeGrid(eqx.Module):
    """N steps from `start` to `end` (the schedule's `t_max` and `t_min`), spaced evenly in a variable of the
    schedule; with `final="sigma0"` N - 1, and one from `end` to sigma = 0."""

    spacing: str = eqx.field(static=True)
    num_steps: int = eqx.field(static=True)
    start: Any = None
    end: Any = None
    rho: float = eqx.field(static=True, default=1.0)
    final: Final = eqx.field(static=True, default=None)

    def __check_init__(self):
        for name, value, known in (
            ("spacing", self.spacing, ("lam", "time", "noise")),
            ("final", self.final, (None, "sigma0")),
        ):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {known}, got {value!r}.")
        if isinstance(self.num_steps, bool) or not isinstance(self.num_steps, int) or self.num_steps < 1:
            raise ValueError(f"`num_steps` must be a positive integer, got {self.num_steps!r}.")
        if not 0 < self.rho < np.inf:
            raise ValueError(f"`rho` must be a positive number, got {self.rho}.")

    def __call__(self, schedule: AbstractSchedule) -> Any:
        """The times (num_steps + 1,), from large to small; -inf stands for sigma = 0."""
        times = self._noisy(schedule, self.num_steps - (self.final is not None))
        return times if self.final is None else namespace(times).append(times, -np.inf)

    def _noisy(self, schedule: AbstractSchedule, num_steps: int) -> Any:
        start = schedule.t_max if self.start is None else self.start
        end = schedule.t_min if self.end is None else self.end
        traced = is_traced((schedule, start, end))
        xp = jnp if traced else np
        if not traced:
            schedule, start, end = on_host((schedule, start, end))
        start, end = xp.asarray(start, float), xp.asarray(end, float)
        if num_steps == 0:
            return start[None]
        fraction = np.linspace(0.0, 1.0, num_steps + 1)
        if self.spacing == "time":
            return _power(start, end, fraction, self.rho)
        lam, last = schedule.lam(start), schedule.lam(end)
        if not traced and not (np.isfinite(lam) and np.isfinite(last)):
            raise ValueError(
                "a grid spaced in the noise needs noise and signal at both ends, but lam is "
                f"{lam} at t = {start} and {last} at t = {end}. Give `start` and `end` inside that range."
            )
        if self.spacing == "lam":
            inner = schedule.t_of_lam(_power(lam, last, fraction[1:-1], 1.0))
        else:  # noise-to-signal ratio to the power 1/rho
            ratio = _power(xp.exp(-lam), xp.exp(-last), fraction[1:-1], self.rho)
            inner = schedule.t_of_lam(-xp.log(ratio))
        return xp.concatenate([start[None], inner, end[None]])


def _power(first: Any, last: Any, fraction: Any, rho: float) -> Any:
    """From `first` to `last`, evenly in the variable to the power 1/rho; the ends are met exactly."""
    xp = namespace(first, last)
    if rho == 1.0:
        return first * (1.0 - fraction) + last * fraction
    even = first ** (1.0 / rho) * (1.0 - fraction) + last ** (1.0 / rho) * fraction
    return xp.where(fraction == 0.0, first, xp.where(fraction == 1.0, last, even**rho))


def resolve(grid: Any, schedule: AbstractSchedule) -> Any:
    """The times of a grid, whether it is given by them or to be resolved against the schedule."""
    return grid(schedule) if isinstance(grid, TimeGrid) else as_times(grid)


def grid_points(grid: Any, schedule: AbstractSchedule) -> Points:
    """The checked points (N+1,) of a grid: in float64 on the host, unless traced."""
    times = resolve(grid, schedule)
    final = grid.final == "sigma0" if isinstance(grid, TimeGrid) else _ends_clean(times)
    if not is_traced((times, schedule)):
        schedule = on_host(schedule)
    return check_grid(Points.of(schedule, times[:-1] if final else times), final)


def _ends_clean(times: Any) -> bool:
    return not is_traced(times) and times.ndim == 1 and len(times) > 1 and bool(np.isneginf(times[-1]))


def log_snr_grid(num_steps: int, start: Any = None, end: Any = None, *, final: Final = None) -> TimeGrid:
    """Even steps in lam = log(alpha / sigma), also called exponential or log-sigma spacing: best for small
    images and few steps (DPM-Solver, arXiv:2206.00927)."""
    return TimeGrid("lam", num_steps, start, end, final=final)


def uniform_grid(num_steps: int, start: Any = None, end: Any = None, *, final: Final = None) -> TimeGrid:
    """Even steps in the time: what high-resolution and latent models are sampled with."""
    return TimeGrid("time", num_steps, start, end, final=final)


def quadratic_grid(num_steps: int, start: Any = None, end: Any = None, *, final: Final = None) -> TimeGrid:
    """Even steps in the root of the time (DDIM, arXiv:2010.02502; DEIS, arXiv:2204.13902)."""
    return TimeGrid("time", num_steps, start, end, rho=2.0, final=final)


def karras_grid(
    num_steps: int, start: Any = None, end: Any = None, rho: float = 7.0, *, final: Final = None
) -> TimeGrid:
    """Even steps in (sigma / alpha)^(1/rho) (Karras et al., arXiv:2206.00364)."""
    return TimeGrid("noise", num_steps, start, end, rho=rho, final=final)

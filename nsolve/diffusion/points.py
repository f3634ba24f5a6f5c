"""Points of a schedule: times with the signal and noise that belong to them."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ._arrays import is_traced, namespace
from .schedules import AbstractSchedule


class Points(eqx.Module):
    """Times t (...) of a schedule with log alpha and log sigma: what tables of coefficients are made of.

    NumPy float64 arrays, unless the times or the schedule are traced. `final`: whether one more step, to
    sigma = 0, follows the last of these points.
    """

    t: Any
    log_alpha: Any
    log_sigma: Any
    schedule: AbstractSchedule
    final: bool = eqx.field(static=True, default=False)

    @staticmethod
    def of(schedule: AbstractSchedule, t: Any) -> "Points":
        """The points of a schedule at times t."""
        return Points(t, schedule.log_alpha(t), schedule.log_sigma(t), schedule)

    @property
    def lam(self) -> Any:
        return self.log_alpha - self.log_sigma

    @property
    def alpha(self) -> Any:
        return namespace(self.log_alpha).exp(self.log_alpha)

    @property
    def sigma(self) -> Any:
        return namespace(self.log_sigma).exp(self.log_sigma)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.t.shape

    def __len__(self) -> int:
        return self.t.shape[0]

    def __getitem__(self, index: Any) -> "Points":
        return Points(self.t[index], self.log_alpha[index], self.log_sigma[index], self.schedule)

    def at(self, t: Any) -> "Points":
        """Points of the same schedule at other times."""
        return Points.of(self.schedule, t)

    def at_lam(self, lam: Any) -> "Points":
        """Points of the same schedule at given lam = log(alpha / sigma)."""
        return Points.of(self.schedule, self.schedule.t_of_lam(lam))


def stack(stages: list[Points]) -> Points:
    """Points (S,) of several stages as Points (S, m)."""

    def merge(values: list[Any]) -> Any:
        return namespace(*values).stack(values, axis=1)

    return Points(
        merge([p.t for p in stages]),
        merge([p.log_alpha for p in stages]),
        merge([p.log_sigma for p in stages]),
        stages[0].schedule,
    )


def check_grid(grid: Points, final: bool = False) -> Points:
    """`grid`, with its `final`, if it runs strictly from noise to signal; only its last point may be free of
    noise, and that only where no final step follows.

    Raises ValueError; traced grids are checked when they run."""
    t, lam = grid.t, grid.lam
    grid = replace(grid, final=final)
    if t.ndim != 1 or len(grid) < 2 - final:
        raise ValueError(f"`grid` must be an array of two or more times, got shape {t.shape}.")
    if is_traced((t, lam)):
        broken = ~jnp.all(jnp.diff(lam) > 0) | jnp.any(jnp.isinf(lam))
        return eqx.error_if(
            grid,
            broken,
            "`grid` must run strictly from large to small times within the range of the schedule; a traced "
            "one must also begin with signal and end with noise.",
        )
    if not np.all(np.isfinite(t)):
        raise ValueError(f"`grid` must hold finite times, got {t}.")
    if np.isnan(lam).any():
        raise ValueError(
            f"`grid` leaves the range of the schedule {type(grid.schedule).__name__}: got times {t}."
        )
    noisy = lam if final else lam[:-1]
    if (np.isposinf(noisy)).any():
        where = int(np.flatnonzero(np.isposinf(noisy))[0])
        raise ValueError(
            f"`grid` has sigma = 0 at position {where} (t = {t[where]}); only the last time may be so."
        )
    steps = np.diff(lam)
    if not np.all(steps > 0):
        where = int(np.flatnonzero(~(steps > 0))[0])
        problem = "twice the same noise" if steps[where] == 0 else "growing noise"
        raise ValueError(
            f"`grid` must run strictly from large to small noise; it has {problem} at positions {where} and "
            f"{where + 1}: times {t[where]} and {t[where + 1]}."
        )
    return grid

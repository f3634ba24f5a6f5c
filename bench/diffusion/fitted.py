"""Samplers that first learn something of the network: tuned plans, and DPM-Solver-v3 with its statistics.

They learn from other numbers than those that they are judged by.
"""

from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from nsolve import diffusion
from nsolve.gallery.mixtures import denoiser

from ..specs import Part
from ..timing import clock
from . import errors, own
from .problems import build, starts

TUNED = "tuned"
V3 = "dpm_solver_v3"
DATA, KNOTS = 512, 64


def plan_of(column: Part, problem: str, evaluations: int) -> tuple[diffusion.Plan, float]:
    """The plan of a column of one evaluation a step, and the seconds that learning took."""
    if column.name == V3:
        made, seconds = clock(lambda: v3(column, problem, errors.schedule()))
        return made.plan(own.grid(column, evaluations), errors.schedule()), seconds
    return clock(lambda: _tune(column, problem, evaluations))


# By problem and kind of schedule.
_statistics: dict[tuple[str, str], diffusion.Statistics] = {}


def v3(column: Part, text: str, schedule: diffusion.AbstractSchedule) -> diffusion.DPMSolverV3:
    """The sampler with statistics of that problem."""
    key = (text, type(schedule).__name__)
    if key not in _statistics:
        problem = build(text)
        first, last = (float(schedule.lam(np.asarray(t, float))) for t in (schedule.t_max, schedule.t_min))
        data = jnp.asarray(problem.draw(1, DATA))
        knots = np.linspace(first, last, KNOTS)
        _statistics[key] = diffusion.fit_statistics(denoiser(problem, schedule), data, knots, jr.key(0))
    options: dict[str, Any] = {name: value for name, value in column.params if name not in own.COMMON}
    return diffusion.DPMSolverV3(statistics=_statistics[key], **options)


def _tune(column: Part, text: str, evaluations: int) -> diffusion.Plan:
    """UniPC of the column's order, its grid and its coefficients moved by gradients."""
    options: dict[str, Any] = {"order": 3, "num_steps": 1000} | column.options
    problem, schedule = build(text), errors.schedule()
    return diffusion.tune(
        denoiser(problem, schedule),
        diffusion.UniPC(min(options["order"], evaluations)),
        own.grid(column, evaluations),
        jnp.asarray(starts(problem, schedule, max(64, 1024 // problem.dimension), seed=1)),
        num_steps=options["num_steps"],
        progress=False,
    )

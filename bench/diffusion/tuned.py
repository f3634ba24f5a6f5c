"""Plans that are tuned to the problem they are measured on, from other starting values than those they are
judged by."""

from typing import Any

import jax.numpy as jnp

from nsolve import diffusion
from nsolve.diffusion.tuning import tune

from ..specs import Part
from ..timing import clock
from . import errors, own
from .mixtures import Mixture
from .problems import denoiser, starts

SAMPLES = 512
#: Options of the column, with their defaults.
OPTIONS = {"order": 3, "num_steps": 1000}


def plan_of(column: Part, problem: Mixture, evaluations: int) -> tuple[diffusion.Plan, float]:
    """UniPC of the column's order with grid and coefficients moved by gradients, and the seconds it took."""
    options: dict[str, Any] = OPTIONS | column.options
    grid = own.grid(column, evaluations)
    x_T = jnp.asarray(starts(problem, errors.schedule(), SAMPLES, seed=1))
    return clock(
        lambda: tune(
            denoiser(problem, errors.schedule()),
            diffusion.UniPC(min(options["order"], evaluations)),
            grid,
            x_T,
            num_steps=options["num_steps"],
            progress=False,
        )
    )

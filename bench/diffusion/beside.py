"""The columns of diffusers: schedulers by their short names, `order` where they have one, on their own
grids."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from nsolve.gallery.mixtures import Mixture, denoiser

from ..timing import spread
from . import errors
from .diffusers_peer import SCHEDULERS, WITHOUT_ORDER, run_diffusers, solver_seconds
from .diffusers_peer import version as version
from .problems import starts

SOLVERS = {name: () if name in WITHOUT_ORDER else ("order",) for name in SCHEDULERS}


def error(cell: Any, problem: Mixture) -> dict[str, Any]:
    """The fields of a record of the error after at most `size` evaluations."""
    exact_denoiser, products = denoiser(problem, errors.schedule()), errors.alphas_cumprod()
    network = eqx.filter_jit(exact_denoiser.model)
    x_T = starts(problem, errors.schedule(), errors.SAMPLES)
    # Some schedulers ask the network once more than they take steps.
    for num_steps in (cell.size, cell.size - 1):
        x, evaluations = run_diffusers(
            cell.spec.solver.name,
            cell.spec.solver.options.get("order"),  # pyright: ignore[reportArgumentType]
            lambda x, t: np.array(network(x, jnp.asarray(t))),  # writable, as PyTorch wants it
            products,
            num_steps,
            x_T,
        )
        if evaluations <= cell.size:
            break
    return {
        "result": "successful",
        "num_evaluations": evaluations,
        "error_kind": "rms",
        "true_residual": errors.rms(x, errors.exact(cell.problem)),
    }


def overhead(cell: Any, settings: Any, x_T: np.ndarray) -> dict[str, Any]:
    """The fields of a record of the seconds that `size` steps take; nothing is compiled."""
    part = cell.spec.solver
    order: Any = part.options.get("order")
    times = solver_seconds(part.name, order, errors.alphas_cumprod(), cell.size, x_T, settings.repeats)
    return {
        "result": "successful",
        "num_steps": cell.size,
        "setup_s": 0.0,
        "compile_s": 0.0,
        "solve_s": spread(times),
        "seconds_per_step": float(np.median(times)) / cell.size,
    }

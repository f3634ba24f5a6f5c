"""This project's samplers: names are short forms of the classes, their fields are the parameters.

Beside them, `grid` is one of the grids of `nsolve.diffusion` without `_grid`; `unroll` and `checkpoints` are
those of `sample`.
"""

import inspect
from typing import Any

from nsolve import diffusion

from ..environment import version as _version
from ..specs import Part, check_name

CLASSES = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "dpm_solver": "DPMSolver",
    "dpm_solver_pp": "DPMSolverPP",
    "deis": "DEIS",
    "rho_rk": "RhoRK",
    "ipndm": "IPNDM",
    "pndm": "PNDM",
    "unipc": "UniPC",
    "sa_solver": "SASolver",
    "edm_heun": "EDMHeun",
    "er_sde": "ERSDE",
    "flow_rk": "FlowRK",
    "rf_solver": "RFSolver",
    "accelerated_ddim": "AcceleratedDDIM",
    "accelerated_ddpm": "AcceleratedDDPM",
}
GRIDS = ("log_snr", "uniform", "quadratic", "karras")
#: Of the column, not of the sampler.
COMMON = ("grid", "checkpoints", "unroll")
#: Columns that learn from the problem (`bench.diffusion.fitted`): UniPC with its grid and weights tuned to
#: it, and DPM-Solver-v3.
FITTED = {"tuned": ("order", "num_steps", "grid"), "dpm_solver_v3": ("order", "corrector", "pseudo", *COMMON)}
SOLVERS = {
    name: (*inspect.signature(getattr(diffusion, cls)).parameters, *COMMON) for name, cls in CLASSES.items()
} | FITTED


def version() -> str | None:
    """The installed version of nsolve."""
    return _version("nsolve")


def sampler(column: Part) -> diffusion.AbstractSampler:
    """The sampler of a column."""
    options = {name: value for name, value in column.params if name not in COMMON}
    return getattr(diffusion, CLASSES[column.name])(**options)


def grid(column: Part, num_steps: int, start: Any = None, end: Any = None) -> diffusion.TimeGrid:
    """The grid of a column, from time `start` to `end`."""
    name = str(column.options.get("grid", "log_snr"))
    check_name("grid", name, GRIDS)
    return getattr(diffusion, f"{name}_grid")(num_steps, start=start, end=end)


def plan_of(
    column: Part,
    schedule: diffusion.AbstractSchedule,
    evaluations: int,
    ends: tuple[Any, Any] = (None, None),
) -> diffusion.Plan:
    """The plan with the most steps that take no more network evaluations than given, between two times.

    ValueError where a single step takes more."""
    made = sampler(column)
    for num_steps in range(evaluations, 0, -1):
        plan = made.plan(grid(column, num_steps, *ends), schedule)
        if plan.num_evaluations <= evaluations:
            return plan
    raise ValueError(f"{column} takes more than {evaluations} evaluations for a step")


def stated_order(made: diffusion.AbstractSampler) -> int | None:
    """The order that its documentation states; None where it promises none, as the published forms do."""
    if getattr(made, "legacy", False):
        return None
    corrected = made.order + bool(getattr(made, "corrector", False))
    return max(corrected, getattr(made, "corrector_order", 0))


def of_order(order: int) -> list[Part]:
    """A column of every deterministic sampler that there is at an order."""
    columns = []
    for name in CLASSES:
        parameters = SOLVERS[name]
        column = Part(name, (("order", order),) if "order" in parameters else ())
        made = sampler(column)
        if made.order == order and not made.plan(*_SOME).stochastic:
            columns.append(column)
    return columns


_SOME = diffusion.log_snr_grid(8), diffusion.VPLinear()

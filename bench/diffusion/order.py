"""The order of a sampler as a cell: the slope of its error while the steps are halved, in float64.

On a mixture the error is that of the state at the end, from exact starting values, so that a method's
start-up steps do not hide its order; on a Gaussian it is the distance of the distribution, noise and all.
"""

import functools
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from nsolve import diffusion
from nsolve.gallery.mixtures import Gaussian, Mixture, denoiser

from . import fitted, moments, own
from .problems import build, reference_flow, starts

SCHEDULE = diffusion.VPLinear()
#: From noise to data in lam, short of both ends: what is asked is the order, not how steep a problem gets.
SPAN = (-3.0, 2.5)
DOUBLINGS = 4
SAMPLES = 32
#: How far a slope may lie below the order that is stated.
SLACK = 0.15
#: Errors of this size are rounding.
FLOOR = 1e-13


def measure(cell: Any, problem: Mixture) -> dict[str, Any]:
    """The fields of a record; `order` is measured, `stated_order` promised, `constant` the error divided by
    the step in lam to that power, at the end."""
    learns = cell.spec.solver.name == fitted.V3
    made = fitted.v3(cell.spec.solver, cell.problem, SCHEDULE) if learns else own.sampler(cell.spec.solver)
    counts = [cell.size * 2**k for k in range(DOUBLINGS + 1)]
    if isinstance(problem, Gaussian):
        plans = [made.plan(grid_of(cell, count), SCHEDULE) for count in counts]
        errors = [moments.wasserstein(plan, problem) for plan in plans]
    else:
        errors = [_error(cell, problem, made, count) for count in counts]
    order, stated = slope(counts, errors), own.stated_order(made)
    if isinstance(problem, Gaussian) and stated is not None:
        stated = min(stated, 2)  # start-up steps of first order are part of it
    missed = stated is not None and not order >= stated - SLACK
    return {
        "result": "order_missed" if missed else "successful",
        "steps": counts,
        "errors": errors,
        "true_residual": errors[-1],
        "order": order,
        "stated_order": stated,
        "constant": errors[-1] * (counts[-1] / (SPAN[1] - SPAN[0])) ** (stated or round(order)),
    }


def slope(counts: list[int], errors: list[float]) -> float:
    """Of the errors on a logarithmic scale, by least squares over those above rounding."""
    kept = [(np.log2(n), np.log2(e)) for n, e in zip(counts, errors, strict=True) if e > FLOOR]
    if len(kept) < 3:
        return float("nan")
    x, y = np.transpose(kept)
    return float(-np.polyfit(x, y, 1)[0])


def grid_of(cell: Any, count: int) -> np.ndarray:
    """The column's grid between the two ends of the span."""
    start, end = (float(SCHEDULE.t_of_lam(np.asarray(lam))) for lam in SPAN)
    return np.asarray(own.grid(cell.spec.solver, count, start, end)(SCHEDULE))


def _error(cell: Any, problem: Mixture, made: diffusion.AbstractSampler, count: int) -> float:
    times = grid_of(cell, count)
    whole = made.plan(times, SCHEDULE)
    if whole.stochastic:
        raise ValueError(f"{cell.spec} adds noise: measure it on gaussian, where its distribution is known")
    # A method of one evaluation a step keeps outputs from step to step; others start themselves.
    known = whole.num_registers - 1 if whole.num_evaluations == count else 0
    path = _path(cell.problem, tuple(times[: known + 1]), float(times[-1]))
    plan = with_exact_start(made, times, path[:-1])
    x = diffusion.sample(denoiser(problem, SCHEDULE), plan, jnp.asarray(path[0])).value
    return float(np.sqrt(np.mean((np.asarray(x) - path[-1]) ** 2)))


def with_exact_start(made: diffusion.AbstractSampler, times: np.ndarray, path: np.ndarray) -> diffusion.Plan:
    """The plan whose first points (m, B, D) are given: the network sees them, and the method goes on from
    there."""
    known = len(path) - 1
    whole = made.plan(times, SCHEDULE)
    if not known:
        return whole
    rest = made.plan(times, SCHEDULE, known=known)
    shifts = np.zeros((whole.weights.shape[0], *path.shape[1:]))
    if rest.shifts is not None:  # of components, the same for all samples
        shifts[known:] += rest.shifts[:, None]
    shifts[: known + 1] = path
    weights = np.concatenate([np.zeros_like(whole.weights[:known]), rest.weights])
    weights[known] = 0.0
    return eqx.tree_at(
        lambda plan: (plan.weights, plan.registers, plan.shifts),
        whole,
        (weights, np.concatenate([whole.registers[:known], rest.registers]), shifts),
        is_leaf=lambda leaf: leaf is None,
    )


@functools.lru_cache(maxsize=64)
def _path(text: str, times: tuple[float, ...], end: float) -> np.ndarray:
    """The exact states (m + 1, B, D) at some times, and at the end."""
    problem = build(text)
    states = [starts(problem, SCHEDULE, SAMPLES)]
    for before, after in zip(times, (*times[1:], end), strict=True):
        states.append(reference_flow(problem, SCHEDULE, states[-1], before, after))
    return np.stack(states)

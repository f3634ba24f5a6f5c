"""The error that so many network evaluations leave, from nothing but noise: what a user gets."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from nsolve import diffusion
from nsolve.gallery.mixtures import Gaussian, Mixture, denoiser

from ..specs import OWN
from . import columns, fitted, moments, own
from .problems import build, reference_flow, starts

SAMPLES = 256


@functools.cache
def schedule() -> diffusion.Discrete:
    """The 1000 times of DDPM, with which most networks were trained (arXiv:2006.11239)."""
    return diffusion.Discrete(alphas_cumprod())


def alphas_cumprod() -> np.ndarray:
    return np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def measure(cell: Any, problem: Mixture) -> dict[str, Any]:
    """The fields of a record: `true_residual` is the root of the mean squared distance from the exact flow,
    or on a Gaussian the 2-Wasserstein distance of the distributions."""
    if cell.spec.peer != OWN:
        return columns.find(cell.spec.peer).error(cell, problem)
    row: dict[str, Any] = {}
    if cell.spec.solver.name in own.FITTED:
        plan, row["setup_s"] = fitted.plan_of(cell.spec.solver, cell.problem, cell.size)
    else:
        plan = own.plan_of(cell.spec.solver, schedule(), cell.size)
    row |= {"result": "successful", "num_evaluations": plan.num_evaluations, "error_kind": "rms"}
    if isinstance(problem, Gaussian):
        return row | {"true_residual": moments.wasserstein(plan, problem), "error_kind": "w2"}
    if plan.stochastic:
        raise ValueError(f"{cell.spec} adds noise: measure it on gaussian, where its distribution is known")
    x_T = starts(problem, schedule(), SAMPLES)
    x = diffusion.sample(denoiser(problem, schedule()), plan, jnp.asarray(x_T), checkpoints="none").value
    return row | {"true_residual": rms(x, exact(cell.problem))}


def rms(x: Any, y: np.ndarray) -> float:
    return float(np.sqrt(np.mean((np.asarray(x) - y) ** 2)))


@functools.lru_cache(maxsize=16)
def exact(text: str) -> np.ndarray:
    """Where the flow carries the starting states (B, D)."""
    problem = build(text)
    x_T = starts(problem, schedule(), SAMPLES)
    return reference_flow(problem, schedule(), x_T, schedule().t_max, schedule().t_min)

"""The gallery's mixtures by name, where samplers start, and where the exact flow ends.

A problem is written as `name` or `name[option=value,...]`; its options are the arguments of its function.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy.integrate import solve_ivp

from nsolve.diffusion.schedules import AbstractSchedule
from nsolve.gallery import mixtures
from nsolve.gallery.mixtures import Gaussian, Mixture

from .. import specs
from .digits import Digits
from .networks import Images


def clusters(dimension: int = 64, modes: int = 40, std: float = 0.4) -> Mixture:
    """Gaussians of unlike weights whose means are normal numbers times `std`."""
    return mixtures.clusters(0, dimension, modes, std)


def gaussian(dimension: int = 16, low: float = 1e-4, high: float = 1e2) -> Gaussian:
    """One Gaussian along turned axes, with variances from `low` to `high`: stiff, as images are."""
    return mixtures.gaussian(0, dimension, low, high)


MIXTURES: Mapping[str, Callable[..., Mixture]] = {
    "mixture1d": mixtures.mixture1d,
    "ring": mixtures.ring,
    "lattice": mixtures.lattice,
    "clusters": clusters,
    "near_singular": mixtures.near_singular,
    "gaussian": gaussian,
}
PROBLEMS: Mapping[str, Callable[..., Any]] = {**MIXTURES, "images": Images, "trained_digits": Digits}


def options(name: str) -> dict[str, Any]:
    """The options of a problem with their defaults; ValueError for an unknown name."""
    specs.check_name("diffusion problem", name, PROBLEMS)
    return {p.name: p.default for p in inspect.signature(PROBLEMS[name]).parameters.values()}


def parse(text: str) -> specs.Part:
    """The problem's name and options, checked."""
    part = specs.parse_part(text)
    specs.check_part("diffusion problem", part, {name: options(name) for name in PROBLEMS})
    return part


@functools.lru_cache(maxsize=16)
def build(text: str) -> Any:
    """The problem of that text."""
    part = parse(text)
    return PROBLEMS[part.name](**part.options)


def starts(problem: Mixture, schedule: AbstractSchedule, count: int, seed: int = 0) -> np.ndarray:
    """What a user begins with: normal numbers (count, D) times the largest noise."""
    rng = np.random.default_rng(seed)
    sigma = float(schedule.sigma(np.asarray(schedule.t_max, np.float64)))
    return sigma * rng.standard_normal((count, problem.dimension))


def reference_flow(
    problem: Mixture, schedule: AbstractSchedule, x_T: np.ndarray, t_start: float, t_end: float
) -> np.ndarray:
    """Where the probability-flow ODE carries x_T (B, D), to 12 digits, by no sampler of ours; with JAX in
    float64.

    Divided by sqrt(alpha^2 + sigma^2) every schedule moves on a circle (alpha, sigma) = (cos u, sin u); there
    dy/du = cos u eps - sin u x0 has no end at infinity: Dormand and Prince's method of order 8."""
    (start, first), (end, last) = (_on_circle(schedule, t) for t in (t_start, t_end))
    y = np.asarray(x_T, np.float64) / first
    found = solve_ivp(
        lambda u, y: np.asarray(_slope(problem, u, y.reshape(x_T.shape))).ravel(),
        (start, end),
        y.ravel(),
        method="DOP853",
        rtol=1e-13,
        atol=1e-14,
    )
    if not found.success:
        raise RuntimeError(f"the reference solution failed: {found.message}")
    return last * found.y[:, -1].reshape(x_T.shape)


@eqx.filter_jit
def _slope(problem: Mixture, u: Any, y: Array) -> Array:
    alpha, sigma = jnp.cos(u), jnp.sin(u)
    return alpha * problem.eps(y, alpha, sigma) - sigma * problem.x0(y, alpha, sigma)


def _on_circle(schedule: AbstractSchedule, t: float) -> tuple[float, float]:
    """The angle of (alpha, sigma), and its distance from the origin."""
    time = np.asarray(t, np.float64)
    alpha, sigma = float(schedule.alpha(time)), float(schedule.sigma(time))
    return float(np.arctan2(sigma, alpha)), float(np.hypot(sigma, alpha))

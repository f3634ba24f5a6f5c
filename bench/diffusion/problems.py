"""The data sets of the suite by name, the networks that know them exactly, and where the exact flow ends.

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

from nsolve.diffusion.denoiser import Denoiser, Prediction
from nsolve.diffusion.schedules import AbstractSchedule, Flow

from .. import specs
from .digits import Digits
from .mixtures import Gaussian, Mixture
from .networks import Images


def mixture1d() -> Mixture:
    """Two Gaussians on a line."""
    return Mixture(np.array([0.4, 0.6]), np.array([[-1.0], [0.8]]), np.array([[0.4], [0.6]]) ** 2)


def ring(modes: int = 8, std: float = 0.2) -> Mixture:
    """Gaussians on a circle of radius 2."""
    angles = 2 * np.pi * np.arange(modes) / modes
    means = 2.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Mixture(np.full(modes, 1 / modes), means, np.full((modes, 1), std**2))


def lattice(side: int = 5, std: float = 0.15) -> Mixture:
    """Gaussians on a square of side x side points, a distance 1 apart."""
    points = np.arange(side) - (side - 1) / 2
    means = np.stack(np.meshgrid(points, points, indexing="ij"), axis=-1).reshape(-1, 2)
    return Mixture(np.full(side**2, 1 / side**2), means, np.full((side**2, 1), std**2))


def clusters(dimension: int = 64, modes: int = 40, std: float = 0.4) -> Mixture:
    """Gaussians of unlike weights whose means are normal numbers times `std`."""
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.5, 1.5, modes)
    means = std * rng.standard_normal((modes, dimension))
    return Mixture(weights / weights.sum(), means, np.full((modes, 1), std**2))


def near_singular(std: float = 1e-3) -> Mixture:
    """Eight Gaussians that are almost points, like data that a network has learned by heart."""
    return ring(8, std)


def gaussian(dimension: int = 16, low: float = 1e-4, high: float = 1e2) -> Gaussian:
    """One Gaussian along turned axes, with variances from `low` to `high`: stiff, as images are."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((dimension, dimension)))
    return Gaussian(rng.standard_normal(dimension), np.geomspace(low, high, dimension), basis)


MIXTURES: Mapping[str, Callable[..., Mixture]] = {
    function.__name__: function for function in (mixture1d, ring, lattice, clusters, near_singular, gaussian)
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


class ExactNetwork(eqx.Module):
    """The network that has learned a mixture by heart, called as `model(x, t)`."""

    problem: Mixture
    schedule: AbstractSchedule
    prediction: Prediction = eqx.field(static=True)

    def __call__(self, x: Array, t: Array) -> Array:
        # A flow's network is told the shifted time, which is the noise itself.
        schedule = Flow() if isinstance(self.schedule, Flow) else self.schedule
        alpha, sigma = (value.astype(x.dtype) for value in (schedule.alpha(t), schedule.sigma(t)))
        if self.prediction == "score":
            return self.problem.score(x, alpha, sigma)
        x0, eps = self.problem.x0(x, alpha, sigma), self.problem.eps(x, alpha, sigma)
        return {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "flow": eps - x0}[self.prediction]


def denoiser(problem: Mixture, schedule: AbstractSchedule, prediction: Prediction = "eps") -> Denoiser:
    """The exact denoiser of a problem."""
    return Denoiser(ExactNetwork(problem, schedule, prediction), prediction, schedule)


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

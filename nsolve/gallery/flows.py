"""Where samplers of a mixture should end: its exact probability flow, and the exact law of what a plan makes
of one Gaussian.  What samplers are judged by; on the host, in float64."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..diffusion.plan import Plan
from ..diffusion.schedules import AbstractSchedule
from .mixtures import Gaussian, Mixture


def exact_flow(
    mixture: Mixture, schedule: AbstractSchedule, x: np.ndarray, t_start: float, t_end: float
) -> np.ndarray:
    """Where the probability-flow ODE carries states `x` (B, D) from one time to another, to 12 digits, by no
    sampler of ours; JAX must be in float64.

    Divided by sqrt(alpha^2 + sigma^2) every schedule moves on a circle (alpha, sigma) = (cos u, sin u); there
    dy/du = cos u eps - sin u x0 has no end at infinity: Dormand and Prince's method of order 8 (Hairer,
    Nørsett & Wanner 1993, section II.5).  RuntimeError where it fails."""
    from scipy.integrate import solve_ivp  # slow to import

    if jnp.result_type(float) != jnp.float64:
        raise ValueError("`exact_flow` needs JAX in float64: jax.config.update('jax_enable_x64', True)")
    (start, first), (end, last) = (_on_circle(schedule, t) for t in (t_start, t_end))
    y = np.asarray(x, np.float64) / first
    found = solve_ivp(
        lambda u, y: np.asarray(_slope(mixture, u, y.reshape(x.shape))).ravel(),
        (start, end),
        y.ravel(),
        method="DOP853",
        rtol=1e-13,
        atol=1e-14,
    )
    if not found.success:
        raise RuntimeError(f"the exact flow failed: {found.message}")
    return last * found.y[:, -1].reshape(x.shape)


@eqx.filter_jit
def _slope(mixture: Mixture, u: Any, y: Array) -> Array:
    alpha, sigma = jnp.cos(u), jnp.sin(u)
    return alpha * mixture.eps(y, alpha, sigma) - sigma * mixture.x0(y, alpha, sigma)


def _on_circle(schedule: AbstractSchedule, t: float) -> tuple[float, float]:
    """The angle of (alpha, sigma), and its distance from the origin."""
    time = np.asarray(t, np.float64)
    alpha, sigma = float(schedule.alpha(time)), float(schedule.sigma(time))
    return float(np.arctan2(sigma, alpha)), float(np.hypot(sigma, alpha))


def moments(plan: Plan, gaussian: Gaussian) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (D,), along the Gaussian's axes, of what a plan makes of its exact marginal at the
    plan's first time, without a random number.

    The network of a Gaussian is a linear map, so that the state and the registers of a plan are Gaussian from
    first to last, and their mean and covariance follow from its rows."""
    mean, variances = _axes(gaussian)
    alpha, sigma, reads, weights = (np.asarray(v) for v in (plan.alpha, plan.sigma, plan.reads, plan.weights))
    dimension, width = len(mean), plan.num_registers + 1
    m, c = np.zeros((dimension, width)), np.zeros((dimension, width, width))
    m[:, 0], c[:, 0, 0] = alpha[0] * mean, alpha[0] ** 2 * variances + sigma[0] ** 2

    def apply(row: int, factors: np.ndarray, offset: Any, noise: float) -> None:
        """Replace part `row` of (x, registers) by a combination (D, width) of all, an offset and noise."""
        moved = np.einsum("dij,dj->di", c, factors)
        m[:, row] = np.sum(factors * m, axis=1) + offset
        c[:, row, :] = moved
        c[:, :, row] = moved
        c[:, row, row] = np.sum(factors * moved, axis=1) + noise**2

    # The registers have no part in row 0, and row k + 1 follows the evaluation k.
    apply(0, np.broadcast_to(weights[0, :-1], (dimension, width)), 0.0, weights[0, -1])
    for k, register in enumerate(plan.registers):
        gain = alpha[k] * variances / (alpha[k] ** 2 * variances + sigma[k] ** 2)
        factors = np.zeros((dimension, width))
        factors[:, 0] = reads[k, 0] + reads[k, 1] * gain
        apply(1 + int(register), factors, reads[k, 1] * (1 - gain * alpha[k]) * mean, 0.0)
        apply(0, np.broadcast_to(weights[k + 1, :-1], (dimension, width)), 0.0, weights[k + 1, -1])
    return m[:, 0], c[:, 0, 0]


def wasserstein(plan: Plan, gaussian: Gaussian) -> float:
    """The 2-Wasserstein distance of the law of a plan's result from the exact marginal at its last time."""
    mean, variance = moments(plan, gaussian)
    data_mean, data_variances = _axes(gaussian)
    alpha, sigma = float(plan.alpha[-1]), float(plan.sigma[-1])
    spread = np.sqrt(alpha**2 * data_variances + sigma**2)
    return float(np.sqrt(np.sum((mean - alpha * data_mean) ** 2 + (np.sqrt(variance) - spread) ** 2)))


def _axes(gaussian: Gaussian) -> tuple[np.ndarray, np.ndarray]:
    """The data's mean and variances (D,) along its axes."""
    mean = gaussian.means[0]
    return (mean if gaussian.basis is None else gaussian.basis.T @ mean), gaussian.variances[0]

"""Samplers on one Gaussian, without a random number: its network is a linear map, so that the state and the
registers of a plan are Gaussian from first to last, and their mean and covariance follow from its rows.
"""

from typing import Any

import numpy as np

from nsolve import diffusion
from nsolve.gallery.mixtures import Gaussian


def after(plan: diffusion.Plan, problem: Gaussian) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (D,) of the result along the problem's axes, from the exact marginal at the first
    time."""
    mean, variances = axes(problem)
    alpha, sigma, reads, weights = (
        np.asarray(part) for part in (plan.alpha, plan.sigma, plan.reads, plan.weights)
    )
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


def axes(problem: Gaussian) -> tuple[np.ndarray, np.ndarray]:
    """The data's mean and variances (D,) along its axes."""
    mean = problem.means[0]
    return (mean if problem.basis is None else problem.basis.T @ mean), problem.variances[0]


def wasserstein(plan: diffusion.Plan, problem: Gaussian) -> float:
    """The 2-Wasserstein distance of the result from the exact marginal at the last time."""
    mean, variance = after(plan, problem)
    data_mean, data_variances = axes(problem)
    alpha, sigma = float(plan.alpha[-1]), float(plan.sigma[-1])
    spread = np.sqrt(alpha**2 * data_variances + sigma**2)
    return float(np.sqrt(np.sum((mean - alpha * data_mean) ** 2 + (np.sqrt(variance) - spread) ** 2)))

"""Mean and covariance of what a plan makes of a linear network, exactly: no Monte Carlo.

With x0 = M x + c the state and the registers stay a linear function of what they were and of independent
normal numbers, so that their joint mean and covariance obey a recursion over the plan's rows. Each component
of the state is treated alone (M is a number for each), which is all that Gaussian data need in their
eigenbasis.
"""

from collections.abc import Callable
from typing import Any

import numpy as np


def moments(
    plan: Any,
    network: Callable[[float, float], tuple[np.ndarray, np.ndarray]],
    mean: np.ndarray,
    variance: np.ndarray,
    registers: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(mean, variance) of the result, each (D,), from those of x_T.

    `network(alpha, sigma)` gives M and c, each (D,). `registers`, if given, are the joint mean (D, 1 + n) and
    covariance (D, 1 + n, 1 + n) of x_T and the registers before the first row.
    """
    size = 1 + plan.num_registers
    if registers is None:
        joint_mean = np.zeros((len(mean), size))
        joint_cov = np.zeros((len(mean), size, size))
        joint_mean[:, 0], joint_cov[:, 0, 0] = mean, variance
    else:
        joint_mean, joint_cov = registers

    def carry(
        joint: Any, matrix: np.ndarray, shift: np.ndarray, noise: float
    ) -> tuple[np.ndarray, np.ndarray]:
        joint_mean, joint_cov = joint
        joint_mean = np.einsum("dij,dj->di", matrix, joint_mean) + shift
        joint_cov = matrix @ joint_cov @ np.swapaxes(matrix, 1, 2)
        joint_cov[:, 0, 0] += noise**2
        return joint_mean, joint_cov

    def row(joint: Any, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        matrix = np.tile(np.eye(size), (len(mean), 1, 1))
        matrix[:, 0, :] = weights[:-1]
        return carry(joint, matrix, np.zeros((len(mean), size)), weights[-1])

    joint = row((joint_mean, joint_cov), plan.weights[0])
    for k in range(plan.num_evaluations):
        slope, offset = network(float(plan.alpha[k]), float(plan.sigma[k]))
        p, q = plan.reads[k]
        register = 1 + int(plan.registers[k])
        matrix, shift = np.tile(np.eye(size), (len(mean), 1, 1)), np.zeros((len(mean), size))
        matrix[:, register, :] = 0.0
        matrix[:, register, 0] = p + q * slope
        shift[:, register] = q * offset
        joint = row(carry(joint, matrix, shift, 0.0), plan.weights[k + 1])
    return joint[0][:, 0], joint[1][:, 0, 0]


def gaussian(
    mean: np.ndarray, variance: np.ndarray
) -> Callable[[float, float], tuple[np.ndarray, np.ndarray]]:
    """The exact network for data N(mean, variance), as `moments` takes it."""

    def network(alpha: float, sigma: float) -> tuple[np.ndarray, np.ndarray]:
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        return gain, (1.0 - alpha * gain) * mean

    return network


def marginal(
    mean: np.ndarray, variance: np.ndarray, alpha: float, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of alpha x0 + sigma eps for data N(mean, variance)."""
    return alpha * mean, alpha**2 * variance + sigma**2


def exact(
    data: tuple[np.ndarray, np.ndarray],
    start: tuple[np.ndarray, np.ndarray],
    eta: float,
    first: tuple[float, float],
    last: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance to which the eta-SDE for normal data carries N(*start), between two (alpha, sigma).

    In z = x / alpha, dz / dlam = (1 + eta) (x0 - z) and noise; what the start deviates from the marginal
    shrinks with the power 1 + eta of the marginal's deviation.
    """
    (begin_mean, begin_variance), (end_mean, end_variance) = marginal(*data, *first), marginal(*data, *last)
    ratio = last[0] / first[0]
    shrink = (end_variance / last[0] ** 2 / (begin_variance / first[0] ** 2)) ** (0.5 * (1.0 + eta)) * ratio
    return (
        end_mean + shrink * (start[0] - begin_mean),
        end_variance + shrink**2 * (start[1] - begin_variance),
    )

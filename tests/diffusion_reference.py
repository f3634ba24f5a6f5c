"""A diffusion problem with a known answer, and a plan's loop in NumPy: what samplers are held against."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

# A mixture of three normal distributions in the plane: smooth enough for orders to show at some tens of
# steps.
WEIGHTS = np.array([0.3, 0.45, 0.25])
MEANS = np.array([[-1.0, 0.6], [0.9, 0.3], [0.1, -1.1]])
DEVIATIONS = np.array([0.55, 0.45, 0.65])


def clean(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    """E[x0 | x] of the mixture, x (B, 2)."""
    variance = alpha**2 * DEVIATIONS**2 + sigma**2
    offset = x[:, None, :] - alpha * MEANS
    log_weight = np.log(WEIGHTS) - np.log(variance) - 0.5 * np.sum(offset**2, axis=2) / variance
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    return np.einsum("bk,bkd->bd", weight, MEANS + (alpha * DEVIATIONS**2 / variance)[:, None] * offset)


def starts(batch: int = 12) -> np.ndarray:
    """States (batch, 2) of unit size, the same each time."""
    return np.random.default_rng(0).normal(size=(batch, 2))


@cache
def _flow(schedule: Any, lam_start: float, lam_end: float, batch: int) -> Callable[[float], np.ndarray]:
    def alpha_sigma(lam: float) -> tuple[float, float]:
        t = schedule.t_of_lam(np.asarray(lam))
        return float(np.exp(schedule.log_alpha(t))), float(np.exp(schedule.log_sigma(t)))

    def slope(lam: float, z: np.ndarray) -> np.ndarray:
        # z = x / alpha: dz / dlam = -(sigma / alpha) eps = x0 - z
        alpha, sigma = alpha_sigma(lam)
        z = z.reshape(batch, 2)
        return (clean(alpha * z, alpha, sigma) - z).ravel()

    alpha, sigma = alpha_sigma(lam_start)
    start = starts(batch) * np.hypot(alpha, sigma)
    solution = solve_ivp(
        slope,
        (lam_start, lam_end),
        start.ravel() / alpha,
        "DOP853",
        rtol=3e-14,
        atol=1e-15,
        dense_output=True,
    ).sol
    return lambda lam: alpha_sigma(lam)[0] * solution(lam).reshape(batch, 2)


def exact_flow(
    schedule: Any, lam_start: float, lam_end: float, batch: int = 12
) -> Callable[[float], np.ndarray]:
    """The probability-flow ODE's solution from `starts`, as a function of lam (error about 1e-13)."""
    return _flow(schedule, float(lam_start), float(lam_end), batch)


def run_plan(
    plan: Any,
    x: np.ndarray,
    x0_of: Callable[[np.ndarray, float, float], np.ndarray] = clean,
    registers: np.ndarray | None = None,
    noise: Callable[[int], np.ndarray] | None = None,
) -> np.ndarray:
    """What a plan says, word for word, in NumPy."""
    k, n = plan.num_evaluations, plan.num_registers
    kept = np.zeros((n, *x.shape)) if registers is None else np.array(registers)

    def point(row: int, x: np.ndarray) -> np.ndarray:
        w = plan.weights[row]
        total = w[0] * x + sum(w[1 + j] * kept[j] for j in range(n))
        if noise is not None:
            total = total + w[n + 1] * noise(row)
        return total if plan.shifts is None else total + plan.shifts[row]

    x = point(0, x)
    for i in range(k):
        x0 = x0_of(x, float(plan.alpha[i]), float(plan.sigma[i]))
        kept[plan.registers[i]] = plan.reads[i][0] * x + plan.reads[i][1] * x0
        x = point(i + 1, x)
    return x


LAM = (-2.5, 2.0)


def flow_error(
    sampler: Any, schedule: Any, num_steps: int, known: int, lam: tuple[float, float] = LAM
) -> float:
    """RMS error at the end of a grid even in lam, with the first `known` outputs exact."""
    lams = np.linspace(*lam, num_steps + 1)
    times = schedule.t_of_lam(lams)
    exact = exact_flow(schedule, *lam)
    plan = sampler.plan(times, schedule, known=known)
    registers = np.zeros((plan.num_registers, *exact(lams[0]).shape))
    if known:
        whole = sampler.plan(times, schedule)
        alpha, sigma = schedule.alpha(times), schedule.sigma(times)
        for i in range(known):
            x = exact(lams[i])
            p, q = whole.reads[i]
            registers[i % plan.num_registers] = p * x + q * clean(x, alpha[i], sigma[i])
    result = run_plan(plan, exact(lams[known]), registers=registers)
    return float(np.sqrt(np.mean((result - exact(lams[-1])) ** 2)))

"""Entropic transport in plain NumPy: short, slow, and sure enough to judge the solvers by."""

from typing import NamedTuple

import numpy as np
from scipy.special import kl_div, logsumexp


class Reference(NamedTuple):
    f: np.ndarray
    g: np.ndarray
    plan: np.ndarray
    cost: float


def plan_of(C, epsilon, a, b, f, g):
    """The plan of a pair of potentials; sites without weight send and get nothing."""
    f, g = np.asarray(f), np.asarray(g)
    weights = np.outer(a, b)
    exponents = np.where(weights > 0, (f[:, None] + g - C) / epsilon, 0)
    return weights * np.exp(exponents)


def gaps(C, epsilon, a, b, f, g, tau=(None, None)):
    """What the plan lacks in either marginal."""
    P = plan_of(C, epsilon, a, b, f, g)
    return _wanted(a, f, tau[0]) - P.sum(1), _wanted(b, g, tau[1]) - P.sum(0)


def marginal_error(*args, **kwargs):
    return sum(np.sum(np.abs(gap)) for gap in gaps(*args, **kwargs))


def primal(C, epsilon, a, b, P, tau=(None, None)):
    """`<P, C> + epsilon KL(P | a b^T)` and the penalties of relaxed marginals."""
    cost = np.sum(P * C) + epsilon * np.sum(kl_div(P, np.outer(a, b)))
    for strength, sums, weights in zip(tau, (P.sum(1), P.sum(0)), (a, b), strict=True):
        if strength is not None:
            cost += strength * np.sum(kl_div(sums, weights))
    return cost


def centred(f, g, a, b, tau=(None, None)):
    """Potentials of exact marginals with `sum a f = sum b g`."""
    if tau != (None, None):
        return f, g
    constant = (np.sum(a * f) / np.sum(a) - np.sum(b * g) / np.sum(b)) / 2
    return f - constant, g + constant


def hessian(C, epsilon, a, b, f, g, tau=(None, None)):
    """Minus the Hessian of the dual, times epsilon, on all `n + m` potentials."""
    P = plan_of(C, epsilon, a, b, f, g)
    rows, columns = P.sum(1), P.sum(0)
    if tau[0] is not None:
        rows = rows + epsilon / tau[0] * _wanted(a, f, tau[0])
    if tau[1] is not None:
        columns = columns + epsilon / tau[1] * _wanted(b, g, tau[1])
    return np.block([[np.diag(rows), P], [P.T, np.diag(columns)]])


def solve(C, epsilon, a, b, tau=(None, None)) -> Reference:
    """At each level of a falling epsilon sweeps, then Newton on both potentials until rounding stops it."""
    f, g = np.zeros(len(a)), np.zeros(len(b))
    levels = np.ceil(np.log2(max(1, np.max(np.abs(C)) / epsilon)))
    for level in epsilon * 2.0 ** np.arange(levels, -1, -1):
        for _ in range(30):
            f = _best(C, level, g, b, tau[0])
            g = _best(C.T, level, f, a, tau[1])
        f, g = _newton(C, level, a, b, f, g, tau)
    f = np.where(a > 0, f, _best(C, epsilon, g, b, tau[0]))
    g = np.where(b > 0, g, _best(C.T, epsilon, f, a, tau[1]))
    f, g = centred(f, g, a, b, tau)
    P = plan_of(C, epsilon, a, b, f, g)
    return Reference(f, g, P, primal(C, epsilon, a, b, P, tau))


def _wanted(weights, potential, tau):
    potential = np.asarray(potential)
    return weights if tau is None else weights * np.exp(-potential / tau)


def _best(C, epsilon, g, b, tau):
    softmin = -epsilon * logsumexp((g - C) / epsilon, b=b, axis=1)
    return softmin if tau is None else softmin * tau / (tau + epsilon)


def _newton(C, epsilon, a, b, f, g, tau):
    n, arguments = len(a), (C, epsilon, a, b)
    error = marginal_error(*arguments, f, g, tau)
    for _ in range(60):
        gap = np.concatenate(gaps(*arguments, f, g, tau))
        step = epsilon * np.linalg.lstsq(hessian(*arguments, f, g, tau), gap, rcond=1e-14)[0]
        for length in 0.5 ** np.arange(20):
            trial = f + length * step[:n], g + length * step[n:]
            with np.errstate(over="ignore"):
                trial_error = marginal_error(*arguments, *trial, tau)
            if trial_error < error:
                break
        else:
            break
        (f, g), error = trial, trial_error
    size = max(np.max(np.abs(z)) for z in (C, f, g))
    assert error <= max(a.sum(), b.sum()) * (1e-12 + 1e-14 * size / epsilon)
    return f, g

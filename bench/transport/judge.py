"""What an answer is worth: marginals and costs of its plan, in NumPy, in the log domain, from the
potentials."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..peers.base import Missing
from . import problems
from .problems import Problem

#: Up to so many entries plans are summed in extended precision: float64 would err by as much as 1e-12 itself.
MOST_EXTENDED = 5_000_000
#: Up to so many entries the exact cost without regularisation is computed.
MOST_EXACT = 5_000_000


@dataclass(frozen=True)
class Claim:
    """What a column claims.

    Its plan is `exp((f_i + g_j - C_ij) / epsilon)`, times `a_i b_j` where `weighted`; or `plan` itself, which
    is not `regularised` where it solves the problem without.  `counts` holds its iterations by name,
    `num_steps` among them; `claimed_error` the marginal error that it reports."""

    result: str
    f: np.ndarray | None = None
    g: np.ndarray | None = None
    weighted: bool = False
    plan: np.ndarray | None = None
    regularised: bool = True
    counts: dict[str, Any] | None = None
    claimed_error: float | None = None


def judge(problem: Problem, outcome: Claim, rtol: float) -> dict[str, Any]:
    """The fields of a record that say how good the plan is.

    `marginal_error` (also `true_residual`, the field that all suites share) is `|P1 - a|_1 + |P^T 1 - b|_1`;
    `rounding` is how much of it potentials of the exact solution would have when rounded to float64: an error
    above the tolerance by no more than that is not held against a column."""
    row = _plan_figures(problem, outcome)
    error = row["marginal_error"]
    row["true_residual"] = error
    if outcome.result == "successful":
        row["false_success"] = not error <= rtol * (1 + 1e-6) + row["rounding"]
    return row


def _plan_figures(problem: Problem, outcome: Claim) -> dict[str, Any]:
    n, m = problem.shape
    kind = np.longdouble if n * m <= MOST_EXTENDED else np.float64
    a, b, epsilon = problem.a.astype(kind), problem.b.astype(kind), kind(problem.epsilon)
    log_a, log_b = np.log(a), np.log(b)
    rows, columns = np.zeros(n, kind), np.zeros(m, kind)
    cost, entropy = kind(0), kind(0)
    if outcome.plan is None:
        assert outcome.f is not None and outcome.g is not None
        u, v = np.asarray(outcome.f, kind) / epsilon, np.asarray(outcome.g, kind) / epsilon
        if not outcome.weighted:
            u, v = u - log_a, v - log_b
    with np.errstate(all="ignore"):
        for block in problem.blocks():
            c = problem.cost_rows(block).astype(kind)
            if outcome.plan is None:
                ratio = u[block, None] + v[None, :] - c / epsilon  # log of P / (a b^T)
                plan = np.exp(ratio + log_a[block, None] + log_b[None, :])
            else:
                plan = outcome.plan[block].astype(kind)
                ratio = np.log(plan) - log_a[block, None] - log_b[None, :]
            entropy += np.sum(plan * np.where(plan > 0, ratio, 0))
            rows[block] = plan.sum(axis=1)
            columns += plan.sum(axis=0)
            cost += np.sum(plan * c)
        entropy += a.sum() * b.sum() - rows.sum()
        row_error, column_error = np.abs(rows - a).sum(), np.abs(columns - b).sum()
    row = {
        "marginal_error": float(row_error + column_error),
        "row_error": float(row_error),
        "column_error": float(column_error),
        "cost": float(cost),
        "regularised_cost": float(cost + epsilon * entropy),
        "rounding": 0.0,
    }
    if problem.closed_form is not None and outcome.regularised:
        sharp, regularised = problem.closed_form
        row["closed_form_error"] = abs(row["regularised_cost"] / regularised - 1)
        row["sharp_closed_form_error"] = abs(row["cost"] / sharp - 1)
    if outcome.plan is None:
        # exp of a sum of numbers that are each off by half a unit in the last place, in both marginals.
        size = np.sum(a * np.abs(u)) + np.sum(b * np.abs(v))
        row["rounding"] = float(2 * size * np.finfo(np.float64).eps / 2)
    return row


def exact_cost(text: str, size: int | None, seed: int) -> float | None:
    """The least cost without regularisation, or None where that would take too long."""
    return _exact_cost(problems.without_eta(text), size, seed)


@functools.lru_cache(maxsize=64)
def _exact_cost(text: str, size: int | None, seed: int) -> float | None:
    problem = problems.build(text, size, seed)
    n, m = problem.shape
    if problem.is_batch or n * m > MOST_EXACT:
        return None
    if n == m and np.ptp(problem.a) == 0 and np.ptp(problem.b) == 0:
        from scipy.optimize import linear_sum_assignment

        return float(problem.cost[linear_sum_assignment(problem.cost)].sum() / n)
    try:
        import ot
    except ImportError:
        raise Missing("POT is not installed (pip install 'nsolve[peers]')") from None
    return float(ot.emd2(problem.a, problem.b, problem.cost, numItermax=10_000_000))

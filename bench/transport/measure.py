"""One cell: a transport problem solved by one column; timed, and judged in NumPy."""

from typing import Any

import numpy as np

from ..timing import clock, spread
from . import columns, gradients, memory, problems
from .columns import Column
from .judge import Claim, exact_cost, judge
from .problems import Problem

# Columns that ran out of time on a problem, and the tolerance that they did not reach.
_too_slow: dict[tuple[Any, ...], float] = {}


def measure(cell: Any, settings: Any) -> dict[str, Any]:
    """The fields of a record that say how a transport problem was solved.

    `true_residual` and `marginal_error` are both the L1 error of both marginals, as `judge` finds it;
    `claimed_error` is what the column says of it.  `cost` is the plan's, `cost_gap` what it is above the
    exact one; `num_sweeps`, `num_newton_steps` and `num_cg_steps` are parts of the iterations.  Where a
    tolerance was out of reach in `settings.limit_s` seconds, tighter ones are not tried."""
    problem = problems.build(cell.problem, cell.size, cell.seed)
    row: dict[str, Any] = {
        "size": problem.size,
        "unknowns": sum(problem.shape),
        "epsilon": problem.epsilon,
        "limit_s": settings.limit_s,
    }
    column = columns.find(cell.spec.peer).make(cell.spec)
    key = (cell.problem, cell.size, cell.seed, str(cell.spec), settings.limit_s)
    if _too_slow.get(key, 0.0) > cell.rtol:
        return row | {"result": "time_limit", "not_tried_after": _too_slow[key]}
    if settings.memory:
        return row | memory.measure(cell, settings)
    if "gradient" in cell.spec.mode:
        return row | gradients.measure(column, problem, cell, settings)
    while True:
        max_steps = columns.step_limit(column, problem, settings.max_steps, settings.limit_s)
        solve, compile_s = column.program(problem, cell.rtol, max_steps)
        times, raw = columns.timed(solve, settings.repeats)
        outcome = column.read(raw, problem, cell.rtol)
        unsolved = outcome.result == "max_steps_reached" and max_steps < settings.max_steps
        steps = (outcome.counts or {}).get("num_steps", 0)
        if not unsolved or not columns.correct_limit(column, problem, settings.limit_s, steps, times[0]):
            break
    row |= {
        "result": outcome.result,
        "num_steps": None,
        "setup_s": 0.0,
        "compile_s": compile_s,
        "solve_s": spread(times),
        "claimed_error": outcome.claimed_error,
        **(outcome.counts or {}),
    }
    row["num_matvecs"] = row.get("num_cg_steps")
    if unsolved:
        row["result"] = "time_limit"
        _too_slow[key] = cell.rtol
    if row["num_steps"]:
        row["seconds_per_step"] = float(np.median(times)) / row["num_steps"]
    if problem.is_batch:
        return row | _judged_batch(problem, outcome, cell.rtol) | _slowest(column, problem, cell, max_steps)
    row |= judge(problem, outcome, cell.rtol)
    exact = exact_cost(cell.problem, cell.size, cell.seed)
    return row if exact is None else row | {"exact_cost": exact, "cost_gap": row["cost"] - exact}


def _single(problem: Problem, i: int) -> Problem:
    assert problem.matrix is not None
    return Problem("one", problem.size, problem.epsilon, problem.a[i], problem.b[i], problem.matrix[i])


def _judged_batch(problem: Problem, outcome: Claim, rtol: float) -> dict[str, Any]:
    """The worst of the batch; successful only where all are."""
    assert outcome.f is not None and outcome.g is not None
    rows = [
        judge(_single(problem, i), Claim(outcome.result, f, g, outcome.weighted), rtol)
        for i, (f, g) in enumerate(zip(outcome.f, outcome.g, strict=True))
    ]
    worst = max(rows, key=lambda row: row["marginal_error"])
    met = [row["marginal_error"] <= rtol * (1 + 1e-6) + row["rounding"] for row in rows]
    worst |= {"count_of_batch": len(rows), "solved": sum(met)}
    if outcome.result == "successful":
        worst["false_success"] = not all(met)
    return worst


def _slowest(column: Column, problem: Problem, cell: Any, max_steps: int) -> dict[str, float]:
    """Seconds of the slowest problem of the batch when each is solved alone, and of all of them in turn."""
    seconds = []
    for i in range(len(problem.a)):
        solve, _ = column.program(_single(problem, i), cell.rtol, max_steps)
        seconds.append(min(clock(solve)[1] for _ in range(2)))
    return {"slowest_s": max(seconds), "one_by_one_s": sum(seconds)}

"""POT beside us, in NumPy and float64.

Stopping rule: POT looks every 10 (`log`) or 20 (`stabilized`) sweeps at `|P^T 1 - b|_2`, which the tolerance
over `sqrt(m)` turns into the L1 error asked for; `epsilon_scaling` at the sum of both squared errors, every
10 outer steps of 100 sweeps.  `emd` is the exact plan, without regularisation.  POT returns plans, so the
plan is what is judged.
"""

import warnings
from typing import Any

import numpy as np

from ..environment import version as _version
from ..peers.base import Missing
from ..specs import Spec
from ..timing import clock
from .columns import Column
from .judge import Claim
from .problems import Problem

SOLVERS: dict[str, tuple[str, ...]] = {"log": (), "stabilized": (), "epsilon_scaling": (), "emd": ()}
#: Sweeps of an outer step of `epsilon_scaling`, and its fewest outer steps: POT's own settings.
INNER, FEWEST = 100, 35


def version() -> str | None:
    """The installed version of POT, or None."""
    return _version("POT")


def make(spec: Spec) -> Column:
    """The column."""
    if version() is None:
        raise Missing("POT is not installed (pip install 'nsolve[peers]')")
    return PotColumn(spec)


class PotColumn(Column):
    """One of POT's functions."""

    def timed(self, problem: Problem) -> bool:
        return self.spec.solver.name != "emd"

    def program(self, problem: Problem, rtol: float, max_steps: int) -> tuple[Any, float]:
        import ot

        if problem.is_batch:
            raise ValueError(f"{self.spec} solves one problem at a time")
        name, cost = self.spec.solver.name, problem.cost
        given = problem.a, problem.b, cost
        wide = max(cost.shape)
        if name == "emd":
            return lambda: ot.emd(*given, numItermax=10_000_000, log=True), 0.0
        common: dict[str, Any] = {"log": True, "warn": False}
        if name == "log":
            solve = ot.bregman.sinkhorn_log
            common |= {"numItermax": max_steps, "stopThr": rtol / wide**0.5}
        elif name == "stabilized":
            solve = ot.bregman.sinkhorn_stabilized
            common |= {"numItermax": max_steps, "stopThr": rtol / wide**0.5}
        else:
            solve = ot.bregman.sinkhorn_epsilon_scaling
            common |= {"numItermax": max(1, max_steps // INNER), "stopThr": rtol**2 / (2 * wide)}

        def run():
            # Underflow and overflow are part of what is measured.
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                return solve(*given, problem.epsilon, **common)

        return run, 0.0

    def seconds_per_step(self, problem: Problem, limit_s: float) -> float:
        if self.spec.solver.name != "epsilon_scaling":
            return super().seconds_per_step(problem, limit_s)
        solve, _ = self.program(problem, 0.0, INNER)
        return clock(solve)[1] / (INNER * FEWEST)

    def read(self, raw: Any, problem: Problem, rtol: float) -> Claim:
        plan, log = raw
        name = self.spec.solver.name
        if name == "emd":
            result = "successful" if log["warning"] is None else str(log["warning"])
            return Claim(result, plan=plan, regularised=False, counts={"num_steps": 0})
        wide, error = max(problem.shape), float(log["err"][-1])
        steps = log["niter" if "niter" in log else "n_iter"] + 1
        if name == "epsilon_scaling":
            steps, error = INNER * steps, (2 * error) ** 0.5
        error *= wide**0.5
        finite = bool(np.all(np.isfinite(plan)))
        result = "successful" if error <= rtol else "max_steps_reached" if finite else "nonfinite_output"
        counts = {"num_steps": int(steps), "num_sweeps": int(steps)}
        return Claim(result, plan=plan, counts=counts, claimed_error=error)

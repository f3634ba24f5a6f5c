"""POT, in NumPy and float64.

Stopping rule: POT looks every 10 (`log`) or 20 (`stabilized`) sweeps at `|P^T 1 - b|_2`, which the tolerance
over `sqrt(m)` turns into the L1 error asked for; `epsilon_scaling` at the sum of both squared errors, every
10 outer steps of 100 sweeps.  `emd` is the exact plan, without regularisation.  POT returns plans, so the
plan is what is judged.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine.spec import Part, Spec
from ..engine.work import Answer, Library, Offer, Task
from ..work.transport import Coupling, Problem
from . import _transport

SOLVERS: dict[str, tuple[str, ...]] = {"log": (), "stabilized": (), "epsilon_scaling": (), "emd": ()}
# Sweeps of an outer step of `epsilon_scaling`, and more outer steps than the fewest after which it may stop:
# POT's own settings.
INNER, ENOUGH = 100, 50


class PotRun(_transport.TransportRun):
    """One of POT's functions."""

    def __init__(self, task: Task):
        super().__init__(task)
        self.limited = self.spec.solver.name != "emd"
        if self.spec.solver.name == "epsilon_scaling":
            self.first_steps = INNER * ENOUGH

    def program(self, problem: Problem, max_steps: int) -> tuple[Callable[[], Any], float]:
        import ot

        name, given = self.spec.solver.name, (problem.a, problem.b, problem.cost)
        rtol, wide = self.task.rtol, max(problem.shape)
        if name == "emd":
            return lambda: ot.emd(*given, numItermax=10_000_000, log=True), 0.0
        limits = {"numItermax": max_steps, "stopThr": rtol / wide**0.5}
        if name == "epsilon_scaling":
            limits = {"numItermax": max(1, max_steps // INNER), "stopThr": rtol**2 / (2 * wide)}
        solve = getattr(ot.bregman, f"sinkhorn_{name}")

        def run():
            # Underflow and overflow are part of what is measured.
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                return solve(*given, problem.epsilon, log=True, warn=False, **limits)

        return run, 0.0

    def read(self, raw: Any) -> Answer:
        plan, log = raw
        if self.spec.solver.name == "emd":
            result = "successful" if log["warning"] is None else str(log["warning"])
            exact = Coupling(plan=plan, regularised=False)
            return Answer(result, exact, {"num_steps": 0}, {"claimed_error": None})
        wide, rtol, error = max(self.task.problem.shape), self.task.rtol, float(log["err"][-1])
        steps = log["niter" if "niter" in log else "n_iter"] + 1
        if self.spec.solver.name == "epsilon_scaling":
            steps, error = INNER * steps, (2 * error) ** 0.5
        error *= wide**0.5
        finite = bool(np.all(np.isfinite(plan)))
        result = "successful" if error <= rtol else "max_steps_reached" if finite else "nonfinite_output"
        counts = {"num_steps": int(steps), "num_sweeps": int(steps)}
        return Answer(result, Coupling(plan=plan), counts, {"claimed_error": error})


def _check(spec: Spec, part: Part) -> None:
    if spec.mode:
        raise ValueError(f"{spec}: POT's NumPy functions have no derivatives")
    if part.name == "batch":
        raise ValueError(f"{spec} solves one problem at a time, not a batch")


OFFER = Offer(PotRun, SOLVERS, modes=("gradient",), check=_check)
LIBRARY = Library("pot", "POT", {"transport": OFFER})

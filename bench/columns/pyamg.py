"""PyAMG: algebraic multigrid with an accelerator (`ruge_stuben+cg`), and its CG alone.

Stopping rule: `||r|| < rtol ||b||`, on the recurrence where accelerated (its CG recomputes the true
residual every eighth step), on the true residual otherwise (`gmres`: on the preconditioned one).
The accelerator stands where other columns have their preconditioner; `num_steps` counts its
iterations, or cycles without one. Smoothers and coarsening are PyAMG's defaults.
"""

import warnings
from typing import Any

import numpy as np

from ..engine.spec import Part, Spec
from ..engine.work import Answer, Library, Offer, Run

SOLVERS = {"ruge_stuben": (), "smoothed_aggregation": (), "cg": ()}
ACCELERATORS = {"cg": (), "gmres": (), "fgmres": (), "bicgstab": ()}


class PyAMGRun(Run):
    """A hierarchy (or CG alone) from PyAMG."""

    def setup(self) -> Any:
        import pyamg

        name = self.spec.solver.name
        if name == "cg":
            return None
        make = {
            "ruge_stuben": pyamg.ruge_stuben_solver,
            "smoothed_aggregation": pyamg.smoothed_aggregation_solver,
        }[name]
        return make(self.task.problem.matrix)

    def solve(self, program: Any) -> Any:
        from pyamg import krylov

        task, system = self.task, self.task.problem
        norms: list[float] = []
        # PyAMG resets the filters for its warnings on each call, so they are caught rather than
        # ignored; its return code says the same.
        with warnings.catch_warnings(record=True):
            if program is None:
                x, info = krylov.cg(
                    system.matrix, system.rhs, tol=task.rtol, maxiter=task.max_steps, residuals=norms
                )
            else:
                accelerator = self.spec.preconditioner
                x, info = program.solve(
                    system.rhs,
                    tol=task.rtol,
                    maxiter=task.max_steps,
                    accel=accelerator.name if accelerator else None,
                    residuals=norms,
                    return_info=True,
                )
        return x, info, norms

    def answer(self, raw: Any) -> Answer:
        x, info, norms = raw
        steps = len(norms) - 1
        norm_b = float(np.linalg.norm(self.task.problem.rhs)) or 1.0
        result = "successful" if info == 0 else "max_steps_reached" if info > 0 else "breakdown"
        return Answer(
            result,
            x,
            {
                "num_steps": steps,
                "num_preconditioner_applications": None if self.spec.solver.name != "cg" else 0,
            },
            residual_norms=[norm / norm_b for norm in norms] if self.task.history else None,
        )


def _check(spec: Spec, part: Part) -> None:
    if spec.solver.name == "cg" and spec.preconditioner is not None:
        raise ValueError("pyamg:cg runs alone here; write pyamg:ruge_stuben+cg for both")


LIBRARY = Library("pyamg", "pyamg", {"linear": Offer(PyAMGRun, SOLVERS, ACCELERATORS, check=_check)})

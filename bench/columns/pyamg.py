"""PyAMG: algebraic multigrid with an accelerator (`ruge_stuben+cg`), and its CG alone.

Stopping rule: `||r|| < rtol ||b||`, on the recurrence where accelerated (its CG recomputes the true
residual every eighth step), on the true residual otherwise (`gmres`: on the preconditioned one).
The accelerator stands where other columns have their preconditioner; `num_steps` counts its
iterations, or cycles without one. Smoothers and coarsening are PyAMG's defaults; aggregation is given the
near-null space where the system has one.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import LinearOperator

from ..engine.spec import Part, Spec
from ..engine.work import Answer, Library, Offer, Run
from . import _plain

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
        system = self.task.problem
        if name == "ruge_stuben" or system.near_nullspace is None:
            return make(system.matrix)
        size = system.unknowns_a_node
        blocks = system.matrix.tobsr((size, size))
        return make(blocks, B=system.near_nullspace)

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


def _asked(name: str, admits: str, limit: int, **keywords: Any) -> Callable[[], _plain.Asked]:
    def solve(matrix, b, rtol):
        from pyamg import krylov

        system = LinearOperator((len(b),) * 2, matvec=matrix) if callable(matrix) else matrix
        x, info = getattr(krylov, name)(system, b, tol=rtol, maxiter=limit, **keywords)
        return x, info == 0

    return lambda: _plain.Asked(admits, solve)


def _ruge_stuben(matrix: Any, b: np.ndarray, rtol: float) -> tuple[np.ndarray, bool]:
    import pyamg

    if callable(matrix):
        raise TypeError("multigrid set-up needs a matrix")
    # int32 indices are what PyAMG's compiled set-up takes.
    hierarchy = pyamg.ruge_stuben_solver(csr_matrix(matrix))
    x, info = hierarchy.solve(b, tol=rtol, maxiter=200, accel="cg", return_info=True)
    return x, info == 0


_ASKED = {
    "cg": _asked("cg", "spd", _plain.MAX_STEPS),
    "bicgstab": _asked("bicgstab", "any", _plain.MAX_STEPS),
    "gmres": _asked("gmres", "any", _plain.MAX_STEPS // 30, restart=30),
    "ruge_stuben": lambda: _plain.Asked("spd", _ruge_stuben),
}


LIBRARY = Library(
    "pyamg",
    "pyamg",
    {"linear": Offer(PyAMGRun, SOLVERS, ACCELERATORS, check=_check), "probes": _plain.offer(_ASKED)},
)

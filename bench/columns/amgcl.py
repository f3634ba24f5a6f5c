"""AMGCL through pyamgcl: algebraic multigrid with an accelerator (`smoothed_aggregation+cg`).

pyamgcl is built from source (it needs a C++ compiler, Boost and pybind11), so no extra brings it.
Stopping rule: `||r|| <= rtol ||b||` on the recurrence (right preconditioning). As for PyAMG, the
solver is the coarsening and the accelerator stands where other columns have their preconditioner.
`relaxation` is the smoother, by AMGCL's default `spai0`.
"""

from typing import Any

import numpy as np

from ..engine.options import Option
from ..engine.spec import Part, Spec
from ..engine.work import Answer, Library, Offer, Run, Task

RELAXATION = Option(choices=("spai0", "gauss_seidel", "damped_jacobi", "ilu0", "chebyshev"))
SOLVERS = {name: {"relaxation": RELAXATION} for name in ("ruge_stuben", "smoothed_aggregation")}
ACCELERATORS = {"cg": {}, "bicgstab": {}, "gmres": {}, "fgmres": {}}


class AMGCLRun(Run):
    """A hierarchy from AMGCL with its accelerator."""

    def setup(self) -> Any:
        import pyamgcl  # pyright: ignore[reportMissingImports]

        task, solver = self.task, self.spec.solver
        options = {
            "coarsening.type": solver.name,
            "relax.type": solver.options.get("relaxation", "spai0"),
        }
        if task.problem.near_nullspace is not None:  # not to be given from Python: so its constants
            options["coarsening.aggr.block_size"] = task.problem.unknowns_a_node
        assert self.spec.preconditioner is not None  # the spec's grammar asks for one here
        accelerator = {
            "type": self.spec.preconditioner.name,
            "tol": task.rtol,
            "maxiter": task.max_steps,
        }
        return pyamgcl.solver(pyamgcl.amg(task.problem.matrix, options), accelerator)

    def solve(self, program: Any) -> Any:
        x = program(self.task.problem.rhs)
        return x, program.iters, program.error

    def answer(self, raw: Any) -> Answer:
        x, steps, error = raw
        result = "successful" if error <= self.task.rtol else "max_steps_reached"
        return Answer(result if np.isfinite(error) else "nonfinite", x, counts={"num_steps": steps})


def _check(spec: Spec, part: Part) -> None:
    if spec.preconditioner is None:
        raise ValueError("amgcl needs an accelerator: write amgcl:smoothed_aggregation+cg")


def prepare(task: Task) -> Run:
    """The run of one column."""
    if task.problem.matrix.dtype != np.float64:
        raise ValueError(f"pyamgcl works in float64, not in {task.problem.matrix.dtype}")
    return AMGCLRun(task)


LIBRARY = Library(
    "amgcl",
    "pyamgcl",
    {"linear": Offer(prepare, SOLVERS, ACCELERATORS, check=_check)},
    install="pip install pybind11, then build pyamgcl",
)

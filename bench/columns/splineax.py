"""splineax: sparse direct solvers for lineax.

`auto` is its choice: of the libraries installed, KLU on a CPU, whose solution GMRES refines to the tolerance
asked for.  The set-up factorises.
"""

import importlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.experimental.sparse import BCOO

from nsolve._results import result_name

from ..engine.work import Answer, Library, Offer, Run, Task
from ._jax import promoting


class SplineaxRun(Run):
    """One of its solvers through `lx.linear_solve`."""

    compiles = True

    def __init__(self, task: Task):
        super().__init__(task)
        splineax = importlib.import_module("splineax")
        self.operator = splineax.BCOOLinearOperator(BCOO.from_scipy_sparse(task.problem.matrix))
        self.rhs = jnp.asarray(task.problem.rhs)
        self.solver = splineax.KLU() if task.spec.solver.name == "klu" else splineax.AutoSparseLinearSolver()

    @promoting()
    def setup(self) -> Any:
        return jax.block_until_ready(self.solver.init(self.operator, {}))

    def compile(self, state: Any) -> Any:
        def solve(operator, rhs, state):
            return lx.linear_solve(operator, rhs, self.solver, state=state, throw=False)

        return eqx.filter_jit(solve), state

    @promoting()
    def solve(self, program: Any) -> Any:
        solve, state = program
        return jax.block_until_ready(solve(self.operator, self.rhs, state))

    def answer(self, raw: Any) -> Answer:
        return Answer(result_name(raw.result), np.asarray(raw.value), {"num_matvecs": None})


LIBRARY = Library(
    "splineax",
    "splineax",
    {"linear": Offer(SplineaxRun, {"auto": {}, "klu": {}})},
    install="pip install 'splineax[klujax]'",
)

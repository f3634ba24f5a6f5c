"""sparsax: KLU and CHOLMOD of SuiteSparse, called by XLA.

The set-up analyses and factorises, the solve is two triangular solves.  Real, double precision; nothing is
said of whether a solve succeeded.
"""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..engine.work import Answer, Library, Offer, Run, Task


class FactorRun(Run):
    """`klu`, or `cholmod` for positive definite matrices."""

    compiles = True

    def __init__(self, task: Task):
        super().__init__(task)
        matrix = task.problem.matrix.tocoo()
        self.rows, self.cols = (jnp.asarray(index, jnp.int32) for index in matrix.coords)
        self.values, self.rhs = jnp.asarray(matrix.data), jnp.asarray(task.problem.rhs)
        self.general = task.spec.solver.name == "klu"

    def setup(self) -> Any:
        sparsax = importlib.import_module("sparsax")
        sparsax.clear_cache()  # factors of equal matrices would be found again
        factor = sparsax.lu_factor if self.general else sparsax.factor
        return jax.block_until_ready(factor(self.rows, self.cols, self.values, len(self.rhs)))

    def compile(self, state: Any) -> Any:
        sparsax = importlib.import_module("sparsax")
        return jax.jit(sparsax.lu_solve_factor if self.general else sparsax.solve_factor), state

    def solve(self, program: Any) -> Any:
        solve, token = program
        return jax.block_until_ready(solve(token, self.rhs))

    def answer(self, raw: Any) -> Answer:
        return Answer("successful", np.asarray(raw), {"num_steps": 0, "num_matvecs": 0})


def prepare(task: Task) -> Run:
    """The run of one column."""
    if task.problem.matrix.dtype != np.float64:
        raise ValueError(f"sparsax works in float64, not in {task.problem.matrix.dtype}")
    if task.spec.solver.name == "cholmod" and "spd" not in task.problem.tags:
        raise ValueError("cholmod takes positive definite matrices only: use sparsax:klu")
    return FactorRun(task)


LIBRARY = Library(
    "sparsax",
    "sparsax",
    {"linear": Offer(prepare, {"klu": {}, "cholmod": {}})},
    install="pip install sparsax",
)

"""klujax: KLU of SuiteSparse, a sparse LU for circuits, called by XLA.

The set-up analyses and factorises, the solve is two triangular solves.  Double precision; nothing is said of
whether a solve succeeded.
"""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..engine.work import Answer, Library, Offer, Run, Task


class KLURun(Run):
    """Factors of KLU."""

    compiles = True

    def __init__(self, task: Task):
        super().__init__(task)
        matrix = task.problem.matrix.tocoo()
        self.rows, self.cols = (jnp.asarray(index, jnp.int32) for index in matrix.coords)
        self.values, self.rhs = jnp.asarray(matrix.data), jnp.asarray(task.problem.rhs)

    def setup(self) -> Any:
        klujax = importlib.import_module("klujax")
        symbolic = klujax.analyze(self.rows, self.cols, len(self.rhs))
        numeric = klujax.factor(self.rows, self.cols, self.values, symbolic)
        return jax.block_until_ready((numeric, symbolic))

    def compile(self, state: Any) -> Any:
        return jax.jit(importlib.import_module("klujax").solve_with_numeric), state

    def solve(self, program: Any) -> Any:
        solve, (numeric, symbolic) = program
        return jax.block_until_ready(solve(numeric, self.rhs, symbolic))

    def answer(self, raw: Any) -> Answer:
        return Answer("successful", np.asarray(raw), {"num_steps": 0, "num_matvecs": 0})


def prepare(task: Task) -> Run:
    """The run of one column."""
    if task.problem.matrix.dtype not in (np.float64, np.complex128):
        raise ValueError(f"klujax works in double precision, not in {task.problem.matrix.dtype}")
    return KLURun(task)


LIBRARY = Library("klujax", "klujax", {"linear": Offer(prepare, {"klu": {}})}, install="pip install klujax")

"""This project's solvers. Stopping rule: `||b - A x||_2 <= rtol ||b||_2` on the true residual.

`form` is `sparse` (default) or `stencil`; geometric multigrid takes stencils only, so with it the
default is `stencil`. Names are short forms of the classes; their fields are the parameters.
"""

import dataclasses
from typing import Any

import jax
import lineax as lx
import numpy as np

import nsolve as ns

from . import _jax
from .base import Answer, Peer, Run, relative
from .lineax import result_name

SOLVER_CLASSES = {
    "cg": "CG",
    "flexible_cg": "FlexibleCG",
    "minres": "MINRES",
    "bicgstab": "BiCGStab",
    "gmres": "GMRES",
    "fgmres": "FGMRES",
    "gcro_dr": "GCRODR",
    "chebyshev": "Chebyshev",
    "sor": "SOR",
    "richardson": "Richardson",
    "refinement": "IterativeRefinement",
}
PRECONDITIONER_CLASSES = {
    "jacobi": "Jacobi",
    "block_jacobi": "BlockJacobi",
    "ssor": "SSOR",
    "ic": "IncompleteCholesky",
    "ilu": "IncompleteLU",
    "ict": "ThresholdCholesky",
    "ilut": "ThresholdLU",
    "spai": "SparseApproximateInverse",
    "chebyshev": "Chebyshev",
    "polynomial": "Polynomial",
    "multigrid": "Multigrid",
    "amg": "AlgebraicMultigrid",
    "nystrom": "Nystrom",
}
# Set by the benchmark for every column alike, so not parameters of a spec.
COMMON = {"rtol", "atol", "max_steps", "preconditioner", "history"}


def _table(namespace: Any, classes: dict[str, str]) -> dict[str, tuple[str, ...]]:
    found = {}
    for name, cls in classes.items():
        if hasattr(namespace, cls):
            fields = dataclasses.fields(getattr(namespace, cls))
            found[name] = tuple(f.name for f in fields if f.init and f.name not in COMMON)
    return found


PRECONDITIONERS = _table(ns.preconditioners, PRECONDITIONER_CLASSES)
SOLVERS = {name: (*params, "form") for name, params in _table(ns, SOLVER_CLASSES).items()}
SOLVERS["product"] = ("form",)


class NsolveRun(_jax.JaxRun):
    """One solver with one preconditioner."""

    forms = ("sparse", "stencil")

    def __init__(self, task: Any, spec: Any):
        part = spec.preconditioner
        self.default_form = "stencil" if part and part.name == "multigrid" else "sparse"
        super().__init__(task, spec)
        if isinstance(self.matrix, ns.StencilLinearOperator):
            for tag in _jax.tags(task):
                self.matrix = lx.TaggedLinearOperator(self.matrix, tag)

    def setup(self) -> Any:
        return jax.block_until_ready(self.build(self.matrix))

    def build(self, matrix: Any) -> Any:
        part = self.spec.preconditioner
        if part is None:
            return None
        return getattr(ns.preconditioners, PRECONDITIONER_CLASSES[part.name])(**part.options)(matrix)

    def function(self, throw: bool = False):
        part, task = self.spec.solver, self.task
        options = {name: value for name, value in part.params if name != "form"}
        solver = getattr(ns, SOLVER_CLASSES[part.name])(
            rtol=task.rtol, max_steps=task.max_steps, history=task.history, **options
        )

        def solve(matrix, rhs, state):
            given = {} if state is None else {"preconditioner": state}
            return lx.linear_solve(matrix, rhs, solver, options=given, throw=throw)

        return solve

    def answer(self, raw: Any) -> Answer:
        stats, norms = raw.stats, None
        if self.task.history and stats.get("residual_norms") is not None:
            norms = relative(stats["residual_norms"], float(np.linalg.norm(self.task.rhs)))
        return Answer(
            np.asarray(raw.value).ravel(),
            result_name(raw.result),
            num_steps=int(stats["num_steps"]),
            num_matvecs=int(stats["num_matvecs"]),
            num_preconditioner_applications=int(stats["num_preconditioner_applications"]),
            residual_norms=norms,
        )


class ProductRun(_jax.JaxRun):
    """y = A b."""

    forms = ("sparse", "stencil")
    default_form = "sparse"

    def function(self):
        return lambda matrix, rhs, state: matrix.mv(rhs)

    def answer(self, raw: Any) -> Answer:
        return Answer(np.asarray(raw).ravel(), "successful", num_steps=0, num_matvecs=1)


def prepare(task: Any, spec: Any) -> Run:
    """The run of one column."""
    return (ProductRun if spec.solver.name == "product" else NsolveRun)(task, spec)


PEER = Peer("nsolve", "nsolve", SOLVERS, PRECONDITIONERS, prepare)

"""This project's linear solvers. Stopping rule: `||b - A x||_2 <= rtol ||b||_2` on the true residual.

`form` is `sparse` (default) or `stencil`; geometric multigrid takes stencils only, so with it the
default is `stencil`. Names are short forms of the classes; their fields are the parameters.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import lineax as lx
import numpy as np

import nsolve as ns
from nsolve._results import result_name
from nsolve.direct import forget

from ...engine.spec import Part, Spec
from ...engine.work import Answer, Offer, Run, Task
from .. import _jax
from . import solvers


class NsolveRun(_jax.JaxRun):
    """One solver with one preconditioner; `monitor`, which may be set, looks at its steps."""

    monitor: Any = None

    def __init__(self, task: Task):
        self.default_form = solvers.default_form(task.spec)
        super().__init__(task)
        part = self.spec.preconditioner
        self.constructor = None if part is None else self.preconditioner(part)
        if isinstance(self.matrix, ns.StencilLinearOperator):
            for tag in _jax.tags(task):
                self.matrix = lx.TaggedLinearOperator(self.matrix, tag)

    def preconditioner(self, part: Part) -> Callable[[Any], Any]:
        """The constructor that a part of the column names, with what aggregation has to be told."""
        system, known = self.task.problem, {}
        if part.options.get("method") == "smoothed_aggregation" and system.near_nullspace is not None:
            known = {"near_nullspace": system.near_nullspace, "block_size": system.unknowns_a_node}
        return solvers.make_preconditioner(part, **known)

    def setup(self) -> Any:
        forget()  # factors and hierarchies of equal matrices would be found again
        return jax.block_until_ready(self.build(self.matrix))

    def build(self, matrix: Any) -> Any:
        return None if self.constructor is None else self.constructor(matrix)

    def renew(self, rhs: np.ndarray) -> None:
        """Another right-hand side for a program that is compiled already."""
        self.task = replace(self.task, problem=replace(self.task.problem, rhs=rhs))
        self.rhs = _jax.vector(self.task, self.form)

    def solver(self) -> Any:
        task = self.task
        common = {"rtol": task.rtol, "max_steps": task.max_steps, "history": task.history}
        return solvers.make_solver(self.spec, **common, monitor=self.monitor)

    def function(self, throw: bool = False) -> Callable[..., Any]:
        solver = self.solver()

        def solve(matrix, rhs, state):
            given = {} if state is None else {"preconditioner": state}
            return lx.linear_solve(matrix, rhs, solver, options=given, throw=throw)

        return solve

    def answer(self, raw: Any) -> Answer:
        stats, norms = raw.stats, None
        if self.task.history and stats.get("residual_norms") is not None:
            norms = _jax.relative(stats["residual_norms"], float(np.linalg.norm(self.task.problem.rhs)))
        names = ("num_steps", "num_matvecs", "num_preconditioner_applications")
        # Of a learned preconditioner that says so, and of solvers of least squares.
        metrics = {"train_s": getattr(self.constructor, "train_s", None), "condition": stats.get("condition")}
        return Answer(
            result_name(raw.result),
            np.asarray(raw.value).ravel(),
            {name: int(stats[name]) for name in names if stats.get(name) is not None},
            {name: float(value) for name, value in metrics.items() if value is not None},
            norms,
        )


class DirectRun(NsolveRun):
    """A factorisation, which is the set-up; the solve refines until the tolerance is met."""

    def build(self, matrix: Any) -> Any:
        return self.solver().init(matrix, {})

    def solver(self) -> Any:
        return solvers.make_direct(self.spec, self.task.rtol)

    def function(self, throw: bool = False) -> Callable[..., Any]:
        solver = self.solver()
        return lambda matrix, rhs, state: lx.linear_solve(matrix, rhs, solver, state=state, throw=throw)


class AutoRun(DirectRun):
    """The attempts of `ns.auto`, whose choice, and what is prepared for the first of them, are the set-up."""

    def setup(self) -> Any:
        forget()
        task = self.task
        self.chain = ns.auto(self.matrix, rtol=task.rtol, max_steps=task.max_steps)
        # What the choice has factorised already is found again, as by its users.
        return jax.block_until_ready(self.build(self.matrix))

    def solver(self) -> Any:
        return self.chain

    def answer(self, raw: Any) -> Answer:
        attempts = raw.stats["attempts"]
        made = [name for name, ran in zip(attempts.names, attempts.ran, strict=True) if ran]
        return replace(super().answer(raw), metrics={"attempts": made})


class ProductRun(_jax.JaxRun):
    """y = A b."""

    default_form = "sparse"

    def function(self, throw: bool = False) -> Callable[..., Any]:
        return lambda matrix, rhs, state: matrix.mv(rhs)

    def answer(self, raw: Any) -> Answer:
        return Answer("successful", np.asarray(raw).ravel(), {"num_steps": 0, "num_matvecs": 1})


def _prepare(task: Task) -> Run:
    others = {"product": ProductRun, solvers.AUTO: AutoRun, **dict.fromkeys(solvers.DIRECT, DirectRun)}
    return others.get(task.spec.solver.name, NsolveRun)(task)


def _check(spec: Spec, part: Part) -> None:
    solvers.check(spec)


OFFER = Offer(
    _prepare,
    {
        **solvers.SOLVERS,
        **solvers.LEAST_SQUARES,
        **solvers.DIRECT,
        solvers.AUTO: {"form": solvers.FORM},
        "product": {"form": solvers.FORM},
    },
    solvers.PRECONDITIONERS,
    check=_check,
    traced=True,
)

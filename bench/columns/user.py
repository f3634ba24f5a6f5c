"""Somebody else's columns: `my_package.my_solver:MySolver(rtol=1e-8)`, `cg+my_package:MyPreconditioner()`.

What stands before the colon is a module that can be imported, or a `.py` file; what stands after it is called
with the parameters, unless it is the column itself.  A solver may be

* a subclass of `bench.Run`, for any work: the four phases are its own;
* a function `(problem, **parameters) -> answer`, for any work: what the judge looks at, or a `bench.Answer`;
* for linear systems, a class whose instances are lineax solvers, or functions `(operator, vector) -> x` in
  JAX; `rtol` and `max_steps` are handed to it where it takes them and the column does not say otherwise.

A preconditioner is whatever `ns.CG(preconditioner=...)` takes: a constructor `operator -> preconditioner`, a
map, or a net; `MyPreconditioner()` makes one.  An object with an attribute `train_s` puts it into its
records.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import lineax as lx
import numpy as np

from ..engine import outside
from ..engine.spec import Part, check_name
from ..engine.work import Answer, FunctionRun, Library, Offer, Run, Task
from ..work import NAMES
from .nsolve import linear, solvers

_module = functools.cache(outside.module)


@functools.cache
def library(name: str) -> Library:
    """The columns of a module or file; ValueError where it cannot be imported."""
    module = _module(name)
    return Library(name, name, _Offers(module), find_version=lambda: getattr(module, "__version__", ""))


def made(part: Part) -> Any:
    """The preconditioner of `module:Name(parameters)`."""
    where, name = part.name.rsplit(":", 1)
    module = _module(where)
    check_name(f"name in {where}", name, _Names(module))
    found = getattr(module, name)
    if inspect.isclass(found) or part.params:
        return _called(found, part.options, str(part))
    return found


class _Names(Mapping[str, Sequence[str]]):
    """The public callables of a module, with their parameters."""

    def __init__(self, module: ModuleType):
        self.found = {k: v for k, v in vars(module).items() if callable(v) and not k.startswith("_")}

    def __getitem__(self, name: str) -> Sequence[str]:
        column = self.found[name]
        if inspect.isclass(column) and issubclass(column, Run):
            return tuple(getattr(column, "parameters", ()))
        return tuple(inspect.signature(column).parameters)

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)


class _Offers(Mapping[str, Offer]):
    """The same for every work."""

    def __init__(self, module: ModuleType):
        names = _Names(module)
        self.offer = Offer(functools.partial(_prepare, module), names, solvers.PRECONDITIONERS, modes=())

    def __getitem__(self, work: str) -> Offer:
        return self.offer

    def __contains__(self, work: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


def _prepare(module: ModuleType, task: Task) -> Run:
    column, options = getattr(module, task.spec.solver.name), task.spec.solver.options
    if inspect.isclass(column) and issubclass(column, Run):
        return column(task)
    if not inspect.isclass(column):
        return FunctionRun(task, column)
    taken = inspect.signature(column).parameters
    given = {"rtol": task.rtol, "max_steps": task.max_steps}
    options = {k: v for k, v in given.items() if k in taken} | options
    return UserRun(task, _called(column, options, str(task.spec)))


class UserRun(linear.NsolveRun):
    """A lineax solver, or a function of operator and vector, on a linear system, compiled by JAX."""

    def __init__(self, task: Task, solver: Any):
        super().__init__(task)
        self.made = solver
        if not isinstance(solver, lx.AbstractLinearSolver) and self.spec.preconditioner is not None:
            raise ValueError(f"{self.spec} is a function and takes no preconditioner")
        if not isinstance(solver, lx.AbstractLinearSolver) and not callable(solver):
            raise ValueError(
                f"{self.spec} is {type(solver).__name__}: a column is a bench.Run, a lineax solver, or a "
                "function (operator, vector) -> x"
            )

    def solver(self) -> Any:
        return self.made

    def function(self, throw: bool = False) -> Callable[..., Any]:
        if isinstance(self.made, lx.AbstractLinearSolver):
            return super().function(throw)
        return lambda matrix, rhs, state: self.made(matrix, rhs)

    def answer(self, raw: Any) -> Answer:
        found = (
            super().answer(raw)
            if isinstance(raw, lx.Solution)
            else Answer("successful", np.asarray(raw).ravel())
        )
        extra = {"train_s": self.made.train_s} if hasattr(self.made, "train_s") else {}
        return dataclasses.replace(found, metrics={**found.metrics, **extra})


def _called(found: Any, options: dict[str, Any], spec: str) -> Any:
    try:
        return found(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{spec}: {error}") from None

"""What a column of the benchmark is: a solver of some library, on one system, in four phases."""

import abc
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp

from ..environment import version
from ..problems.base import Problem
from ..specs import Spec


class Missing(Exception):
    """A library that a cell needs is not installed here; the message says which."""


@dataclass(frozen=True)
class Task:
    """One system in one precision and what is asked of the solver.

    Every column is given its own rule nearest to `||b - A x||_2 <= rtol ||b||_2`; the peer's module
    says which. `max_steps` bounds its iterations."""

    problem: Problem
    matrix: sp.csr_array
    rhs: np.ndarray
    rtol: float
    max_steps: int
    history: bool = False


@dataclass(frozen=True)
class Timings:
    """Seconds of set-up and of compilation, and the spread of the solves' (see `bench.timing`)."""

    setup_s: float
    compile_s: float
    solve_s: dict[str, float | int]


@dataclass(frozen=True)
class Answer:
    """What a column claims. `result` is `successful` or the reason why not."""

    x: np.ndarray
    result: str
    num_steps: int | None = None
    num_matvecs: int | None = None
    num_preconditioner_applications: int | None = None
    residual_norms: list[float] | None = None


class Run(abc.ABC):
    """One column on one task. The phases are timed apart; `answer` is not timed."""

    compiles: ClassVar[bool] = False
    # True for a run in a process of its own: it repeats there, and `timings` reads that clock.
    own_clock: ClassVar[bool] = False

    def __init__(self, task: Task, spec: Spec):
        self.task = task
        self.spec = spec

    @abc.abstractmethod
    def setup(self) -> Any:
        """Everything that depends on the matrix alone: factorisation, hierarchy, analysis."""

    def compile(self, state: Any) -> Any:
        """Compile the solve for this state (nothing to do for libraries compiled in advance)."""
        return state

    @abc.abstractmethod
    def solve(self, program: Any) -> Any:
        """Solve, and return only when the result is there."""

    @abc.abstractmethod
    def answer(self, raw: Any) -> Answer:
        """Read the result of `solve`."""

    def timings(self, raw: Any) -> Timings:
        """The times of a run with its own clock."""
        raise NotImplementedError


@dataclass(frozen=True)
class Peer:
    """A library: its names with their parameters, and how to run them."""

    name: str
    distribution: str
    solvers: Mapping[str, tuple[str, ...]]
    preconditioners: Mapping[str, tuple[str, ...]]
    prepare: Callable[[Task, Spec], Run]
    find_version: Callable[[], str | None] | None = None

    def version(self) -> str | None:
        """The installed version, or None where it is missing."""
        return version(self.distribution) if self.find_version is None else self.find_version()


def relative(residual_norms: Any, norm_b: float) -> list[float]:
    """Residual norms over the right-hand side's; the NaN padding at the end is cut off."""
    scale = norm_b or 1.0
    values = [float(value) / scale for value in np.asarray(residual_norms).ravel()]
    while values and math.isnan(values[-1]):
        values.pop()
    return values

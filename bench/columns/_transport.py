"""What columns of transport problems share: seconds of a limit as steps, one compiled program for all
problems of a shape, and derivatives.

A solve that takes longer than a second is timed once: its first steps are no warmer than its last.
"""

import abc
import functools
import re
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..engine.measure import clock, wants_more
from ..engine.options import Option
from ..engine.spec import Part, Spec
from ..engine.work import Answer, Run, Task, Timings
from ..work.transport import POINTS, Coupling, Problem, direction

FORM = Option(choices=("matrix", "points"))
# A solve that takes longer is timed once.
LONG_S = 1.0


def check(spec: Spec, part: Part) -> None:
    """ValueError for points that costs have not, and for derivatives of a batch."""
    if spec.solver.options.get("form") == "points" and part.name not in POINTS:
        raise ValueError(f"{spec}: {part.name} has no points; use form=matrix ({', '.join(POINTS)} has)")
    if spec.mode and part.name == "batch":
        raise ValueError(f"{spec}: derivatives are measured of single problems, not of a batch")


def more_times(solve: Callable[[], Any], first: float, repeats: int | None) -> list[float]:
    """Seconds of some solves, of which a first one took so long; that one, which still allocates, counts only
    where it is long, and then nobody waits for more."""
    if first > LONG_S or repeats == 1:
        return [first]
    times: list[float] = []
    while wants_more(times, repeats):
        times.append(clock(solve)[1])
    return times


class TransportRun(Run):
    """One solver on one problem, or on a batch of them at once.

    Columns know limits of steps, not of seconds: where the settings have one of seconds and a step always
    takes as long (`limited`), the solve is tried with few steps, and again with as many as fit by its own
    clock, until it is done or has had its seconds.  Steps are then 1, 2 or 5 times a power of ten, so that
    cells share what is compiled."""

    limited = True
    # Steps by which it is found how many fit into the limit.
    first_steps = 100

    @abc.abstractmethod
    def program(self, problem: Problem, max_steps: int) -> tuple[Callable[[], Any], float]:
        """A function without arguments that solves and returns when the result is there, and the seconds that
        compiling it took, in this cell or an earlier one."""

    @abc.abstractmethod
    def read(self, raw: Any) -> Answer:
        """What the result of the function claims, its value a `Coupling`; `num_steps` is among its counts."""

    @property
    def limit_s(self) -> float:
        """The seconds that are kept to; none where memory is asked for, which programs tried before would add
        to."""
        settings = self.task.settings
        return settings.limit_s if self.limited and not settings.memory else 0.0

    def compile(self, state: Any) -> Any:
        most = self.task.max_steps
        self._allow(min(most, self.first_steps) if self.limit_s else most)

    def solve(self, program: Any) -> Any:
        while True:
            raw, self.first_s = clock(self.call)
            if not self._has_time_left(told := self.read(raw)):
                return raw
            done = max(self.steps, told.counts.get("num_steps") or 0)
            self._allow(min(self.task.max_steps, quantised(done * self.limit_s / self.first_s)))

    def _allow(self, steps: int) -> None:
        self.steps = steps
        self.call, self.compile_s = self.program(self.task.problem, steps)

    def _has_time_left(self, told: Answer) -> bool:
        return self._is_cut(told) and self.first_s < self.limit_s

    def _is_cut(self, told: Answer) -> bool:
        """Whether the solve ended at steps that the limit of seconds allowed."""
        return told.result == "max_steps_reached" and self.steps < self.task.max_steps

    def timings(self, raw: Any) -> Timings:
        self.times = more_times(self.call, self.first_s, self.task.settings.repeats)
        return Timings(0.0, self.compile_s, self.times)

    def answer(self, raw: Any) -> Answer:
        told = self.read(raw)
        too_long = self.limit_s and (self._is_cut(told) or self.first_s > self.limit_s)
        metrics: dict[str, Any] = {"limit_s": self.task.settings.limit_s, **told.metrics}
        if told.counts["num_steps"]:
            metrics["seconds_per_step"] = float(np.median(self.times)) / told.counts["num_steps"]
        if self.task.problem.is_batch:
            metrics |= self._one_by_one()
        counts = {"num_matvecs": told.counts.get("num_cg_steps"), **told.counts}
        return Answer("time_limit" if too_long else told.result, told.value, counts, metrics)

    def _one_by_one(self) -> dict[str, float]:
        """Seconds of the slowest problem of the batch when each is solved alone, and of all of them in
        turn."""
        seconds = []
        for i in range(len(self.task.problem.a)):
            solve, _ = self.program(self.task.problem.single(i), self.steps)
            seconds.append(min(clock(solve)[1] for _ in range(2)))
        return {"slowest_s": max(seconds), "one_by_one_s": sum(seconds)}


def quantised(steps: float) -> int:
    """The least of 1, 2, 5, 10, 20, ... that is no less."""
    decade = 1
    while True:
        for factor in (1, 2, 5):
            if factor * decade >= steps:
                return factor * decade
        decade *= 10


class JaxTransportRun(TransportRun):
    """A solver that is one compiled function of costs, weights, `epsilon` and the tolerance: shared by all
    problems of a shape."""

    compiles = True

    @staticmethod
    def around() -> AbstractContextManager[None]:
        """What tracing and compiling need around them."""
        return nullcontext()

    @staticmethod
    @abc.abstractmethod
    def found(solver: Part, max_steps: int, data: Any, a: Any, b: Any, epsilon: Any, rtol: Any) -> Any:
        """The library's own result; `data` is the cost matrix, or both clouds of points."""

    @staticmethod
    @abc.abstractmethod
    def told(found: Any) -> Any:
        """The arrays of it that `read` reads: everything that a caller gets."""

    @staticmethod
    @abc.abstractmethod
    def parts(found: Any, a: Any, b: Any, epsilon: Any) -> tuple[Any, Any, Any]:
        """The regularised cost and `f` in our convention, both to be differentiated, and unweighted
        potentials `(f, g)`."""

    def given(self, problem: Problem) -> tuple[Any, ...]:
        """The arguments of a program."""
        points = self.spec.solver.options.get("form", "matrix") == "points"
        data = problem.points if points else problem.cost
        return jax.tree.map(jnp.asarray, (data, problem.a, problem.b, problem.epsilon, self.task.rtol))

    def program(self, problem: Problem, max_steps: int) -> tuple[Callable[[], Any], float]:
        given = self.given(problem)
        leaves, tree = jax.tree.flatten(given)
        shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
        program, seconds = _compiled(type(self), self.spec.solver, max_steps, shapes, tree, problem.is_batch)
        return lambda: wait_for(program, given), seconds


@functools.lru_cache(maxsize=64)
def _compiled(
    kind: type[JaxTransportRun], solver: Part, max_steps: int, shapes: Any, tree: Any, is_batch: bool
) -> tuple[Any, float]:
    """The program, and the seconds that it took, which its record has whoever asked first."""

    def run(*given):
        return kind.told(kind.found(solver, max_steps, *given))

    if is_batch:
        run = jax.vmap(run, in_axes=(0, 0, 0, None, None))
    return compiled(kind, run, jax.tree.unflatten(tree, shapes))


def compiled(kind: type[JaxTransportRun], run: Callable[..., Any], shapes: Any) -> tuple[Any, float]:
    """A function compiled for arrays of these shapes, and the seconds that it took."""
    with kind.around(), warnings.catch_warnings():
        # Peers call what their own dependencies have deprecated: theirs to mend.
        warnings.simplefilter("ignore", DeprecationWarning)
        return clock(lambda: jax.jit(run).lower(*shapes).compile())


def wait_for(program: Any, given: Any) -> Any:
    """The result; RuntimeError with the one line that says what went wrong where the program raised."""
    try:
        return jax.block_until_ready(program(*given))
    except jax.errors.JaxRuntimeError as error:
        told = re.findall(r"^[\w.]*(?:Error|Exception): (.+)$", str(error), re.MULTILINE)
        raise RuntimeError(told[-1] if told else str(error)) from error


class GradientRun(Run):
    """Derivatives of a column: of the regularised cost and of `<f, v>`, in the costs (or points) and both
    weights.

    `solve_s` and `forward_s` are seconds of the solve alone, `cost_gradient_s` and `potential_gradient_s`
    medians of value and gradient together.  Where memory is asked for, the solve is the latter alone."""

    compiles = True

    def __init__(self, column: JaxTransportRun):
        super().__init__(column.task)
        self.column = column

    def compile(self, state: Any) -> Any:
        steps = self.task.max_steps
        if self.column.limit_s:  # by what a plain solve needs
            self.column.solve(self.column.compile(None))
            steps = self.column.steps
        names = ("potential",) if self.task.settings.memory else ("forward", "cost", "potential")
        made = {name: self._program(name, steps) for name in names}
        self.calls = {name: call for name, (call, _) in made.items()}
        self.compile_s = sum(seconds for _, seconds in made.values())
        return self.calls[names[0]]

    def _program(self, name: str, max_steps: int) -> tuple[Callable[[], Any], float]:
        """A function without arguments that returns `((value, potentials), gradients)`, and the seconds that
        compiling took."""
        column, given = self.column, self.column.given(self.task.problem)
        v = jnp.asarray(direction(len(self.task.problem.a)))

        def functional(data, a, b, epsilon, rtol):
            found = column.found(self.spec.solver, max_steps, data, a, b, epsilon, rtol)
            cost, f, potentials = column.parts(found, a, b, epsilon)
            return (f @ v if name == "potential" else cost), potentials

        def forward(*given):
            return functional(*given), ()

        wanted = forward if name == "forward" else jax.value_and_grad(functional, (0, 1, 2), has_aux=True)
        program, seconds = compiled(type(column), wanted, given)
        return lambda: wait_for(program, given), seconds

    def solve(self, program: Any) -> Any:
        self.call = program
        raw, self.first_s = clock(program)
        return raw

    def timings(self, raw: Any) -> Timings:
        self.times = more_times(self.call, self.first_s, self.task.settings.repeats)
        return Timings(0.0, self.compile_s, self.times)

    def answer(self, raw: Any) -> Answer:
        f, g = map(np.asarray, raw[0][1])
        metrics, gradients = {"limit_s": self.task.settings.limit_s}, {}
        if "forward" in self.calls:
            metrics["forward_s"] = float(np.median(self.times))
            for name in ("cost", "potential"):
                (_, leaves), first = clock(self.calls[name])
                times = more_times(self.calls[name], first, self.task.settings.repeats)
                metrics[f"{name}_gradient_s"] = float(np.median(times))
                gradients[name] = [np.asarray(leaf) for leaf in jax.tree.leaves(leaves)]
        return Answer("successful", Coupling(f, g, gradients=gradients), metrics=metrics)


def prepare_with(column: type[JaxTransportRun]) -> Callable[[Task], Run]:
    """How a library's offer runs its column: on its own, or for derivatives."""
    return lambda task: GradientRun(column(task)) if "gradient" in task.spec.mode else column(task)

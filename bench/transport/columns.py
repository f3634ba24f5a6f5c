"""The columns of the suite by name, and what running one means."""

import abc
import functools
import importlib
from collections.abc import Callable
from typing import Any, ClassVar

from ..specs import OWN, Spec, check_name, check_part
from ..timing import clock, wants_more
from .judge import Claim
from .problems import Problem

MODULES = {OWN: "own", "ott": "ott", "pot": "pot"}
#: After `@`: also measure derivatives.
MODES = ("gradient",)
#: A solve that takes longer is timed once.
LONG_S = 1.0
#: Sweeps by which a sweep is timed.
PROBE = 20


class Column(abc.ABC):
    """A solver of some library; options as its spec says.

    `compiles`: whether there is a program that problems of a shape share, and whose steps all take as
    long."""

    compiles: ClassVar[bool] = False

    def __init__(self, spec: Spec):
        self.spec = spec

    def timed(self, problem: Problem) -> bool:
        """Whether a step always takes the same time, so that a limit of seconds is one of steps."""
        return True

    @abc.abstractmethod
    def program(self, problem: Problem, rtol: float, max_steps: int) -> tuple[Any, float]:
        """A function without arguments that solves and returns when the result is there, and the seconds that
        compiling it took."""

    @abc.abstractmethod
    def read(self, raw: Any, problem: Problem, rtol: float) -> Claim:
        """What the result of the function claims."""

    def seconds_per_step(self, problem: Problem, limit_s: float) -> float:
        """Of one step, measured on the first `PROBE` of them; where those are no tenth of the limit, on more,
        as first steps may be the slowest."""
        steps = PROBE
        while True:
            solve, _ = self.program(problem, 0.0, steps)
            if self.compiles:
                solve()
                return min(clock(solve)[1] for _ in range(4)) / steps
            seconds = clock(solve)[1]
            if seconds > limit_s / 10:
                return seconds / steps
            steps *= 4


@functools.cache
def find(name: str) -> Any:
    """The module of that library: `SOLVERS`, `version()` and `make(spec)`."""
    check_name("peer of transport problems", name, MODULES)
    return importlib.import_module(f"{__package__}.{MODULES[name]}")


def check(spec: Spec) -> None:
    """ValueError where a column names what its library has not got."""
    module = find(spec.peer)
    owner = "" if spec.peer == OWN else f"{spec.peer} "
    check_part(f"{owner}transport solver", spec.solver, module.SOLVERS)
    if spec.preconditioner is not None:
        raise ValueError(f"{spec}: transport solvers take no preconditioner")
    for mode in spec.mode:
        check_name(f"mode of {spec}", mode, MODES)
    if "gradient" in spec.mode and spec.peer == "pot":
        raise ValueError(f"{spec}: POT's NumPy functions have no derivatives")


def timed(solve: Callable[[], Any], repeats: int | None) -> tuple[list[float], Any]:
    """Seconds of some solves and the result of the last; the first one, which still allocates, counts only
    where it is long, and then nobody waits for more."""
    raw, first = clock(solve)
    if first > LONG_S or repeats == 1:
        return [first], raw
    times: list[float] = []
    while wants_more(times, repeats):
        raw, seconds = clock(solve)
        times.append(seconds)
    return times, raw


_limits: dict[tuple[Any, ...], int] = {}


def step_limit(column: Column, problem: Problem, max_steps: int, limit_s: float) -> int:
    """How many steps fit into `limit_s` seconds, at most `max_steps`; rounded to two digits, and for columns
    that compile the same for all problems of a shape in this process, so that they share a program."""
    if not limit_s or not column.timed(problem):
        return max_steps
    key = _key(column, problem, limit_s)
    if key not in _limits:
        _limits[key] = _rounded(limit_s / column.seconds_per_step(problem, limit_s))
    return min(max_steps, _limits[key])


def correct_limit(column: Column, problem: Problem, limit_s: float, num_steps: int, seconds: float) -> bool:
    """Whether that many steps, which were no solution, left time for more; then the limit is raised."""
    key = _key(column, problem, limit_s)
    fit = _rounded(num_steps * limit_s / max(seconds, 1e-9))
    if key not in _limits or seconds > 0.7 * limit_s or fit <= _limits[key]:
        return False
    _limits[key] = fit
    return True


def _key(column: Column, problem: Problem, limit_s: float) -> tuple[Any, ...]:
    key = (str(column.spec), problem.shape, problem.is_batch, limit_s)
    return key if column.compiles else (*key, problem.name, problem.epsilon)


def _rounded(steps: float) -> int:
    return max(100, int(float(f"{steps:.1e}")) // 10 * 10)

"""How the probes ask a library: its solvers as its own documentation calls them.

The other columns give every library the fairest stopping rule that it can express.  The probes ask the plain
question instead, `rtol` given and `atol` zero, and take the library at its word.
"""

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from ..engine.spec import OWN
from ..engine.work import Answer, Offer, Run, Task
from ._jax import promoting

MAX_STEPS = 6_000


@dataclass(frozen=True)
class Reply:
    """An answer, and what the library says of it: `claim` is True where it says success, False where it says
    failure or raises, None where it says nothing."""

    x: np.ndarray | None
    claim: bool | None
    error: str = ""


@dataclass(frozen=True)
class Asked:
    """One solver of one library.

    `admits` is `spd`, `symmetric` or `any`. `solve(A, b, rtol)` takes a CSR matrix, or for
    `traced` solvers any function of a vector, and gives `(x, claim)`. `differentiable` maps
    `(matvec, b, rtol)` to `x` under JAX's transformations. A `direct` solver has no tolerance.
    """

    admits: str
    solve: Callable[[Any, Any, float], tuple[Any, Any]]
    differentiable: Callable[[Any, Any, float], Any] | None = None
    direct: bool = False

    def reply(self, matrix: Any, b: np.ndarray, rtol: float) -> Reply:
        """Ask; whatever is raised counts as a refusal."""
        try:
            with warnings.catch_warnings():
                # Not `simplefilter`, which PyAMG overrides; a library is judged by what it returns.
                warnings.showwarning = lambda *_, **__: None
                x, claim = self.solve(matrix, b, rtol)
            x = np.asarray(x)
        except Exception as error:
            text = " ".join(str(error).split())
            return Reply(None, False, f"{type(error).__name__}: {text}"[:200])
        return Reply(x, None if claim is None else bool(claim))


class ProbeRun(Run):
    """One question to one solver; the problem is the probe, its answer a verdict with details."""

    timed = False

    def __init__(self, task: Task, asked: Asked):
        super().__init__(task)
        self.asked = asked

    def solve(self, program: Any) -> Any:
        with nullcontext() if self.spec.peer == OWN else promoting():
            return self.task.problem.ask(self.asked)

    def answer(self, raw: Any) -> Answer:
        return Answer("successful", raw)


def offer(asked: Mapping[str, Callable[[], Asked]]) -> Offer:
    """What a library's solvers, by name, offer to the probes."""
    return Offer(lambda task: ProbeRun(task, asked[task.spec.solver.name]()), dict.fromkeys(asked, ()))


def product(matrix: Any) -> Callable[[Any], Any]:
    """A function of a JAX vector that multiplies with the matrix; functions pass as they are."""
    if callable(matrix):
        return matrix
    dense = jnp.asarray(matrix.toarray())
    return lambda x: dense @ x


def through_lineax(
    admits: str, make: Callable[..., Any], as_operator: Callable = lx.FunctionLinearOperator, **options: Any
) -> Callable[[], Asked]:
    """A lineax solver, or one of ours."""
    tags = {"spd": {lx.positive_semidefinite_tag}, "symmetric": {lx.symmetric_tag}, "any": set()}[admits]

    def solution(matvec, b, rtol):
        operator = as_operator(matvec, jax.eval_shape(lambda: b), frozenset(tags))
        return lx.linear_solve(operator, b, make(rtol=rtol, max_steps=MAX_STEPS, **options), throw=False)

    def solve(matrix, b, rtol):
        answer = solution(product(matrix), jnp.asarray(b), rtol)
        return answer.value, answer.result == lx.RESULTS.successful

    return lambda: Asked(admits, solve, lambda matvec, b, rtol: solution(matvec, b, rtol).value)

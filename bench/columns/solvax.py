"""solvax: PCG, flexible GMRES and GCROT.

Stopping rule: `||r|| <= rtol ||b||`; PCG on the recurrence, GMRES on the true residual at each
restart.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..engine.measure import clock
from ..engine.options import Option
from ..engine.spec import Part, Spec
from ..engine.work import Answer, Library, Offer
from ..work.sequence import Like, Sequence, Solved
from . import _jax, _plain
from .nsolve.sequence import MODES, SequenceRun, check_modes

SOLVERS = {
    "cg": {"form": _jax.FORM},
    "gmres": {"form": _jax.FORM, "restart": Option(least=1)},
    "gcrot": {
        "form": _jax.FORM,
        "restart": Option(least=1),
        "recycle": Option(least=1),
        "strategy": Option(choices=("fifo", "harmonic")),
    },
}
PRECONDITIONERS = {"jacobi": {}}


class SolvaxRun(_jax.JaxRun):
    """PCG, FGMRES or GCROT from solvax."""

    def function(self, throw: bool = False):
        import solvax

        task, name = self.task, self.spec.solver.name

        @_jax.promoting()
        def solve(matrix, rhs, state):
            keywords: dict[str, Any] = {"rtol": task.rtol, "atol": 0.0}
            keywords["precond"] = None if state is None else lambda x: state * x
            if name == "cg":
                # Its history has a place for each step that is allowed: part of its product.
                return solvax.pcg(lambda x: _jax.apply(matrix, x), rhs, max_steps=task.max_steps, **keywords)
            options = self.spec.solver.options
            restart = int(options.get("restart", 30))
            keywords["max_restarts"] = -(-task.max_steps // restart)
            if name == "gcrot":
                keywords |= {"m": restart, "k": int(options.get("recycle", 10))}
                keywords["recycle_strategy"] = str(options.get("strategy", "fifo"))
                return solvax.gcrot(lambda x: _jax.apply(matrix, x), rhs, **keywords)
            keywords["restart"] = restart
            return solvax.gmres(lambda x: _jax.apply(matrix, x), rhs, **keywords)

        return solve

    def answer(self, raw: Any) -> Answer:
        steps = int(raw.iterations)
        result = "successful" if bool(raw.converged) else "max_steps_reached"
        norms = None
        if self.spec.solver.name == "cg":
            from solvax.pcg import status_name

            names = {"converged": "successful", "max_iterations": "max_steps_reached"}
            status = status_name(int(raw.status))
            result = names.get(status, status)
            if self.task.history:
                norms = _jax.relative(raw.residual_history, float(np.linalg.norm(self.task.problem.rhs)))
                norms = norms[: steps + 1]
        return Answer(result, np.asarray(raw.x).ravel(), {"num_steps": steps}, residual_norms=norms)


class SolvaxSequenceRun(SequenceRun):
    """GCROT from system to system.

    Its `iterations` leave out the products that take the subspace over and those of the restarts, so
    products are counted by one more, untimed run with a counter inside."""

    @staticmethod
    def program(sequence: Sequence, spec: Spec, count: int, max_steps: int) -> tuple[Any, float]:
        return _loop(sequence.like, spec, count, max_steps)

    def solve(self, program: Any) -> Any:
        loop, systems, given = program
        return loop, systems, given, loop.run(*given)

    def answer(self, raw: Any) -> Answer:
        loop, systems, given, found = raw
        loop.count = 0
        products = np.array([count for _, count in loop.run(*given, counted=True)])
        solved = Solved(
            systems,
            np.stack([np.asarray(solution.x) for solution, _ in found]),
            ["successful" if bool(s.converged) else "max_steps_reached" for s, _ in found],
            np.array([int(solution.iterations) for solution, _ in found]),
            products,
            np.zeros(len(products), int),
        )
        return Answer("successful", solved)


class _Loop:
    """One program for the first system, one for those with a subspace."""

    def __init__(self, like: Like, spec: Spec, count: int, max_steps: int):
        import solvax

        options, self.carried = spec.solver.options, "carried" in spec.mode
        restart = int(options.get("restart", 30))
        self.count = 0

        def bump():
            self.count += 1

        @_jax.promoting()
        def solve(counted, rtol, parameter, b, recycle):
            operator = like.kind.operator("sparse")(parameter)

            def multiply(x):
                if counted:
                    jax.debug.callback(bump)
                return operator.mv(x)

            return solvax.gcrot(
                multiply,
                b,
                m=restart,
                k=int(options.get("recycle", 10)),
                rtol=rtol,
                max_restarts=-(-max_steps // restart),
                recycle=recycle,
                recycle_strategy=str(options.get("strategy", "fifo")),
            )

        shapes = like.shapes(count)
        first = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype), shapes[1:])
        self.programs = {}
        for counted in (False, True):
            jitted = jax.jit(functools.partial(solve, counted))
            cold = jitted.lower(shapes[0], *first, None).compile()
            pair = jax.eval_shape(jitted, shapes[0], *first, None).recycle
            self.programs[counted] = cold, jitted.lower(shapes[0], *first, pair).compile()

    def run(self, rtol: Any, parameters: Any, vectors: Any, counted: bool = False) -> list[Any]:
        cold, warm = self.programs[counted]
        found, recycle, before = [], None, 0
        for i in range(len(vectors)):
            one = jax.tree.map(lambda leaf, i=i: leaf[i], (parameters, vectors))
            program = cold if recycle is None else warm
            solution = jax.block_until_ready(program(rtol, *one, recycle))
            recycle = solution.recycle if self.carried else None
            jax.effects_barrier()
            found.append((solution, self.count - before))
            before = self.count
        return found


@functools.lru_cache(maxsize=64)  # a program serves all tolerances
def _loop(like: Like, spec: Spec, count: int, max_steps: int) -> tuple[_Loop, float]:
    return clock(lambda: _Loop(like, spec, count, max_steps))


def _check_sequence(spec: Spec, part: Part) -> None:
    if spec.solver.name != "gcrot" or spec.preconditioner or "warm" in spec.mode:
        raise ValueError(f"{spec}: of solvax's solvers only gcrot without preconditioner takes sequences")
    check_modes(spec, part)


def _asked(name: str, admits: str, limit: dict[str, Any]) -> Callable[[], _plain.Asked]:
    def make() -> _plain.Asked:
        import solvax

        method = getattr(solvax, name)

        def solve(matrix, b, rtol):
            answer = method(_plain.product(matrix), jnp.asarray(b), rtol=rtol, **limit)
            return answer.x, answer.converged

        def differentiable(matvec, b, rtol):
            if name == "pcg":
                return solvax.pcg_linear_solve(matvec, b, rtol=rtol, **limit).x
            return solvax.linear_solve(matvec, b, lambda matvec, b: method(matvec, b, rtol=rtol, **limit).x)

        return _plain.Asked(admits, solve, differentiable)

    return make


_ASKED = {
    "pcg": _asked("pcg", "spd", {"max_steps": _plain.MAX_STEPS}),
    "gmres": _asked("gmres", "any", {"max_restarts": _plain.MAX_STEPS // 30}),
    "gcrot": _asked("gcrot", "any", {"max_restarts": _plain.MAX_STEPS // 30}),
}


LIBRARY = Library(
    "solvax",
    "solvax",
    {
        "linear": Offer(SolvaxRun, SOLVERS, PRECONDITIONERS),
        "probes": _plain.offer(_ASKED),
        "sequence": Offer(SolvaxSequenceRun, SOLVERS, PRECONDITIONERS, MODES, _check_sequence),
    },
)

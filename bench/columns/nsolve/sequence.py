"""This project's solvers over sequences: `ns.solve_sequence`, one compiled program for all tolerances."""

import abc
import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nsolve._results import RESULTS, result_code
from nsolve.sequence import solve_sequence, sort_systems

from ...engine.measure import clock
from ...engine.spec import Part, Spec
from ...engine.work import Answer, Offer, Run
from ...work.sequence import Like, Sequence, Solved, Systems
from . import solvers

MODES = ("carried", "sorted", "warm")


class SequenceRun(Run):
    """What every library does with a sequence: take some of its systems, sort them, compile, solve.

    Sorting is the set-up."""

    compiles = True
    ahead = True

    @staticmethod
    @abc.abstractmethod
    def program(sequence: Sequence, spec: Spec, count: int, max_steps: int) -> tuple[Any, float]:
        """A function of the tolerance, the parameters and the vectors, and the seconds that it took to
        make."""

    def setup(self) -> Systems:
        systems = self.task.problem.systems
        if not self.spec.mode:
            systems = systems.few(self.task.settings.sample)
        if "sorted" in self.spec.mode:
            order, seconds = clock(lambda: np.asarray(sort_systems(systems.features, "greedy")))
            systems = systems.take(order)
        self.seconds["setup_s"] = seconds if "sorted" in self.spec.mode else 0.0
        return systems

    def compile(self, state: Systems) -> Any:
        # Sorted or not, the program is the same.
        same = replace(self.spec, mode=tuple(mode for mode in self.spec.mode if mode != "sorted"))
        program, self.seconds["compile_s"] = self.program(
            self.task.problem, same, len(state), self.task.max_steps
        )
        return program, state, jax.tree.map(jnp.asarray, (self.task.rtol, state.parameters, state.vectors))


class NsolveSequenceRun(SequenceRun):
    """One of our solvers over the whole sequence."""

    def solve(self, program: Any) -> Any:
        compiled, systems, given = program
        return systems, jax.block_until_ready(compiled(*given))

    def answer(self, raw: Any) -> Answer:
        systems, found = raw
        x, codes, *counts = map(np.asarray, found)
        return Answer("successful", Solved(systems, x, [RESULTS[code] for code in codes], *counts))

    @staticmethod
    def program(sequence: Sequence, spec: Spec, count: int, max_steps: int) -> tuple[Any, float]:
        return _program(sequence.like, spec, count, max_steps)


@functools.lru_cache(maxsize=64)  # a program serves all tolerances
def _program(like: Like, spec: Spec, count: int, max_steps: int) -> tuple[Any, float]:
    sequence = like.kind
    form = str(spec.solver.options.get("form", solvers.default_form(spec)))
    part = spec.preconditioner
    preconditioner = None if part is None else solvers.make_preconditioner(part)

    def solve(rtol, parameters, vectors):
        found = solve_sequence(
            sequence.operator(form),
            parameters,
            sequence.to_form(form, parameters, vectors),
            solvers.make_solver(spec, rtol=rtol, max_steps=max_steps, preconditioner=preconditioner),
            recycle="carried" in spec.mode,
            y0="previous" if "warm" in spec.mode else None,
            throw=False,
        )
        stats = found.stats
        return (
            sequence.flatten(form, found.value),
            result_code(found.result),
            stats["num_steps"],
            stats["num_matvecs"],
            stats["num_preconditioner_applications"],
        )

    return clock(lambda: jax.jit(solve).lower(*like.shapes(count)).compile())


def check_modes(spec: Spec, part: Part) -> None:
    """ValueError where a column asks for what its solver has not got."""
    recycles = spec.solver.name in ("gcro_dr", "gcrot") or spec.solver.options.get("recycle")
    if "carried" in spec.mode and not recycles:
        raise ValueError(f"{spec} has nothing to carry: use gcro_dr, or cg[recycle=20]")


def _check(spec: Spec, part: Part) -> None:
    check_modes(spec, part)
    solvers.check(spec)


OFFER = Offer(NsolveSequenceRun, solvers.SOLVERS, solvers.PRECONDITIONERS, MODES, _check)

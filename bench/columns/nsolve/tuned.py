"""This project's solvers over sequences, a parameter tuned as they go: the whole sequence is one compiled
loop.

The tuners and their grid of `omega` are those of the paper (`bench.work.tuned`).
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, PRNGKeyArray

import nsolve as ns
from nsolve._results import result_code
from nsolve.gallery.tuned import HeatTrajectory, ShiftedLaplacian
from nsolve.sequence import Fixed, SequenceSolver, best_fixed, instance_optimal, solve_sequence
from nsolve.sequence.base import AbstractTuner
from nsolve.sequence.steps import Start

from ...engine.measure import clock
from ...engine.spec import Part, Spec, check_part, parse_part
from ...engine.work import Answer, Offer, Run, Task
from ...work.tuned import BEST_FIXED, LAST, STARTS, Like, Samples, Trace, Tuned
from . import solvers

#: Modes that say where a system starts, with the library's word for each.
_STARTS: dict[str, Start] = dict(zip(STARTS, ("previous", "extrapolate"), strict=True))  # pyright: ignore
#: By name, what each tuner takes.
TUNERS: dict[str, tuple[str, ...]] = {
    "tsallis_inf": ("estimator", "bins"),
    "cheb_cb": ("degree",),
    "thompson_sampling": ("bins",),
    "epsilon_greedy": ("epsilon",),
    BEST_FIXED: (),
}


def grid() -> jnp.ndarray:
    """The paper's 20 values, 1 to 1.95."""
    return jnp.linspace(1.0, 1.95, 20)


def make_tuner(part: Part, bounds: tuple[float, float]) -> AbstractTuner:
    """The tuner of that name; `bounds` are those of the context."""
    given: dict[str, Any] = {**part.options}
    if part.name == "cheb_cb":
        return ns.ChebCB(grid(), bounds, **given)
    if "bins" in given:
        given["bounds"] = bounds
    make = {
        "tsallis_inf": ns.TsallisINF,
        "thompson_sampling": ns.ThompsonSampling,
        "epsilon_greedy": ns.EpsilonGreedy,
    }[part.name]
    return make(grid(), **given)


class TunedRun(Run):
    """One column over a whole sequence.

    With `best_fixed` the set-up is its search, on systems that the column's own run leaves behind; `search`
    holds the mean cost of each `omega` on them, and what choosing for each of them apart would cost.
    `tuner_s` are the seconds of a compiled loop of the tuner alone over the same costs."""

    compiles = True
    ahead = True

    def __init__(self, task: Task):
        super().__init__(task)
        self.tuner = _tuner_part(self.spec)
        self.searches = self.tuner is not None and self.tuner.name == BEST_FIXED
        self.extra: dict[str, Any] = {}
        self.key = jax.random.key(task.cell.seed)
        self.given = jax.tree.map(jnp.asarray, task.problem.given)

    @property
    def like(self) -> Like:
        return self.task.problem.like

    def _program(self) -> Callable[..., tuple[Trace, Samples]]:
        same = _same_column(self.spec)
        shapes = jax.eval_shape(lambda: self.given)
        program, self.seconds["compile_s"] = _compiled(self.like, same, self.task.max_steps, _Shapes(shapes))
        return program

    def setup(self) -> float:
        """The column's `omega`."""
        omega, self.seconds["setup_s"] = _omega(self.spec), 0.0
        if self.searches:
            _, samples = self._program()(self.task.rtol, omega, self.given, self.key)
            table = _table(self.like, _same_column(self.spec), self.task.max_steps)
            (omega, self.extra), self.seconds["setup_s"] = clock(lambda: self._search(table, samples))
        return omega

    def compile(self, state: float) -> Any:
        return self._program(), state

    def solve(self, program: Any) -> Any:
        compiled, omega = program
        return omega, jax.block_until_ready(compiled(self.task.rtol, omega, self.given, self.key))

    def answer(self, raw: Any) -> Answer:
        omega, (trace, samples) = raw
        trace = Trace(*map(np.asarray, trace))
        omegas, metrics = None, dict(self.extra)
        if self.tuner is not None and not self.searches:
            metrics["tuner_s"] = self._tuner_seconds(trace)
            omegas = np.asarray(grid())[trace.arm]
        elif is_tunable(self.spec):
            omegas = np.full(self.like.count, omega)
        return Answer("successful", Tuned(trace, samples, omegas), metrics=metrics)

    def _search(self, table: Callable[..., jax.Array], samples: Samples) -> tuple[float, dict[str, Any]]:
        """The best value of the grid on sampled systems."""
        values, costs, count = grid(), np.asarray(table(_float(self.task.rtol), samples)).T, self.like.count
        best, paid = best_fixed(costs)
        _, least = instance_optimal(costs)
        late = len(costs) - min(LAST, count) * len(costs) // count
        return float(values[best]), {
            "omega": round(float(values[best]), 6),
            "search": {
                "systems": len(costs),
                "omega": np.asarray(values).round(6).tolist(),
                "steps": costs.mean(axis=0).tolist(),
                "best_fixed": float(jnp.mean(paid)),
                "instance_optimal": float(jnp.mean(least)),
                "best_fixed_last": float(jnp.mean(paid[late:])),
                "instance_optimal_last": float(jnp.mean(least[late:])),
            },
        }

    def _tuner_seconds(self, trace: Trace) -> float:
        """Seconds of choosing and learning alone."""
        costs = jnp.where(trace.code == 0, trace.num_steps.astype(float), jnp.inf)
        given = (costs, jnp.asarray(trace.context), self.key)
        assert self.tuner is not None
        play = _play(self.tuner, self.like.problem.bounds)
        jax.block_until_ready(play(*given))  # compiles
        return float(np.median([clock(lambda: jax.block_until_ready(play(*given)))[1] for _ in range(3)]))


class _Shapes:
    """Shapes of what is given: a sequence's kind says what they are."""

    def __init__(self, tree: Any):
        self.tree = tree

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Shapes)

    def __hash__(self) -> int:
        return 0


@functools.lru_cache(maxsize=16)
def _compiled(
    like: Like, spec: Spec, max_steps: int, shapes: _Shapes
) -> tuple[Callable[..., tuple[Trace, Samples]], float]:
    """The whole sequence; tolerance, `omega`, data and key are arguments."""
    problem, part = like.problem, _tuner_part(spec)

    def run(rtol, omega, given, key):
        tuner = None
        if part is not None:
            tuner = make_tuner(part, problem.bounds)
        elif is_tunable(spec):
            tuner = Fixed(omega)
        y0: Start | None = next((start for mode, start in _STARTS.items() if mode in spec.mode), None)
        sequence = SequenceSolver(_solver(spec, rtol, max_steps), tuner=tuner, tuned=_tuned(spec), y0=y0)
        if isinstance(problem, ShiftedLaplacian):
            shifts, vectors = given
            return _run_given(problem, sequence, shifts, vectors, like.every, key)
        return _run_trajectory(problem, sequence, like.count, like.every, key)

    scalar = jax.ShapeDtypeStruct((), jnp.float64)
    key = jax.eval_shape(lambda: jax.random.key(0))
    compiled, seconds = clock(lambda: jax.jit(run).lower(scalar, scalar, shapes.tree, key).compile())
    return lambda rtol, omega, given, key: compiled(_float(rtol), _float(omega), given, key), seconds


def _run_given(
    problem: ShiftedLaplacian,
    sequence: SequenceSolver,
    shifts: Array,
    vectors: Array,
    every: int,
    key: PRNGKeyArray,
) -> tuple[Trace, Samples]:
    found = solve_sequence(
        problem.operator,
        shifts,
        vectors,
        sequence.solvers[0],
        tuner=sequence.tuner,
        tuned=sequence.tuned,
        context=shifts,
        y0=sequence.y0,
        key=key,
        throw=False,
    )
    trace = _trace(found.stats, found.result, found.arms, shifts, vectors, axis=1)
    before = jnp.concatenate([jnp.zeros_like(vectors[:1]), found.value[:-1]])
    taken = (shifts, vectors, before, found.value)
    return trace, Samples(*(leaf[every - 1 :: every] for leaf in taken))


def _run_trajectory(
    problem: HeatTrajectory, sequence: SequenceSolver, count: int, every: int, key: PRNGKeyArray
) -> tuple[Trace, Samples]:
    def step(carry, i):
        u, state, _ = carry
        kappa, force = problem.conditions(i)
        operator = problem.operator(kappa)
        b = problem.vector(operator, u, force)
        v, result, stats, arm, state = sequence.advance(state, operator, b, kappa)
        return (v, state, Samples(kappa, b, u, v)), _trace(stats, result, arm, kappa, b, axis=0)

    def block(carry, numbers):
        carry, trace = jax.lax.scan(step, carry, numbers)
        return carry, (trace, carry[2])

    u = problem.start()
    state = sequence.init(problem.operator(jnp.ones(())), key)
    numbers = jnp.arange(count).reshape(-1, every)
    _, (trace, samples) = jax.lax.scan(block, (u, state, Samples(jnp.zeros(()), u, u, u)), numbers)
    return jax.tree.map(jnp.ravel, trace), samples


def _trace(stats: Any, result: Any, arm: Array, context: Array, vectors: Array, axis: int) -> Trace:
    return Trace(
        stats["num_steps"],
        stats["num_matvecs"],
        stats["num_preconditioner_applications"],
        result_code(result),
        stats["residual_norm"] / jnp.linalg.norm(vectors, axis=axis),
        arm,
        context,
    )


@functools.lru_cache(maxsize=4)
def _table(like: Like, spec: Spec, max_steps: int) -> Callable[[Any, Samples], jax.Array]:
    """The costs of sampled systems, `(arms, systems)`, each solved with every value of the grid."""
    problem = like.problem

    def solve(rtol, omega, sample):
        solver = _solver(spec, rtol, max_steps)
        sequence = SequenceSolver(solver, tuner=Fixed(omega), tuned=_tuned(spec), y0="previous")
        operator = problem.operator(sample.context)
        state = sequence.init(operator)
        if any(mode in spec.mode for mode in STARTS):
            state = state._replace(previous=sample.start)
        _, result, stats, _, _ = sequence.advance(state, operator, sample.vector)
        return jnp.where(result == lx.RESULTS.successful, stats["num_steps"].astype(float), jnp.inf)

    def table(rtol, samples):
        def row(omega):
            return jax.lax.map(lambda sample: solve(rtol, omega, sample), samples)

        return jax.lax.map(row, grid())

    return jax.jit(table)


@functools.lru_cache(maxsize=16)
def _play(part: Part, bounds: tuple[float, float]) -> Callable[..., Any]:
    tuner = make_tuner(part, bounds)

    def step(state, system):
        cost, context = system
        index = tuner.select(state, context)
        return tuner.update(state, index, cost, context), index

    return jax.jit(lambda costs, contexts, key: jax.lax.scan(step, tuner.init(key), (costs, contexts)))


def _solver(spec: Spec, rtol: Any, max_steps: int) -> Any:
    part = spec.preconditioner
    preconditioner = None if part is None else solvers.make_preconditioner(part)
    return solvers.make_solver(spec, rtol=rtol, max_steps=max_steps, preconditioner=preconditioner)


def is_tunable(spec: Spec) -> bool:
    """Whether there is an `omega`."""
    return spec.solver.name == "sor" or bool(spec.preconditioner and spec.preconditioner.name == "ssor")


def _tuned(spec: Spec) -> str:
    return "omega" if spec.solver.name == "sor" else "preconditioner.omega"


def _tuner_part(spec: Spec) -> Part | None:
    return next((parse_part(mode) for mode in spec.mode if mode not in STARTS), None)


def _omega(spec: Spec) -> float:
    """The column's own value; that of a tuned column, and of one without any, plays no part."""
    part = spec.solver if spec.solver.name == "sor" else spec.preconditioner
    return float(part.options.get("omega", 1.0)) if part else 1.0


def _same_column(spec: Spec) -> Spec:
    """Fixed values of `omega` go through one program."""
    if not is_tunable(spec):
        return spec

    def free(part: Part | None) -> Part | None:
        return part and Part(part.name, tuple(p for p in part.params if p[0] != "omega"))

    mode = tuple(mode for mode in spec.mode if mode != BEST_FIXED)
    return replace(spec, solver=free(spec.solver), preconditioner=free(spec.preconditioner), mode=mode)


def _float(value: Any) -> jax.Array:
    return jnp.asarray(value, jnp.float64)


def _check(spec: Spec, problem: Part) -> None:
    """ValueError where a column cannot solve these sequences."""
    tuners = [parse_part(mode, whole=str(spec)) for mode in spec.mode if mode not in STARTS]
    for tuner in tuners:
        check_part("tuner", tuner, TUNERS)
        try:
            if tuner.name != BEST_FIXED:
                make_tuner(tuner, (0.0, 1.0))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{spec}: {error}") from None
    if len(tuners) > 1:
        raise ValueError(f"{spec} names several tuners; a sequence has one")
    if tuners and not is_tunable(spec):
        raise ValueError(f"{spec} has no omega to tune: use sor, or cg+ssor")
    if "form" in spec.solver.options:
        raise ValueError(f"{spec}: these sequences are sparse matrices; leave out form")
    solvers.check(spec)


OFFER = Offer(TunedRun, solvers.SOLVERS, solvers.PRECONDITIONERS, (*TUNERS, *STARTS), _check)

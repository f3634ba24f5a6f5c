"""The gallery's sequences as the benchmark solves them: systems that are given beforehand, and systems that
depend on the last solution."""

import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from nsolve.gallery.tuned import HeatTrajectory, ShiftedLaplacian
from nsolve.sequence import SequenceSolver, solve_sequence

from ..peers.lineax import result_code
from ..specs import parse_part


class Trace(NamedTuple):
    """Of each system in turn, arrays of shape `(count,)`: JAX's in the loop, NumPy's outside."""

    num_steps: Any
    num_matvecs: Any
    num_preconditioner_applications: Any
    code: Any  # a number in `RESULTS`
    residual: Any  # relative, as the solver computed it at exit
    arm: Any
    context: Any


class Samples(NamedTuple):
    """Some systems spread evenly over the sequence, leading axis theirs."""

    context: Any
    vector: Array
    start: Array  # the solution of the system before
    solution: Array


Problem = ShiftedLaplacian | HeatTrajectory
#: Windows of systems in a row over which a record keeps means.
NUM_WINDOWS = {ShiftedLaplacian: 100, HeatTrajectory: 250}


def run(
    problem: Problem, sequence: SequenceSolver, given: Any, count: int, every: int, key: PRNGKeyArray
) -> tuple[Trace, Samples]:
    """Solves the sequence: `count` systems, made of what `draw` has `given`, each `every`-th of them kept."""
    if isinstance(problem, ShiftedLaplacian):
        shifts, vectors = given
        return _run_given(problem, sequence, shifts, vectors, every, key)
    return _run_trajectory(problem, sequence, count, every, key)


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


PROBLEMS: dict[str, type[ShiftedLaplacian] | type[HeatTrajectory]] = {
    "shifted_laplacian": ShiftedLaplacian,
    "heat_trajectory": HeatTrajectory,
}


def options(name: str) -> dict[str, object]:
    """The options of a problem with their defaults."""
    parameters = list(inspect.signature(PROBLEMS[name]).parameters.values())
    return {p.name: p.default for p in parameters[1:]}


@functools.lru_cache(maxsize=4)
def draw(text: str, size: int, count: int, seed: int) -> Any:
    """What a problem's systems are made of; the same for every column. Nothing of a trajectory is random."""
    problem = make(text, size)
    return problem.draw(seed, count) if isinstance(problem, ShiftedLaplacian) else ()


@functools.lru_cache(maxsize=4)
def make(text: str, size: int) -> Problem:
    """A problem by its name and options, e.g. `shifted_laplacian[law=high]`."""
    part = parse_part(text)
    return PROBLEMS[part.name](size, **part.options)  # pyright: ignore[reportArgumentType]


def residuals(problem: Problem, samples: Samples) -> np.ndarray:
    """Relative residuals, in SciPy."""
    context, b, _, x = map(np.asarray, samples)
    alpha, beta = problem.weights(context[:, None])
    difference = b - alpha * (problem.laplacian @ x.T).T - beta * x
    return np.linalg.norm(difference, axis=1) / np.linalg.norm(b, axis=1)


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

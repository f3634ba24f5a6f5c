"""One cell: a sequence whose solver is tuned, in one compiled loop; timed, and judged in SciPy."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

import nsolve as ns
from nsolve.sequence import Fixed, SequenceSolver, best_fixed, instance_optimal
from nsolve.sequence.steps import Start

from ..peers.lineax import RESULTS
from ..peers.own import PRECONDITIONER_CLASSES, SOLVER_CLASSES
from ..specs import Part, Spec, parse_part
from ..table import RESIDUAL_SLACK
from ..timing import clock, spread, wants_more
from . import is_tunable, problems, tuners
from .problems import Samples, Trace

#: Systems kept for the search of the best fixed value, and where solutions are not all kept, for SciPy.
MOST_SAMPLES = {"shifted_laplacian": 500, "heat_trajectory": 100}
LAST = 1000

# What sequences left behind in this process; the search of the best fixed value starts from it.
_samples: dict[tuple[Any, ...], Samples] = {}


def measure(cell: Any, settings: Any) -> dict[str, Any]:
    """The fields of a record that say how a tuned sequence was solved.

    `num_steps`, `num_matvecs`, `num_preconditioner_applications` and `solve_s` are totals over the `count`
    systems.  `window_steps`, `window_omega` and `window_context` are means over `window` systems in a row,
    `last_steps` is the mean over the `last` ones.  `true_residual` is the largest of `judged` systems spread
    evenly, in SciPy; `largest_residual` that of all, as the solver computed it.  `tuner_s` are the seconds of
    a compiled loop of the tuner alone over the same costs.  With `best_fixed`, `search` holds the mean cost
    of each `omega` on the sampled systems, and what choosing for each of them apart would cost; `setup_s` is
    the time of this search."""
    spec, tuner_part = cell.spec, _tuner_part(cell.spec)
    if settings.sample:
        raise ValueError(f"{cell.problem} cannot be sampled: each of its systems needs those before")
    name = parse_part(cell.problem).name
    problem = problems.make(cell.problem, cell.size)
    every = _stride(cell.count, MOST_SAMPLES[name])
    program, compile_s = _program(
        _same_program(cell.problem), cell.size, _same_column(spec), cell.count, every, settings.max_steps
    )
    key = jax.random.key(cell.seed)
    given = jax.tree.map(jnp.asarray, problems.draw(cell.problem, cell.size, cell.count, cell.seed))
    omega, setup_s, extra = _omega(spec), 0.0, {}
    memory = (cell.problem, cell.size, cell.count, cell.seed if given else None)
    if tuner_part and tuner_part.name == tuners.BEST_FIXED:
        if memory not in _samples:
            _, _samples[memory] = program(cell.rtol, omega, given, key)
        table = _table(_same_program(cell.problem), cell.size, _same_column(spec), settings.max_steps)
        (omega, extra), setup_s = clock(lambda: _search(table, cell, _samples[memory]))
    times: list[float] = []
    while wants_more(times, settings.repeats):
        (trace, samples), seconds = clock(
            lambda: jax.block_until_ready(program(cell.rtol, omega, given, key))
        )
        times.append(seconds)
    _samples.clear()  # one sequence's samples may take a hundred megabytes
    _samples[memory] = samples
    trace = Trace(*map(np.asarray, trace))
    row = {
        "unknowns": problem.laplacian.shape[0],
        "nnz": int(problem.laplacian.nnz),
        "length": cell.count,
        "count": cell.count,
        **_judged(cell.rtol, problem, trace, samples),
        "num_steps": int(trace.num_steps.sum()),
        "num_matvecs": int(trace.num_matvecs.sum()),
        "num_preconditioner_applications": int(trace.num_preconditioner_applications.sum()),
        "setup_s": setup_s,
        "compile_s": compile_s,
        "solve_s": spread(times),
        "seconds_per_step": float(np.median(times)) / max(1, int(trace.num_steps.sum())),
    }
    if tuner_part and tuner_part.name != tuners.BEST_FIXED:
        row["tuner_s"] = _tuner_seconds(tuner_part, problem.bounds, trace, key)
        omegas = np.asarray(tuners.grid())[trace.arm]
    else:
        omegas = np.full(cell.count, omega) if is_tunable(spec) else None
    return row | _windows(problem, trace, omegas) | extra


def _windows(problem: Any, trace: Trace, omegas: np.ndarray | None) -> dict[str, Any]:
    count = len(trace.num_steps)
    window = _stride(count, problems.NUM_WINDOWS[type(problem)])
    last = min(LAST, count)

    def means(values: np.ndarray, digits: int) -> list[float]:
        return [round(float(mean), digits) for mean in values.reshape(-1, window).mean(axis=1)]

    row = {
        "window": window,
        "window_steps": means(trace.num_steps, 3),
        "window_context": means(trace.context, 5),
        "last": last,
        "last_steps": float(trace.num_steps[-last:].mean()),
    }
    return row if omegas is None else row | {"window_omega": means(omegas, 4)}


def _judged(rtol: float, problem: Any, trace: Trace, samples: Samples) -> dict[str, Any]:
    """`successful` only where all systems are; a system called solved that is not makes a false success."""
    residuals = problems.residuals(problem, samples)
    failures = trace.code[trace.code != 0]
    limit = rtol * (1 + RESIDUAL_SLACK)
    claimed = trace.code == 0
    every = len(trace.code) // len(residuals)
    lies = claimed[every - 1 :: every] & ~(residuals <= limit)
    return {
        "result": RESULTS[int(failures[0])] if len(failures) else RESULTS[0],
        "false_success": bool(lies.any() or (claimed & ~(trace.residual <= limit)).any()),
        "solved": int(claimed.sum()),
        "judged": len(residuals),
        "true_residual": float(np.max(residuals)),
        "largest_residual": float(np.max(trace.residual)),
    }


@functools.lru_cache(maxsize=16)
def _program(
    problem_text: str, size: int, spec: Spec, count: int, every: int, max_steps: int
) -> tuple[Callable[..., tuple[Trace, Samples]], float]:
    """The whole sequence, compiled; tolerance, `omega`, data and key are arguments."""
    problem, part = problems.make(problem_text, size), _tuner_part(spec)

    def run(rtol, omega, given, key):
        tuner = None
        if part is not None:
            tuner = tuners.make(part, problem.bounds)
        elif is_tunable(spec):
            tuner = Fixed(omega)
        solver = _solver(spec, rtol, max_steps)
        y0: Start | None = next((start for mode, start in tuners.STARTS.items() if mode in spec.mode), None)
        sequence = SequenceSolver(solver, tuner=tuner, tuned=_tuned(spec), y0=y0)
        return problems.run(problem, sequence, given, count, every, key)

    given = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, problems.draw(problem_text, size, count, 0)))
    scalar = jax.ShapeDtypeStruct((), jnp.float64)
    key = jax.eval_shape(lambda: jax.random.key(0))
    compiled, seconds = clock(lambda: jax.jit(run).lower(scalar, scalar, given, key).compile())
    return lambda rtol, omega, given, key: compiled(_float(rtol), _float(omega), given, key), seconds


@functools.lru_cache(maxsize=4)
def _table(problem_text: str, size: int, spec: Spec, max_steps: int) -> Callable[[Any, Samples], jax.Array]:
    """The costs of sampled systems, `(arms, systems)`, each solved with every value of the grid."""
    problem = problems.make(problem_text, size)

    def solve(rtol, omega, sample):
        solver = _solver(spec, rtol, max_steps)
        sequence = SequenceSolver(solver, tuner=Fixed(omega), tuned=_tuned(spec), y0="previous")
        operator = problem.operator(sample.context)
        state = sequence.init(operator)
        if any(mode in spec.mode for mode in tuners.STARTS):
            state = state._replace(previous=sample.start)
        _, result, stats, _, _ = sequence.advance(state, operator, sample.vector)
        return jnp.where(result == lx.RESULTS.successful, stats["num_steps"].astype(float), jnp.inf)

    def table(rtol, samples):
        def row(omega):
            return jax.lax.map(lambda sample: solve(rtol, omega, sample), samples)

        return jax.lax.map(row, tuners.grid())

    return jax.jit(table)


def _search(table: Callable[..., jax.Array], cell: Any, samples: Samples) -> tuple[float, dict[str, Any]]:
    """The best value of the grid on sampled systems."""
    grid, costs = tuners.grid(), np.asarray(table(_float(cell.rtol), samples)).T
    best, paid = best_fixed(costs)
    _, least = instance_optimal(costs)
    late = len(costs) - min(LAST, cell.count) * len(costs) // cell.count
    return float(grid[best]), {
        "omega": round(float(grid[best]), 6),
        "search": {
            "systems": len(costs),
            "omega": np.asarray(grid).round(6).tolist(),
            "steps": costs.mean(axis=0).tolist(),
            "best_fixed": float(jnp.mean(paid)),
            "instance_optimal": float(jnp.mean(least)),
            "best_fixed_last": float(jnp.mean(paid[late:])),
            "instance_optimal_last": float(jnp.mean(least[late:])),
        },
    }


def _tuner_seconds(part: Part, bounds: tuple[float, float], trace: Trace, key: Any) -> float:
    """Seconds of choosing and learning alone."""
    costs = jnp.where(trace.code == 0, trace.num_steps.astype(float), jnp.inf)
    given = (costs, jnp.asarray(trace.context), key)
    play = _play(part, bounds)
    jax.block_until_ready(play(*given))  # compiles
    return float(np.median([clock(lambda: jax.block_until_ready(play(*given)))[1] for _ in range(3)]))


@functools.lru_cache(maxsize=16)
def _play(part: Part, bounds: tuple[float, float]) -> Callable[..., Any]:
    tuner = tuners.make(part, bounds)

    def step(state, system):
        cost, context = system
        index = tuner.select(state, context)
        return tuner.update(state, index, cost, context), index

    return jax.jit(lambda costs, contexts, key: jax.lax.scan(step, tuner.init(key), (costs, contexts)))


def _solver(spec: Spec, rtol: Any, max_steps: int) -> Any:
    preconditioner, part = None, spec.preconditioner
    if part is not None:
        preconditioner = getattr(ns.preconditioners, PRECONDITIONER_CLASSES[part.name])(**part.options)
    cls = getattr(ns, SOLVER_CLASSES[spec.solver.name])
    return cls(rtol=rtol, max_steps=max_steps, preconditioner=preconditioner, **spec.solver.options)


def _tuned(spec: Spec) -> str:
    return "omega" if spec.solver.name == "sor" else "preconditioner.omega"


def _tuner_part(spec: Spec) -> Part | None:
    return next((parse_part(mode) for mode in spec.mode if mode not in tuners.STARTS), None)


def _omega(spec: Spec) -> float:
    """The column's own value; that of a tuned column, and of one without any, plays no part."""
    part = spec.solver if spec.solver.name == "sor" else spec.preconditioner
    return float(part.options.get("omega", 1.0)) if part else 1.0


def _same_program(problem: str) -> str:
    """Both laws of the shifts go through one program."""
    return "shifted_laplacian" if parse_part(problem).name == "shifted_laplacian" else problem


def _same_column(spec: Spec) -> Spec:
    """Fixed values of `omega` go through one program."""
    if not is_tunable(spec):
        return spec

    def free(part: Part | None) -> Part | None:
        return part and Part(part.name, tuple(p for p in part.params if p[0] != "omega"))

    mode = tuple(mode for mode in spec.mode if mode != tuners.BEST_FIXED)
    return Spec(spec.peer, free(spec.solver) or spec.solver, free(spec.preconditioner), mode)


def _stride(count: int, most: int) -> int:
    """The shortest stride that divides the sequence into at most so many parts."""
    return next(k for k in range(1, count + 1) if count % k == 0 and count // k <= most)


def _float(value: Any) -> jax.Array:
    return jnp.asarray(value, jnp.float64)

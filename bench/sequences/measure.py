"""One cell whose problem is a sequence: solved, timed, judged system by system in SciPy."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nsolve as ns
from nsolve.sequence import solve_sequence, sort_systems

from ..peers._jax import promoting
from ..peers.base import Missing
from ..peers.lineax import RESULTS, result_code
from ..peers.own import PRECONDITIONER_CLASSES, SOLVER_CLASSES
from ..specs import Spec, check_name
from ..table import RESIDUAL_SLACK
from ..timing import clock, spread, wants_more
from . import systems


@dataclass(frozen=True)
class Outcome:
    """What a solver claims of each system, in the order in which they were solved."""

    x: np.ndarray
    results: list[str]
    num_steps: np.ndarray
    num_matvecs: np.ndarray
    num_preconditioner_applications: np.ndarray


def measure(cell: Any, settings: Any) -> dict[str, Any]:
    """The fields of a record that say how a sequence was solved.

    `num_steps`, `num_matvecs`, `num_preconditioner_applications` and `solve_s` are totals over the `count`
    systems tried, `steps` and `matvecs` lists in the order of solution, `unsolved` places in it,
    `true_residual` the largest, `setup_s` the seconds that sorting took.  A column that carries nothing from
    system to system may be measured on fewer than the sequence has, spread evenly."""
    sequence = systems.make(cell.problem, cell.size)
    chosen = systems.draw(cell.problem, cell.size, cell.count, cell.seed)
    if settings.sample and not cell.spec.mode:
        few = min(settings.sample, cell.count)
        chosen = chosen.take(np.linspace(0, cell.count - 1, few).round().astype(int))
    setup_s = 0.0
    if "sorted" in cell.spec.mode:
        order, setup_s = clock(lambda: np.asarray(sort_systems(chosen.features, "greedy")))
        chosen = chosen.take(order)
    prepare = _prepare if cell.spec.peer == "nsolve" else _prepare_solvax
    # Sorted or not, the program is the same.
    same = replace(cell.spec, mode=tuple(mode for mode in cell.spec.mode if mode != "sorted"))
    solve, compile_s = prepare(cell.problem, cell.size, same, len(chosen), settings.max_steps)
    given = jax.tree.map(jnp.asarray, (cell.rtol, chosen.parameters, chosen.vectors))
    times: list[float] = []
    raw = None
    while wants_more(times, settings.repeats):
        raw, seconds = clock(lambda: solve.run(*given))
        times.append(seconds)
    outcome = solve.read(raw, given)
    return {
        "unknowns": chosen.vectors.shape[1],
        "count": len(chosen),
        **_judged(cell.rtol, sequence, chosen, outcome),
        "num_steps": int(outcome.num_steps.sum()),
        "num_matvecs": int(outcome.num_matvecs.sum()),
        "num_preconditioner_applications": int(outcome.num_preconditioner_applications.sum()),
        "steps": outcome.num_steps.tolist(),
        "matvecs": outcome.num_matvecs.tolist(),
        "setup_s": setup_s,
        "compile_s": compile_s,
        "solve_s": spread(times),
        "seconds_per_step": float(np.median(times)) / max(1, int(outcome.num_steps.sum())),
    }


def _judged(rtol: float, sequence: Any, chosen: systems.Systems, outcome: Outcome) -> dict[str, Any]:
    """`successful` only where all are; a system called solved that is not makes a false success."""
    residuals, nnz = [], 0
    for matrix, b, x in zip(sequence.each_matrix(chosen), chosen.vectors, outcome.x, strict=True):
        nnz = int(matrix.nnz)
        residuals.append(np.linalg.norm(b - matrix @ x) / (np.linalg.norm(b) or 1.0))
    met = np.asarray(residuals) <= rtol * (1 + RESIDUAL_SLACK)
    claimed = np.array([result == RESULTS[0] for result in outcome.results])
    failures = [result for result in outcome.results if result != RESULTS[0]]
    return {
        "nnz": nnz,
        "result": failures[0] if failures else RESULTS[0],
        "false_success": bool(np.any(claimed & ~met)),
        "unsolved": np.flatnonzero(~(claimed & met)).tolist(),
        "true_residual": float(np.max(residuals)),
    }


class _Program:
    """Our solver over the whole sequence, compiled; the tolerance is an argument."""

    def __init__(self, compiled: Callable[..., Any]):
        self.compiled = compiled

    def run(self, *given: Any) -> Any:
        return jax.block_until_ready(self.compiled(*given))

    def read(self, raw: Any, given: Any) -> Outcome:
        x, codes, *counts = map(np.asarray, raw)
        return Outcome(x, [RESULTS[code] for code in codes], *counts)


@functools.lru_cache(maxsize=64)  # a program serves all tolerances
def _prepare(problem: str, size: int, spec: Spec, count: int, max_steps: int) -> tuple[_Program, float]:
    sequence, part = systems.make(problem, size), spec.preconditioner
    form = "stencil" if part and part.name == "multigrid" else "sparse"
    form = str(spec.solver.options.get("form", form))
    check_name("form", form, ("sparse", "stencil"))
    options: dict[str, Any] = {name: value for name, value in spec.solver.params if name != "form"}
    preconditioner = None
    if part is not None:
        preconditioner = getattr(ns.preconditioners, PRECONDITIONER_CLASSES[part.name])(**part.options)

    def solve(rtol, parameters, vectors):
        solver = getattr(ns, SOLVER_CLASSES[spec.solver.name])(
            rtol=rtol, max_steps=max_steps, preconditioner=preconditioner, **options
        )
        found = solve_sequence(
            sequence.operator(form),
            parameters,
            sequence.to_form(form, parameters, vectors),
            solver,
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

    compiled, seconds = clock(lambda: jax.jit(solve).lower(*_shapes(problem, size, count)).compile())
    return _Program(compiled), seconds


class _SolvaxLoop:
    """solvax's GCROT from system to system: one program for the first, one for those with a subspace.

    Its `iterations` leave out the products that take the subspace over and those of the restarts, so
    products are counted by one more, untimed run with a counter inside."""

    def __init__(self, spec: Spec, max_steps: int, sequence: Any, shapes: Any):
        import solvax

        options, self.carried = spec.solver.options, "carried" in spec.mode
        restart = int(options.get("restart", 30))
        self.count = 0

        def bump():
            self.count += 1

        @promoting()
        def solve(counted, rtol, parameter, b, recycle):
            operator = sequence.operator("sparse")(parameter)

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

    def read(self, raw: Any, given: Any) -> Outcome:
        self.count = 0
        products = np.array([count for _, count in self.run(*given, counted=True)])
        return Outcome(
            np.stack([np.asarray(solution.x) for solution, _ in raw]),
            ["successful" if bool(s.converged) else "max_steps_reached" for s, _ in raw],
            np.array([int(solution.iterations) for solution, _ in raw]),
            products,
            np.zeros(len(products), int),
        )


@functools.lru_cache(maxsize=64)  # a program serves all tolerances
def _prepare_solvax(
    problem: str, size: int, spec: Spec, count: int, max_steps: int
) -> tuple[_SolvaxLoop, float]:
    try:
        import solvax  # noqa: F401
    except ImportError:
        raise Missing("solvax is not installed (pip install 'nsolve[peers]')") from None
    sequence, shapes = systems.make(problem, size), _shapes(problem, size, count)
    return clock(lambda: _SolvaxLoop(spec, max_steps, sequence, shapes))


def _shapes(problem: str, size: int, count: int) -> Any:
    """Of the tolerance, the parameters and the vectors of so many systems."""
    one = systems.make(problem, size).shapes()
    scalar = jax.ShapeDtypeStruct((), jnp.float64)
    return scalar, *jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), one)

"""One cell: a problem or a sequence of them, a size, a column, a tolerance, a precision. It always ends in a
record."""

import datetime
import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import diffusion, peers, problems, record, transport
from .environment import environment
from .peers.base import Answer, Missing, Run, Task
from .specs import Part, Spec, parse_part
from .timing import measure

DTYPES = ("float32", "float64", "complex64", "complex128")


@dataclass(frozen=True)
class Cell:
    """What to measure; equal cells are the same measurement."""

    problem: str
    size: int | None
    spec: Spec
    rtol: float
    dtype: str
    seed: int
    count: int | None = None  # of a sequence: how many systems

    def key(self, device: str) -> str:
        return record.key(
            problem=self.problem,
            size=self.size,
            solver=str(self.spec),
            rtol=self.rtol,
            dtype=self.dtype,
            seed=self.seed,
            device=device,
            count=self.count,
        )


@dataclass(frozen=True)
class Settings:
    """How to measure: the same for all cells of a suite.

    `sample`: of a sequence, columns that carry nothing from system to system solve only so many of the
    systems, spread evenly; 0 for all.  `limit_s`: of a transport problem, the seconds that a column may take;
    0 for no limit.  `stages`: how often to trace, lower and compile a column of ours or of lineax's, in a
    process of its own (`bench.stages`)."""

    max_steps: int = 20000
    repeats: int | None = None
    history: bool = False
    memory: bool = False
    first_call: int = 0
    stages: int = 0
    sample: int = 0
    limit_s: float = 0.0


def run_cell(cell: Cell, settings: Settings, suite: str, config: str) -> record.Record:
    """Measure one cell. Whatever goes wrong inside becomes its `result`; Ctrl-C passes through."""
    row: record.Record = {
        "schema": record.SCHEMA,
        "key": cell.key(device()),
        "suite": suite,
        "config": config,
        "problem": cell.problem,
        "size": cell.size,
        "solver": str(cell.spec),
        "params": cell.spec.params,
        "rtol": cell.rtol,
        "dtype": cell.dtype,
        "device": device(),
        "seed": cell.seed,
        "num_steps": None,
        "num_matvecs": None,
        "num_preconditioner_applications": None,
        "result": "error: not run",
        "true_residual": None,
        "setup_s": None,
        "compile_s": None,
        "solve_s": None,
    }
    try:
        row["version"] = _find(cell).version()
        own = wing(cell.problem)
        if own is not None:
            row |= importlib.import_module(f"{own.__name__}.measure").measure(cell, settings)
        elif cell.count is not None:
            measure_sequence = _sequences(cell.problem)
            row["length"] = cell.count
            row |= measure_sequence(cell, settings)
        else:
            task = task_of(cell, settings)
            row |= {
                "size": task.problem.size,
                "unknowns": task.matrix.shape[0],
                "nnz": int(task.matrix.nnz),
            }
            row |= _measured(cell, settings, task)
    except Missing as missing:
        row |= {"result": "missing", "message": str(missing)}
    except Exception as error:  # a failure is a row: the run goes on
        first_line = (str(error).strip().splitlines() or [""])[0]
        row["result"] = f"error: {type(error).__name__}: {first_line}"[:300]
    row["env"] = environment()
    row["time"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return row


def wing(problem: str | Part) -> Any:
    """The package whose problems have columns of their own, or None where a problem is a linear system."""
    if transport.is_transport(problem):
        return transport
    return diffusion if diffusion.is_diffusion(problem) else None


def _find(cell: Cell) -> Any:
    """The library that runs the cell's column."""
    return (wing(cell.problem) or peers).find(cell.spec.peer)


def _sequences(problem: str) -> Callable[[Cell, Settings], dict[str, Any]]:
    """What measures sequences of that kind."""
    from . import relaxation
    from .relaxation.measure import measure as measure_tuned
    from .sequences.measure import measure as measure_recycled

    return measure_tuned if parse_part(problem).name in relaxation.PROBLEMS else measure_recycled


def task_of(cell: Cell, settings: Settings) -> Task:
    """The cell's system, rounded to the cell's precision."""
    problem = problems.build(cell.problem, cell.size, cell.seed)
    dtype = np.dtype(cell.dtype)
    if np.iscomplexobj(problem.matrix.data) and dtype.kind != "c":
        dtype = np.dtype({"float32": "complex64"}.get(cell.dtype, "complex128"))
    return Task(
        problem=problem,
        matrix=problem.matrix.astype(dtype),
        rhs=problem.rhs.astype(dtype),
        rtol=cell.rtol,
        max_steps=settings.max_steps,
        history=settings.history,
    )


def prepare(cell: Cell, settings: Settings) -> tuple[Task, Run]:
    """The cell's system and the run that will solve it."""
    task = task_of(cell, settings)
    return task, peers.find(cell.spec.peer).prepare(task, cell.spec)


def judge(task: Task, answer: Answer, product: bool = False) -> dict[str, Any]:
    """The true relative residual, in SciPy and double precision, and whether a claim was false.

    A product is judged by its relative distance from SciPy's."""
    double = np.complex128 if np.iscomplexobj(task.matrix.data) else np.float64
    matrix, rhs, x = task.matrix.astype(double), task.rhs.astype(double), answer.x.astype(double)
    if product:
        reference = matrix @ rhs
        error = np.linalg.norm(x - reference) / (np.linalg.norm(reference) or 1.0)
        limit = 100 * float(np.finfo(task.matrix.dtype).eps)
    else:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            error = np.linalg.norm(rhs - matrix @ x) / (np.linalg.norm(rhs) or 1.0)
        limit = task.rtol * (1 + 1e-6)
    row: dict[str, Any] = {"true_residual": float(error)}
    if answer.result == "successful":
        row["false_success"] = not error <= limit
    if task.problem.solution is not None:
        distance = np.linalg.norm(x - task.problem.solution)
        row["forward_error"] = float(distance / np.linalg.norm(task.problem.solution))
    return row


def device() -> str:
    """JAX's platform, e.g. `cpu`."""
    import jax

    return jax.default_backend()


def _measured(cell: Cell, settings: Settings, task: Task) -> dict[str, Any]:
    run = peers.find(cell.spec.peer).prepare(task, cell.spec)
    timings, raw = measure(run, settings.repeats)
    answer = run.answer(raw)
    row = {
        "num_steps": answer.num_steps,
        "num_matvecs": answer.num_matvecs,
        "num_preconditioner_applications": answer.num_preconditioner_applications,
        "result": answer.result,
        **judge(task, answer, product=cell.spec.solver.name == "product"),
        "setup_s": timings.setup_s,
        "compile_s": timings.compile_s,
        "solve_s": timings.solve_s,
    }
    if answer.residual_norms is not None:
        row["residual_norms"] = answer.residual_norms
    if settings.memory or settings.first_call:
        from .fresh import measure_fresh

        row |= measure_fresh(cell, settings)
    if settings.stages:
        from .fresh import as_request
        from .stages import measure_stages

        row |= measure_stages(as_request(cell, settings))
    return row

"""Solving a linear system `A x = b`: how an answer is judged, and which columns there are."""

import functools
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.spec import Part
from ..engine.work import DTYPES, SLACK, Answer, Cell, Task, Work
from ..report import usual
from .systems import PROBLEMS, System


def _check(part: Part) -> None:
    path = part.options.get("path", "")
    if part.name == "matrix_market" and not path:
        raise ValueError("problem 'matrix_market' needs a file: matrix_market[path=FILE.mtx]")
    if part.name == "matrix_market" and not Path(str(path)).is_file():
        raise ValueError(f"problem 'matrix_market': there is no file {path}")


def _build(work: Work, cell: Cell) -> System:
    """The cell's system, rounded to the cell's precision."""
    system = _made(work, cell.problem, cell.size, cell.seed)
    dtype = np.dtype(cell.dtype)
    if np.iscomplexobj(system.matrix.data) and dtype.kind != "c":
        dtype = np.dtype({"float32": "complex64"}.get(cell.dtype, "complex128"))
    return replace(system, matrix=system.matrix.astype(dtype), rhs=system.rhs.astype(dtype))


@functools.lru_cache(maxsize=2)
def _made(work: Work, text: str, size: int | None, seed: int) -> System:
    return work.call(text, size=size, seed=seed)


def judge(system: System, answer: Answer, task: Task) -> dict[str, Any]:
    """The true relative residual, in SciPy and double precision, and whether a claim was false.

    A product is judged by its relative distance from SciPy's."""
    double = np.complex128 if np.iscomplexobj(system.matrix.data) else np.float64
    matrix, rhs, x = system.matrix.astype(double), system.rhs.astype(double), answer.value.astype(double)
    if task.spec.solver.name == "product":
        reference = matrix @ rhs
        error = np.linalg.norm(x - reference) / (np.linalg.norm(reference) or 1.0)
        limit = 100 * float(np.finfo(system.matrix.dtype).eps)
    else:
        error = true_residual(matrix, x, rhs)
        limit = task.rtol * (1 + SLACK)
    row: dict[str, Any] = {"true_residual": float(error)}
    if answer.result == "successful":
        row["false_success"] = not error <= limit
    if system.solution is not None:
        distance = np.linalg.norm(x - system.solution)
        row["forward_error"] = float(distance / np.linalg.norm(system.solution))
    return row


def true_residual(matrix: Any, x: np.ndarray, b: np.ndarray) -> float:
    """`|b - A x| / |b|`, and `|A x|` for a zero right-hand side."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        unit = np.abs(b).max(initial=0.0) or 1.0  # squares may leave the range
        return float(np.linalg.norm((b - matrix @ x) / unit) / (np.linalg.norm(b / unit) or 1.0))


COLUMNS = (
    "nsolve", "scipy", "pyamg", "amgcl", "lineax", "jax.scipy", "solvax", "petsc", "klujax", "sparsax",
    "splineax",
)  # fmt: skip
WORK = Work(
    "linear",
    PROBLEMS,
    judge,
    columns=COLUMNS,
    settings=("max_steps", "history", "stages"),
    dtypes=DTYPES,
    least_size=2,
    build=_build,
    check=_check,
    error="relative residual",
    tables=(usual.EVERY_SOLVE,),
    charts=usual.CHARTS,
)

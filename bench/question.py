"""What a user asks with files: a system to solve, and by what rule an answer is judged."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nsolve.direct.matching import deficiency, structural_rank

from .arrays import is_same_pipe, read_matrix, read_vectors
from .report.format import scientific
from .work.linear import true_residual
from .work.systems import System, csr

#: `|A^H r| / (|A| |r|)` in units of rounding, below which a system that is not tall has no solution.
STATIONARY = 64


@dataclass(frozen=True)
class Verdict:
    """`|b - A x| / |b|` and `|A^H r| / (|A| |r|)` with `r = b - A x`, in double precision; `excess`: how many
    times more than the rule allows."""

    residual: float = np.inf
    normal: float = np.inf
    excess: float = np.inf


@dataclass(frozen=True)
class Question:
    """A system with right-hand sides `(m, k)`, and the solution's shape in a file.

    An answer is right when `|r| <= rtol |b|`.  A least-squares problem may have no such answer; there
    `|A^H r| <= level |A| |r|` will do, which makes `x` the exact solution for an operator that differs by so
    much.  Of `A` it is the Frobenius norm.  Square and wide systems nearly always have a solution, so that
    their level is rounding."""

    system: System
    rhs: np.ndarray
    shape: tuple[int, ...]
    rtol: float
    least_squares: bool

    @property
    def level(self) -> float:
        rows, columns = self.system.matrix.shape
        if not self.least_squares:
            return 0.0
        return self.rtol if rows > columns else min(self.rtol, STATIONARY * float(np.finfo(float).eps))

    def judge(self, x: np.ndarray | None, j: int) -> Verdict:
        """The verdict on an answer to the j-th right-hand side; infinite where there is none."""
        if x is None:
            return Verdict()
        residual, normal = true_residual(self.system.matrix, x, self.rhs[:, j]), np.inf
        residual, excess = (residual, residual / self.rtol) if np.isfinite(residual) else (np.inf, np.inf)
        if self.least_squares and np.isfinite(residual):
            normal = normal_residual(self.system.matrix, x, self.rhs[:, j])
            excess = min(excess, normal / self.level)
        return Verdict(residual, normal, excess)

    def missed(self, verdict: Verdict) -> str:
        """Of an answer that is not right, by what."""
        if self.least_squares:
            return f"|A^H r| / (|A| |r|) = {scientific(verdict.normal)} is above {scientific(self.level)}"
        return f"true residual {scientific(verdict.residual)} is above {scientific(self.rtol)}"


def normal_residual(matrix: Any, x: np.ndarray, b: np.ndarray) -> float:
    """`|A^H r| / (|A| |r|)` for `r = b - A x`, with the Frobenius norm; 0 where `r` is, infinite where one is
    not finite."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        r = b - matrix @ x
        size, unit = np.abs(r).max(), np.abs(matrix.data).max()  # squares may leave the range
        if size == 0:
            return 0.0
        r, matrix = r / size, matrix / unit
        found = np.linalg.norm(matrix.conj().T @ r) / (np.linalg.norm(matrix.data) * np.linalg.norm(r))
    return float(found) if np.isfinite(found) else np.inf


def read_question(
    path: str, rhs_path: str | None, rtol: float, least_squares: bool, say: Callable[[str, str], None]
) -> Question:
    """The files' system; `least_squares`: whether that was asked for a square one, too."""
    if rhs_path is not None and is_same_pipe(path, rhs_path):
        raise ValueError(
            f"matrix and --rhs both come from {path}, which can be read once; use a file for one"
        )
    matrix = csr(read_matrix(path))
    rows, columns = matrix.shape
    if not rows or not columns:
        raise ValueError(f"{path}: the matrix is {rows} by {columns}, so there is nothing to solve")
    if not matrix.data.any():
        raise ValueError(f"{path}: the matrix is all zeros")
    least_squares = least_squares or rows != columns
    if not least_squares:
        _check_singular(path, matrix)
    given = np.ones(rows) if rhs_path is None else read_vectors(rhs_path, rows)
    given = given.astype(np.result_type(given, matrix.dtype))
    matrix = matrix.astype(given.dtype)
    symmetric = rows == columns and abs(matrix - matrix.conj().T).max() == 0
    kind = "Hermitian" if np.iscomplexobj(matrix.data) else "symmetric"
    kind = kind if symmetric else "unsymmetric"
    if rows > columns:
        kind = "more equations than unknowns: least squares"
    elif rows < columns:
        kind = "more unknowns than equations: the solution of smallest norm"
    say("matrix", f"{path}: {rows} x {columns}, {matrix.nnz} entries, {matrix.dtype}, {kind}")
    if least_squares and (lacking := _lack_of_rank(matrix)):
        say("rank", lacking)
    table = given.ndim == 2 and len(given) == rows
    rhs, count = (given if table else given.reshape(-1, 1)), given.size // rows
    several = f", {count} columns" if count > 1 else ""
    say("rhs", f"{rhs_path or 'all ones (name your own with --rhs FILE)'}{several}")
    name = "stdin" if path == "-" else Path(path).name
    tags = frozenset({"symmetric"} if symmetric else ())
    system = System(name, columns, matrix, np.ones(rows, rhs.dtype), tags)
    shape = (columns, count) if table else given.shape[:-1] + (columns,)
    return Question(system, rhs, given.shape if rows == columns else shape, rtol, least_squares)


def _check_singular(path: str, matrix: Any) -> None:
    for name, sums in (("row", abs(matrix).sum(axis=1)), ("column", abs(matrix).sum(axis=0))):
        empty = np.flatnonzero(np.asarray(sums).ravel() == 0)
        if empty.size:
            raise ValueError(
                f"{path}: {name} {empty[0] + 1} is all zeros ({empty.size} such), so the matrix is singular; "
                f"remove the unknown or give the {name} an entry, or take the least-squares solution: "
                "--solver lsmr"
            )


def _lack_of_rank(matrix: Any) -> str:
    """What the zeros alone say of the rank, where it is not full."""
    rows, columns = matrix.shape
    if structural_rank(matrix) == min(rows, columns):
        return ""
    found, none = deficiency(matrix), np.zeros(0, int)
    if rows > columns:  # of which rows have no pivots all the same
        found = found._replace(rows=none)
    elif rows < columns:
        found = found._replace(columns=none)
    return f"at most {found.rank}: {found} (counted from 0); of all solutions comes that of smallest norm"

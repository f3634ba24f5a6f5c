"""Solve a user's own system from files, and say what happened."""

import dataclasses
import gzip
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import lineax as lx
import numpy as np
import scipy.io

import nsolve as ns
from bench import peers, specs
from bench.peers.base import Answer, Missing, Task
from bench.peers.lineax import result_name
from bench.problems.base import Problem, csr
from bench.table import RESIDUAL_SLACK, scientific
from nsolve.operators import numerals
from nsolve.operators.values import fit

_DEFAULT_MAX_STEPS = 10_000


def solve_file(
    path: Path,
    rhs: Path | None = None,
    solver: str | None = None,
    rtol: float = 1e-8,
    max_steps: int | None = None,
    out: Path | None = None,
) -> int:
    """Solve `A x = b` with `A` from a Matrix Market file and print how it ended.

    `b` comes from a `.mtx`, `.npy` or text file and is all ones without one. Without a `solver`
    (a spec such as `gmres[restart=50]+ilu`) one is chosen after the matrix's symmetry, and where
    it fails the next more general one is tried. The solution goes to `out` (`.npy` or `.mtx`).

    Returns 0 when the true relative residual meets `rtol`, 1 when it does not, and 2, after one
    line on stderr, for input that cannot be solved.
    """
    try:
        if max_steps is None:
            max_steps = _DEFAULT_MAX_STEPS
        return _solve(Path(path), rhs, solver, rtol, max_steps, out)
    except (ValueError, OSError, Missing) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2


def _solve(path, rhs_path, solver, rtol, max_steps, out) -> int:
    if not rtol > 0 or not np.isfinite(rtol):
        raise ValueError(f"--rtol is {rtol}: give a positive number such as 1e-8")
    if max_steps < 1:
        raise ValueError(f"--max-steps is {max_steps}: give at least 1")
    spec = None if solver is None else specs.parse(solver)
    if spec is not None:
        peers.check(spec)
    out = _check_out(out, path)
    jax.config.update("jax_enable_x64", True)
    system = _read_system(path, rhs_path)
    if spec is None:
        attempts = _choices(system, rtol, max_steps)
    else:
        asked = _check_symmetry(system, spec)
        attempts = iter([_Attempt(str(spec), "as asked", lambda: _run(asked, spec, rtol, max_steps))])
    best, best_residual = None, np.inf
    for attempt in attempts:
        print(f"solver    {attempt.name} ({attempt.why})", flush=True)
        answer = attempt.answer()
        residual = _true_residual(system, answer.x) if answer.x is not None else np.inf
        print(f"result    {_describe(answer)}")
        if best is None or residual < best_residual:
            best, best_residual = answer, residual
        if residual <= rtol * (1 + RESIDUAL_SLACK):
            break
        if np.isfinite(residual):
            print(f"          true residual {scientific(residual)} is above {scientific(rtol)}")
    met = best_residual <= rtol * (1 + RESIDUAL_SLACK)
    if best is not None and np.isfinite(best_residual):
        reached = f"{scientific(best_residual)}, asked for {scientific(rtol)}"
        print(f"residual  |b - A x| / |b| = {reached}")
        _save(best.x, out)
        print(f"solution  {out}{'' if met else ' (the best found; it does NOT meet rtol)'}")
    if not met:
        print(f"FAILED: no answer meets rtol={rtol:g}; try a larger --max-steps, another --solver")
        return 1
    return 0


@dataclass(frozen=True)
class _Attempt:
    """A solver to try, why, and how to run it; what goes wrong inside becomes the result."""

    name: str
    why: str
    run: Any

    def answer(self) -> Answer:
        try:
            return self.run()
        except Missing:
            raise
        except Exception as error:  # a solver may raise anything; the next one may still work
            return Answer(None, f"error: {_one_line(error)}")  # type: ignore[arg-type]


def _choices(system: Problem, rtol: float, max_steps: int) -> Iterator[_Attempt]:
    """Solvers to try in turn, from the strongest assumption about the matrix to none.

    Positive definiteness is supposed where nothing speaks against it: CG and the incomplete
    Cholesky factorisation find out when it is wrong.
    """
    matrix = system.matrix
    diagonal = matrix.diagonal()
    guesses = []
    hermitian = ns.hermitian_tag if np.iscomplexobj(matrix.data) else lx.symmetric_tag
    if "symmetric" in system.tags:
        if np.all(diagonal.real > 0) and np.all(diagonal.imag == 0):
            why = "symmetric with a positive diagonal: supposed positive definite"
            guesses.append((frozenset({hermitian, lx.positive_semidefinite_tag}), why))
        guesses.append((frozenset({hermitian}), "symmetric, perhaps indefinite"))
    guesses.append((frozenset(), "nothing supposed of the matrix"))
    for tags, why in guesses:
        operator = ns.SparseLinearOperator.from_scipy(matrix, tags)
        solver = ns.auto(operator, rtol=rtol, max_steps=max_steps)
        yield _Attempt(_name(solver), why, lambda s=solver, o=operator: _run_own(o, system.rhs, s))
    for text in ("bicgstab+ilu", "gmres[restart=100]+jacobi", "gmres[restart=100]"):
        if "jacobi" in text and np.any(diagonal == 0):
            continue
        spec = specs.parse(text)
        yield _Attempt(text, "the one before failed", lambda s=spec: _run(system, s, rtol, max_steps))


def _run_own(operator, rhs, solver) -> Answer:
    solution = lx.linear_solve(operator, jax.numpy.asarray(rhs), solver, throw=False)
    stats = solution.stats
    return Answer(
        np.asarray(solution.value),
        result_name(solution.result),
        num_steps=int(stats["num_steps"]),
        num_matvecs=int(stats["num_matvecs"]),
        num_preconditioner_applications=int(stats["num_preconditioner_applications"]),
    )


def _check_symmetry(system: Problem, spec: specs.Spec) -> Problem:
    """Take the user's word for what a named solver needs; refuse what the matrix contradicts."""
    needs = {"cg", "flexible_cg", "chebyshev", "minres"} & {spec.solver.name}
    definite = needs - {"minres"}
    if spec.preconditioner is not None and spec.preconditioner.name in ("ic", "ict"):
        needs, definite = needs | {spec.preconditioner.name}, {spec.preconditioner.name}
    if spec.peer != specs.OWN or not needs:
        return system
    if "symmetric" not in system.tags:
        raise ValueError(
            f"--solver {spec}: {' and '.join(sorted(needs))} is for symmetric (Hermitian) matrices "
            "and this one is not; use gmres+ilu or bicgstab+ilu"
        )
    tags = {"symmetric", "spd"} if definite else {"symmetric"}
    return dataclasses.replace(system, tags=frozenset(tags))


def _run(system: Problem, spec: specs.Spec, rtol: float, max_steps: int) -> Answer:
    task = Task(system, system.matrix, system.rhs, rtol, max_steps)
    run = peers.find(spec.peer).prepare(task, spec)
    return run.answer(run.solve(run.compile(run.setup())))


def _read_system(path: Path, rhs_path: Path | None) -> Problem:
    matrix = csr(ns.SparseLinearOperator.from_matrix_market(path).as_scipy())
    if not np.issubdtype(matrix.dtype, np.inexact):
        matrix = matrix.astype(np.float64)
    rows, columns = matrix.shape
    if rows != columns:
        raise ValueError(f"{path}: the matrix is {rows} by {columns}; a square one is needed")
    if rows == 0:
        raise ValueError(f"{path}: the matrix is empty")
    if not np.all(np.isfinite(matrix.data)):
        entry = int(np.argmin(np.isfinite(matrix.data)))
        row = int(np.searchsorted(matrix.indptr, entry, side="right"))
        column = int(matrix.indices[entry]) + 1
        raise ValueError(f"{path}: entry ({row}, {column}) is {matrix.data[entry]}; remove it")
    for name, sums in (("row", abs(matrix).sum(axis=1)), ("column", abs(matrix).sum(axis=0))):
        empty = np.flatnonzero(np.asarray(sums).ravel() == 0)
        if empty.size:
            raise ValueError(
                f"{path}: {name} {empty[0] + 1} is all zeros ({empty.size} such), so the matrix is "
                f"singular; remove the unknown or give the {name} an entry"
            )
    rhs = np.ones(rows) if rhs_path is None else _read_rhs(Path(rhs_path), rows)
    rhs = rhs.astype(np.result_type(rhs, matrix.dtype))
    matrix = matrix.astype(rhs.dtype)
    symmetric = abs(matrix - matrix.conj().T).max() == 0
    kind = "Hermitian" if np.iscomplexobj(matrix.data) else "symmetric"
    kind = kind if symmetric else "unsymmetric"
    print(f"matrix    {path}: {rows} x {rows}, {matrix.nnz} entries, {matrix.dtype}, {kind}")
    print(f"rhs       {rhs_path or 'all ones (name your own with --rhs FILE)'}")
    return Problem(path.name, rows, matrix, rhs, frozenset({"symmetric"} if symmetric else ()))


def _read_rhs(path: Path, num_unknowns: int) -> np.ndarray:
    name = path.name.removesuffix(".gz")
    try:
        if name.endswith(".npy"):
            rhs = np.load(path, allow_pickle=False)
        elif name.endswith(".mtx"):
            rhs = ns.read_matrix_market(path)[0].toarray()
        else:
            rhs = _read_text(path)
    except OSError as error:
        raise ValueError(f"--rhs {path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, EOFError) as error:
        raise ValueError(f"--rhs {path}: {_one_line(error)}") from None
    if rhs.size != num_unknowns or max(rhs.shape, default=1) != rhs.size:
        raise ValueError(
            f"--rhs {path}: has shape {rhs.shape}; the matrix needs one vector of {num_unknowns}"
        )
    rhs = rhs.ravel()
    if not np.issubdtype(rhs.dtype, np.number):
        raise ValueError(f"--rhs {path}: holds {rhs.dtype}; numbers are needed")
    if not np.all(np.isfinite(rhs)):
        bad = int(np.argmin(np.isfinite(rhs)))
        raise ValueError(f"--rhs {path}: entry {bad + 1} is {rhs[bad]}; finite numbers are needed")
    return fit(rhs, complex if np.iscomplexobj(rhs) else float, f"--rhs {path}")


def _read_text(path: Path) -> np.ndarray:
    """Numbers in rows; what follows a `#` or `%` is a comment.  ValueError names the line."""
    with (gzip.open if path.name.endswith(".gz") else open)(path, "rb") as file:
        lines = file.read().split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append([numerals.number(token) for token in numerals.fields(re.split(b"[#%]", line)[0])])
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    rows = [row for row in rows if row]
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"the lines hold {', '.join(sorted({str(len(row)) for row in rows}))} numbers each")
    return np.array(rows)


def _check_out(out: Path | None, path: Path) -> Path:
    """Where the solution goes, refused before any work if it cannot be written."""
    if out is None:
        out = Path(path.name.removesuffix(".gz").removesuffix(".mtx") + ".solution.npy")
    out = Path(out)
    if out.suffix not in (".npy", ".mtx"):
        raise ValueError(f"--out {out}: the suffix says the format; use .npy or .mtx")
    if out.is_dir():
        raise ValueError(f"--out {out}: is a folder; name a file")
    try:
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise ValueError(
            f"--out {out}: cannot write into {out.parent} ({error.strerror}); choose another folder"
        ) from None
    return out


def _save(x: np.ndarray, out: Path) -> None:
    if out.suffix == ".npy":
        np.save(out, x)
    else:
        scipy.io.mmwrite(out, x.reshape(-1, 1), precision=17)


def _true_residual(system: Problem, x: np.ndarray) -> float:
    """`|b - A x| / |b|` in double precision; `|A x|` where b is zero; inf for NaN."""
    norm = float(np.linalg.norm(system.rhs)) or 1.0
    residual = float(np.linalg.norm(system.rhs - system.matrix @ x)) / norm
    return residual if np.isfinite(residual) else np.inf


def _describe(answer: Answer) -> str:
    counts = (
        (answer.num_steps, "iterations"),
        (answer.num_matvecs, "products with A"),
        (answer.num_preconditioner_applications, "preconditioner applications"),
    )
    parts = [f"{name} {number}" for number, name in counts if number is not None]
    reason = answer.result
    return ", ".join([reason if " " in reason else reason.replace("_", " "), *parts])


def _name(solver: Any) -> str:
    preconditioner = solver.preconditioner
    own = type(solver).__name__
    return own if preconditioner is None else f"{own} + {type(preconditioner).__name__}"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:300]

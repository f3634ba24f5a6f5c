"""Solve a user's own system from files, and say what happened: `nsolve-bench solve`."""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import lineax as lx
import numpy as np
import scipy.sparse as sp

import nsolve as ns

from .arrays import Target, heard_or_not, is_same_pipe, read_matrix, read_vectors
from .columns.nsolve import solvers
from .columns.nsolve.linear import NsolveRun
from .engine.environment import device
from .engine.measure import clock
from .engine.record import error as error_of
from .engine.record import write_whole
from .engine.spec import OWN, Part, Spec, parse
from .engine.work import SLACK, Answer, Cell, Missing, Run, Settings, Task
from .report import usual
from .report.format import scientific, seconds
from .report.frame import frame
from .work.linear import WORK, System, csr, random_rhs, true_residual

DEFAULT_MAX_STEPS = 10_000
#: Of so many right-hand sides each has a line in the table and in the chart.
LISTED = 10
PICTURES = (".png", ".svg", ".html")


def solve_file(
    path: str | Path,
    rhs: str | Path | None = None,
    solver: str | None = None,
    rtol: float = 1e-8,
    max_steps: int | None = None,
    out: str | Path | None = None,
    history: str | Path | None = None,
    force: bool = False,
) -> int:
    """Solve `A x = b` with `A` from a Matrix Market file, and print how it ended.

    * `path`, `rhs`: files, pipes, or `-` for standard input.  `rhs` is Matrix Market, `.npy`, `.npz`
      (`x.npz:name` of several arrays) or text; several columns are several right-hand sides, all solved.  All
      ones where there is none.
    * `solver`: a column such as `gmres[restart=50]+ilu`.  Without one the attempts of `ns.auto` are made, one
      after the other until one succeeds.
    * `out`: the solution, in the shape of `rhs`: `.npy`, `.mtx`, `.txt` or `.csv`; text into a pipe, or to
      standard output with `-`, and then messages go to stderr.  A file that is there and that this command
      did not write is not touched unless `force`.
    * `history`: a chart of the residuals, `.png`, `.svg` or `.html`.

    Returns 0 when the true relative residual of every column meets `rtol`, 1 when one does not, and 2, after
    one line on stderr, for a mistake in what was asked.
    """
    try:
        steps = DEFAULT_MAX_STEPS if max_steps is None else max_steps
        if not 0 < rtol < 1:
            raise ValueError(f"--rtol is {rtol}: give a number between 0 and 1, such as 1e-8")
        if steps < 1:
            raise ValueError(f"--max-steps is {max_steps}: give at least 1")
        spec = None if solver is None else _column(solver)
        picture = None if history is None else _picture(Path(history))
        target = Target(_default_out(str(path)) if out is None else str(out), force)
        say = Voice(sys.stderr if target.is_stdout else sys.stdout)
        jax.config.update("jax_enable_x64", True)
        system, given = _read(str(path), None if rhs is None else str(rhs), say)
        job = Job(system, given, rtol, Settings(max_steps=steps, history=picture is not None), say)
        job.work(_choices(job) if spec is None else _asked(system, spec))
        return job.end(target, picture)
    except (ValueError, OSError, MemoryError, Missing) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2


class Voice:
    """Prints to a stream whose reader may have left."""

    def __init__(self, stream: Any):
        self.stream = stream

    def __call__(self, heading: str, text: str) -> None:
        with heard_or_not(self.stream):
            print(f"{heading:9} {text}".rstrip(), file=self.stream, flush=True)


@dataclass(frozen=True)
class Attempt:
    """A column to try, why, and the system with what is supposed of it."""

    spec: Spec
    why: str
    system: System
    asked: bool = False
    #: Fewer than asked for, where another attempt follows.
    max_steps: int | None = None


class Job:
    """The right-hand sides `(n, k)` of a system, with the best that was found for each."""

    def __init__(self, system: System, given: np.ndarray, rtol: float, settings: Settings, say: Voice):
        self.system, self.rtol, self.settings, self.say = system, rtol, settings, say
        self.shape = given.shape  # the solution's
        self.rhs = given.reshape(-1, 1) if given.ndim < 2 or len(system.rhs) != len(given) else given
        self.x = np.full(self.rhs.shape, np.nan, self.rhs.dtype)
        self.residuals = np.full(self.rhs.shape[1], np.inf)
        self.answers: list[tuple[str, Answer]] = [("", Answer("not run"))] * self.rhs.shape[1]
        self.records: list[dict[str, Any]] = []

    @property
    def unsolved(self) -> np.ndarray:
        """The columns that do not meet the tolerance."""
        return np.flatnonzero(~(self.residuals <= self.rtol * (1 + SLACK)))

    def work(self, attempts: Iterator[Attempt]) -> None:
        """Try one after the other on what is still unsolved."""
        for attempt in attempts:
            self.say("solver", f"{attempt.spec} ({attempt.why})")
            columns = self.unsolved
            answers, once, each = self._answers(attempt, columns)
            self.say("result", _summary(answers))
            if once or each:
                self.say("time", f"set-up and compiling {seconds(once)}, solving {seconds(each)}")
            reached = [self._keep(attempt, j, answer) for j, answer in zip(columns, answers, strict=True)]
            if not len(self.unsolved):
                return
            if np.isfinite(reached).any():
                worst = scientific(max(r for r in reached if np.isfinite(r)))
                self.say("", f"true residual {worst} is above {scientific(self.rtol)}")

    def _answers(self, attempt: Attempt, columns: np.ndarray) -> tuple[list[Answer], float, float]:
        """The answer for each column; the seconds of what is done once, and of the solves."""
        run: Run | None = None
        answers, once, each, program = [], 0.0, 0.0, None
        for place, j in enumerate(columns):
            try:
                if isinstance(run, NsolveRun):
                    run.renew(self.rhs[:, j])
                else:
                    run, program, spent = self._prepared(attempt, self.rhs[:, j])
                    once += spent
                raw, spent = clock(lambda run=run, program=program: run.solve(program))
                each += spent
                answers.append(run.answer(raw))
            except Missing:
                raise
            except Exception as error:  # a solver may raise anything; the next one may still work
                if attempt.asked and _is_mistake(attempt.spec):
                    raise ValueError(f"--solver {attempt.spec}: {_one_line(error)}") from None
                # A set-up that fails does so for every right-hand side.
                fail = 1 if run is not None else len(columns) - place
                answers += [Answer(error_of(error))] * fail
                if run is None:
                    break
        return answers, once, each

    def _prepared(self, attempt: Attempt, rhs: np.ndarray) -> tuple[Run, Any, float]:
        most = self.settings.max_steps
        steps = most if attempt.max_steps is None else min(attempt.max_steps, most)
        settings = dataclasses.replace(self.settings, max_steps=steps)
        run = _prepare(dataclasses.replace(attempt.system, rhs=rhs), attempt.spec, self.rtol, settings)
        program, spent = clock(lambda: run.compile(run.setup()))
        return run, program, spent

    def _keep(self, attempt: Attempt, j: int, answer: Answer) -> float:
        """Keep an answer that is the best of its column; its true residual in double precision."""
        residual = np.inf
        if answer.value is not None:
            residual = true_residual(self.system.matrix, answer.value, self.rhs[:, j])
            residual = residual if np.isfinite(residual) else np.inf
        if residual < self.residuals[j]:
            self.residuals[j], self.x[:, j] = residual, answer.value
        if residual <= self.residuals[j]:
            self.answers[j] = str(attempt.spec), answer
        line = str(attempt.spec) if len(self.residuals) == 1 else f"{attempt.spec}, column {j + 1}"
        self.records.append({
            "work": WORK.name, "problem": "matrix_market", "size": len(self.x), "seed": 0,
            "solver": str(attempt.spec), "rtol": self.rtol, "dtype": str(self.x.dtype), "device": device(),
            "result": answer.result, "true_residual": residual, "residual_norms": answer.residual_norms,
            "line": line, "number": int(j),
        })  # fmt: skip
        return residual

    def end(self, target: Target, picture: Path | None) -> int:
        """Say what was reached, save it, and give the exit code."""
        count, unsolved = len(self.residuals), self.unsolved
        if 1 < count <= LISTED:
            self._table()
        finite = self.residuals[np.isfinite(self.residuals)]
        if finite.size:
            most = "" if count == 1 else f"at most {scientific(finite.max())} in {count} columns"
            most += "" if finite.size == count else f" ({count - finite.size} without an answer hold NaN)"
            reached = most or f"= {scientific(finite.max())}"
            self.say("residual", f"|b - A x| / |b| {reached}, asked for {scientific(self.rtol)}")
            target.write(self.x.reshape(self.shape))
            note = "" if not len(unsolved) else " (the best found; it does NOT meet rtol)"
            self.say("solution", f"{'standard output' if target.is_stdout else target.name}{note}")
        if picture is not None:
            self._draw(picture)
        if len(unsolved):
            operator = ns.SparseLinearOperator.from_scipy(self.system.matrix)
            for k, line in enumerate(ns.diagnose(operator).advice):
                self.say("" if k else "diagnosis", line)
            what = "no answer meets" if count == 1 else f"{len(unsolved)} of {count} columns do not meet"
            self.say("FAILED:", f"{what} rtol={self.rtol:g}; try a larger --max-steps, another --solver")
        return 1 if len(unsolved) else 0

    def _table(self) -> None:
        rows = [("column", "solver", "result", "iterations", "residual")]
        for j, (name, answer) in enumerate(self.answers):
            steps = answer.counts.get("num_steps")
            words = _words(answer.result), "–" if steps is None else str(steps), scientific(self.residuals[j])
            rows.append((str(j + 1), name, *words))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            self.say("", "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)))

    def _draw(self, path: Path) -> None:
        rows = [r for r in self.records if r["number"] < LISTED and r["residual_norms"]]
        chart = dataclasses.replace(
            usual.CONVERGENCE, title=f"{self.system.name}: convergence", group=(), derive=None, colour="line"
        )
        for drawn in chart.draw(frame(rows)) if rows else ():
            _write_picture(drawn.spec(), path)
            left_out = "" if len(self.residuals) <= LISTED else f" (of the first {LISTED} columns)"
            self.say("history", f"{path}{left_out}")
            return
        self.say("history", f"nothing to draw: no residuals of iterations; {path} is not written")


def _prepare(system: System, spec: Spec, rtol: float, settings: Settings) -> Run:
    cell = Cell("matrix_market", system.size, str(spec), rtol, str(system.matrix.dtype), seed=0)
    WORK.library(spec.peer).require()
    return WORK.offer(spec).prepare(Task(system, cell, settings))


def _column(text: str) -> Spec:
    """The column that was asked for; ValueError for what there is not, or values that are refused."""
    spec = parse(text)
    WORK.check_column(spec, Part("matrix_market"))
    if spec.solver.name == "product":
        raise ValueError(f"--solver {spec}: it multiplies and solves nothing")
    return spec


def _is_mistake(spec: Spec) -> bool:
    """Whether a column fails even on the easiest of systems: then it is not the matrix's fault."""
    matrix = csr(sp.diags_array([-1.0, 4.0, -1.0], offsets=[-1, 0, 1], shape=(64, 64)))
    easy = System("easy", 64, matrix, random_rhs(64, 0), frozenset({"symmetric", "spd"}))
    try:
        run = _prepare(easy, spec, 1e-6, Settings())
        run.answer(run.solve(run.compile(run.setup())))
    except Exception:
        return True
    return False


def _choices(job: Job) -> Iterator[Attempt]:
    """What `ns.auto` would try in turn."""
    system = job.system
    hermitian = ns.hermitian_tag if np.iscomplexobj(system.matrix.data) else lx.symmetric_tag
    tags = frozenset([hermitian] if "symmetric" in system.tags else [])
    operator = ns.SparseLinearOperator.from_scipy(system.matrix, tags)
    for attempt in ns.auto(operator, rtol=job.rtol).attempts:
        definite = frozenset({"spd"} if attempt.supposed else ())
        steps = getattr(attempt.solver, "max_steps", None)
        supposing = dataclasses.replace(system, tags=system.tags | definite)
        yield Attempt(solvers.spec_of(attempt.solver), attempt.why, supposing, max_steps=steps)


def _asked(system: System, spec: Spec) -> Iterator[Attempt]:
    """The column that was named: its user's word is taken for what it needs, unless the matrix says no."""
    needs = {"cg", "flexible_cg", "chebyshev", "minres"} & {spec.solver.name}
    definite = needs - {"minres"}
    if spec.preconditioner is not None and spec.preconditioner.name in ("ic", "ict"):
        needs, definite = needs | {spec.preconditioner.name}, {spec.preconditioner.name}
    if spec.peer == OWN and needs:
        if "symmetric" not in system.tags:
            raise ValueError(
                f"--solver {spec}: {' and '.join(sorted(needs))} is for symmetric (Hermitian) matrices "
                "and this one is not; use gmres+ilu or bicgstab+ilu"
            )
        tags = {"symmetric", "spd"} if definite else {"symmetric"}
        system = dataclasses.replace(system, tags=frozenset(tags))
    yield Attempt(spec, "as asked", system, asked=True)


def _read(path: str, rhs_path: str | None, say: Voice) -> tuple[System, np.ndarray]:
    """The system, and its right-hand sides as they were given."""
    if rhs_path is not None and is_same_pipe(path, rhs_path):
        raise ValueError(
            f"matrix and --rhs both come from {path}, which can be read once; use a file for one"
        )
    matrix = csr(read_matrix(path))
    rows, columns = matrix.shape
    if rows != columns:
        raise ValueError(f"{path}: the matrix is {rows} by {columns}; a square one is needed")
    if rows == 0:
        raise ValueError(f"{path}: the matrix is empty")
    for name, sums in (("row", abs(matrix).sum(axis=1)), ("column", abs(matrix).sum(axis=0))):
        empty = np.flatnonzero(np.asarray(sums).ravel() == 0)
        if empty.size:
            raise ValueError(
                f"{path}: {name} {empty[0] + 1} is all zeros ({empty.size} such), so the matrix is singular; "
                f"remove the unknown or give the {name} an entry"
            )
    rhs = np.ones(rows) if rhs_path is None else read_vectors(rhs_path, rows)
    rhs = rhs.astype(np.result_type(rhs, matrix.dtype))
    matrix = matrix.astype(rhs.dtype)
    symmetric = abs(matrix - matrix.conj().T).max() == 0
    kind = "Hermitian" if np.iscomplexobj(matrix.data) else "symmetric"
    kind = kind if symmetric else "unsymmetric"
    say("matrix", f"{path}: {rows} x {rows}, {matrix.nnz} entries, {matrix.dtype}, {kind}")
    several = f", {rhs.size // rows} columns" if rhs.size > rows else ""
    say("rhs", f"{rhs_path or 'all ones (name your own with --rhs FILE)'}{several}")
    name = "stdin" if path == "-" else Path(path).name
    tags = frozenset({"symmetric"} if symmetric else ())
    return System(name, rows, matrix, np.ones(rows, rhs.dtype), tags), rhs


def _default_out(path: str) -> str:
    if path == "-" or not Path(path).is_file() or path.startswith("/dev/"):
        return "solution.npy"
    return Path(path).name.removesuffix(".gz").removesuffix(".mtx") + ".solution.npy"


def _picture(path: Path) -> Path:
    """Where a chart goes, refused before any work."""
    if path.suffix not in PICTURES:
        raise ValueError(f"--history {path}: the suffix says the format; use .png, .svg or .html")
    if not path.parent.is_dir() or path.is_dir():
        raise ValueError(f"--history {path}: cannot be written; name a file in a folder that is there")
    return path


def _write_picture(spec: dict[str, Any], path: Path) -> None:
    import vl_convert

    text = json.dumps(spec)
    if path.suffix == ".png":
        content = vl_convert.vegalite_to_png(text, scale=2)
    elif path.suffix == ".svg":
        content = vl_convert.vegalite_to_svg(text).encode()
    else:
        content = vl_convert.vegalite_to_html(text, bundle=True).encode()
    write_whole(path, content)


def _summary(answers: Sequence[Answer]) -> str:
    """The exit reasons and the counts; of several columns their sum."""
    reasons = dict.fromkeys(answer.result for answer in answers)
    if len(answers) == 1:
        parts = [_words(answers[0].result)]
    else:
        parts = [f"{sum(a.result == r for a in answers)} of {len(answers)} {_words(r)}" for r in reasons]
    names = {
        "num_steps": "iterations",
        "num_matvecs": "products with A",
        "num_preconditioner_applications": "preconditioner applications",
    }
    for key, words in names.items():
        counts = [answer.counts[key] for answer in answers if answer.counts.get(key) is not None]
        parts += [f"{words} {sum(counts)}"] if counts else []
    return ", ".join(parts)


def _words(result: str) -> str:
    return result if " " in result else result.replace("_", " ")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:300]

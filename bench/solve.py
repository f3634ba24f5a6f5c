"""Solve a user's own system from files, and say what happened: `nsolve-bench solve`."""

import dataclasses
import functools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import lineax as lx
import numpy as np
import scipy.sparse as sp
from scipy.linalg import get_lapack_funcs

import nsolve as ns
from nsolve.direct.base import structural_deficiency
from nsolve.monitor import Both
from nsolve.preconditioners.sketched_qr import SketchedInverse

from .arrays import Target, heard_or_not
from .columns.nsolve import solvers
from .columns.nsolve.linear import NsolveRun
from .engine.environment import device
from .engine.measure import clock
from .engine.record import error as error_of
from .engine.spec import OWN, Part, Spec, parse
from .engine.work import SLACK, Answer, Cell, Missing, Run, Settings, Task
from .live import Live
from .picture import check_picture, draw
from .question import Question, Verdict, read_question
from .report.format import scientific, seconds
from .work.linear import WORK
from .work.systems import System, csr, random_rhs

DEFAULT_MAX_STEPS = 10_000
#: Of so many right-hand sides each has a line in the table and in the chart.
LISTED = 10
#: Rectangular systems of at most so many unknowns, or equations, are sketched; so many steps must do then.
SKETCHED, SKETCHED_STEPS = 2000, 200


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
    """Solve `A x = b` with `A` from a Matrix Market file, and print how it ended.  With more rows than
    columns that is the least-squares problem; of several solutions comes the one of smallest norm.

    * `path`, `rhs`: files, pipes, or `-` for standard input.  `rhs` is Matrix Market, `.npy`, `.npz`
      (`x.npz:name` of several arrays) or text; several columns are several right-hand sides, all solved.  All
      ones where there is none.
    * `solver`: a column such as `gmres[restart=50]+ilu`; `lsmr`, `lsqr` and `cgls` take a matrix of any shape
      and rank.  Without one the attempts of `ns.auto`, or for a rectangular matrix those of `lsmr`, are made
      one after the other until one succeeds.
    * `out`: the solution, with as many columns as `rhs`: `.npy`, `.mtx`, `.txt` or `.csv`; text into a pipe,
      or to standard output with `-`, and then messages go to stderr.  A file that is there and that this
      command did not write is not touched unless `force`.
    * `history`: a chart of the residuals, `.png`, `.svg` or `.html`.

    Returns 0 when every column meets `rtol` by the rule of `Question`, 1 when one does not, and 2, after one
    line on stderr, for a mistake in what was asked.
    """
    try:
        steps = DEFAULT_MAX_STEPS if max_steps is None else max_steps
        if not 0 < rtol < 1:
            raise ValueError(f"--rtol is {rtol}: give a number between 0 and 1, such as 1e-8")
        if steps < 1:
            raise ValueError(f"--max-steps is {max_steps}: give at least 1")
        spec = None if solver is None else _column(solver)
        picture = None if history is None else check_picture(Path(history))
        target = Target(_default_out(str(path)) if out is None else str(out), force)
        say = Voice(sys.stderr if target.is_stdout else sys.stdout)
        jax.config.update("jax_enable_x64", True)
        least_squares = spec is not None and _is_least_squares(spec)
        question = read_question(str(path), None if rhs is None else str(rhs), rtol, least_squares, say)
        rows, columns = question.system.matrix.shape
        live = Live(sys.stderr, question.system.matrix.nnz, stays=rows > columns)
        job = Job(question, Settings(max_steps=steps, history=picture is not None), say, live)
        job.work(_choices(question) if spec is None else _asked(question.system, spec))
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
    #: Ends it early, where another attempt follows.
    monitor: Any = None


class Job:
    """The right-hand sides of a question, with the best that was found for each."""

    def __init__(self, question: Question, settings: Settings, say: Voice, live: Live):
        self.question, self.settings, self.say, self.live = question, settings, say, live
        self.system, self.rtol, self.rhs = question.system, question.rtol, question.rhs
        count = self.rhs.shape[1]
        self.x = np.full((self.system.matrix.shape[1], count), np.nan, self.rhs.dtype)
        self.verdicts = [Verdict()] * count
        self.answers: list[tuple[str, Answer]] = [("", Answer("not run"))] * count
        self.records: list[dict[str, Any]] = []

    @property
    def unsolved(self) -> np.ndarray:
        """The columns that do not meet the tolerance."""
        return np.flatnonzero([not verdict.excess <= 1 + SLACK for verdict in self.verdicts])

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
            finite = [verdict for verdict in reached if np.isfinite(verdict.excess)]
            if finite:
                self.say("", self.question.missed(max(finite, key=lambda verdict: verdict.excess)))

    def _answers(self, attempt: Attempt, columns: np.ndarray) -> tuple[list[Answer], float, float]:
        """The answer for each column; the seconds of what is done once, and of the solves."""
        run: Run | None = None
        answers, once, each, program = [], 0.0, 0.0, None
        for place, j in enumerate(columns):
            try:
                with self.live.solving(self._line(attempt.spec, j)):
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
        self._say_condition(attempt.spec, program, answers)
        return answers, once, each

    def _say_condition(self, spec: Spec, program: Any, answers: Sequence[Answer]) -> None:
        """That of the matrix, where least squares tell."""
        found = [answer.metrics["condition"] for answer in answers if "condition" in answer.metrics]
        if found and spec.preconditioner is None:
            number, how = max(found), "as far as the solve saw of it"
        elif found and isinstance(program[1], SketchedInverse):
            factor = np.asarray(program[1].factor)
            (reciprocal,) = get_lapack_funcs(("trcon",), (factor,))
            number, how = 1 / max(reciprocal(factor)[0], np.finfo(float).tiny), "of the triangle"
        else:
            return
        doubt = "; to rounding the rank is not full" if number * np.finfo(float).eps > 1e-2 else ""
        self.say("condition", f"about {scientific(number)}, {how}{doubt}")

    def _prepared(self, attempt: Attempt, rhs: np.ndarray) -> tuple[Run, Any, float]:
        most = self.settings.max_steps
        steps = most if attempt.max_steps is None else min(attempt.max_steps, most)
        settings = dataclasses.replace(self.settings, max_steps=steps)
        run = _prepare(dataclasses.replace(attempt.system, rhs=rhs), attempt.spec, self.rtol, settings)
        if isinstance(run, NsolveRun):
            watched = [monitor for monitor in (self.live.monitor, attempt.monitor) if monitor is not None]
            run.monitor = functools.reduce(Both, watched) if watched else None
        program, spent = clock(lambda: run.compile(run.setup()))
        return run, program, spent

    def _keep(self, attempt: Attempt, j: int, answer: Answer) -> Verdict:
        """Keep an answer that is the best of its column; the verdict on it."""
        verdict = self.question.judge(answer.value, j)
        if verdict.excess < self.verdicts[j].excess:
            self.verdicts[j], self.x[:, j] = verdict, answer.value
        if verdict.excess <= self.verdicts[j].excess:
            self.answers[j] = str(attempt.spec), answer
        self.records.append({
            "work": WORK.name, "problem": "matrix_market", "size": len(self.x), "seed": 0,
            "solver": str(attempt.spec), "rtol": self.rtol, "dtype": str(self.x.dtype), "device": device(),
            "result": answer.result, "true_residual": verdict.residual,
            "residual_norms": answer.residual_norms, "line": self._line(attempt.spec, j), "number": int(j),
        })  # fmt: skip
        return verdict

    def _line(self, spec: Spec, j: int) -> str:
        return str(spec) if len(self.verdicts) == 1 else f"{spec}, column {j + 1}"

    def end(self, target: Target, picture: Path | None) -> int:
        """Say what was reached, save it, and give the exit code."""
        count, unsolved = len(self.verdicts), self.unsolved
        if 1 < count <= LISTED:
            self._table()
        finite = [verdict for verdict in self.verdicts if np.isfinite(verdict.excess)]
        if finite:
            self._say_reached(finite)
            target.write(self.x.reshape(self.question.shape))
            note = "" if not len(unsolved) else " (the best found; it does NOT meet rtol)"
            self.say("solution", f"{'standard output' if target.is_stdout else target.name}{note}")
        if picture is not None:
            self._draw(picture)
        if len(unsolved):
            self._say_why(unsolved)
        return 1 if len(unsolved) else 0

    def _say_reached(self, finite: Sequence[Verdict]) -> None:
        count, question = len(self.verdicts), self.question
        left_out = count - len(finite)
        where = "" if count == 1 else f" in {count} columns"
        where += f" ({left_out} without an answer hold NaN)" if left_out else ""

        def most(numbers: Iterable[float]) -> str:
            return f"{'=' if count == 1 else 'at most'} {scientific(max(numbers))}{where}"

        reached = f"|b - A x| / |b| {most(v.residual for v in finite)}"
        asked = f"asked for {scientific(self.rtol)}"
        others = [v.normal for v in finite if not v.residual <= self.rtol * (1 + SLACK)]
        if not others or not question.least_squares:
            self.say("residual", f"{reached}, {asked}")
            return
        self.say("residual", reached)
        self.say("", f"|A^H r| / (|A| |r|) {most(others)}, where r = b - A x")
        self.say("", f"{asked} in the first, or {scientific(question.level)} in the second (least squares)")

    def _say_why(self, unsolved: np.ndarray) -> None:
        """Why some have failed, and what to do."""
        count, (rows, columns) = len(self.verdicts), self.system.matrix.shape
        if rows == columns:
            operator = ns.SparseLinearOperator.from_scipy(self.system.matrix)
            for k, line in enumerate(ns.diagnose(operator).advice):
                self.say("" if k else "diagnosis", line)
        elif any(self.answers[j][1].result == "successful" for j in unsolved):
            self.say("", "the solver allows for rounding, which is the limit here: ask for a larger --rtol")
        what = "no answer meets" if count == 1 else f"{len(unsolved)} of {count} columns do not meet"
        other = "" if self.question.least_squares else " (lsmr: least squares)"
        self.say("FAILED:", f"{what} rtol={self.rtol:g}; try a larger --max-steps, another --solver{other}")

    def _table(self) -> None:
        normal = self.question.least_squares
        rows = [["column", "solver", "result", "iterations", "residual", *["|A^H r|"][:normal]]]
        for j, (name, answer) in enumerate(self.answers):
            steps, verdict = answer.counts.get("num_steps"), self.verdicts[j]
            words = [_words(answer.result), "–" if steps is None else str(steps)]
            words += map(scientific, [verdict.residual, verdict.normal][: 1 + normal])
            rows.append([str(j + 1), name, *words])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            self.say("", "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)))

    def _draw(self, path: Path) -> None:
        rows = [record for record in self.records if record["number"] < LISTED]
        if draw(rows, self.system.name, path):
            left_out = "" if len(self.verdicts) <= LISTED else f" (of the first {LISTED} columns)"
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


def _is_least_squares(spec: Spec) -> bool:
    return spec.peer == OWN and spec.solver.name in solvers.LEAST_SQUARES


def _choices(question: Question) -> Iterator[Attempt]:
    """What is tried in turn: for a square matrix the attempts of `ns.auto`."""
    system = question.system
    if question.least_squares:
        if min(system.matrix.shape) <= SKETCHED:
            why = "few unknowns, or equations: factorised, or a sketch of them"
            yield Attempt(parse("lsmr+sketched_qr"), why, system, max_steps=SKETCHED_STEPS)
        yield Attempt(parse("lsmr"), "any shape and rank; of several solutions that of smallest norm", system)
        return
    hermitian = ns.hermitian_tag if np.iscomplexobj(system.matrix.data) else lx.symmetric_tag
    tags = frozenset([hermitian] if "symmetric" in system.tags else [])
    operator = ns.SparseLinearOperator.from_scipy(system.matrix, tags)
    if lacking := structural_deficiency(operator.pattern):
        raise ValueError(
            "the matrix is singular whatever its entries are; --solver lsmr gives a least-squares solution. "
            f"Counted from 0, {lacking}"
        )
    for attempt in ns.auto(operator, rtol=question.rtol).attempts:
        definite = frozenset({"spd"} if attempt.supposed else ())
        steps = getattr(attempt.solver, "max_steps", None)
        supposing = dataclasses.replace(system, tags=system.tags | definite)
        monitor, column = getattr(attempt.solver, "monitor", None), solvers.spec_of(attempt.solver)
        yield Attempt(column, attempt.why, supposing, max_steps=steps, monitor=monitor)


def _asked(system: System, spec: Spec) -> Iterator[Attempt]:
    """The column that was named: its user's word is taken for what it needs, unless the matrix says no."""
    rows, columns = system.matrix.shape
    if rows != columns and not _is_least_squares(spec):
        raise ValueError(
            f"--solver {spec}: the matrix is {rows} by {columns}; lsmr, lsqr and cgls alone take such a one"
        )
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


def _default_out(path: str) -> str:
    if path == "-" or not Path(path).is_file() or path.startswith("/dev/"):
        return "solution.npy"
    return Path(path).name.removesuffix(".gz").removesuffix(".mtx") + ".solution.npy"


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

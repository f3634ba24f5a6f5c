"""Sequences whose solver has its relaxation parameter tuned as they go.

A column says after `@` who chooses `omega`: a tuner, e.g. `sor@tsallis_inf` or `cg+ssor@cheb_cb,warm`; or
`best_fixed`, the value of the grid that costs least on systems sampled from the sequence beforehand.  Without
any of them `omega` stays as it is.  `warm` starts from the solution before, `extrapolated` from
the line through the last two.

What the learners must show and where the two sequences come from: Khodak, Chow, Balcan & Talwalkar (2024),
arXiv:2310.02246.
"""

import functools
import inspect
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Array

from nsolve._results import RESULTS
from nsolve.gallery.tuned import HeatTrajectory, ShiftedLaplacian

from ..engine.work import SLACK, Answer, Cell, Task, Work
from ..report.charts import Axis, Chart, Panel
from ..report.format import number, percent, scientific, seconds, times
from ..report.tables import Table, Value, has


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
#: Systems kept for the search of the best fixed value, and where solutions are not all kept, for SciPy.
MOST_SAMPLES = {ShiftedLaplacian: 500, HeatTrajectory: 100}
LAST = 1000
#: Modes that say where a system starts; what else stands after `@` chooses `omega`.
STARTS = ("warm", "extrapolated")
BEST_FIXED = "best_fixed"


@dataclass(frozen=True)
class Like:
    """A kind of sequence: what programs are compiled for.  Both laws of the shifts go through one."""

    text: str
    size: int
    count: int
    problem: Problem = field(compare=False)

    @property
    def every(self) -> int:
        """Each so many-th system is kept."""
        return stride(self.count, MOST_SAMPLES[type(self.problem)])


@dataclass(frozen=True)
class TunedSequence:
    """A kind of sequence, and what its systems are made of: nothing for one in which nothing is random."""

    like: Like
    given: Any

    @property
    def facts(self) -> dict[str, int]:
        matrix = self.like.problem.laplacian
        return {"unknowns": matrix.shape[0], "nnz": int(matrix.nnz), "count": self.like.count}


@dataclass(frozen=True)
class Tuned:
    """What a column did: a trace of all systems, some of them whole, and each one's `omega`, if it has
    one."""

    trace: Trace
    samples: Samples
    omegas: np.ndarray | None


def _signature(kind: type) -> inspect.Signature:
    parameters = list(inspect.signature(kind).parameters.values())
    return inspect.Signature([parameters[0].replace(name="size"), *parameters[1:]])


def _maker(kind: type) -> Any:
    def make(size: int, **options: Any) -> Problem:
        return kind(size, **options)

    make.__signature__ = _signature(kind)  # pyright: ignore
    make.__doc__ = kind.__doc__
    return make


PROBLEMS = {"shifted_laplacian": _maker(ShiftedLaplacian), "heat_trajectory": _maker(HeatTrajectory)}


@functools.lru_cache(maxsize=4)
def _drawn(work: Work, text: str, size: int, count: int, seed: int) -> TunedSequence:
    """The same for every column."""
    problem = work.call(text, size=size)
    given = problem.draw(seed, count) if isinstance(problem, ShiftedLaplacian) else ()
    same = "shifted_laplacian" if isinstance(problem, ShiftedLaplacian) else text
    return TunedSequence(Like(same, size, count, problem), given)


def _build(work: Work, cell: Cell) -> TunedSequence:
    assert cell.size is not None and cell.count is not None
    return _drawn(work, cell.problem, cell.size, cell.count, cell.seed)


def stride(count: int, most: int) -> int:
    """The shortest stride that divides the sequence into at most so many parts."""
    return next(k for k in range(1, count + 1) if count % k == 0 and count // k <= most)


def judge(sequence: TunedSequence, answer: Answer, task: Task) -> dict[str, Any]:
    """`successful` only where all systems are; a system called solved that is not makes a false success.

    `true_residual` is the largest of `judged` systems spread evenly, in SciPy; `largest_residual` that of
    all, as the solver computed it.  Numbers of steps and the like are totals over the systems;
    `window_steps`, `window_omega` and `window_context` are means over `window` systems in a row, `last_steps`
    is the mean over the `last` ones."""
    tuned: Tuned = answer.value
    trace, problem = tuned.trace, sequence.like.problem
    judged = residuals(problem, tuned.samples)
    failures = trace.code[trace.code != 0]
    claimed, limit = trace.code == 0, task.rtol * (1 + SLACK)
    every = len(trace.code) // len(judged)
    lies = claimed[every - 1 :: every] & ~(judged <= limit)
    return {
        "result": RESULTS[int(failures[0])] if len(failures) else RESULTS[0],
        "false_success": bool(lies.any() or (claimed & ~(trace.residual <= limit)).any()),
        "solved": int(claimed.sum()),
        "judged": len(judged),
        "true_residual": float(np.max(judged)),
        "largest_residual": float(np.max(trace.residual)),
        "num_steps": int(trace.num_steps.sum()),
        "num_matvecs": int(trace.num_matvecs.sum()),
        "num_preconditioner_applications": int(trace.num_preconditioner_applications.sum()),
        **_windows(problem, tuned),
    }


def residuals(problem: Problem, samples: Samples) -> np.ndarray:
    """Relative residuals, in SciPy."""
    context, b, _, x = map(np.asarray, samples)
    alpha, beta = problem.weights(context[:, None])
    difference = b - alpha * (problem.laplacian @ x.T).T - beta * x
    return np.linalg.norm(difference, axis=1) / np.linalg.norm(b, axis=1)


def _windows(problem: Problem, tuned: Tuned) -> dict[str, Any]:
    trace, count = tuned.trace, len(tuned.trace.num_steps)
    window, last = stride(count, NUM_WINDOWS[type(problem)]), min(LAST, count)

    def means(values: np.ndarray, digits: int) -> list[float]:
        return [round(float(mean), digits) for mean in values.reshape(-1, window).mean(axis=1)]

    row = {
        "window": window,
        "window_steps": means(trace.num_steps, 3),
        "window_context": means(trace.context, 5),
        "last": last,
        "last_steps": float(trace.num_steps[-last:].mean()),
    }
    return row if tuned.omegas is None else row | {"window_omega": means(tuned.omegas, 4)}


_KIND = ("problem", "size", "device", "rtol", "length")
_PLAIN = "cg+ssor[omega=1.0]@warm"


def _beside_best(rows: pl.DataFrame) -> pl.DataFrame:
    """What each column did beside the best fixed `omega` on the same systems: with the same seed, or where
    nothing but the learners is random, with any.

    `of_best`: ratio of the late steps; `beyond`: steps beyond its, summed up window by window; `faster`: than
    SSOR-CG with `omega = 1`; `share`: of the time that choosing and learning take, measured alone."""
    if not has(rows, "last_steps", "solve_s.median", "window_steps"):  # none got as far
        return rows
    records = rows.to_dicts()

    def same(one: dict, other: dict) -> bool:
        return other["ok"] and all(one[name] == other[name] for name in _KIND)

    def best(one: dict) -> dict | None:
        found = [r for r in records if BEST_FIXED in r["mode"].split(",") and same(one, r)]
        mine = [r for r in found if r["seed"] == one["seed"]]
        return next(iter(mine or (found if one["problem_name"] == "heat_trajectory" else [])), None)

    def seconds_of(one: dict, solver: str) -> float | None:
        found = [r["solve_s.median"] for r in records if r["solver"] == solver and same(one, r)]
        return mean(found) if found else None

    added: dict[str, list[Any]] = {name: [] for name in ("of_best", "beyond", "faster", "share")}
    for one in records:
        base, plain, clock = best(one), seconds_of(one, _PLAIN), one.get("solve_s.median")
        beyond = None
        if base is not None and base is not one and one["ok"]:
            apart = np.asarray(one["window_steps"]) - np.asarray(base["window_steps"])
            beyond = [0.0, *np.cumsum(one["window"] * apart)]
        added["of_best"].append(one["last_steps"] / base["last_steps"] if base and one["ok"] else None)
        added["beyond"].append(beyond)
        added["faster"].append(plain / clock if plain and clock and one["ok"] else None)
        added["share"].append(one["tuner_s"] / clock if one.get("tuner_s") and clock else None)
    kinds = {"beyond": pl.List(pl.Float64)}
    return rows.with_columns(
        *(pl.Series(name, values, dtype=kinds.get(name, pl.Float64)) for name, values in added.items())
    )


def _mean_and_spread(values: list[float]) -> str:
    values = [value for value in values if value is not None]
    if not values:
        return "–"
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 and max(values) > min(values) else ""
    return f"{mean(values):.3f}{spread}"


def _remark(rows: pl.DataFrame) -> str:
    """What the search of the best fixed value found, and which column took the least time."""
    text = []
    found = rows.clear()
    if has(rows, "search.systems"):
        found = rows.filter(pl.col("ok") & pl.col("search.best_fixed_last").is_not_null())
    if len(found):
        omegas = sorted({round(omega, 3) for omega in found["omega"]})
        least = (found["search.instance_optimal_last"] / found["search.best_fixed_last"]).mean()
        values = " to ".join(f"{omega:g}" for omega in dict.fromkeys((omegas[0], omegas[-1])))
        text.append(
            f"Best fixed omega, found on {found['search.systems'][0]} of the systems: {values}. With the "
            f"best omega of the grid for each system its late steps would be multiplied by {least:.3f}."
        )
    timed = rows.filter("ok").group_by("solver", maintain_order=True).agg(pl.col("solve_s.median").mean())
    timed = timed.sort("solve_s.median", maintain_order=True)
    if len(timed):
        text.append(f"Least seconds: {timed['solver'][0]}, {seconds(timed['solve_s.median'][0])}.")
    return " ".join(text)


_OK = pl.col("ok")


def _mean(name: str) -> pl.Expr:
    return pl.col(name).filter(_OK).mean()


EVERY_COLUMN = Table(
    title="{system}, {unknowns:,} unknowns, {length} systems in a row, rtol {rtol:g}",
    group=_KIND,
    derive=_beside_best,
    values=(
        Value("seeds", str, pl.len()),
        Value("steps", number, _mean("steps")),
        Value("late steps", number, _mean("last_steps")),
        Value("of best fixed", _mean_and_spread, pl.col("of_best").filter(_OK).implode()),
        Value("total", seconds, _mean("solve_s.median")),
        Value(
            "faster",
            times,
            _mean("solve_s.median").pow(-1) * (pl.col("faster") * pl.col("solve_s.median")).mean(),
        ),
        Value("a step", seconds, _mean("seconds_per_step"), wide=100),
        Value("tuner", percent, _mean("share")),
        Value("residual", scientific, pl.col("true_residual").filter(_OK).max()),
    ),
    note=_remark,
)


def _over_seeds(rows: pl.DataFrame) -> pl.DataFrame:
    """The mean over the seeds, entry by entry."""
    rows = _beside_best(rows).filter(pl.col("beyond").is_not_null())
    rows = rows.with_columns(pl.int_ranges(pl.col("beyond").list.len()).alias("entry"))
    long = rows.select(
        "solver", "index", "window", "entry", "beyond", *_KIND, "ok", "reason", "system", "seed"
    )
    long = long.explode("entry", "beyond").with_columns((pl.col("entry") * pl.col("window")).alias("at"))
    whole = [name for name in long.columns if name not in ("beyond", "index", "seed")]
    return long.group_by(whole, maintain_order=True).agg(pl.col("beyond").mean(), pl.col("index").first())


def _first_seed(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(_OK).filter(pl.col("seed") == pl.col("seed").min())


def _middle(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns((pl.col("window") * (pl.col("place") + 0.5)).alias("at"))


def _learners(rows: pl.DataFrame) -> tuple[float, float] | None:
    """The frame is the learners'; columns that keep their `omega` may leave it."""
    learned = rows.filter(
        pl.col("solver").str.contains("@") & ~pl.col("solver").str.contains(r"@(warm|extrapolated)$")
    )
    if learned.is_empty():
        return None
    low, high = min(0.0, learned["beyond"].min()), max(0.0, learned["beyond"].max())  # pyright: ignore
    return low - 0.08 * (high - low), high + 0.15 * (high - low)


_AT = Axis("at", "system")
REGRET = Chart(
    "regret",
    "{system}: steps beyond the best fixed omega's, means over the seeds",
    needs="tuned sequences, and among the columns best_fixed",
    group=_KIND,
    derive=_over_seeds,
    panels=(
        Panel(
            "line",
            _AT,
            Axis("beyond", "steps, summed up"),
            width=560,
            level=0.0,
            domain=_learners,
        ),
    ),
)


def _windowed(name: str, title: str, log: bool = False, height: int | None = None) -> Panel:
    return Panel(
        "line", _AT, Axis(name, title, log), explode=(name,), after=_middle, width=560, height=height
    )


TUNING = Chart(
    "tuning",
    "{system}: steps of each system (rtol {rtol:g}, means of {window} in a row)",
    needs="tuned sequences",
    group=_KIND,
    derive=_first_seed,
    stack=True,
    panels=(
        _windowed("window_steps", "iterations", log=True),
        _windowed("window_omega", "omega", height=150),
        _windowed("window_context", "context", height=100),
    ),
)
WORK = Work(
    "tuned",
    PROBLEMS,
    judge,
    columns=("nsolve",),
    settings=("max_steps",),
    counted=True,
    least_size=2,
    build=_build,
    error="relative residual",
    tables=(EVERY_COLUMN,),
    charts=(REGRET, TUNING),
)

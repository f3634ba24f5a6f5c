"""One cell measured: set-up, compilation and solution timed apart, the answer judged.  It always ends in a
record.

Rules: every call waits for its result; the solve is repeated until it is known well enough or has
cost enough; for libraries that compile, the set-up runs twice so that compiling its pieces is
counted as compilation and not as set-up.
"""

import datetime
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from . import record
from .environment import device, environment
from .work import Answer, Cell, Missing, Run, Settings, Task, Timings, Work

BUDGET_S = 1.0
LONG_S = 5.0
LEAST = 3
MOST = 30


def blank(cell: Cell, settings: Settings, work: str, suite: str) -> record.Record:
    """The record of a cell before anything of it is known."""
    return {
        "schema": record.SCHEMA,
        "key": record.key(cell, device()),
        "suite": suite,
        "work": work,
        "settings": record.changed(settings),
        "problem": cell.problem,
        "size": cell.size,
        "solver": cell.solver,
        "params": cell.spec.params,
        "rtol": cell.rtol,
        "dtype": cell.dtype,
        "device": device(),
        "seed": cell.seed,
        **({} if cell.count is None else {"length": cell.count}),
        "num_steps": None,
        "num_matvecs": None,
        "num_preconditioner_applications": None,
        "result": "error: not run",
        "true_residual": None,
        "setup_s": None,
        "compile_s": None,
        "solve_s": None,
    }


def measure(cell: Cell, settings: Settings, work: Work, suite: str) -> record.Record:
    """The record of a cell.  Whatever goes wrong inside becomes its `result`; Ctrl-C passes through."""
    row = blank(cell, settings, work.name, suite)
    where = ""
    try:
        library = work.library(cell.spec.peer)
        row["version"] = library.version()
        library.require()
        problem = work.make(cell)
        task = Task(problem, cell, settings)
        row |= getattr(problem, "facts", {})
        run = work.offer(cell.spec).prepare(task)
        timings, raw = timed(run, settings.repeats)
        answer = run.answer(raw)
        row |= _claimed(answer) | timings
        where = "judge: "
        row |= work.judge(problem, answer, task)
    except Missing as missing:
        row |= {"result": "missing", "message": str(missing)}
    except Exception as error:  # a failure is a row: the run goes on
        row["result"] = record.error(error, where)
    return stamped(row)


def stamped(row: record.Record) -> record.Record:
    """The record with where and when it was made; numbers that are none are named, as files have no word for
    them."""
    row = record.plain(row)
    nonfinite = [k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)]
    return row | ({"nonfinite": nonfinite} if nonfinite else {}) | {
        "env": environment(),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def _claimed(answer: Answer) -> dict[str, Any]:
    row = {"result": answer.result, **answer.counts, **answer.metrics}
    return row if answer.residual_norms is None else row | {"residual_norms": list(answer.residual_norms)}


def timed(run: Run, repeats: int | None = None) -> tuple[dict[str, Any], Any]:
    """The fields of a record that say how long a run took, and its last solve's raw result.

    `repeats` fixes the number of timed solves. Otherwise: one when it takes over 5 s, else at least
    three and as many as fit into 1 s, at most 30."""
    if not run.timed:
        return {}, run.solve(run.compile(run.setup()))
    timings, raw = _clocked(run, repeats)
    return {
        "setup_s": timings.setup_s,
        "compile_s": timings.compile_s,
        "solve_s": spread(timings.solve_s),
    }, raw


def _clocked(run: Run, repeats: int | None) -> tuple[Timings, Any]:
    state, setup = clock(run.setup)
    compile_s, warms_up = 0.0, run.compiles and not run.ahead
    if warms_up:
        del state  # two copies of a large hierarchy would be a memory peak of our own making
        state, again = clock(run.setup)
        compile_s, setup = max(0.0, setup - again), min(setup, again)
    program, compiling = clock(lambda: run.compile(state))
    raw, first = clock(lambda: run.solve(program))
    own = run.timings(raw)
    if own is not None:
        return own, raw
    # The first call warms caches and compiles callbacks: it counts only where it stands alone.
    alone = not warms_up and (repeats == 1 or (repeats is None and first > LONG_S))
    times = [first] if alone else []
    while not alone and wants_more(times, repeats):
        raw, seconds = clock(lambda: run.solve(program))
        times.append(seconds)
    if run.compiles:
        compile_s += compiling
    if warms_up:
        compile_s += max(0.0, first - float(np.median(times)))
    return Timings(run.seconds.get("setup_s", setup), run.seconds.get("compile_s", compile_s), times), raw


def spread(times: list[float]) -> dict[str, float | int]:
    """Minimum, median, interquartile range and number of some times."""
    low, median, high = np.percentile(times, [25, 50, 75])
    return {
        "min": float(min(times)),
        "median": float(median),
        "iqr": float(high - low),
        "n": len(times),
    }


def clock(function: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call and the seconds it took."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def wants_more(times: list[float], repeats: int | None) -> bool:
    if repeats is not None:
        return len(times) < repeats
    if any(seconds > LONG_S for seconds in times):
        return False
    return len(times) < LEAST or (sum(times) < BUDGET_S and len(times) < MOST)

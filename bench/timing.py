"""Set-up, compilation and solution, timed apart.

Rules: every call waits for its result; the solve is repeated until it is known well enough or has
cost enough; for libraries that compile, the set-up runs twice so that compiling its pieces is
counted as compilation and not as set-up.
"""

import time
from typing import Any

import numpy as np

from .peers.base import Run, Timings

BUDGET_S = 2.0
LONG_S = 5.0
LEAST = 3
MOST = 50


def measure(run: Run, repeats: int | None = None) -> tuple[Timings, Any]:
    """Time a run; returns the timings and the last solve's raw result.

    `repeats` fixes the number of timed solves. Otherwise: one when it takes over 5 s, else at least
    three and as many as fit into 2 s, at most 50."""
    if run.own_clock:
        raw = run.solve(run.setup())
        return run.timings(raw), raw
    state, setup = clock(run.setup)
    compile_s = 0.0
    if run.compiles:
        del state  # two copies of a large hierarchy would be a memory peak of our own making
        state, again = clock(run.setup)
        compile_s, setup = max(0.0, setup - again), min(setup, again)
    program, compiling = clock(lambda: run.compile(state))
    raw, first = clock(lambda: run.solve(program))
    # The first call warms caches and compiles callbacks: it counts only where it stands alone.
    alone = not run.compiles and (repeats == 1 or (repeats is None and first > LONG_S))
    times = [first] if alone else []
    while not alone and wants_more(times, repeats):
        raw, seconds = clock(lambda: run.solve(program))
        times.append(seconds)
    if run.compiles:
        compile_s += compiling + max(0.0, first - float(np.median(times)))
    return Timings(setup, compile_s, spread(times)), raw


def spread(times: list[float]) -> dict[str, float | int]:
    """Minimum, median, interquartile range and number of some times."""
    low, median, high = np.percentile(times, [25, 50, 75])
    return {
        "min": float(min(times)),
        "median": float(median),
        "iqr": float(high - low),
        "n": len(times),
    }


def clock(function) -> tuple[Any, float]:
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

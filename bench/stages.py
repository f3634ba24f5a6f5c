"""How long JAX takes to trace, lower and compile a solve, and the solve with its gradient.

The program is that of a user who differentiates through a solve: from the operator's entries, all
of them traced, to the energy `b . A^-1 b`, the preconditioner's set-up included, and raises where
the solve fails, as `lx.linear_solve` does unless told otherwise.  It is compiled
several times in a fresh process, without JAX's cache on disk and after `jax.clear_caches()`; the
medians are kept.  What compiles once per process outside of JAX (numba's kernels) is no part of
them: `first_call_s` (see `bench.fresh`) has it.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any

from . import specs, table
from .record import Record

STAGES = ("trace_s", "lower_s", "compile_s")


def measure_stages(request: str) -> dict[str, Any]:
    """`stages`: of `value` and `gradient`, the seconds of each stage; None when the process fails.

    `request`: the cell and its settings, as `bench.fresh` writes them."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "bench.stages", request],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
    )
    found = done.stdout.strip().splitlines()
    return {"stages": json.loads(found[-1]) if done.returncode == 0 and found else None}


def total(row: Record, kind: str) -> float | None:
    """All stages of `value` or `gradient`, seconds; None where the process failed."""
    return row["stages"] and sum(row["stages"][kind][stage] for stage in STAGES)


def markdown(rows: Iterable[Record]) -> str:
    """A row for each column; ratios to lineax's solver of the same name, of its CG where it has none.

    Figures of a process that failed are dashes."""
    rows = [row for row in rows if "stages" in row]
    theirs = {
        (row["problem"], row["size"], row["solver"]): row
        for row in rows
        if row["solver"].startswith("lineax:")
    }
    lines = [
        "| system | solver | value | × lineax | with gradient | × lineax | of it traced | first call |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        spec = specs.parse(row["solver"])
        system = row["problem"], row["size"]
        names = (f"lineax:{spec.solver.name}[form=stencil]", "lineax:cg[form=stencil]")
        beside = next((theirs[(*system, name)] for name in names if (*system, name) in theirs), None)
        cells = [f"{row['problem']} {row['size']}", f"`{row['solver']}`"]
        for kind in ("value", "gradient"):
            ours, theirs_s = total(row, kind), None if beside is None else total(beside, kind)
            cells += [table.seconds(ours), f"{ours / theirs_s:.1f}" if ours and theirs_s else "–"]
        traced = row["stages"] and row["stages"]["gradient"]["trace_s"]
        cells += [table.seconds(traced), table.seconds(row.get("first_call_s"))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _main(request: str) -> None:
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    from .cells import Cell, Settings, prepare

    cell, settings = json.loads(request)
    cell["spec"] = specs.parse(cell["spec"])
    settings = Settings(**settings)
    _, run = prepare(Cell(**cell), settings)
    entries, rest = eqx.partition(run.matrix, eqx.is_inexact_array)  # pyright: ignore
    solve = run.function(throw=True)  # pyright: ignore[reportAttributeAccessIssue]

    def energy(entries, rhs):
        matrix = eqx.combine(entries, rest)
        return jnp.vdot(rhs, solve(matrix, rhs, run.build(matrix)).value)  # pyright: ignore

    stages: dict[str, Any] = {}
    for kind, function in (("value", energy), ("gradient", jax.value_and_grad(energy))):
        times = []
        for _ in range(settings.stages):
            jax.clear_caches()
            clock = [time.perf_counter()]
            traced = jax.jit(function).trace(entries, run.rhs)  # pyright: ignore
            clock.append(time.perf_counter())
            lowered = traced.lower()
            clock.append(time.perf_counter())
            lowered.compile()
            clock.append(time.perf_counter())
            times.append([after - before for before, after in zip(clock[:-1], clock[1:], strict=True)])
        medians = map(statistics.median, zip(*times, strict=True))
        stages[kind] = dict(zip(STAGES, medians, strict=True))
    print(json.dumps(stages))


if __name__ == "__main__":
    _main(sys.argv[1])

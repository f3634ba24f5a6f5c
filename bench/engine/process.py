"""A cell in a process of its own: whole, or its first call, its memory, its stages of compilation.

* The whole cell (`isolate`): killed at its limit; a crash is a record.
* `first_call_s` runs from the problem in memory to the answer: set-up, tracing, compilation and solve, with
  JAX's and numba's caches on disk off; imports, starting the backend and making the problem come before.
* `peak_bytes` is the largest resident set of such a process, imports and the problem itself included (JAX's
  CPU backend keeps no memory statistics); `memory_bytes` what solving takes above what the process held
  before, `compile_memory_bytes` the same of set-up and compilation.
* `stages`: how long JAX takes to trace, lower and compile a solve, and the solve with its gradient, from the
  problem's numbers, all of them traced, to one number; after `jax.clear_caches()`, medians.  What compiles
  once per process outside of JAX (numba's kernels) is no part of them: `first_call_s` has it.

A figure is None where its process failed.
"""

import dataclasses
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import measure
from .record import Record, finite
from .work import Cell, Settings, Task, Work, known_works

STAGES = ("trace_s", "lower_s", "compile_s")


def measured(cell: Cell, settings: Settings, work: Work, suite: str, source: str | None) -> Record:
    """The record of a cell, in as many processes as its settings ask for.  `source`: the file of a suite that
    does not come with the benchmark."""
    if not needs_process(settings):
        return measure.measure(cell, settings, work, suite)
    row = _whole(cell, settings, work, suite, source)
    if row["result"] == "missing" or row["result"].startswith("error"):
        return row

    def ask(what: str) -> Any:
        found, _ = _child(what, cell, settings, work, suite, source)
        return found

    if settings.first_call or settings.memory:
        rows = [found for _ in range(max(1, settings.first_call)) if (found := ask("first_call"))]
        if settings.first_call:
            row["first_call_s"] = statistics.median(r["seconds"] for r in rows) if rows else None
        for name in ("peak_bytes", "memory_bytes", "compile_memory_bytes") if settings.memory else ():
            found = [r[name] for r in rows if r[name] is not None]
            row[name] = max(found) if found else None
    if settings.stages:
        row["stages"] = ask("stages")
    return row


def needs_process(settings: Settings) -> bool:
    return bool(settings.isolate or settings.memory or settings.first_call or settings.stages)


def _whole(cell: Cell, settings: Settings, work: Work, suite: str, source: str | None) -> Record:
    found, why = _child("record", cell, settings, work, suite, source)
    if found is not None:
        return found
    row = measure.blank(cell, settings, work.name, suite)
    return measure.stamped(row | {"result": why, "message": why})


def _child(
    what: str, cell: Cell, settings: Settings, work: Work, suite: str, source: str | None
) -> tuple[Any, str]:
    """What the process answered, and where it did not, how it ended."""
    request = {
        "what": what,
        "cell": dataclasses.asdict(cell),
        "settings": dataclasses.asdict(settings),
        "work": work.name,
        "suite": suite,
        "source": source,
    }
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        caches = (
            {} if what == "record" else {"JAX_ENABLE_COMPILATION_CACHE": "false", "NUMBA_CACHE_DIR": folder}
        )
        # A user's modules, and suites beside the command's folder, are found as they are here.
        paths = os.pathsep.join(path for path in sys.path if path)
        with tempfile.TemporaryFile("w+") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "bench.engine.process", json.dumps(request), str(answer)],
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=os.environ | caches | {"PYTHONPATH": paths},
                start_new_session=True,
            )
            try:
                code = process.wait(settings.kill_s)
            except subprocess.TimeoutExpired:
                _kill(process)
                return None, "killed at its limit"
            except BaseException:  # Ctrl-C is ours alone, as the process has a session of its own
                _kill(process)
                raise
            stderr.seek(0)
            words = stderr.read().strip().splitlines() or [""]
        if code == 0:
            return json.loads(answer.read_text()), ""
    if code < 0:
        return None, f"error: the process was ended by {signal.Signals(-code).name}"
    return None, f"error: {words[-1]}"[:300]


def _kill(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _main(request: str, answer: str) -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    given = json.loads(request)
    cell, settings = Cell(**given["cell"]), Settings(**given["settings"])
    if given["source"] is None:
        work = known_works()[given["work"]]
    else:
        from .suite import load

        work = load(given["source"]).work
    if given["what"] == "record":
        found = measure.measure(cell, settings, work, given["suite"])
    else:
        jax.block_until_ready(jax.numpy.zeros(1))
        task = Task(work.make(cell), cell, settings)
        run = work.offer(cell.spec).prepare(task)
        found = {"first_call": first_call, "stages": stages}[given["what"]](run)
    Path(answer).write_text(json.dumps(finite(found)))


def first_call(run: Any) -> dict[str, Any]:
    """Seconds and memory of everything that a first call does."""
    with Peak() as compiling:
        program, setting_up = measure.clock(lambda: run.compile(run.setup()))
    with Peak() as solving:
        _, seconds = measure.clock(lambda: run.solve(program))
    return {
        "seconds": setting_up + seconds,
        "peak_bytes": max(compiling.highest or 0, solving.highest or 0) or _peak_of_process(),
        "memory_bytes": solving.grown,
        "compile_memory_bytes": compiling.grown,
    }


class Peak:
    """`highest` resident set of this process inside the block, and by how much it `grew`; None where the
    system does not say."""

    highest: int | None = None
    grown: int | None = None

    def __enter__(self) -> "Peak":
        try:  # Makes Linux forget the largest resident set so far, which might hide this one.
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self.before = None
        else:
            self.before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self.before is not None and (highest := _status("VmHWM")) is not None:
            self.highest, self.grown = highest, highest - self.before


def _status(name: str) -> int | None:
    # Not ru_maxrss: on Linux a new program inherits that from the process that started it.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _peak_of_process() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def stages(run: Any) -> dict[str, Any]:
    """Of `value` and `gradient`, the seconds of each stage; `run.energy()` gives the function and its traced
    arguments."""
    import jax

    energy, arguments = run.energy()
    found: dict[str, Any] = {}
    kinds: dict[str, Callable[..., Any]] = {"value": energy, "gradient": jax.value_and_grad(energy)}
    for kind, function in kinds.items():
        times = []
        for _ in range(run.task.settings.stages):
            jax.clear_caches()
            clock = [time.perf_counter()]
            traced = jax.jit(function).trace(*arguments)
            clock.append(time.perf_counter())
            lowered = traced.lower()
            clock.append(time.perf_counter())
            lowered.compile()
            clock.append(time.perf_counter())
            times.append([after - before for before, after in zip(clock[:-1], clock[1:], strict=True)])
        medians = map(statistics.median, zip(*times, strict=True))
        found[kind] = dict(zip(STAGES, medians, strict=True))
    return found


if __name__ == "__main__":
    _main(*sys.argv[1:])

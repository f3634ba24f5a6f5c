"""A cell in fresh processes: the first call with all its compilation, and the memory it takes.

`first_call_s` runs from the library's operator in memory to the answer: set-up, tracing,
compilation and solve, with JAX's and numba's caches on disk off; imports, starting the backend and
making the problem come before. `peak_bytes` is the largest resident set of such a process, imports
and the problem itself included (JAX's CPU backend keeps no memory statistics). Both are None when
the process fails.
"""

import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import specs
from .timing import clock


def measure_fresh(cell: Any, settings: Any) -> dict[str, Any]:
    """`first_call_s` (median of `settings.first_call` processes) and `peak_bytes`, as asked for."""
    request = as_request(cell, settings)
    rows = []
    for _ in range(max(1, settings.first_call)):
        with tempfile.TemporaryDirectory() as empty:
            caches = {"JAX_ENABLE_COMPILATION_CACHE": "false", "NUMBA_CACHE_DIR": empty}
            done = subprocess.run(
                [sys.executable, "-P", "-m", "bench.fresh", request],
                capture_output=True,
                text=True,
                env=os.environ | caches,
            )
        if done.returncode == 0:
            rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
    row: dict[str, Any] = {}
    if settings.first_call:
        row["first_call_s"] = statistics.median(r["seconds"] for r in rows) if rows else None
    if settings.memory:
        row["peak_bytes"] = max(r["peak_bytes"] for r in rows) if rows else None
    return row


def as_request(cell: Any, settings: Any) -> str:
    """A cell and how to measure it, for another process."""
    return json.dumps(
        [
            {**dataclasses.asdict(cell), "spec": str(cell.spec)},
            {**dataclasses.asdict(settings), "memory": False, "first_call": 0},
        ]
    )


def _main(request: str) -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.block_until_ready(jax.numpy.zeros(1))
    from .cells import Cell, Settings, prepare

    cell, settings = json.loads(request)
    cell["spec"] = specs.parse(cell["spec"])
    _, run = prepare(Cell(**cell), Settings(**settings))

    def first_call():
        return run.solve(run.compile(run.setup()))

    _, seconds = clock(first_call)
    print(json.dumps({"seconds": seconds, "peak_bytes": _peak_bytes()}))


def _peak_bytes() -> int:
    """The largest resident set of this process."""
    try:
        # Not ru_maxrss: on Linux a new program inherits that from the process that started it.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


if __name__ == "__main__":
    _main(sys.argv[1])

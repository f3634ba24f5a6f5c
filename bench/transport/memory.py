"""Memory as a cell: what solving takes in a fresh process, above what the process held before.

`memory_bytes` is the largest resident set while a compiled program runs, less the resident set before it;
`compile_memory_bytes` the same for compiling.  The points are there before, and so are the libraries.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .. import specs
from ..record import finite
from ..timing import clock, spread


def measure(cell: Any, settings: Any) -> dict[str, Any]:
    """The fields of a record, from a process of its own; where that failed, its last words are the result."""
    request = json.dumps(
        [
            {**dataclasses.asdict(cell), "spec": str(cell.spec)},
            {**dataclasses.asdict(settings), "memory": False},
        ]
    )
    caches = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "row.json"
        done = subprocess.run(
            [sys.executable, "-P", "-m", "bench.transport.memory", request, str(answer)],
            capture_output=True, text=True, env=os.environ | caches,
        )  # fmt: skip
        if done.returncode != 0:
            errors = [
                line for line in done.stderr.splitlines() if re.match(r"[\w.]+(Error|Exception)\b", line)
            ]
            last = errors[-1] if errors else f"the process ended with {done.returncode}"
            return {"result": f"error: {last}"[:300], "memory_bytes": None, "compile_memory_bytes": None}
        return json.loads(answer.read_text())


def _main(request: str, answer: str) -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.block_until_ready(jax.numpy.zeros(1))
    from ..cells import Cell, Settings
    from . import columns, problems
    from .gradients import program
    from .judge import Claim, judge

    cell_fields, settings_fields = json.loads(request)
    cell_fields["spec"] = specs.parse(cell_fields["spec"])
    cell, settings = Cell(**cell_fields), Settings(**settings_fields)
    problem = problems.build(cell.problem, cell.size, cell.seed)
    column = columns.find(cell.spec.peer).make(cell.spec)
    gradient = "gradient" in cell.spec.mode
    with _Peak() as compiling:
        if gradient:
            solve, compile_s = program(column, problem, cell.rtol, settings.max_steps, "potential")
        else:
            solve, compile_s = column.program(problem, cell.rtol, settings.max_steps)
    with _Peak() as solving:
        raw, seconds = clock(solve)
    outcome = Claim("successful", *raw[0][1]) if gradient else column.read(raw, problem, cell.rtol)
    row = {
        "result": outcome.result,
        **(outcome.counts or {}),
        "setup_s": 0.0,
        "compile_s": compile_s,
        "solve_s": spread([seconds]),
        **judge(problem, outcome, cell.rtol),
        "memory_bytes": solving.bytes,
        "compile_memory_bytes": compiling.bytes,
    }
    if gradient and row.pop("false_success"):
        row["result"] = "max_steps_reached"
    Path(answer).write_text(json.dumps(finite(row)))


class _Peak:
    """`bytes` by which this process grew at most inside the block."""

    bytes = 0

    def __enter__(self) -> "_Peak":
        # Makes Linux forget the largest resident set so far, which might hide this one.
        Path("/proc/self/clear_refs").write_text("5")
        self.before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = _status("VmHWM") - self.before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}: memory is measured on Linux only")


if __name__ == "__main__":
    _main(*sys.argv[1:])

"""The benchmark: `nsolve-bench`.  What suites and columns from outside are made of is named here.

The kinds of problems that come with it are `bench.linear`, `kernel`, `sequence`, `tuned`, `transport`,
`diffusion` and `probes`, loaded when they are first asked for.
"""

from typing import Any

from .engine.options import Option
from .engine.suite import Group, Suite
from .engine.work import Answer, Cell, Library, Missing, Offer, Run, Settings, Task, Work, libraries_of
from .report.charts import Axis, Chart, Panel
from .report.tables import Promise, Promises, Table, Value

__all__ = [
    "Answer", "Axis", "Cell", "Chart", "Group", "Library", "Missing", "Offer", "Option", "Panel", "Promise",
    "Promises", "Run",
    "Settings", "Suite", "Table", "Task", "Value", "Work", "libraries_of",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    from .work import WORKS

    if name in WORKS:
        return WORKS[name]
    raise AttributeError(f"module 'bench' has no attribute {name!r}")

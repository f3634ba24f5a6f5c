"""The benchmark: `nsolve-bench`.  What suites and columns from outside are made of is named here."""

from .engine.suite import Group, Suite
from .engine.work import Answer, Cell, Library, Missing, Offer, Run, Settings, Task, Work, libraries_of
from .report.charts import Axis, Chart, Panel
from .report.tables import Promise, Promises, Table, Value

__all__ = [
    "Answer", "Axis", "Cell", "Chart", "Group", "Library", "Missing", "Offer", "Panel", "Promise", "Promises", "Run",
    "Settings", "Suite", "Table", "Task", "Value", "Work", "libraries_of",
]  # fmt: skip

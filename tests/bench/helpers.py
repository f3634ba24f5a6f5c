"""What the tests of the benchmark share."""

from bench.engine import measure
from bench.engine.work import Cell, Settings, known_works
from bench.report import frame, tables


def record(work, problem, solver, size=None, settings=None, rtol=1e-8, dtype="float64", seed=0, count=None):
    """The record of one cell."""
    cell = Cell(problem, size, solver, rtol, dtype, seed, count)
    return measure.measure(cell, settings or Settings(repeats=1), known_works()[work], "test")


def shown(work, rows, name=""):
    """The tables of some records as Markdown, of their work or those of that name."""
    found = frame.frame(rows)
    return tables.markdown([t for table in work.tables if table.name == name for t in table.render(found)])

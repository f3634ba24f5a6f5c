"""Suites and columns from outside: a file, a command line, an installed package."""

import importlib.metadata
import textwrap

import pytest
from rich.console import Console

import bench
from bench import columns
from bench import work as works
from bench.engine import run, suite
from bench.engine.suite import Group, ad_hoc, load
from bench.report import frame, tables
from tests.helpers import ROOT

from .helpers import record

MINE = str(ROOT / "tests" / "bench" / "my_solvers.py")

#: A suite with two peers, three metrics, a table and a chart: one file, nothing edited.
SORTING = '''
"""Sorting networks that nobody asked for."""

import numpy as np

from bench import Axis, Chart, Group, Panel, Suite, Table, Value, Work, libraries_of
from bench.report.format import count, scientific, seconds


def random(size, seed):
    return np.random.default_rng(seed).standard_normal(size)


def bubble(numbers, sweeps=10000):
    x = list(numbers)
    for _ in range(min(sweeps, len(x))):
        for i in range(len(x) - 1):
            if x[i] > x[i + 1]:
                x[i], x[i + 1] = x[i + 1], x[i]
    return np.array(x)


def judge(numbers, answer, task):
    wrong = np.sum(np.diff(answer.value) < 0)
    return {
        "true_residual": float(np.abs(np.sort(numbers) - answer.value).max()),
        "inversions": int(wrong),
        "spread": float(np.ptp(answer.value)),
        "false_success": bool(wrong),
    }


WORK = Work(
    "sorting",
    {"random": random},
    judge,
    libraries_of(
        {"numpy:sort": np.sort, "python:sorted": lambda x: np.array(sorted(x)), "bubble": bubble},
        "sorting",
    ),
    tables=[
        Table(
            "{problem}: {size} numbers",
            [
                Value("seconds", seconds, "seconds"),
                Value("inversions", count, "inversions"),
                Value("spread", scientific, "spread"),
            ],
        )
    ],
    charts=[
        Chart(
            "sorting", "{problem}: seconds against size", needs="two sizes", group=("problem", "seed"),
            panels=[Panel("points", Axis("size", "numbers", log=True), Axis("seconds", "seconds", log=True))],
        )
    ],
)
SUITE = Suite(
    "Sorting: two libraries and a toy", WORK,
    [Group("random", ["numpy:sort", "python:sorted", "bubble", "bubble[sweeps=1]"], size=[10, 40],
           repeats=2)],
)
'''


@pytest.fixture
def sorting(tmp_path):
    (tmp_path / "sorting.py").write_text(textwrap.dedent(SORTING))
    return tmp_path / "sorting.py"


def test_a_suite_is_one_short_file(sorting, tmp_path):
    assert len(SORTING.splitlines()) <= 150
    found = load(str(sorting))
    rows = run.execute(found, tmp_path / "r.jsonl", Console(quiet=True))
    assert [row["result"] for row in rows] == ["successful"] * 8
    assert [frame.succeeded(row) for row in rows] == [True, True, True, False] * 2
    shown = tables.markdown([t for table in found.work.tables for t in table.render(frame.frame(rows))])
    assert "**random: 40 numbers**" in shown and "says success, true error" in shown
    (drawn,) = found.work.charts[0].draw(frame.frame(rows))
    assert {path.suffix for path in drawn.save(tmp_path)} == {".png", ".svg"}
    # Its records know the file, so that they are shown without naming it.
    assert suite.suite_of(rows).title == found.title


def test_its_page(sorting, tmp_path):
    from bench.report.page import write_page

    found = load(str(sorting))
    rows = run.execute(found, None, Console(quiet=True))
    text = write_page(rows, tmp_path / "page.html", found).read_text()
    assert "random: 40 numbers" in text and "numpy:sort" in text and "inversions" in text


@pytest.mark.parametrize(
    ("solver", "steps"),
    [
        (f"{MINE}:Steepest(num_steps=3000)", None),
        (f"{MINE}:MyGMRES()", 30),
        (f"{MINE}:direct", None),
        (f"cg+{MINE}:Diagonal(power=1.0)", 30),
        (f"{MINE}:MyGMRES(restart=10)+jacobi", 50),
    ],
)
def test_somebody_elses_solver_solves_in_an_existing_suite(solver, steps):
    group = Group("poisson2d", solver, size=8, repeats=1)
    ((cell, settings),) = ad_hoc(group).cells.items()
    row = record("linear", cell.problem, cell.solver, 8, settings)
    assert frame.succeeded(row), row["result"]
    assert steps is None or 5 < row["num_steps"] <= steps
    assert row.get("train_s") == (12.5 if "Diagonal" in solver else None)


def test_it_stands_beside_the_suites_own():
    found = suite.with_columns(load("quick"), [f"{MINE}:MyGMRES()"])
    cells = list(found.cells)
    own = load("quick").cells
    assert len(cells) == len(own) + len({(c.problem, c.size, c.rtol) for c in own})
    place = next(i for i, cell in enumerate(cells) if "MyGMRES" in cell.solver)
    assert cells[place].problem == cells[place - 1].problem and cells[place].size == cells[place - 1].size
    assert found.cells[cells[place]].max_steps == 5000


def test_columns_from_outside_join_a_suite_from_outside(sorting, tmp_path):
    (tmp_path / "quick.py").write_text("def sort(numbers):\n    return sorted(numbers)\n")
    with pytest.raises(ValueError, match="unknown library 'numpi': did you mean numpy"):
        suite.with_columns(load(str(sorting)), ["numpi:sort"])
    found = suite.with_columns(load(str(sorting)), [f"{tmp_path}/quick.py:sort"])
    assert sum("quick.py" in cell.solver for cell in found.cells) == 2


def test_a_lie_is_seen():
    row = record("linear", "poisson2d", f"{MINE}:Wrong[how=well]", 8)
    assert row["result"] == "successful" and row["false_success"] is True and not frame.succeeded(row)


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        ("no_such_package.solvers:Mine()", "cannot import no_such_package.solvers"),
        ("no/such/file.py:Mine()", "cannot read no/such/file.py: No such file"),
        ("raises.py:Mine()", "cannot import raises.py, line 3: ZeroDivisionError"),
        ("malformed.py:Mine()", "cannot import malformed.py, line 1: SyntaxError"),
        (f"{MINE}:Stepest()", "did you mean Steepest"),
        (f"{MINE}:Steepest(num_step=3)", "did you mean num_steps"),
        (f"cg+{MINE}:Diagnal()", "did you mean Diagonal"),
        (f"cg+{MINE}:Diagonal(pwer=3)", "unexpected keyword argument 'pwer'"),
    ],
)
def test_what_is_not_there_is_named(solver, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raises.py").write_text("import bench\n\n1 / 0\n")
    (tmp_path / "malformed.py").write_text("import (\n")
    with pytest.raises(ValueError, match=message):
        ad_hoc(Group("poisson2d", solver, size=8))


def test_installed_packages_add_suites_and_columns(monkeypatch, sorting):
    """As entry points do."""
    library = bench.Library(
        "mine", "numpy", {"linear": bench.engine.work.offer_of({"direct": lambda system: None})}
    )

    class Point:
        def __init__(self, group, name, value):
            self.group, self.name, self.value, self.module = group, name, value, "bench"

        def load(self):
            return self.value

    points = [
        Point(suite.ENTRY_POINTS, "sorting", load(str(sorting))),
        Point(columns.ENTRY_POINTS, "mine", library),
    ]

    def entry_points(group, name=None):
        return [p for p in points if p.group == group and name in (None, p.name)]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    assert "sorting" in suite.names() and len(load("sorting").cells) == 8
    assert list(ad_hoc(Group("poisson2d", "mine:direct", size=8)).cells)[0].solver == "mine:direct"
    known = works.WORKS
    assert known["linear"].library_names()[-1] == "mine" and "mine" not in known["transport"].library_names()
    points.append(Point(columns.ENTRY_POINTS, "broken", 3))
    with pytest.raises(ValueError, match="3 is no bench.Library but int"):
        ad_hoc(Group("poisson2d", "broken:direct", size=8))

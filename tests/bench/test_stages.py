"""The suite compile: what it measures, in a process of its own, and the table of it."""

import pytest

from bench import stages, suite, table
from bench.cells import run_cell

PROBLEM = "lognormal2d[contrast=100.0]"


def test_the_suite_sets_every_solver_beside_lineax():
    cells = suite.load("compile").cells
    assert all(settings.stages == 2 for settings in cells.values())
    assert {cell.problem for cell in cells} == {PROBLEM}
    for size in (64, 512):
        columns = {str(cell.spec) for cell in cells if cell.size == size}
        assert {"lineax:cg[form=stencil]", "cg[form=stencil]"} <= columns


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"solver": "scipy:cg"}, "stages of .* are of our programs and of lineax's, not of scipy:cg"),
        ({"problem": "darcy", "count": 3}, "stages of .* is for single systems"),
        ({"problem": "ring", "solver": "ddim"}, "stages of .* belongs to linear systems"),
    ],
)
def test_stages_of_other_cells_are_refused(group, message):
    with pytest.raises(ValueError, match=message):
        suite.ad_hoc({"problem": PROBLEM, "size": 8, "solver": "cg", "stages": 1, **group})


def test_a_small_cell():
    chosen = suite.ad_hoc(
        {"problem": PROBLEM, "size": 6, "solver": "cg[form=stencil]", "stages": 1, "repeats": 1}
    )
    ((cell, settings),) = chosen.cells.items()
    row = run_cell(cell, settings, "suite", "config")
    assert table.succeeded(row), row
    assert row["stages"].keys() == {"value", "gradient"}
    for found in row["stages"].values():
        assert found.keys() == set(stages.STAGES) and all(seconds > 0 for seconds in found.values())
    assert stages.total(row, "gradient") > row["stages"]["gradient"]["trace_s"]


def made_up(solver, seconds, **fields):
    found = None if seconds is None else {"trace_s": seconds, "lower_s": seconds, "compile_s": 2 * seconds}
    both = found and {"value": found, "gradient": {name: 2 * value for name, value in found.items()}}
    return {"problem": PROBLEM, "size": 64, "solver": solver, "stages": both, **fields}


def test_the_table_shows_ratios_and_keeps_what_failed():
    text = stages.markdown(
        [
            made_up("lineax:cg[form=stencil]", 0.1),
            made_up("cg[form=stencil]", 0.25, first_call_s=3.0),
            made_up("minres[form=stencil]", 0.05),  # lineax has none: beside its CG
            made_up("bicgstab[form=stencil]", None),
            {"problem": PROBLEM, "size": 64, "solver": "gmres"},  # of another suite
        ]
    )
    rows = {
        line.split("`")[1]: [word.strip() for word in line.split("|")[3:-1]] for line in text.splitlines()[2:]
    }
    cg = [table.seconds(seconds) for seconds in (1.0, 2.0, 0.5, 3.0)]
    assert rows["cg[form=stencil]"] == [cg[0], "2.5", cg[1], "2.5", cg[2], cg[3]]
    assert rows["minres[form=stencil]"][1] == "0.5" and rows["lineax:cg[form=stencil]"][1] == "1.0"
    assert rows["bicgstab[form=stencil]"] == ["–"] * 6
    assert "gmres" not in rows

"""The frame of records, and the tables made of it."""

import io
import math

import polars as pl
import pytest
from rich.console import Console

from bench.engine.suite import load
from bench.report import format as form
from bench.report.frame import claims_success, frame, reason, succeeded
from bench.report.tables import Promise, Promises, Table, Value, markdown, ratio, show
from bench.report.usual import EVERY_RUN, EVERY_SOLVE
from tests.bench.records import RECORDS, record, timed

ROWS = frame(RECORDS)


def words(table):
    return [[shown for _, shown in row.cells] for row in table.rows]


def shown(tables, width=200):
    console = Console(width=width, file=io.StringIO())
    show(list(tables), console)
    return console.file.getvalue()


# ---- the frame -----------------------------------------------------------------------------------
def test_the_frame_keeps_every_record_in_order():
    assert ROWS["index"].to_list() == list(range(len(RECORDS)))
    assert ROWS["solver"].to_list() == [r["solver"] for r in RECORDS]
    assert ROWS["solve_s.median"][0] == RECORDS[0]["solve_s"]["median"]
    assert ROWS["residual_norms"][0].to_list() == RECORDS[0]["residual_norms"]


def test_the_frame_takes_names_apart():
    row = record("scipy:gmres[restart=30]+ilu", problem="lognormal2d[contrast=10.0]")
    (found,) = frame([row]).to_dicts()
    assert (found["library"], found["solver_name"], found["preconditioner"]) == ("scipy", "gmres", "ilu")
    assert found["problem_name"] == "lognormal2d" and found["problem.contrast"] == 10.0
    assert found["problem.correlation"] == 0.1  # a default
    assert found["system"] == "lognormal2d[contrast=10.0] 32"


def test_time_is_that_of_one_system():
    row = record(count=4, num_steps=40, setup_s=2.0, solve_s=timed(8.0, 0.4))
    (found,) = frame([row]).to_dicts()
    assert (found["seconds"], found["iqr"], found["setup"], found["total"], found["steps"]) == (
        2.0,
        0.1,
        0.5,
        2.5,
        10,
    )
    assert frame([record(solve_s=None)])["total"][0] is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"true_residual": 1e-8 * (1 + 1e-7)}, ""),
        ({"true_residual": 1.1e-8}, "says success, true residual 1.1e-8"),
        ({"true_residual": None}, "says success, true residual –"),
        ({"true_residual": None, "solver": "product"}, ""),
        (
            {"true_residual": None, "solver": "product", "nonfinite": ["true_residual"]},
            "says success, true residual –",
        ),
        ({"false_success": True}, "says success, true residual 9e-9"),
        ({"true_residual": 2e-8, "rounding": 1.1e-8}, ""),
        ({"result": "breakdown"}, "breakdown"),
        ({"result": "missing"}, "not installed"),
        ({"result": "error: MemoryError: too large"}, "error: MemoryError: too large"),
    ],
)
def test_success_is_what_the_numbers_confirm(change, why):
    row = record(**change)
    assert reason(row) == why and succeeded(row) == (why == "")
    assert claims_success(row) == (row["result"] == "successful")
    assert frame([row])["reason"].to_list() == [why]


# ---- numbers -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("show_as", "value", "text"),
    [
        (form.seconds, 0.0123, "12.3 ms"), (form.seconds, 0.9996, "1.00 s"), (form.seconds, None, "–"),
        (form.seconds, 0, "0"), (form.seconds, 2e-7, "200 ns"), (form.seconds, math.nan, "–"),
        (form.scientific, 9.93e-9, "9.9e-9"), (form.scientific, 1e-8, "1e-8"),
        (form.scientific, 0.25, "0.25"),
        (form.scientific, math.inf, "inf"), (form.scientific, math.nan, "NaN"), (form.scientific, 0.0, "0"),
        (form.number, 12, "12"), (form.number, 12.34, "12.3"), (form.number, 1234.5, "1234"),
        (form.count, 12.0, "12"),
        (form.times, 3.14159, "3.14x"), (form.times, math.inf, "–"), (form.percent, 0.1, "10.00 %"),
        (form.mebibytes, 2**20, "1.0 MiB"), (form.mebibytes, 2**30, "1024 MiB"),
        (form.solves, 41.2, "42 solves"), (form.solves, 0.1, "1 solves"), (form.solves, math.inf, "never"),
        (form.solves, None, "–"), (form.solves, 12345.0, "12,345 solves"),
    ],
)  # fmt: skip
def test_numbers_in_words(show_as, value, text):
    assert show_as(value) == text


# ---- tables --------------------------------------------------------------------------------------
def test_a_table_for_each_group_a_row_for_each_solver():
    tables = list(EVERY_SOLVE.render(ROWS))
    assert [table.title for table in tables] == [
        "poisson2d 32, 1,024 unknowns",
        "poisson2d 64, 4,096 unknowns",
    ]
    assert sum(len(table.rows) for table in tables) == len(RECORDS)
    first = tables[0]
    assert words(first)[0] == ["cg", "1e-8", "10", "10.0 ms", "500 ms", "1.00 s", "9e-9", "ok"]
    assert words(first)[-1] == ["solvax:cg", "1e-8", "–", "10.0 ms", "500 ms", "–", "–", "not installed"]
    assert [row.ok for row in first.rows] == [True, True, False, False]
    # Nothing in it has products, a first call or a memory.
    assert first.headings == ["solver", "rtol", "steps", "set-up", "compile", "solve", "residual", "result"]


def test_every_run_has_a_row_even_where_runs_are_alike():
    (table,) = EVERY_RUN.render(frame([*RECORDS, *RECORDS, record(seed=3), record(dtype="float32")]))
    assert len(table.rows) == 2 * len(RECORDS) + 2
    assert "3" in words(table)[-2] and "float32" in words(table)[-1]


def test_values_across():
    table = Table(
        title="{system}",
        values=(Value("steps", form.count, "steps"), Value("", form.seconds, "seconds")),
        group=("problem",),
        across="rtol",
        across_heading=form.scientific,
        note="of {size}",
    )
    rows = [record(rtol=1e-8, steps=20), record(rtol=1e-4, steps=10), record("minres", rtol=1e-4, steps=7)]
    (made,) = table.render(frame(rows))
    assert made.headings == ["solver", "steps, 1e-4", "steps, 1e-8", "1e-4", "1e-8", "result"]
    assert words(made) == [
        ["cg", "10", "20", "1.00 s", "2.00 s", "ok"],
        ["minres", "7", "", "700 ms", "", "ok"],
    ]
    assert made.title == "poisson2d 32" and made.note == "of 32"


def test_a_row_of_several_records_says_how_many_failed():
    table = Table(title="", group=(), values=(Value("solve", form.seconds, pl.col("seconds").mean()),))
    (made,) = table.render(
        frame([record(), record(seed=1, result="breakdown"), record(seed=2, true_residual=1.0)])
    )
    assert words(made) == [["cg", "1.00 s", "says success, true residual 1; breakdown (2 of 3)"]]
    assert not made.rows[0].ok


def test_a_failed_record_shows_a_cross_where_only_successes_count():
    table = Table(
        title="", group=(), values=(Value("solve", form.seconds, "seconds", ok=True),), verdict=False
    )
    (made,) = table.render(frame([record(), record("minres", result="breakdown")]))
    assert words(made) == [["cg", "1.00 s"], ["minres", "✗"]]


def test_where_and_derive():
    to_cg = ratio("seconds", pl.col("solver") == "cg", ("size",)).alias("to_cg")
    table = Table(
        title="",
        group=(),
        where=pl.col("size") == 32,
        derive=lambda rows: rows.with_columns(to_cg),
        values=(Value("to cg", form.times, "to_cg"),),
        verdict=False,
    )
    rows = frame([record(), record("scipy:cg", steps=25), record("scipy:cg", size=64)])
    assert [words(made) for made in table.render(rows)] == [[["cg", "1.00x"], ["scipy:cg", "2.50x"]]]
    nothing = Table(title="", values=(), where=pl.col("no such field") == 1)
    assert list(nothing.render(rows)) == list(table.render(rows.clear())) == []


def test_fields_that_are_missing_are_dashes():
    table = Table(
        title="{no_such} {true_residual:.1e}", group=(), values=(Value("a", form.number, "b", stay=True),)
    )
    (made,) = table.render(frame([record()]))
    assert made.title == "– 9.0e-09" and words(made) == [["cg", "–", "ok"]]


def test_a_narrow_terminal_leaves_out_what_is_worth_less():
    tables = list(EVERY_SOLVE.render(ROWS))
    wide, narrow = shown(tables), shown(tables, width=70)
    assert "compile" in wide and "compile" not in narrow
    assert "out of steps" in wide and "residual" in narrow
    # Options in brackets are no markup.
    assert "cg[form=stencil]" in shown(EVERY_SOLVE.render(frame([record("cg[form=stencil]")])))


def test_markdown_has_every_column():
    text = markdown(list(EVERY_SOLVE.render(ROWS)))
    assert text.startswith("**poisson2d 32, 1,024 unknowns**\n\n| solver | rtol | steps |")
    assert "|---|---|---:|---:|---:|---:|---:|---|\n| cg | 1e-8 | 10 | 10.0 ms |" in text
    assert text.count("\n| ") == len(RECORDS) + 2


# ---- promises ------------------------------------------------------------------------------------
def test_promises_take_the_best_success():
    rows = frame([
        record(steps=20), record("cg+ic", steps=10), record("scipy:cg", steps=50),
        record("pyamg:cg", steps=1, true_residual=0.1),
    ])  # fmt: skip
    promise = Promise("poisson", {"size": 32, "solver": ["cg", "cg+ic"]}, {
        "SciPy": {"solver": "scipy:cg"}, "PyAMG": {"solver": "pyamg:cg"},
    })  # fmt: skip
    (made,) = Promises([promise, Promise("elsewhere", {"size": 7})], title="Promises").render(rows)
    assert words(made) == [["poisson", "1.00 s", "SciPy: 5.00 s", "5.0"]]
    alone = Promises(lambda rows: [Promise("steps", {"solver": "cg"}, value="steps", show=form.count)])
    assert words(*alone.render(rows)) == [["steps", "20", "", ""]]
    assert list(Promises([Promise("elsewhere", {"size": 7})]).render(rows)) == []


def test_hard_systems_are_counted_and_timed_beside_the_fastest():
    suite = load("hard")
    rows = frame(
        [
            record("sparse_lu", 8, 10, problem="stokes2d", first_call_s=6.0),
            record("scipy:splu", 8, 20, problem="stokes2d", first_call_s=3.0),
            record("sparse_lu", 1000, 40, problem="circuit", first_call_s=4.0),
            record("scipy:splu", 1000, 10, problem="circuit", result="breakdown", true_residual=1.0),
            record("klujax:klu", 1000, problem="circuit", result="missing", true_residual=None),
        ]
    )
    solved, sizes = suite.tables[0], suite.tables[1]
    (made,) = solved.render(rows)
    shown = [[text for _, text in row.cells] for row in made.rows]
    assert made.headings == ["solver", "solved", "set-up and solve", "first call"]
    # 1.01 s and 2.01 s on the one system; the first calls are 2 and 1 times the fastest's, and alone.
    assert shown == [["sparse_lu", "2 of 2", "1.0x", "1.4x"], ["scipy:splu", "1 of 2", "2.0x", "1.0x"]]
    assert [made.title for made in sizes.render(rows)] == ["stokes2d", "circuit"]
    (drawn,) = suite.charts[0].draw(rows)
    ends = drawn.frame.group_by("solver", maintain_order=True).agg(
        pl.col("share").max(), pl.col("ratio").max()
    )
    assert dict(zip(ends["solver"], ends["share"], strict=True)) == {"sparse_lu": 1.0, "scipy:splu": 0.5}
    assert ends.filter(solver="scipy:splu")["ratio"][0] == pytest.approx(2.01 / 1.01)

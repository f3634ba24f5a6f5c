"""Sequences as cells: the modes of a column, what a record holds, and that no failure is averaged away."""

import numpy as np
import pytest

from bench.columns.nsolve import sequence as ours
from bench.engine import measure
from bench.engine import record as records_of
from bench.engine import spec as specs
from bench.engine import suite as suites
from bench.engine.work import Cell, Settings
from bench.report.format import number
from bench.report.frame import frame, succeeded
from bench.work import sequence
from bench.work.sequence import WORK
from nsolve.gallery import drifting

from .helpers import shown


def cell(solver, problem="outliers", size=40, rtol=1e-8, count=4):
    return Cell(problem, size, solver, rtol, "float64", 0, count)


ONCE = Settings(repeats=1)


def record(solver, settings=ONCE, **changes):
    return measure.measure(cell(solver, **changes), settings, WORK, "suite")


@pytest.fixture(scope="module")
def records():
    solvers = [
        "gmres[restart=5]",
        "gcro_dr[restart=5,recycle=8]@carried",
        "cg",
        "cg[recycle=8]@carried,sorted",
    ]
    return [record(solver, Settings(repeats=1, sample=2)) for solver in solvers]


def test_modes_are_part_of_a_column():
    spec = specs.parse("gcro_dr[recycle=4]+ilu@warm,carried")
    assert spec.mode == ("carried", "warm")
    assert str(spec) == "gcro_dr[recycle=4]+ilu@carried,warm"
    assert specs.parse(str(spec)) == spec
    assert specs.matches(specs.parse("gcro_dr+ilu"), spec)
    assert specs.matches(specs.parse("gcro_dr+ilu@warm"), spec)
    assert not specs.matches(specs.parse("gcro_dr+ilu@sorted"), spec)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cg@carried", "nothing to carry"),
        ("cg@caried", "did you mean carried"),
        ("scipy:cg", "scipy offers nothing for sequence problems"),
        ("solvax:cg", "only gcrot"),
    ],
)
def test_columns_that_cannot_be_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        WORK.check_column(specs.parse(text), specs.parse_part("darcy"))


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({"count": 0}, "at least 1"),
        ({"count": "x"}, "at least 1"),
        ({"count": None}, "at least 1"),
        ({"history": True}, "history of group 1 has no meaning for sequence problems"),
        ({"size": None}, "needs a size"),
        ({"dtype": "float32"}, "float32"),
        ({"problem": "poisson2d"}, "unknown problem"),
    ],
)
def test_groups_that_cannot_be_are_refused(group, words):
    given = {"problem": "darcy", "solver": "cg", "size": 8, "count": 3} | group
    with pytest.raises(ValueError, match=words):
        suites.expand(suites.Group(**given), WORK, "group 1")


def test_a_cell_of_another_length_is_another_cell():
    lengths = [records_of.key(cell("cg", count=count), "cpu") for count in (3, 4, None)]
    assert len({*lengths}) == 3


def test_the_suite_names_every_column_that_it_promises():
    cells = suites.load("recycle").cells
    assert {c.problem for c in cells} == {"darcy", "helmholtz", "thermal", *drifting.KINDS}
    assert {c.count for c in cells if c.problem == "darcy"} == {200}
    preconditioners = {c.spec.preconditioner and c.spec.preconditioner.name for c in cells if c.size == 80}
    assert preconditioners == {None, "jacobi", "ssor", "ilu", "ic", "multigrid"}
    assert {c.rtol for c in cells if c.size == 80} == {1e-2, 1e-5, 1e-8}
    chosen = suites.select(suites.load("recycle"), ["cg+ic"], ["darcy"])
    wanted = {(80, 1e-2), *((size, rtol) for size in (80, 100) for rtol in (1e-5, 1e-8))}
    assert {(c.size, c.rtol) for c in chosen.cells} == wanted


def test_records_hold_totals_and_lists(records):
    for row in records:
        assert row["result"] == "successful" and succeeded(row), row
        assert row["num_steps"] == sum(row["steps"]) and row["num_matvecs"] == sum(row["matvecs"])
        assert len(row["steps"]) == row["count"] and row["length"] == 4 and row["unsolved"] == []
        assert row["true_residual"] <= 1e-8 and row["unknowns"] == 40 and row["nnz"] == 1600
    # What carries nothing solved the first and the last system only.
    assert [row["count"] for row in records] == [2, 4, 2, 4]
    assert records[1]["steps"][-1] < records[1]["steps"][0]


def test_a_sample_is_part_of_the_sequence(records):
    every = record("gmres[restart=5]")
    assert records[0]["steps"] == [every["steps"][0], every["steps"][-1]]


def test_products_are_those_that_are_made(monkeypatch):
    import jax
    import lineax as lx

    made = []
    operator = sequence.DriftingSequence.operator

    def counting(self, form):
        def make_one(matrix):
            dense = operator(self, form)(matrix)

            def multiply(x):
                jax.debug.callback(lambda _: made.append(1), x)
                return dense.mv(x)

            return lx.FunctionLinearOperator(multiply, dense.in_structure(), dense.tags)

        return make_one

    monkeypatch.setattr(sequence.DriftingSequence, "operator", counting)
    ours._program.cache_clear()
    row = record("cg[recycle=6]@carried", count=3)
    jax.effects_barrier()
    ours._program.cache_clear()
    # Each solve multiplies once more where it starts from: that residual is b.
    assert len(made) - 3 <= row["num_matvecs"] <= len(made), (len(made), row["matvecs"])


def test_one_failed_system_fails_the_row(records):
    needs = max(records[1]["steps"])
    row = record("gcro_dr[restart=5,recycle=8]@carried", Settings(repeats=1, max_steps=needs - 1))
    assert row["result"] == "max_steps_reached" and not succeeded(row)
    assert row["unsolved"] == [i for i, n in enumerate(records[1]["steps"]) if n >= needs]
    text = shown(WORK, [row])
    assert "out of steps (1 of 4 systems)" in text and "No column solved all" in text


def test_a_false_claim_is_found(monkeypatch):
    read = ours.NsolveSequenceRun.answer

    def lying(self, raw):
        systems, found = raw
        answer = read(self, (systems, [np.array(a) for a in found]))
        answer.value.x[2] += 1
        return answer

    monkeypatch.setattr(ours.NsolveSequenceRun, "answer", lying)
    row = record("cg")
    assert row["result"] == "successful" and row["false_success"] and not succeeded(row)
    assert row["unsolved"] == [2]


def test_an_error_is_a_row():
    row = record("cg+multigrid")
    assert row["result"].startswith("error: ValueError") and "stencil" in row["result"]
    assert "stencil" in shown(WORK, [row])


def test_peer_counts_its_products():
    pytest.importorskip("solvax")
    row = record("solvax:gcrot[restart=10,recycle=6,strategy=harmonic]@carried", count=2)
    assert succeeded(row)
    assert all(products > steps for products, steps in zip(row["matvecs"], row["steps"], strict=True))
    assert row["matvecs"][1] >= row["steps"][1] + 6  # the subspace taken over


def test_families_on_grids():
    for solver, problem in [
        ("cg+multigrid", "darcy"),
        ("minres@warm", "helmholtz[waves=0]"),
        ("cg+ic", "thermal"),
    ]:
        row = record(solver, problem=problem, size=8, count=2)
        assert succeeded(row), row
        assert row["unknowns"] == len(WORK.make(cell("cg", problem, 8, count=2)).systems.vectors[0])


def test_drift_is_as_large_as_it_says():
    matrices, vectors = drifting.Drifting(50, "wellconditioned").draw(0, 3)
    assert np.linalg.norm(matrices[1] - matrices[0], 2) == pytest.approx(2e-3)
    assert not np.allclose(vectors[0], vectors[1])
    first, second = drifting.Drifting(50).draw(0, 2)[0]
    assert np.linalg.cond(first) == pytest.approx(2000)
    assert np.linalg.norm(second - first, 2) <= 2.3e-3 * np.linalg.norm(first, 2)
    with pytest.raises(ValueError, match="at least 20"):
        WORK.call("outliers", size=8)


def test_tables_compare_means(records):
    text = shown(WORK, records)
    assert "outliers 40, 40 unknowns, 4 systems in a row" in text
    mean = records[0]["num_steps"] / 2
    assert f"| gmres[restart=5] | 2 | {number(mean)} |" in text
    fewer = mean / (records[1]["num_steps"] / 4)
    assert f"{fewer:.2f}x" in text or f"{fewer:.1f}x" in text
    fastest = min(records, key=lambda r: r["solve_s"]["median"] / r["count"])
    assert f"Least seconds: {fastest['solver']}," in text


def test_a_lower_bound_says_so(records):
    capped = {**records[0], "result": "max_steps_reached", "unsolved": [0, 1]}
    assert "≥ " in shown(WORK, [capped, *records[1:]])


def test_a_capped_column_is_crossed_in_the_suites_tables(records):
    capped = {**records[0], "result": "max_steps_reached", "unsolved": [0, 1]}
    (drifting_table,) = (table for table in suites.load("recycle").tables if table.name == "drifting")
    (made,) = drifting_table.render(frame([capped, *records[1:]]))
    shown_cells = {row.cells[0][1]: row.cells[1][1] for row in made.rows}
    assert shown_cells["gmres[restart=5]"] == f"{records[0]['num_matvecs']} ✗"
    assert shown_cells["cg"] == str(records[2]["num_matvecs"])


def test_pictures(records):
    (chart,) = WORK.charts
    (drawn,) = chart.draw(frame(records))
    assert drawn.name == "sequence-outliers-40-1e-08-4"
    values = drawn.data["panel0"]
    # Two of four systems: the first and the last.
    few = [v["at"] for v in values if v["solver"] == "cg"]
    assert few == [1, 4] and len(values) == 2 + 4 + 2 + 4
    assert not list(chart.draw(frame([{**records[0], "steps": None, "num_steps": None}])))

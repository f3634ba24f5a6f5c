"""Sequences as cells: the modes of a column, what a record holds, and that no failure is averaged away."""

import numpy as np
import pytest
from rich.console import Console

from bench import show, specs, suite, table
from bench.cells import Cell, Settings, run_cell
from bench.plots import plot
from bench.sequences import check, measure, report, systems
from bench.sequences.systems import draw, make
from nsolve.gallery import drifting


def cell(solver, problem="outliers", size=40, rtol=1e-8, count=4):
    return Cell(problem, size, specs.parse(solver), rtol, "float64", 0, count)


ONCE = Settings(repeats=1)


def record(solver, settings=ONCE, **changes):
    return run_cell(cell(solver, **changes), settings, "suite", "config")


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
        ("scipy:cg", "scipy solves no sequences"),
        ("solvax:cg", "only gcrot"),
    ],
)
def test_columns_that_cannot_be_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        check(specs.parse(text), specs.parse_part("darcy"))


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({"solver": "cg@warm", "problem": "poisson2d"}, "count"),
        ({"count": 3, "problem": "poisson2d"}, "unknown sequence"),
        ({"count": 0}, "at least 1"),
        ({"count": "x"}, "must be int"),
        ({"sample": 3, "problem": "poisson2d"}, "count"),
        ({"count": 3, "history": True}, "single systems"),
        ({"count": 3, "size": [None]}, "needs a size"),
        ({"count": 3, "dtype": "float32"}, "float32"),
    ],
)
def test_groups_that_cannot_be_are_refused(group, words):
    with pytest.raises(ValueError, match=words):
        suite.ad_hoc({"problem": "darcy", "size": 8, "solver": "cg", **group})


def test_a_cell_of_another_length_is_another_cell():
    lengths = [cell("cg", count=count).key("cpu") for count in (3, 4)]
    assert len({*lengths, cell("cg", count=None).key("cpu")}) == 3


def test_the_suite_names_every_column_that_it_promises():
    cells = suite.load("recycle").cells
    assert {c.problem for c in cells} == {"darcy", "helmholtz", "thermal", *drifting.KINDS}
    assert {c.count for c in cells if c.problem == "darcy"} == {200}
    preconditioners = {c.spec.preconditioner and c.spec.preconditioner.name for c in cells if c.size == 80}
    assert preconditioners == {None, "jacobi", "ssor", "ilu", "ic", "multigrid"}
    assert {c.rtol for c in cells if c.size == 80} == {1e-2, 1e-5, 1e-8}
    chosen = suite.select(suite.load("recycle"), ["cg+ic"], ["darcy"])
    wanted = {(80, 1e-2), *((size, rtol) for size in (80, 100) for rtol in (1e-5, 1e-8))}
    assert {(c.size, c.rtol) for c in chosen.cells} == wanted


def test_records_hold_totals_and_lists(records):
    for row in records:
        assert row["result"] == "successful" and table.succeeded(row), row
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
    operator = systems.DriftingSequence.operator

    def counting(self, form):
        def make_one(matrix):
            dense = operator(self, form)(matrix)

            def multiply(x):
                jax.debug.callback(lambda _: made.append(1), x)
                return dense.mv(x)

            return lx.FunctionLinearOperator(multiply, dense.in_structure(), dense.tags)

        return make_one

    monkeypatch.setattr(systems.DriftingSequence, "operator", counting)
    measure._prepare.cache_clear()
    row = record("cg[recycle=6]@carried", count=3)
    jax.effects_barrier()
    measure._prepare.cache_clear()
    # Each solve multiplies once more where it starts from: that residual is b.
    assert len(made) - 3 <= row["num_matvecs"] <= len(made), (len(made), row["matvecs"])


def test_one_failed_system_fails_the_row(records):
    needs = max(records[1]["steps"])
    row = record("gcro_dr[restart=5,recycle=8]@carried", Settings(repeats=1, max_steps=needs - 1))
    assert row["result"] == "max_steps_reached" and not table.succeeded(row)
    assert row["unsolved"] == [i for i, n in enumerate(records[1]["steps"]) if n >= needs]
    text = show.markdown([row])
    assert "out of steps (1 of 4 systems)" in text and "No column solved all" in text


def test_a_false_claim_is_found(monkeypatch):
    read = measure._Program.read

    def lying(self, raw, given):
        outcome = read(self, raw, given)
        outcome.x[2] += 1
        return outcome

    monkeypatch.setattr(
        measure._Program, "read", lambda self, raw, given: lying(self, [np.array(a) for a in raw], given)
    )
    row = record("cg")
    assert row["result"] == "successful" and row["false_success"] and not table.succeeded(row)
    assert row["unsolved"] == [2]


def test_an_error_is_a_row():
    row = record("cg+multigrid")
    assert row["result"].startswith("error: ValueError") and "stencil" in row["result"]
    assert "stencil" in show.markdown([row])


def test_peer_counts_its_products():
    pytest.importorskip("solvax")
    row = record("solvax:gcrot[restart=10,recycle=6,strategy=harmonic]@carried", count=2)
    assert table.succeeded(row)
    assert all(products > steps for products, steps in zip(row["matvecs"], row["steps"], strict=True))
    assert row["matvecs"][1] >= row["steps"][1] + 6  # the subspace taken over


def test_families_on_grids():
    for solver, problem in [
        ("cg+multigrid", "darcy"),
        ("minres@warm", "helmholtz[waves=0]"),
        ("cg+ic", "thermal"),
    ]:
        row = record(solver, problem=problem, size=8, count=2)
        assert table.succeeded(row), row
        assert row["unknowns"] == len(draw(problem, 8, 2, 0).vectors[0])


def test_drift_is_as_large_as_it_says():
    matrices, vectors = drifting.Drifting(50, "wellconditioned").draw(0, 3)
    assert np.linalg.norm(matrices[1] - matrices[0], 2) == pytest.approx(2e-3)
    assert not np.allclose(vectors[0], vectors[1])
    first, second = drifting.Drifting(50).draw(0, 2)[0]
    assert np.linalg.cond(first) == pytest.approx(2000)
    assert np.linalg.norm(second - first, 2) <= 2.3e-3 * np.linalg.norm(first, 2)
    with pytest.raises(ValueError, match="at least 20"):
        make("outliers", 8)


def test_tables_compare_means(records):
    console = Console(width=200, record=True, quiet=True)
    show.show(records, console)
    text = show.markdown(records)
    assert "outliers 40, 40 unknowns, 4 systems in a row" in text
    mean = records[0]["num_steps"] / 2
    assert f"| gmres[restart=5] | 2 | {table.number(mean)} |" in text
    fewer = mean / (records[1]["num_steps"] / 4)
    assert f"{fewer:.1f}x" in text
    fastest = min(records, key=lambda r: r["solve_s"]["median"] / r["count"])
    assert f"Least seconds: {fastest['solver']}," in text


def test_a_lower_bound_says_so(records):
    capped = {**records[0], "result": "max_steps_reached", "unsolved": [0, 1]}
    assert "≥ " in show.markdown([capped, *records[1:]])
    assert " ✗ |" in report.steps_table([capped, *records[1:]])


def test_documents_quote_names(records):
    text = report.steps_table(records)
    assert "`gcro_dr[recycle=8,restart=5]@carried`" in text and "Least seconds: `" in text
    assert f"| `cg` | {records[2]['num_matvecs']} |" in report.products_table(records)


def test_pictures(records, tmp_path):
    paths = plot(records, "sequence", tmp_path)
    assert {path.name for path in paths} == {
        f"sequence-outliers-40-1e-08-none.{kind}" for kind in ("png", "svg")
    }
    with pytest.raises(ValueError, match="count"):
        plot([{**records[0], "steps": None}], "sequence", tmp_path)

"""Transport problems as cells: problems with known answers, an independent judge, no false success."""

import dataclasses
import io

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from bench.columns import _transport, pot
from bench.engine import measure, process, record, run, spec, suite
from bench.engine.suite import Group, Suite
from bench.engine.work import Answer, Cell, Settings, Task, Timings
from bench.report import tables
from bench.report import transport as report
from bench.report.format import seconds
from bench.report.frame import frame
from bench.suites.transport import promises
from bench.work import transport
from bench.work.transport import WORK, Coupling, Problem, exact_cost
from nsolve.gallery import transport_reference as reference
from tests.helpers import ROOT

SETTINGS = Settings(repeats=1, max_steps=2000)


def cell(solver, problem="assignment[eta=20]", size=12, rtol=1e-6):
    return Cell(problem, size, str(spec.parse(solver)), rtol, "float64", 0)


def measured(solver, *of, settings=SETTINGS, **keywords):
    return measure.measure(cell(solver, *of, **keywords), settings, WORK, "test")


def task(problem, rtol=1e-6, solver="sinkhorn"):
    return Task(problem, cell(solver, rtol=rtol), SETTINGS)


def made(text, size):
    return WORK.call(text, size=size, seed=0)


def exact(problem):
    return Coupling(*reference.potentials(problem.cost, problem.a, problem.b, problem.epsilon), weighted=True)


def judged(problem, coupling, rtol=1e-6, result="successful"):
    return transport.judge(problem, Answer(result, coupling), task(problem, rtol))


def ok(row):
    return frame([row])["ok"][0]


# --- problems ---


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("assignment", 7),
        ("digits", None),
        ("digits[cost=l1]", None),
        ("gaussian1d", 40),
        ("gaussian1d[cost=l1]", 40),
        ("gaussian2d[cost=l1]", 8),
        ("cloud[dim=2]", 30),
        ("batch[count=3]", 5),
    ],
)
def test_costs_are_scaled_and_weights_are_weights(text, size):
    if text.startswith("digits"):
        pytest.importorskip("sklearn")
    problem = made(text, size)
    assert problem.cost.max() == pytest.approx(1) and problem.cost.min() >= 0
    for weights in (problem.a, problem.b):
        assert np.all(weights > 0) and np.allclose(weights.sum(axis=-1), 1)
    assert problem.cost.shape[-2:] == problem.shape
    assert problem.is_batch == text.startswith("batch")


def test_digits_are_two_different_images_on_a_background():
    pytest.importorskip("sklearn")
    problem = made("digits[eta=1200]", None)
    assert problem.shape == (784, 784) and problem.epsilon == 1 / 1200
    assert problem.facts == {"size": 784, "unknowns": 1568, "epsilon": 1 / 1200}
    assert not np.allclose(problem.a, problem.b)
    assert problem.a.max() / problem.a.min() == pytest.approx(101)


def test_costs_on_the_grid_are_distances():
    grid = np.linspace(0, 1, 6)
    x, y = grid[3] - grid[0], grid[5] - grid[1]
    i, j = 0 * 6 + 1, 3 * 6 + 5
    assert made("gaussian2d[cost=l1]", 6).cost[i, j] == pytest.approx((x + y) / 2)
    assert made("gaussian2d", 6).cost[i, j] == pytest.approx((x**2 + y**2) / 2)


def test_rows_of_points_are_rows_of_the_matrix():
    problem = made("cloud", 9)
    x, y = problem.points
    wanted = np.array([[np.sum((p - q) ** 2) for q in y] for p in x])
    np.testing.assert_allclose(problem.cost, wanted, rtol=1e-14)
    np.testing.assert_allclose(problem.cost_rows(slice(2, 5)), wanted[2:5], rtol=1e-14)
    large = dataclasses.replace(problem, a=np.ones(10_000), b=np.ones(10_000), _cached={})
    with pytest.raises(ValueError, match="form=points"):
        _ = large.cost


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cloud[dims=2]", "did you mean dim"),
        ("digits[cost=l2]", "cost of digits must be one of squared_l2, l1"),
        ("cloud[eta=0]", "eta of cloud must be a number greater than 0, got 0"),
        ("cloud[eta=small]", "a number"),
    ],
)
def test_problems_that_cannot_be_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        WORK.parse(text)


# --- the judge ---


@pytest.mark.parametrize(("text", "size"), [("gaussian1d[eta=100]", 60), ("gaussian2d[eta=10]", 20)])
def test_the_reference_meets_the_closed_form_of_gaussians(text, size):
    problem = made(text, size)
    row = transport.figures(problem, exact(problem))
    assert row["marginal_error"] < 1e-12
    assert row["closed_form_error"] < 1e-7 and row["sharp_closed_form_error"] < 1e-7


def test_grids_too_coarse_for_the_plan_have_no_closed_form():
    assert made("gaussian1d[eta=10000]", 20).closed_form is None


def test_costs_tend_to_the_exact_one():
    gaps = []
    for eta in (10, 100, 1000):
        problem = made(f"assignment[eta={eta}]", 10)
        gaps.append(transport.figures(problem, exact(problem))["cost"] - exact_cost("assignment", 10, 0))
    assert gaps[0] > gaps[1] > gaps[2] > -1e-12 and gaps[2] < 1e-3


def test_exact_costs_of_weights_that_are_not_uniform():
    from scipy.optimize import linprog

    pytest.importorskip("ot")
    problem = made("gaussian1d", 9)
    rows, columns = np.kron(np.eye(9), np.ones(9)), np.kron(np.ones(9), np.eye(9))
    marginals = {"A_eq": np.vstack([rows, columns]), "b_eq": np.concatenate([problem.a, problem.b])}
    found = linprog(problem.cost.ravel(), **marginals)
    assert exact_cost("gaussian1d[eta=7]", 9, 0) == pytest.approx(found.fun, rel=1e-7)


def test_the_judge_sums_the_plan(monkeypatch):
    problem = made("cloud[eta=20]", 8)
    rng = np.random.default_rng(0)
    f, g = 0.1 * rng.standard_normal((2, 8))
    ratio = np.exp((f[:, None] + g[None, :] - problem.cost) / problem.epsilon)
    for weighted in (True, False):
        plan = ratio / 64 if weighted else ratio
        rows, columns = plan.sum(axis=1), plan.sum(axis=0)
        row = transport.figures(problem, Coupling(f, g, weighted))
        assert row["row_error"] == pytest.approx(np.abs(rows - problem.a).sum())
        assert row["column_error"] == pytest.approx(np.abs(columns - problem.b).sum())
        assert row["true_residual"] == row["marginal_error"] == row["row_error"] + row["column_error"]
        assert row["cost"] == pytest.approx(np.sum(plan * problem.cost))
        entropy = np.sum(plan * np.log(plan * 64) - plan) + 1
        assert row["regularised_cost"] == pytest.approx(row["cost"] + problem.epsilon * entropy)
        # A plan says the same as its potentials, and blocks of rows the same as all of them.
        monkeypatch.setattr(Problem, "blocks", lambda self: iter([slice(0, 3), slice(3, 8)]))
        again = transport.figures(problem, Coupling(plan=plan))
        for name in ("row_error", "column_error", "cost", "regularised_cost"):
            assert again[name] == pytest.approx(row[name])
        monkeypatch.undo()


def test_rounding_of_potentials_is_not_held_against_a_column():
    problem = made("assignment[eta=10000]", 20)
    found = exact(problem)
    row = judged(problem, found, 1e-15)
    assert 0 < row["rounding"] < 1e-11
    assert row["marginal_error"] > 1e-15 and not row["false_success"]  # though it is above the tolerance
    shifted = Coupling(found.f + 10 * row["rounding"] * problem.epsilon, found.g, True)
    assert judged(problem, shifted, 1e-15)["false_success"]
    above = {
        "problem": "cloud",
        "solver": "sinkhorn",
        "result": "successful",
        "rtol": 1e-12,
        "work": "transport",
    }
    above |= {"true_residual": 2e-12}
    assert ok({**above, "rounding": 1e-12}) and not ok(above)


@pytest.mark.parametrize("solved", [0, 1])
def test_of_a_batch_the_worst_counts(solved):
    problem = made("batch[count=2,eta=20]", 5)
    right = [exact(problem.single(i)) for i in range(2)]
    f, g = (np.stack([getattr(one, name) for one in right]) for name in ("f", "g"))
    assert not judged(problem, Coupling(f, g, True))["false_success"]
    f[1 - solved] = np.nan if solved else 1.0
    row = judged(problem, Coupling(f, g, True))
    assert row["solved"] == 1 and row["count_of_batch"] == 2 and row["false_success"]
    assert not row["true_residual"] < 1e-6


# --- columns ---

COLUMNS = [
    "sinkhorn_newton",
    "sinkhorn",
    "sinkhorn[relaxation=adaptive]",
    "ott:sinkhorn",
    "ott:momentum",
    "ott:lehmann",
    "ott:anderson",
    "pot:log",
    "pot:stabilized",
    "pot:epsilon_scaling",
]


@pytest.mark.parametrize("solver", COLUMNS)
def test_columns_solve_to_the_true_error_asked_for(solver):
    peer = spec.parse(solver).peer
    pytest.importorskip({"ott": "ott", "pot": "ot"}.get(peer, peer))
    row = measured(solver, settings=dataclasses.replace(SETTINGS, max_steps=5000))
    assert row["result"] == "successful" and ok(row) and row["false_success"] is False, row
    assert row["marginal_error"] <= 1e-6 and row["num_steps"] > 0
    problem = made("assignment[eta=20]", 12)
    assert row["cost"] == pytest.approx(transport.figures(problem, exact(problem))["cost"], rel=1e-4)
    assert row["cost_gap"] > 0 and row["epsilon"] == 0.05 and row["unknowns"] == 24
    assert row["seconds_per_step"] == row["solve_s"]["median"] / row["num_steps"] and row["solve_s"]["n"] == 1


def test_what_is_compiled_is_shared_and_its_seconds_told_by_all():
    first, again = (measured("sinkhorn", f"assignment[eta={eta}]") for eta in (19, 21))
    assert first["compile_s"] == again["compile_s"] > 0  # one program
    assert measured("sinkhorn", size=13)["compile_s"] != first["compile_s"]


def test_the_exact_plan_has_no_gap():
    pytest.importorskip("ot")
    row = measured("pot:emd", "gaussian1d[eta=10]")
    assert ok(row) and abs(row["cost_gap"]) < 1e-12 and "closed_form_error" not in row


def test_out_of_steps_is_no_success():
    pytest.importorskip("ott")
    row = measured("ott:sinkhorn", "assignment[eta=10000]", settings=Settings(repeats=1, max_steps=20))
    assert row["result"] == "max_steps_reached" and not ok(row)
    assert row["num_steps"] == 20 and row["marginal_error"] > 1e-6


def test_a_false_claim_is_found(monkeypatch):
    pytest.importorskip("ot")
    read = pot.PotRun.read

    def lying(self, raw):
        told = read(self, raw)
        return dataclasses.replace(told, value=dataclasses.replace(told.value, plan=1.001 * told.value.plan))

    monkeypatch.setattr(pot.PotRun, "read", lying)
    row = measured("pot:stabilized")
    assert row["result"] == "successful" and row["false_success"] and not ok(row)
    assert "true marginal error 2" in frame([row])["reason"][0]


@pytest.mark.parametrize("solver", ["sinkhorn_newton", "ott:sinkhorn"])
def test_batches_are_solved_at_once_and_one_by_one(solver):
    pytest.importorskip({"nsolve": "nsolve"}.get(peer := spec.parse(solver).peer, peer))
    row = measured(solver, "batch[eta=10,count=3]", 6)
    assert ok(row) and row["solved"] == row["count_of_batch"] == 3 and len(row["steps"]) == 3
    assert 0 < row["slowest_s"] <= row["one_by_one_s"]
    problem = made("batch[eta=10,count=3]", 6)
    errors = []
    for i in range(3):
        alone = WORK.offer(spec.parse(solver)).prepare(task(problem.single(i), solver=solver))
        raw = alone.solve(alone.compile(alone.setup()))
        errors.append(transport.figures(problem.single(i), alone.read(raw).value)["marginal_error"])
    assert row["marginal_error"] == pytest.approx(max(errors), rel=1e-3)


@pytest.mark.parametrize("form", ["matrix", "points"])
@pytest.mark.parametrize(("solver", "accuracy"), [("sinkhorn_newton", 1e-8), ("ott:sinkhorn", 1e-4)])
def test_derivatives_are_compared_with_the_reference(solver, accuracy, form):
    pytest.importorskip({"nsolve": "nsolve"}.get(peer := spec.parse(solver).peer, peer))
    row = measured(f"{solver}[form={form}]@gradient", "cloud[eta=20]", rtol=1e-10)
    assert ok(row) and row["solve_s"]["median"] == row["forward_s"], row
    assert row["cost_gradient_error"] < 1e-8 and row["potential_gradient_error"] < accuracy
    assert min(row[f"{name}_s"] for name in ("forward", "cost_gradient", "potential_gradient")) > 0


def test_derivatives_of_what_is_not_solved_are_no_success():
    row = measured("sinkhorn@gradient", "assignment[eta=1000]", settings=Settings(repeats=1, max_steps=3))
    assert row["result"] == "max_steps_reached" and not ok(row)


def test_derivatives_that_are_no_numbers_are_no_success():
    of = cell("sinkhorn@gradient", rtol=1e-3)
    asked = Task(WORK.make(of), of, SETTINGS)
    prepared = WORK.offer(of.spec).prepare(asked)
    _, raw = measure.timed(prepared, 1)
    answer = prepared.answer(raw)
    assert WORK.judge(asked.problem, answer, asked)["result"] == "successful"
    (in_data, in_a, in_b) = answer.value.gradients["potential"]
    answer.value.gradients["potential"] = (in_data, in_a * np.nan, in_b)
    row = WORK.judge(asked.problem, answer, asked)
    assert row["result"] == "nonfinite_output" and np.isnan(row["potential_gradient_error"])


def test_memory_of_derivatives_is_that_of_a_gradient():
    of = cell("sinkhorn[form=points]@gradient", "cloud[eta=20]", rtol=1e-3)
    given = Task(WORK.make(of), of, dataclasses.replace(SETTINGS, memory=True))
    asked = WORK.offer(of.spec).prepare(given)
    memory = process.first_call(asked)
    assert memory["memory_bytes"] >= 0 and memory["compile_memory_bytes"] > 0
    row = measure.measure(of, given.settings, WORK, "test") | memory
    assert ok(row) and "potential_gradient_s" not in row and "forward_s" not in row, row
    (value, _), (in_points, in_a, in_b) = asked.solve(asked.call)
    assert value.shape == () and in_a.shape == in_b.shape == (12,) and in_points[0].shape == (12, 3)
    shown = tables.markdown([*report.MEMORY.render(frame([row]))])
    assert "cloud, 12 points, epsilon 0.05 of the largest cost: memory" in shown


# --- limits of seconds ---


class Clocked(_transport.TransportRun):
    """Takes 10 ms a step, and `needs` of them."""

    needs = 1000

    def program(self, problem, max_steps):
        self.tried = [*getattr(self, "tried", []), max_steps]
        return lambda: max_steps, 0.0

    def read(self, raw):
        steps = min(raw, self.needs)
        result = "successful" if raw >= self.needs else "max_steps_reached"
        return Answer(result, Coupling(plan=np.eye(2)), {"num_steps": steps})


def limited(monkeypatch, limit_s, max_steps=10**6):
    def clock(function):
        raw = function()
        return raw, 0.01 * min(raw, Clocked.needs)

    monkeypatch.setattr(_transport, "clock", clock)
    settings = Settings(repeats=1, max_steps=max_steps, limit_s=limit_s)
    found = Clocked(Task(made("assignment", 2), cell("sinkhorn"), settings))
    raw = found.solve(found.compile(found.setup()))
    assert isinstance(found.timings(raw), Timings)
    return found, found.answer(raw)


def test_steps_are_allowed_as_they_fit_into_the_limit(monkeypatch):
    found, told = limited(monkeypatch, limit_s=15.0)
    assert found.tried == [100, 2000]  # 1500 would fit
    assert told.result == "successful" and told.metrics["limit_s"] == 15.0
    found, told = limited(monkeypatch, limit_s=6.0)
    assert found.tried == [100, 1000] and found.first_s == 10.0
    assert told.result == "time_limit"  # it solves, but not in time
    found, told = limited(monkeypatch, limit_s=4.0)
    assert found.tried == [100, 500] and told.result == "time_limit" and told.counts["num_steps"] == 500
    found, told = limited(monkeypatch, limit_s=15.0, max_steps=700)
    assert found.tried == [100, 700] and told.result == "max_steps_reached"  # of its own, not of the limit


def test_allowed_steps_are_few_numbers():
    assert [_transport.quantised(steps) for steps in (0.3, 1, 2.1, 101, 200, 4900, 5001)] == [
        1, 1, 5, 200, 200, 5000, 10000,
    ]  # fmt: skip


def test_columns_out_of_time_are_not_tried_at_tighter_tolerances(tmp_path):
    pytest.importorskip("ot")
    group = Group("assignment[eta=10000]", "pot:log", size=12, rtol=[1e-6, 1e-9], repeats=1, max_steps=10**6,
                  limit_s=0.02)  # fmt: skip
    made_up = Suite("t", WORK, [group], name="t", cells=suite.expand(group, WORK, "group 1"))
    first, tighter = run.execute(made_up, tmp_path / "t.jsonl", Console(file=io.StringIO()))
    assert first["result"] == "time_limit" and first["num_steps"] >= 100
    assert tighter["result"] == "time_limit" and tighter["not_tried_after"] == 1e-6
    assert tighter["num_steps"] is None and tighter["size"] == 12 and tighter["epsilon"] == 1e-4
    assert frame([first, tighter])["reason"].to_list() == ["out of time"] * 2


# --- suites, tables, pictures ---


def test_the_suite_promises_problems_tolerances_and_columns():
    cells = suite.load("transport").cells
    assert {spec.parse_part(cell.problem).name for cell in cells} == set(transport.PROBLEMS)
    headline = [cell for cell in cells if cell.problem == "assignment[eta=1200]"]
    assert {cell.rtol for cell in headline} == {1e-3, 1e-6, 1e-9, 1e-12}
    solvers = {(cell.spec.peer, cell.spec.solver.name) for cell in headline}
    for peer in ("ott", "pot"):
        assert {(peer, name) for name in WORK.library(peer).offers["transport"].solvers} < solvers
    assert {("nsolve", "sinkhorn"), ("nsolve", "sinkhorn_newton")} < solvers
    assert {cell.size for cell in cells if cell.problem.startswith("digits")} == {None}


def committed(name):
    """The committed records, as newer ones say what they are of."""
    return [{**row, "work": name} for row in record.read(ROOT / f"docs/benchmarks/{name}.jsonl")]


def test_committed_records_are_those_of_the_suite():
    rows, cells = committed("transport"), suite.load("transport").cells
    assert {row["key"] for row in rows} == {record.key(cell, "cpu") for cell in cells}


def test_committed_records_are_shown():
    rows = committed("transport")
    shown = "".join(tables.markdown([*table.render(frame(rows))]) for table in WORK.tables)
    assert shown.count("| ok |") > 100 and ": gradients**" in shown and ": memory**" in shown
    lines = [*promises(frame(rows))]
    assert len(lines) >= 20 and any("not in 15 s" in line.cells[2][1] for line in lines)


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({"solver": "ott:sinkorn"}, "did you mean sinkhorn"),
        ({"solver": "scipy:cg"}, "scipy offers nothing for transport problems"),
        ({"solver": "pot:log@gradient"}, "no derivatives"),
        ({"solver": "pot:log+ilu"}, "no preconditioner"),
        ({"solver": "sinkhorn[form=rows]"}, "form of sinkhorn must be one of matrix, points, got 'rows'"),
        ({"solver": "ott:sinkhorn[form=points]"}, "assignment has no points"),
        ({"solver": "sinkhorn[relaxation=adaptve]"}, "relaxation.*adaptive"),
        ({"solver": "ott:anderson[memory=0]"}, "memory of anderson must be an integer of at least 1, got 0"),
        ({"problem": "batch", "solver": "sinkhorn@gradient"}, "not of a batch"),
        ({"problem": "batch", "solver": "pot:log"}, "one problem at a time"),
        ({"count": 4}, "count"),
        ({"history": True}, "history"),
        ({"dtype": "float32"}, "float32"),
        ({"size": None}, "needs a size"),
        ({"limit_s": "x"}, "must be float"),
        ({"limit_s": -1.0}, "not negative"),
    ],
)
def test_groups_that_cannot_be_are_refused(group, words):
    given = {"problem": "assignment", "solver": "pot:log", "size": 8} | group
    with pytest.raises(ValueError, match=words):
        suite.expand(Group(given.pop("problem"), given.pop("solver"), **given), WORK, "group 1")


@pytest.fixture(scope="module")
def records():
    pytest.importorskip("ot")
    return [
        measured(solver, f"assignment[eta={eta}]", rtol=rtol)
        for eta in (10, 50)
        for solver in ("pot:stabilized", "pot:log", "pot:emd")
        for rtol in (1e-3, 1e-6)
    ]


def test_tables_show_seconds_and_steps_to_each_tolerance(records):
    text = tables.markdown([*report.TIMES.render(frame(records))])
    assert "assignment, 12 points, epsilon 0.1 of the largest cost" in text
    assert "| solver | 1e-3 | 1e-6 | a step | cost gap | result |" in text  # nothing was compiled
    row = records[1]
    assert f"| {seconds(row['solve_s']['median'])} ({row['num_steps']}) |" in text
    assert "Fastest: to 1e-3 pot:" in text


def test_failures_have_their_reasons_in_the_table(records):
    slow = {**records[1], "result": "time_limit", "true_residual": 4e-5}
    lied = {**records[3], "false_success": True, "true_residual": 3e-5}
    text = tables.markdown([*report.TIMES.render(frame([records[0], slow, records[2], lied]))])
    assert "out of time at 1e-6, got to 4e-5 (1 of 2)" in text and "✗" in text
    assert "says success, true marginal error 3e-5 at 1e-6" in text


@pytest.mark.filterwarnings("ignore:Automatically deduplicated")
def test_pictures(records):
    rows = frame(records)
    drawn = {chart.name: [*chart.draw(rows)] for chart in WORK.charts}
    assert {d.name for d in drawn["transport"]} == {f"transport-assignment-eta-{eta}--12" for eta in (10, 50)}
    assert [d.name for d in drawn["epsilon"]] == ["epsilon-assignment-12"]
    assert drawn["epsilon"][0].frame["solver"].unique().sort().to_list() == ["pot:log", "pot:stabilized"]
    assert not [*report.ERRORS.draw(rows.filter(pl.col("rtol") == 1e-3))]
    assert not [*report.EPSILONS.draw(rows.filter(pl.col("epsilon") == 0.1))]


def test_promises_are_quotients_of_records(records):
    ours = {**records[1], "problem": "assignment[eta=1200]", "size": 500, "solver": "sinkhorn_newton"}
    theirs = {**ours, "solver": "ott:sinkhorn", "solve_s": {"median": 12 * ours["solve_s"]["median"]}}
    slow = {**ours, "solver": "pot:log", "result": "time_limit", "limit_s": 30 * ours["solve_s"]["median"]}
    lines = [[shown for _, shown in row.cells] for row in promises(frame([ours, theirs, slow]))]
    mine, other = (seconds(row["solve_s"]["median"]) for row in (ours, theirs))
    assert [mine, f"`ott:sinkhorn`: {other}", "12.0"] in [line[1:] for line in lines]
    assert any(
        line[1] == mine and line[2].startswith("`pot:log`: not in ") and line[3] == "> 30" for line in lines
    )
    assert not [*promises(frame([theirs]))]


def test_promises_of_derivatives_batches_and_memory(records):
    gradient = {"forward_s": 0.01}
    for which in ("cost", "potential"):
        gradient |= {f"{which}_gradient_s": 0.015, f"{which}_gradient_error": 2e-11}
    ours = {**records[0], **gradient, "problem": "cloud[eta=20]", "solver": "sinkhorn_newton@gradient"}
    theirs = {**ours, "solver": "ott:sinkhorn@gradient", "potential_gradient_error": 3e-4}
    theirs["potential_gradient_s"] = 0.06
    together = {**records[0], "problem": "batch[count=4,eta=10]", "solver": "sinkhorn_newton"}
    together |= {"count_of_batch": 4, "solved": 4, "slowest_s": 0.3, "solve_s": {"min": 0.8, "median": 0.9}}
    held = {**records[0], "solver": "sinkhorn[form=points]", "size": 1024, "memory_bytes": 2**22}
    lines = [
        "|".join(shown for _, shown in row.cells) for row in promises(frame([ours, theirs, together, held]))
    ]
    text = "\n".join(lines)
    assert "(1.50x a solve)|2e-11 in 15.0 ms|ott-jax: 3e-4 in 60.0 ms|4.0" in text
    assert "4 problems at once, batch, n = 12, epsilon 1/10: seconds of one; 4 solved|200 ms|" in text
    assert "|4.0 MiB|the matrix alone: 8.0 MiB|2.0" in text

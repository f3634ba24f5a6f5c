"""Transport problems as cells: problems with known answers, an independent judge, no false success."""

import dataclasses

import numpy as np
import pytest
from rich.console import Console

from bench import show, specs, suite, table, transport
from bench.cells import Cell, Settings, run_cell
from bench.plots import plot
from bench.transport import columns, judge, measure, memory, pot, problems, reference
from bench.transport.judge import Claim
from bench.transport.promises import promises

SETTINGS = Settings(repeats=1, max_steps=2000)


def record(solver, problem="assignment[eta=20]", size=12, rtol=1e-6, settings=SETTINGS):
    cell = Cell(problem, size, specs.parse(solver), rtol, "float64", 0)
    return run_cell(cell, settings, "suite", "config")


def exact(problem):
    return Claim("successful", *reference.potentials(problem), weighted=True)


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
    problem = problems.build(text, size, 0)
    assert problem.cost.max() == pytest.approx(1) and problem.cost.min() >= 0
    for weights in (problem.a, problem.b):
        assert np.all(weights > 0) and np.allclose(weights.sum(axis=-1), 1)
    assert problem.cost.shape[-2:] == problem.shape
    assert not problem.is_batch and problems.build(text, size, 0) is problem or problem.is_batch


def test_digits_are_two_different_images_on_a_background():
    problem = problems.build("digits[eta=1200]", None, 0)
    assert problem.shape == (784, 784) and problem.epsilon == 1 / 1200
    assert not np.allclose(problem.a, problem.b)
    assert problem.a.max() / problem.a.min() == pytest.approx(101)


def test_costs_on_the_grid_are_distances():
    grid = np.linspace(0, 1, 6)
    x, y = grid[3] - grid[0], grid[5] - grid[1]
    i, j = 0 * 6 + 1, 3 * 6 + 5
    assert problems.build("gaussian2d[cost=l1]", 6, 0).cost[i, j] == pytest.approx((x + y) / 2)
    assert problems.build("gaussian2d", 6, 0).cost[i, j] == pytest.approx((x**2 + y**2) / 2)


def test_rows_of_points_are_rows_of_the_matrix():
    problem = problems.build("cloud", 9, 0)
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
        ("digits[cost=l2]", "unknown cost"),
        ("cloud[eta=0]", "positive"),
    ],
)
def test_problems_that_cannot_be_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        problems.parse(text)


# --- the judge and the reference ---


@pytest.mark.parametrize(("text", "size"), [("gaussian1d[eta=100]", 60), ("gaussian2d[eta=10]", 20)])
def test_the_reference_meets_the_closed_form_of_gaussians(text, size):
    problem = problems.build(text, size, 0)
    row = judge.judge(problem, exact(problem), 1e-12)
    assert row["marginal_error"] < 1e-12
    assert row["closed_form_error"] < 1e-7 and row["sharp_closed_form_error"] < 1e-7


def test_grids_too_coarse_for_the_plan_have_no_closed_form():
    assert problems.build("gaussian1d[eta=10000]", 20, 0).closed_form is None


def test_costs_tend_to_the_exact_one():
    gaps = []
    for eta in (10, 100, 1000):
        problem = problems.build(f"assignment[eta={eta}]", 10, 0)
        row = judge.judge(problem, exact(problem), 1e-9)
        gaps.append(row["cost"] - judge.exact_cost(problem.name, 10, 0))
    assert gaps[0] > gaps[1] > gaps[2] > -1e-12 and gaps[2] < 1e-3


def test_exact_costs_of_weights_that_are_not_uniform():
    from scipy.optimize import linprog

    problem = problems.build("gaussian1d", 9, 0)
    rows = np.kron(np.eye(9), np.ones(9))
    columns = np.kron(np.ones(9), np.eye(9))
    found = linprog(
        problem.cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([problem.a, problem.b])
    )
    assert judge.exact_cost("gaussian1d", 9, 0) == pytest.approx(found.fun, rel=1e-7)


def test_the_judge_sums_the_plan(monkeypatch):
    problem = problems.build("cloud[eta=20]", 8, 0)
    rng = np.random.default_rng(0)
    f, g = 0.1 * rng.standard_normal((2, 8))
    ratio = np.exp((f[:, None] + g[None, :] - problem.cost) / problem.epsilon)
    for weighted in (True, False):
        plan = ratio / 64 if weighted else ratio
        rows, columns = plan.sum(axis=1), plan.sum(axis=0)
        row = judge.judge(problem, Claim("max_steps_reached", f, g, weighted), 1e-3)
        assert row["row_error"] == pytest.approx(np.abs(rows - problem.a).sum())
        assert row["column_error"] == pytest.approx(np.abs(columns - problem.b).sum())
        assert row["true_residual"] == row["marginal_error"] == row["row_error"] + row["column_error"]
        assert row["cost"] == pytest.approx(np.sum(plan * problem.cost))
        entropy = np.sum(plan * np.log(plan * 64) - plan) + 1
        assert row["regularised_cost"] == pytest.approx(row["cost"] + problem.epsilon * entropy)
        # A plan says the same as its potentials, and blocks of rows the same as all of them.
        monkeypatch.setattr(problems.Problem, "blocks", lambda self: iter([slice(0, 3), slice(3, 8)]))
        again = judge.judge(problem, Claim("max_steps_reached", plan=plan), 1e-3)
        for name in ("row_error", "column_error", "cost", "regularised_cost"):
            assert again[name] == pytest.approx(row[name])
        monkeypatch.undo()


def test_potential_gradients_are_those_of_finite_differences():
    problem = problems.build("cloud[eta=20]", 6, 0)
    f, g = reference.potentials(problem)
    v = np.random.default_rng(1).standard_normal(6)
    v -= v.mean()
    found = reference.potential_gradients(problem, reference.plan(problem, f, g), v)

    def functional(**changes):
        changed = dataclasses.replace(problem, _cached={}, matrix=problem.cost, **{})
        return reference.potentials(dataclasses.replace(changed, **changes))[0] @ v

    step = 1e-5
    rng = np.random.default_rng(2)
    direction = rng.standard_normal((6, 6))
    ends = [functional(matrix=problem.cost + s * step * direction) for s in (1, -1)]
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(np.sum(found["cost"] * direction), rel=1e-6)
    for name in ("a", "b"):
        along = rng.standard_normal(6) / 6
        along -= along.mean()
        ends = [functional(**{name: getattr(problem, name) + s * step * along}) for s in (1, -1)]
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(found[name] @ along, rel=1e-6)


def test_gradients_in_points_are_those_of_finite_differences():
    problem = problems.build("cloud[eta=20]", 5, 0)
    x, y = problem.points
    weights = np.random.default_rng(0).standard_normal((5, 5))
    in_x, in_y = reference.in_points(problem, weights)

    def total(x, y):
        return np.sum(weights * dataclasses.replace(problem, points=(x, y), _cached={}).cost)

    along = np.random.default_rng(1).standard_normal((5, 3))
    step = 1e-6
    in_direction = (total(x + step * along, y) - total(x - step * along, y)) / (2 * step)
    assert in_direction == pytest.approx(np.sum(in_x * along), rel=1e-6)
    in_direction = (total(x, y + step * along) - total(x, y - step * along)) / (2 * step)
    assert in_direction == pytest.approx(np.sum(in_y * along), rel=1e-6)


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
]


@pytest.mark.parametrize("solver", [*COLUMNS, "pot:epsilon_scaling"])
def test_columns_solve_to_the_true_error_asked_for(solver):
    peer = specs.parse(solver).peer
    pytest.importorskip({"ott": "ott", "pot": "ot"}.get(peer, peer))
    row = record(solver, settings=dataclasses.replace(SETTINGS, max_steps=5000))
    assert row["result"] == "successful" and table.succeeded(row) and not row["false_success"], row
    assert row["marginal_error"] <= 1e-6 and row["num_steps"] > 0
    problem = problems.build("assignment[eta=20]", 12, 0)
    assert row["cost"] == pytest.approx(judge.judge(problem, exact(problem), 1e-9)["cost"], rel=1e-4)
    assert row["cost_gap"] > 0 and row["epsilon"] == 0.05 and row["unknowns"] == 24


def test_the_exact_plan_has_no_gap():
    pytest.importorskip("ot")
    row = record("pot:emd", "gaussian1d[eta=10]")
    assert table.succeeded(row) and abs(row["cost_gap"]) < 1e-12 and "closed_form_error" not in row


def test_out_of_steps_is_no_success():
    pytest.importorskip("ott")
    row = record("ott:sinkhorn", "assignment[eta=10000]", settings=Settings(repeats=1, max_steps=20))
    assert row["result"] == "max_steps_reached" and not table.succeeded(row)
    assert row["num_steps"] == 20 and row["marginal_error"] > 1e-6


def test_columns_out_of_time_are_not_tried_at_tighter_tolerances(monkeypatch):
    pytest.importorskip("ot")
    monkeypatch.setattr(measure, "_too_slow", {})
    monkeypatch.setattr(columns, "_limits", {})
    monkeypatch.setattr(columns.Column, "seconds_per_step", lambda self, problem, limit_s: 0.02)
    settings = Settings(repeats=1, max_steps=10**6, limit_s=0.5)
    row = record("pot:log", "assignment[eta=10000]", settings=settings)
    # 25 steps of 20 ms would fit; as they are faster, even on a busy machine, more are taken.
    assert row["num_steps"] > 50 and row["result"] == "time_limit" and table.reason(row) == "out of time"
    tighter = record("pot:log", "assignment[eta=10000]", rtol=1e-9, settings=settings)
    assert tighter["result"] == "time_limit" and tighter["not_tried_after"] == 1e-6
    assert tighter["num_steps"] is None


def test_a_false_claim_is_found(monkeypatch):
    pytest.importorskip("ot")
    read = pot.PotColumn.read

    def lying(self, raw, problem, rtol):
        outcome = read(self, raw, problem, rtol)
        return dataclasses.replace(outcome, plan=1.001 * outcome.plan)

    monkeypatch.setattr(pot.PotColumn, "read", lying)
    row = record("pot:stabilized")
    assert row["result"] == "successful" and row["false_success"] and not table.succeeded(row)
    assert "true marginal error 2" in table.reason(row)


def test_rounding_of_potentials_is_not_held_against_a_column():
    problem = problems.build("assignment[eta=10000]", 20, 0)
    outcome = exact(problem)
    row = judge.judge(problem, outcome, 1e-15)
    assert 0 < row["rounding"] < 1e-11
    assert row["marginal_error"] > 1e-15 and not row["false_success"]  # though it is above the tolerance
    above = {"problem": "cloud", "solver": "x", "result": "successful", "rtol": 1e-12, "true_residual": 2e-12}
    assert table.succeeded({**above, "rounding": 1e-12}) and not table.succeeded(above)
    shifted = Claim("successful", outcome.f + 10 * row["rounding"] * problem.epsilon, outcome.g, True)
    assert judge.judge(problem, shifted, 1e-15)["false_success"]


@pytest.mark.parametrize("solver", ["sinkhorn_newton", "ott:sinkhorn"])
def test_batches_are_judged_one_by_one(solver):
    spec = specs.parse(solver)
    pytest.importorskip(spec.peer)
    row = record(solver, "batch[eta=10,count=3]", size=6)
    assert table.succeeded(row) and row["solved"] == row["count_of_batch"] == 3 and len(row["steps"]) == 3
    assert row["slowest_s"] <= row["one_by_one_s"]
    errors = []
    for i in range(3):
        problem = measure._single(problems.build("batch[eta=10,count=3]", 6, 0), i)
        column = columns.find(spec.peer).make(spec)
        solve, _ = column.program(problem, 1e-6, 2000)
        outcome = column.read(solve(), problem, 1e-6)
        errors.append(judge.judge(problem, outcome, 1e-6)["marginal_error"])
    assert row["marginal_error"] == pytest.approx(max(errors), rel=1e-3)


@pytest.mark.parametrize("form", ["matrix", "points"])
@pytest.mark.parametrize(("solver", "accuracy"), [("sinkhorn_newton", 1e-8), ("ott:sinkhorn", 1e-4)])
def test_derivatives_are_compared_with_the_reference(solver, accuracy, form):
    pytest.importorskip(specs.parse(solver).peer)
    row = record(f"{solver}[form={form}]@gradient", "cloud[eta=20]", rtol=1e-10)
    assert table.succeeded(row), row
    assert row["cost_gradient_error"] < 1e-8 and row["potential_gradient_error"] < accuracy
    assert min(row[f"{name}_s"] for name in ("forward", "cost_gradient", "potential_gradient")) > 0


def test_memory_grows_with_what_is_held():
    with memory._Peak() as large:
        held = np.ones(20_000_000)
        del held
    with memory._Peak() as small:  # not hidden by what came before
        _ = np.ones(1000)
    assert small.bytes < 20e6 and 150e6 < large.bytes < 250e6


def test_memory_is_measured_in_a_process_of_its_own():
    pytest.importorskip("ott")
    settings = dataclasses.replace(SETTINGS, memory=True)
    row = record("ott:sinkhorn", "cloud[eta=20]", settings=settings)
    assert table.succeeded(row) and row["memory_bytes"] >= 0 and row["compile_memory_bytes"] > 0
    gradient = record("ott:sinkhorn[form=points]@gradient", "cloud[eta=20]", settings=settings)
    assert table.succeeded(gradient) and gradient["memory_bytes"] >= 0, gradient
    failed = record("ott:sinkhorn[form=rows]", "cloud[eta=20]", settings=settings)
    assert failed["result"].startswith("error: ValueError") and "memory" in show.markdown([failed])


# --- suites, tables, pictures ---


def test_the_suite_promises_problems_tolerances_and_columns():
    cells = suite.load("transport").cells
    names = {specs.parse_part(cell.problem).name for cell in cells}
    assert names == set(transport.PROBLEMS)
    headline = [cell for cell in cells if cell.problem == "assignment[eta=1200]"]
    assert {cell.rtol for cell in headline} == {1e-3, 1e-6, 1e-9, 1e-12}
    solvers = {(cell.spec.peer, cell.spec.solver.name) for cell in headline}
    assert {(p, s) for p in ("ott", "pot") for s in columns.find(p).SOLVERS} < solvers
    assert {("nsolve", "sinkhorn"), ("nsolve", "sinkhorn_newton")} < solvers
    assert {cell.size for cell in cells if cell.problem.startswith("digits")} == {None}


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({"solver": "ott:sinkorn"}, "did you mean sinkhorn"),
        ({"solver": "scipy:cg"}, "unknown peer of transport problems"),
        ({"solver": "pot:log@gradient"}, "no derivatives"),
        ({"solver": "pot:log+ilu"}, "no preconditioner"),
        ({"problem": ["assignment", "poisson2d"]}, "mixes"),
        ({"count": 4}, "count"),
        ({"history": True}, "history"),
        ({"dtype": "float32"}, "float32"),
        ({"problem": "poisson2d", "solver": "scipy:cg", "limit_s": 3.0}, "limit_s"),
        ({"size": [None]}, "needs a size"),
        ({"limit_s": "x"}, "must be float"),
    ],
)
def test_groups_that_cannot_be_are_refused(group, words):
    with pytest.raises(ValueError, match=words):
        suite.ad_hoc({"problem": "assignment", "size": 8, "solver": "pot:log", **group})


@pytest.fixture(scope="module")
def records():
    pytest.importorskip("ot")
    return [
        record(solver, f"assignment[eta={eta}]", rtol=rtol)
        for eta in (10, 50)
        for solver in ("pot:stabilized", "pot:log", "pot:emd")
        for rtol in (1e-3, 1e-6)
    ]


def test_tables_show_seconds_and_steps_to_each_tolerance(records):
    text = show.markdown(records)
    assert "assignment, 12 points, epsilon 0.1 of the largest cost" in text
    assert "| solver | 1e-3 | 1e-6 | a step | compile | cost gap | result |" in text
    row = records[1]
    cell = f"{table.seconds(row['solve_s']['median'])} ({row['num_steps']})"
    assert cell in text and "Fastest: to 1e-3 pot:" in text
    show.show(records, Console(width=120, quiet=True))


def test_failures_have_their_reasons_in_the_table(records):
    slow = {**records[1], "result": "time_limit", "true_residual": 4e-5}
    lied = {**records[3], "false_success": True, "true_residual": 3e-5}
    text = show.markdown([records[0], slow, records[2], lied])
    assert "out of time at 1e-6, got to 4e-5" in text and "✗" in text
    assert "says success, true marginal error 3e-5 at 1e-6" in text


def test_pictures(records, tmp_path):
    names = {path.name for path in plot(records, "transport", tmp_path)}
    assert "transport-assignment-eta-10-12.png" in names and len(names) == 4
    names = {path.name for path in plot(records, "epsilon", tmp_path)}
    assert names == {"epsilon-assignment-12.png", "epsilon-assignment-12.svg"}
    with pytest.raises(ValueError, match="two tolerances"):
        plot(records[:1], "transport", tmp_path)
    with pytest.raises(ValueError, match="two values of epsilon"):
        plot(records[:2], "epsilon", tmp_path)


def test_promises_are_quotients_of_records(records):
    ours = {**records[1], "problem": "assignment[eta=1200]", "size": 500, "solver": "sinkhorn_newton"}
    theirs = {**ours, "solver": "ott:sinkhorn", "solve_s": {"median": 12 * ours["solve_s"]["median"]}}
    slow = {**ours, "solver": "pot:log", "result": "time_limit", "limit_s": 30 * ours["solve_s"]["median"]}
    text = promises([ours, theirs, slow])
    mine, other = (table.seconds(row["solve_s"]["median"]) for row in (ours, theirs))
    assert f"to 1e-6 | {mine} | `ott:sinkhorn`: {other} | 12.0 |" in text
    assert f"| {mine} | `pot:log`: not in " in text and "| > 30 |" in text
    assert promises([]).count("\n") == 2


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
    text = promises([ours, theirs, together, held])
    assert "(1.50x a solve) | 2e-11 in 15.0 ms | ott-jax: 3e-4 in 60.0 ms | 4.0 |" in text
    assert "| 4 problems at once, batch, n = 12, epsilon 1/10: seconds of one; 4 solved | 200 ms |" in text
    assert "| 4 MiB | the matrix alone: 8 MiB | 2.0 |" in text

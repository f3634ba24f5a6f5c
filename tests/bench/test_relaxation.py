"""Tuned sequences as cells: real solves, judged apart; tables and pictures of what was learned."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp

import nsolve as ns
from bench.columns.nsolve import tuned as ours
from bench.engine import measure
from bench.engine import record as records_of
from bench.engine import spec as specs
from bench.engine import suite as suites
from bench.engine.work import Answer, Cell, Settings, Task
from bench.report.frame import frame
from bench.work import tuned
from bench.work.tuned import WORK

from .helpers import shown

COUNT = 40


def cell(solver, problem="shifted_laplacian[law=high]", size=6, seed=0, count=COUNT):
    return Cell(problem, size, solver, 1e-8, "float64", seed, count)


def make(text, size):
    return WORK.call(text, size=size)


def run(*args, **keywords):
    settings = Settings(max_steps=10000, repeats=1)
    return measure.measure(cell(*args, **keywords), settings, WORK, "test")


@pytest.fixture(scope="module")
def records():
    """A small suite: both problems, the columns that differ in kind."""
    shifted = ["sor[omega=1.0]", "sor@best_fixed", "sor@tsallis_inf[bins=5]", "sor@cheb_cb"]
    heat = ["cg@warm", "cg+ssor[omega=1.0]@warm", "cg+ssor@best_fixed,warm", "cg+ssor@tsallis_inf,warm"]
    rows = [run(solver, seed=seed) for seed in (0, 1) for solver in shifted]
    return rows + [run(solver, "heat_trajectory[dt=0.025]", 12) for solver in heat]


def named(records, solver, problem="shifted"):
    return next(r for r in records if r["solver"] == solver and r["problem"].startswith(problem))


@pytest.mark.compiles("whoever comes first pays for the records of all")
def test_records_are_complete(records):
    for row in records:
        assert row["result"] == "successful" and not row["false_success"], row
        assert row["true_residual"] <= 1.0001e-8 and row["largest_residual"] <= 1.0001e-8
        assert row["solved"] == row["count"] == row["judged"] == COUNT
        means = np.array(row["window_steps"])
        assert len(means) * row["window"] == COUNT
        assert means.sum() * row["window"] == pytest.approx(row["num_steps"], abs=0.1)
        assert row["last_steps"] == pytest.approx(row["num_steps"] / COUNT)
        assert row["num_matvecs"] > row["num_steps"]
        assert row["solve_s"]["median"] > 0 and row["compile_s"] > 0
        tuned = "tsallis" in row["solver"] or "cheb" in row["solver"]
        assert ("tuner_s" in row) == tuned
        assert ("window_omega" in row) == (row["solver"] != "cg@warm")


def test_the_best_fixed_value_is_that_of_a_table_made_one_by_one(records):
    row = named(records, "sor@best_fixed")
    sequence = WORK.make(cell("sor", row["problem"], row["size"]))
    problem, (shifts, vectors) = sequence.like.problem, sequence.given
    omegas = np.linspace(1, 1.95, 20)

    @jax.jit
    def steps(shift, b, omega):
        solver = ns.SOR(rtol=1e-8, omega=omega)
        return lx.linear_solve(problem.operator(shift), b, solver).stats["num_steps"]

    table = np.array([[steps(c, b, omega) for omega in omegas] for c, b in zip(shifts, vectors, strict=True)])
    best = table.sum(axis=0).argmin()
    assert row["omega"] == pytest.approx(omegas[best])
    assert row["num_steps"] == table[:, best].sum()
    np.testing.assert_allclose(row["search"]["steps"], table.mean(axis=0))
    assert row["search"]["best_fixed"] == pytest.approx(table[:, best].mean())
    assert row["search"]["instance_optimal"] == pytest.approx(table.min(axis=1).mean())
    assert named(records, "sor[omega=1.0]")["num_steps"] == table[:, 0].sum()


def test_the_shifted_systems_are_the_papers():
    problem = make("shifted_laplacian[law=low]", 10)
    values = problem.laplacian.toarray()
    assert values.shape == (100, 100) and set(np.unique(values)) == {-1.0, 0.0, 4.0}
    shifts, vectors = problem.draw(0, 4000)
    assert shifts.min() > -0.15 and shifts.max() < 0.45
    assert shifts.mean() == pytest.approx(-0.15 + 0.6 * 2 / 8, abs=5e-3)
    assert abs(vectors).max() <= 3 and vectors.std() == pytest.approx(0.987, abs=0.01)
    np.testing.assert_allclose(problem.operator(jnp.asarray(0.2)).as_matrix(), values + 0.2 * np.eye(100))
    assert np.linalg.eigvalsh(values - 0.15 * np.eye(100)).min() > 0
    high, _ = make("shifted_laplacian[law=high]", 10).draw(0, 4000)
    assert high.std() > 1.5 * shifts.std()


def test_the_heat_trajectory_is_that_of_scipy():
    """Crank and Nicolson's method with direct solves."""
    size, count, dt = 12, 40, 0.025
    problem = make(f"heat_trajectory[dt={dt}]", size)
    sequence = ns.SequenceSolver(ns.CG(rtol=1e-12), y0="previous")
    key = jax.random.key(0)
    trace, samples = jax.jit(lambda: ours._run_trajectory(problem, sequence, count, 4, key))()
    x, y = (g.ravel() for g in np.meshgrid(*[np.arange(1, size) / size] * 2, indexing="ij"))

    def bump(cx, cy, radius):
        q = ((x - cx) ** 2 + (y - cy) ** 2) / radius**2
        return np.where(q < 1, np.exp(1 - 1 / np.where(q < 1, 1 - q, 1)), 0)

    u, kept, identity = bump(0.5, 0.5, 0.25), [], sp.eye_array(len(x))
    for i in range(count):
        t = 2 * np.pi * (i + 0.5) * dt
        kappa = max(0.01 * np.sin(t), -10 * np.sin(t))
        half = dt / 2 * kappa * problem.laplacian
        force = 32 * bump(0.5 + 0.25 * np.cos(t), 0.5 + 0.25 * np.sin(t), 0.125)
        u = sp.linalg.spsolve(sp.csc_array(identity + half), u - half @ u + dt * force)
        kept.append(u)
        assert trace.context[i] == pytest.approx(kappa)
    np.testing.assert_allclose(samples.solution, kept[3::4], atol=1e-9)
    np.testing.assert_allclose(samples.start, kept[2::4], atol=1e-9)
    assert tuned.residuals(problem, samples).max() < 1.1e-12


@pytest.mark.compiles("a suite of its own, with an arm that fails")
def test_judging_sees_what_the_solver_does_not(records):
    """A solution that was changed, and one that was claimed and is not."""
    problem = make("shifted_laplacian", 6)
    sequence = ns.SequenceSolver(ns.SOR(rtol=1e-8, omega=1.5))
    given = problem.draw(0, COUNT)
    trace, samples = ours._run_given(
        problem, sequence, *jax.tree.map(jnp.asarray, given), 1, jax.random.key(0)
    )
    trace = tuned.Trace(*map(np.asarray, trace))
    sequence = tuned.TunedSequence(tuned.Like("shifted_laplacian", 6, COUNT, problem), given)
    task = Task(sequence, cell("sor"))

    def judged(trace, samples):
        return tuned.judge(sequence, Answer("successful", tuned.Tuned(trace, samples, None)), task)

    assert not judged(trace, samples)["false_success"]
    wrong = samples._replace(solution=samples.solution.at[7].add(1e-3))
    verdict = judged(trace, wrong)
    assert verdict["false_success"] and verdict["true_residual"] > 1e-5
    failed = trace._replace(code=np.where(np.arange(COUNT) == 7, 1, 0))
    verdict = judged(failed, wrong)
    assert verdict["result"] == "max_steps_reached" and not verdict["false_success"]
    assert verdict["solved"] == COUNT - 1


def test_out_of_steps_is_a_failed_row():
    row = measure.measure(cell("sor[omega=1.0]"), Settings(max_steps=20, repeats=1), WORK, "test")
    assert row["result"] == "max_steps_reached" and row["solved"] < COUNT
    assert "out of steps (" in shown(WORK, [row]) and "of 40 systems)" in shown(WORK, [row])


def test_learners_do_not_depend_on_what_ran_before(records):
    again = run("sor@cheb_cb", seed=1)
    before = [r for r in records if r["solver"] == "sor@cheb_cb"][1]
    assert again["window_steps"] == before["window_steps"]
    assert again["key"] == before["key"]


def test_tables_pair_the_seeds(records):
    (table,) = WORK.tables
    shifted, heat = table.render(frame(records))
    assert shifted.title.startswith("shifted_laplacian[law=high] 6, 36 unknowns, 40 systems in a row")
    assert heat.title.startswith("heat_trajectory")
    texts = {
        row.cells[0][1]: dict(zip(made.headings, [shown for _, shown in row.cells], strict=True))
        for made in (shifted, heat)
        for row in made.rows
    }
    assert texts["sor@best_fixed"]["of best fixed"] == "1.000"
    ours_, best = (
        [r for r in records if r["solver"] == name] for name in ("sor[omega=1.0]", "sor@best_fixed")
    )
    assert [r["seed"] for r in ours_] == [r["seed"] for r in best] == [0, 1]
    ratio = np.mean([one["last_steps"] / base["last_steps"] for one, base in zip(ours_, best, strict=True)])
    assert texts["sor[omega=1.0]"]["of best fixed"].startswith(f"{ratio:.3f} ± ")
    assert texts["sor[omega=1.0]"]["seeds"] == "2"
    assert texts["cg+ssor[omega=1.0]@warm"]["faster"] == "1.00x"
    assert texts["cg+ssor@tsallis_inf,warm"]["tuner"].endswith(" %")
    assert "Best fixed omega, found on 40 of the systems" in shifted.note
    assert "| sor@cheb_cb | 2 |" in shown(WORK, records)


def test_pictures(records):
    for chart in WORK.charts:
        drawn = list(chart.draw(frame(records)))
        assert len(drawn) == 2 and all("sor@cheb_cb" in str(d.spec()) or "heat" in d.title for d in drawn)
        assert not list(chart.draw(frame([{**r, "result": "breakdown"} for r in records])))


def test_regret_sums_up(records):
    rows = tuned._beside_best(frame(records))
    row, base = named(records, "sor@cheb_cb"), named(records, "sor@best_fixed")
    (beyond,) = rows.filter(solver="sor@cheb_cb", seed=0)["beyond"]
    assert beyond[-1] == pytest.approx(row["num_steps"] - base["num_steps"], abs=0.1)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("cg@tsallis_inf", "no omega to tune"),
        ("sor@tsalis_inf", "did you mean tsallis_inf"),
        ("sor@tsallis_inf[bin=5]", "did you mean bins"),
        ("sor@cheb_cb,tsallis_inf", "several tuners"),
        ("scipy:cg", "scipy offers nothing for tuned problems"),
        ("cg[form=stencil]", "leave out form"),
        ("sor@carried", "unknown mode"),
    ],
)
def test_bad_columns_are_named(column, message):
    with pytest.raises(ValueError, match=message):
        WORK.check_column(specs.parse(column), specs.parse_part("shifted_laplacian"))


def test_bad_problems_are_named():
    for text, size, message in (
        ("shifted_laplacian[law=medium]", 10, "law of shifted_laplacian must be one of low, high"),
        ("shifted_laplacian", 11, "`size` must be at most 10"),
        ("heat_trajectory", 2, "`size` must be at least 4"),
        ("heat_trajectory[dt=2]", 10, "`dt` must be below 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make(text, size)


def test_the_suite_is_read():
    chosen = suites.load("relax")
    assert {cell.count for cell in chosen.cells} == {5000}
    assert len({records_of.key(cell, "cpu") for cell in chosen.cells}) == len(chosen.cells)

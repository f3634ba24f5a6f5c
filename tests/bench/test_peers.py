"""Every column runs, tells the truth about itself, and counts alike."""

import numpy as np
import pytest
import scipy.sparse

from bench.columns import petsc
from bench.engine import measure as engine
from bench.engine import spec as specs
from bench.engine.work import Answer, Cell, Settings, Task
from bench.work.linear import WORK, judge

SETTINGS = Settings(max_steps=500, repeats=1, history=True)
COLUMNS = {
    "poisson2d": [
        "cg", "cg[form=stencil]", "cg+jacobi", "sparse_lu", "sparse_cholesky",
        "auto", "auto[form=stencil]",
        "scipy:cg", "scipy:cg+jacobi", "scipy:minres[stop=norm]", "scipy:splu",
        "pyamg:ruge_stuben+cg", "pyamg:smoothed_aggregation", "pyamg:cg",
        "jax.scipy:cg", "jax.scipy:cg[form=sparse]", "jax.scipy:cg[form=stencil]",
        "jax.scipy:cg[form=bcsr]+jacobi", "lineax:cg", "lineax:cg[form=stencil]+jacobi",
        "solvax:cg", "solvax:cg[form=stencil]+jacobi",
    ],
    "convection_diffusion2d": [
        "scipy:bicgstab", "scipy:gmres[restart=50]", "scipy:gmres+ilu[drop_tol=1e-3]",
        "jax.scipy:bicgstab", "jax.scipy:gmres[restart=50]", "lineax:bicgstab",
        "lineax:gmres[restart=50]", "solvax:gmres[restart=50]", "sparse_lu",
        "klujax:klu", "sparsax:klu", "splineax:auto",
    ],
}  # fmt: skip


def measure(solver, problem="poisson2d", size=10, settings=SETTINGS, rtol=1e-8, dtype="float64"):
    spec = specs.parse(solver)
    if spec.peer in ("pyamg", "solvax", "klujax", "sparsax", "splineax"):
        pytest.importorskip(spec.peer)
    return engine.measure(Cell(problem, size, str(spec), rtol, dtype, 0), settings, WORK, "test")


def prepare(problem, size, solver, rtol=1e-8, dtype="float64"):
    cell = Cell(problem, size, solver, rtol, dtype, 0)
    task = Task(WORK.make(cell), cell, SETTINGS)
    return task, WORK.offer(task.spec).prepare(task)


@pytest.mark.parametrize(("problem", "solver"), [(p, s) for p, columns in COLUMNS.items() for s in columns])
def test_solves(problem, solver):
    row = measure(solver, problem)
    assert row["result"] == "successful", row["result"]
    assert row["true_residual"] <= 1e-8 * (1 + 1e-6) and row["false_success"] is False
    assert row["solve_s"]["n"] == 1 and row["solve_s"]["median"] > 0
    assert row["setup_s"] >= 0 and row["compile_s"] >= 0


def test_cg_takes_the_same_steps_everywhere():
    columns = ["cg", "cg[form=stencil]", "scipy:cg", "jax.scipy:cg", "lineax:cg"]
    steps = [measure(column, size=16)["num_steps"] for column in columns]
    assert max(steps) - min(steps) <= 1
    assert steps[0] > 20


@pytest.mark.parametrize("solver", ["product", "product[form=stencil]", "scipy:product",
                                    "jax.scipy:product[form=bcoo]"])  # fmt: skip
def test_products_are_judged_against_scipy(solver):
    row = measure(solver)
    assert row["result"] == "successful" and row["false_success"] is False
    assert row["true_residual"] < 1e-14 and row["num_matvecs"] == 1


@pytest.mark.parametrize("solver", ["cg", "scipy:cg", "pyamg:cg", "jax.scipy:cg", "lineax:cg"])
def test_out_of_steps_is_not_success(solver):
    row = measure(solver, settings=Settings(max_steps=3, repeats=1))
    assert row["result"] == "max_steps_reached"
    assert row["true_residual"] > 1e-3 and "false_success" not in row


def test_minres_by_its_own_rule_is_caught():
    row = measure("scipy:minres", "poisson2d", 24)
    assert row["result"] == "successful" and row["true_residual"] > 1e-8
    assert row["false_success"] is True


def test_history_begins_at_one_and_ends_at_the_tolerance():
    for solver in ("scipy:minres[stop=norm]", "pyamg:cg", "solvax:cg", "cg"):
        row = measure(solver)
        norms = row["residual_norms"]
        assert norms[0] == pytest.approx(1) and norms[-1] <= 1e-8
        assert len(norms) == row["num_steps"] + 1


def test_products_of_jax_are_counted():
    row = measure("jax.scipy:cg")
    assert row["num_matvecs"] == row["num_steps"] + 1
    row = measure("jax.scipy:gmres", "convection_diffusion2d")
    assert row["num_steps"] is None and row["num_matvecs"] > 10


@pytest.mark.parametrize("solver", ["cg", "scipy:cg", "jax.scipy:cg"])
def test_single_precision_runs_in_single_precision(solver):
    task, run = prepare("poisson2d", 8, solver, 1e-4, "float32")
    answer = run.answer(run.solve(run.compile(run.setup())))
    assert answer.value.dtype == np.float32 and task.problem.rhs.dtype == np.float32
    assert judge(task.problem, answer, task)["true_residual"] <= 1e-4


def test_the_judge_uses_the_true_residual():
    task, _ = prepare("poisson1d", 4, "scipy:cg")
    wrong = judge(task.problem, Answer("successful", np.zeros(4)), task)
    assert wrong == {"true_residual": 1.0, "false_success": True}
    nan = judge(task.problem, Answer("successful", np.full(4, np.nan)), task)
    assert nan["false_success"] is True
    honest = judge(task.problem, Answer("breakdown", np.zeros(4)), task)
    assert "false_success" not in honest


def test_stencil_where_there_is_none():
    row = measure("cg[form=stencil]", "heat2d")
    assert row["result"] == "error: ValueError: problem 'heat2d' has no stencil; use form=sparse"


def test_refusal_of_a_peer_is_a_row():
    row = measure("lineax:cg", "helmholtz2d[waves=1.3]", 12)
    assert row["result"].startswith("error: ValueError: `CG()` may only be used")


@pytest.mark.skipif(petsc.find_version() is None, reason="PETSc is not installed")
def test_petsc_counts_like_the_others():
    row = measure("petsc:cg", size=16)
    assert row["result"] == "successful" and row["false_success"] is False
    assert abs(row["num_steps"] - measure("scipy:cg", size=16)["num_steps"]) <= 1
    assert row["solve_s"]["n"] == petsc.REPEATS
    better = measure("petsc:cg+icc", size=16)
    assert better["num_steps"] < row["num_steps"] / 2
    # geometric multigrid: as few steps on a grid of four times as many points
    few, more = (measure("petsc:cg+mg", size=size)["num_steps"] for size in (15, 31))
    assert more <= few + 1 <= 8
    assert measure("petsc:cg+mg", size=16)["result"].startswith("error")
    assert measure("petsc:cg", "helmholtz2d[waves=2.3]", 24)["result"].startswith("breakdown")


def test_amgcl_solves():
    pytest.importorskip("pyamgcl")
    row = measure("amgcl:smoothed_aggregation[relaxation=gauss_seidel]+cg", size=32)
    assert row["result"] == "successful" and row["false_success"] is False, row["result"]
    with pytest.raises(ValueError, match="write amgcl:smoothed"):
        WORK.check_column(specs.parse("amgcl:ruge_stuben"), specs.Part("poisson2d"))


def test_petsc_missing_is_told(monkeypatch):
    monkeypatch.setattr(petsc, "find_petsc", lambda: None)
    assert petsc.find_version() is None


def test_a_hermitian_file_keeps_its_tags_and_its_size_in_failures(tmp_path):
    from scipy.io import mmwrite

    matrix = np.diag([2.0 + 0j, -3, 4]) + np.diag([1j, 1j], 1) + np.diag([-1j, -1j], -1)
    mmwrite(tmp_path / "h.mtx", scipy.sparse.csr_array(matrix))
    problem = f"matrix_market[path={tmp_path}/h.mtx]"
    row = measure("minres", problem, None)
    assert row["result"] == "successful" and row["false_success"] is False, row["result"]
    failed = measure("cg+ic", problem, None)  # which it is not tagged for
    assert failed["result"] not in ("successful", "missing") and failed["size"] == 3

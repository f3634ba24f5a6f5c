"""Kernel systems as cells: their matrices, an independent judge, columns that are told the points."""

import numpy as np
import pytest

import nsolve as ns
from bench.columns.nsolve import kernel as columns
from bench.engine.suite import Group, ad_hoc, load
from bench.engine.work import Answer, Cell, Settings, Task
from bench.report import frame
from bench.work import kernel
from bench.work.kernel import WORK, judge
from nsolve.preconditioners import kl_cholesky

from .helpers import record, shown

MINE = "tests/bench/my_solvers.py"
SIZE = 60


def cell(solver="cg", problem="kernel_matrix", size=SIZE, rtol=1e-8):
    return Cell(problem, size, solver, rtol, "float64", 0)


def task(solver="cg", **keywords):
    made = cell(solver, **keywords)
    return Task(WORK.make(made), made, Settings())


@pytest.mark.parametrize("name", kernel.KERNELS)
@pytest.mark.parametrize("dim", [2, 3])
def test_the_problem_is_the_gallerys(name, dim, monkeypatch):
    monkeypatch.setattr(kernel, "_AT_A_TIME", 7 * 30)  # rows in blocks that do not divide their number
    system = WORK.call(f"kernel_matrix[kernel={name},dim={dim},length=0.3,nugget=1e-2]", size=30, seed=4)
    same = ns.gallery.kernel_matrix(4, 30, dim, name, 0.3, 1e-2)
    expected = np.asarray(same.operator.as_matrix())
    np.testing.assert_array_equal(system.points, same.parts["points"])
    np.testing.assert_array_equal(system.rhs, same.vector)
    np.testing.assert_allclose(system.dense(), expected, rtol=1e-12)
    np.testing.assert_allclose(system.matrix @ system.rhs, expected @ system.rhs, rtol=1e-10)
    assert system.facts == {"size": 30, "unknowns": 30}


def test_every_kernel_is_there_and_others_are_refused():
    assert set(kernel.KERNELS) == set(ns.operators.kernel.KERNELS)
    for options, message in (
        ("kernel=cubic", "kernel of kernel_matrix must be one of gaussian"),
        ("dim=0", "dim of kernel_matrix must be an integer of at least 1"),
        ("length=0", "length of kernel_matrix must be a number greater than 0"),
        ("nugget=-1", "nugget of kernel_matrix must be a number of at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            ad_hoc(Group(f"kernel_matrix[{options}]", "cg", size=9))


def test_the_judge_believes_nobody():
    asked = task()
    system = asked.problem
    x = np.linalg.solve(system.dense(), system.rhs)
    assert judge(system, Answer("successful", x), asked)["true_residual"] < 1e-9
    assert judge(system, Answer("successful", x), asked)["false_success"] is False
    wrong = x * (1 + 1e-6)
    found = judge(system, Answer("successful", wrong), asked)
    assert found["true_residual"] == pytest.approx(1e-6, rel=1e-3) and found["false_success"] is True
    assert "false_success" not in judge(system, Answer("max_steps_reached", wrong), asked)
    assert judge(system, Answer("successful", np.full(SIZE, np.nan)), asked)["false_success"] is True
    # Without the nugget it is another system.
    bare = np.linalg.solve(system.dense() - 1e-6 * np.eye(SIZE), system.rhs)
    assert judge(system, Answer("successful", bare), asked)["false_success"] is True


#: With the most steps that each may take.
COLUMNS = {
    "cg": 400,
    "minres": 400,
    "cg+jacobi": 400,
    "cg+block_jacobi[block_size=15]": 100,
    "cg+nystrom[rank=40]": 60,
    "flexible_cg+kl_cholesky[neighbours=10]": 20,
    "cg+kl_cholesky": 12,
    f"cg+{MINE}:Diagonal()": 400,
    "scipy:cholesky": 0,
}


@pytest.mark.parametrize(("solver", "most"), COLUMNS.items())
def test_columns_solve(solver, most):
    row = record("kernel", "kernel_matrix", solver, SIZE)
    assert frame.succeeded(row), row["result"]
    assert row["num_steps"] <= most
    assert row["unknowns"] == SIZE and row["solve_s"]["n"] == 1 and row["setup_s"] >= 0
    table = shown(WORK, [row])
    assert "**Matérn 3/2, 60 points in the plane, length 0.2, nugget 1e-6**" in table
    assert f"| {solver} | 1e-8 |" in table


def test_out_of_steps_is_not_success():
    row = record("kernel", "kernel_matrix[dim=4]", "cg", SIZE, Settings(max_steps=2, repeats=1))
    assert row["result"] == "max_steps_reached" and "false_success" not in row
    assert "60 points in 4 dimensions" in shown(WORK, [row])


def test_preconditioners_are_told_points_and_nugget():
    asked = task(problem="kernel_matrix[nugget=1e-3]")

    def constructor(solver):
        return columns.KernelRun(Task(asked.problem, cell(solver), Settings())).constructor

    assert constructor("cg+nystrom[rank=7]") == ns.preconditioners.Nystrom(7, 1e-3)
    told = constructor("cg+kl_cholesky[neighbours=5]")
    assert told == ns.preconditioners.KLCholesky(asked.problem.points, 5)
    run = columns.KernelRun(Task(asked.problem, cell("cg+block_jacobi[block_size=8]"), Settings()))
    labels = columns.near(asked.problem.points, 8)
    inverse, dense = np.zeros((SIZE, SIZE)), asked.problem.dense()
    for label in range(labels.max() + 1):
        block = np.ix_(labels == label, labels == label)
        inverse[block] = np.linalg.inv(dense[block])
    expected = inverse @ asked.problem.rhs
    np.testing.assert_allclose(run.setup().mv(run.rhs), expected, rtol=1e-6, atol=1e-6 * abs(expected).max())


def test_each_set_up_orders_the_points():
    run = columns.KernelRun(task("cg+kl_cholesky[neighbours=3]"))
    run.setup()
    for remembered in (kl_cholesky._plan, kl_cholesky.coarse_to_fine):
        info = remembered.cache_info()
        assert (info.hits, info.misses) == (0, 1)


@pytest.mark.parametrize("block_size", [1, 7, 60, 100])
def test_blocks_are_of_near_points(block_size):
    points = np.random.default_rng(0).random((SIZE, 2)) * [1e-3, 1.0]
    labels = columns.near(points, block_size)
    sizes = np.bincount(labels)
    assert sizes.min() > 0 and min(block_size, SIZE) / 2 < sizes.max() <= block_size
    along = labels[np.argsort(points[:, 1])]  # each block is a piece of the strip
    assert np.count_nonzero(np.diff(along)) == len(sizes) - 1


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        ("sor", "unknown solver 'sor'"),
        ("cg+ic", "unknown preconditioner 'ic'"),
        ("cg[form=stencil]", "unknown parameter of solver 'cg' 'form'"),
        ("cg+nystrom[shift=1]", "unknown parameter of preconditioner 'nystrom' 'shift'"),
        ("cg+kl_cholesky[neighbours=2.5]", "neighbours of kl_cholesky must be an integer"),
        (f"cg+{MINE}:Diagnal()", "did you mean Diagonal"),
        ("scipy:cg", "unknown scipy solver 'cg'"),
        ("scipy:cholesky+jacobi", "take no preconditioner"),
        ("pyamg:cg", "pyamg offers nothing for kernel problems; nsolve, scipy do"),
    ],
)
def test_what_is_not_there_is_named(solver, message):
    with pytest.raises(ValueError, match=message):
        ad_hoc(Group("kernel_matrix", solver, size=9))


def test_the_suite_has_what_is_compared():
    cells = load("kernels").cells
    assert {(c.problem, c.size, c.rtol) for c in cells} == {
        ("kernel_matrix", 5000, 1e-6),
        ("kernel_matrix", 20_000, 1e-6),
        ("kernel_matrix", 20_000, 1e-8),
        ("kernel_matrix[dim=3]", 20_000, 1e-8),
    }
    for problem, size in {(c.problem, c.size) for c in cells}:
        there = {c.solver.split("[")[0] for c in cells if (c.problem, c.size) == (problem, size)}
        assert {"cg+block_jacobi", "cg+nystrom", "cg+kl_cholesky"} <= there
    assert {c.size for c in cells if c.solver == "scipy:cholesky"} == {5000}

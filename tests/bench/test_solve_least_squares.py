"""`solve` of matrices that are not square, or singular, beside `numpy.linalg.lstsq`."""

import dataclasses

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from bench.columns.nsolve.linear import NsolveRun
from bench.question import Question, normal_residual
from bench.solve import solve_file
from bench.work.linear import true_residual
from bench.work.systems import System

rng = np.random.default_rng(0)
TALL = rng.standard_normal((12, 3))
COMPLEX = TALL + 1j * rng.standard_normal((12, 3))


@pytest.fixture
def solved(tmp_path, monkeypatch, capsys):
    """The function (matrix, b, options) -> exit code, solution and what was printed."""
    monkeypatch.chdir(tmp_path)

    def solve(matrix, b=None, **options):
        scipy.io.mmwrite("a.mtx", sp.coo_array(matrix), precision=17)
        if b is not None:
            np.save("b.npy", b)
            options["rhs"] = "b.npy"
        out = tmp_path / "x.npy"
        out.unlink(missing_ok=True)
        code = solve_file("a.mtx", out=out, **options)
        captured = capsys.readouterr()
        return code, np.load(out) if out.exists() else None, captured.out + captured.err

    return solve


def near(x, matrix, b):
    reference = np.linalg.lstsq(matrix, b)[0]
    assert x.shape == reference.shape
    np.testing.assert_allclose(x, reference, atol=1e-7 * np.abs(reference).max())


@pytest.mark.parametrize("solver", [None, "lsmr", "lsqr", "cgls", "lsmr+sketched_qr[oversampling=2.0]"])
def test_tall_and_wide(solved, solver):
    for matrix in (TALL, TALL.T):
        code, x, shown = solved(matrix, solver=solver)
        assert code == 0
        near(x, matrix, np.ones(len(matrix)))
        rows, columns = matrix.shape
        assert f"{rows} x {columns}" in shown and (solver or "lsmr+sketched_qr") in shown
        # Of the wide one the residual is nothing, and the other number says nothing.
        assert ("|A^H r| / (|A| |r|) = " in shown) == (rows > columns)
        assert ("more equations than unknowns" in shown) == (rows > columns)


def test_real_and_complex(solved):
    b = np.cos(np.arange(12.0)) + 1j
    for matrix, given in ((COMPLEX, None), (COMPLEX, b), (TALL, b)):
        code, x, _ = solved(matrix, given)
        assert code == 0
        near(x, matrix + 0j, np.ones(12) + 0j if given is None else given)


def test_integers(solved):
    code, x, _ = solved(np.array([[2, 0], [0, 3], [1, 0]]), np.arange(3))
    assert code == 0
    near(x, np.array([[2.0, 0], [0, 3], [1, 0]]), np.arange(3.0))


def test_each_column_is_judged_by_its_own_rule(solved):
    b = np.stack([np.arange(12.0), TALL @ np.ones(3), np.zeros(12)], 1)
    code, x, shown = solved(TALL, b)
    assert code == 0 and "3 of 3 successful" in shown and "|A^H r|" in shown
    near(x, TALL, b)


def test_the_solution_has_as_many_entries_as_the_matrix_has_columns(solved):
    for shape, wanted in (((3,), (12,)), ((3, 1), (12, 1)), ((1, 3), (1, 12)), ((3, 3), (12, 3))):
        assert solved(TALL.T, np.ones(shape), solver="lsmr")[1].shape == wanted
    for shape, wanted in (((), (12,)), ((1,), (12,)), ((1, 1), (12, 1)), ((1, 2), (12, 2))):
        code, x, _ = solved(np.ones((1, 12)), np.ones(shape), solver="lsmr")
        assert code == 0 and x.shape == wanted and np.allclose(x, 1 / 12)


def test_a_vector_of_the_other_length(solved):
    code, x, shown = solved(TALL, np.ones(3))
    assert code == 2 and x is None
    assert "b.npy has shape (3,); the matrix needs vectors of 12 numbers, as many as its rows" in shown


def test_lack_of_rank_is_said_and_gives_the_smallest_norm(solved):
    dependent, empty = TALL[:, [0, 0, 2]], TALL * [1, 0, 1]
    for matrix, words in (
        (dependent, "1 of 3 depend on those before them"),
        (dependent.T, "1 of 3 depend on those before them"),
        (empty, "at most 2: column 1 is empty (counted from 0)"),
        (empty.T, "at most 2: row 1 is empty (counted from 0)"),
    ):
        code, x, shown = solved(matrix, np.arange(len(matrix)))
        assert code == 0 and words in shown and "that of smallest norm" in shown
        near(x, matrix, np.arange(len(matrix)))


def test_an_ill_conditioned_matrix_is_said(solved):
    matrix = TALL @ np.array([[1, 1, 1], [0, 1e-6, 0], [0, 0, 1]])
    number = np.linalg.cond(matrix)
    for solver in (None, "lsmr"):
        _, _, shown = solved(matrix, np.arange(12.0), solver=solver)
        told = float(shown.split("condition about ")[1].split(",")[0])
        assert number / 10 < told < number * 10 and "rank is not full" not in shown
    _, _, shown = solved(TALL @ np.array([[1, 1, 1], [0, 1e-14, 0], [0, 0, 1]]))
    assert "to rounding the rank is not full" in shown


SINGULAR = {
    "zero row": (np.diag([1.0, 2, 0]), "row 3 is all zeros"),
    "by its zeros": (np.array([[1.0, 1, 1], [1, 0, 0], [1, 0, 0]]), "the 2 rows 1, 2 have entries in"),
    "by its values": (np.ones((3, 3)), "another --solver (lsmr: least squares)"),
}


@pytest.mark.parametrize("matrix, words", SINGULAR.values(), ids=SINGULAR)
def test_a_singular_matrix_leads_to_least_squares(solved, matrix, words):
    b = np.arange(1.0, 4)
    code, _, shown = solved(matrix, b)
    assert code > 0 and words in shown and "lsmr" in shown
    for solver in ("lsmr", "lsqr", "cgls"):
        code, x, _ = solved(matrix, b, solver=solver)
        assert code == 0
        near(x, matrix, b)


def test_only_what_is_measured_counts(solved, monkeypatch):
    answer = NsolveRun.answer

    def wrong(self, raw):
        found = answer(self, raw)
        assert found.result == "successful"
        return dataclasses.replace(found, value=found.value * (1 + 1e-6))

    monkeypatch.setattr(NsolveRun, "answer", wrong)
    for matrix in (TALL, TALL.T, np.ones((3, 3))):
        code, _, shown = solved(matrix, np.arange(1.0, 1 + len(matrix)), solver="lsmr")
        assert code == 1 and "FAILED" in shown and "is above" in shown


def test_a_small_normal_residual_is_no_solution_where_there_is_one():
    x, b = np.array([1.0, 0.0]), np.ones(2)
    for extra, right in ((0, False), (1, True)):  # an equation more, which nothing meets
        matrix = sp.csr_array(np.vstack([np.diag([1.0, 1e-9]), np.zeros((extra, 2))]))
        given = np.append(b, np.ones(extra))
        system = System("small", 2, matrix, given)
        verdict = Question(system, given[:, None], (2,), 1e-8, least_squares=True).judge(x, 0)
        assert verdict.normal < 1e-8 < verdict.residual and (verdict.excess <= 1) == right


def test_a_tolerance_below_rounding(solved):
    noise = 1e-9 * np.cos(np.arange(12.0))
    code, x, shown = solved(TALL, TALL @ np.ones(3) + noise, rtol=1e-12)
    assert code == 1 and "rounding, which is the limit here: ask for a larger --rtol" in shown
    assert np.allclose(x, 1, atol=1e-8)


def test_out_of_steps(solved):
    code, x, shown = solved(TALL, solver="lsqr", max_steps=1)
    assert code == 1 and x.shape == (3,) and "does NOT meet rtol" in shown


def test_every_size_of_numbers(solved):
    for size, length in ((1e200, 1.0), (1e-200, 1.0), (1.0, 1e-300), (1.0, 1e200)):
        code, x, _ = solved(TALL * size, np.arange(12.0) * length)
        assert code == 0
        reference = np.linalg.lstsq(TALL, np.arange(12.0))[0]
        np.testing.assert_allclose(x, reference * length / size, rtol=1e-7)


def test_measures_of_every_size():
    b = np.arange(12.0)
    x = np.linalg.lstsq(TALL, b)[0] + 1e-3
    residual, normal = true_residual(TALL, x, b), normal_residual(sp.csr_array(TALL), x, b)
    r = b - TALL @ x
    assert np.isclose(normal, np.linalg.norm(TALL.T @ r) / np.linalg.norm(TALL) / np.linalg.norm(r))
    for size, length in ((1e200, 1.0), (1e-200, 1.0), (1.0, 1e-300), (1.0, 1e200)):
        scaled = sp.csr_array(TALL * size), x * (length / size), b * length
        assert np.isclose(true_residual(*scaled), residual) and np.isclose(normal_residual(*scaled), normal)


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        ("cg", "the matrix is 12 by 3; lsmr, lsqr and cgls alone take such a one"),
        ("scipy:gmres", "the matrix is 12 by 3; lsmr, lsqr and cgls alone take such a one"),
        ("cg+sketched_qr", "sketched_qr is for lsmr, lsqr, cgls"),
        ("lsmr[damping=1.0]", "unknown parameter of solver 'lsmr' 'damping'"),
        ("lsmr+sketched_qr[key=1]", "unknown parameter of preconditioner 'sketched_qr' 'key'"),
        ("lsmr+sketched_qr[oversampling=0.5]", "must be a number above 1"),
        ("lsmr[form=stencil]", "no stencil"),
    ],
)
def test_bad_solvers(solved, solver, message):
    code, x, shown = solved(TALL, solver=solver)
    assert code == 2 and x is None and message in shown


def test_history(solved, tmp_path):
    assert solved(TALL, solver="lsmr", history="r.svg")[0] == 0
    assert "convergence" in (tmp_path / "r.svg").read_text()

"""`solve`: real answers, honest exit codes, one clear line for bad input."""

import re

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from bench.solve import solve_file
from tests.helpers import read_by_scipy, real_matrices


def laplacian(n=20):
    return sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))


def write(path, matrix):
    scipy.io.mmwrite(path, sp.coo_array(matrix), precision=17)
    return path


@pytest.fixture
def spd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write(tmp_path / "spd.mtx", laplacian())


def check(path, x, b):
    matrix = read_by_scipy(path)
    assert np.linalg.norm(b - matrix @ x) <= 1e-8 * (1 + 1e-6) * np.linalg.norm(b)


def test_default_choice_and_default_output(spd, tmp_path, capsys):
    assert solve_file(spd) == 0
    check(spd, np.load(tmp_path / "spd.solution.npy"), np.ones(20))
    out = capsys.readouterr().out
    assert "all ones" in out and "IncompleteCholesky" in out and "successful" in out


@pytest.mark.parametrize("suffix", [".npy", ".mtx", ".txt"])
def test_right_hand_side_formats(spd, tmp_path, suffix):
    b = np.arange(20.0)
    file = tmp_path / f"b{suffix}"
    if suffix == ".npy":
        np.save(file, b)
    elif suffix == ".mtx":
        scipy.io.mmwrite(file, b.reshape(-1, 1))
    else:
        lines = [f"{number:.12f}D+00  # Fortran's" for number in b]
        file.write_text("% a vector\n" + "\n".join(lines) + "\n")
    out = tmp_path / "x.mtx"
    assert solve_file(spd, rhs=file, solver="scipy:splu", out=out) == 0
    check(spd, read_by_scipy(out).ravel(), b)


def test_an_indefinite_matrix_is_solved_by_the_next_choice(tmp_path, capsys):
    path = write(tmp_path / "indefinite.mtx", laplacian() - 0.5 * sp.eye_array(20))
    assert solve_file(path, out=tmp_path / "x.npy") == 0
    check(path, np.load(tmp_path / "x.npy"), np.ones(20))
    out = capsys.readouterr().out
    assert out.index("CG") < out.index("MINRES")


def test_unsymmetric_and_zero_on_the_diagonal(tmp_path):
    matrix = np.roll(np.eye(12), 1, axis=1) + 0.1 * np.diag(np.ones(10), 2)
    path = write(tmp_path / "unsymmetric.mtx", matrix)
    assert solve_file(path, out=tmp_path / "x.npy") == 0
    check(path, np.load(tmp_path / "x.npy"), np.ones(12))


def test_singular_inconsistent_is_not_called_solved(tmp_path, capsys):
    neumann = laplacian(12).toarray()
    neumann[0, 0] = neumann[-1, -1] = 1.0
    path = write(tmp_path / "singular.mtx", neumann)
    assert solve_file(path, solver="minres", out=tmp_path / "x.npy", max_steps=200) == 1
    assert "FAILED" in capsys.readouterr().out


def test_out_of_steps_says_so(spd, capsys):
    assert solve_file(spd, solver="cg", max_steps=3) == 1
    out = capsys.readouterr().out
    assert "max steps reached, iterations 3" in out and "does NOT meet" in out


def bad_files(tmp_path):
    header = "%%MatrixMarket matrix coordinate real general\n"
    texts = {
        "truncated": (header + "3 3 3\n1 1 1.0\n2 2 1.0\n", "truncated"),
        "nonsense": ("hello\n", "nonsense"),
        "not_square": (header + "2 3 2\n1 1 1.0\n2 2 1.0\n", "2 by 3"),
        "nan": (header + "2 2 2\n1 1 nan\n2 2 1.0\n", r"\(1, 1\)|nan"),
        "zero_row": (header + "3 3 2\n1 1 1.0\n2 2 1.0\n", "row 3 is all zeros"),
        "stored_zero_row": (header + "2 2 2\n1 1 1.0\n2 2 0.0\n", "row 2 is all zeros"),
    }
    for name, (text, message) in texts.items():
        path = tmp_path / f"{name}.mtx"
        path.write_text(text)
        yield path, message


def one_line_of_error(capsys):
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    return captured.err


def test_bad_matrices(tmp_path, capsys):
    for path, message in bad_files(tmp_path):
        assert solve_file(path, out=tmp_path / "x.npy") == 2, path
        line = one_line_of_error(capsys)
        assert re.search(message, line) and path.name in line
    assert solve_file(tmp_path / "none.mtx", out=tmp_path / "x.npy") == 2
    assert "none.mtx" in one_line_of_error(capsys)
    assert not (tmp_path / "x.npy").exists()


@pytest.mark.parametrize(
    ("b", "message"),
    [
        (np.ones(19), r"shape (19,); the matrix needs one vector of 20"),
        (np.ones((20, 2)), "shape (20, 2)"),
        (np.where(np.arange(20) == 4, np.nan, 1.0), "entry 5 is nan"),
        (np.where(np.arange(20) == 4, np.inf, 1.0), "entry 5 is inf"),
    ],
)
def test_bad_right_hand_sides(spd, tmp_path, capsys, b, message):
    np.save(tmp_path / "b.npy", b)
    assert solve_file(spd, rhs=tmp_path / "b.npy") == 2
    assert message in one_line_of_error(capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n" * 19 + "1,5\n", "line 20: '1,5' is not a number"),
        ("1\n" * 19 + "1.5-3\n", "line 20: '1.5-3' is not a number"),
        ("1\n" * 19 + "1e400\n", "line 20: '1e400' is too large"),
        ("1e-400\n" + "1\n" * 19, "line 1: '1e-400' is too small"),
        ("1\n" * 17 + "1 2 3\n", "1, 3 numbers each"),
        ("", "shape (0,)"),
    ],
)
def test_bad_text_of_right_hand_sides(spd, tmp_path, capsys, text, message):
    (tmp_path / "b.txt").write_text(text)
    assert solve_file(spd, rhs=tmp_path / "b.txt") == 2
    assert message in one_line_of_error(capsys)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"solver": "cgg"}, "cg"),
        ({"solver": "cg+jakobi"}, "jacobi"),
        ({"solver": "nobody:cg"}, "nobody"),
        ({"rtol": 0.0}, "--rtol is 0"),
        ({"max_steps": 0}, "--max-steps is 0"),
        ({"out": "x.csv"}, ".npy or .mtx"),
        ({"out": "nowhere/x.npy"}, "cannot write into nowhere"),
        ({"rhs": "missing.npy"}, "missing.npy"),
    ],
)
def test_bad_requests(spd, capsys, keywords, message):
    assert solve_file(spd, **keywords) == 2
    assert message in one_line_of_error(capsys)


def test_cg_is_refused_for_an_unsymmetric_matrix(tmp_path, capsys):
    path = write(tmp_path / "u.mtx", np.triu(np.ones((4, 4))))
    assert solve_file(path, solver="cg", out=tmp_path / "x.npy") == 2
    assert "gmres+ilu" in one_line_of_error(capsys)


# No choice solves these: zeros on their diagonals leave no incomplete factorisation, and without one their
# condition is out of reach.
UNSOLVED = {"rajat19", "west0479"}


@pytest.mark.parametrize("path", real_matrices(), ids=lambda path: path.stem)
def test_real_matrices(path, tmp_path, capsys):
    out = tmp_path / "x.npy"
    code = solve_file(path, out=out, max_steps=300 if path.stem in UNSOLVED else 3000)
    matrix = read_by_scipy(path)
    rows, columns = matrix.shape
    if rows != columns:
        assert code == 2 and not out.exists()
        assert f"{rows} by {columns}" in one_line_of_error(capsys)
        return
    x, b = np.load(out), np.ones(rows)
    met = np.linalg.norm(b - matrix @ x) <= 1e-8 * (1 + 1e-6) * np.linalg.norm(b)
    assert code == (0 if met else 1)
    assert ("FAILED" in capsys.readouterr().out) == (not met)
    assert met == (path.stem not in UNSOLVED)

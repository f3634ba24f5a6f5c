"""`solve`: real answers, honest exit codes, one clear line for bad input."""

import contextlib
import gzip
import importlib
import os
import re
import subprocess
import sys
import threading

import jax
import lineax as lx
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

import nsolve as ns
from bench import arrays
from bench.columns.nsolve import solvers
from bench.solve import solve_file
from bench.work.linear import true_residual
from tests.helpers import ROOT, read_by_scipy, real_matrices

auto = importlib.import_module("nsolve.auto")  # the package's name is the function


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
    assert true_residual(matrix, x, b) <= 1e-8 * (1 + 1e-6)


def test_default_choice_and_default_output(spd, tmp_path, capsys):
    assert solve_file(spd) == 0
    check(spd, np.load(tmp_path / "spd.solution.npy"), np.ones(20))
    out = capsys.readouterr().out
    assert "all ones" in out and "sparse_lu (few unknowns" in out and "successful" in out
    assert re.search(r"residual  \|b - A x\| / \|b\| = \d\S*, asked for 1e-8", out)
    assert "result    successful, iterations 0\n" in out
    assert re.search(r"time      set-up and compiling \S+ m?s, solving \S+ [mµ]?s", out)


B = np.arange(20.0)


def written(tmp_path, suffix, b=B):
    """A file of right-hand sides of the kind that the suffix says."""
    file = tmp_path / f"b{suffix}"
    table = b.reshape(20, -1)
    if suffix == ".npy":
        np.save(file, b)
    elif suffix == ".npz":
        np.savez(file, b)
    elif suffix.startswith(".mtx"):
        scipy.io.mmwrite(tmp_path / "b.mtx", table, precision=17)
        if suffix.endswith(".gz"):
            file.write_bytes(gzip.compress((tmp_path / "b.mtx").read_bytes()))
    elif suffix == ".row":
        file.write_text(", ".join(map(repr, b.tolist())))
    elif suffix == ".csv":
        file.write_bytes(
            b"\xef\xbb\xbf" + "\r\n".join(",".join(map(repr, row)) for row in table.tolist()).encode()
        )
    else:
        lines = [" ".join(f"{number:.12f}D+00" for number in row) + "  # Fortran's" for row in table]
        file.write_text("% a vector\n" + "\n".join(lines) + "\n")
    return file


KINDS = [".npy", ".npz", ".mtx", ".mtx.gz", ".txt", ".csv"]


@pytest.mark.parametrize("suffix", [*KINDS, ".row"])
def test_right_hand_side_formats(spd, tmp_path, suffix):
    out = tmp_path / "x.mtx"
    assert solve_file(spd, rhs=written(tmp_path, suffix), solver="scipy:splu", out=out) == 0
    check(spd, read_by_scipy(out).ravel(), B)


@pytest.mark.parametrize("suffix", KINDS)
def test_several_right_hand_sides(spd, tmp_path, capsys, suffix):
    b = np.stack([B, np.cos(B), np.zeros(20)], 1)
    out = tmp_path / "x.npy"
    assert solve_file(spd, rhs=written(tmp_path, suffix, b), solver="scipy:splu", out=out) == 0
    x = np.load(out)
    assert x.shape == (20, 3) and not x[:, 2].any()
    for j in range(3):
        check(spd, x[:, j], b[:, j])
    shown = capsys.readouterr().out
    assert "3 columns" in shown and "3 of 3 successful" in shown
    assert [line.split()[:2] for line in shown.splitlines() if "scipy:splu  succ" in line] == [
        [str(j), "scipy:splu"] for j in (1, 2, 3)
    ]


def test_many_columns_are_one_program_and_a_summary(spd, tmp_path, capsys):
    b = np.random.default_rng(0).normal(size=(20, 12))
    np.save(tmp_path / "b.npy", b)
    jax.clear_caches()
    assert solve_file(spd, rhs=tmp_path / "b.npy", solver="cg+ic", out="x.npy", history="r.svg") == 0
    x = np.load(tmp_path / "x.npy")
    for j in range(12):
        check(spd, x[:, j], b[:, j])
    shown = capsys.readouterr().out
    assert "12 of 12 successful, iterations 12," in shown and "in 12 columns" in shown
    assert "column  solver" not in shown and "of the first 10 columns" in shown
    assert "column 10" in (tmp_path / "r.svg").read_text()


def test_the_solution_has_the_shape_of_the_right_hand_side(spd, tmp_path):
    for shape in ((20,), (20, 1), (1, 20)):
        np.save(tmp_path / "b.npy", B.reshape(shape))
        assert solve_file(spd, rhs="b.npy", solver="scipy:splu", out="x.npy") == 0
        assert np.load(tmp_path / "x.npy").shape == shape
    write(tmp_path / "one.mtx", np.array([[2.0]]))
    np.save(tmp_path / "b.npy", np.float64(3.0))
    assert solve_file("one.mtx", rhs="b.npy", solver="scipy:splu", out="x.npy") == 0
    assert np.load(tmp_path / "x.npy") == 1.5


def test_a_column_that_fails_leaves_the_others_and_the_exit_code_says_so(tmp_path, capsys):
    neumann = laplacian(20).toarray()
    neumann[0, 0] = neumann[-1, -1] = 1.0
    path, x = write(tmp_path / "singular.mtx", neumann), np.cos(B)
    np.save(tmp_path / "b.npy", np.stack([neumann @ x, np.ones(20)], 1))
    assert (
        solve_file(path, rhs=tmp_path / "b.npy", solver="minres", out=tmp_path / "x.npy", max_steps=100) == 1
    )
    found = np.load(tmp_path / "x.npy")
    np.testing.assert_allclose(neumann @ found[:, 0], neumann @ x, atol=1e-7)
    shown = capsys.readouterr().out
    assert "1 of 2 columns do not meet rtol=1e-08" in shown and "1 of 2 successful, 1 of 2" in shown


def test_an_array_of_several(spd, tmp_path, capsys):
    np.savez(tmp_path / "x.npz", a=np.ones(20), b=B)
    assert solve_file(spd, rhs="x.npz:b", solver="scipy:splu", out="x.npy") == 0
    check(spd, np.load(tmp_path / "x.npy"), B)
    capsys.readouterr()
    for name, message in (("x.npz", "has the arrays a, b: name one as"), ("x.npz:c", "has no array 'c'")):
        assert solve_file(spd, rhs=name) == 2
        assert message in one_line_of_error(capsys)


@contextlib.contextmanager
def pipe(content):
    """The name of a pipe that gives that content, as a shell makes one of `<(...)`."""
    out, into = os.pipe()

    def fill():
        with contextlib.suppress(BrokenPipeError), os.fdopen(into, "wb") as file:
            file.write(content)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        yield f"/dev/fd/{out}"
    finally:
        os.close(out)
        thread.join()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_pipes_are_read_once(spd, tmp_path, pack):
    for suffix in (".npy", ".npz", ".mtx", ".csv"):
        b = written(tmp_path, suffix).read_bytes()
        with pipe(pack(spd.read_bytes())) as matrix, pipe(b if suffix == ".npz" else pack(b)) as rhs:
            assert solve_file(matrix, rhs=rhs, solver="scipy:splu", force=True) == 0
        check(spd, np.load(tmp_path / "solution.npy").ravel(), B)


def command(*arguments, **options):
    program = "from bench.solve import solve_file as s; import sys; sys.exit(s({}))"
    program = program.format(
        ", ".join([*map(repr, arguments), "solver='scipy:splu'", *(f"{k}={v!r}" for k, v in options.items())])
    )
    return [sys.executable, "-c", program]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_standard_input_and_output(spd, tmp_path):
    done = subprocess.run(
        command("-", out="-"), input=spd.read_bytes(), capture_output=True, env=environment(), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    check(spd, np.loadtxt(done.stdout.decode().splitlines()), np.ones(20))
    assert b"residual  |b - A x|" in done.stderr and b"solution  standard output" in done.stderr
    # A link to standard output is that, also where it is a file.
    with (tmp_path / "x.txt").open("wb") as file:
        done = subprocess.run(
            command(str(spd), out="/dev/stdout"), stdout=file, stderr=subprocess.PIPE, env=environment()
        )
    assert done.returncode == 0 and b"residual" in done.stderr
    check(spd, np.loadtxt(tmp_path / "x.txt"), np.ones(20))
    assert os.path.islink("/dev/stdout")


@pytest.mark.parametrize("out", ["x.npy", "-"])
def test_a_reader_who_leaves_is_no_failure(tmp_path, out):
    path = write(tmp_path / "large.mtx", sp.eye_array(20_000))
    process = subprocess.Popen(
        command(str(path), out=out),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        cwd=tmp_path,
    )
    process.stdout.close()  # long before anything is printed
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0 and b"Traceback" not in errors and b"BrokenPipe" not in errors
    if out != "-":
        assert errors == b"" and np.load(tmp_path / out).shape == (20_000,)


def test_a_file_of_somebody_else_is_left_alone(spd, tmp_path, capsys):
    for suffix in arrays.SUFFIXES:
        path = tmp_path / f"x{suffix}"
        for content in (b"", b"precious", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'"):
            path.write_bytes(content)
            assert solve_file(spd, solver="scipy:splu", out=path) == 2
            assert "was not written by this command" in one_line_of_error(capsys)
            assert path.read_bytes() == content
        assert solve_file(spd, solver="scipy:splu", out=path, force=True) == 0
        assert solve_file(spd, solver="scipy:splu", out=path) == 0  # its own
        capsys.readouterr()
    b = written(tmp_path, ".npy")
    assert solve_file(spd, rhs=b, solver="scipy:splu", out=b) == 2
    assert np.array_equal(np.load(b), B)


def test_what_is_written_reads_back(tmp_path):
    rng = np.random.default_rng(0)
    for shape in ((), (7,), (1, 7), (7, 3)):
        x = np.asarray(rng.normal(size=shape) * 10.0 ** rng.integers(-200, 200, shape))
        for values in (x, x + 1j * x[::-1] if shape else x + 1j):
            path = tmp_path / "x.npy"
            path.write_bytes(arrays.encoded(values, ".npy"))
            back = np.load(path)
            assert back.shape == values.shape and back.dtype == values.dtype and np.array_equal(back, values)
            path = tmp_path / "x.mtx"
            path.write_bytes(arrays.encoded(values, ".mtx"))
            assert np.array_equal(read_by_scipy(path).ravel(), values.ravel())
            for suffix, comma in ((".txt", None), (".csv", ","), ("", None)):
                lines = arrays.encoded(values, suffix).decode().splitlines()
                assert np.array_equal(
                    np.loadtxt(lines, values.dtype, delimiter=comma).ravel(), values.ravel()
                )


def test_a_solution_is_written_whole_or_not_at_all(spd, tmp_path, monkeypatch, capsys):
    assert solve_file(spd, solver="scipy:splu", out="x.npy") == 0
    before = (tmp_path / "x.npy").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    capsys.readouterr()
    assert solve_file(spd, solver="scipy:splu", out="x.npy", rhs=written(tmp_path, ".npy")) == 2
    assert "No space left on device" in one_line_of_error(capsys)
    assert (tmp_path / "x.npy").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"x.npy", "b.npy", "spd.mtx"}


@pytest.mark.parametrize(
    "suffix, start", [(".png", b"\x89PNG"), (".svg", b"<svg"), (".html", b"<!DOCTYPE html>")]
)
def test_history_is_drawn(spd, tmp_path, capsys, suffix, start):
    picture = tmp_path / f"r{suffix}"
    assert solve_file(spd, solver="scipy:gmres", out="x.npy", history=picture) == 0
    assert picture.read_bytes().startswith(start) and f"history   {picture}" in capsys.readouterr().out
    if suffix == ".svg":
        assert "spd.mtx: convergence" in picture.read_text()
    picture.unlink()
    assert solve_file(spd, solver="scipy:splu", out="x.npy", history=picture) == 0
    assert not picture.exists() and "nothing to draw" in capsys.readouterr().out


@pytest.fixture
def all_are_large(monkeypatch):
    """Small matrices are treated as if factors cost seconds."""
    monkeypatch.setattr(auto, "_SMALL", 0)
    monkeypatch.setattr(auto, "factor_cost", lambda pattern: (1e6, 20.0))


def test_every_choice_is_a_column(all_are_large):
    matrix = laplacian().tocsr()
    hollow = sp.csr_array(np.roll(np.eye(4), 1, axis=1))
    strong = ["gmres[restart=50]+ilut", "gmres[restart=100]"]
    for made, tags, texts in (
        (matrix, lx.positive_semidefinite_tag, ["cg+ic", "sparse_lu", "cg+jacobi"]),
        (-matrix, lx.symmetric_tag, ["sparse_lu", "minres"]),
        (sp.triu(matrix), (), ["gmres[restart=50]+ilu", "sparse_lu", *strong]),
        (hollow, (), [strong[0], "sparse_lu", strong[1]]),
    ):
        chain = ns.auto(ns.SparseLinearOperator.from_scipy(made, tags), rtol=1e-8)
        specs = [solvers.spec_of(attempt.solver) for attempt in chain.attempts]
        assert list(map(str, specs)) == texts
        for spec, attempt in zip(specs, chain.attempts, strict=True):
            if spec.solver.name in solvers.DIRECT:
                assert solvers.make_direct(spec, 1e-8) == attempt.solver
                continue
            part = spec.preconditioner
            given = {"preconditioner": part and solvers.make_preconditioner(part), "rtol": 1e-8}
            given |= {"max_steps": attempt.solver.max_steps, "monitor": attempt.solver.monitor}
            made = solvers.make_solver(spec, **given)
            assert made == attempt.solver


def test_an_indefinite_matrix_is_solved_by_the_next_choice(tmp_path, capsys, all_are_large):
    path = write(tmp_path / "indefinite.mtx", laplacian() - 0.5 * sp.eye_array(20))
    assert solve_file(path, out=tmp_path / "x.npy") == 0
    check(path, np.load(tmp_path / "x.npy"), np.ones(20))
    out = capsys.readouterr().out
    assert out.index("cg+ic") < out.index("sparse_lu")
    assert "supposed positive definite" in out and "predicted to take" in out


def test_attempts_are_left_as_early_as_by_auto(spd, monkeypatch, all_are_large):
    monitors, make = [], solvers.make_solver

    def made(spec, **given):
        monitors.append(given["monitor"])
        return make(spec, **given)

    monkeypatch.setattr(solvers, "make_solver", made)
    assert solve_file(spd) == 0
    assert monitors == [ns.Forecast()]


def test_a_failure_comes_with_a_diagnosis(tmp_path, capsys):
    path = write(tmp_path / "singular.mtx", np.ones((3, 3)))
    np.save(tmp_path / "b.npy", np.arange(3.0))
    assert solve_file(path, rhs=tmp_path / "b.npy", out=tmp_path / "x.npy") == 1
    assert "diagnosis Singular to rounding" in capsys.readouterr().out


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
        "no_rows": (header + "0 3 0\n", "0 by 3, so there is nothing to solve"),
        "no_columns": (header + "3 0 0\n", "3 by 0, so there is nothing to solve"),
        "zeros": (header + "3 2 1\n1 1 0.0\n", "the matrix is all zeros"),
        "nan": (header + "2 2 2\n1 1 nan\n2 2 1.0\n", r"\(1, 1\)|nan"),
        "inf": (header + "3 2 1\n1 1 inf\n", r"\(1, 1\) is inf"),
        "zero_row": (header + "3 3 2\n1 1 1.0\n2 2 1.0\n", "row 3 is all zeros.*--solver lsmr"),
        "stored_zero_row": (header + "2 2 2\n1 1 1.0\n2 2 0.0\n", "row 2 is all zeros"),
    }
    for name, (text, message) in texts.items():
        path = tmp_path / f"{name}.mtx"
        path.write_text(text)
        yield path, message


@pytest.mark.parametrize(
    ("sizes", "needed"),
    [
        ("array real general\n100000000000 1\n", "6.2 TiB"),
        ("coordinate real general\n100000000000 100000000000 1\n1 1 1.0\n", "3.3 TiB"),
        ("coordinate real general\n1 100000000000 1\n1 1 1.0\n", "2.9 TiB"),
        ("coordinate complex symmetric\n3 3 100000000000\n1 1 1.0 0.0\n", "8.7 TiB"),
    ],
)
def test_a_header_that_asks_for_too_much_is_refused_at_once(tmp_path, capsys, sizes, needed):
    path = tmp_path / "greedy.mtx"
    path.write_text(f"%%MatrixMarket matrix {sizes}")
    assert solve_file(path, out=tmp_path / "x.npy") == 2
    line = one_line_of_error(capsys)
    assert f"need {needed} of memory at least" in line and "are free" in line and "100,000,000,000" in line


def test_greedy_right_hand_sides(spd, tmp_path, capsys):
    header = arrays.encoded(B, ".npy").replace(b"(20,)", b"(100000000000,)")
    (tmp_path / "b.npy").write_bytes(header)
    (tmp_path / "b.mtx").write_text(
        "%%MatrixMarket matrix coordinate real general\n100000000000 1 1\n1 1 1\n"
    )
    for name in ("b.npy", "b.mtx"):
        assert solve_file(spd, rhs=name) == 2
        assert name in one_line_of_error(capsys)


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
    assert solve_file(tmp_path) == 2
    assert f"{tmp_path} is a folder; name a file" in one_line_of_error(capsys)
    assert not (tmp_path / "x.npy").exists()


@pytest.mark.parametrize(
    ("b", "message"),
    [
        (np.ones(19), r"shape (19,); the matrix needs vectors of 20 numbers, as many as its rows"),
        (
            np.ones((2, 20)),
            "shape (2, 20); the matrix needs vectors of 20 numbers, as many as its rows, one a column; tran",
        ),
        (np.ones((20, 0)), "shape (20, 0)"),
        (np.ones((20, 1, 1)), "shape (20, 1, 1)"),
        (np.full(20, True), "holds bool; numbers are needed"),
        (np.array([None] * 20), "Object arrays cannot be loaded"),
        (np.where(np.eye(20)[:, :2] > 0, np.nan, 1.0), "entry (1, 1) is nan"),
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
        ("1\n" * 19 + "1,5\n", "1, 2 numbers each"),
        ("1\n" * 19 + "1;5\n", "line 20: '1;5' is not a number"),
        ("1,2\n" * 19 + "1,\n", "line 20: '' is not a number"),
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
        ({"solver": "product"}, "it multiplies and solves nothing"),
        ({"solver": "cg@warm"}, "no mode @warm"),
        ({"solver": "gmres[restart=0]"}, "must be an integer >= 1"),
        ({"solver": "gmres[restart=many]"}, "must be an integer"),
        ({"solver": "sor[sweep=sideways]"}, "sweep of sor must be one of forward, backward, symmetric"),
        ({"solver": "sor[omega=high]"}, "omega of sor must be a number, got 'high' (default 1.0)"),
        ({"solver": "cg+ssor[omega=3]"}, "between 0 and 2"),
        ({"solver": "cg+chebyshev[bounds=tight]"}, "bounds of chebyshev"),
        (
            {"solver": "scipy:gmres[restart=many]"},
            "restart of gmres must be an integer of at least 1, got 'many'",
        ),
        ({"solver": "scipy:minres[stop=never]"}, "stop of minres must be one of own, norm"),
        ({"solver": "scipy:splu[ordering=RANDOM]"}, "must be one of MMD_AT_PLUS_A, MMD_ATA, COLAMD, NATURAL"),
        (
            {"solver": "scipy:cg+ilu[drop_tol=little]"},
            "drop_tol of ilu must be a number from 0 to 1, got 'little'",
        ),
        (
            {"solver": "scipy:cg+ilu[fill_factor=0]"},
            "fill_factor of ilu must be a number of at least 1, got 0",
        ),
        ({"solver": "scipy:cg+ilu[drop_tol=-3]"}, "drop_tol of ilu must be a number from 0 to 1, got -3"),
        ({"solver": "cg+multigrid"}, "no stencil"),
        ({"rtol": 0.0}, "--rtol is 0"),
        ({"rtol": 10.0}, "--rtol is 10.0: give a number between 0 and 1"),
        ({"rtol": float("nan")}, "--rtol is nan"),
        ({"max_steps": 0}, "--max-steps is 0"),
        ({"out": "x.jpg"}, "use .npy, .mtx, .txt or .csv"),
        ({"out": "nowhere/x.npy"}, "cannot write into nowhere"),
        ({"out": "."}, "is a folder"),
        ({"history": "r.jpg"}, "use .png, .svg or .html"),
        ({"history": "nowhere/r.png"}, "--history nowhere/r.png"),
        ({"rhs": "missing.npy"}, "missing.npy"),
        ({"rhs": "."}, ". is a folder"),
    ],
)
def test_bad_requests(spd, capsys, keywords, message):
    assert solve_file(spd, **keywords) == 2
    assert message in one_line_of_error(capsys)


def test_two_files_of_one_pipe(spd, capsys):
    assert solve_file("-", rhs="-") == 2
    assert "both come from -" in one_line_of_error(capsys)
    with pipe(spd.read_bytes()) as name:
        assert solve_file(name, rhs=name) == 2
    assert "which can be read once" in one_line_of_error(capsys)


def test_a_matrix_that_a_column_cannot_take_is_no_mistake_of_the_user(tmp_path, capsys):
    path = write(tmp_path / "u.mtx", np.array([[0.0, 1.0], [1.0, 1.0]]))
    assert solve_file(path, solver="gmres+jacobi", out=tmp_path / "x.npy") == 1
    captured = capsys.readouterr()
    assert "FAILED" in captured.out and captured.err == "" and not (tmp_path / "x.npy").exists()


def test_cg_is_refused_for_an_unsymmetric_matrix(tmp_path, capsys):
    path = write(tmp_path / "u.mtx", np.triu(np.ones((4, 4))))
    assert solve_file(path, solver="cg", out=tmp_path / "x.npy") == 2
    assert "gmres+ilu" in one_line_of_error(capsys)


@pytest.mark.parametrize("path", real_matrices(), ids=lambda path: path.stem)
def test_real_matrices(path, tmp_path, capsys):
    out = tmp_path / "x.npy"
    code = solve_file(path, out=out)
    matrix = read_by_scipy(path)
    rows, columns = matrix.shape
    x, b = np.load(out), np.ones(rows)
    assert code == 0 and "FAILED" not in capsys.readouterr().out
    if rows == columns:
        assert np.linalg.norm(b - matrix @ x) <= 1e-8 * (1 + 1e-6) * np.linalg.norm(b)
    else:
        np.testing.assert_allclose(x, np.linalg.lstsq(matrix.toarray(), b)[0], rtol=1e-9, atol=1e-12)

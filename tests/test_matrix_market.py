"""Matrix Market files: round trips, symmetry tags, and everything that can be wrong with one."""

import gzip

import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp

import nsolve as ns

HEADER = "%%MatrixMarket matrix coordinate {field} {symmetry}\n3 3 {count}\n"
SYMMETRIC = np.array([[2.0, 0.1, 0.0], [0.1, 3.0, 1 / 3], [0.0, 1 / 3, 1.0]])
HERMITIAN = SYMMETRIC + 1j * (np.triu(SYMMETRIC, 1) - np.tril(SYMMETRIC, -1))


@pytest.mark.parametrize("suffix", [".mtx", ".mtx.gz"])
@pytest.mark.parametrize(
    ("matrix", "header", "tags"),
    [
        (np.triu(SYMMETRIC), "real general", set()),
        (SYMMETRIC, "real symmetric", {lx.symmetric_tag}),
        (np.triu(SYMMETRIC, 1) - np.tril(SYMMETRIC, -1), "real skew-symmetric", set()),
        (HERMITIAN, "complex hermitian", {ns.hermitian_tag}),
        (HERMITIAN.conj() @ np.diag([1, 2j, 3]), "complex general", set()),
        (SYMMETRIC * (1 + 1j), "complex symmetric", {lx.symmetric_tag}),
    ],
)
def test_round_trip(tmp_path, matrix, header, tags, suffix):
    path = tmp_path / f"matrix{suffix}"
    ns.write_matrix_market(path, ns.SparseLinearOperator.from_scipy(matrix))
    stored = gzip.decompress(path.read_bytes()) if suffix.endswith("gz") else path.read_bytes()
    assert stored.decode().splitlines()[0].endswith(f"coordinate {header}")
    operator = ns.SparseLinearOperator.from_matrix_market(path)
    np.testing.assert_array_equal(operator.as_matrix(), matrix)
    assert operator.tags == tags


def test_pattern_and_integer_files(tmp_path):
    path = tmp_path / "pattern.mtx"
    path.write_text(HEADER.format(field="pattern", symmetry="symmetric", count=2) + "1 1\n3 2\n")
    operator = ns.SparseLinearOperator.from_matrix_market(path)
    np.testing.assert_array_equal(operator.as_matrix(), [[1, 0, 0], [0, 0, 1], [0, 1, 0]])
    path.write_text(HEADER.format(field="integer", symmetry="general", count=1) + "2 1 -7\n")
    operator = ns.SparseLinearOperator.from_matrix_market(path)
    assert operator.dtype == np.float64 and operator.as_matrix()[1, 0] == -7


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Not a Matrix Market file"),
        ("garbage\n1 2 3\n", "Not a Matrix Market file"),
        (HEADER.format(field="real", symmetry="general", count=3) + "1 1 1.0\n", "Truncated file"),
        (HEADER.format(field="real", symmetry="general", count=1) + "4 1 1.0\n", "Line 3"),
        (HEADER.format(field="real", symmetry="general", count=1) + "1 x 1.0\n", "Line 3"),
        (HEADER.format(field="real", symmetry="general", count=1) + "1 1 one\n", "Line 3"),
        (HEADER.format(field="real", symmetry="general", count=1) + "1 1 1\n2 2 2\n", "Too many lines"),
        (HEADER.format(field="real", symmetry="general", count=1) + "2 1 nan\n", r"entry \(2, 1\) is nan"),
        (HEADER.format(field="real", symmetry="general", count=1) + "2 1 inf\n", r"entry \(2, 1\) is inf"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(tmp_path, text, says):
    path = tmp_path / "bad.mtx"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"bad.mtx.*{says}"):
        ns.SparseLinearOperator.from_matrix_market(path)


def test_missing_and_corrupt_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.mtx"):
        ns.read_matrix_market(tmp_path / "nowhere.mtx")
    path = tmp_path / "cut.mtx.gz"
    path.write_bytes(gzip.compress(HEADER.encode() + b"1 1 1\n" * 500)[:40])
    with pytest.raises(ValueError, match="cut.mtx.gz: not a readable"):
        ns.read_matrix_market(path)


def test_dense_arrays_are_written(tmp_path):
    ns.write_matrix_market(tmp_path / "x.mtx", np.arange(3.0)[:, None])
    matrix, _ = ns.read_matrix_market(tmp_path / "x.mtx")
    assert sp.issparse(matrix) and matrix.shape == (3, 1)

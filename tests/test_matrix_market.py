"""Matrix Market files: round trips, symmetry tags, and everything that can be wrong with one."""

import gzip

import jax
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


def file(field="real", symmetry="general", entries="", count=None, form="coordinate", size="3 3") -> str:
    """A file of 3 x 3 with the given lines of entries."""
    count = len(entries.splitlines()) if count is None else count
    count = f" {count}" if form == "coordinate" else ""
    return f"%%MatrixMarket matrix {form} {field} {symmetry}\n{size}{count}\n{entries}"


FORTRAN = "1 1 2.5D+03\n2 2 -1.5d-2\n3 3 1.234-100\n2 1 .5Q0\n3 1 +1.e+1\n3 2 7.25+100\n"


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        (file(entries=FORTRAN), [2500, -0.015, 1.234e-100, 0.5, 10, 7.25e100]),
        (file(entries=FORTRAN.replace("\n", "\r\n")), [2500, -0.015, 1.234e-100, 0.5, 10, 7.25e100]),
        (file("complex", entries="1 1 1D0 -2D0\n"), [1 - 2j]),
        (file(entries="1  2\t3.5  \n\n% a comment\n 2 2 4\n \n", count=2), [3.5, 4]),
        (file(entries="1 1 1e-400", count=1).replace("1e-400", "0.0e-400"), [0]),
        (file("integer", entries="1 1 +9007199254740992\n2 2 -3\n"), [2**53, -3]),
        (file("real", "symmetric", "1 1 1\n1 3 2\n"), [1, 2, 2]),  # the upper triangle, alone
        (file("real", "skew-symmetric", "3 1 2.5\n"), [2.5, -2.5]),
        (file("real", "symmetric", "1\n2\n3\n", form="array", size="2 2"), [1, 2, 3, 2]),
        (file("complex", "hermitian", "1 0\n2 5\n3 0\n", form="array", size="2 2"), [1, 2 + 5j, 3, 2 - 5j]),
        (file("complex", form="array", size="0 1"), []),
        (file(entries="1 1 1\n1 1 2\n"), [1, 2]),  # summed when compressed
        (file().replace("coordinate real", "Coordinate REAL"), []),
    ],
)
def test_what_is_understood(tmp_path, text, entries):
    path = tmp_path / "good.mtx"
    path.write_bytes(text.encode())
    matrix, _ = ns.read_matrix_market(path)
    np.testing.assert_array_equal(matrix.data, entries)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Not a Matrix Market file"),
        ("garbage\n1 2 3\n", "Not a Matrix Market file"),
        (file().replace("real", "long"), "Line 1: 'long' must be one of"),
        (file().replace("general", "hermitian"), "Line 1: there are no hermitian real matrices"),
        (file(size="3 3 3"), "Line 2: .* must be the sizes"),
        (file(size="3 x"), "Line 2: .* must be the sizes"),
        (file(symmetry="symmetric", size="3 4"), "Line 2: a symmetric matrix must be square"),
        (file(entries="1 1 1.0\n", count=3), "Truncated file: 3 entries are announced, but there are 1"),
        (file(entries="4 1 1.0\n"), "Line 3: row '4' in .* must be an integer from 1 to 3"),
        (file(entries="1 1 1.0\n\n1 0 1.0\n", count=2), "Line 5: column '0'"),
        (file(entries="1 99999999999999999999 1.0\n"), "Line 3: column"),
        (file(entries="1 x 1.0\n"), "Line 3"),
        (file(entries="1 1 one\n"), r"Line 3: entry \(1, 1\): 'one' is not a number"),
        (file(entries="1 1 1\n2 2 2\n", count=1), "Too many lines"),
        (file(entries="2 1 nan\n"), r"entry \(2, 1\) is nan"),
        (file(entries="2 1 -Inf\n"), r"entry \(2, 1\) is -Inf"),
        (file(entries="2 1 1,5\n"), "Line 3: .*'1,5' is not a number"),
        (file(entries="2 1 7E+\n"), "Line 3: .*'7E.' is not a number"),
        (file(entries="2 1 0x10\n"), "Line 3: .*'0x10' is not a number"),
        (file(entries="2 1 1_0\n"), "Line 3: .*'1_0' is not a number"),
        (file(entries="2 1 1.5-3\n"), "Line 3: .*'1.5-3' is not a number"),  # Fortran writes three digits
        (file(entries="2 1 12-100\n"), "Line 3: .*'12-100' is not a number"),
        (file(entries="2 1 1.2.3\n"), "Line 3: .*'1.2.3' is not a number"),
        (file(entries="2 1 1.0 2.0\n"), "Line 3: '2 1 1.0 2.0' has 4 fields"),  # a complex pair
        (file(entries="2 1 1.0 % said\n"), "Line 3: .* has 5 fields"),
        (file(entries="2 1\n"), "Line 3: '2 1' has 2 fields"),
        (file("complex", entries="2 1 1.0\n"), "Line 3: '2 1 1.0' has 3 fields"),
        (file("pattern", entries="2 1 1.0\n"), "Line 3: '2 1 1.0' has 3 fields"),
        (file("integer", entries="2 1 1.5\n"), "Line 3: .*'1.5' is not an integer"),
        (file("integer", entries="2 1 9007199254740993\n"), r"Line 3: .*up to 2\^53"),
        (file(entries="1 1 0\n2 1 1e400\n"), "Line 4: .*'1e400' is too large"),
        (file(entries="1 1 0\n2 1 1e-400\n"), "Line 4: .*'1e-400' is too small"),
        (file("complex", entries="2 1 1 1e-400\n"), "Line 3: .*'1e-400' is too small"),
        (file("real", "symmetric", "2 1 1\n1 2 1\n"), r"Line 4: entry \(1, 2\) lies in the other triangle"),
        (file("real", "skew-symmetric", "2 1 1\n2 2 1\n"), r"Line 4: entry \(2, 2\) is on the diagonal"),
        (file("complex", "hermitian", "2 1 1 1\n2 2 1 1\n"), r"Line 4: entry \(2, 2\) is on the diagonal"),
        (file("complex", "hermitian", "1 1\n", form="array", size="1 1"), r"entry \(1, 1\) is on the diag"),
        (file(form="array", size="2 1", entries="1\n2\n3\n"), "Too many lines"),
        (file(form="array", size="2 1", entries="1 2\n"), "Line 3: '1 2' has 2 fields"),
        (file(entries="1 1 1\r2 2 2\n", count=1), "Line 3"),  # a lone carriage return
        (file(entries="1 1 1\n\x00\x00\n", count=1), "Line 4"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(tmp_path, text, says):
    path = tmp_path / "bad.mtx"
    path.write_bytes(text.encode())
    with pytest.raises(ValueError, match=f"bad.mtx.*{says}"):
        ns.SparseLinearOperator.from_matrix_market(path)


def test_numbers_beyond_single_precision_are_refused(tmp_path):
    path = tmp_path / "large.mtx"
    for number, says in (("1e300", "infinite"), ("1e-300", "zero"), ("-1e-40", "zero")):
        path.write_text(file(entries=f"1 1 1\n2 2 {number}\n"))
        with jax.enable_x64(False), pytest.raises(ValueError, match=f"large.mtx.*{says}.*jax_enable_x64"):
            ns.SparseLinearOperator.from_matrix_market(path)
        operator = ns.SparseLinearOperator.from_matrix_market(path)
        assert operator.as_scipy()[1, 1] == float(number)


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

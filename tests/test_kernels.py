"""Compiled kernels and their fallbacks: the same results, one switch, one warning where kernels fail."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

import nsolve as ns
from nsolve import _ffi
from nsolve.kernels import _frame, _layout, greedy_colouring, incomplete_cholesky, incomplete_lu
from nsolve.kernels import triangular_solves as solves
from nsolve.kernels._schedule import common_columns
from nsolve.preconditioners.triangular import triangle
from tests.helpers import ROOT
from tests.test_incomplete import DTYPES, dense_ic, dense_ilu, general, hermitian, kershaw, sparse, tolerance


@pytest.fixture
def fresh(monkeypatch):
    """Kernels as in a new process: none registered, nothing said."""
    monkeypatch.setattr(_ffi, "_usable", True)
    monkeypatch.setattr(_ffi, "_handlers", {})
    monkeypatch.setattr(_ffi, "_said", set())


def cholesky(matrix):
    """The kernel, the fallback, and what both take."""
    strict, positions = triangle(matrix.pattern, True)
    arrays = matrix.values[positions], matrix.diagonal()

    def portable(*arrays):
        indices = jnp.asarray(strict.indptr), jnp.asarray(strict.indices)
        return incomplete_cholesky._portable(strict, *indices, *arrays)

    return lambda *arrays: incomplete_cholesky.factorise(strict, *arrays), portable, arrays


def lu(matrix):
    """The same."""
    pattern = matrix.pattern

    def portable(values):
        indices = pattern.indptr, pattern.indices, pattern.diagonal_positions
        return incomplete_lu._portable(pattern, *map(jnp.asarray, indices), values)

    return lambda values: incomplete_lu.factorise(pattern, values), portable, (matrix.values,)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("density", [0.1, 0.4])
def test_fallbacks_of_factorisations_are_the_definitions(dtype, density):
    n = 30
    a = hermitian(n, density, dtype)
    _, portable, arrays = cholesky(sparse(a))
    factor, inverse = portable(*arrays)
    low = dense_ic(a)
    expected = (low / np.diag(low))[np.tril(a, -1) != 0]
    np.testing.assert_allclose(factor, expected, atol=tolerance(dtype))
    np.testing.assert_allclose(1 / inverse, np.diag(low) ** 2, rtol=10 * tolerance(dtype))
    assert factor.dtype == inverse.dtype == dtype

    a = general(n, density, dtype)
    _, portable, arrays = lu(sparse(a))
    factor, inverse = portable(*arrays)
    low, up = dense_ilu(a)
    np.testing.assert_allclose(factor, (low - np.eye(n) + up)[a != 0], atol=10 * tolerance(dtype))
    np.testing.assert_allclose(1 / inverse, np.diag(up), rtol=10 * tolerance(dtype))
    assert factor.dtype == inverse.dtype == dtype


def grid(side):
    """An unsymmetric matrix with fill to drop, on the pattern of a nine-point stencil, in random order."""
    line = sp.diags_array([np.ones(side - 1), np.ones(side), np.ones(side - 1)], offsets=[-1, 0, 1])
    rng = np.random.default_rng(0)
    matrix = sp.csr_array(sp.kron(line, line))
    matrix.data = -rng.uniform(0.1, 1, matrix.nnz)
    matrix.setdiag(abs(matrix).sum(axis=1))
    order = rng.permutation(side**2)
    return sp.csr_array(matrix[order][:, order])


def test_fallbacks_equal_the_kernels_on_a_grid():
    matrix = grid(40)
    general, symmetric = (ns.SparseLinearOperator.from_scipy(a) for a in (matrix, matrix + matrix.T))
    for kernel, portable, arrays in (lu(general), cholesky(symmetric)):
        for mine, theirs in zip(jax.jit(portable)(*arrays), jax.jit(kernel)(*arrays), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-14)
    pattern = general.pattern
    colours = (
        f(pattern.indptr, pattern.indices) for f in (greedy_colouring._colours, greedy_colouring._portable)
    )
    first, second = colours
    np.testing.assert_array_equal(first, second)


def test_fallbacks_break_down_as_the_kernels_do():
    zero_pivot = sparse(np.array([[1.0, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]))
    for kernel, portable, arrays in (lu(zero_pivot), cholesky(sparse(kershaw()))):
        compiled = kernel(*arrays)
        assert jnp.isnan(compiled[1]).any() and jnp.isfinite(compiled[1]).any()
        for mine, theirs in zip(portable(*arrays), compiled, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-14)


def test_kernels_and_fallbacks_under_nested_vmap():
    """Over both arguments, one of them, and once more around; the batch stands in the last axis."""
    pattern, _ = triangle(sparse(grid(4)).pattern, True)
    arrays = jnp.asarray(pattern.indptr), jnp.asarray(pattern.indices)
    rng = np.random.default_rng(1)
    values, b = rng.standard_normal((2, pattern.nnz, 3)), rng.standard_normal((3, pattern.shape[0]))

    def solve(function):
        both = jax.vmap(function, (1, 0))  # values and vectors
        return jax.jit(jax.vmap(both, (0, None), out_axes=1))(values, b)

    def kernel(v, b):
        return solves.solve(pattern, True, v, *arrays, b)

    compiled = solve(kernel)
    with jax.disable_jit():
        np.testing.assert_array_equal(kernel(values[1, :, 2], b[2]), compiled[2, 1])
    np.testing.assert_allclose(solve(lambda v, b: solves.solve_by_levels(pattern, v, b)), compiled, rtol=1e-9)
    dense = np.eye(pattern.shape[0])
    dense[pattern.rows, pattern.indices] = values[1, :, 2]
    np.testing.assert_allclose(compiled[2, 1], np.linalg.solve(dense, b[2]), rtol=1e-9)


def test_common_columns_in_blocks(monkeypatch):
    """Against sets, with ranges of every length, and in blocks of a few candidates."""
    monkeypatch.setattr("nsolve.kernels._schedule._BLOCK", 7)
    pattern = sparse(general(15, 0.4)).pattern
    rng = np.random.default_rng(0)
    ranges = []
    for _ in range(2):
        row = rng.integers(0, 15, 40)
        ends = [rng.integers(pattern.indptr[row], pattern.indptr[row + 1] + 1) for _ in range(2)]
        ranges.append((np.minimum(*ends), np.maximum(*ends)))
    found = set(zip(*(array.tolist() for array in common_columns(pattern, *ranges)), strict=True))
    columns = pattern.indices
    expected = {
        (pair, i, j)
        for pair in range(40)
        for i in range(ranges[0][0][pair], ranges[0][1][pair])
        for j in range(ranges[1][0][pair], ranges[1][1][pair])
        if columns[i] == columns[j]
    }
    assert found == expected and len(expected) > 10


def test_a_kernel_that_fails_costs_one_warning(fresh):
    def no_handler(dtype):
        raise OSError("disk full")

    kernel = _ffi.Kernel("broken", no_handler, lambda static, x: [static * x])
    with pytest.warns(RuntimeWarning, match="`broken`.*disk full.*without compiled kernels.*NSOLVE_KERNELS"):
        (doubled,) = jax.jit(lambda x: _ffi.call(kernel, 2, x, like=[x]))(jnp.ones(3))
    np.testing.assert_array_equal(doubled, 2)
    with warnings.catch_warnings(action="error"):
        assert _ffi.call(kernel, 3, jnp.ones(3), like=[jnp.ones(3)])[0][0] == 3
        assert _ffi.on_host(no_handler, len, np.ones(4)) == 4


def test_work_on_the_host_that_fails_is_done_without(fresh):
    def fails(array):
        raise TypeError("no such type")

    with pytest.warns(RuntimeWarning, match="no such type"):
        assert _ffi.on_host(fails, len, np.ones(4)) == 4


def test_a_cache_that_cannot_be_written_costs_one_warning(fresh):
    def decorator(cache):
        if cache:
            raise RuntimeError("no locator available")
        return lambda function: function

    keep = _frame._kept_on_disk(decorator)
    with pytest.warns(RuntimeWarning, match="no locator available.*NUMBA_CACHE_DIR"):
        assert keep(len) is len
    with warnings.catch_warnings(action="error"):
        assert keep(max) is max
    assert _ffi.usable()


HEADER = (Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h").read_text()


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("  XLA_FFI_Args args;\n", "  void* news;\n  XLA_FFI_Args args;\n", "CallFrame.args.args.* byte 80"),
        (
            "  XLA_FFI_DataType dtype;\n  void* data;\n  int64_t rank;",
            "  void* data;\n  int64_t rank;",
            "no field `dtype`",
        ),
        ("XLA_FFI_API_MAJOR 0", "XLA_FFI_API_MAJOR 1", "major version"),
        ("struct XLA_FFI_Metadata {", "struct XLA_FFI_Facts {", "no struct `XLA_FFI_Metadata`"),
        ("  XLA_FFI_ExecutionStage stage;\n", "  XLA_FFI_Odd stage[2];\n", "cannot be read"),
        ("  void** rets; ", "  void** outs; ", "no field `rets`"),
        ("XLA_FFI_DataType_C64 = 15", "XLA_FFI_DataType_C64 = 16", "no longer says 15 for the dtype `C64`"),
    ],
)
def test_another_layout_is_noticed(old, new, message):
    _layout.compare(HEADER)
    assert old in HEADER
    with pytest.raises(ValueError, match=message):
        _layout.compare(HEADER.replace(old, new))


def test_without_a_header_there_are_no_kernels(fresh, monkeypatch, tmp_path):
    _layout.check_layout.cache_clear()
    monkeypatch.setattr(jax.ffi, "include_dir", lambda: str(tmp_path))
    matrix = sparse(general(11))
    with pytest.warns(RuntimeWarning, match="No such file.*c_api.h"):
        kernel, _, arrays = lu(matrix)
        factor, _ = jax.jit(kernel)(*arrays)
    low, up = dense_ilu(np.asarray(matrix.as_matrix()))
    np.testing.assert_allclose(factor, (low - np.eye(11) + up)[matrix.as_matrix() != 0], rtol=1e-12)


def test_the_switch_is_read(monkeypatch):
    for value, expected in (("on", True), ("off", False)):
        monkeypatch.setenv("NSOLVE_KERNELS", value)
        assert _ffi._read_switch() is expected
    monkeypatch.setenv("NSOLVE_KERNELS", "Off")
    with pytest.raises(ValueError, match="`NSOLVE_KERNELS` must be `on` .* or `off` .* is 'Off'"):
        _ffi._read_switch()


SCRIPT = """
import json, sys, warnings
if sys.argv[1] == "missing":
    sys.modules["numba"] = None  # what importing it then raises is an ImportError
import jax, jax.numpy as jnp, lineax as lx, numpy as np
jax.config.update("jax_enable_x64", True)
import nsolve as ns

light = sys.modules.get("numba") is None and "nsolve._ffi" in sys.modules  # the switch is read by now
A = ns.StencilLinearOperator.poisson((6, 6), 1.0)
x = []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for make in (
        ns.preconditioners.IncompleteCholesky(),
        ns.preconditioners.IncompleteLU(),
        ns.preconditioners.SSOR(ordering="multicolour"),
    ):
        x.append(make(A).mv(jnp.arange(36.0).reshape(6, 6)).ravel().tolist())
said = [str(w.message) for w in caught if w.category is RuntimeWarning]
print(json.dumps([light, sys.modules.get("numba") is None, said, x]))
"""


@pytest.mark.parametrize("how", ["off", "missing"])
def test_without_numba_everything_works(how):
    environment = os.environ | {"NSOLVE_KERNELS": "off" if how == "off" else "on"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    light, unimported, said, x = json.loads(done.stdout)
    assert light and unimported
    assert len(said) == (how == "missing")
    if how == "missing":
        assert "numba" in said[0] and "cannot be imported" in said[0] and "several times as long" in said[0]
    stencil = ns.StencilLinearOperator.poisson((6, 6), 1.0)
    dense, b = np.asarray(stencil.as_matrix()), np.arange(36.0)
    low, (lower, upper) = dense_ic(dense).real, dense_ilu(dense)
    np.testing.assert_allclose(x[0], np.linalg.solve(low @ low.T, b), rtol=1e-10)
    np.testing.assert_allclose(x[1], np.linalg.solve(lower @ upper, b), rtol=1e-10)
    red_black = np.argsort(np.indices((6, 6)).sum(0).ravel() % 2, kind="stable")
    sorted_matrix = dense[np.ix_(red_black, red_black)]
    d, lower = np.diag(np.diag(sorted_matrix)), np.tril(sorted_matrix)
    expected = np.linalg.solve(lower @ np.linalg.solve(d, lower.T), b[red_black])
    np.testing.assert_allclose(np.asarray(x[2])[red_black], expected, rtol=1e-10)

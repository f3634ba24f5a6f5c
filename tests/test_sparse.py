"""Sparse operators against SciPy."""

import re
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import sparse as jsparse

import nsolve as ns
from nsolve.operators.base import is_hermitian
from nsolve.operators.convert import entries_of

from .helpers import ROOT

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]


@st.composite
def matrices(draw):
    """Any shape, empty rows and columns included, even and very uneven rows, bands with holes, any dtype."""
    rows, columns = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["scattered", "one full row", "banded"]))
    if kind == "banded":
        offsets = draw(st.lists(st.integers(-3, 3), min_size=1, max_size=4, unique=True))
        dense = sum(np.diag(rng.standard_normal(30 - abs(k)), k) for k in offsets)
        dense = dense * (rng.random((30, 30)) < 0.95)
    else:
        density = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
        dense = rng.standard_normal((rows, columns)) * (rng.random((rows, columns)) < density)
    if kind == "one full row":
        dense[rng.integers(rows)] = rng.standard_normal(columns)
    dense = dense.astype(dtype)
    if dtype.kind == "c":
        dense = dense * np.exp(1j * rng.uniform(0, 6, dense.shape)).astype(dtype)
    return sp.csr_array(dense)


def vector(size: int, dtype, seed: int = 0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(size)
    return (x + 1j * rng.standard_normal(size) if np.dtype(dtype).kind == "c" else x).astype(dtype)


@settings(max_examples=6)
@given(matrices())
def test_algebra_equals_scipy(matrix):
    operator = ns.SparseLinearOperator.from_scipy(matrix)
    tol = 1e-5 if matrix.dtype.itemsize <= 8 and matrix.dtype != np.float64 else 1e-12
    x = vector(matrix.shape[1], matrix.dtype)

    @eqx.filter_jit
    def everything(operator, x):  # one program compiles faster than each operation by itself
        twice = operator.with_values(2 * operator.values)
        operators = operator, operator.T, lx.conj(operator), twice
        return operator.mv(x), [o.as_matrix() for o in operators], lx.diagonal(operator), operator.values

    product, (itself, transpose, conjugate, twice), diagonal, values = everything(operator, jnp.asarray(x))
    dense = matrix.toarray()
    np.testing.assert_allclose(product, matrix @ x, rtol=tol, atol=tol * 30)
    assert product.dtype == matrix.dtype
    np.testing.assert_array_equal(itself, dense)
    np.testing.assert_array_equal(transpose, dense.T)
    np.testing.assert_array_equal(conjugate, dense.conj())
    np.testing.assert_array_equal(twice, 2 * dense)
    np.testing.assert_array_equal(diagonal, matrix.diagonal())
    np.testing.assert_array_equal(values, matrix.data)
    np.testing.assert_array_equal(operator.as_scipy().toarray(), dense)


@settings(max_examples=4)
@given(matrices())
def test_derivatives_live_on_the_pattern(matrix):
    matrix = matrix.astype(np.complex128 if matrix.dtype.kind == "c" else np.float64)
    operator = ns.SparseLinearOperator.from_scipy(matrix)
    x, c = vector(matrix.shape[1], matrix.dtype), vector(matrix.shape[0], matrix.dtype, 1)

    full = vector(matrix.shape[1], matrix.dtype, 2)

    def objective(operator):
        return jnp.sum(jnp.asarray(c) * operator.mv(jnp.asarray(x))).real

    @eqx.filter_jit
    def differentiate(operator):
        gradient = jax.grad(lambda values: objective(operator.with_values(values)))(operator.values)
        stepped = eqx.apply_updates(operator, eqx.filter_grad(objective)(operator))
        return gradient, stepped, stepped.as_matrix(), stepped.mv(jnp.asarray(full))

    gradient, stepped, dense, product = differentiate(operator)
    expected = (c[operator.pattern.rows] * x[operator.pattern.indices]).real
    np.testing.assert_allclose(gradient.real, expected, atol=1e-12)
    # Differentiating the operator itself leaves padding alone: a step along it keeps the pattern.
    np.testing.assert_allclose(dense, stepped.as_scipy().toarray(), atol=1e-12)
    np.testing.assert_allclose(product, stepped.as_scipy() @ full, atol=1e-10)


def test_padding_is_bounded():
    lengths = np.concatenate([np.full(2000, 3), np.arange(1, 200), [2000]])
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    indices = np.concatenate([np.arange(n) for n in lengths])
    pattern = ns.operators.SparsityPattern(indptr, indices, (len(lengths), 2000))
    stored = sum(pattern.row_lengths[rows].max() * len(rows) for rows in pattern.buckets)
    assert stored <= 1.31 * pattern.nnz
    assert len(pattern.buckets) < 30


def test_grids_are_stored_by_diagonals():
    grid = ns.StencilLinearOperator.poisson((7, 9), 1.0).as_sparse()
    assert grid.pattern.diagonal_offsets == (-9, -1, 0, 1, 9)
    scattered = sp.random_array((40, 40), density=0.1, rng=np.random.default_rng(0))
    assert ns.SparseLinearOperator.from_scipy(scattered).pattern.diagonal_offsets is None


def test_coordinates_in_any_order_are_summed():
    rows, cols = [2, 0, 2, 0], [1, 1, 1, 0]
    operator = jax.jit(lambda v: ns.SparseLinearOperator.from_coo(v, rows, cols, (3, 2)))(
        jnp.array([1.0, 2.0, 3.0, 4.0])
    )
    np.testing.assert_array_equal(operator.as_matrix(), [[4, 2], [0, 0], [0, 4]])
    np.testing.assert_array_equal(operator.values, [4, 2, 4])


def test_bcoo_with_its_padding():
    dense = jnp.array([[0.0, 1.0], [2.0, 3.0]])
    matrix = jsparse.BCOO.fromdense(dense, nse=6)
    np.testing.assert_array_equal(ns.SparseLinearOperator.from_bcoo(matrix).as_matrix(), dense)


def test_values_may_be_batched():
    operator = ns.SparseLinearOperator.from_scipy(sp.csr_array(np.array([[2.0, 1.0], [0.0, 3.0]])))
    values = jnp.stack([operator.values, 2 * operator.values])
    product = jax.vmap(lambda v, x: operator.with_values(v).mv(x), in_axes=(0, None))
    np.testing.assert_array_equal(product(values, jnp.array([1.0, 1.0])), [[3, 3], [6, 6]])


def test_structure_is_known_without_tags():
    def of(matrix):
        return ns.SparseLinearOperator.from_scipy(sp.csr_array(matrix))

    assert lx.is_diagonal(of(np.eye(3))) and lx.is_symmetric(of(np.eye(3)))
    assert lx.is_tridiagonal(of(np.eye(4) + np.eye(4, k=1)))
    assert lx.is_upper_triangular(of(np.triu(np.ones((3, 3)))))
    assert not lx.is_lower_triangular(of(np.triu(np.ones((3, 3)))))
    assert not lx.is_symmetric(of(np.ones((3, 3))))


def test_lineax_direct_solvers_take_it():
    matrix = np.array([[4.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 2.0]])
    operator = ns.SparseLinearOperator.from_scipy(matrix, lx.positive_semidefinite_tag)
    b = jnp.array([1.0, 2.0, 3.0])
    for solver in (lx.LU(), lx.Cholesky(), lx.AutoLinearSolver(well_posed=True)):
        np.testing.assert_allclose(
            lx.linear_solve(operator, b, solver).value, np.linalg.solve(matrix, b), rtol=1e-12
        )


@pytest.mark.parametrize("tag", [lx.symmetric_tag, lx.positive_semidefinite_tag, ns.hermitian_tag])
def test_a_tag_that_the_entries_contradict_is_refused(tag):
    with pytest.raises(ValueError, match="`tags` contain"):
        ns.SparseLinearOperator.from_scipy(np.array([[1.0, 2.0], [0.0, 1.0]]), tag)


def symmetric_matrix(kind: str, dtype=float, n: int = 9) -> np.ndarray:
    """Banded or scattered, with a pattern that is symmetric."""
    rng = np.random.default_rng(5)
    near = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) < 2
    pattern = near if kind == "banded" else np.triu(rng.random((n, n)) < 0.3)
    lower = rng.standard_normal((n, n)) * (pattern | np.eye(n, dtype=bool)).T
    if np.dtype(dtype).kind == "c":
        lower = lower + 1j * np.tril(rng.standard_normal((n, n)), -1) * (lower != 0)
    lower = np.tril(lower).astype(dtype)
    return lower + np.tril(lower, -1).conj().T + 6 * np.eye(n, dtype=dtype)


@pytest.mark.parametrize("kind", ["banded", "scattered"])
@pytest.mark.parametrize(
    ("symmetry", "dtype"),
    [("symmetric", np.float64), ("hermitian", np.complex128), ("symmetric", np.complex64)],
)
def test_symmetric_storage_equals_scipy(kind, symmetry, dtype):
    matrix = symmetric_matrix(kind, dtype)
    if symmetry == "symmetric":
        matrix = np.tril(matrix) + np.tril(matrix, -1).T
    operator = ns.SparseLinearOperator.from_scipy(matrix, symmetry=symmetry)
    rows, columns = np.nonzero(np.tril(matrix))
    np.testing.assert_array_equal(operator.triangle, matrix[rows, columns])
    assert operator.tags == {lx.symmetric_tag if symmetry == "symmetric" else ns.hermitian_tag}
    moved = vector(operator.triangle.size, dtype)  # any numbers: a Hermitian diagonal takes their real part
    lower = np.zeros_like(matrix)
    lower[rows, columns] = moved
    below, diagonal = np.tril(lower, -1), np.diag(lower)
    if symmetry == "symmetric":
        expected = below + below.T + np.diag(diagonal)
    else:
        expected = below + below.conj().T + np.diag(diagonal.real)
    x = vector(len(matrix), dtype, 3)

    @eqx.filter_jit
    def everything(operator, moved, x):
        new = operator.with_triangle(moved)
        operators = new, new.T, lx.conj(new), lx.linearise(new), new.with_values(new.values)
        products = new.mv(x), new.T.mv(x)
        return [o.as_matrix() for o in operators], products, lx.diagonal(new), new.values

    dense, products, diagonal, values = everything(operator, moved, x)
    wanted_matrices = expected, expected.T, expected.conj(), expected, expected
    for actual, wanted in zip(dense, wanted_matrices, strict=True):
        np.testing.assert_array_equal(actual, wanted)
    tol = 1e-5 if dtype == np.complex64 else 1e-13
    for actual, wanted in zip(products, (expected @ x, expected.T @ x), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=tol, atol=tol)
    np.testing.assert_array_equal(diagonal, np.diag(expected))
    np.testing.assert_array_equal(values, expected[operator.pattern.rows, operator.pattern.indices])
    np.testing.assert_array_equal(operator.as_scipy().toarray(), matrix)


def test_symmetric_storage_serves_preconditioners():
    matrix, r = symmetric_matrix("scattered"), jnp.arange(9.0)
    tags = lx.positive_semidefinite_tag
    operator = ns.SparseLinearOperator.from_scipy(matrix, tags, symmetry="symmetric")
    general = ns.SparseLinearOperator.from_scipy(matrix, tags)
    for preconditioner in (ns.preconditioners.Jacobi(), ns.preconditioners.IncompleteCholesky()):
        np.testing.assert_array_equal(preconditioner(operator).mv(r), preconditioner(general).mv(r))


def test_tags_of_values_do_not_survive_other_values(tmp_path):
    path, psd = tmp_path / "symmetric.mtx", lx.positive_semidefinite_tag
    ns.write_matrix_market(path, symmetric_matrix("scattered"))
    read = ns.SparseLinearOperator.from_matrix_market(path)
    assert lx.is_symmetric(read) and not lx.is_symmetric(read.with_values(2 * read.values))
    assert lx.is_symmetric(read.with_triangle(2 * read.triangle))
    grid = ns.StencilLinearOperator.poisson((3, 3)).as_sparse()
    assert lx.is_positive_semidefinite(grid) and not lx.is_symmetric(grid.with_values(-grid.values))
    given = ns.SparseLinearOperator.from_scipy(symmetric_matrix("scattered"), psd)
    assert lx.is_positive_semidefinite(given.with_values(2 * given.values))  # the user's word


def from_file(matrix, path) -> ns.SparseLinearOperator:
    ns.write_matrix_market(path / "matrix.mtx", matrix)
    return ns.SparseLinearOperator.from_matrix_market(path / "matrix.mtx")


FITTED = {
    "symmetric file": lambda path: from_file(symmetric_matrix("scattered"), path),
    "hermitian file": lambda path: from_file(symmetric_matrix("banded", complex), path),
    "tagged": lambda path: ns.SparseLinearOperator.from_scipy(symmetric_matrix("banded"), lx.symmetric_tag),
    "diffusion": lambda path: ns.StencilLinearOperator.diffusion(1 + np.arange(9) % 4, 1.0),
    "assembled": lambda path: ns.StencilLinearOperator.poisson((3, 3)).as_sparse(),
    "low rank": lambda path: ns.LowRankPlusDiagonalLinearOperator(
        jnp.arange(3.0, 12), vector(18, complex).reshape(9, 2)
    ),
}


@pytest.mark.parametrize(
    ("name", "update"),
    [*((name, "pytree") for name in FITTED), ("symmetric file", "values"), ("assembled", "values")],
)
def test_gradients_after_a_step_of_descent(name, update, tmp_path):
    """What was true of the first values, a file's symmetry, says nothing of those fitted later."""
    operator = FITTED[name](tmp_path)
    dtype = operator.in_structure().dtype
    b, c = jnp.asarray(vector(9, dtype)), jnp.asarray(vector(9, dtype, 1))

    def loss(operator, direct=False):
        if direct:
            x = jnp.linalg.solve(operator.as_matrix(), b)
        else:
            x = lx.linear_solve(operator, b, ns.BiCGStab(rtol=1e-13)).value
        return jnp.vdot(c, x).real

    @eqx.filter_jit
    def gradients(operator):
        if update == "values":

            def of_values(values, direct):
                return loss(operator.with_values(values), direct)

            stepped = operator.values - 0.3 * jax.grad(of_values)(operator.values, False).conj()
            return [jax.grad(of_values)(stepped, direct) for direct in (False, True)]
        parameters, rest = eqx.partition(operator, eqx.is_inexact_array)
        slopes = eqx.filter_grad(loss)(operator)
        parameters = jax.tree.map(lambda p, g: p - (0.3 * g.conj()).astype(p.dtype), parameters, slopes)
        stepped = eqx.combine(parameters, rest)
        return [eqx.filter_grad(loss)(stepped, direct) for direct in (False, True)]

    actual, expected = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])
        for gradient in gradients(operator)
    )
    np.testing.assert_allclose(actual, expected, atol=1e-9 * np.abs(expected).max())


def test_bad_input_is_named():
    operator = ns.SparseLinearOperator.from_scipy(np.eye(3))
    with pytest.raises(ValueError, match=r"`values` must have shape \(3,\)"):
        operator.with_values(jnp.ones(4))
    with pytest.raises(TypeError, match="`values` must be floating-point"):
        operator.with_values(jnp.ones(3, int))
    with pytest.raises(ValueError, match=r"`rows` must lie in \[0, 2\)"):
        ns.SparseLinearOperator.from_coo(jnp.ones(1), [2], [0], (2, 2))
    with pytest.raises(ValueError, match="of one length"):
        ns.SparseLinearOperator.from_coo(jnp.ones(2), [0], [0], (2, 2))
    with pytest.raises(TypeError, match="`rows` must be concrete"):
        jax.jit(
            lambda rows: ns.SparseLinearOperator.from_coo(jnp.ones(1), rows, [0], (2, 2)).mv(jnp.ones(2))
        )(jnp.array([0]))
    with pytest.raises(TypeError, match="`cols` must be integers"):
        ns.SparseLinearOperator.from_coo(jnp.ones(1), [0], [0.5], (2, 2))
    of = ns.SparseLinearOperator
    with pytest.raises(ValueError, match="symmetric storage"):
        operator.with_triangle(jnp.ones(3))
    with pytest.raises(ValueError, match="`symmetry` must be"):
        of.from_scipy(np.eye(3), symmetry="skew")
    with pytest.raises(ValueError, match="`tags` contain"):
        of.from_scipy(np.triu(np.ones((3, 3))), symmetry="symmetric")
    with pytest.raises(ValueError, match=r"`triangle` must have shape \(3,\)"):
        of.from_scipy(np.eye(3), symmetry="symmetric").with_triangle(jnp.ones(4))
    with pytest.raises(TypeError, match="must be a `SparsityPattern`"):
        of(np.eye(3), np.eye(3))
    with pytest.raises(TypeError, match="`from_bcoo` takes"):
        of.from_scipy(jsparse.BCOO.fromdense(jnp.eye(2)))
    with pytest.raises(TypeError, match="go through `from_scipy`"):
        of.from_bcoo(sp.csr_array(np.eye(2)))
    with pytest.raises(ValueError, match="two-dimensional"):
        of.from_scipy(np.ones(3))
    with pytest.raises(TypeError, match="must hold numbers"):
        of.from_scipy(np.array([["a"]]))
    batched = jsparse.BCOO.fromdense(jnp.ones((2, 2, 2)), n_batch=1)
    with pytest.raises(ValueError, match="n_batch"):
        ns.SparseLinearOperator.from_bcoo(batched)


@pytest.mark.parametrize("given", ["?", "i8", "u1", "f2", "f4", "f8", "g", "c8", "c16", "G"])
def test_types_of_numbers(given):
    """Whatever NumPy has becomes a type that JAX has, or says so."""
    expected = {"f2": "f4", "f4": "f4", "c8": "c8", "c16": "c16", "G": "c16"}.get(given, "f8")
    numbers = np.array([2, 1]).astype(given)
    assert ns.SparseLinearOperator.from_scipy(np.diag(numbers)).dtype == np.dtype(expected)
    assert ns.StencilLinearOperator.from_stencil({(0,): numbers}, (2,)).dtype == np.dtype(expected)
    if numbers.dtype.kind in "fc":
        operator = ns.SparseLinearOperator.from_coo(numbers, [0, 1], [0, 1], (2, 2))
        assert operator.dtype == np.dtype(expected)
        np.testing.assert_array_equal(operator.values, [2, 1])


@pytest.mark.parametrize("number", [1e300, 1e-300, 1e-40])
@pytest.mark.parametrize(
    "make",
    [
        lambda x: ns.SparseLinearOperator.from_scipy(np.diag([1, x])),
        lambda x: ns.SparseLinearOperator.from_coo(np.array([1, x]), [0, 1], [0, 1], (2, 2)),
        lambda x: ns.SparseLinearOperator.from_scipy(np.eye(2)).with_values(np.array([1, x])),
        lambda x: ns.StencilLinearOperator.from_stencil({(0,): x, (1,): 1.0}, (2,)),
        lambda x: ns.StencilLinearOperator.poisson((2,), x ** (-0.5)),
        lambda x: ns.StencilLinearOperator.diffusion(np.array([1, x])),
        lambda x: ns.LowRankPlusDiagonalLinearOperator(np.array([1, x]), np.ones((2, 1))),
    ],
)
def test_numbers_that_single_precision_loses_are_refused(make, number):
    make(number)
    with (
        jax.enable_x64(False),
        pytest.raises(ValueError, match="would become (infinite|zero).*jax_enable_x64"),
    ):
        make(number)
    with pytest.raises(ValueError, match="would become infinite"):
        ns.SparseLinearOperator.from_scipy(np.full((1, 1), np.longdouble("1e400")))


def test_an_empty_matrix():
    empty = ns.SparseLinearOperator.from_scipy(np.zeros((0, 0)))
    for operator in (empty, ns.SparseLinearOperator.from_scipy(np.zeros((0, 0)), symmetry="symmetric")):
        assert operator.mv(jnp.zeros(0)).shape == operator.values.shape == operator.T.diagonal().shape == (0,)
        assert operator.as_matrix().shape == operator.as_scipy().shape == (0, 0)


MATRIX = lx.MatrixLinearOperator
REAL, COMPLEX = jnp.asarray(symmetric_matrix("banded")), jnp.asarray(symmetric_matrix("banded", complex))


@pytest.mark.parametrize(
    ("operator", "known"),
    [
        (MATRIX(REAL, ns.hermitian_tag), True),
        (lx.TaggedLinearOperator(MATRIX(REAL), ns.hermitian_tag), True),
        (lx.TaggedLinearOperator(MATRIX(COMPLEX, ns.hermitian_tag), lx.unit_diagonal_tag), True),
        (-MATRIX(COMPLEX, ns.hermitian_tag), True),
        (2.0 * MATRIX(REAL, ns.hermitian_tag) + MATRIX(REAL, lx.symmetric_tag), True),
        (MATRIX(COMPLEX, ns.hermitian_tag) / 3, True),
        (MATRIX(COMPLEX, ns.hermitian_tag) * 1j, False),
        (MATRIX(REAL, ns.hermitian_tag) + MATRIX(REAL), False),
        (MATRIX(COMPLEX, lx.symmetric_tag), False),
    ],
)
def test_hermitian_operators_are_known(operator, known):
    assert is_hermitian(operator) is known


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (sp.csr_array(np.eye(2)), "SparseLinearOperator.from_scipy"),
        (jsparse.BCOO.fromdense(jnp.eye(2)), "SparseLinearOperator.from_bcoo"),
        (np.eye(2), "lx.MatrixLinearOperator"),
        (jnp.eye(2), "lx.MatrixLinearOperator"),
        (ns.SparseLinearOperator, "pass an instance"),
    ],
)
def test_what_is_no_operator_is_told_what_to_write(given, says):
    for use in (is_hermitian, lambda operator: entries_of(operator, "somebody"), ns.as_sparse):
        with pytest.raises(TypeError, match=f"must be a linear operator.*{says}"):
            use(given)


FORGET = """
import gc, weakref, jax, jax.numpy as jnp, lineax as lx, numpy as np, nsolve as ns

precond, psd = ns.preconditioners, lx.positive_semidefinite_tag
jax.config.update("jax_enable_x64", True)


def solve(k):
    matrix = np.diag(np.full(9, 4.0)) + np.diag(np.ones(9 - k), k) + np.diag(np.ones(9 - k), -k)
    operator = ns.SparseLinearOperator.from_scipy(matrix, psd, symmetry="symmetric" if k == 3 else None)
    constructors = precond.IncompleteCholesky(), precond.SSOR(), precond.SSOR(ordering="multicolour")
    solver = ns.CG(rtol=1e-8, preconditioner=constructors[k - 1])

    def first(values):
        return lx.linear_solve(operator.with_values(values), jnp.ones(9), solver).value[0]

    if k == 1:
        jax.grad(first)(operator.values)
    else:
        lx.linear_solve(operator, jnp.ones(9), solver)
    patterns.append(weakref.ref(operator.pattern))
    patterns.append(weakref.ref(precond.triangular.triangle(operator.pattern, True)[0]))


def assemble():
    stencil = ns.StencilLinearOperator.diffusion(1 + np.arange(25.0).reshape(5, 5) % 3)
    lx.linear_solve(stencil, jnp.ones((5, 5)), ns.CG(rtol=1e-8, preconditioner=precond.Multigrid()))
    patterns.append(weakref.ref(stencil.as_sparse().pattern))


patterns = []
for k in (1, 2, 3):
    solve(k)
assemble()
jax.clear_caches()
gc.collect()
assert len(patterns) == 7 and not any(pattern() for pattern in patterns), [pattern() for pattern in patterns]
"""


def test_patterns_are_forgotten():
    """What JAX compiled for a pattern keeps it alive, until its caches are cleared: and then nothing does."""
    subprocess.run([sys.executable, "-c", FORGET], check=True, timeout=600, cwd=ROOT)


def test_gathers_of_closed_over_columns_are_not_evaluated_at_compile_time():
    """With a large pattern that takes XLA longer than everything else."""
    rng = np.random.default_rng(0)
    matrix = sp.csr_array(np.where(rng.random((40, 40)) < 0.2, 1.0, 0.0))
    a, x = ns.SparseLinearOperator.from_scipy(matrix), jnp.asarray(rng.normal(size=40))
    program = str(jax.make_jaxpr(lambda v: a.with_values(v).mv(x))(a.values))
    # No column is compared with zero to see whether it counts from the end.
    assert "gather" in program and not re.search(r"i32\[[^\]]*\] = select_n", program)

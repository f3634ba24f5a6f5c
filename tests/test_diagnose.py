"""`diagnose`: each thing that it claims of a matrix, on matrices of which it is known."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp

import nsolve as ns

from .helpers import real_matrices
from .subjects.linear import PSD, grid_matrix


def sparse(matrix, tags=()) -> ns.SparseLinearOperator:
    return ns.SparseLinearOperator.from_scipy(matrix, tags)


def told(found) -> str:
    return " ".join(found.advice)


def test_a_definite_matrix():
    matrix = grid_matrix(5)
    found = ns.diagnose(sparse(matrix))
    assert (found.shape, found.entries, found.structural_rank) == ((25, 25), np.count_nonzero(matrix), 25)
    assert found.structurally_symmetric and found.symmetric is True and found.hermitian is True
    assert found.positive_definite == "proved" and found.bandwidth == (5, 5) and found.zero_diagonal == 0
    assert found.entry_range == (1.0, 4.0) and found.dominance == 1.0 and not found.constant_null
    exact = np.linalg.cond(matrix, 1)
    assert 0.5 * exact <= (found.condition or 0) <= (1 + 1e-10) * exact
    assert "SparseCholesky" in told(found) and "positive definite       proved" in repr(found)


def test_an_indefinite_and_an_unsymmetric_matrix():
    found = ns.diagnose(sparse(grid_matrix(5) - 3.5 * np.eye(25)))
    assert found.positive_definite == "disproved" and found.hermitian
    skew = grid_matrix(5) + np.diag(np.ones(24), 1)
    found = ns.diagnose(sparse(skew))
    assert found.symmetric is False and found.hermitian is False and found.positive_definite == "disproved"
    twisted = grid_matrix(5) + 1j * np.triu(grid_matrix(5), 1) - 1j * np.tril(grid_matrix(5), -1)
    found = ns.diagnose(sparse(twisted))
    assert found.symmetric is False and found.hermitian is True


def test_singular_matrices():
    empty = sp.csr_array(np.diag([1.0, 2, 0]))
    empty.eliminate_zeros()
    found = ns.diagnose(sparse(empty))
    assert found.structural_rank == 2 and "row 2 is empty" in found.deficiency and found.condition == np.inf
    assert "Singular whatever the values" in told(found) and "SparseLU" not in told(found)
    neumann = ns.StencilLinearOperator.diffusion(jnp.ones((6, 6)), 1.0, "neumann")
    found = ns.diagnose(neumann)
    assert found.constant_null and (found.condition or 0) > 1e14 and "by `MINRES`" in told(found)
    rank_one = np.outer(np.arange(1.0, 5), np.arange(2.0, 6))
    found = ns.diagnose(sparse(rank_one))
    assert found.structural_rank == 4 and "Singular to rounding" in told(found)


def test_units_and_zeros_on_the_diagonal():
    rng = np.random.default_rng(0)
    matrix = 10.0 ** rng.uniform(-8, 8, (30, 1)) * (np.roll(np.eye(30), 1, axis=1) + 0.1 * np.eye(30, k=3))
    found = ns.diagnose(sparse(matrix))
    assert found.zero_diagonal == 30 and (found.scaled_condition or 1) < 1e-3 * (found.condition or 0)
    assert "different units" in told(found) and "30 diagonal entries are zero" in told(found)


@pytest.mark.parametrize(
    "matrix, tag, text",
    [
        ([[1.0, 2], [0, 1]], PSD, "not Hermitian"),
        ([[1.0, 2], [0, 1]], lx.symmetric_tag, "not symmetric"),
        ([[1.0, 0], [0, -1]], PSD, "positive_semidefinite_tag: "),
        ([[1.0, 0], [0, -1]], lx.negative_semidefinite_tag, "positive diagonal"),
        ([[1.0, 2], [0, 1]], lx.diagonal_tag, "diagonal_tag: there are other entries"),
        ([[1.0, 2], [0, 1]], lx.lower_triangular_tag, "lower_triangular_tag"),
        ([[1.0, 0], [2, 1]], lx.upper_triangular_tag, "upper_triangular_tag"),
        ([[2.0, 0], [0, 1]], lx.unit_diagonal_tag, "unit_diagonal_tag"),
    ],
)
def test_tags_that_are_not_true(matrix, tag, text):
    plain = sparse(np.array(matrix))
    assert not ns.diagnose(plain).wrong_tags
    found = ns.diagnose(lx.TaggedLinearOperator(plain, tag))
    assert any(text in wrong for wrong in found.wrong_tags) and "wrong tag" in repr(found)


def test_products_only():
    structure = jax.ShapeDtypeStruct((20,), float)
    matrix = jnp.asarray(np.diag(np.arange(1.0, 21)))
    found = ns.diagnose(lx.FunctionLinearOperator(lambda x: matrix @ x, structure))
    assert (
        found.entries is None and found.positive_definite == "unknown" and 1 < (found.condition or 0) < 20.1
    )
    shifted = matrix - 3.5 * jnp.eye(20)
    found = ns.diagnose(lx.FunctionLinearOperator(lambda x: shifted @ x, structure, PSD))
    assert found.positive_definite == "disproved" and found.wrong_tags
    found = ns.diagnose(lx.FunctionLinearOperator(lambda x: jnp.roll(x, 1), structure))
    assert found.hermitian is False


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_what_is_odd_about_a_size_or_a_number(dtype):
    one = ns.diagnose(sparse(np.array([[3]], dtype)))
    assert one.positive_definite == "proved" and one.condition == 1 and one.dtype == dtype
    wide = ns.diagnose(sparse(np.ones((2, 4), dtype)))
    assert wide.shape == (2, 4) and "Not square" in told(wide)
    for shape in ((0, 0), (0, 3), (3, 3)):
        none = ns.diagnose(sparse(sp.csr_array(shape, dtype=dtype)))
        assert none.entries == none.structural_rank == 0 and none.advice and repr(none)
    spoiled = ns.diagnose(sparse(np.array([[np.nan, 2], [0, np.inf]], dtype)))
    assert spoiled.nonfinite == 2 and "NaN or infinite" in told(spoiled)


def test_bad_input():
    with pytest.raises(TypeError, match="`operator`"):
        ns.diagnose(np.eye(3))
    with pytest.raises(TypeError, match="outside of `jit`"):
        jax.jit(lambda v: ns.diagnose(sparse(np.eye(2)).with_values(v)).entries)(jnp.ones(2))


@pytest.mark.parametrize("path", real_matrices(), ids=lambda path: path.stem)
def test_real_matrices(path):
    found = ns.diagnose(ns.SparseLinearOperator.from_matrix_market(path))
    assert (found.entries or 0) > 0 and found.advice and found.structural_rank == min(found.shape)

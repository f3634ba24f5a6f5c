"""Block Jacobi preconditioning against its definition, and inside the solvers."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import nsolve as ns
from nsolve.preconditioners import BlockJacobi, Jacobi, local
from tests.test_incomplete import DTYPES, PSD, assert_is, general, hermitian, sparse

from .helpers import assert_refresh_is_set_up


def dense_blocks(a, labels):
    inverse = np.zeros_like(a, np.complex128)
    for label in np.unique(labels):
        (rows,) = np.nonzero(labels == label)
        inverse[np.ix_(rows, rows)] = np.linalg.inv(a[np.ix_(rows, rows)].astype(np.complex128))
    return inverse


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("definite", [True, False])
def test_it_is_the_inverse_of_the_blocks(dtype, definite):
    n = 30
    a = (hermitian if definite else general)(n, dtype=dtype)
    matrix = sparse(a, *([PSD] if definite else []))
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), [1, 3, 7, 9, 10]))
    for make, parts in [
        (BlockJacobi(7), np.arange(n) // 7),
        (BlockJacobi(n), np.zeros(n)),
        (BlockJacobi(64), np.zeros(n)),
        (BlockJacobi(blocks=labels), labels),
    ]:
        inverse = make(matrix)
        assert_is(inverse, dense_blocks(a, parts), dtype)
        assert lx.is_positive_semidefinite(inverse) == definite
        assert lx.is_positive_semidefinite(inverse.transpose()) == definite


def test_single_unknowns_are_jacobi():
    for a, tags in ((hermitian(20, dtype="complex128"), [PSD]), (general(20), [])):
        matrix = sparse(a, *tags)
        x = jnp.arange(20.0).astype(a.dtype)
        np.testing.assert_allclose(BlockJacobi(1)(matrix).mv(x), Jacobi()(matrix).mv(x), rtol=1e-14)


def test_larger_blocks_need_fewer_steps():
    """The lines of an anisotropic grid."""
    one = sparse(2 * np.eye(32) - np.eye(32, k=1) - np.eye(32, k=-1)).as_scipy().toarray()
    matrix = sparse(np.kron(np.eye(32), one) + 1e-2 * np.kron(one, np.eye(32)), PSD)
    steps = [
        int(lx.linear_solve(matrix, jnp.ones(1024), ns.CG(rtol=1e-8, preconditioner=make)).stats["num_steps"])
        for make in (Jacobi(), BlockJacobi(8), BlockJacobi(32))
    ]
    assert steps[2] < steps[1] < steps[0] and 3 * steps[2] < steps[0], steps


@pytest.mark.parametrize("labels", [None, np.random.default_rng(1).permutation(np.arange(30) % 4)])
def test_of_kernels_only_the_blocks_are_evaluated(labels, monkeypatch):
    points, x = np.random.default_rng(0).random((30, 2)), jnp.arange(30.0)
    nugget = np.linspace(0.01, 0.1, 30)
    matrix = ns.KernelLinearOperator(points, ns.operators.RadialKernel("matern32", 0.2), nugget)
    make = BlockJacobi(7) if labels is None else BlockJacobi(blocks=labels)
    dense = np.asarray(matrix.as_matrix())
    expected = dense_blocks(dense, np.arange(30) // 7 if labels is None else labels).real @ np.asarray(x)
    monkeypatch.delattr(ns.KernelLinearOperator, "as_matrix")
    inverse = make(lx.TaggedLinearOperator(matrix, PSD))
    np.testing.assert_allclose(inverse.mv(x), expected, rtol=1e-11)
    assert lx.is_positive_semidefinite(inverse)

    def refreshed(nugget):
        return inverse.refresh(ns.KernelLinearOperator(points, matrix.kernel, nugget)).mv(x)

    twice = jax.vmap(refreshed)(jnp.stack([nugget, 2 * nugget]))
    np.testing.assert_allclose(twice[0], expected, rtol=1e-11)
    assert not np.allclose(twice[1], expected, rtol=1e-2)
    with pytest.raises(ValueError, match="labels of 3 unknowns, but the operator has 30"):
        BlockJacobi(blocks=[0, 0, 1])(matrix)
    monkeypatch.setattr(local, "_SHARE", 1e-12)
    with pytest.raises(ValueError, match="take .* GB, which is more than"):
        make(matrix)


def test_grids_and_trees_are_flattened():
    stencil = ns.StencilLinearOperator.poisson((5, 6), 0.1)
    r = jnp.asarray(np.random.default_rng(0).standard_normal((5, 6)))
    expected = BlockJacobi(6)(ns.as_sparse(stencil)).mv(r.reshape(-1)).reshape(5, 6)
    np.testing.assert_allclose(BlockJacobi(6)(stencil).mv(r), expected, rtol=1e-13)


@pytest.mark.parametrize("definite", [True, False])
def test_refresh_traced_and_batched_equals_set_up(definite):
    matrix = sparse(hermitian(20), *([PSD] if definite else []))
    inverse = assert_refresh_is_set_up(BlockJacobi(6), matrix, rtol=1e-13)
    with pytest.raises(ValueError, match="`refresh` needs an operator with the pattern"):
        inverse.refresh(sparse(general(20, seed=3)))


@pytest.mark.parametrize("definite", [True, False])
def test_build_is_differentiable(definite):
    a = hermitian(9)
    matrix, x = sparse(a, *([PSD] if definite else [])), jnp.arange(9.0)

    def entry(values):
        return BlockJacobi(4).build(matrix.with_values(values)).mv(x)[2]

    inverse = dense_blocks(a, np.arange(9) // 4).real
    same = matrix.pattern.rows // 4 == matrix.pattern.indices // 4
    expected = -inverse[2, matrix.pattern.rows] * (inverse @ np.asarray(x))[matrix.pattern.indices] * same
    gradient = jax.jit(jax.grad(entry))(matrix.values)
    np.testing.assert_allclose(gradient, expected, atol=1e-13)
    constant = jax.grad(lambda values: BlockJacobi(4)(matrix.with_values(values)).mv(x)[2])(matrix.values)
    assert not constant.any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("definite", [True, False])
def test_singular_blocks_are_named_and_badly_scaled_ones_are_not_singular(dtype, definite):
    rng = np.random.default_rng(0)
    a = np.eye(12, dtype=dtype)
    low = rng.standard_normal((4, 3))
    a[4:8, 4:8] = low @ (low.T if definite else rng.standard_normal((3, 4)))
    tags = [PSD] if definite else []
    with pytest.raises(ValueError, match=r"`BlockJacobi`: the block of rows 4, 5, 6, 7 is .* \(1 of 3 block"):
        BlockJacobi(4)(sparse(a, *tags))
    scale = np.diag(10.0 ** np.linspace(-8, 8, 12)).astype(dtype)
    a = (scale @ (np.eye(12) + 0.2) @ scale).astype(dtype)
    assert jnp.isfinite(BlockJacobi(4)(sparse(a, *tags)).inverses).all()


def test_traced_bad_entries_fail_closed():
    a = np.kron(np.eye(3), np.ones((2, 2)) + np.eye(2))
    matrix = sparse(a, PSD)
    solver = ns.CG(rtol=1e-8, preconditioner=BlockJacobi(2))
    solve = jax.jit(
        lambda v: lx.linear_solve(matrix.with_values(v), jnp.arange(6.0), solver, throw=False).result
    )
    assert solve(matrix.values) == lx.RESULTS.successful
    for bad in (jnp.nan, jnp.inf, 0.5, -1.0):
        assert solve(matrix.values.at[3].set(bad)) != lx.RESULTS.successful
    nan = BlockJacobi(2)(matrix.with_values(matrix.values.at[3].set(jnp.nan)))
    assert jnp.isnan(nan.inverses[0]).all() and jnp.isfinite(nan.inverses[1:]).all()


def test_constructors_are_static_and_print():
    labels = np.arange(20) // 7
    make = BlockJacobi(blocks=labels)
    assert make == BlockJacobi(blocks=labels.copy()) and hash(make) == hash(BlockJacobi(blocks=labels))
    assert make != BlockJacobi(blocks=labels[::-1].max() - labels[::-1])
    assert not jax.tree.leaves(make)
    shown = "BlockJacobi preconditioner (20 unknowns; 3 dense inverses of up to 7 unknowns, 0.00118 MB)"
    assert repr(make(sparse(hermitian(20), PSD))) == shown


def test_bad_input_is_named(monkeypatch):
    matrix = sparse(hermitian(12), PSD)
    for size in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match=r"`BlockJacobi\(block_size=...\)` must be a positive integer"):
            BlockJacobi(size)  # pyright: ignore
    with pytest.raises(ValueError, match="not both"):
        BlockJacobi(2, np.zeros(12, int))
    for labels, message in (
        ([0, 1, 3], "2 does not occur"),
        ([1, 2, 10**12], "0 does not occur, and 1000000000000 does"),
        ([0, -1], "label -1"),
        ([[0]], "must be flat"),
        ([], "integers"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            BlockJacobi(blocks=labels)
    with pytest.raises(TypeError, match="must be integers"):
        BlockJacobi(blocks=[0.0, 1.0])
    with pytest.raises(TypeError, match="must be concrete"):
        jax.jit(lambda labels: BlockJacobi(blocks=labels)(matrix).mv(jnp.ones(12)))(jnp.zeros(12, int))
    with pytest.raises(ValueError, match="labels of 3 unknowns, but the operator has 12"):
        BlockJacobi(blocks=[0, 0, 1])(matrix)
    with pytest.raises(ValueError, match="needs a square operator"):
        BlockJacobi(2)(sparse(np.ones((3, 4))))
    function = lx.FunctionLinearOperator(lambda x: x, jax.ShapeDtypeStruct((12,), float), PSD)
    with pytest.raises(ValueError, match="`BlockJacobi` needs the entries"):
        BlockJacobi(2)(function)
    hole = np.eye(4)[[0, 1, 3, 2]]
    for trace in (lambda f: f, jax.jit):
        with pytest.raises(ValueError, match="row 2 of the matrix has no entries in block 2"):
            trace(lambda v: BlockJacobi(1)(sparse(hole).with_values(v)).mv(v))(jnp.ones(4))
    monkeypatch.setattr(local, "_SHARE", 1e-12)
    with pytest.raises(
        ValueError, match="2 dense inverses of up to 8 unknowns take .* GB, which is more than"
    ):
        BlockJacobi(8)(matrix)

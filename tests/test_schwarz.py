"""Overlapping Schwarz preconditioning against its definition, and its steps inside the solvers."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import nsolve as ns
from nsolve.preconditioners import BlockJacobi, Schwarz, local
from tests.test_incomplete import DTYPES, PSD, assert_is, general, hermitian, relative_error, sparse

from .helpers import assert_refresh_is_set_up


def dense_schwarz(a, labels, overlap, variant="additive", coarse=True):
    a, n = a.astype(np.complex128), len(a)
    near = (a != 0) | (a != 0).T | np.eye(n, dtype=bool)
    inverse = np.zeros_like(a)
    for label in np.unique(labels):
        inside = labels == label
        for _ in range(overlap):
            inside = near @ inside
        block = np.zeros_like(a)
        block[np.ix_(inside, inside)] = np.linalg.inv(a[np.ix_(inside, inside)])
        if variant == "restricted":
            block[labels != label] = 0
        inverse += block
    if coarse:
        sums = np.eye(labels.max() + 1)[labels].T
        inverse += sums.T @ np.linalg.inv(sums @ a @ sums.T) @ sums
    return inverse


def some_labels(n, parts=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.permutation(np.concatenate([np.arange(parts), rng.integers(0, parts, n - parts)]))


def steps(matrix, constructor, solver=ns.CG):
    b = jnp.asarray(np.random.default_rng(0).standard_normal(matrix.in_structure().shape))
    solution = lx.linear_solve(matrix, b, solver(rtol=1e-8, preconditioner=constructor))
    assert jnp.linalg.norm(b - matrix.mv(solution.value)) <= 1e-8 * jnp.linalg.norm(b)
    return int(solution.stats["num_steps"])


def poisson(*shape):
    return ns.StencilLinearOperator.poisson(shape, 0.1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("definite", [True, False])
@pytest.mark.parametrize("variant", ["additive", "restricted"])
def test_it_is_the_sum_of_the_local_inverses(dtype, definite, variant):
    n = 40
    a = (hermitian if definite else general)(n, density=0.05, dtype=dtype)
    matrix, labels = sparse(a, *([PSD] if definite else [])), some_labels(n)
    for overlap, coarse in ((0, False), (1, True), (2, False)):
        inverse = Schwarz(labels, overlap, variant, coarse)(matrix)
        assert_is(inverse, dense_schwarz(a, labels, overlap, variant, coarse), dtype)
        tagged = definite and variant == "additive"
        assert lx.is_positive_semidefinite(inverse) == tagged
        assert lx.is_positive_semidefinite(inverse.transpose()) == tagged


def test_one_subdomain_is_the_inverse_and_no_overlap_is_block_jacobi():
    a, labels = general(30), some_labels(30)
    for variant in ("additive", "restricted"):
        inverse = Schwarz(1, variant=variant)(sparse(a)).as_matrix()
        assert relative_error(inverse, np.linalg.inv(a)) < 1e-12
        inverse = Schwarz(labels, 0, variant, coarse=False)(sparse(a)).as_matrix()
        expected = BlockJacobi(blocks=labels)(sparse(a)).as_matrix()
        np.testing.assert_allclose(inverse, expected, atol=1e-15)
    each = Schwarz(30, 0, coarse=False)(sparse(a)).as_matrix()
    np.testing.assert_allclose(each, np.diag(1 / np.diag(a)), rtol=1e-13)


def test_own_subdomains_are_compact_and_of_equal_sizes():
    matrix = ns.as_sparse(poisson(32, 32))
    inverse = Schwarz(16, overlap=0)(matrix)
    members = np.asarray(inverse.inside)
    assert members.shape == (16, 64) and np.array_equal(np.sort(members.ravel()), np.arange(1024))
    boundary = Schwarz(16, overlap=1)(matrix).inverses.shape[1] - 64
    assert boundary <= 48  # a strip has 64, a square 32
    parts = Schwarz(7)(sparse(np.eye(10), PSD))  # no edges at all
    np.testing.assert_allclose(parts.mv(jnp.ones(10)), 2 * np.ones(10))


def test_the_coarse_space_keeps_steps_from_growing():
    """Subdomains of one size, more and more of them: 32, 64 and 128 on a line."""
    with_it, without = (
        [steps(poisson(32 * parts), Schwarz(parts, 2, coarse=coarse)) for parts in (32, 64, 128)]
        for coarse in (True, False)
    )
    assert with_it[2] < 1.2 * with_it[0] and with_it[2] - with_it[1] <= with_it[1] - with_it[0], with_it
    assert without[2] > 3 * without[0] and without[2] > 2 * with_it[2], without


def test_the_coarse_space_saves_steps_on_a_square():
    with_it, without = (steps(poisson(96, 96), Schwarz(144, 2, coarse=coarse)) for coarse in (True, False))
    assert with_it < 0.8 * without, (with_it, without)


def test_restricted_and_overlapping_need_fewer_steps():
    wind = sparse(0.7 * np.eye(48, k=-1) - 0.7 * np.eye(48, k=1)).as_scipy().toarray()
    one = 2 * np.eye(48) - np.eye(48, k=1) - np.eye(48, k=-1)
    matrix = sparse(np.kron(np.eye(48), one + wind) + np.kron(one, np.eye(48)))
    count = {
        (variant, overlap): steps(matrix, Schwarz(36, overlap, variant), ns.GMRES)
        for variant in ("additive", "restricted")
        for overlap in (1, 3)
    }
    assert count["restricted", 1] < count["additive", 1], count
    assert count["restricted", 3] < count["restricted", 1], count


@pytest.mark.parametrize("variant", ["additive", "restricted"])
def test_refresh_traced_and_batched_equals_set_up(variant):
    inverse = assert_refresh_is_set_up(Schwarz(4, variant=variant), sparse(hermitian(20, 0.1), PSD))
    with pytest.raises(ValueError, match="`refresh` needs an operator with the pattern"):
        inverse.refresh(sparse(general(20, seed=3)))


def test_build_is_differentiable():
    a, labels, step = general(12, 0.2), some_labels(12), 1e-6
    matrix, x = sparse(a), jnp.arange(12.0)

    def entry(values):
        return Schwarz(labels).build(matrix.with_values(values)).mv(x)[2]

    direction = jnp.asarray(np.random.default_rng(1).standard_normal(matrix.nnz))
    slope = jnp.vdot(jax.grad(entry)(matrix.values), direction)
    up, down = (entry(matrix.values + sign * step * direction) for sign in (1, -1))
    np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-6)


def test_derivatives_of_a_solve():
    a = general(20, 0.1)
    matrix, solver = sparse(a), ns.GMRES(rtol=1e-12, preconditioner=Schwarz(4, variant="restricted"))

    def entry(values, b):
        return lx.linear_solve(matrix.with_values(values), b, solver).value[7]

    b = jnp.arange(20.0)
    by_value, by_b = jax.jit(jax.grad(entry, argnums=(0, 1)))(matrix.values, b)
    adjoint, x = np.linalg.inv(a)[7], np.linalg.solve(a, b)
    np.testing.assert_allclose(by_b, adjoint, atol=1e-9)
    expected = -adjoint[matrix.pattern.rows] * x[matrix.pattern.indices]
    np.testing.assert_allclose(by_value, expected, atol=1e-8)


def test_singular_matrices_are_named_and_fail_closed():
    ring = sparse(2 * np.eye(12) - np.roll(np.eye(12), 1, 0) - np.roll(np.eye(12), -1, 0), PSD)
    with pytest.raises(ValueError, match="`Schwarz`: the coarse matrix, .* `coarse=False`"):
        Schwarz(4)(ring)
    assert jnp.isfinite(Schwarz(4, coarse=False)(ring).mv(jnp.ones(12))).all()
    pairs = sparse(np.kron(np.eye(6), [[1.0, 1.0], [1.0, 1.0]]))
    with pytest.raises(ValueError, match=r"the block of rows 0, 1 is singular to working precision \(6 of 6"):
        Schwarz(np.arange(12) // 2)(pairs)
    solver = ns.CG(rtol=1e-8, preconditioner=Schwarz(4))
    solve = jax.jit(
        lambda v: lx.linear_solve(ring.with_values(v), jnp.arange(12.0), solver, throw=False).result
    )
    assert solve(ring.values) != lx.RESULTS.successful
    shifted = ring.add_diagonal(0.1).values
    assert solve(shifted) == lx.RESULTS.successful
    assert solve(shifted.at[3].set(jnp.nan)) != lx.RESULTS.successful


def test_constructors_are_static_and_print():
    labels = np.arange(20) // 7
    assert Schwarz(labels) == Schwarz(labels.copy()) != Schwarz(labels, overlap=2)
    assert hash(Schwarz(labels)) == hash(Schwarz(labels.copy())) and not jax.tree.leaves(Schwarz(labels))
    line = sparse(3 * np.eye(20) - np.eye(20, k=1) - np.eye(20, k=-1), PSD)
    shown = "Schwarz preconditioner (20 unknowns; 3 dense inverses of up to 9 unknowns, 0.00194 MB"
    assert repr(Schwarz(labels)(line)) == f"{shown}; a coarse space of 3)"
    assert repr(Schwarz(labels, coarse=False)(line)) == f"{shown})"


def test_bad_input_is_named(monkeypatch):
    matrix = sparse(hermitian(12), PSD)
    for subdomains in (0, -1, 2.0, True, None):
        with pytest.raises(ValueError, match=r"`Schwarz\(subdomains=...\)` must be a positive integer"):
            Schwarz(subdomains)
    for overlap in (-1, 1.0, True):
        with pytest.raises(
            ValueError, match=r"`Schwarz\(overlap=...\)` must be an integer, and not negative"
        ):
            Schwarz(2, overlap)  # pyright: ignore
    with pytest.raises(ValueError, match=r"`Schwarz\(variant=...\)` must be"):
        Schwarz(2, variant="harmonic")  # pyright: ignore
    with pytest.raises(
        ValueError, match=r"`Schwarz\(subdomains=...\)` must be 0, 1, 2, … without gaps, but 1"
    ):
        Schwarz([0, 2, 2])
    with pytest.raises(ValueError, match="must not exceed the number of unknowns, 12, but is 13"):
        Schwarz(13)(matrix)
    with pytest.raises(ValueError, match="labels of 3 unknowns, but the operator has 12"):
        Schwarz([0, 0, 1])(matrix)
    with pytest.raises(ValueError, match="needs a square operator"):
        Schwarz(2)(sparse(np.ones((3, 4))))
    function = lx.FunctionLinearOperator(lambda x: x, jax.ShapeDtypeStruct((12,), float), PSD)
    with pytest.raises(ValueError, match="`Schwarz` needs the entries"):
        Schwarz(2)(function)
    monkeypatch.setattr(local, "_SHARE", 1e-12)
    with pytest.raises(
        ValueError, match="2 dense inverses of up to .* unknowns take .* GB, which is more tha"
    ):
        Schwarz(2)(matrix)

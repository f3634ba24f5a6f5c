"""Algebraic multigrid against the products that define a cycle, on others' levels, and inside the solvers."""

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

import nsolve as ns
from nsolve import _ffi
from nsolve.direct import memory
from nsolve.direct.hierarchy import Level, _arrays
from nsolve.kernels import gauss_seidel, levels
from nsolve.preconditioners import AlgebraicMultigrid
from tests.test_incomplete import PSD, assert_is, general, hermitian, relative_error, sparse, tolerance
from tests.test_ruge_stuben import reference_levels

pyamg = pytest.importorskip("pyamg")

SMOOTHED = "smoothed_aggregation"


def laplacian(size=18, dtype="float64"):
    return pyamg.gallery.poisson((size, size), format="csr").astype(dtype)


def wind(size=18):
    """Upwind convection over diffusion: an unsymmetric M-matrix."""
    one = sp.diags_array([-3.0, 2.0, -0.2], offsets=[-1, 0, 1], shape=(size, size))
    other = sp.diags_array([-1.0, 2.5, -0.5], offsets=[-1, 0, 1], shape=(size, size))
    return sp.csr_array(sp.kronsum(one + 1.5 * sp.eye_array(size), other, format="csr"))


def twisted(size=18):
    """A Hermitian matrix whose entries have phases."""
    phases = sp.diags_array(np.exp(1j * np.random.default_rng(3).uniform(0, 6, size**2)))
    return sp.csr_array(phases.conj() @ laplacian(size) @ phases), phases.diagonal().conj()


def elastic():
    matrix, rigid = pyamg.gallery.linear_elasticity((12, 12))
    return sp.csr_array(matrix), rigid


def cycle(matrix, method="ruge_stuben", theta=None, near_nullspace=None, block_size=1):
    """The dense inverse that one cycle is, by the products of its definition on others' levels."""
    if method == SMOOTHED:
        theta = 0.08 if theta is None else theta
        given = matrix if block_size == 1 else matrix.tobsr((block_size, block_size))
        strength = "symmetric", {"theta": theta}
        smooth = "jacobi", {"omega": 4 / 3, "weighting": "local"}
        ml = pyamg.smoothed_aggregation_solver(
            given, near_nullspace, strength=strength, smooth=smooth, max_coarse=100
        )
        levels = [(level.A, getattr(level, "P", None)) for level in ml.levels]
    else:
        levels = [
            (level.matrix, level.interpolation)
            for level in reference_levels(matrix, 0.3 if theta is None else theta)
        ]
    assert len(levels) > 1
    inverse = np.linalg.pinv(levels[-1][0].toarray())
    for a, p in levels[-2::-1]:
        a, p = a.toarray(), p.toarray()
        unit = np.eye(len(a))
        before, after = np.linalg.inv(np.tril(a)), np.linalg.inv(np.triu(a))
        coarse = p @ inverse @ p.conj().T
        error = (unit - after @ a) @ (unit - coarse @ a) @ (unit - before @ a)
        inverse = (unit - error) @ np.linalg.inv(a)
    return inverse


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", ["ruge_stuben", SMOOTHED])
def test_it_is_the_cycle_of_its_levels(method, dtype):
    matrix = laplacian() + sp.diags_array(np.random.default_rng(0).uniform(0, 1, 324))
    matrix = sp.csr_array(matrix.astype(dtype).astype(float))
    inverse = AlgebraicMultigrid(method)(sparse(matrix.toarray().astype(dtype), PSD))
    expected = cycle(matrix, method)
    assert relative_error(np.linalg.inv(matrix.toarray()), expected) > 1e-3
    assert lx.is_positive_semidefinite(inverse)
    assert np.linalg.eigvalsh(expected).min() > 0
    assert_is(inverse, expected, dtype)


def test_unsymmetric_and_transposed():
    matrix = wind()
    inverse, expected = AlgebraicMultigrid(theta=0.25)(sparse(matrix.toarray())), cycle(matrix, theta=0.25)
    assert not lx.is_positive_semidefinite(inverse) and not lx.is_symmetric(inverse)
    assert relative_error(expected.T, expected) > 0.1
    assert_is(inverse, expected, "float64")
    b = jnp.asarray(np.random.default_rng(0).standard_normal(324))
    solution = lx.linear_solve(
        sparse(matrix.toarray()), b, ns.GMRES(rtol=1e-10, preconditioner=AlgebraicMultigrid())
    )
    assert solution.stats["num_steps"] < 20
    assert np.linalg.norm(matrix @ solution.value - b) < 1e-9 * np.linalg.norm(b)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("case", ["real", "complex", "empty row"])
def test_the_lower_triangle_of_a_hermitian_matrix_is_enough(case, compiled, monkeypatch):
    monkeypatch.setattr(_ffi, "_usable", compiled)
    rng, n = np.random.default_rng(0), 60
    a = hermitian(n, 0.1, "complex128" if case == "complex" else "float64")
    if case == "empty row":
        a[4], a[:, 4] = 0, 0
    p = sp.random_array((n, 20), density=0.1, rng=rng, format="csr").astype(a.dtype)
    matrix = sp.csr_array(a)
    indices = [part.astype(np.int32) for part in (matrix.indptr, matrix.indices, p.indptr, p.indices)]
    level = Level(
        levels.split(sp.csr_array((matrix.data, indices[1], indices[0]))),
        levels.Interpolation(*indices[2:], p.data, 20),
    )
    whole = _arrays(level, a.dtype)
    half = gauss_seidel.lower(whole)
    assert len(half[1]) < 0.6 * len(whole[2])
    b, c = (
        rng.standard_normal(size).astype(a.dtype) * (1 + 2j if case == "complex" else 1) for size in (n, 20)
    )
    (x, coarse), (y, rough) = ([np.empty_like(b), np.empty_like(c)] for _ in range(2))
    gauss_seidel.down(whole, b, x, coarse)
    gauss_seidel.down_by_half(half, b, y, rough)
    np.testing.assert_allclose(y, x, rtol=1e-13)
    np.testing.assert_allclose(rough, coarse, rtol=1e-12, atol=1e-13)
    gauss_seidel.up(whole, b, x, c)
    gauss_seidel.up_by_half(half, y, c)
    np.testing.assert_allclose(y, x, rtol=1e-12, atol=1e-13)


def test_complex_with_its_near_nullspace():
    matrix, vector = twisted()
    made = AlgebraicMultigrid(SMOOTHED, near_nullspace=vector)
    inverse = made(sparse(matrix.toarray(), PSD))
    expected = cycle(matrix, SMOOTHED, near_nullspace=vector[:, None])
    assert relative_error(cycle(matrix, SMOOTHED), expected) > 1e-3
    assert_is(inverse, expected, "complex128")


def test_blocks_and_rigid_motions():
    matrix, rigid = elastic()
    operator = sparse(matrix.toarray(), PSD)
    inverse = AlgebraicMultigrid(SMOOTHED, near_nullspace=rigid, block_size=2)(operator)
    assert_is(inverse, cycle(matrix, SMOOTHED, None, rigid, 2), "float64")
    b, steps = jnp.asarray(np.random.default_rng(0).standard_normal(len(rigid))), []
    for M in (inverse, AlgebraicMultigrid(SMOOTHED)(operator)):
        solution = lx.linear_solve(operator, b, ns.CG(rtol=1e-8), options={"preconditioner": M})
        steps.append(int(solution.stats["num_steps"]))
    assert 1.3 * steps[0] < steps[1]


@settings(max_examples=12)
@given(
    n=st.sampled_from([1, 30, 150]),
    density=st.sampled_from([0.0, 0.01, 0.05]),
    method=st.sampled_from(["ruge_stuben", SMOOTHED]),
    theta=st.sampled_from([None, 0.0, 0.5]),
    seed=st.integers(0, 10**6),
)
def test_random_patterns(n, density, method, theta, seed):
    """Whatever the matrix, `M` is positive definite, and takes nothing away twice."""
    a = hermitian(n, density, "float64", seed)
    inverse = AlgebraicMultigrid(method, theta)(sparse(a, PSD))
    dense = np.asarray(inverse.as_matrix())
    np.testing.assert_allclose(dense, dense.T, atol=1e-12 * abs(dense).max())
    root = np.linalg.cholesky(a)
    values = np.linalg.eigvalsh(root.T @ dense @ root)
    assert values.min() > 0 and values.max() < 1 + 1e-10


def test_without_numba(monkeypatch):
    matrix = wind()
    expected = AlgebraicMultigrid()(sparse(matrix.toarray()))
    b = jnp.asarray(np.random.default_rng(0).standard_normal(324))
    expected = expected.mv(b), expected.T.mv(b)
    memory.forget()
    monkeypatch.setattr(_ffi, "_usable", False)
    inverse = AlgebraicMultigrid()(sparse(matrix.toarray()))
    assert relative_error(inverse.mv(b), expected[0]) < tolerance("float64")
    assert relative_error(inverse.T.mv(b), expected[1]) < tolerance("float64")


@pytest.mark.parametrize("method", ["ruge_stuben", SMOOTHED])
def test_refresh_traced_and_batched_equals_set_up(method):
    a = sparse(laplacian(12).toarray(), PSD)
    make, x = AlgebraicMultigrid(method), jnp.arange(144.0)
    inverse, other = make(a), a.with_values(a.values * jnp.where(a.pattern.rows == a.pattern.indices, 2, 1))
    expected = make(other).mv(x)
    assert relative_error(inverse.mv(x), expected) > 0.1
    np.testing.assert_array_equal(inverse.refresh(other).mv(x), expected)
    traced = eqx.filter_jit(lambda inverse, other: inverse.refresh(other).mv(x))
    np.testing.assert_array_equal(traced(inverse, other), expected)
    both = jnp.stack([a.values, other.values])
    batched = jax.vmap(lambda values: make(a.with_values(values)).mv(x))(both)
    np.testing.assert_array_equal(batched, [inverse.mv(x), expected])
    _, scanned = jax.lax.scan(
        lambda inverse, values: ((new := inverse.refresh(a.with_values(values))), new.mv(x)),
        eqx.filter_jit(make)(a),
        both,
    )
    np.testing.assert_array_equal(scanned, batched)
    memory.forget()  # set up again, where it is needed
    np.testing.assert_array_equal(inverse.mv(x), batched[0])


def test_traced_vectors_belong_to_the_state():
    matrix, rigid = elastic()
    a, b = sparse(matrix.toarray(), PSD), jnp.ones(len(rigid))

    @jax.jit
    def applied(vectors):
        return AlgebraicMultigrid(SMOOTHED, near_nullspace=vectors)(a).mv(b)

    np.testing.assert_array_equal(applied(rigid), AlgebraicMultigrid(SMOOTHED, near_nullspace=rigid)(a).mv(b))
    assert relative_error(applied(rigid), applied(rigid[:, ::-1] ** 2)) > 1e-3
    assert np.isnan(applied(rigid * np.nan)).all()
    _, tangent = jax.jvp(applied, (rigid,), (rigid,))
    assert not tangent.any()


def test_a_solve_is_differentiable_and_its_state_is_kept():
    matrix = sp.csr_array(wind(12))
    a, b = sparse(matrix.toarray()), jnp.linspace(0.0, 1.0, 144)
    solver = ns.GMRES(rtol=1e-12, preconditioner=AlgebraicMultigrid())

    def objective(values, b):
        return jnp.sum(lx.linear_solve(a.with_values(values), b, solver).value ** 2)

    slopes = jax.jit(jax.grad(objective, (0, 1)))(a.values, b)
    x = np.linalg.solve(matrix.toarray(), b)
    back = np.linalg.solve(matrix.toarray().T, 2 * x)
    np.testing.assert_allclose(slopes[1], back, rtol=1e-8)
    expected = -back[a.pattern.rows] * x[a.pattern.indices]
    np.testing.assert_allclose(slopes[0], expected, rtol=1e-7, atol=1e-10)
    state = solver.init(a, {})
    np.testing.assert_allclose(lx.linear_solve(a, b, solver, state=state).value, x, rtol=1e-9)


@pytest.mark.parametrize("case", ["poisson", "blocks"])
def test_few_steps_whatever_the_coefficient(case):
    key, shape = jax.random.key(0), (256, 256)
    if case == "poisson":
        problem = ns.gallery.poisson(key, shape)
    else:
        coefficient = ns.gallery.blocks(jax.random.key(1), shape, 3, 1e4)
        problem = ns.gallery.diffusion(key, coefficient)
    solver = ns.CG(rtol=1e-8, preconditioner=AlgebraicMultigrid())
    solution = lx.linear_solve(problem.operator, problem.vector, solver)
    residual = problem.vector - problem.operator.mv(solution.value)
    assert jnp.linalg.norm(residual) <= 1.01e-8 * jnp.linalg.norm(problem.vector)
    assert solution.stats["num_steps"] <= {"poisson": 10, "blocks": 15}[case]


@pytest.mark.parametrize("peclet", [1e2, 1e5])
def test_few_steps_against_the_wind(peclet):
    """Upwind differences make M-matrices; their levels and the transposed ones take few steps on any grid."""
    for n in (32, 128):
        problem = ns.gallery.convection_diffusion(jax.random.key(0), (n, n), peclet)
        a, b = ns.as_sparse(problem.operator), problem.vector.ravel()
        solver = ns.GMRES(rtol=1e-8, preconditioner=AlgebraicMultigrid())
        for operator in (a, a.T):
            solution = lx.linear_solve(operator, b, solver)
            assert jnp.linalg.norm(operator.mv(solution.value) - b) <= 1.01e-8 * jnp.linalg.norm(b)
            assert solution.stats["num_steps"] <= 16


@pytest.mark.parametrize("method", ["ruge_stuben", SMOOTHED])
def test_a_singular_matrix_whose_vector_is_consistent(method):
    n = 40
    one = sp.diags_array(
        [-np.ones(n - 1), np.r_[1, 2 * np.ones(n - 2), 1], -np.ones(n - 1)], offsets=[-1, 0, 1]
    )
    matrix = sp.csr_array(sp.kronsum(one, one))
    a = ns.SparseLinearOperator.from_scipy(matrix, PSD)
    b = np.random.default_rng(0).standard_normal(n * n)
    b -= b.mean()
    solver = ns.CG(rtol=1e-8, preconditioner=AlgebraicMultigrid(method))
    solution = lx.linear_solve(a, jnp.asarray(b), solver)
    assert np.linalg.norm(matrix @ solution.value - b) <= 1e-8 * np.linalg.norm(b)
    assert solution.stats["num_steps"] <= 20


def test_it_shows_its_levels():
    inverse = AlgebraicMultigrid()(sparse(laplacian(40).toarray(), PSD))
    levels = [level.matrix for level in reference_levels(laplacian(40))]
    lines = repr(inverse).splitlines()
    complexity = sum(matrix.nnz for matrix in levels) / levels[0].nnz
    assert f"operator complexity {complexity:.2f}" in lines[0] and "ruge_stuben" in lines[0]
    assert [line.split()[:3] for line in lines[2:]] == [
        [str(k), str(matrix.shape[0]), str(matrix.nnz)] for k, matrix in enumerate(levels)
    ]
    alone = repr(AlgebraicMultigrid()(sparse(np.diag(np.arange(1.0, 601)), PSD)))
    assert "one level: nothing is coarsened" in alone and len(alone.splitlines()) == 3
    assert "no hierarchy" in repr(AlgebraicMultigrid()(sparse(np.diag([1.0, np.nan]), PSD)))
    seen = []
    jax.jit(lambda v: seen.append(repr(AlgebraicMultigrid()(sparse(np.eye(3), PSD).with_values(v)))))(
        jnp.ones(3)
    )
    assert seen == ["AlgebraicMultigrid preconditioner (ruge_stuben, 3 unknowns)"]


def test_without_strong_couplings_the_sweeps_are_all():
    """A mass matrix: nothing is negative off the diagonal, so no coupling is strong."""
    one = sp.diags_array([1.0, 4.0, 1.0], offsets=[-1, 0, 1], shape=(700, 700))
    inverse = AlgebraicMultigrid()(ns.SparseLinearOperator.from_scipy(sp.csr_array(one), PSD))
    a = one.toarray()
    expected = np.linalg.inv(np.triu(a)) @ np.diag(np.diag(a)) @ np.linalg.inv(np.tril(a))
    assert_is(inverse, expected, "float64")


def test_what_is_not_definite_fails_closed():
    a = sparse(laplacian(12).toarray(), PSD)
    solver = ns.CG(rtol=1e-8, preconditioner=AlgebraicMultigrid())
    solve = jax.jit(lambda v: lx.linear_solve(a.with_values(v), jnp.ones(144), solver, throw=False))
    for bad in (jnp.nan, jnp.inf, -1.0):
        values = a.values.at[a.pattern.diagonal_positions[4]].set(bad)
        applied = jax.jit(lambda v: AlgebraicMultigrid()(a.with_values(v)).mv(jnp.ones(144)))(values)
        assert jnp.isnan(applied).all()
        assert solve(values).result != lx.RESULTS.successful
    # positive on the diagonal, but not definite
    shifted = laplacian(12) - 3.5 * sp.eye_array(144)
    indefinite = sparse(shifted.toarray(), PSD)
    found = lx.linear_solve(indefinite, jnp.ones(144), solver, throw=False)
    assert found.result != lx.RESULTS.successful
    assert not lx.is_positive_semidefinite(AlgebraicMultigrid()(sparse(shifted.toarray(), lx.symmetric_tag)))


def test_bad_input_is_named(monkeypatch):
    a = sparse(hermitian(6), PSD)
    smoothed = AlgebraicMultigrid(SMOOTHED)
    with pytest.raises(ValueError, match=r"Hermitian.*positive_semidefinite_tag.*ruge_stuben"):
        smoothed(sparse(general(6)))
    with pytest.raises(ValueError, match="real matrices.*complex128.*smoothed_aggregation"):
        AlgebraicMultigrid()(sparse(hermitian(6, dtype="complex128"), PSD))
    with pytest.raises(ValueError, match="entry 2 of the diagonal is -1.*-A"):
        AlgebraicMultigrid()(a.with_values(a.values.at[a.pattern.diagonal_positions[2]].set(-1.0)))
    with pytest.raises(ValueError, match="row 1 of the pattern has none"):
        AlgebraicMultigrid()(sparse(np.array([[1.0, 1, 0], [1, 0, 1], [0, 1, 1]]), PSD))
    with pytest.raises(ValueError, match="`AlgebraicMultigrid` needs the entries"):
        AlgebraicMultigrid()(lx.FunctionLinearOperator(lambda x: x, a.in_structure(), PSD))
    with pytest.raises(ValueError, match=r"near_nullspace=...\)` must be of shape \(6,\).*\(5, 2\)"):
        AlgebraicMultigrid(SMOOTHED, near_nullspace=np.ones((5, 2)))(a)
    with pytest.raises(ValueError, match="is complex, but the operator is real"):
        AlgebraicMultigrid(SMOOTHED, near_nullspace=1j * np.ones(6))(a)
    with pytest.raises(ValueError, match=r"block_size=4\)` does not divide the 6"):
        AlgebraicMultigrid(SMOOTHED, block_size=4)(a)
    for options, message in (
        ({"method": "air"}, "one of 'ruge_stuben', 'smoothed_aggregation'"),
        ({"theta": 1.0}, r"\[0, 1\)"),
        ({"block_size": 0}, "positive integer"),
        ({"near_nullspace": np.ones(6)}, "are for `method"),
    ):
        with pytest.raises(ValueError, match=message):
            AlgebraicMultigrid(**options)
    monkeypatch.setitem(sys.modules, "pyamg", None)
    with pytest.raises(ModuleNotFoundError, match=r"smoothed_aggregation.*needs pyamg.*nsolve\[amg\]"):
        smoothed(a)
    AlgebraicMultigrid()(a)  # does without

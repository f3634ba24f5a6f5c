"""IC(0) and ILU(0) against their definitions, written densely, and inside the solvers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import nsolve as ns
from nsolve.kernels import incomplete_cholesky, incomplete_lu
from nsolve.preconditioners import IncompleteCholesky, IncompleteLU

DTYPES = ("float32", "float64", "complex64", "complex128")
PSD = lx.positive_semidefinite_tag


def hermitian(n, density=0.2, dtype="float64", seed=0, dominance=1.1):
    """Hermitian, positive definite by diagonal dominance."""
    rng = np.random.default_rng(seed)
    a = np.where(rng.random((n, n)) < density, rng.uniform(-1, 1, (n, n)), 0)
    if np.issubdtype(dtype, np.complexfloating):
        a = a * np.exp(2j * np.pi * rng.random((n, n)))
    a = np.tril(a, -1)
    a = a + a.conj().T
    a += np.diag(dominance * abs(a).sum(1) + 0.1)
    return a.astype(dtype)


def general(n, density=0.2, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    a = np.where(rng.random((n, n)) < density, rng.uniform(-1, 1, (n, n)), 0)
    if np.issubdtype(dtype, np.complexfloating):
        a = a * np.exp(2j * np.pi * rng.random((n, n)))
    a = a - np.diag(np.diag(a)) + np.diag(1.2 * abs(a).sum(1) + 0.1)
    return a.astype(dtype)


def sparse(dense, *tags):
    return ns.SparseLinearOperator.from_scipy(sp.csr_array(dense), tags)


def dense_ilu(a):
    """Gaussian elimination that drops what falls outside of the pattern: L, U."""
    a = a.astype(np.complex128)
    kept = a != 0
    for k in range(len(a)):
        for i in range(k + 1, len(a)):
            if kept[i, k]:
                a[i, k] /= a[k, k]
                update = a[i, k] * a[k, k + 1 :]
                a[i, k + 1 :] -= np.where(kept[i, k + 1 :], update, 0)
    return np.tril(a, -1) + np.eye(len(a)), np.triu(a)


def dense_ic(a):
    """Right-looking Cholesky on the pattern of the lower triangle."""
    low = np.tril(a).astype(np.complex128)
    kept = low != 0
    for k in range(len(a)):
        low[k, k] = np.sqrt(low[k, k])
        low[k + 1 :, k] /= low[k, k]
        for j in range(k + 1, len(a)):
            low[j:, j] -= np.where(kept[j:, j], low[j:, k] * low[j, k].conj(), 0)
    return low


def relative_error(x, expected):
    return abs(np.asarray(x) - expected).max() / abs(expected).max()


def tolerance(dtype):
    return 1e-5 if dtype in ("float32", "complex64") else 1e-12


@eqx.filter_jit
def matrices(inverse):
    """`M`, its transpose and its conjugate, dense; in one compilation."""
    return [m.as_matrix() for m in (inverse, inverse.transpose(), lx.conj(inverse))]


def assert_is(inverse, expected, dtype):
    for mine, theirs in zip(matrices(inverse), (expected, expected.T, expected.conj()), strict=True):
        assert mine.dtype == dtype
        assert relative_error(mine, theirs) < tolerance(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cholesky_is_the_incomplete_factor(dtype):
    a = hermitian(30, dtype=dtype)
    low = dense_ic(a)
    expected = np.linalg.inv(low @ low.conj().T)
    inverse = IncompleteCholesky()(sparse(a, PSD))
    assert lx.is_positive_semidefinite(inverse)
    assert_is(inverse, expected, dtype)
    assert inverse.shift == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_lu_is_the_incomplete_factor(dtype):
    a = general(30, dtype=dtype)
    low, up = dense_ilu(a)
    expected = np.linalg.inv(low @ up)
    inverse = IncompleteLU()(sparse(a))
    assert_is(inverse, expected, dtype)


@given(
    n=st.sampled_from([1, 2, 5, 12, 30]),
    density=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    dtype=st.sampled_from(["float64", "complex128"]),
    seed=st.integers(0, 10**6),
)
def test_kernels_on_random_patterns(n, density, dtype, seed):
    """The compiled kernels alone, on the host: nothing to compile for each pattern."""

    def run(kernel, *arrays):
        kernel(*(array.view(np.uint32) if array.dtype == np.int32 else array for array in arrays))

    a = sp.csr_array(hermitian(n, density, dtype, seed))
    strict = sp.csr_array(sp.tril(a, -1))
    factor, scale = np.empty_like(strict.data), np.empty(n, dtype)
    run(
        incomplete_cholesky.incomplete_cholesky,
        strict.indptr,
        strict.indices,
        strict.data,
        a.diagonal(),
        factor,
        scale,
    )
    low = dense_ic(a.toarray())
    strict.data = factor
    np.testing.assert_allclose(strict.toarray() + np.eye(n), low / np.diag(low), atol=1e-12)
    np.testing.assert_allclose(1 / scale, np.diag(low) ** 2, rtol=1e-12)

    a = sp.csr_array(general(n, density, dtype, seed))
    on_diagonal = np.flatnonzero(np.repeat(np.arange(n), np.diff(a.indptr)) == a.indices)
    factor = np.empty_like(a.data)
    arrays = a.indptr, a.indices, on_diagonal.astype(np.int32), a.data
    run(incomplete_lu.incomplete_lu, *arrays, factor, scale)
    low, up = dense_ilu(a.toarray())
    a.data = factor
    np.testing.assert_allclose(a.toarray(), low - np.eye(n) + up, atol=1e-12)
    np.testing.assert_allclose(1 / scale, np.diag(up), rtol=1e-12)


def test_full_pattern_gives_the_exact_inverse():
    a = hermitian(20, density=1.0)
    exact = np.linalg.inv(a)
    assert relative_error(IncompleteCholesky()(sparse(a, PSD)).as_matrix(), exact) < 1e-12
    assert relative_error(IncompleteLU()(sparse(a)).as_matrix(), exact) < 1e-12


@pytest.mark.parametrize("make", [IncompleteCholesky(), IncompleteLU()])
def test_refresh_traced_and_batched_equals_set_up(make):
    dense = hermitian(25)
    a = sparse(dense, PSD)
    inverse, other = make(a), a.with_values(a.values * jnp.where(a.pattern.rows == 3, 1.01, 1.0))
    if isinstance(make, IncompleteCholesky):
        other = a.with_values(a.values * 1.5)
    x = jnp.arange(25.0)
    expected = make(other).mv(x)
    np.testing.assert_allclose(inverse.refresh(other).mv(x), expected, rtol=1e-13)
    traced = eqx.filter_jit(lambda inverse, other: inverse.refresh(other).mv(x))
    np.testing.assert_allclose(traced(inverse, other), expected, rtol=1e-13)
    both = jnp.stack([a.values, other.values])
    batched = jax.vmap(lambda values: make(a.with_values(values)).mv(x))(both)
    np.testing.assert_allclose(batched[1], expected, rtol=1e-13)
    np.testing.assert_allclose(batched[0], inverse.mv(x), rtol=1e-13)
    _, scanned = jax.lax.scan(
        lambda inverse, values: ((new := inverse.refresh(a.with_values(values))), new.mv(x)),
        eqx.filter_jit(make)(a),
        both,
    )
    np.testing.assert_allclose(scanned, batched, rtol=1e-13)


def kershaw():
    """Kershaw's matrix: positive definite, but IC(0) meets a negative pivot."""
    return np.array([[3.0, -2, 0, 2], [-2, 3, -2, 0], [0, -2, 3, -2], [2, 0, -2, 3]])


def test_breakdown_is_cured_by_a_shift():
    a = kershaw()
    assert np.linalg.eigvalsh(a).min() > 0
    inverse = IncompleteCholesky()(sparse(a, PSD))
    shift = float(inverse.shift)
    assert shift in 1e-3 * 2.0 ** np.arange(24) and f"shift {shift:.3g}" in repr(inverse)
    low = dense_ic(a + shift * np.diag(np.diag(a)))
    assert relative_error(inverse.as_matrix(), np.linalg.inv(low @ low.conj().T)) < 1e-12
    assert np.linalg.eigvalsh(inverse.as_matrix()).min() > 0
    # half the shift would not have done
    half = dense_ic(a + shift / 2 * np.diag(np.diag(a)))
    assert not np.isfinite(half).all() or abs(half.imag).max() > 0
    traced = eqx.filter_jit(IncompleteCholesky())(sparse(a, PSD))
    assert traced.shift == inverse.shift
    given = IncompleteCholesky(shift=1.0)(sparse(a, PSD))
    assert given.shift == 1.0


def test_same_steps_as_petsc_on_a_grid():
    """PETSc's CG with ICC(0), natural ordering, takes 438 steps on this system."""
    a = ns.StencilLinearOperator.poisson((512, 512), 1.0)
    b = jnp.asarray(np.random.default_rng(0).standard_normal((512, 512)))
    solution = lx.linear_solve(a, b, ns.CG(rtol=1e-8, preconditioner=IncompleteCholesky()))
    assert abs(int(solution.stats["num_steps"]) - 438) <= 2
    assert jnp.linalg.norm(b - a.mv(solution.value)) <= 1e-8 * jnp.linalg.norm(b)


def test_nonsymmetric_system_and_its_adjoint():
    n = 200
    dense = general(n, 0.03, seed=3)
    a, b = sparse(dense), jnp.asarray(np.random.default_rng(4).standard_normal(n))
    solver = ns.BiCGStab(rtol=1e-10, preconditioner=IncompleteLU())

    def entry(values, b):
        solution = lx.linear_solve(a.with_values(values), b, solver)
        return solution.value[7], solution

    (by_value, by_b), solution = jax.grad(entry, argnums=(0, 1), has_aux=True)(a.values, b)
    np.testing.assert_allclose(solution.value, np.linalg.solve(dense, b), atol=1e-8)
    adjoint = np.linalg.inv(dense)[7]
    np.testing.assert_allclose(by_b, adjoint, atol=1e-8)
    expected = -adjoint[a.pattern.rows] * np.asarray(solution.value)[a.pattern.indices]
    np.testing.assert_allclose(by_value, expected, atol=1e-8)
    plain = lx.linear_solve(a, b, ns.BiCGStab(rtol=1e-10))
    assert solution.stats["num_steps"] < plain.stats["num_steps"]


@pytest.mark.parametrize("make, tags", [(IncompleteCholesky(), [PSD]), (IncompleteLU(), [])])
def test_nan_fails_closed(make, tags):
    a = sparse(hermitian(10), *tags)
    values = a.values.at[a.pattern.diagonal_positions[4]].set(jnp.nan)
    assert jnp.isnan(make(a.with_values(values)).mv(jnp.ones(10))).any()
    solver = (ns.CG if tags else ns.GMRES)(rtol=1e-8, preconditioner=make)
    solution = lx.linear_solve(a.with_values(values), jnp.ones(10), solver, throw=False)
    assert solution.result != lx.RESULTS.successful


def test_traced_bad_pivots_fail_closed():
    a = sparse(hermitian(10), PSD)
    values = a.values.at[a.pattern.diagonal_positions[4]].set(-1.0)
    solver = ns.CG(rtol=1e-8, preconditioner=IncompleteCholesky())
    solve = jax.jit(lambda v: lx.linear_solve(a.with_values(v), jnp.ones(10), solver, throw=False))
    assert solve(values).result != lx.RESULTS.successful
    assert jax.jit(lambda v: IncompleteCholesky()(a.with_values(v)).shift)(values) == 0
    zero_pivot = sparse(np.array([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]]))
    factors = jax.jit(lambda v: IncompleteLU()(zero_pivot.with_values(v)).scale)(zero_pivot.values)
    assert jnp.isnan(factors[1:]).all() and factors[0] == 1


def test_bad_input_is_named():
    a = sparse(hermitian(6), PSD)
    with pytest.raises(ValueError, match="positive_semidefinite_tag"):
        IncompleteCholesky()(sparse(general(6)))
    with pytest.raises(ValueError, match="entry 2 of the diagonal is -1"):
        IncompleteCholesky()(a.with_values(a.values.at[a.pattern.diagonal_positions[2]].set(-1.0)))
    hole = np.array([[1.0, 1, 0], [1, 0, 1], [0, 1, 1]])
    for make, tags in ((IncompleteLU(), ()), (IncompleteCholesky(), (PSD,))):
        with pytest.raises(ValueError, match="row 1 of the pattern has none"):
            make(sparse(hole, *tags))
    with pytest.raises(ValueError, match="zero pivot .* row 1"):
        IncompleteLU()(sparse(np.array([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]])))
    with pytest.raises(ValueError, match="shift"):
        IncompleteCholesky(shift=-1.0)
    with pytest.raises(ValueError, match="square"):
        IncompleteLU()(sparse(np.ones((3, 4))))
    with pytest.raises(ValueError, match="`refresh`"):
        IncompleteLU()(sparse(general(6, seed=1))).refresh(sparse(general(6, seed=2)))
    with pytest.raises(ValueError, match="`IncompleteLU` needs the entries"):
        IncompleteLU().build(lx.FunctionLinearOperator(lambda x: x, a.in_structure()))

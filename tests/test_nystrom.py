"""Randomised Nyström preconditioning: against its definition, its paper's bound, and inside CG."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import nsolve as ns
from nsolve.preconditioners import Nystrom
from tests.test_incomplete import DTYPES, PSD, matrices, relative_error

KEY = jax.random.key(1)


def decaying(n=60, shift=1e-4, dtype="float64", power=2.0, seed=0):
    """`B + shift I` and `B`, whose eigenvalues are `k^-power`."""
    rng = np.random.default_rng(seed)
    parts = rng.standard_normal((2, n, n))
    whole = parts[0] + 1j * parts[1] if np.issubdtype(dtype, np.complexfloating) else parts[0]
    q, _ = np.linalg.qr(whole)
    b = (q * np.arange(1.0, n + 1) ** -power) @ q.conj().T
    b = (b + b.conj().T) / 2
    return (b + shift * np.eye(n)).astype(dtype), b


def operator(dense, tags=PSD):
    return lx.MatrixLinearOperator(jnp.asarray(dense), tags)


def steps(dense, constructor):
    b = jnp.asarray(np.random.default_rng(2).standard_normal(len(dense)))
    solver = ns.CG(rtol=1e-8, max_steps=5000, preconditioner=constructor)
    solution = lx.linear_solve(operator(dense), b, solver)
    np.testing.assert_array_less(np.linalg.norm(b - dense @ solution.value), 1e-8 * np.linalg.norm(b))
    return int(solution.stats["num_steps"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_its_formula(dtype):
    dense, b = decaying(shift=1e-2, dtype=dtype)
    single = np.finfo(dtype).bits == 32
    inverse = Nystrom(12, 1e-2)(operator(dense))
    assert lx.is_positive_semidefinite(inverse)
    u, values = np.asarray(inverse.vectors).conj().T, np.asarray(inverse.eigenvalues)
    assert relative_error(u.conj().T @ u, np.eye(12)) < (1e-5 if single else 1e-13)
    assert (np.diff(values) <= 0).all() and values.dtype == np.finfo(dtype).dtype
    last = values[-1] + 1e-2
    expected = (u / (values + 1e-2)) @ u.conj().T + (np.eye(60) - u @ u.conj().T) / last
    found = matrices(inverse)
    for mine, theirs in zip(found, (expected, expected.T, expected.conj()), strict=True):
        assert mine.dtype == dtype
        assert relative_error(mine, theirs) < (1e-5 if single else 1e-12)
    # The eigenpairs are those of B X (X^H B X)^-1 X^H B, with the test vectors that the key gives.
    test = np.asarray(jax.random.normal(jax.random.key(0), (60, 12), dtype)).astype(np.complex128)
    product = b @ test
    approximation = product @ np.linalg.solve(test.conj().T @ product, product.conj().T)
    assert relative_error((u * values) @ u.conj().T, approximation) < (1e-4 if single else 1e-10)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_the_whole_rank_gives_the_inverse(dtype):
    dense, _ = decaying(20, 1e-2, dtype)
    inverse = Nystrom(20, shift=1e-2, key=KEY)(operator(dense))
    np.testing.assert_allclose(inverse.as_matrix() @ dense, np.eye(20), atol=1e-10)


@pytest.mark.parametrize("rank", [5, 20])
def test_the_condition_obeys_the_bound(rank):
    """Proposition 5.3: `(l_r + s + ||E||) / s`, `E` the error of the approximation."""
    shift = 1e-3
    dense, b = decaying(100, shift, power=3.0)
    inverse = Nystrom(rank, shift)(operator(dense))
    u, values = np.asarray(inverse.vectors).T, np.asarray(inverse.eigenvalues)
    error = np.linalg.norm(b - (u * values) @ u.T, 2)
    low = np.linalg.cholesky(np.asarray(inverse.as_matrix()))
    condition = np.linalg.cond(low.T @ dense @ low)
    assert condition <= 1.0001 * (values[-1] + shift + error) / shift
    assert condition < np.linalg.cond(dense) / 20


def test_few_steps_where_eigenvalues_decay():
    shift = 1e-6
    dense, _ = decaying(300, shift)
    few, more, none = steps(dense, Nystrom(100, shift)), steps(dense, Nystrom(25, shift)), steps(dense, None)
    assert few <= 50 and few < more < none and 5 * few < none


def test_the_rank_is_found():
    shift = 1e-4
    dense, _ = decaying(200, shift)
    inverse = Nystrom(None, shift)(operator(dense))
    rank = len(inverse.eigenvalues)
    assert rank in (32, 64) and inverse.eigenvalues[-1] <= 10 * shift
    assert f"rank {rank}, its smallest eigenvalue {float(inverse.eigenvalues[-1]):.3g};" in repr(inverse)
    assert len(Nystrom(None, 1.0)(operator(dense + np.eye(200))).eigenvalues) == 16
    assert len(Nystrom(None, 1e-12)(operator(decaying(20, 1e-12)[0])).eigenvalues) == 20
    b = jnp.ones(200)
    solution = lx.linear_solve(operator(dense), b, ns.CG(rtol=1e-8), options={"preconditioner": inverse})
    assert solution.stats["num_steps"] < 40
    refreshed = eqx.filter_jit(lambda inverse, dense: inverse.refresh(operator(dense)))(inverse, dense)
    np.testing.assert_allclose(refreshed.as_matrix(), inverse.as_matrix(), rtol=1e-8, atol=1e-8)


def test_it_needs_products_only_and_takes_grids():
    dense, _ = decaying(30, 1e-2)
    flat = Nystrom(8, 1e-2)(operator(dense))
    function = lx.FunctionLinearOperator(
        lambda x: (dense @ x.reshape(-1)).reshape(x.shape), jax.ShapeDtypeStruct((5, 6), float), PSD
    )
    x = jnp.arange(30.0)
    z = Nystrom(8, 1e-2)(function).mv(x.reshape(5, 6))
    np.testing.assert_allclose(z.reshape(-1), flat.mv(x), rtol=1e-10)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_it_scales_with_the_matrix(scale):
    dense, _ = decaying(30, 1e-2)
    inverse = Nystrom(8, 1e-2)(operator(dense)).as_matrix()
    scaled = Nystrom(8, scale * 1e-2)(operator(scale * dense)).as_matrix()
    np.testing.assert_allclose(scaled * scale, inverse, rtol=1e-8, atol=1e-8)


def test_traced_and_batched_equals_set_up():
    shifts, x = jnp.array([1e-2, 1e-1]), jnp.arange(30.0)
    whole = jnp.stack([decaying(30, float(shift))[0] for shift in shifts])
    expected = [
        Nystrom(8, float(shift))(operator(dense)).mv(x) for shift, dense in zip(shifts, whole, strict=True)
    ]
    batched = jax.jit(jax.vmap(lambda shift, dense: Nystrom(8, shift)(operator(dense)).mv(x)))
    np.testing.assert_allclose(batched(shifts, whole), expected, rtol=1e-9)
    inverse = Nystrom(8, shifts[0])(operator(whole[0]))

    def step(inverse, dense):
        new = inverse.refresh(operator(dense))
        return new, new.mv(x)

    _, scanned = jax.lax.scan(step, inverse, jnp.stack([whole[0], whole[0]]))
    np.testing.assert_allclose(scanned, [expected[0]] * 2, rtol=1e-9)


def test_accelerators_run_it_without_the_host():
    make = jax.jit(lambda dense, x: Nystrom(4, 1e-2)(operator(dense)).mv(x))
    text = make.trace(jnp.eye(20), jnp.ones(20)).lower(lowering_platforms=("cuda",)).as_text()
    assert "callback" not in text and "nsolve" not in text


def test_derivatives_of_a_solve_are_exact():
    dense, _ = decaying(15, 1e-2)
    solver = ns.CG(rtol=1e-13, preconditioner=Nystrom(5, 1e-2))
    b = jnp.arange(15.0)
    by_value, by_b = jax.jit(
        jax.grad(lambda a, b: lx.linear_solve(operator(a), b, solver).value[7], argnums=(0, 1))
    )(jnp.asarray(dense), b)
    adjoint = np.linalg.inv(dense)[7]
    np.testing.assert_allclose(by_b, adjoint, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(by_value, -np.outer(adjoint, np.linalg.solve(dense, b)), rtol=1e-6, atol=1e-5)


def test_traced_bad_entries_fail_closed():
    dense, _ = decaying(20, 1e-2)
    solver = ns.CG(rtol=1e-8, preconditioner=Nystrom(20, 1e-2))
    solve = jax.jit(lambda a: lx.linear_solve(operator(a), jnp.ones(20), solver, throw=False).result)
    assert solve(jnp.asarray(dense)) == lx.RESULTS.successful
    for bad in (jnp.nan, -1.0):
        assert solve(jnp.asarray(dense).at[3, 3].set(bad)) != lx.RESULTS.successful


def test_bad_input_is_named(monkeypatch):
    dense, _ = decaying(20, 1e-2)
    for rank in (0, -1, 2.0, True, "3"):
        with pytest.raises(ValueError, match=r"`Nystrom\(rank=...\)` must be a positive integer or None"):
            Nystrom(rank, 1e-2)  # pyright: ignore
    for shift in (0.0, -1.0, np.inf, np.nan, jnp.array(-1.0), jnp.ones(2), np.complex128(1j)):
        with pytest.raises(ValueError, match=r"`Nystrom\(shift=...\)` must be a positive finite number"):
            Nystrom(3, shift)
    with pytest.raises(TypeError, match=r"`Nystrom\(shift=...\)` must be a number, but is a str"):
        Nystrom(3, "1")
    with pytest.raises(ValueError, match="at most the number of unknowns, 20, but is 21"):
        Nystrom(21, 1e-2)(operator(dense))
    with pytest.raises(ValueError, match=r"`preconditioners.Nystrom` solves positive definite"):
        Nystrom(3, 1e-2)(operator(dense, ()))
    with pytest.raises(ValueError, match="20 x 21"):
        Nystrom(3, 1e-2)(lx.MatrixLinearOperator(jnp.ones((20, 21))))
    with pytest.raises(ValueError, match="the operator minus the shift is not positive semidefinite"):
        Nystrom(20, 1.0)(operator(dense))
    with pytest.raises(ValueError, match=r"`Nystrom\(rank=None\)`.*traced"):
        jax.jit(lambda a: Nystrom(None, 1e-2)(operator(a)).mv(jnp.ones(20)))(dense)
    monkeypatch.setattr("nsolve.direct.memory.physical_memory", lambda: 1e4)
    with pytest.raises(ValueError, match=r"`Nystrom\(rank=16\)` of 20 unknowns would take 1.28e-05 GB"):
        Nystrom(16, 1e-2)(operator(dense))

"""ICT against its definition, written densely, and inside the solvers."""

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
from nsolve import _ffi
from nsolve.direct import memory
from nsolve.direct.ordering import minimum_degree
from nsolve.kernels import threshold_cholesky as kernel
from nsolve.preconditioners import IncompleteCholesky, ThresholdCholesky
from tests.helpers import assert_refresh_is_set_up
from tests.test_incomplete import (
    DTYPES,
    PSD,
    assert_is,
    general,
    hermitian,
    kershaw,
    relative_error,
    sparse,
    tolerance,
)


def dense_ict(a, drop_tolerance, fill_factor=10.0, shift=0.0):
    """Right-looking, with columns that lose what is small and then what is too much: `A ~ G G^H`."""
    n, entries = len(a), a != 0
    order = minimum_degree(sp.csr_array(entries))
    unit = 2.0 ** np.rint(np.log2(np.real(np.diag(a))) / -2)
    low = (unit[:, None] * a * unit)[np.ix_(order, order)]
    limits, entries = drop_tolerance * np.linalg.norm(low, axis=0), np.triu(entries[np.ix_(order, order)])
    low[np.diag_indices(n)] *= 1 + shift
    stored = 0
    for k in range(n):
        low[:k, k] = 0
        if not low[k, k].real > 0:
            return None
        low[k:, k] /= np.sqrt(low[k, k])
        column = abs(low[k + 1 :, k])
        room = int(fill_factor * entries[: k + 1].sum()) - stored - k - 1
        kept = (column > limits[k]) & (np.argsort(np.argsort(-column)) < room)
        low[k + 1 :, k] *= kept
        stored += kept.sum()
        low[k + 1 :, k + 1 :] -= np.outer(low[k + 1 :, k], low[k + 1 :, k].conj())
    factor = np.zeros_like(low)
    factor[order] = low
    return factor / unit[:, None]


def dense_inverse(a, *options):
    factor = np.asarray(dense_ict(a, *options))
    return np.linalg.inv(factor @ factor.conj().T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [(0.0, 10.0), (0.05, 10.0), (0.001, 1.25), (0.02, 10.0, 0.5)])
def test_it_is_the_incomplete_factor(dtype, options):
    a = hermitian(30, dtype=dtype, seed=1)
    units = 10.0 ** np.random.default_rng(2).uniform(-2, 2, 30)
    a = (units[:, None] * a * units).astype(dtype)
    expected = dense_inverse(a.astype(np.complex128), *options)
    if options[0] > 0:
        assert relative_error(np.linalg.inv(a), expected) > 1e-4
    inverse = ThresholdCholesky(*options)(sparse(a, PSD))
    assert lx.is_positive_semidefinite(inverse)
    assert_is(inverse, expected, dtype)


@given(
    n=st.sampled_from([1, 2, 5, 12, 30]),
    density=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    drop_tolerance=st.sampled_from([0.0, 1e-2, 1e-1]),
    fill_factor=st.sampled_from([1.0, 1.5, 10.0]),
    seed=st.integers(0, 10**6),
)
def test_random_patterns(n, density, drop_tolerance, fill_factor, seed):
    """Any tolerance and limit: positive definite, within the limit, and what the definition says."""
    a = hermitian(n, density, "complex128", seed)
    inverse = ThresholdCholesky(drop_tolerance, fill_factor)(sparse(a, PSD))
    dense = np.asarray(jnp.stack([inverse.mv(e) for e in jnp.eye(n, dtype=complex)], axis=1))
    assert np.linalg.eigvalsh(dense).min() > 0
    assert int(inverse.state.num_entries) <= 2 * fill_factor * np.count_nonzero(np.tril(a)) - n
    assert relative_error(dense, dense_inverse(a, drop_tolerance, fill_factor)) < 1e-11


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_without_numba(monkeypatch, dtype):
    """The kernel interpreted, and SciPy's triangular solves."""
    a = hermitian(30, dtype=dtype, seed=3)
    expected = ThresholdCholesky(0.03, 2.0)(sparse(a, PSD)).as_matrix()
    memory.forget()
    monkeypatch.setattr(_ffi, "_usable", False)
    inverse = ThresholdCholesky(0.03, 2.0)(sparse(a, PSD))
    assert relative_error(inverse.as_matrix(), np.asarray(expected)) < tolerance(dtype)


def test_refresh_traced_and_batched_equals_set_up():
    matrix = sparse(hermitian(25), PSD)
    diagonal = jnp.where(matrix.pattern.rows == matrix.pattern.indices, 2.0, 1.0)
    assert_refresh_is_set_up(ThresholdCholesky(0.05), matrix, diagonal, rtol=1e-13)


@pytest.mark.parametrize("dominance", [0.0, 0.05])
def test_breakdown_is_cured_by_a_shift(dominance):
    a = kershaw() * (1 - dominance) + 3 * dominance * np.eye(4)  # with all of its fill it needs none
    make = ThresholdCholesky(fill_factor=1.0)
    assert dense_ict(a, 1e-3, 1.0) is None
    inverse = make(sparse(a, PSD))
    shift = float(inverse.state.measures[0])
    assert shift in np.asarray(1e-3 * 2.0 ** np.arange(24)) and f"shift {shift:.3g}" in repr(inverse)
    assert relative_error(inverse.as_matrix(), dense_inverse(a, 1e-3, 1.0, shift)) < 1e-12
    assert dense_ict(a, 1e-3, 1.0, shift / 2) is None  # half the shift would not have done
    assert "shift" not in repr(ThresholdCholesky()(sparse(a, PSD)))
    np.testing.assert_array_equal(eqx.filter_jit(make)(sparse(a, PSD)).as_matrix(), inverse.as_matrix())


def test_fewer_steps_than_without_fill():
    matrix = ns.StencilLinearOperator.poisson((128, 128), 1.0)
    b = jnp.asarray(np.random.default_rng(0).standard_normal((128, 128)))
    steps = []
    for made in (IncompleteCholesky(), ThresholdCholesky(1e-2), ThresholdCholesky(), ThresholdCholesky(0.0)):
        solution = lx.linear_solve(matrix, b, ns.CG(rtol=1e-8, preconditioner=made))
        assert jnp.linalg.norm(b - matrix.mv(solution.value)) <= 1e-8 * jnp.linalg.norm(b)
        steps.append(int(solution.stats["num_steps"]))
    assert steps[0] > 1.5 * steps[1] > 2 * steps[2] and steps[3] <= 2


def test_what_is_not_definite_fails_closed():
    a = sparse(hermitian(10), PSD)
    solver = ns.CG(rtol=1e-8, preconditioner=ThresholdCholesky())
    solve = jax.jit(lambda v: lx.linear_solve(a.with_values(v), jnp.ones(10), solver, throw=False))
    for bad in (jnp.nan, -1.0):
        values = a.values.at[a.pattern.diagonal_positions[4]].set(bad)
        assert jnp.isnan(
            jax.jit(lambda v: ThresholdCholesky()(a.with_values(v)).mv(jnp.ones(10)))(values)
        ).all()
        assert solve(values).result != lx.RESULTS.successful
    # positive on the diagonal, but far from definite: the shift goes as far as it must
    hollow = np.eye(6) + 50 * (np.ones((6, 6)) - np.eye(6))
    inverse = ThresholdCholesky()(sparse(hollow, PSD))
    assert np.linalg.eigvalsh(inverse.as_matrix()).min() > 0 and inverse.state.measures[0] > 1


def test_bad_input_is_named():
    a = sparse(hermitian(6), PSD)
    with pytest.raises(ValueError, match="`ThresholdCholesky`.*positive_semidefinite_tag.*`ThresholdLU`"):
        ThresholdCholesky()(sparse(general(6)))
    with pytest.raises(ValueError, match="entry 2 of the diagonal is -1"):
        ThresholdCholesky()(a.with_values(a.values.at[a.pattern.diagonal_positions[2]].set(-1.0)))
    with pytest.raises(ValueError, match="row 1 of the pattern has none"):
        ThresholdCholesky()(sparse(np.array([[1.0, 1, 0], [1, 0, 1], [0, 1, 1]]), PSD))
    with pytest.raises(ValueError, match="`ThresholdCholesky` needs the entries"):
        ThresholdCholesky()(lx.FunctionLinearOperator(lambda x: x, a.in_structure(), PSD))
    for field, value, message in (
        ("drop_tolerance", 1.0, r"\[0, 1\)"),
        ("fill_factor", 0.5, "at least 1"),
        ("shift", -1.0, "not negative"),
    ):
        with pytest.raises(ValueError, match=rf"`ThresholdCholesky\({field}=...\)` must .*{message}"):
            ThresholdCholesky(**{field: value})


def test_a_pattern_whose_factors_would_not_fit_is_taken(monkeypatch):
    from nsolve.direct import base

    operator = ns.StencilLinearOperator.poisson((90, 90), 1.0)
    monkeypatch.setattr(base, "physical_memory", lambda: 1e6)
    assert np.isfinite(ThresholdCholesky(fill_factor=1.0)(operator).mv(jnp.ones((90, 90)))).all()


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=60), data=st.data())
def test_the_largest_are_found_and_rows_sorted(sizes, data):
    count = data.draw(st.integers(0, len(sizes)))
    rows, moduli = np.arange(len(sizes)), np.asarray(sizes, float)
    kernel._to_front(rows, moduli, len(sizes), count)
    assert sorted(moduli[:count]) == sorted(sizes)[len(sizes) - count :]
    assert [sizes[row] for row in rows] == moduli.tolist() and sorted(rows) == list(range(len(sizes)))
    kernel._sort(rows, count)
    assert (np.diff(rows[:count]) > 0).all()

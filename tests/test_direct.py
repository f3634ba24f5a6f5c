"""Direct solvers: the laws of solvers that apply to them, and what is theirs alone."""

import dataclasses
import re
import time
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp

import nsolve as ns
from nsolve import _ffi
from nsolve._reasons import CODES
from nsolve.direct import factors, memory
from nsolve.direct.structure import structure_of

from . import linear_laws as laws
from .subjects.linear import COMPLEX, GENERAL, HERMITIAN, PSD, STENCIL, Case, precond


@dataclasses.dataclass(frozen=True, eq=False)
class Direct(Case):
    """A row of the laws: without history and start, which a factorisation has no use for."""

    def solve(self, theta, b, rtol=1e-12, state=None, y0=None, **fields):
        value, result, stats = self._program(theta, b, jnp.asarray(rtol), state, None, {})
        return lx.Solution(jax.device_get(value), result, jax.device_get(stats), state)


CASES = [
    Direct("lu", ns.SparseLU, GENERAL, stationary=True),
    Direct("lu", ns.SparseLU, COMPLEX, stationary=True),
    Direct("lu", ns.SparseLU, STENCIL),
    Direct("cholesky", ns.SparseCholesky, HERMITIAN, definite=True),
]
LAWS = [
    *(laws.law_derivatives, laws.law_one_trace, laws.law_zero_vector, laws.law_sparse_vector),
    *(laws.law_scale_invariance, laws.law_operator_scale, laws.law_nonfinite, laws.law_singular),
    *(laws.law_indefinite, laws.law_state_reuse, laws.law_single_precision, laws.law_vmap),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_laws(law, case):
    law(case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_one_factorisation_serves_every_side_of_a_matrix(case, monkeypatch):
    theta, (b,) = case.kind.theta, case.kind.vectors(1)
    solver, matrix, state = case(), case.kind.matrix(theta), case.init(theta)
    monkeypatch.setattr(memory, "factorise", None)  # whoever factorises again raises
    transposed, conjugate = solver.transpose(state, {})[0], solver.conj(state, {})[0]
    both = solver.conj(transposed, {})[0]
    for changed, dense in ((transposed, matrix.T), (conjugate, matrix.conj()), (both, matrix.conj().T)):
        value, result, stats = solver.compute(changed, b, {})
        assert result == lx.RESULTS.successful
        laws.close(value, np.linalg.solve(dense, laws.flat(b)))
        residual = laws.norm(dense @ laws.flat(value) - laws.flat(b))
        assert abs(stats["residual_norm"] - residual) <= 1e-14 * laws.norm(b)


def badly_scaled(n=60, seed=0, decades=9):
    """`A` with zeros on the diagonal, in units decades apart, and `b, x` such that `A x = b`, and `units x`
    are moderate numbers."""
    rng = np.random.default_rng(seed)
    matrix = sp.random_array((n, n), density=0.1, rng=rng).toarray()
    matrix[np.arange(n), rng.permutation(n)] += 2
    np.fill_diagonal(matrix, 0)
    rows, units = 10.0 ** rng.uniform(-decades, decades, (2, n))
    y = rng.standard_normal(n)
    return rows[:, None] * matrix * units, rows * (matrix @ y), y, units


def test_badly_scaled_with_zeros_on_the_diagonal():
    matrix, b, y, units = badly_scaled()
    operator = ns.SparseLinearOperator.from_scipy(matrix)
    solution = lx.linear_solve(operator, jnp.asarray(b), ns.SparseLU(rtol=1e-12))
    assert solution.stats["reciprocal_condition"] > 1e-6  # of the scaled matrix
    assert solution.stats["num_factor_entries"] >= operator.nnz
    np.testing.assert_allclose(units * solution.value, y, rtol=1e-9)


def test_the_matching_is_the_last_attempt(monkeypatch):
    matrix, b, y, units = badly_scaled()

    def only_matched(scaled, symmetric, threshold, plain=factors._superlu):
        return None if symmetric or threshold == 1.0 else plain(scaled, symmetric, threshold)

    monkeypatch.setattr(factors, "_superlu", only_matched)
    found, quality = factors.factorise(sp.csr_array(matrix), factors.Recipe("lu"))
    assert found._orders[0] is not None and quality.reciprocal_condition > 1e-6
    np.testing.assert_allclose(units * found.apply(b, "N"), y, rtol=1e-9)
    adjoint, _ = factors.factorise(sp.csr_array(matrix.T), factors.Recipe("lu"))
    for vector in (np.ones(60), b):
        np.testing.assert_allclose(found.apply(vector, "T"), adjoint.apply(vector, "N"), rtol=1e-6)


def test_new_values_on_one_pattern_in_a_scan():
    kind = GENERAL
    thetas = jnp.stack([kind.theta * factor for factor in (1.0, 1.3, 0.7)])
    b = kind.vectors(1)[0]

    @jax.jit
    @jax.grad
    def slope(thetas):
        def step(total, theta):
            x = lx.linear_solve(kind.operator(theta), b, ns.SparseLU()).value
            return total + jnp.sum(x**2), None

        return jax.lax.scan(step, 0.0, thetas)[0]

    def dense(thetas):
        return sum(jnp.sum(jnp.linalg.solve(kind.operator(t).as_matrix(), b) ** 2) for t in thetas)

    np.testing.assert_allclose(slope(thetas), jax.grad(dense)(thetas), rtol=1e-9, atol=1e-12)


def convection(n, seed, dtype: type = np.float64):
    """On a grid; one pattern for all seeds."""
    rng = np.random.default_rng(seed)
    line = sp.diags_array([-1.3, 2.0, -0.7], offsets=[-1, 0, 1], shape=(n, n))
    matrix = sp.csr_array(sp.kron(line, sp.eye_array(n)) + sp.kron(sp.eye_array(n), line), dtype=dtype)
    matrix.data *= rng.uniform(1, 1.1, matrix.nnz)
    return matrix


def one_sided(n, seed, dtype: type = np.float64):
    """Far from symmetric, with zeros on the diagonal; one pattern for all seeds."""
    rng = np.random.default_rng(seed)
    matrix = sp.diags_array([1.0, 1, 1], offsets=[1, 4, -n + 1], shape=(n, n), dtype=dtype).tocsr()
    matrix.data *= rng.uniform(1, 2, matrix.nnz) * (np.exp(1j * seed) if dtype == np.complex128 else 1)
    return matrix


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("make", [convection, one_sided])
def test_the_order_of_a_pattern_is_found_once(make, dtype, monkeypatch):
    import scipy.sparse.linalg as spla

    orders, plain = [], spla.splu

    def counting(matrix, order, *args, **kwargs):
        orders.append(order)
        return plain(matrix, order, *args, **kwargs)

    monkeypatch.setattr(spla, "splu", counting)
    n = 12 if dtype == np.float64 else 13  # a pattern of its own
    held, b = [], np.random.default_rng(0).standard_normal(n * n).astype(dtype)
    for seed in range(3):
        matrix = make(n * n if make is one_sided else n, seed, dtype)
        if seed == 2:  # in other units
            matrix.data *= np.repeat(10.0 ** np.linspace(-4, 4, n * n), np.diff(matrix.indptr))
        held.append(factors.factorise(matrix, factors.Recipe("lu")))
        found, quality = held[-1]
        assert quality.code == CODES["converged"] and quality.entries == held[0][1].entries
        dense = matrix.toarray()
        sides = {"N": dense, "T": dense.T, "C": dense.conj(), "H": dense.conj().T}
        for side, turned in sides.items():
            np.testing.assert_allclose(turned @ found.apply(b, side), b, atol=1e-9)
            np.testing.assert_allclose(found.product(b, side), turned @ b, rtol=1e-12, atol=1e-12)
    first = "MMD_AT_PLUS_A" if make is convection else "COLAMD"
    assert orders == [first, "NATURAL", "NATURAL"]


def test_what_a_later_matrix_on_a_pattern_lacks_is_seen():
    """Also once the order is known: stored zeros, zeros on the diagonal, a singular matrix."""
    matrix = convection(12, 0)
    held = [factors.factorise(matrix, factors.Recipe(kind)) for kind in ("lu", "cholesky")]
    zeros, shifted, singular, structural = (matrix.copy() for _ in range(4))
    zeros.data[matrix.data > -0.75] = 0
    zeros.setdiag(4.0)
    shifted.setdiag(0.0)
    singular.setdiag(0.0)
    singular.setdiag(-singular.sum(axis=1))
    structural.data[: structural.indptr[1]] = 0
    b = np.arange(144.0)
    for later in (zeros, shifted):
        found, quality = factors.factorise(later, factors.Recipe("lu"))
        assert quality.code == 0
        np.testing.assert_allclose(later @ found.apply(b, "N"), b, atol=1e-9)
    for later in (singular, structural):
        assert factors.factorise(later, factors.Recipe("lu"))[1].code == CODES["singular_matrix"]
    matrix.data[:] = np.nan
    assert factors.factorise(matrix, factors.Recipe("lu"))[1].code == CODES["nonfinite_operator"]
    negative = sp.csr_array(-convection(12, 0))
    assert factors.factorise(negative, factors.Recipe("cholesky"))[1].code == CODES["not_definite"]
    assert held


def test_growth_of_pivots_is_seen():
    """Wilkinson's matrix: well-conditioned, and no digit of a solution is left."""
    n = 60
    matrix = np.eye(n) - np.tril(np.ones((n, n)), -1)
    matrix[:, -1] = 1
    quality = factors.factorise(sp.csr_array(matrix), factors.Recipe("lu"))[1]
    assert quality.code == CODES["precision"] and quality.reciprocal_condition > 1e-3


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_the_condition_is_a_good_lower_bound(dtype):
    for seed in range(10):
        matrix = convection(9, seed, dtype)
        matrix.setdiag(np.random.default_rng(seed).standard_normal(81).astype(dtype))
        dense = matrix.toarray().astype(np.complex128)
        exact = 1 / (np.linalg.norm(dense, 1) * np.linalg.norm(np.linalg.inv(dense), 1))
        estimate = factors.factorise(matrix, factors.Recipe("lu"))[1].reciprocal_condition
        assert (1 - 1e-3) * exact <= estimate <= 3 * exact


def test_patterns_are_known_while_they_are_needed():
    matrix = convection(11, 0)
    structure = structure_of(matrix.indptr, matrix.indices)
    assert structure_of(matrix.indptr.copy(), matrix.indices.copy()) is structure
    other = matrix.indices.copy()
    other[:4] = [0, 1, 11, 12][: len(other[:4])]
    assert structure_of(matrix.indptr, other) is not structure
    made = weakref.ref(structure)
    del structure
    assert made() is None


def test_factors_that_are_gone_are_made_again():
    operator, b = GENERAL.operator(GENERAL.theta), GENERAL.vectors(1)[0]
    state = ns.SparseLU().init(operator, {})
    ns.direct.forget()
    x = lx.linear_solve(operator, b, ns.SparseLU(), state=state).value
    np.testing.assert_allclose(operator.mv(x), b, atol=1e-12)


def test_remembered_factors_stay_within_their_share(monkeypatch):
    ns.direct.forget()
    monkeypatch.setattr(memory, "physical_memory", lambda: 8 * 24 * 300.0)
    for k in range(9):
        ns.SparseLU().init(GENERAL.operator(GENERAL.theta * (1 + k)), {})
    entries = [quality.entries for _, quality in memory._remembered.values()]
    assert 1 <= len(entries) < 9 and (sum(entries) <= 300 or len(entries) == 1)


def test_what_failed_is_forgotten_as_well(monkeypatch):
    """Failures and tiny systems take memory, too."""
    ns.direct.forget()
    monkeypatch.setattr(memory, "physical_memory", lambda: 8 * 2.0**13 * 5)
    singular = sparse_singular()
    for k in range(20):
        ns.SparseLU().init(singular.with_values(singular.values * (1 + k)), {})
    assert 1 <= len(memory._remembered) <= 5
    ns.direct.forget()
    assert memory._bytes == 0 and not memory._remembered


def sparse_singular() -> ns.SparseLinearOperator:
    line = sp.diags_array([-1.0, 2, -1], offsets=[-1, 0, 1], shape=(9, 9)).toarray()
    line[0, 0] = line[-1, -1] = 1
    return ns.SparseLinearOperator.from_scipy(line)


def test_an_interrupt_comes_through(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    operator, b = GENERAL.operator(2.9 * GENERAL.theta), GENERAL.vectors(1)[0]
    monkeypatch.setattr(memory, "factorise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        jax.block_until_ready(lx.linear_solve(operator, b, ns.SparseLU(), throw=False).value)
        for _ in range(200):  # it comes between two of these, under load late
            time.sleep(0.05)


def test_without_kernels_callbacks_do_the_same(monkeypatch):
    monkeypatch.setattr(_ffi, "_usable", False)
    case = Direct("lu", ns.SparseLU, COMPLEX)
    laws.law_vmap(case)


def test_an_error_of_the_library_is_a_failure(monkeypatch, capfd):
    """Nothing can be raised through XLA."""

    def broken(*_):
        raise RuntimeError("out of luck")

    operator, b = GENERAL.operator(3.7 * GENERAL.theta), GENERAL.vectors(1)[0]
    monkeypatch.setattr(memory, "factorise", broken)
    solution = lx.linear_solve(operator, b, ns.SparseLU(), throw=False)
    assert solution.result == lx.RESULTS.breakdown
    assert solution.stats["reason"] == ns.linear.REASONS.factors_failed
    assert "out of luck" in capfd.readouterr().err


@pytest.mark.parametrize("constructor", [ns.SparseLU(), ns.SparseCholesky()], ids=["lu", "cholesky"])
def test_as_a_preconditioner(constructor):
    operator = ns.StencilLinearOperator.poisson((6, 5), 0.1)
    b = jnp.asarray(np.random.default_rng(2).standard_normal((6, 5)))
    solution = lx.linear_solve(operator, b, ns.CG(rtol=1e-10, preconditioner=constructor))
    assert solution.stats["num_steps"] <= 2
    inverse = constructor(operator)
    np.testing.assert_allclose(
        inverse.as_matrix() @ operator.as_matrix().reshape(30, 30), np.eye(30), atol=1e-12
    )
    assert "30 unknowns; factors with" in repr(inverse)
    refreshed = inverse.refresh(2 * operator)
    np.testing.assert_allclose(2 * refreshed.mv(b), inverse.mv(b), rtol=1e-12)

    def steps(b):
        return jnp.sum(
            ns.unroll(ns.CG(rtol=0, max_steps=2, preconditioner=constructor), operator, b, 2).value
        )

    np.testing.assert_allclose(jax.grad(steps)(b), inverse.mv(jnp.ones((6, 5))), rtol=1e-8)


@pytest.mark.parametrize("dtype", [np.float64, np.complex64])
def test_threshold_lu(dtype):
    """Zeros on the diagonal, many units: `IncompleteLU` has no factors there."""
    matrix = badly_scaled(200, decades=9 if dtype == np.float64 else 1)[0]
    turn = np.exp(1j * np.arange(200)) if dtype == np.complex64 else np.ones(200)
    matrix = (matrix / abs(matrix).max(axis=1, keepdims=True) * turn[:, None]).astype(dtype)
    operator, b = ns.SparseLinearOperator.from_scipy(matrix), jnp.ones(200, dtype)
    rtol, steps = 1e-3 if dtype == np.complex64 else 1e-9, []  # what so many units leave to reach
    for drop_tolerance in (1e-1, 1e-3, 1e-8):
        made = precond.ThresholdLU(drop_tolerance=drop_tolerance)
        solution = lx.linear_solve(operator, b, ns.GMRES(rtol=rtol, preconditioner=made))
        assert jnp.linalg.norm(b - operator.mv(solution.value)) <= 1.01 * rtol * jnp.linalg.norm(b)
        steps.append(int(solution.stats["num_steps"]))
    assert steps[0] > steps[1] >= steps[2] <= 3
    inverse = made(operator)
    tolerance = 1e-3 if dtype == np.complex64 else 1e-9
    np.testing.assert_allclose(
        inverse.transpose().as_matrix(),
        inverse.as_matrix().T,
        atol=tolerance * abs(inverse.as_matrix()).max(),
    )


def test_a_threshold_factorisation_that_breaks_down_is_shifted():
    made = precond.ThresholdLU()(sparse_singular())
    assert re.search(
        r"ThresholdLU preconditioner \(9 unknowns; factors with \d+ entries; shift 0.\d+\)", repr(made)
    )
    assert np.isfinite(made.mv(jnp.ones(9))).all()
    for options, message in (
        ({"drop_tolerance": 1.0}, r"in \[0, 1\), but"),
        ({"fill_factor": 0.5}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            precond.ThresholdLU(**options)


@pytest.mark.parametrize("n", [1, 40])
@pytest.mark.parametrize("dtype", [np.float64, np.complex64])
def test_dense_matrices_go_to_lapack(n, dtype):
    rng = np.random.default_rng(3)
    matrix = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if dtype == np.complex64 else 0)
    definite = (matrix @ matrix.conj().T + np.eye(n)).astype(dtype)
    b = jnp.asarray(rng.standard_normal(n).astype(dtype))
    for made, solver, tags in (
        (matrix.astype(dtype), ns.SparseLU(), ()),
        (definite, ns.SparseCholesky(), PSD),
    ):
        operator = lx.MatrixLinearOperator(jnp.asarray(made), tags)
        for turned, dense in ((operator, made), (operator.T, made.T), (lx.conj(operator), made.conj())):
            if not tags or np.array_equal(dense, dense.conj().T):
                solution = lx.linear_solve(turned, b, solver)
                assert solution.stats["backward_error"] < 10 * np.finfo(dtype).eps
                assert np.linalg.norm(dense @ solution.value - b) < 1e-3 * np.linalg.norm(b)


def test_what_cannot_be_solved_is_said():
    matrix = sp.csr_array(np.diag([1.0, 2, 0, 4]) + np.diag([1.0, 0, 0], 1))
    matrix.eliminate_zeros()
    with pytest.raises(ValueError, match="singular whatever.*row 2 is empty"):
        ns.SparseLU().init(ns.SparseLinearOperator.from_scipy(matrix), {})
    singular, b = sparse_singular(), jnp.arange(9.0)
    solution = lx.linear_solve(singular, b, ns.SparseLU(), throw=False)
    assert solution.result == lx.RESULTS.singular and solution.stats["reciprocal_condition"] < 1e-15
    with pytest.raises(eqx.EquinoxRuntimeError, match="SparseLU: The matrix is singular"):
        lx.linear_solve(singular, b, ns.SparseLU())
    indefinite = lx.TaggedLinearOperator(singular.with_values(-singular.values), PSD)
    solution = lx.linear_solve(indefinite, b, ns.SparseCholesky(), throw=False)
    assert solution.result == lx.RESULTS.breakdown
    assert solution.stats["reason"] == ns.linear.REASONS.not_definite


def test_an_ill_conditioned_matrix():
    """A backward stable answer is a success; a residual that was asked for and not reached is none."""
    n = 12
    hilbert = 1 / (np.arange(n)[:, None] + np.arange(n) + 1.0)
    operator, b = lx.MatrixLinearOperator(jnp.asarray(hilbert[:9, :9])), jnp.ones(9)
    x = lx.linear_solve(operator, b, ns.SparseLU()).value
    np.testing.assert_allclose(hilbert[:9, :9] @ x, 1, atol=1e-6)
    result = lx.linear_solve(operator, b, ns.SparseLU(rtol=1e-16), throw=False).result
    assert result == lx.RESULTS.stagnation
    operator, b = lx.MatrixLinearOperator(jnp.asarray(hilbert)), jnp.ones(n)
    assert lx.linear_solve(operator, b, ns.SparseLU(), throw=False).result == lx.RESULTS.singular


def test_factors_that_would_not_fit_are_refused_before(monkeypatch):
    from nsolve.direct import base

    operator = ns.StencilLinearOperator.poisson((90, 90), 1.0)
    monkeypatch.setattr(base, "physical_memory", lambda: 1e6)
    with pytest.raises(ValueError, match=r"factors would take about 0.0\d+ GiB.*iterative"):
        ns.SparseLU().init(operator, {})


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda a, b: ns.SparseLU(rtol=-1.0), ValueError, r"SparseLU\(rtol=...\)` must be None, or finite"),
        (
            lambda a, b: ns.SparseCholesky(atol=np.inf),
            ValueError,
            r"Cholesky\(atol=...\)` must be finite",
        ),
        (lambda a, b: lx.linear_solve(a, b, ns.SparseCholesky()), ValueError, "not tagged so"),
        (lambda a, b: ns.SparseLU().init(a, {"y0": b}), ValueError, r"may have the keys \[\], not \['y0'\]"),
        (lambda a, b: ns.SparseLU().init(a.select(rows=slice(3)), {}), ValueError, "solves square systems"),
        (
            lambda a, b: ns.SparseLU().init(lx.FunctionLinearOperator(a.mv, a.in_structure()), {}),
            ValueError,
            "only has products",
        ),
    ],
)
def test_bad_input(call, error, message):
    operator = GENERAL.operator(GENERAL.theta)
    with pytest.raises(error, match=message):
        call(operator, jnp.ones(operator.in_size()))

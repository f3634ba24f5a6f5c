"""Polynomial preconditioners: against their definitions on the spectrum, and inside CG."""

import itertools
import math

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from scipy.special import eval_jacobi

import nsolve as ns
from nsolve.preconditioners import Polynomial
from tests.helpers import assert_refresh_is_set_up
from tests.test_incomplete import DTYPES, PSD, matrices, relative_error

LEAST = "least_squares"


def with_spectrum(values, dtype="float64", seed=0):
    """A dense matrix, and its eigenvectors."""
    parts = np.random.default_rng(seed).standard_normal((2, len(values), len(values)))
    q, _ = np.linalg.qr(parts[0] + 1j * parts[1] if np.issubdtype(dtype, np.complexfloating) else parts[0])
    return ((q * values) @ q.conj().T).astype(dtype), q


def operator(dense, tags=PSD):
    return lx.MatrixLinearOperator(jnp.asarray(dense), tags)


def products(values, count):
    """The sum of the products of `count` different ones."""
    return sum(math.prod(some) for some in itertools.combinations(values, count))


def symmetric(values, degree):
    """What the preconditioner makes of each eigenvalue."""
    others = [products(np.delete(values, k), degree) for k in range(len(values))]
    return np.array(others) / (products(values, degree) * np.sum(values))


def least_squares(values, degree, high):
    steps = degree + 1
    residual = eval_jacobi(steps, 0.5, -0.5, 1 - 2 * values / high) / eval_jacobi(steps, 0.5, -0.5, 1)
    return (1 - residual) / values


VALUES = np.array([0.1, 0.5, 1.0, 1.5, 2.0, 7.0, 40.0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("degree", [1, 2, 3, 6])
def test_symmetric_polynomials_are_their_formula(degree, dtype):
    dense, q = with_spectrum(VALUES, dtype)
    expected = (q * symmetric(VALUES, degree)) @ q.conj().T
    single = np.finfo(dtype).bits == 32
    if single and degree == 6:
        pytest.skip("loses more digits than there are")
    for matrix in (operator(dense), ns.SparseLinearOperator.from_scipy(dense, PSD)):
        inverse = Polynomial(degree)(matrix)
        assert lx.is_positive_semidefinite(inverse)
        for mine, theirs in zip(matrices(inverse), (expected, expected.T, expected.conj()), strict=True):
            assert mine.dtype == dtype
            assert relative_error(mine, theirs) < (1e-3 if single else 1e-7 if degree == 6 else 1e-12)


def test_patterns_that_fill_in():
    matrix = ns.StencilLinearOperator.poisson((3, 4))
    dense = np.asarray(matrix.as_matrix())
    values, q = np.linalg.eigh(dense)
    for degree in (2, 5):
        inverse = Polynomial(degree)(matrix)
        expected = (q * symmetric(values, degree)) @ q.T
        assert relative_error(inverse.as_matrix(), expected) < 1e-12
        assert inverse.mv(jnp.ones((3, 4))).shape == (3, 4)


@pytest.mark.parametrize("degree", [1, 2, 5])
@pytest.mark.parametrize("bound", [40.0, 30.0, None])
def test_least_squares_polynomials_are_their_formula(degree, bound):
    dense, q = with_spectrum(VALUES)
    products_only = lx.FunctionLinearOperator(
        lambda x: dense @ x, jax.ShapeDtypeStruct((7,), float), PSD
    )  # so it is not scaled
    inverse = Polynomial(degree, LEAST, bound)(products_only)
    high = float(inverse.scale)
    assert high == (bound or pytest.approx(44, rel=1e-6))
    expected = (q * least_squares(VALUES, degree, high)) @ q.T
    for mine in matrices(inverse):
        assert relative_error(mine, expected) < 1e-12


def test_least_squares_are_least():
    """No polynomial of the degree has a smaller integral of `(1 - l s(l))^2`, with the weight."""
    angles = (np.arange(400) + 0.5) * np.pi / 400  # Gauss and Chebyshev's nodes
    nodes = (1 - np.cos(angles)) / 2
    best, *_ = np.linalg.lstsq(np.vander(nodes, 4)[:, :] * nodes[:, None], np.ones(400), rcond=None)
    np.testing.assert_allclose(np.vander(nodes, 4) @ best, least_squares(nodes, 3, 1.0), rtol=1e-8)


def test_their_own_matrices_are_scaled():
    dense = with_spectrum(VALUES)[0]
    d = np.diag(10.0 ** np.arange(7))
    inverse = Polynomial(2, LEAST, 9.0)(operator(d @ dense @ d)).as_matrix()
    root = np.sqrt(np.diag(d @ dense @ d))
    values, q = np.linalg.eigh(d @ dense @ d / np.outer(root, root))
    expected = (q * least_squares(values, 2, 9.0)) @ q.T / np.outer(root, root)
    np.testing.assert_allclose(inverse, expected, rtol=1e-8)


@pytest.mark.parametrize("kind", ["symmetric", LEAST])
@pytest.mark.parametrize("degree", range(1, 7))
def test_it_is_definite(kind, degree):
    values = np.geomspace(1e-3, 1e3, 12)
    dense = with_spectrum(values)[0]
    bound = None if kind == "symmetric" else (300.0 if degree % 2 == 0 else 950.0)  # too low
    inverse = Polynomial(degree, kind, bound)(
        lx.TaggedLinearOperator(ns.SparseLinearOperator.from_scipy(dense), PSD)
        if kind == "symmetric"
        else lx.FunctionLinearOperator(lambda x: dense @ x, jax.ShapeDtypeStruct((12,), float), PSD)
    )
    found = np.asarray(inverse.as_matrix())
    assert np.linalg.eigvalsh((found + found.T) / 2).min() > 0


def test_huge_eigenvalues_do_not_count():
    """The condition is that of the rest, up to a few."""
    values = np.concatenate([np.linspace(1, 3, 40), [1e4, 1e5]])
    dense = with_spectrum(values)[0]
    condition = [
        np.linalg.cond(Polynomial(degree)(operator(dense)).as_matrix() @ dense) for degree in (1, 2, 3)
    ]
    assert condition[0] < 2e4 and condition[1] < 150 and condition[2] < condition[1]


def test_fewer_steps():
    matrix = ns.StencilLinearOperator.poisson((16, 16))
    b = jnp.asarray(np.random.default_rng(0).standard_normal((16, 16)))
    steps = [
        int(lx.linear_solve(matrix, b, ns.CG(rtol=1e-8, preconditioner=c)).stats["num_steps"])
        for c in (None, Polynomial(2, LEAST), Polynomial(4, LEAST))
    ]
    assert steps[1] <= 0.5 * steps[0] and steps[2] < steps[1]


@pytest.mark.parametrize("constructor", [Polynomial(3), Polynomial(3, LEAST)])
def test_refresh_is_set_up(constructor):
    matrix = ns.SparseLinearOperator.from_scipy(with_spectrum(VALUES)[0], PSD)
    assert_refresh_is_set_up(constructor, matrix, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_it_scales_with_the_matrix(scale):
    dense = with_spectrum(VALUES)[0]
    for constructor in (Polynomial(3), Polynomial(3, LEAST)):
        inverse = constructor(operator(dense)).as_matrix()
        scaled = constructor(operator(scale * dense)).as_matrix()
        np.testing.assert_allclose(scaled * scale, inverse, rtol=1e-9, atol=1e-12)


def test_traced_bad_entries_fail_closed():
    dense = with_spectrum(VALUES)[0]
    for constructor in (Polynomial(2), Polynomial(2, LEAST)):
        solver = ns.CG(rtol=1e-8, preconditioner=constructor)
        solve = jax.jit(
            lambda a, solver=solver: lx.linear_solve(operator(a), jnp.ones(7), solver, throw=False).result
        )
        assert solve(jnp.asarray(dense)) == lx.RESULTS.successful
        for bad in (jnp.nan, -100.0):
            assert solve(jnp.asarray(dense).at[3, 3].set(bad)) != lx.RESULTS.successful


def test_it_tells_its_cost():
    dense = operator(with_spectrum(VALUES)[0])
    assert repr(Polynomial()(dense)) == (
        "Polynomial preconditioner (symmetric, degree 2; 2 products an application)"
    )
    assert repr(Polynomial(3, LEAST)(dense)) == (
        "Polynomial preconditioner (least squares, degree 3, Jacobi-scaled; 3 products an application)"
    )


def test_bad_input_is_named():
    dense = with_spectrum(VALUES)[0]
    for degree in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match=r"`Polynomial\(degree=...\)` must be an integer >= 1"):
            Polynomial(degree)  # pyright: ignore
    with pytest.raises(ValueError, match=r'must be "symmetric" or "least_squares", but is \'jacobi\''):
        Polynomial(2, "jacobi")  # pyright: ignore
    with pytest.raises(ValueError, match='is for `kind="least_squares"`; leave it out'):
        Polynomial(2, bound=1.0)
    for bound in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=r"`Polynomial\(bound=...\)` must be positive and finite"):
            Polynomial(2, LEAST, bound)
    with pytest.raises(ValueError, match="must be below the number of unknowns, 7"):
        Polynomial(7)(operator(dense))
    with pytest.raises(ValueError, match=r"`preconditioners.Polynomial` solves positive definite"):
        Polynomial(2)(operator(dense, ()))
    with pytest.raises(ValueError, match="7 x 8"):
        Polynomial(2)(operator(np.ones((7, 8)), ()))
    function = lx.FunctionLinearOperator(lambda x: x, jax.ShapeDtypeStruct((7,), float), PSD)
    with pytest.raises(ValueError, match='only has products.* Or use `kind="least_squares"`'):
        Polynomial(2)(function)
    few = with_spectrum(np.array([0, 0, 0, 0, 0, 2.0, 3.0]))[0]
    assert Polynomial(1)(operator(few)).mv(jnp.ones(7)).shape == (7,)
    for matrix, degree in ((few, 3), (np.diag([1.0, 0, 0]), 1), (-dense, 2), (np.full((7, 7), np.nan), 2)):
        with pytest.raises(ValueError, match="hold all of the trace up to rounding"):
            Polynomial(degree)(operator(matrix))

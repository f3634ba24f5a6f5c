"""Deflation: exact on the given vectors, Hermitian, and as many steps as the rest of the spectrum takes."""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import nsolve as ns

from .subjects.linear import PSD, grid_matrix

pc = ns.preconditioners
RNG = np.random.default_rng(0)


def definite(dtype, n=120):
    """A decade of eigenvalues, and five that are small."""
    q = RNG.standard_normal((n, n)) + 1j * RNG.standard_normal((n, n))
    q, _ = np.linalg.qr(q if np.issubdtype(dtype, np.complexfloating) else q.real)
    values = np.concatenate([np.logspace(-4, -3, 5), np.linspace(1, 10, n - 5)])
    matrix = (q * values) @ q.conj().T
    return ((matrix + matrix.conj().T) / 2).astype(dtype), q.astype(dtype)


def balanced(matrix, w, inner):
    """The definition."""
    unit = np.eye(len(matrix))
    q = w @ np.linalg.inv(w.conj().T @ matrix @ w) @ w.conj().T
    return q + (unit - q @ matrix) @ inner @ (unit - matrix @ q)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("inner", [None, pc.Jacobi()])
def test_it_is_the_balancing_preconditioner(dtype, inner):
    n = 16
    matrix = grid_matrix(4).astype(dtype)
    if dtype == np.complex128:
        matrix = matrix + 0.3j * (np.diag(np.ones(n - 1), 1) - np.diag(np.ones(n - 1), -1))
    operator = ns.SparseLinearOperator.from_scipy(matrix, PSD)
    w = RNG.standard_normal((n, 3)).astype(dtype) * [1, 1e3, 1e-3]
    if dtype == np.complex128:
        w = w + 1j * RNG.standard_normal((n, 3))
    made = pc.Deflation(jnp.asarray(w.T), inner)(operator)
    other = np.eye(n) if inner is None else np.diag(1 / np.diag(matrix))
    expected = balanced(matrix, w, other)
    np.testing.assert_allclose(made.as_matrix(), expected, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(made.transpose().as_matrix(), expected.T, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(lx.conj(made).as_matrix(), expected.conj(), atol=1e-9 * np.abs(expected).max())
    assert lx.is_positive_semidefinite(made) and repr(made).startswith("Deflation of 3 vectors (16 unknowns)")
    doubled = operator.with_values(2 * operator.values)
    b = jnp.asarray(w[:, 0])
    np.testing.assert_allclose(made.refresh(doubled).mv(b), made.constructor(doubled).mv(b), rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_eigenvectors_leave_the_rest_of_the_spectrum(dtype):
    matrix, q = definite(dtype)
    operator = lx.MatrixLinearOperator(jnp.asarray(matrix), PSD)
    b = jnp.asarray(RNG.standard_normal(120).astype(dtype))
    mixed = q[:, :5] @ RNG.standard_normal((5, 5))
    solver = ns.CG(1e-8, condition=True, preconditioner=pc.Deflation(jnp.asarray(mixed.T)))
    stats = lx.linear_solve(operator, b, solver).stats
    # Deflated directions have the eigenvalue one, the others keep theirs: 1 to 10.
    assert stats["condition"] <= 10.1
    plain = lx.linear_solve(operator, b, ns.CG(1e-8)).stats
    assert plain["num_steps"] > stats["num_steps"] + 5


def test_what_cg_recycled_deflates_the_next_system():
    matrix = grid_matrix(16)
    operator = ns.SparseLinearOperator.from_scipy(matrix, PSD)
    b = jnp.asarray(RNG.standard_normal((2, 256)))
    first = lx.linear_solve(operator, b[0], ns.CG(1e-10, recycle=8))
    deflation = pc.Deflation(first.stats["recycled"].vectors, pc.IncompleteCholesky())
    solvers = ns.CG(1e-10, preconditioner=pc.IncompleteCholesky()), ns.CG(1e-10, preconditioner=deflation)
    plain, deflated = (int(lx.linear_solve(operator, b[1], s).stats["num_steps"]) for s in solvers)
    assert deflated <= 0.75 * plain


def test_under_jit_dependent_directions_are_left_out():
    operator = ns.SparseLinearOperator.from_scipy(grid_matrix(4), PSD)
    w, b = RNG.standard_normal((2, 16)), jnp.asarray(RNG.standard_normal(16))
    apply = jax.jit(lambda vectors: pc.Deflation(vectors)(operator).mv(b))
    dependent = apply(np.stack([w[0], w[1], w[0] + w[1], 0 * w[0]]))
    np.testing.assert_allclose(dependent, apply(w), rtol=1e-9)


#: A class in the place of a constructor.
WRONG: Any = pc.Jacobi
GRID = ns.SparseLinearOperator.from_scipy(grid_matrix(4), PSD)
SKEW = ns.SparseLinearOperator.from_scipy(np.eye(16, k=1))
W = jnp.asarray(RNG.standard_normal((2, 16)))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: pc.Deflation(W[0]), ValueError, r"one vector in each row.*\(16,\)"),
        (lambda: pc.Deflation(W, WRONG), TypeError, r"Deflation\(inner="),
        (lambda: pc.Deflation(W[:, :9])(GRID), ValueError, r"shape `\(k, 16\)`, but has \(2, 9\)"),
        (lambda: pc.Deflation(jnp.stack([W[0], W[0]]))(GRID), ValueError, "dependent.*only 1 directions"),
        (lambda: pc.Deflation(jnp.nan * W)(GRID), ValueError, "not finite"),
        (lambda: pc.Deflation(W)(SKEW), ValueError, "not tagged so"),
    ],
)
def test_bad_input(make, error, words):
    with pytest.raises(error, match=words):
        make()

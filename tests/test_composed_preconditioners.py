"""Preconditioners made of others: in low precision, one after the other, and added up."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp

import nsolve as ns

from .subjects.linear import PSD, grid_matrix

pc = ns.preconditioners
RNG = np.random.default_rng(0)
GRID = grid_matrix(6) + np.diag(RNG.uniform(0, 1, 36))
DEFINITE = ns.SparseLinearOperator.from_scipy(GRID, PSD)
PLAIN_MATRIX = GRID + np.diag(RNG.uniform(0, 0.5, 35), 1)
PLAIN = ns.SparseLinearOperator.from_scipy(PLAIN_MATRIX)
COMPLEX_MATRIX = PLAIN_MATRIX + 1j * np.diag(RNG.uniform(0, 1, 35), -1)
COMPLEX = ns.SparseLinearOperator.from_scipy(COMPLEX_MATRIX)


def close(actual, expected, tol=1e-12):
    assert np.linalg.norm(np.asarray(actual) - expected) <= tol * np.linalg.norm(expected)


@pytest.mark.parametrize("inner", [pc.Jacobi(), pc.IncompleteLU(), pc.SSOR()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(("operator", "unit"), [(PLAIN, 1.0), (COMPLEX, 2.0**200), (PLAIN, 2.0**-300)])
def test_low_precision_is_the_inner_one_rounded(inner, operator, unit):
    """Whatever the units: what float32 cannot hold is scaled first."""
    scaled = operator.with_values(unit * operator.values)
    low, full = pc.LowPrecision(inner)(scaled), inner(scaled)
    x = jnp.asarray(1e-100 * RNG.standard_normal(36)).astype(operator.values.dtype)
    expected, found = (unit * (1e100 * np.asarray(made.mv(x))) for made in (full, low))
    assert low.mv(x).dtype == x.dtype
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 1e-9 < error < 1e-5  # rounded indeed, and to single precision
    if unit == 1.0:
        matrix = np.asarray(low.as_matrix())
        close(low.transpose().as_matrix(), matrix.T, 1e-6)
        close(lx.conj(low).as_matrix(), matrix.conj(), 1e-6)


def test_low_precision_takes_no_more_steps_and_keeps_the_accuracy():
    grid = ns.StencilLinearOperator.diffusion(jnp.exp(jnp.asarray(RNG.standard_normal((64, 64)))), 1 / 65)
    b = jnp.asarray(RNG.standard_normal((64, 64)))
    full, low = (ns.CG(1e-12, preconditioner=p) for p in (pc.Multigrid(), pc.LowPrecision(pc.Multigrid())))
    steps = [int(lx.linear_solve(grid, b, solver).stats["num_steps"]) for solver in (full, low)]
    assert steps[1] <= steps[0] + 1
    half = ns.CG(1e-10, preconditioner=pc.LowPrecision(pc.Jacobi(), dtype=jnp.bfloat16))
    assert lx.linear_solve(grid, b, half).result == lx.RESULTS.successful


def test_low_precision_of_low_precision_changes_nothing():
    single = DEFINITE.with_values(DEFINITE.values.astype(jnp.float32))
    x = jnp.asarray(RNG.standard_normal(36), jnp.float32)
    ours, inner = (p(single).mv(x) for p in (pc.LowPrecision(pc.SSOR()), pc.SSOR()))
    np.testing.assert_array_equal(ours, inner)


def test_tags_and_words_are_the_inner_ones():
    made = pc.LowPrecision(pc.IncompleteCholesky())(DEFINITE)
    assert lx.is_positive_semidefinite(made) and "in float32" in repr(made)
    assert not lx.is_positive_semidefinite(pc.LowPrecision(pc.IncompleteLU())(PLAIN))


def dense(kind, parts, matrix):
    z = parts[0]
    for part in parts[1:]:
        z = z + part @ (np.eye(len(matrix)) - (0 if kind == "additive" else 1) * matrix @ z)
    return z


@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
@pytest.mark.parametrize(("operator", "matrix"), [(PLAIN, PLAIN_MATRIX), (COMPLEX, COMPLEX_MATRIX)])
def test_composites_are_what_they_say(kind, operator, matrix):
    constructors = (pc.Jacobi(), pc.IncompleteLU(), pc.SSOR(omega=1.2))
    parts = [np.asarray(constructor(operator).as_matrix()) for constructor in constructors]
    made, expected = pc.Composite(constructors, kind)(operator), dense(kind, parts, matrix)
    close(made.as_matrix(), expected)
    close(made.transpose().as_matrix(), expected.T)
    close(lx.conj(made).as_matrix(), expected.conj())


def test_a_composite_takes_fewer_steps_than_its_parts():
    b = jnp.asarray(RNG.standard_normal(36))

    def steps(preconditioner) -> int:
        solver = ns.GMRES(1e-10, restart=36, preconditioner=preconditioner)
        return int(lx.linear_solve(PLAIN, b, solver).stats["num_steps"])

    ilu, ssor = pc.IncompleteLU(), pc.SSOR()
    assert steps(pc.Composite((ilu, ssor))) < min(steps(ilu), steps(ssor))


def test_which_composites_are_definite():
    jacobi, ssor = pc.Jacobi(), pc.SSOR()
    assert lx.is_positive_semidefinite(pc.Composite((jacobi, ssor), "additive")(DEFINITE))
    assert not lx.is_positive_semidefinite(pc.Composite((jacobi, ssor))(DEFINITE))
    b = jnp.asarray(RNG.standard_normal(36))
    sol = lx.linear_solve(DEFINITE, b, ns.CG(1e-10, preconditioner=pc.Composite((jacobi, ssor), "additive")))
    close(sol.value, np.linalg.solve(GRID, np.asarray(b)), 1e-8)
    with pytest.raises(ValueError, match="needs a positive definite preconditioner"):
        lx.linear_solve(DEFINITE, b, ns.CG(1e-10, preconditioner=pc.Composite((jacobi, ssor))))


BOTH = [pc.LowPrecision(pc.IncompleteLU()), pc.Composite((pc.Jacobi(), pc.IncompleteLU()))]


@pytest.mark.parametrize("constructor", BOTH, ids=lambda p: type(p).__name__)
def test_refresh_jit_and_gradients(constructor):
    b = jnp.asarray(RNG.standard_normal(36))
    made = constructor(PLAIN)

    @jax.jit
    def refreshed(values):
        return made.refresh(PLAIN.with_values(values)).mv(b), constructor(PLAIN.with_values(values)).mv(b)

    for result in refreshed(2 * PLAIN.values):
        close(result, np.asarray(constructor(PLAIN.with_values(2 * PLAIN.values)).mv(b)), 1e-6)

    def value(values):
        solver = ns.GMRES(1e-12, restart=36, preconditioner=constructor)
        return lx.linear_solve(PLAIN.with_values(values), b, solver).value[0]

    gradient = jax.jit(jax.grad(value))(PLAIN.values)
    inverse = np.linalg.inv(PLAIN_MATRIX)
    rows, columns = np.asarray(PLAIN.pattern.rows), np.asarray(PLAIN.pattern.indices)
    close(gradient, -inverse[0][rows] * (inverse @ np.asarray(b))[columns], 1e-8)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: pc.LowPrecision(pc.Jacobi), TypeError, r"LowPrecision\(inner="),
        (lambda: pc.LowPrecision(pc.Jacobi(), dtype=jnp.int32), TypeError, r"LowPrecision\(dtype=.*int32"),
        (lambda: pc.Composite(()), TypeError, r"Composite\(parts="),
        (lambda: pc.Composite((pc.Jacobi(), jnp.tanh)), TypeError, r"Composite\(parts="),
        (lambda: pc.Composite((pc.Jacobi(),), "sum"), ValueError, r"Composite\(kind=.*'sum'"),
        (
            lambda: pc.LowPrecision(pc.Jacobi(), dtype=jnp.bfloat16)(COMPLEX),
            ValueError,
            "no complex numbers of precision bfloat16",
        ),
        (lambda: pc.Composite((pc.IncompleteLU(),))(HOLLOW), ValueError, "IncompleteLU"),
    ],
)
def test_bad_input(make, error, words):
    with pytest.raises(error, match=words):
        make()


HOLLOW = ns.SparseLinearOperator.from_scipy(sp.csr_array(np.roll(np.eye(4), 1, axis=1)))

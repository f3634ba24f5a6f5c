"""Block diagonal preconditioning of saddle points: against its definition, and inside MINRES."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp

import nsolve as ns
from nsolve.gallery import hard
from nsolve.preconditioners import IncompleteLU, Jacobi, SaddlePoint, ThresholdCholesky
from tests.test_incomplete import DTYPES, PSD, assert_is, dense_ic, hermitian, sparse

from .helpers import assert_refresh_is_set_up

KEY = jax.random.key(0)
EXACT = {"block": ns.SparseCholesky(), "schur": ns.SparseCholesky()}


def saddle(n=20, m=8, dtype="float64", weight=0.5, seed=0):
    """`[[A, B^H], [B, -C]]`, dense."""
    rng = np.random.default_rng(seed)
    b = np.eye(m, n) + np.where(rng.random((m, n)) < 0.1, rng.uniform(-1, 1, (m, n)), 0)
    if np.issubdtype(dtype, np.complexfloating):
        b = b * np.exp(2j * np.pi * rng.random((m, n)))
    c = weight * hermitian(m, dtype=dtype, seed=seed)
    return np.block([[hermitian(n, dtype=dtype, seed=seed), b.conj().T], [b, -c]]).astype(dtype)


def operator(dense):
    return sparse(dense, ns.hermitian_tag)


def mixed_poisson(size):
    """Fluxes on the faces of a staggered grid, a mass matrix with jumps, and pressures: the gallery's Stokes
    flow with another leading block."""
    stokes, split = hard.stokes(KEY, size).operator.as_scipy().tolil(), 2 * size * (size - 1)
    jumps = 10.0 ** np.random.default_rng(0).uniform(-1, 1, split)
    mass = sp.diags_array(
        [np.ones(split - 1) / 6, np.ones(split) * 2 / 3, np.ones(split - 1) / 6], offsets=[-1, 0, 1]
    )
    scale = sp.diags_array(np.sqrt(jumps))
    stokes[:split, :split] = scale @ mass @ scale
    matrix = ns.SparseLinearOperator.from_scipy(stokes.tocsr(), lx.symmetric_tag)
    return matrix, jnp.asarray(np.random.default_rng(1).standard_normal(matrix.in_size())), split


def steps(matrix, b, constructor, max_steps=10_000):
    solver = ns.MINRES(rtol=1e-8, max_steps=max_steps, preconditioner=constructor)
    solution = lx.linear_solve(matrix, b, solver)
    assert jnp.linalg.norm(b - matrix.mv(solution.value)) <= 1e-8 * jnp.linalg.norm(b)
    return int(solution.stats["num_steps"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_it_is_the_inverse_of_both_blocks(dtype, weight):
    dense, n = saddle(dtype=dtype, weight=weight), 20
    if weight == 0:  # nothing is stored there
        assert not dense[n:, n:].any()
    a, b = dense[:n, :n], dense[n:, :n]
    schur = -dense[n:, n:] + b / np.diag(a) @ b.conj().T
    parts = [dense_ic(part) for part in (a, schur)]
    blocks = [np.linalg.inv(low @ low.conj().T) for low in parts]
    expected = np.block([[blocks[0], np.zeros((n, 8))], [np.zeros((8, n)), blocks[1]]])
    inverse = SaddlePoint(n)(operator(dense))
    assert lx.is_positive_semidefinite(inverse)
    assert_is(inverse, expected, dtype)
    assert repr(inverse).startswith("SaddlePoint preconditioner (28 unknowns; IncompleteCholesky precond")
    assert "(8 unknowns" in repr(inverse) and "(20 unknowns" in repr(inverse)


def test_three_steps_where_everything_is_exact():
    """Murphy, Golub and Wathen: the eigenvalues of `M K` are 1 and `(1 ± sqrt(5)) / 2`."""
    dense = saddle(weight=0.0)
    dense[:20, :20] = np.diag(np.linspace(1, 50, 20))
    matrix, exact = operator(dense), SaddlePoint(20, **EXACT)
    eigenvalues = np.sort(np.linalg.eigvals(exact(matrix).as_matrix() @ dense).real)
    golden = (1 + np.sqrt(5)) / 2
    np.testing.assert_allclose(eigenvalues, np.repeat([1 - golden, 1, golden], [8, 12, 8]), atol=1e-12)
    b = jnp.asarray(np.random.default_rng(2).standard_normal(28))
    assert steps(matrix, b, exact) == 3 < steps(matrix, b, None)


def test_steps_do_not_grow_with_the_grid():
    exact, strong, weak = [], [], []
    for size in (12, 24, 48):
        matrix, b, split = mixed_poisson(size)
        exact.append(steps(matrix, b, SaddlePoint(split, **EXACT)))
        strong.append(steps(matrix, b, SaddlePoint(split, Jacobi(), ThresholdCholesky(1e-4))))
        weak.append(steps(matrix, b, SaddlePoint(split)))
    assert max(exact) <= min(exact) + 4 and max(exact) < 45
    assert max(strong) < 1.5 * min(strong) and strong[-1] < weak[-1] / 4
    assert 6 * weak[-1] < steps(matrix, b, None)


def test_systems_of_the_gallery():
    problem = hard.stokes(KEY, 24)
    split = 2 * 24 * 23
    assert 2.5 * steps(problem.operator, problem.vector, SaddlePoint(split)) < steps(
        problem.operator, problem.vector, None
    )
    problem = hard.kkt(KEY, 500, decades=4.0)
    few = steps(problem.operator, problem.vector, SaddlePoint(500))
    assert 15 * few < steps(problem.operator, problem.vector, None, 30_000)


@pytest.mark.parametrize("parts", [{}, {"block": Jacobi(), "schur": ThresholdCholesky(1e-2)}])
def test_refresh_traced_and_batched_equals_set_up(parts):
    matrix = operator(saddle())
    diagonal = jnp.where(matrix.pattern.rows == matrix.pattern.indices, 1.5, 1.0)
    assert_refresh_is_set_up(SaddlePoint(20, **parts), matrix, diagonal)


def test_a_state_serves_many_vectors_and_derivatives():
    dense = saddle()
    matrix, solver = operator(dense), ns.MINRES(rtol=1e-12, preconditioner=SaddlePoint(20))
    state = solver.init(matrix, {})
    for b in jnp.eye(28)[:2]:
        solution = lx.linear_solve(matrix, b, solver, state=state)
        np.testing.assert_allclose(solution.value, np.linalg.solve(dense, b), atol=1e-10)

    def entry(values, b):
        return lx.linear_solve(matrix.with_values(values), b, solver).value[7]

    b = jnp.arange(28.0)
    by_value, by_b = jax.jit(jax.grad(entry, argnums=(0, 1)))(matrix.values, b)
    adjoint, x = np.linalg.inv(dense)[7], np.linalg.solve(dense, b)
    np.testing.assert_allclose(by_b, adjoint, atol=1e-9)
    expected = -adjoint[matrix.pattern.rows] * x[matrix.pattern.indices]
    np.testing.assert_allclose(by_value, expected, atol=1e-8)


def test_not_definite_parts_are_not_tagged():
    matrix = operator(saddle())
    inverse = SaddlePoint(20, schur=IncompleteLU())(matrix)
    assert not lx.is_positive_semidefinite(inverse)
    with pytest.raises(ValueError, match="positive_semidefinite_tag"):
        steps(matrix, jnp.ones(28), SaddlePoint(20, schur=IncompleteLU()))
    assert lx.is_positive_semidefinite(SaddlePoint(20, ThresholdCholesky(), Jacobi())(matrix))


def test_traced_bad_entries_fail_closed():
    matrix = operator(saddle())
    solver = ns.MINRES(rtol=1e-8, preconditioner=SaddlePoint(20))
    solve = jax.jit(
        lambda v: lx.linear_solve(matrix.with_values(v), jnp.ones(28), solver, throw=False).result
    )
    for bad in (jnp.nan, 0.0, -1.0):
        values = matrix.values.at[matrix.pattern.diagonal_positions[4]].set(bad)
        assert solve(values) != lx.RESULTS.successful
    assert solve(matrix.values) == lx.RESULTS.successful


def test_bad_input_is_named():
    dense = saddle()
    for split in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match=r"`SaddlePoint\(split=...\)` must be a positive integer"):
            SaddlePoint(split)  # pyright: ignore
    for name in ("block", "schur"):
        with pytest.raises(TypeError, match=rf"SaddlePoint\({name}=...\)` must be a preconditioner constr"):
            SaddlePoint(3, **{name: jnp.tanh})  # pyright: ignore
    with pytest.raises(ValueError, match="less than the number of unknowns, 28, but is 28"):
        SaddlePoint(28)(operator(dense))
    with pytest.raises(ValueError, match="not tagged so"):
        SaddlePoint(20)(sparse(dense))
    with pytest.raises(ValueError, match="entry 20 of its diagonal is -0.*`split`"):
        SaddlePoint(21)(operator(dense))
    hole = dense.copy()
    hole[3, 3] = 0
    with pytest.raises(ValueError, match="entry 3 of its diagonal is 0"):
        SaddlePoint(20)(operator(hole))
    with pytest.raises(ValueError, match="entry 3 of its diagonal is 0"):
        jax.jit(lambda v: SaddlePoint(20)(operator(hole).with_values(v)).mv(v[:28]))(operator(hole).values)
    hole = dense.copy()
    hole[25], hole[:, 25] = 0, 0
    with pytest.raises(ValueError, match="row 25 of the matrix has no entries"):
        SaddlePoint(20)(operator(hole))
    function = lx.FunctionLinearOperator(lambda x: x, jax.ShapeDtypeStruct((28,), float), PSD)
    with pytest.raises(ValueError, match="`SaddlePoint` needs the entries"):
        SaddlePoint(20)(function)
    with pytest.raises(ValueError, match="`refresh`"):
        SaddlePoint(20)(operator(dense)).refresh(operator(saddle(seed=1)))

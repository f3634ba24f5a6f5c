"""Singular systems with known null spaces: the least-squares solution of the smallest norm, or the reason."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import nsolve as ns
from nsolve.chain import Attempt, Chain

PSD = lx.positive_semidefinite_tag
precond = ns.preconditioners
RNG = np.random.default_rng(0)
NEUMANN = ns.StencilLinearOperator.diffusion(
    jnp.exp(jnp.asarray(RNG.standard_normal((10, 10)))), spacing=0.1, boundary="neumann"
)
F = RNG.standard_normal((10, 10)) + 0.3


def pseudoinverse(matrix, b) -> np.ndarray:
    return np.linalg.lstsq(np.asarray(matrix), np.ravel(b), rcond=1e-10)[0]


def solve(operator, b, solver, **kwargs) -> lx.Solution:
    return lx.linear_solve(operator, jnp.asarray(b), solver, throw=False, **kwargs)


def close(actual, expected, tol=1e-7):
    actual, expected = np.ravel(np.asarray(actual)), np.ravel(expected)
    assert np.linalg.norm(actual - expected) <= tol * np.linalg.norm(expected)


@pytest.mark.parametrize(
    "solver",
    [
        ns.CG(1e-10),
        ns.CG(1e-10, preconditioner=precond.Multigrid()),
        ns.CG(1e-10, preconditioner=precond.IncompleteCholesky()),
        ns.MINRES(1e-10, preconditioner=precond.Jacobi()),
        ns.FlexibleCG(1e-10, preconditioner=lambda r: r),
        ns.FGMRES(1e-10, restart=100, preconditioner=precond.Variable(jnp.tanh, precond.Jacobi())),
        ns.GMRES(1e-10, restart=100, preconditioner=precond.IncompleteLU()),
        ns.BiCGStab(1e-10),
        ns.Chebyshev(1e-10),
        ns.SOR(1e-10),
        ns.Richardson(1e-10, preconditioner=precond.IncompleteCholesky(), max_steps=20_000),
    ],
    ids=lambda solver: f"{type(solver).__name__}-{type(solver.preconditioner).__name__}",
)
def test_each_solver_gives_the_least_squares_solution_of_the_smallest_norm(solver):
    solution = solve(NEUMANN, F, ns.Projected(solver))
    assert solution.result == lx.RESULTS.successful
    close(solution.value, pseudoinverse(NEUMANN.as_matrix(), F))
    np.testing.assert_allclose(solution.stats["inconsistency"], abs(F.sum()) / 10, rtol=1e-12)
    applications = solution.stats["num_preconditioner_applications"]
    assert (applications > 0) == (solver.preconditioner is not None)
    # What is judged is the part of the vector that has a solution.
    b = F - F.mean()
    true = np.linalg.norm(b - np.asarray(NEUMANN.mv(solution.value)))
    assert true <= 1e-10 * np.linalg.norm(b)
    np.testing.assert_allclose(solution.stats["residual_norm"], true, rtol=1e-6, atol=1e-14)


def deficient(complex_values: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A matrix of rank two below its size, which no tag describes; null vectors of it and of its adjoint."""
    a, b = RNG.standard_normal((2, 12, 10))
    if complex_values:
        a = a + 1j * RNG.standard_normal(a.shape)
    matrix = a @ (b.T @ np.diag(np.linspace(1, 2, 12)) + 0.5 * np.eye(10, 12))
    u, _, vh = np.linalg.svd(matrix)
    mix = np.array([[1.0, 0.4], [0.2, 1e3]])  # neither orthogonal nor of length one
    return matrix, vh[10:].conj().T @ mix, u[:, 10:] @ mix


@pytest.mark.parametrize("complex_values", [False, True])
def test_null_spaces_of_both_sides(complex_values):
    matrix, right, left = deficient(complex_values)
    b = RNG.standard_normal(12).astype(matrix.dtype)
    solver = ns.Projected(ns.GMRES(1e-12, restart=12), list(jnp.asarray(right.T)), list(jnp.asarray(left.T)))
    operator = lx.MatrixLinearOperator(jnp.asarray(matrix))
    solution = solve(operator, b, solver)
    assert solution.result == lx.RESULTS.successful
    close(solution.value, np.linalg.pinv(matrix, 1e-10) @ b)

    # The transposed and the conjugated state exchange and conjugate them.
    state = solver.init(operator, {})
    for change, dense in ((solver.transpose, matrix.T), (solver.conj, matrix.conj())):
        changed, options = change(state, {})
        value, result, _ = solver.compute(changed, jnp.asarray(b), options)
        assert result == lx.RESULTS.successful
        close(value, np.linalg.pinv(dense, 1e-10) @ b)


def test_derivatives_are_those_of_the_pseudoinverse():
    def value(theta, b):
        operator = ns.StencilLinearOperator.diffusion(theta, spacing=0.1, boundary="neumann")
        solver = ns.Projected(ns.CG(1e-12, preconditioner=precond.Jacobi()))
        return jnp.sum(lx.linear_solve(operator, b, solver).value ** 3)

    def dense(theta, b):
        operator = ns.StencilLinearOperator.diffusion(theta, spacing=0.1, boundary="neumann")
        n = b.size
        bordered = jnp.block(
            [[operator.as_matrix(), jnp.ones((n, 1))], [jnp.ones((1, n)), jnp.zeros((1, 1))]]
        )
        return jnp.sum(jnp.linalg.solve(bordered, jnp.append(b.ravel(), 0.0))[:-1] ** 3)

    theta = jnp.exp(jnp.asarray(RNG.standard_normal((6, 6))))
    b = jnp.asarray(RNG.standard_normal((6, 6)))
    ours, expected = (jax.jit(jax.grad(f, argnums=(0, 1)))(theta, b) for f in (value, dense))
    for a, e in zip(ours, expected, strict=True):
        close(a, e, 1e-6)
    batched = jax.vmap(value, (None, 0))(theta, jnp.stack([b, 2 * b]))
    close(batched, [dense(theta, b), dense(theta, 2 * b)])


def test_what_is_left_of_an_inconsistent_vector_is_rounding():
    solution = solve(NEUMANN, np.full((10, 10), 3.7), ns.Projected(ns.CG(1e-10)))
    assert solution.result == lx.RESULTS.successful and solution.stats["num_steps"] == 0
    assert not np.any(np.asarray(solution.value))
    np.testing.assert_allclose(solution.stats["inconsistency"], 37.0)


def test_the_start_and_its_constant_part():
    exact = pseudoinverse(NEUMANN.as_matrix(), F).reshape(10, 10)
    options = {"y0": jnp.asarray(exact + 5)}
    solution = solve(NEUMANN, F, ns.Projected(ns.CG(1e-9)), options=options)
    assert solution.stats["num_steps"] <= 1
    close(solution.value, exact)


def test_a_state_serves_many_vectors_and_units_do_not_matter():
    solver = ns.Projected(ns.CG(1e-10, preconditioner=precond.Jacobi()))
    state = solver.init(NEUMANN, {})
    for factor in (1.0, 1e-250, 1e250):
        solution = solve(NEUMANN, factor * F, solver, state=state)
        assert solution.result == lx.RESULTS.successful
        close(np.asarray(solution.value) / factor, pseudoinverse(NEUMANN.as_matrix(), F))


def test_failures_keep_their_reason():
    solution = solve(NEUMANN, F, ns.Projected(ns.CG(1e-10, max_steps=3)))
    assert solution.stats["reason"] == ns.linear.REASONS.max_steps
    assert abs(float(jnp.sum(solution.value))) < 1e-12
    with pytest.raises(Exception, match=r"Projected CG: All of `max_steps`"):
        lx.linear_solve(NEUMANN, jnp.asarray(F), ns.Projected(ns.CG(1e-10, max_steps=3)))
    solution = solve(NEUMANN, np.full((10, 10), np.nan), ns.Projected(ns.CG(1e-10)))
    assert solution.result == lx.RESULTS.nonfinite_input
    matrix = ns.as_sparse(NEUMANN)
    broken = lx.TaggedLinearOperator(matrix.with_values(jnp.nan * matrix.values), PSD)
    solution = solve(broken, F.ravel(), ns.Projected(ns.CG(1e-10)))
    assert solution.stats["reason"] == ns.linear.REASONS.nonfinite_operator


DIRICHLET = ns.StencilLinearOperator.poisson((6, 6), 1.0)
UNTAGGED = lx.MatrixLinearOperator(jnp.asarray(deficient()[0]))
ONES = jnp.ones((10, 10))
#: Regular, with an eigenvalue of 1e-8 on constants, of which projection would rob the solution.
NEARLY = ns.gallery.hard.nearly_singular(0, (10, 10), shift=1e-8).operator


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ns.Projected(ns.CG(1e-8)).init(DIRICHLET, {}), "not mapped to zero.*diagnose"),
        (lambda: ns.Projected(ns.GMRES(1e-8)).init(UNTAGGED, {}), "give `left`, or tag"),
        (
            lambda: ns.Projected(ns.CG(1e-8), jnp.ones(5)).init(NEUMANN, {}),
            "`nullspace` must have the operator",
        ),
        (lambda: ns.Projected(ns.CG(1e-8), []).init(NEUMANN, {}), "or a list of such"),
        (lambda: ns.Projected(ns.CG(1e-8), [ONES, 2 * ONES]).init(NEUMANN, {}), "vector 1 is zero.*depends"),
        (lambda: ns.Projected(ns.CG(1e-8), 0 * ONES).init(NEUMANN, {}), "vector 0 is zero"),
        (lambda: ns.Projected(ns.CG(1e-8), jnp.nan * ONES).init(NEUMANN, {}), "vector 0 is zero, not finite"),
        (
            lambda: ns.Projected(ns.CG(1e-8), ONES, [ONES, F]).init(NEUMANN, {}),
            "as many vectors as `nullspace`, 1",
        ),
        (lambda: ns.Projected(ns.CG(1e-8)).init(NEARLY, {}), "not mapped to zero"),
        (lambda: ns.Projected(ns.CG(1e-8), "constants"), "is \"constant\" or vectors, but is 'constants'"),
    ],
)
def test_bad_null_spaces_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_solvers_that_need_none_are_refused():
    with pytest.raises(TypeError, match=r"must be an iterative solver.*LSMR"):
        ns.Projected(ns.LSMR(1e-8))
    state = ns.Projected(ns.CG(1e-8)).init(NEUMANN, {})
    with pytest.raises(ValueError, match="was not there when this `state`"):
        options = {"preconditioner": precond.Jacobi()(NEUMANN)}
        solve(NEUMANN, F, ns.Projected(ns.CG(1e-8)), state=state, options=options)


def test_a_null_space_that_is_wrong_under_jit_is_a_reason():
    solver = ns.Projected(ns.CG(1e-8))
    run = jax.jit(lambda operator: solve(operator, np.ones((6, 6)), solver).stats["reason"])
    assert run(DIRICHLET) == ns.linear.REASONS.wrong_nullspace


def test_preconditioner_from_options():
    options = {"preconditioner": precond.Multigrid()(NEUMANN)}
    solution = solve(NEUMANN, F, ns.Projected(ns.CG(1e-10)), options=options)
    assert solution.result == lx.RESULTS.successful and solution.stats["num_steps"] < 20
    close(solution.value, pseudoinverse(NEUMANN.as_matrix(), F))


@pytest.mark.parametrize("kind", ["stencil", "sparse", "products"])
def test_auto_with_a_null_space(kind):
    f, operator = F, NEUMANN
    if kind != "stencil":
        f = F.ravel()
        operator = ns.as_sparse(NEUMANN)
    if kind == "products":
        matrix = operator
        operator = lx.FunctionLinearOperator(matrix.mv, matrix.in_structure(), PSD)
    chain = ns.auto(operator, rtol=1e-10, nullspace="constant")
    assert re.search(r"1\. projected CG", repr(chain)) and "SparseLU" not in repr(chain)
    solution = solve(operator, f, chain)
    assert solution.result == lx.RESULTS.successful
    close(solution.value, pseudoinverse(NEUMANN.as_matrix(), F))
    np.testing.assert_allclose(solution.stats["inconsistency"], abs(F.sum()) / 10, rtol=1e-12)


def test_a_chain_starts_a_projected_attempt_where_the_one_before_ended():
    short = ns.CG(1e-10, max_steps=30, preconditioner=precond.Multigrid())
    attempts = tuple(Attempt(ns.Projected(dataclasses.replace(short, max_steps=k))) for k in (6, 30))
    solution = solve(NEUMANN, F, Chain(attempts))
    alone = int(solve(NEUMANN, F, ns.Projected(short)).stats["num_steps"])
    assert solution.result == lx.RESULTS.successful
    assert solution.stats["attempts"].num_steps[1] < alone

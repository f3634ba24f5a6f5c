"""`solve_many`: each right-hand side as if it were alone, whatever the blocks; exact derivatives."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import nsolve as ns

SHAPE, COUNT = (5, 6), 5
POISSON = ns.StencilLinearOperator.poisson(SHAPE, 1 / 6)
MATRIX = np.asarray(POISSON.as_matrix())
RNG = np.random.default_rng(0)
B = RNG.standard_normal((COUNT, *SHAPE))
B[1] = 0  # done before the first step
B[3] = MATRIX[:, 7].reshape(SHAPE)
SOLVER = ns.CG(rtol=1e-12, preconditioner=ns.preconditioners.Jacobi())


def dense(matrix, vectors):
    return np.linalg.solve(matrix, vectors.reshape(len(vectors), -1).T).T.reshape(vectors.shape)


def close(actual, expected, tol=1e-9):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tol * np.abs(expected).max())


@pytest.mark.parametrize("batch", [1, 2, None])  # blocks of one, an uneven last one, one block
def test_each_is_solved_as_if_it_were_alone(batch):
    solution = ns.solve_many(POISSON, B, SOLVER, batch=batch)
    close(solution.value, dense(MATRIX, B))
    assert solution.value.shape == B.shape
    assert (solution.result == lx.RESULTS.successful).tolist() == [True] * COUNT
    single = jax.jit(lambda b: lx.linear_solve(POISSON, b, SOLVER).stats["num_steps"])
    assert solution.stats["num_steps"].tolist() == [single(b) for b in B]
    assert "5 successful" in repr(solution)


def test_one_that_fails_leaves_the_others_alone():
    bad = np.array(B)
    bad[2, 1, 1] = np.nan
    solution = ns.solve_many(POISSON, bad, SOLVER, throw=False, batch=3)
    failed = lx.RESULTS.nonfinite_input
    assert (solution.result == failed).tolist() == [False, False, True, False, False]
    good = [0, 1, 3, 4]
    close(solution.value[np.array(good)], dense(MATRIX, B[good]))
    with pytest.raises(Exception, match="CG: The vector holds NaN"):
        ns.solve_many(POISSON, bad, SOLVER, batch=1)


def test_starts_and_a_state_are_used():
    exact = dense(MATRIX, B)
    first = ns.solve_many(POISSON, B, SOLVER)
    again = ns.solve_many(POISSON, B, SOLVER, {"y0": exact}, state=first.state)
    assert not again.stats["num_steps"].any()
    made = []

    def constructor(operator):
        made.append(operator)
        return ns.preconditioners.Jacobi()(operator)

    solver = ns.CG(rtol=1e-12, preconditioner=constructor)
    state = solver.init(POISSON, {})
    calls = len(made)
    ns.solve_many(POISSON, B, solver, state=state)
    assert len(made) == calls


@pytest.mark.parametrize("solver, batch", [(ns.GMRES(rtol=1e-12), 3), (lx.LU(), 1)])
def test_derivatives_are_those_of_the_dense_solve(solver: lx.AbstractLinearSolver, batch: int):
    n, k = 6, 4
    rng = np.random.default_rng(1)
    A, dA = 3 * np.eye(n) + rng.standard_normal((2, n, n)) / 3 + 1j * rng.standard_normal((2, n, n)) / 5
    b, db = rng.standard_normal((2, k, n)) + 1j * rng.standard_normal((2, k, n))

    def ours(A, b):
        x = ns.solve_many(lx.MatrixLinearOperator(A), b, solver, batch=batch).value
        return jnp.sum(jnp.abs(x) ** 4)

    def theirs(A, b):
        return jnp.sum(jnp.abs(jnp.linalg.solve(A, b.T)) ** 4)

    def derivatives(function):
        return jax.jit(lambda *a: jax.jvp(jax.value_and_grad(function, (0, 1)), a, (dA, db)))(A, b)

    for actual, expected in zip(*map(jax.tree.leaves, map(derivatives, (ours, theirs))), strict=True):
        close(actual, expected, 1e-8)


def test_systems_of_one_pattern_by_vmap():
    """Where the values differ: `vmap` over them, and sets of right-hand sides within."""
    sparse = ns.as_sparse(POISSON)
    factors = np.array([1.0, 2.0, 4.0])
    values = np.asarray(sparse.values) * factors[:, None]
    b = RNG.standard_normal((3, 2, MATRIX.shape[0]))

    @jax.jit
    @jax.vmap
    def solve(values, b):
        operator = lx.TaggedLinearOperator(sparse.with_values(values), lx.positive_semidefinite_tag)
        return ns.solve_many(operator, b, SOLVER).value

    close(solve(values, b), np.stack([dense(f * MATRIX, one) for f, one in zip(factors, b, strict=True)]))


def test_trees_in_single_precision():
    structure = {"u": jax.ShapeDtypeStruct((2,), jnp.float32), "v": jax.ShapeDtypeStruct((), jnp.float32)}
    double = lx.FunctionLinearOperator(lambda x: jax.tree.map(lambda a: 2 * a, x), structure)
    vectors = {"u": np.ones((3, 2), np.float32), "v": np.ones(3, np.float32)}
    value = ns.solve_many(double, vectors, ns.BiCGStab(rtol=1e-5)).value
    assert value["u"].dtype == jnp.float32
    close(value["u"], np.full((3, 2), 0.5), 1e-4)
    close(value["v"], np.full(3, 0.5), 1e-4)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="`vectors` must have a leading axis"):
        ns.solve_many(POISSON, 1.0, SOLVER)
    with pytest.raises(ValueError, match="`vectors` must have the operator's structure"):
        ns.solve_many(POISSON, B[0], SOLVER)
    with pytest.raises(ValueError, match=r"`options\['y0'\]` must have"):
        ns.solve_many(POISSON, B, SOLVER, {"y0": B[0]})
    with pytest.raises(ValueError, match="`batch` must be"):
        ns.solve_many(POISSON, B, SOLVER, batch=0)
    with pytest.raises(TypeError, match="`solver` must be a linear solver"):
        ns.solve_many(POISSON, B, ns.CG)  # pyright: ignore[reportArgumentType]

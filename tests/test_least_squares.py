"""LSMR, LSQR, CGLS and the sketch that preconditions them, against dense pseudoinverses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp

import nsolve as ns

from .helpers import real_matrices
from .subjects.linear import normal

SOLVERS = [ns.LSMR, ns.LSQR, ns.CGLS]
SHAPES = {"tall": (14, 5), "wide": (5, 14), "square": (6, 6)}


@eqx.filter_jit
def program(matrix, b, rtol, y0, solver):
    """One compiled solve for all matrices of a shape; `solver` makes one from `rtol`."""
    options = {} if y0 is None else {"y0": y0}
    solution = lx.linear_solve(lx.MatrixLinearOperator(matrix), b, solver(rtol), options=options, throw=False)
    return solution.value, solution.result, solution.stats


def solve(matrix, b, solver, rtol=1e-10, y0=None):
    value, result, stats = program(jnp.asarray(matrix), jnp.asarray(b), jnp.asarray(rtol), y0, solver)
    r = b - matrix @ np.asarray(value)
    if np.all(np.isfinite(r)) and 1e-100 < np.linalg.norm(matrix) < 1e100:
        np.testing.assert_allclose(
            stats["residual_norm"], np.linalg.norm(r), atol=float(1e-14 * np.linalg.norm(b))
        )
        rounding = 1e-14 * np.linalg.norm(matrix) * (np.linalg.norm(b) + np.linalg.norm(matrix @ value))
        normal_norm = np.linalg.norm(matrix.conj().T @ r)
        np.testing.assert_allclose(
            stats["normal_residual_norm"], normal_norm, rtol=1e-3, atol=float(rounding)
        )
    return np.asarray(value), result, stats


def draw(shape, dtype=float, seed=0):
    rng = np.random.default_rng(seed)
    return np.asarray(normal(rng, shape, dtype)), np.asarray(normal(rng, shape[:1], dtype))


def close(actual, expected, tol=1e-8):
    assert np.linalg.norm(actual - expected) <= tol * np.linalg.norm(expected)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_the_pseudoinverse(solver, shape):
    """One program: well posed, at any scale, rank deficient, inconsistent, zero, NaN."""
    matrix, b = draw(SHAPES[shape])
    rank = min(SHAPES[shape])
    value, result, stats = solve(matrix, b, solver)
    close(value, np.linalg.pinv(matrix) @ b)
    assert result == lx.RESULTS.successful
    assert 0 < stats["num_steps"] <= 2 * rank and stats["num_matvecs"] >= 2 * stats["num_steps"]
    condition = np.linalg.cond(matrix)
    assert 0.3 * condition < stats["condition"] < 1.01 * condition
    for size, length in ((1e150, 1e-100), (1e-150, 1e-200)):
        value, result, _ = solve(size * matrix, length * b, solver)
        assert result == lx.RESULTS.successful
        close(value * (size / length), np.linalg.pinv(matrix) @ b)
    dependent = matrix.copy()
    if shape == "tall":
        dependent[:, 3] = 0
    else:
        dependent[3] = dependent[2]
    value, result, _ = solve(dependent, b, solver)
    assert result == lx.RESULTS.successful or (shape == "square" and result == lx.RESULTS.conlim)
    close(value, np.linalg.pinv(dependent) @ b)
    for matrix_, b_ in ((matrix, 0 * b), (0 * matrix, b)):
        value, result, _ = solve(matrix_, b_, solver)
        assert result == lx.RESULTS.successful and not value.any()
    _, result, stats = solve(matrix, b * np.nan, solver)
    assert result == lx.RESULTS.nonfinite_input and stats["reason"] == ns.linear.REASONS.nonfinite_vector
    _, result, stats = solve(np.where(matrix == matrix[1, 1], np.nan, matrix), b, solver)
    assert result == lx.RESULTS.nonfinite_input and stats["reason"] == ns.linear.REASONS.nonfinite_operator


@pytest.mark.parametrize("solver", SOLVERS)
def test_ill_conditioned_squares_are_not_taken_for_least_squares(solver):
    """`A^H r` is tiny there long before `r` is: only `r` counts, and what cannot be reached is refused."""
    n = 6
    rng = np.random.default_rng(1)
    u, v = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    for condition, results in ((1e7, ["successful"]), (1e13, ["conlim", "stagnation", "max_steps_reached"])):
        matrix = u * np.geomspace(1, 1 / condition, n) @ v
        b = u[:, -1] + u[:, 0]
        value, result, _ = solve(matrix, b, solver, rtol=1e-6)
        assert any(result == getattr(lx.RESULTS, name) for name in [*results, "successful"])
        if result == lx.RESULTS.successful:
            assert np.linalg.norm(b - matrix @ value) <= 1.001e-6 * np.linalg.norm(b)
        else:
            assert "successful" not in results
            assert np.linalg.norm(b - matrix @ value) <= np.linalg.norm(b)


def test_starts_and_steps():
    matrix, b = draw(SHAPES["tall"])
    exact = np.linalg.lstsq(matrix, b)[0]
    _, result, stats = solve(matrix, b, ns.LSMR, y0=jnp.asarray(exact))
    assert result == lx.RESULTS.successful and stats["num_steps"] <= 1
    value, result, _ = solve(matrix, b, ns.LSMR, y0=jnp.asarray(exact + 1))
    close(value, exact)
    _, result, stats = solve(matrix, b, lambda rtol: ns.LSMR(rtol, max_steps=3, history=True))
    assert result == lx.RESULTS.max_steps_reached and stats["num_steps"] == 3
    norms = np.asarray(stats["residual_norms"])
    assert norms.shape == (4,) and np.all(np.diff(norms) < 0) and norms[0] == np.linalg.norm(b)
    np.testing.assert_allclose(norms[-1], stats["residual_norm"], rtol=1e-10)
    # nearly consistent: rounding hides `A^H r`
    b = matrix @ np.ones(5) + 1e-9 * b
    value, result, _ = solve(matrix, b, ns.LSMR, rtol=1e-13)
    assert result == lx.RESULTS.successful
    close(value, np.linalg.lstsq(matrix, b)[0], 1e-13)


@pytest.mark.parametrize("dtype, shape", [(np.float32, "wide"), (np.complex64, "tall")])
def test_single_precision(dtype, shape):
    matrix, b = draw(SHAPES[shape], dtype)
    rtol = 1e-4
    value, result, _ = program(jnp.asarray(matrix), jnp.asarray(b), jnp.asarray(rtol), None, ns.LSMR)
    assert result == lx.RESULTS.successful and value.dtype == dtype
    close(np.asarray(value), np.linalg.pinv(matrix) @ b, 30 * rtol)


@pytest.mark.parametrize(
    "solver, dtype, shape",
    [(ns.LSMR, complex, "tall"), (ns.LSQR, complex, "wide"), (ns.CGLS, float, "square")],
)
def test_derivatives(solver, dtype, shape):
    """Forward and reverse, with a preconditioner, which the adjoint solve turns to the other side."""
    (matrix, b), (change, change_of_b) = draw(SHAPES[shape], dtype), draw(SHAPES[shape], dtype, 1)
    rank = min(SHAPES[shape])
    preconditioner = lx.MatrixLinearOperator(jnp.asarray(draw((rank, rank), dtype, 2)[0]))

    def objective(pseudo):
        return lambda matrix, b: jnp.sum(jnp.abs(pseudo(matrix, b)) ** 4)

    def ours(matrix, b):
        solver_ = solver(rtol=1e-13, preconditioner=preconditioner)
        return lx.linear_solve(lx.MatrixLinearOperator(matrix), b, solver_).value

    def dense(matrix, b):
        return np.linalg.pinv(matrix) @ b

    @jax.jit
    def derivatives(args, directions):
        _, tangent = jax.jvp(ours, args, directions)
        return tangent, jax.grad(objective(ours), argnums=(0, 1))(*args)

    args = jnp.asarray(matrix), jnp.asarray(b)
    tangent, gradients = derivatives(args, (jnp.asarray(change), jnp.asarray(change_of_b)))
    h = 1e-6
    moved = [dense(matrix + sign * h * change, b + sign * h * change_of_b) for sign in (1, -1)]
    close(np.asarray(tangent), (moved[0] - moved[1]) / (2 * h), 1e-7)
    slope = sum(np.sum(g * d).real for g, d in zip(gradients, (change, change_of_b), strict=True))
    difference = sum(sign * np.sum(np.abs(m) ** 4) for sign, m in zip((1, -1), moved, strict=True)) / (2 * h)
    np.testing.assert_allclose(slope, difference, rtol=1e-6)


@pytest.mark.parametrize("shape", ["tall", "wide"])
def test_damping(shape):
    matrix, b = draw(SHAPES[shape])
    damping, columns = 0.7, matrix.shape[1]
    inverse = np.linalg.solve(matrix.T @ matrix + damping**2 * np.eye(columns), matrix.T)
    operator = lx.MatrixLinearOperator(jnp.asarray(matrix))
    solver = ns.LSMR(rtol=1e-12, damping=damping)

    @jax.jit
    def damped(b, start):
        solution = lx.linear_solve(operator, b, solver, options={"y0": start}, throw=False)
        return solution.value, solution.stats["residual_norm"]

    value, residual_norm = damped(jnp.asarray(b), jnp.ones(columns))
    close(np.asarray(value), inverse @ b)
    stacked = np.concatenate([b - matrix @ value, -damping * np.asarray(value)])
    np.testing.assert_allclose(residual_norm, np.linalg.norm(stacked), rtol=1e-10)
    jacobian = jax.jit(jax.jacrev(lambda b: lx.linear_solve(operator, b, solver).value))(jnp.asarray(b))
    close(np.asarray(jacobian), inverse, 1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives_that_are_not_there_are_refused(shape):
    matrix, b = map(jnp.asarray, draw(SHAPES[shape]))

    def damped(matrix):
        return lx.linear_solve(lx.MatrixLinearOperator(matrix), b, ns.LSQR(1e-10, damping=0.5)).value

    with pytest.raises(ValueError, match="stacked system"):
        jax.eval_shape(lambda matrix: jax.jvp(damped, (matrix,), (matrix,)), matrix)


def test_vmap_and_trees():
    matrix, b = draw((9, 4))
    scales = jnp.asarray([1.0, 2.0, -0.5])

    def product(x, scale):
        y = scale * (jnp.asarray(matrix) @ jnp.concatenate([x["a"], x["b"].reshape(-1)]))
        return y[:3].reshape(3, 1), y[3:]

    structure = {"a": jax.ShapeDtypeStruct((2,), float), "b": jax.ShapeDtypeStruct((1, 2), float)}

    @jax.jit
    @jax.vmap
    def batch(scale):
        operator = lx.FunctionLinearOperator(lambda x: product(x, scale), structure)
        vector = (jnp.asarray(b[:3]).reshape(3, 1), jnp.asarray(b[3:]))
        return lx.linear_solve(operator, vector, ns.LSQR(1e-12), throw=False).value

    value = batch(scales)
    exact = np.linalg.lstsq(matrix, b)[0]
    for k, scale in enumerate(scales):
        close(np.concatenate([value["a"][k], value["b"][k].reshape(-1)]), exact / scale)


@pytest.mark.parametrize("sparse, wide", [(False, False), (True, True)])
def test_sketch(sparse, wide):
    matrix, b = draw((600, 12))
    matrix = matrix * np.geomspace(1, 1e-6, 12)
    b = (b[:12], matrix.T)[0] if wide else b
    matrix = matrix.T if wide else matrix
    values, make = jnp.asarray(matrix), lx.MatrixLinearOperator
    if sparse:
        operator = ns.SparseLinearOperator.from_scipy(sp.csr_array(matrix))
        values, make = operator.values, operator.with_values

    @jax.jit
    def sketched(values, key):
        inverse = ns.preconditioners.SketchedQR(key=key)(make(values))
        solver = ns.LSMR(rtol=1e-10, preconditioner=inverse)
        solution = lx.linear_solve(make(values), jnp.asarray(b), solver, throw=False)
        return solution.value, solution.result, solution.stats, inverse.as_matrix()

    value, result, stats, inverse = sketched(values, jax.random.key(1))
    assert result == lx.RESULTS.successful and stats["num_steps"] < 20
    close(np.asarray(value), np.linalg.pinv(matrix) @ b, 1e-7)
    product = inverse @ matrix if wide else matrix @ inverse
    assert stats["condition"] < 1.01 * np.linalg.cond(product) < 4
    other = sketched(values, jax.random.key(2))[-1]
    assert not np.allclose(other, inverse)
    # rows or columns that depend on each other: refused, traced or not
    matrix[(3,) if wide else (slice(None), 3)] = 0
    dependent = jnp.asarray(matrix.reshape(values.shape))
    _, result, stats, _ = sketched(dependent, jax.random.key(1))
    assert result == lx.RESULTS.nonfinite_input
    assert stats["reason"] == ns.linear.REASONS.nonfinite_preconditioner
    with pytest.raises(ValueError, match="depend on each other"):
        ns.preconditioners.SketchedQR()(make(dependent))


def test_refusals():
    matrix, b = map(jnp.asarray, draw(SHAPES["wide"]))
    operator = lx.MatrixLinearOperator(matrix)
    with pytest.raises(ValueError, match="nearest to a start"):
        lx.linear_solve(operator, b, ns.LSMR(1e-8), options={"y0": jnp.ones(14)})
    with pytest.raises(ValueError, match="must act on the equations of this 5 x 14"):
        lx.linear_solve(
            operator,
            b,
            ns.LSMR(1e-8, preconditioner=lx.IdentityLinearOperator(jax.ShapeDtypeStruct((14,), float))),
        )
    with pytest.raises(ValueError, match="damping"):
        ns.LSMR(1e-8, damping=jnp.ones(3))
    with pytest.raises(ValueError, match="oversampling"):
        ns.preconditioners.SketchedQR(oversampling=1)
    with pytest.raises(ValueError, match="may have the keys"):
        lx.linear_solve(operator, b, ns.LSMR(1e-8), options={"start": b})


def test_a_linear_programme():
    """Real, sparse, of full rank and ill-conditioned: with and without the sketch."""
    (path,) = [path for path in real_matrices() if path.stem == "lp_e226_transposed"] or [None]
    if path is None:
        pytest.skip("real matrices are not here")
    operator = ns.SparseLinearOperator.from_matrix_market(path)
    matrix = operator.as_scipy().toarray()
    b = np.random.default_rng(0).standard_normal(len(matrix))
    exact = np.linalg.lstsq(matrix, b)[0]
    solver = ns.LSMR(rtol=1e-9, preconditioner=ns.preconditioners.SketchedQR())
    solution = lx.linear_solve(operator, jnp.asarray(b), solver)
    close(np.asarray(solution.value), exact, 1e-6)

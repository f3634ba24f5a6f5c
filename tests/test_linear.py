"""What the laws do not say: counts of other libraries, bad input, drop-in use."""

import subprocess
import sys

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest
import scipy.integrate
import scipy.linalg
import scipy.optimize
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import nsolve as ns
from nsolve._frozen import freeze

PSD = lx.positive_semidefinite_tag


def grid_laplacian(n: int) -> sp.csr_array:
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    eye = sp.eye_array(n)
    return (sp.kron(line, eye) + sp.kron(eye, line)).tocsr()


def scipy_steps(solver, matrix, b, rtol) -> int:
    """SciPy's iterations until the residual of the iterate meets the rule."""
    count, needed = 0, None

    def callback(x):
        nonlocal count, needed
        count += 1
        if needed is None and np.linalg.norm(b - matrix @ x) <= rtol * np.linalg.norm(b):
            needed = count

    solver(matrix, b, rtol=rtol / 1e3, callback=callback)
    assert needed is not None
    return needed


@pytest.mark.parametrize(
    ("ours", "theirs", "shift"),
    [
        (ns.CG, spla.cg, 0.0),
        (ns.MINRES, spla.minres, 0.0),
        (ns.MINRES, spla.minres, -0.5),
        (ns.BiCGStab, spla.bicgstab, 0.0),
        (ns.FlexibleCG, spla.cg, 0.0),
    ],
)
def test_counts_equal_scipys(ours, theirs, shift):
    n = 12 if ours is ns.BiCGStab else 40  # rounding moves longer runs of BiCGStab by itself
    matrix = grid_laplacian(n) + shift * sp.eye_array(n * n)
    b = np.random.default_rng(0).standard_normal(n * n)
    tag = PSD if shift == 0 else lx.symmetric_tag
    operator = ns.SparseLinearOperator.from_scipy(matrix, tag)
    steps = int(lx.linear_solve(operator, jnp.asarray(b), ours(rtol=1e-8)).stats["num_steps"])
    assert abs(steps - scipy_steps(theirs, matrix, b, 1e-8)) <= 2


@pytest.mark.parametrize("factor", [1.0, 1.0j], ids=["real", "complex"])
def test_gmres_without_restart_is_minimal(factor):
    """A wrong rotation would be mended by restarts, at the cost of steps, and only be seen here."""
    noise = sp.random_array((144, 144), density=0.03, rng=np.random.default_rng(1))
    matrix = grid_laplacian(12) + factor * noise
    b = factor * np.random.default_rng(2).standard_normal(144)
    solver = ns.GMRES(rtol=1e-12, restart=40, max_steps=40, history=True)
    operator = ns.SparseLinearOperator.from_scipy(matrix)
    norms = lx.linear_solve(operator, jnp.asarray(b), solver, throw=False).stats["residual_norms"]
    basis, dense = b[:, None], matrix.toarray()
    for k in range(1, 41):  # least squares over the Krylov space itself, orthonormalised
        basis, _ = np.linalg.qr(basis)
        image = dense @ basis
        y, *_ = np.linalg.lstsq(image, b, rcond=None)
        assert abs(norms[k] - np.linalg.norm(b - image @ y)) <= 1e-8 * np.linalg.norm(b)
        basis = np.column_stack([basis, image[:, -1]])


@pytest.mark.parametrize("solver", [ns.CG, ns.MINRES, ns.BiCGStab, ns.GMRES])
def test_tolerances_are_honoured(solver):
    matrix = grid_laplacian(8)
    operator = ns.SparseLinearOperator.from_scipy(matrix, PSD)
    b = np.random.default_rng(3).standard_normal(64)
    for rtol in [10.0**-k for k in range(2, 14)]:
        # An array is traced; a float would be compiled in.
        solution = lx.linear_solve(operator, jnp.asarray(b), solver(rtol=jnp.asarray(rtol)))
        true = np.linalg.norm(b - matrix @ np.asarray(solution.value))
        assert true <= 1.001 * rtol * np.linalg.norm(b), f"rtol={rtol:.0e}"


def test_a_failure_is_raised_unless_told_not_to():
    operator = ns.SparseLinearOperator.from_scipy(grid_laplacian(8), PSD)
    for solver in (ns.CG(rtol=1e-8, max_steps=1), ns.GMRES(rtol=1e-8, max_steps=1)):
        with pytest.raises(eqx.EquinoxRuntimeError, match="All of `max_steps` were taken.*about 1e[+-]0"):
            lx.linear_solve(operator, jnp.ones(64), solver)
        solution = lx.linear_solve(operator, jnp.ones(64), solver, throw=False)
        assert solution.stats["reason"] == ns.linear.REASONS.max_steps


@pytest.mark.parametrize("solver", [ns.CG, ns.MINRES, ns.BiCGStab, ns.GMRES])
def test_more_than_the_precision_attains_is_said_in_our_words(solver):
    operator = ns.StencilLinearOperator.poisson((12, 12), 1 / 13, dtype=jnp.float32)
    with pytest.raises(eqx.EquinoxRuntimeError) as raised:
        lx.linear_solve(operator, jnp.ones((12, 12), jnp.float32), solver(rtol=1e-12))
    text = str(raised.value)
    assert f"{solver.__name__}: Rounding is the limit" in text and "float64" in text
    assert "about 1e-0" in text and "in float32" in text  # the residual that is attainable here
    assert "stagnation_iters" not in text and "restart" not in text


def test_a_fixed_number_of_steps_gives_the_last_iterate():
    matrix = grid_laplacian(8)
    operator = ns.SparseLinearOperator.from_scipy(matrix, PSD)
    b = np.random.default_rng(3).standard_normal(64)
    x, r = np.zeros(64), b
    p = r
    for _ in range(5):
        alpha = r @ r / (p @ (matrix @ p))
        x, r_next = x + alpha * p, r - alpha * (matrix @ p)
        p, r = r_next + (r_next @ r_next) / (r @ r) * p, r_next
    solution = lx.linear_solve(operator, jnp.asarray(b), ns.CG(rtol=0.0, max_steps=5), throw=False)
    np.testing.assert_allclose(solution.value, x, rtol=1e-12)


@pytest.mark.parametrize(
    ("solver", "preconditioner"),
    [
        (ns.CG, None),
        (ns.CG, ns.preconditioners.IncompleteCholesky()),
        (ns.MINRES, None),
        (ns.FlexibleCG, None),
        (ns.BiCGStab, None),
        (ns.GCRODR, None),
        (ns.GMRES, ns.preconditioners.IncompleteLU()),
    ],
)
def test_the_best_iterate_of_an_inconsistent_system(solver, preconditioner):
    """No-flux on every wall, and a source whose mean is 1e-7 of its size."""
    n = 24
    operator = ns.SparseLinearOperator.from_scipy(
        ns.StencilLinearOperator.diffusion(jnp.ones((n, n)), 1.0, "neumann").as_scipy(), PSD
    )
    f = np.random.default_rng(0).standard_normal(n * n)
    f -= f.mean()
    f += 1e-7 * np.linalg.norm(f) / n
    solution = lx.linear_solve(
        operator, jnp.asarray(f), solver(rtol=1e-9, preconditioner=preconditioner), throw=False
    )
    assert solution.result != lx.RESULTS.successful
    true = np.linalg.norm(f - operator.as_scipy() @ np.asarray(solution.value))
    assert true <= 1e-6 * np.linalg.norm(f)
    assert abs(solution.stats["residual_norm"] - true) <= 1e-2 * true


@pytest.mark.parametrize(
    "solver",
    [ns.SOR(rtol=1e-8), ns.CG(rtol=1e-8, preconditioner=ns.preconditioners.Jacobi())],
    ids=["sor", "cg+jacobi"],
)
def test_a_zero_on_the_diagonal_is_no_nonfinite_input(solver):
    matrix = sp.csr_array(np.diag([1.0, 1.0, 3.0]) + 0.5 * np.diag([1, 1], 1) + 0.5 * np.diag([1, 1], -1))
    operator = ns.SparseLinearOperator.from_scipy(matrix, PSD)
    zeroed = operator.with_values(jnp.where(jnp.arange(matrix.nnz) == 3, 0.0, operator.values))
    assert zeroed.as_scipy()[1, 1] == 0
    zeroed = lx.TaggedLinearOperator(zeroed, PSD)
    solution = lx.linear_solve(zeroed, jnp.ones(3), solver, throw=False)
    assert solution.result == lx.RESULTS.breakdown
    assert solution.stats["reason"] == ns.linear.REASONS.preconditioner_failed
    np.testing.assert_array_equal(solution.value, 0)
    with pytest.raises(eqx.EquinoxRuntimeError, match="zero on the diagonal"):
        lx.linear_solve(zeroed, jnp.ones(3), solver)


@pytest.mark.parametrize(
    "start",
    [
        lambda: jnp.full(36, 1.0),
        lambda: jnp.broadcast_to(1.0, (36,)),
        lambda: jnp.where(jnp.arange(36) > 3, 1.0, 0.0),
        lambda: np.zeros(36, int),
        lambda: np.ones(36, np.float32),
    ],
)
def test_starts_of_every_kind(start):
    operator = ns.SparseLinearOperator.from_scipy(grid_laplacian(6), PSD)
    b = jnp.full(36, 1.0)
    solution = lx.linear_solve(operator, b, ns.CG(rtol=1e-10), options={"y0": start()})
    assert np.linalg.norm(b - operator.mv(solution.value)) <= 1e-10 * 6.0
    many = ns.solve_sequence(lambda _: operator, jnp.zeros(2), jnp.full((2, 36), 1.0), ns.CG(rtol=1e-10))
    np.testing.assert_allclose(many.value[1], solution.value, atol=1e-9)


def test_tolerances_take_no_part_in_derivatives():
    operator = ns.SparseLinearOperator.from_scipy(grid_laplacian(6), PSD)

    def total(rtol):
        return jnp.sum(lx.linear_solve(operator, jnp.ones(36), ns.CG(rtol=rtol)).value)

    assert jax.grad(total)(1e-8) == 0


def test_atol_is_absolute():
    operator = ns.SparseLinearOperator.from_scipy(grid_laplacian(8), PSD)
    b = jnp.asarray(1e3 * np.random.default_rng(9).standard_normal(64))
    solution = lx.linear_solve(operator, b, ns.CG(rtol=0.0, atol=1.0))
    assert 1e-4 < solution.stats["residual_norm"] <= 1.0


def test_a_tolerance_below_rounding_stagnates():
    """Ill-conditioned: the recursion would go on to any tolerance; the residual does not."""
    n = 60
    matrix = sp.diags_array(10.0 ** np.linspace(0, 12, n)).tocsr()
    rotation, _ = np.linalg.qr(np.random.default_rng(4).standard_normal((n, n)))
    dense = rotation @ matrix.toarray() @ rotation.T
    operator = lx.MatrixLinearOperator(jnp.asarray((dense + dense.T) / 2), PSD)
    b = jnp.asarray(np.random.default_rng(5).standard_normal(n))
    solution = lx.linear_solve(operator, b, ns.CG(rtol=1e-14, max_steps=50_000), throw=False)
    assert solution.result != lx.RESULTS.successful
    true = jnp.linalg.norm(b - operator.mv(solution.value))
    assert abs(solution.stats["residual_norm"] - true) <= 1e-2 * true


def test_a_preconditioner_that_is_not_definite_breaks_down():
    operator = ns.SparseLinearOperator.from_scipy(grid_laplacian(6), PSD)
    signs = jnp.where(jnp.arange(36) % 3 == 0, -1.0, 1.0)
    wrong = lx.TaggedLinearOperator(lx.DiagonalLinearOperator(signs), PSD)
    b = jnp.ones(36).at[0].set(5.0)
    for solver in (ns.CG(rtol=1e-8), ns.MINRES(rtol=1e-8)):
        solution = lx.linear_solve(operator, b, solver, options={"preconditioner": wrong}, throw=False)
        if solution.result == lx.RESULTS.successful:
            assert jnp.linalg.norm(b - operator.mv(solution.value)) <= 1.001e-8 * jnp.linalg.norm(b)
        else:
            assert solution.result == lx.RESULTS.breakdown


def test_nan_in_a_preconditioner_fails_closed():
    operator = ns.SparseLinearOperator.from_scipy(grid_laplacian(6), PSD)
    wrong = lx.TaggedLinearOperator(lx.DiagonalLinearOperator(jnp.ones(36).at[3].set(jnp.nan)), PSD)
    solution = lx.linear_solve(
        operator, jnp.ones(36), ns.CG(rtol=1e-8), options={"preconditioner": wrong}, throw=False
    )
    assert solution.result == lx.RESULTS.nonfinite_input


def test_one_bad_system_in_a_batch_spoils_no_other():
    operator = ns.SparseLinearOperator.from_scipy(grid_laplacian(6), PSD)
    bs = jnp.asarray(np.random.default_rng(6).standard_normal((8, 36))).at[3, 5].set(jnp.nan)

    def solve(b):
        solution = lx.linear_solve(operator, b, ns.CG(rtol=1e-8), throw=False)
        return solution.value, solution.result == lx.RESULTS.successful

    values, good = jax.jit(jax.vmap(solve))(bs)
    assert good.tolist() == [k != 3 for k in range(8)]
    expected = np.linalg.solve(operator.as_matrix(), np.delete(bs, 3, 0).T).T
    np.testing.assert_allclose(np.delete(values, 3, 0), expected, rtol=1e-5)


def test_a_function_that_reads_a_rebound_global():
    scale = {"now": 2.0}

    def product(x):
        return scale["now"] * x

    structure = jax.ShapeDtypeStruct((4,), float)
    for value in (2.0, 5.0, 10.0):
        scale["now"] = value
        operator = ns.function_operator(product, structure, PSD)
        for solver in (ns.CG(rtol=1e-10), ns.GMRES(rtol=1e-10)):
            solution = lx.linear_solve(operator, jnp.ones(4), solver)
            np.testing.assert_allclose(solution.value, 1 / value, rtol=1e-9)


def test_solvers_serve_optimistix():
    """Newton's method and implicit differentiation on a nonlinear diffusion problem."""
    n = 30
    matrix = (n + 1) ** 2 * (2 * jnp.eye(n) - jnp.eye(n, k=1) - jnp.eye(n, k=-1))

    def residual(u, load):
        return matrix @ u + u**3 - load

    linear = ns.GMRES(rtol=1e-12, restart=n)
    newton = optx.Newton(rtol=1e-10, atol=1e-10, linear_solver=linear)
    adjoint = optx.ImplicitAdjoint(linear_solver=linear)

    def energy(load):
        return jnp.sum(optx.root_find(residual, newton, jnp.zeros(n), load, adjoint=adjoint).value ** 2)

    load = 50 * jnp.ones(n)
    direction = jnp.asarray(np.random.default_rng(7).standard_normal(n))
    h = 1e-4
    difference = (energy(load + h * direction) - energy(load - h * direction)) / (2 * h)
    np.testing.assert_allclose(jax.grad(energy)(load) @ direction, difference, rtol=1e-6)


def test_solvers_serve_implicit_euler():
    """`VeryChord` keeps the state of one solve for a whole step."""
    n, dt = 12, 0.01
    matrix = (n + 1) ** 2 * (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1))
    start = np.sin(np.pi * np.arange(1, n + 1) / (n + 1))
    finder = dfx.VeryChord(rtol=1e-5, atol=1e-7, linear_solver=ns.GMRES(rtol=1e-8))
    term = dfx.ODETerm(lambda t, u, args: -(matrix @ u) - u**3)
    solution = dfx.diffeqsolve(term, dfx.ImplicitEuler(root_finder=finder), 0.0, 0.1, dt, jnp.asarray(start))

    expected = start
    for _ in range(10):
        before = expected
        for _ in range(10):  # Newton's method
            residual = expected - before + dt * (matrix @ expected + expected**3)
            slope = np.eye(n) + dt * (matrix + np.diag(3 * expected**2))
            expected = expected - np.linalg.solve(slope, residual)
    np.testing.assert_allclose(solution.ys[0], expected, rtol=1e-5)


@pytest.mark.parametrize("method", [optx.GaussNewton, optx.LevenbergMarquardt])
def test_solvers_serve_least_squares(method):
    """Their systems are tall: `lx.Normal` hands CG the normal equations."""
    time = np.linspace(0, 1, 20)
    data = 2 * np.exp(-3 * time) + 0.01 * np.sin(40 * time)

    def residual(x, args):
        return x[0] * jnp.exp(-x[1] * time) - data

    solver = method(rtol=1e-8, atol=1e-8, linear_solver=lx.Normal(ns.CG(rtol=1e-10)))
    fitted = optx.least_squares(residual, solver, jnp.ones(2)).value
    expected, _ = scipy.optimize.curve_fit(lambda t, a, b: a * np.exp(-b * t), time, data, p0=[1, 1])
    np.testing.assert_allclose(fitted, expected, rtol=1e-6)


def test_a_state_holds_arrays_only_and_is_equal_from_trace_to_trace():
    """As `Chord`, `VeryChord` and the loops around them ask."""

    def state(x):
        def f(x, args):
            return jax.jit(jnp.tanh)(2 * x)

        return ns.GMRES(rtol=1e-8).init(lx.JacobianLinearOperator(f, x, None), {})

    x = jnp.array([0.5, 0.25])
    first, second = state(x), state(2 * x)
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(jax.lax.stop_gradient(first)))
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert hash(jax.tree.structure(first)) == hash(jax.tree.structure(second))
    np.testing.assert_allclose(first.operator.as_matrix(), np.diag(2 / np.cosh(2 * x) ** 2), rtol=1e-12)
    np.testing.assert_allclose(second.operator.as_matrix(), np.diag(2 / np.cosh(4 * x) ** 2), rtol=1e-12)


def test_jaxprs_are_equal_only_where_they_compute_the_same():
    two = jnp.full(3, 2.0)

    def frozen(function):
        return freeze(eqx.filter_closure_convert(function, two))[1]

    def times(number):
        return lambda x: number * two * x

    assert frozen(lambda x: two * x) == frozen(lambda y: two * y)
    assert frozen(times(3.0)) == frozen(times(3.0)) != frozen(times(4.0))
    assert frozen(jax.jit(lambda x: two * x)) != frozen(jax.jit(lambda x: two + x))
    for other in (
        lambda x: two + x,  # another primitive
        lambda x: x * two * x,  # more of them
        lambda x: x * two,  # other operands
        lambda x: (two * x).astype(jnp.float32),  # another dtype
    ):
        assert frozen(lambda x: two * x) != frozen(other)


def test_chord_keeps_a_state():
    """Against the root, and its derivative in closed form."""

    def residual(y, a):
        return {"u": y["u"] + 0.1 * jnp.tanh(y["v"]) - a, "v": y["v"] - 0.2 * jnp.sin(y["u"])}

    linear = ns.GMRES(rtol=1e-12)
    adjoint = optx.ImplicitAdjoint(linear_solver=linear)
    start = {"u": jnp.ones(2), "v": jnp.zeros(2)}

    @jax.jit
    @jax.value_and_grad
    def total(a):
        solver = optx.Chord(rtol=1e-10, atol=1e-10, linear_solver=linear)
        root = optx.root_find(residual, solver, start, a, adjoint=adjoint).value
        return jnp.sum(root["u"] ** 2)

    value, slope = total(jnp.asarray(0.7))
    u = scipy.optimize.brentq(lambda u: u + 0.1 * np.tanh(0.2 * np.sin(u)) - 0.7, 0, 1, xtol=1e-14)
    inner = 0.02 * np.cos(u) / np.cosh(0.2 * np.sin(u)) ** 2
    np.testing.assert_allclose(value, 2 * u**2, rtol=1e-9)
    np.testing.assert_allclose(slope, 4 * u / (1 + inner), rtol=1e-8)


def test_an_implicit_runge_kutta_method_with_its_default_root_finder():
    """The jacobian is kept from stage to stage, which compares states of several traces."""

    def field(t, y, args):
        return jnp.array([-50.0, -2.0]) * y + jnp.array([0.0, 1.0]) * jnp.tanh(y[0])

    finder = dfx.VeryChord(rtol=1e-10, atol=1e-12, linear_solver=ns.GMRES(rtol=1e-12))
    y0 = jnp.array([1.0, 1.0])
    solution = dfx.diffeqsolve(
        dfx.ODETerm(field),
        dfx.Kvaerno3(root_finder=finder),
        0.0,
        1.0,
        0.05,
        y0,
        stepsize_controller=dfx.PIDController(rtol=1e-8, atol=1e-10),
    )
    assert solution.ys is not None
    exact = scipy.integrate.solve_ivp(
        lambda t, y: [-50 * y[0], -2 * y[1] + np.tanh(y[0])], (0, 1), [1, 1], "Radau", rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(solution.ys[-1], exact.y[:, -1], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ns.CG(rtol=-1.0), r"`CG\(rtol=...\)` must be finite and not negative, but is -1.0"),
        (lambda: ns.GMRES(rtol=1e-3, atol=float("nan")), r"`GMRES\(atol=...\)` must be finite"),
        (lambda: ns.MINRES(rtol=0.0), "never stops"),
        (lambda: ns.CG(rtol=1e-3, max_steps=-1), r"`CG\(max_steps=...\)`"),
        (lambda: ns.CG(rtol=1e-3, max_steps=1.5), r"`CG\(max_steps=...\)`"),
        (lambda: ns.GMRES(rtol=1e-3, restart=0), r"`GMRES\(restart=...\)`"),
        (lambda: ns.FlexibleCG(rtol=1e-3, truncation=0), r"`FlexibleCG\(truncation=...\)`"),
        (lambda: ns.Chebyshev(rtol=1e-3, bounds=(2.0, 1.0)), "0 < smallest < largest"),
        (lambda: ns.SOR(rtol=1e-3, omega=2.5), "omega"),
        (lambda: ns.SOR(rtol=1e-3, sweep="sideways"), "sweep"),
        (lambda: ns.preconditioners.Chebyshev(degree=0), "degree"),
    ],
)
def test_bad_fields_are_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_bad_systems_are_named():
    square = ns.SparseLinearOperator.from_scipy(grid_laplacian(3), PSD)
    wide = ns.SparseLinearOperator.from_scipy(np.ones((2, 3)))
    plain = ns.SparseLinearOperator.from_scipy(np.triu(np.ones((9, 9))))
    b = jnp.ones(9)
    with pytest.raises(ValueError, match="square systems"):
        lx.linear_solve(wide, jnp.ones(2), ns.GMRES(rtol=1e-8))
    with pytest.raises(ValueError, match="(?i)structure"):
        lx.linear_solve(square, jnp.ones(8), ns.CG(rtol=1e-8))
    with pytest.raises(ValueError, match="not tagged so"):
        lx.linear_solve(plain, b, ns.CG(rtol=1e-8))
    with pytest.raises(ValueError, match="not tagged so"):
        lx.linear_solve(plain, b, ns.MINRES(rtol=1e-8))
    with pytest.raises(ValueError, match="-A x = -b"):
        minus = ns.SparseLinearOperator.from_scipy(-grid_laplacian(3), lx.negative_semidefinite_tag)
        lx.linear_solve(minus, b, ns.CG(rtol=1e-8))
    with pytest.raises(ValueError, match="positive definite preconditioner"):
        lx.linear_solve(square, b, ns.CG(rtol=1e-8, preconditioner=ns.preconditioners.IncompleteLU()))
    with pytest.raises(ValueError, match=r"\['precondition'\]"):
        lx.linear_solve(square, b, ns.CG(rtol=1e-8), options={"precondition": None})
    with pytest.raises(ValueError, match="must act on"):
        lx.linear_solve(square, b, ns.GMRES(rtol=1e-8, preconditioner=lx.IdentityLinearOperator(jnp.ones(4))))
    with pytest.raises(TypeError, match="constructor such as .* or a linear operator"):
        ns.CG(rtol=1e-8, preconditioner=3)
    with pytest.raises(ValueError, match="y0"):
        lx.linear_solve(square, b, ns.CG(rtol=1e-8), options={"y0": jnp.ones(8)})


def test_a_zero_row_is_refused_or_reported():
    matrix = grid_laplacian(3).tolil()
    matrix[4, :] = 0
    matrix[:, 4] = 0
    operator = ns.SparseLinearOperator.from_scipy(matrix.tocsr(), PSD)
    for solver in (ns.CG(rtol=1e-8), ns.MINRES(rtol=1e-8), ns.GMRES(rtol=1e-8), ns.BiCGStab(rtol=1e-8)):
        assert lx.linear_solve(operator, jnp.ones(9), solver, throw=False).result != lx.RESULTS.successful
    with pytest.raises(ValueError, match="row 4|entry 4"):
        ns.preconditioners.Jacobi()(operator)


def test_chebyshev_with_bounds_given_and_bounds_too_low():
    operator = ns.SparseLinearOperator.from_scipy(grid_laplacian(10), PSD)
    eigenvalues = np.linalg.eigvalsh(operator.as_matrix())
    b = jnp.ones(100)
    bounds = (float(eigenvalues[0]), float(eigenvalues[-1]))
    exact = lx.linear_solve(operator, b, ns.Chebyshev(rtol=1e-8, bounds=bounds))
    guessed = lx.linear_solve(operator, b, ns.Chebyshev(rtol=1e-8))
    assert int(exact.stats["num_steps"]) <= 1.2 * int(guessed.stats["num_steps"])
    diverging = ns.Chebyshev(rtol=1e-8, bounds=(0.1, 0.6 * bounds[1]))
    assert lx.linear_solve(operator, b, diverging, throw=False).result == lx.RESULTS.breakdown


def test_flexible_cg_with_a_varying_preconditioner():
    """An inner CG solve is not a linear operator: CG may fail with it, the flexible method does not."""
    operator = ns.SparseLinearOperator.from_scipy(grid_laplacian(16), PSD)
    inner = ns.CG(rtol=0.2, max_steps=20)
    approximate = lx.FunctionLinearOperator(
        lambda r: lx.linear_solve(operator, r, inner, throw=False).value, operator.in_structure()
    )
    b = jnp.asarray(np.random.default_rng(8).standard_normal(256))
    for solver in (ns.FlexibleCG(rtol=1e-9, truncation=5), ns.FGMRES(rtol=1e-9)):
        solution = lx.linear_solve(operator, b, solver, options={"preconditioner": approximate})
        assert solution.stats["num_steps"] < 25
        assert jnp.linalg.norm(b - operator.mv(solution.value)) <= 1.001e-9 * jnp.linalg.norm(b)


@pytest.mark.parametrize("exponent", [-1020, -500, 500, 1020])
def test_extreme_right_hand_sides(exponent):
    """Squares of such entries underflow or overflow; a zero solution must not pass for one."""
    operator = ns.SparseLinearOperator.from_scipy(grid_laplacian(6), PSD)
    b = jnp.asarray(np.random.default_rng(1).uniform(0.5, 1, 36))
    reference = lx.linear_solve(operator, b, ns.CG(rtol=1e-10)).value
    factor = np.ldexp(1.0, exponent)
    solution = lx.linear_solve(operator, factor * b, ns.CG(rtol=1e-10), throw=False)
    assert solution.result == lx.RESULTS.successful
    np.testing.assert_allclose(solution.value / factor, reference, rtol=1e-9)
    unrolled = ns.unroll(ns.CG(rtol=1e-10), operator, factor * b, 40)
    assert unrolled.result == lx.RESULTS.successful
    np.testing.assert_allclose(unrolled.value / factor, reference, rtol=1e-9)


def test_a_solution_below_the_smallest_number_is_not_zero():
    operator = lx.MatrixLinearOperator(jnp.full((1, 1), 1e200), PSD)
    solution = lx.linear_solve(operator, jnp.full(1, 1e-200), ns.CG(rtol=1e-8), throw=False)
    assert solution.result == lx.RESULTS.breakdown


def test_options_count_with_a_state_made_before():
    operator = ns.SparseLinearOperator.from_scipy(grid_laplacian(12), PSD)
    solver, b = ns.CG(rtol=1e-10), jnp.asarray(np.random.default_rng(2).standard_normal(144))
    state = solver.init(operator, {})
    better = {"preconditioner": ns.preconditioners.IncompleteCholesky()(operator)}
    plain = lx.linear_solve(operator, b, solver, state=state)
    helped = lx.linear_solve(operator, b, solver, options=better, state=state)
    assert helped.stats["num_steps"] < plain.stats["num_steps"]
    with pytest.raises(ValueError, match="precondition"):
        lx.linear_solve(operator, b, solver, options={"precondition": 1}, state=state)


def test_scaled_and_negated_matrices_are_factorised():
    minus = ns.SparseLinearOperator.from_scipy(-grid_laplacian(6), lx.negative_semidefinite_tag)
    b = jnp.asarray(np.random.default_rng(3).standard_normal(36))
    solver = ns.CG(rtol=1e-10, preconditioner=ns.preconditioners.IncompleteCholesky())
    doubled = lx.TaggedLinearOperator(2.0 * (-minus), PSD)  # lineax does not know the factor's sign
    x = lx.linear_solve(doubled, b, solver).value
    np.testing.assert_allclose(-2 * minus.as_matrix() @ x, b, atol=1e-8)


def test_large_banded_systems_stay_banded():
    """lineax's tridiagonal solver reads three bands; assembling this matrix would take 80 GB."""
    n = 100_000
    matrix = sp.diags_array([-1.0, 2.5, -1.2], offsets=[-1, 0, 1], shape=(n, n))
    operator = ns.SparseLinearOperator.from_scipy(matrix)
    x = lx.linear_solve(operator, jnp.ones(n), lx.Tridiagonal()).value
    np.testing.assert_allclose(matrix @ np.asarray(x), 1.0, rtol=1e-10)
    diagonal = lx.DiagonalLinearOperator(jnp.arange(1.0, n + 1))
    inverse = ns.preconditioners.IncompleteLU()(diagonal)
    np.testing.assert_allclose(inverse.mv(jnp.ones(n)), 1 / np.arange(1.0, n + 1), rtol=1e-12)


def test_what_only_has_products_has_no_diagonal_to_read():
    operator = ns.function_operator(lambda x: 2 * x, jax.ShapeDtypeStruct((4,), float), PSD)
    with pytest.raises(ValueError, match="only has products"):
        ns.preconditioners.Jacobi()(operator)


def test_unroll_names_a_vector_that_does_not_fit():
    operator = ns.SparseLinearOperator.from_scipy(grid_laplacian(3), PSD)
    with pytest.raises(ValueError, match="`vector` must have the operator's structure"):
        ns.unroll(ns.CG(rtol=1e-8), operator, jnp.ones(1), 3)
    with pytest.raises(ValueError, match="y0"):
        ns.unroll(ns.CG(rtol=1e-8), operator, jnp.ones(9), 3, {"y0": jnp.ones(3)})


@pytest.mark.parametrize("periodic", [(False, True), (True, True)])
def test_multigrid_keeps_smooth_modes_in_single_precision(periodic):
    shape = (128, 32)
    laplacian = {(0, 0): 4.0, (1, 0): -1.0, (-1, 0): -1.0, (0, 1): -1.0, (0, -1): -1.0}
    laplacian = {offset: np.float32(value) for offset, value in laplacian.items()}
    if all(periodic):
        laplacian[0, 0] += np.float32(5e-4)  # a long implicit heat step
    operator = ns.StencilLinearOperator.from_stencil(laplacian, shape, periodic, PSD)
    b = jnp.asarray(np.random.default_rng(4).standard_normal(shape), jnp.float32)
    solver = ns.CG(rtol=1e-4, preconditioner=ns.preconditioners.Multigrid(), max_steps=30)
    assert lx.linear_solve(operator, b, solver, throw=False).result == lx.RESULTS.successful


#: A solve with every kind of number in the mode in which users are, and tests are not.
IN_DEFAULT_MODE = """
import jax
jax.config.update("jax_enable_x64", True)
import lineax as lx, numpy as np, nsolve as ns

matrix = np.array([[4, 1, 0], [1, 3, 1], [0, 1, 2]], np.complex64)
operator = ns.SparseLinearOperator.from_scipy(matrix, lx.positive_semidefinite_tag)
b = np.array([1, 2, 4], np.complex64)
for solver in (
    ns.CG(np.float64(1e-6), recycle=2), ns.MINRES(jax.numpy.float64(1e-6)), ns.BiCGStab(1e-6),
    ns.GCRODR(1e-6, restart=2, recycle=1), ns.Chebyshev(1e-6, bounds=(1, np.float64(5))),
):
    solution = lx.linear_solve(operator, jax.numpy.asarray(b), solver)
    assert solution.value.dtype == np.complex64
    np.testing.assert_allclose(solution.value, np.linalg.solve(matrix, b), rtol=1e-4)
"""


def test_the_default_promotion_of_dtypes_serves_as_well():
    done = subprocess.run([sys.executable, "-c", IN_DEFAULT_MODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def lanczos_ratio(matrix, inverse, b, steps) -> float:
    """Of the Ritz values of `inverse^(1/2) matrix inverse^(1/2)`, the largest over the smallest."""
    half = scipy.linalg.sqrtm(inverse)
    symmetric, v = half @ matrix @ half, half @ b
    basis = np.empty((b.size, 0), matrix.dtype)
    for _ in range(steps):
        v = v - basis @ (basis.conj().T @ v)
        v = v - basis @ (basis.conj().T @ v)
        basis = np.column_stack([basis, v / np.linalg.norm(v)])
        v = symmetric @ basis[:, -1]
    values = np.linalg.eigvalsh(basis.conj().T @ symmetric @ basis)
    return values[-1] / values[0]


def ill_conditioned(dtype=np.float64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    q, _ = np.linalg.qr(rng.standard_normal((40, 40)) + 1j * rng.standard_normal((40, 40)))
    q = q if np.issubdtype(dtype, np.complexfloating) else np.linalg.qr(q.real)[0]
    matrix = (q * np.logspace(-4, 0, 40)) @ q.conj().T
    return ((matrix + matrix.conj().T) / 2).astype(dtype), rng.standard_normal(40).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
@pytest.mark.parametrize("steps", [1, 7])
def test_condition_of_cg_is_that_of_its_ritz_values(dtype, steps):
    matrix, b = ill_conditioned(dtype)
    weights = np.linspace(1, 3, 40).astype(np.finfo(dtype).dtype)
    preconditioner = lx.TaggedLinearOperator(
        lx.DiagonalLinearOperator(jnp.asarray(weights).astype(dtype)), PSD
    )
    operator = lx.MatrixLinearOperator(jnp.asarray(matrix), PSD)
    solver = ns.CG(rtol=0.0, max_steps=steps, condition=True, preconditioner=preconditioner)
    stats = lx.linear_solve(operator, jnp.asarray(b), solver, throw=False).stats
    expected = lanczos_ratio(matrix.astype(complex), np.diag(weights).astype(float), b, steps)
    assert stats["condition"].dtype == np.finfo(dtype).dtype
    np.testing.assert_allclose(stats["condition"], expected, rtol=1e-3 if dtype == np.float32 else 1e-5)


def test_condition_of_a_solve_that_converged_is_the_operators():
    matrix, b = ill_conditioned()
    # The restart, after the recursion has met what the residual has not, splits the coefficients.
    operator = lx.MatrixLinearOperator(jnp.asarray(matrix), PSD)

    @jax.vmap
    def conditions(b):
        solvers = ns.CG(rtol=1e-13, condition=True), ns.MINRES(rtol=1e-13, condition=True)
        return [lx.linear_solve(operator, b, solver, throw=False).stats["condition"] for solver in solvers]

    of_cg, of_minres = conditions(jnp.stack([jnp.asarray(b), 1e-200 * jnp.asarray(b), jnp.zeros(40)]))
    np.testing.assert_allclose(of_cg[:2], np.linalg.cond(matrix), rtol=1e-4)
    assert np.isnan(of_cg[2]) and np.isnan(of_minres[2])
    assert np.all(of_minres[:2] <= np.linalg.cond(matrix) * (1 + 1e-9))
    assert np.all(of_minres[:2] >= np.linalg.cond(matrix) / 10)


def test_condition_of_minres_sees_the_smallest_of_both_signs():
    matrix, b = ill_conditioned()
    matrix = matrix - 0.1003 * np.eye(40)
    operator = lx.MatrixLinearOperator(jnp.asarray(matrix), lx.symmetric_tag)
    solver = ns.MINRES(rtol=1e-10, condition=True)
    condition = lx.linear_solve(operator, jnp.asarray(b), solver).stats["condition"]
    true = np.linalg.cond(matrix)
    assert true / 10 <= condition <= true * (1 + 1e-9)


def test_condition_is_not_for_recycling():
    with pytest.raises(ValueError, match=r"CG\(condition=True\).*recycle"):
        ns.CG(rtol=1e-8, condition=True, recycle=3)

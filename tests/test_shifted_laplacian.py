"""Multigrid for waves: its operators against dense formulas, and steps that unpreconditioned solvers do not
reach."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import nsolve as ns
from nsolve.preconditioners import ShiftedLaplacian
from nsolve.preconditioners.multigrid import shifted_laplacian as module

SHAPE = (13, 16)


def wedge(shape):
    """Slowness of three layers whose speeds differ by up to two, with slanted interfaces."""
    x, y = np.meshgrid(*((np.arange(n) + 0.5) / n for n in shape), indexing="ij")
    return 1 / np.where(y < 0.4 + 0.2 * x, 1.5, np.where(y < 0.8 - 0.1 * x, 1.0, 2.0))


def waves(shape=SHAPE, points=12, width=6, dtype=None):
    """So many points a wavelength where waves are shortest."""
    count = (shape[0] + 1) / points
    return ns.gallery.helmholtz(0, shape, count, wedge(shape), ns.gallery.sponge(shape, width), dtype)


def splines(n):
    """Interpolation from every second point by its definition: B-splines at the points kept."""
    matrix = np.zeros((n, n // 2))
    for j in range(n // 2):
        for step, weight in zip(range(-2, 3), (1 / 8, 1 / 2, 3 / 4, 1 / 2, 1 / 8), strict=True):
            if 0 <= 2 * j + 1 + step < n:
                matrix[2 * j + 1 + step, j] = weight
    return matrix


def dense_inverse(problem, shift, levels):
    """The cycle of dense matrices, for symmetric operators."""
    a = np.asarray(problem.operator.as_matrix())
    a = a + 1j * shift * np.diag(np.ravel(problem.parts["wave_number"]) ** 2)

    def inverse(a, shape, levels):
        if levels == 1:
            return np.linalg.inv(a)
        d = 1 / np.diag(a)
        largest = (abs(a).sum(1) * abs(d)).max()
        found = np.zeros_like(a)
        roots = 0.6 + 0.4 * np.sqrt(0.5) * np.array([1, -1])
        smoothing = np.eye(len(a))
        for root in roots:
            sweep = np.diag(d) / (root * largest)
            found = found + sweep @ (np.eye(len(a)) - a @ found)
            smoothing = smoothing @ (np.eye(len(a)) - sweep @ a)
        p = np.kron(*map(splines, shape))
        coarse = inverse(p.T @ a @ p, tuple(n // 2 for n in shape), levels - 1)
        found = found + p @ coarse @ p.T @ (np.eye(len(a)) - a @ found)
        for root in roots:
            found = found + np.diag(d) / (root * largest) @ (np.eye(len(a)) - a @ found)
        return found

    return inverse(a, problem.operator.shape, levels)


def dense(operator):
    return np.asarray(eqx.filter_jit(lambda o: o.as_matrix())(operator))


@eqx.filter_jit
def solved(operator, vector, solver, preconditioner=None):
    options = {} if preconditioner is None else {"preconditioner": preconditioner}
    return lx.linear_solve(operator, vector, solver, options=options, throw=False)


@pytest.mark.parametrize("shape", [(29,), SHAPE, (8, 9, 8)])
def test_coarse_operators_are_galerkin_products(shape):
    problem = ns.gallery.helmholtz(0, shape, 1.5, 1.0, ns.gallery.sponge(shape, 6))
    inverse = ShiftedLaplacian(0.1, levels=3)(problem.operator)
    a = np.asarray(problem.operator.as_matrix())
    a = a + 0.1j * np.diag(np.broadcast_to(problem.parts["wave_number"] ** 2, shape).ravel())
    for level in inverse.levels:
        np.testing.assert_allclose(level.operator.as_matrix(), a, atol=1e-12 * abs(a).max())
        p = np.ones((1, 1))
        for n in level.operator.shape:
            p = np.kron(p, splines(n) if n >= 8 else np.eye(n))
        a = p.T @ a @ p
    coarse = np.linalg.inv(a)
    np.testing.assert_allclose(inverse.coarse.as_matrix(), coarse, atol=1e-9 * abs(coarse).max())


def test_it_is_the_cycle_of_dense_matrices_symmetric_and_conjugate():
    problem = waves((17, 16))
    square = problem.parts["wave_number"] ** 2
    inverse = ShiftedLaplacian(0.3, 3, square)(problem.operator)
    assert [level.operator.shape for level in inverse.levels] == [(17, 16), (8, 8)]
    matrix, expected = dense(inverse), dense_inverse(problem, 0.3, 3)
    scale = abs(expected).max()
    np.testing.assert_allclose(matrix, expected, atol=1e-11 * scale)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12 * scale)
    assert lx.is_symmetric(inverse) and not lx.is_positive_semidefinite(inverse)
    np.testing.assert_allclose(dense(inverse.conj()), matrix.conj(), atol=1e-14 * scale)
    assert abs(matrix - dense_inverse(problem, 0.2, 3)).max() > 1e-3 * scale


def test_transpose_of_what_is_not_symmetric():
    operator = waves((17, 16)).operator
    wind = {(0, 0): 0j, (1, 0): 30.0 + 0j, (-1, 0): -30.0 + 0j}
    operator = operator + ns.StencilLinearOperator.from_stencil(wind, (17, 16))
    inverse = ShiftedLaplacian(levels=3)(operator)
    assert not lx.is_symmetric(inverse)
    matrix = dense(inverse)
    assert abs(matrix - matrix.T).max() > 1e-3 * abs(matrix).max()
    np.testing.assert_allclose(dense(inverse.transpose()), matrix.T, atol=1e-12 * abs(matrix).max())
    refreshed = dense(inverse.transpose().refresh(operator.transpose()))
    rebuilt = dense(ShiftedLaplacian(levels=3)(operator.transpose()))
    np.testing.assert_allclose(refreshed, rebuilt, atol=1e-12 * abs(matrix).max())


def test_the_solution_is_that_of_the_dense_system():
    problem = waves((24, 20))
    for solver in (ns.FGMRES, ns.GMRES):
        solution = solved(
            problem.operator, problem.vector, solver(rtol=1e-10, preconditioner=ShiftedLaplacian())
        )
        expected = np.linalg.solve(problem.operator.as_matrix(), np.ravel(problem.vector))
        np.testing.assert_allclose(np.ravel(solution.value), expected, atol=1e-8 * abs(expected).max())


def test_few_steps_where_others_need_hundreds():
    problem = waves((128, 128), width=18)
    b = jnp.zeros((128, 128), complex).at[40, 60].set(1.0)
    solver = ns.FGMRES(rtol=1e-6, restart=20, max_steps=400)
    inverse = ShiftedLaplacian()(problem.operator)
    assert len(inverse.levels) == 2  # three points a wavelength on the coarsest
    solution = solved(problem.operator, b, solver, inverse)
    residual = np.linalg.norm(b - problem.operator.mv(solution.value)) / np.linalg.norm(b)
    assert residual <= 1.01e-6 and solution.stats["num_steps"] <= 10
    assert solved(problem.operator, b, solver).stats["num_steps"] == 400


@pytest.mark.parametrize("points, levels", [(6, 2), (12, 3), (24, 4), (48, 4)])
def test_the_coarsest_grid_resolves_the_wave(points, levels, monkeypatch):
    monkeypatch.setattr(module, "_COARSEST", 64)
    problem = waves((64, 64), points)
    inverse = ShiftedLaplacian()(problem.operator)
    assert len(inverse.levels) + 1 == levels
    solver = ns.GMRES(rtol=1e-6, max_steps=100)
    assert solved(problem.operator, problem.vector, solver, inverse).stats["num_steps"] <= 25


def test_unresolved_waves_are_slow():
    problem, solver = waves((64, 64)), ns.GMRES(rtol=1e-6, max_steps=100)
    steps = [
        int(
            solved(
                problem.operator, problem.vector, solver, ShiftedLaplacian(levels=k)(problem.operator)
            ).stats["num_steps"]
        )
        for k in (3, 4)
    ]
    assert steps[0] <= 10 and steps[1] > 3 * steps[0]


def test_wave_numbers_and_the_sign_of_absorption_are_read_off():
    problem = waves()
    square = np.asarray(problem.parts["wave_number"]) ** 2
    square = np.pad(square[1:-1, 1:-1], 1, mode="edge")  # the walls' rows are those of their neighbours
    inverse = ShiftedLaplacian(0.5, levels=1)(problem.operator)
    expected = dense(problem.operator) + 0.5j * np.diag(square.ravel())
    np.testing.assert_allclose(np.linalg.inv(dense(inverse)), expected, atol=1e-9 * abs(expected).max())
    other = ShiftedLaplacian(0.5, levels=1)(lx.conj(problem.operator))
    np.testing.assert_allclose(dense(other), dense(inverse).conj(), atol=1e-12 * abs(dense(inverse)).max())
    own = ShiftedLaplacian(0.5, levels=1, wavenumber_squared=3 * square)(problem.operator)
    expected = dense(problem.operator) + 1.5j * np.diag(square.ravel())
    np.testing.assert_allclose(np.linalg.inv(dense(own)), expected, atol=1e-9 * abs(expected).max())


def test_finite_volumes_and_stretched_coordinates():
    """A perfectly matched layer: complex coefficients, and walls that are half a cell away."""
    n, points = 64, 12
    k = 2 * np.pi / points
    i = np.arange(n)
    stretch = 1 + 1j * np.clip(1 - (np.minimum(i, n - 1 - i) + 0.5) / 12, 0, 1) ** 2
    along, across = stretch[:, None] * np.ones(n), stretch[None, :] * np.ones((n, 1))
    diffusion = ns.StencilLinearOperator.diffusion((across / along, along / across))
    operator = diffusion.add_diagonal(jnp.asarray(-along * across * k**2))
    b = jnp.zeros((n, n), complex).at[30, 20].set(1.0)
    inverse = ShiftedLaplacian(levels=3)(operator)
    solution = solved(operator, b, ns.FGMRES(rtol=1e-8, max_steps=60), inverse)
    assert solution.stats["num_steps"] <= 15
    expected = np.linalg.solve(np.asarray(operator.as_matrix()), np.ravel(b))
    np.testing.assert_allclose(np.ravel(solution.value), expected, atol=1e-6 * abs(expected).max())
    wrong = ShiftedLaplacian(levels=3)(lx.conj(operator)).conj()
    np.testing.assert_allclose(wrong.mv(b), inverse.mv(b), rtol=1e-9)


def test_refresh_traced_and_batched_equals_set_up():
    first, second = waves().operator, waves(points=10).operator
    make = ShiftedLaplacian(0.1, levels=2)
    r = jnp.asarray(np.random.default_rng(0).normal(size=SHAPE) + 0j)
    expected = make(second).mv(r)
    scale = float(abs(expected).max())
    assert abs(make(first).mv(r) - expected).max() > 0.01 * scale
    refreshed = eqx.filter_jit(lambda m, a: m.refresh(a).mv(r))(make(first), second)
    np.testing.assert_allclose(refreshed, expected, atol=1e-12 * scale)
    both = jax.tree.map(lambda *x: jnp.stack([jnp.broadcast_to(k, SHAPE) for k in x]), first, second)
    batched = eqx.filter_jit(eqx.filter_vmap(lambda a: make(a).mv(r)))(both)
    np.testing.assert_allclose(batched, [make(first).mv(r), expected], atol=1e-12 * scale)
    with pytest.raises(ValueError, match="`operator` must have the grid"):
        make(first).refresh(waves((12, 16)).operator)


def test_derivatives_of_a_solve_and_none_through_the_preconditioner():
    problem = waves()

    def entry(scale, b):
        operator = problem.operator * scale
        solver = ns.GMRES(rtol=1e-12, preconditioner=ShiftedLaplacian(levels=2))
        return lx.linear_solve(operator, b, solver).value[6, 7].real

    scale = jnp.asarray(1.0 + 0j)
    by_scale = jax.jit(jax.grad(entry))(scale, problem.vector)
    np.testing.assert_allclose(by_scale.real, -entry(scale, problem.vector), rtol=1e-8)
    none = jax.grad(lambda s: ShiftedLaplacian(levels=2)(problem.operator * s).mv(problem.vector)[0, 0].real)
    assert none(scale) == 0


def test_single_precision():
    problem = waves((48, 48), dtype=np.float32)
    inverse = ShiftedLaplacian()(problem.operator)
    leaves = jax.tree.leaves(eqx.filter(inverse.levels, eqx.is_inexact_array))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.complex64)}
    solution = solved(problem.operator, problem.vector, ns.GMRES(rtol=1e-4, max_steps=30), inverse)
    assert solution.value.dtype == jnp.complex64 and solution.stats["num_steps"] <= 8


def test_nan_is_not_hidden():
    inverse = ShiftedLaplacian(levels=2)(waves().operator)
    assert jnp.isnan(inverse.mv(jnp.ones(SHAPE, complex).at[3, 3].set(jnp.nan))).all()


def test_repr_shows_the_hierarchy():
    text = repr(ShiftedLaplacian(levels=2)(waves().operator))
    assert "13 x 16" in text and "6 x 8" in text and "shift 0.02" in text and "LU" in text
    assert max(map(len, text.splitlines())) <= 100


BAD = {
    "negative": (lambda: ShiftedLaplacian(-0.1), "shift=...\\)` must be finite and not negative"),
    "infinite": (lambda: ShiftedLaplacian(np.inf), "shift=...\\)` must be finite"),
    "levels": (lambda: ShiftedLaplacian(levels=0), "levels=...\\)` must be None or a positive"),
    "no grid": (lambda: ShiftedLaplacian()(lx.MatrixLinearOperator(jnp.eye(3))), "is geometric"),
    "real": (lambda: ShiftedLaplacian()(ns.gallery.helmholtz(0, SHAPE).operator), "without absorption"),
    "periodic": (
        lambda: ShiftedLaplacian()(
            ns.StencilLinearOperator.from_stencil({(0,): 2j, (1,): -1.0 + 0j, (-1,): -1.0 + 0j}, (9,), True)
        ),
        "periodic axis",
    ),
    "both signs": (
        lambda: ShiftedLaplacian()(waves().operator.add_diagonal(-1j * jnp.asarray(wedge(SHAPE) + 0j))),
        "damps waves at some points and amplifies",
    ),
    "shape": (lambda: ShiftedLaplacian(wavenumber_squared=jnp.ones((3, 4)))(waves().operator), "of shape"),
    "complex": (lambda: ShiftedLaplacian(wavenumber_squared=1j)(waves().operator), "must be real"),
    "below": (lambda: ShiftedLaplacian(wavenumber_squared=-1.0)(waves().operator), "nowhere negative"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_shift_that_is_no_number():
    word: Any = "0.1"
    with pytest.raises(TypeError, match="must be a number"):
        ShiftedLaplacian(word)

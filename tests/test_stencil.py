"""Stencil operators: against assembled matrices, at every kind of boundary."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp
from jax.test_util import check_grads

import nsolve as ns

StencilLinearOperator = ns.operators.StencilLinearOperator

BOUNDARIES = ["dirichlet", "neumann", "periodic", ("periodic", "neumann")]


def random_field(shape, seed=0):
    return np.exp(np.random.default_rng(seed).normal(size=shape))


def random_stencil(shape, periodic=False, dtype=float, seed=0):
    rng = np.random.default_rng(seed)
    stencil = {}
    for offset in np.ndindex(*(3,) * len(shape)):
        size = tuple(n if rng.random() < 0.7 else 1 for n in shape)
        values = rng.normal(size=size) + (1j * rng.normal(size=size) if dtype is complex else 0)
        stencil[tuple(k - 1 for k in offset)] = values
    return StencilLinearOperator.from_stencil(stencil, shape, periodic)


def check_against_matrix(operator):
    matrix = operator.as_scipy()
    rng = np.random.default_rng(1)
    x = rng.normal(size=operator.shape).astype(operator.dtype)

    @eqx.filter_jit
    def everything(operator, x):  # one program compiles faster than each operation by itself
        operators = operator, operator.transpose(), operator.conj()
        return operator.mv(x), operator.diagonal(), [o.as_matrix() for o in operators]

    product, diagonal, (itself, transpose, conjugate) = everything(operator, x)
    scale = abs(matrix).max()
    np.testing.assert_allclose(np.ravel(product), matrix @ x.reshape(-1), atol=1e-12 * scale)
    np.testing.assert_allclose(diagonal, matrix.diagonal(), atol=1e-12 * scale)
    np.testing.assert_allclose(itself, matrix.toarray(), atol=0)
    np.testing.assert_allclose(transpose, matrix.T.toarray(), atol=0)
    np.testing.assert_allclose(conjugate, matrix.conj().toarray(), atol=0)


@pytest.mark.parametrize("shape", [(7,), (5, 6), (3, 4, 5)])
def test_poisson_is_a_kronecker_sum(shape):
    spacing = (0.5, 0.25, 0.2)[: len(shape)]
    expected = sp.csr_array((1, 1))
    for n, h in zip(shape, spacing, strict=True):
        second = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)) / h**2
        expected = sp.kronsum(sp.csr_array(second), sp.csr_array(expected), format="csr")
    operator = StencilLinearOperator.poisson(shape, spacing)
    np.testing.assert_allclose(operator.as_scipy().toarray(), expected.toarray(), rtol=1e-14)
    assert lx.is_positive_semidefinite(operator) and lx.is_symmetric(operator)
    check_against_matrix(operator)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", [(6, 5), (2, 1)])
def test_diffusion_matches_its_matrix(boundary, shape):
    operator = StencilLinearOperator.diffusion(random_field(shape), 0.1, boundary)
    check_against_matrix(operator)
    matrix = operator.as_scipy().toarray()
    scale = abs(matrix).max()
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-14 * scale)
    assert np.linalg.eigvalsh(matrix).min() > -1e-12 * scale
    if boundary != "dirichlet":
        np.testing.assert_allclose(matrix.sum(1), 0, atol=1e-12 * scale)


def test_diffusion_takes_harmonic_means_and_half_cells():
    a, b, h = 2.0, 6.0, 0.5
    matrix = StencilLinearOperator.diffusion(np.array([a, b]), h, "dirichlet").as_matrix()
    face = 2 * a * b / (a + b)
    expected = np.array([[2 * a + face, -face], [-face, face + 2 * b]]) / h**2
    np.testing.assert_allclose(matrix, expected)


def test_diffusion_is_second_order():
    errors = []
    for n in (16, 32):
        x = (np.arange(n) + 0.5) / n
        exact = np.outer(np.sin(np.pi * x), np.sin(np.pi * x))
        operator = StencilLinearOperator.diffusion(np.ones((n, n)), 1 / n, "dirichlet")
        forcing = 2 * np.pi**2 * exact.reshape(-1)
        solution = sp.linalg.spsolve(operator.as_scipy().tocsc(), forcing)
        errors.append(abs(solution - exact.reshape(-1)).max())
    assert errors[0] / errors[1] > 3.5


def test_diffusion_takes_one_coefficient_for_each_axis():
    x, y = random_field((4, 5), 1), random_field((4, 5), 2)
    both = StencilLinearOperator.diffusion((x, y)).as_matrix()
    tiny = 1e-30 * np.ones((4, 5))
    parts = [StencilLinearOperator.diffusion(k).as_matrix() for k in ((x, tiny), (tiny, y))]
    np.testing.assert_allclose(both, parts[0] + parts[1], atol=1e-12)


@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("shape", [(6,), (4, 5), (3, 1, 4)])
def test_any_stencil_matches_its_matrix(shape, periodic, dtype):
    check_against_matrix(random_stencil(shape, periodic, dtype))


def test_wide_offsets_and_mixed_boundaries():
    stencil = {(0, 0): 3.0, (2, -1): -1.0, (-7, 1): np.arange(5.0), (0, 3): 0.5}
    check_against_matrix(StencilLinearOperator.from_stencil(stencil, (4, 5), (True, False)))


def test_assembly_and_construction_are_traceable():
    field = random_field((5, 4))

    @jax.jit
    def values(field):
        operator = StencilLinearOperator.diffusion(field, 0.5, "periodic")
        return operator.as_sparse().values

    expected = StencilLinearOperator.diffusion(field, 0.5, "periodic").as_sparse().values
    np.testing.assert_allclose(values(field), expected, rtol=1e-13)
    short = random_stencil((2, 1), True)  # offsets that meet at the same point
    traced = eqx.filter_jit(lambda a: a.as_sparse().values)(short)
    np.testing.assert_allclose(traced, short.as_sparse().values, rtol=1e-13)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e300])
def test_coefficients_of_any_size(scale, traced):
    field = random_field((5, 4))

    def values(field):
        return StencilLinearOperator.diffusion(field).as_sparse().values

    expected = values(field)
    scaled = (jax.jit(values) if traced else values)(scale * field)
    np.testing.assert_allclose(scaled / scale, expected, rtol=1e-12)


@pytest.mark.parametrize("boundary", ["dirichlet", "neumann", "periodic"])
def test_inactive_cells_are_cut_out(boundary):
    """Rows of the others are those of a grid in which walls without flux surround the inactive ones."""
    field = random_field((5, 4))
    field[1:3, 1] = field[4, 3] = 0
    active = field.ravel() > 0
    operator = StencilLinearOperator.diffusion(field, 0.5, boundary)
    check_against_matrix(operator)
    matrix = operator.as_scipy().toarray()
    assert not matrix[np.ix_(active, ~active)].any() and not matrix[np.ix_(~active, active)].any()
    largest = matrix[np.ix_(active, active)].max()
    np.testing.assert_allclose(matrix[np.ix_(~active, ~active)], largest * np.eye(3), rtol=1e-14)
    nearly = StencilLinearOperator.diffusion(np.maximum(field, 1e-14), 0.5, boundary).as_scipy().toarray()
    np.testing.assert_allclose(matrix[np.ix_(active, active)], nearly[np.ix_(active, active)], atol=1e-11)
    traced = jax.jit(lambda k: StencilLinearOperator.diffusion(k, 0.5, boundary).as_matrix())(field)
    np.testing.assert_allclose(traced, matrix, rtol=1e-13)


def test_gradient_beside_inactive_cells():
    """By differences on the active cells; zero on the others, which stay inactive."""
    field = random_field((4, 3))
    field[1, 1] = 0
    x = np.random.default_rng(2).normal(size=(4, 3)) * (field > 0)

    @jax.jit
    def energy(field):
        return jnp.vdot(x, StencilLinearOperator.diffusion(field, 0.5).mv(x))

    gradient = jax.jit(jax.grad(energy))(field)
    for cell in np.ndindex(4, 3):
        step = np.zeros((4, 3))
        step[cell] = 1e-6 * (field[cell] > 0)
        difference = (energy(field + step) - energy(field - step)) / 2e-6
        np.testing.assert_allclose(gradient[cell], difference, rtol=1e-6, atol=1e-8)
    uniform = np.ones((4, 3))  # where neighbours are equal, second derivatives must not be lost
    check_grads(energy, (uniform,), order=2, modes=["rev"], rtol=1e-5)


def test_dtypes():
    field = random_field((4, 3)).astype(np.float32)
    assert StencilLinearOperator.diffusion(field).dtype == jnp.float32
    assert StencilLinearOperator.poisson((3,), dtype=jnp.float32).dtype == jnp.float32
    assert StencilLinearOperator.from_stencil({(0,): 1}, (3,)).dtype == jnp.float64
    complex_one = StencilLinearOperator.diffusion(field * (1 + 0.1j))
    assert complex_one.dtype == jnp.complex64
    assert lx.is_symmetric(complex_one) and not lx.is_positive_semidefinite(complex_one)


def test_structure_is_known():
    laplacian = StencilLinearOperator.poisson((5,))
    assert lx.is_tridiagonal(laplacian) and not lx.is_diagonal(laplacian)
    assert not lx.is_tridiagonal(StencilLinearOperator.poisson((5, 5)))
    upwind = StencilLinearOperator.from_stencil({(0,): 1.0, (-1,): -1.0}, (5,))
    assert lx.is_lower_triangular(upwind) and lx.is_upper_triangular(upwind.transpose())
    assert lx.is_diagonal(StencilLinearOperator.from_stencil({(0, 0): 2.0}, (3, 3)))


@pytest.mark.parametrize(
    "name", ["Jacobi", "SSOR", "IncompleteCholesky", "IncompleteLU", "Chebyshev", "Multigrid"]
)
def test_preconditioners_leave_inactive_cells_alone(name):
    field = np.exp(np.random.default_rng(0).normal(size=(9, 8)))
    field[2:5, 1:6] = 0
    active = field.ravel() > 0
    matrix = ns.StencilLinearOperator.diffusion(field, 1.0, "dirichlet").as_scipy().toarray()
    x = np.where(active, np.random.default_rng(1).normal(size=active.size), 0)
    krylov = ns.GMRES if name == "IncompleteLU" else ns.CG
    solver = krylov(rtol=1e-10, preconditioner=getattr(ns.preconditioners, name)())

    def solve(field):
        operator = ns.StencilLinearOperator.diffusion(field, 1.0, "dirichlet")
        solution = lx.linear_solve(operator, (matrix @ x).reshape(9, 8), solver)
        return solution.value, solution.stats["num_steps"]

    for call in (solve, jax.jit(solve)):  # coefficients that are known, and traced
        value, num_steps = call(field)
        np.testing.assert_allclose(value.ravel(), x, atol=1e-8)
        assert num_steps < 35

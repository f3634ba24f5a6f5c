"""Geometric multigrid: the laws of its cycle, and step counts that do not grow with the grid."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg

import nsolve as ns
from nsolve.preconditioners.multigrid import coarse, plan

StencilLinearOperator = ns.operators.StencilLinearOperator
Multigrid = ns.preconditioners.Multigrid


@pytest.fixture
def deep(monkeypatch):
    """Coarsens down to a few points, so that small grids have several levels."""
    monkeypatch.setattr(plan, "_COARSEST", {True: 30, False: 30})
    monkeypatch.setattr(plan, "_LONGEST", {True: 10, False: 30})


def smooth_field(shape, contrast=2.0, seed=0):
    """Log-normal, correlated over a tenth of the domain."""
    rng = np.random.default_rng(seed)
    waves = np.meshgrid(*[np.fft.fftfreq(n, 1 / n) for n in shape], indexing="ij")
    smooth = np.exp(-sum((0.05 * k) ** 2 for k in waves))
    field = np.fft.ifftn(np.fft.fftn(rng.normal(size=shape)) * smooth).real
    return np.exp(contrast * field / field.std())


def rough_field(shape, seed=0):
    return np.exp(np.random.default_rng(seed).normal(size=shape))


def periodic_laplacian(shape, shift):
    dim = len(shape)
    stencil = {(0,) * dim: 2.0 * dim + shift}
    for axis in range(dim):
        for step in (-1, 1):
            stencil[tuple(step * (k == axis) for k in range(dim))] = -1.0
    tag = lx.positive_semidefinite_tag
    return StencilLinearOperator.from_stencil(stencil, shape, True, tag)


def convection(shape):
    stencil = {(0, 0): 4.6, (1, 0): -0.9, (-1, 0): -1.3, (0, 1): -1.0, (0, -1): -1.2}
    return StencilLinearOperator.from_stencil(stencil, shape)


def hermitian(shape):
    stencil = {(0, 0): 4.2, (1, 0): -1j, (-1, 0): 1j, (0, 1): -1.0, (0, -1): -1.0}
    tag = lx.positive_semidefinite_tag
    return StencilLinearOperator.from_stencil(stencil, shape, tags=tag)


SYMMETRIC = {
    "poisson 2d": lambda: StencilLinearOperator.poisson((17, 16)),
    "poisson 3d": lambda: StencilLinearOperator.poisson((7, 6, 5)),
    "poisson anisotropic": lambda: StencilLinearOperator.poisson((8, 32), (1.0, 0.1)),
    "periodic even, odd": lambda: periodic_laplacian((12, 13), 0.1),
    "periodic singular": lambda: periodic_laplacian((13, 8), 0.0),
    "dirichlet": lambda: StencilLinearOperator.diffusion(rough_field((15, 16))),
    "neumann": lambda: StencilLinearOperator.diffusion(rough_field((12, 13)), 1.0, "neumann"),
    "periodic": lambda: StencilLinearOperator.diffusion(rough_field((15, 14)), 1.0, "periodic"),
    "3d": lambda: StencilLinearOperator.diffusion(rough_field((5, 6, 7))),
    "one axis": lambda: StencilLinearOperator.diffusion(rough_field((33,))),
}
OTHERS = {"convection": lambda: convection((12, 11)), "hermitian": lambda: hermitian((12, 11))}


def dense(operator):
    return np.asarray(eqx.filter_jit(lambda o: o.as_matrix())(operator))


@eqx.filter_jit
def apply(preconditioner, vector):
    return preconditioner.mv(vector)


@pytest.mark.parametrize("name", SYMMETRIC)
def test_cycle_is_symmetric_and_close_to_the_inverse(name, deep):
    operator = SYMMETRIC[name]()
    preconditioner = Multigrid()(operator)
    assert len(preconditioner.levels) >= 1
    assert lx.is_positive_semidefinite(preconditioner)
    inverse, matrix = dense(preconditioner), operator.as_scipy().toarray()
    np.testing.assert_allclose(inverse, inverse.T, atol=1e-12 * abs(inverse).max())
    assert np.linalg.eigvalsh(inverse).min() > 0
    spectrum = np.sort(scipy.linalg.eigvals(inverse @ matrix).real)
    assert spectrum[-1] < 1 + 1e-9
    singular = abs(matrix.sum(1)).max() < 1e-10
    assert spectrum[int(singular)] > 0.45
    assert abs(spectrum[0]) < 1e-9 or not singular


@pytest.mark.parametrize("name", [*OTHERS, "dirichlet", "poisson 2d"])
def test_transpose_and_conjugate_are_exact(name, deep):
    operator = (OTHERS | SYMMETRIC)[name]()
    preconditioner = Multigrid()(operator)
    matrix = dense(preconditioner)
    scale = abs(matrix).max()
    np.testing.assert_allclose(dense(preconditioner.transpose()), matrix.T, atol=1e-12 * scale)
    np.testing.assert_allclose(dense(preconditioner.conj()), matrix.conj(), atol=0)
    error = np.eye(len(matrix)) - matrix @ operator.as_scipy().toarray()
    # Real interpolation knows nothing of the phases of a Hermitian operator's smooth modes.
    assert abs(np.linalg.eigvals(error)).max() < (0.8 if name == "hermitian" else 0.5)


def test_refresh_equals_rebuild(deep):
    first, second = (StencilLinearOperator.diffusion(rough_field((14, 15), k)) for k in (0, 1))
    preconditioner, expected = Multigrid()(first), Multigrid()(second)
    r = np.random.default_rng(0).normal(size=(14, 15))
    refreshed = preconditioner.refresh(second)
    np.testing.assert_allclose(apply(refreshed, r), apply(expected, r), rtol=1e-12)
    traced = eqx.filter_jit(lambda m, a: m.refresh(a).mv(r))(preconditioner, second)
    np.testing.assert_allclose(traced, apply(expected, r), rtol=1e-10)
    scaled = StencilLinearOperator.poisson((20, 21), 2.0)
    preconditioner = Multigrid()(StencilLinearOperator.poisson((20, 21)))
    traced = eqx.filter_jit(lambda m, a: m.refresh(a).mv(jnp.ones((20, 21))))(preconditioner, scaled)
    np.testing.assert_allclose(traced, apply(Multigrid()(scaled), jnp.ones((20, 21))), rtol=1e-10)
    with pytest.raises(ValueError, match="`operator` must have the grid"):
        preconditioner.refresh(first)


def test_vmap_over_values_and_vectors(deep):
    fields = np.stack([rough_field((12, 10), seed) for seed in range(2)])
    vectors = np.random.default_rng(3).normal(size=(2, 12, 10))

    def set_up_and_apply(field, vector):
        return Multigrid()(StencilLinearOperator.diffusion(field)).mv(vector)

    batched = jax.jit(jax.vmap(set_up_and_apply))(fields, vectors)
    made = [Multigrid()(StencilLinearOperator.diffusion(k)) for k in fields]  # on the host
    single = [apply(m, r) for m, r in zip(made, vectors, strict=True)]
    np.testing.assert_allclose(batched, np.stack(single), rtol=1e-9)


def test_no_gradient_through_the_preconditioner(deep):
    r = np.ones((10, 8))

    def norm(field):
        return jnp.sum(Multigrid()(StencilLinearOperator.diffusion(field)).mv(r))

    gradient = jax.jit(jax.grad(norm))(rough_field((10, 8)))
    np.testing.assert_array_equal(gradient, 0)


def test_nan_is_not_hidden(deep):
    preconditioner = Multigrid()(StencilLinearOperator.diffusion(rough_field((10, 8))))
    for place in ((0, 0), (5, 5)):
        assert jnp.isnan(apply(preconditioner, jnp.ones((10, 8)).at[place].set(jnp.nan))).all()


def steps(operator, rtol=1e-8, seed=0):
    rng = np.random.default_rng(seed)
    b = apply(operator, jnp.asarray(rng.normal(size=operator.shape), operator.dtype))
    solver = ns.CG(rtol=rtol, max_steps=60)
    options = {"preconditioner": Multigrid()(operator)}
    solution = lx.linear_solve(operator, b, solver, options=options, throw=False)
    residual = np.linalg.norm(b - apply(operator, solution.value)) / np.linalg.norm(b)
    assert residual <= 1.01 * rtol
    return int(solution.stats["num_steps"])


def test_poisson_steps_do_not_grow():
    counts = [steps(StencilLinearOperator.poisson((n, n), 1 / n)) for n in (95, 256)]
    assert max(counts) <= 8 and max(counts) - min(counts) <= 1


def test_poisson_in_three_dimensions():
    assert steps(StencilLinearOperator.poisson((40, 33, 24))) <= 10


def test_lognormal_steps_hardly_grow():
    fields = [smooth_field((n, n)) for n in (40, 101)]
    counts = [steps(StencilLinearOperator.diffusion(field, 1 / len(field))) for field in fields]
    assert max(counts) <= 18 and counts[1] - counts[0] <= 4


@pytest.mark.parametrize("boundary", ["neumann", "periodic"])
def test_singular_systems(boundary):
    assert steps(StencilLinearOperator.diffusion(smooth_field((40, 35)), 1.0, boundary)) <= 18


def test_built_inside_the_solver():
    operator = StencilLinearOperator.diffusion(smooth_field((40, 30)))
    b = jnp.ones((40, 30))
    solution = lx.linear_solve(operator, b, ns.CG(rtol=1e-9, preconditioner=Multigrid()))
    assert solution.stats["num_steps"] <= 18
    np.testing.assert_allclose(operator.mv(solution.value), b, atol=1e-7)


def test_strong_anisotropy_and_uneven_grids():
    assert steps(StencilLinearOperator.poisson((64, 128), (1.0, 0.01))) <= 9
    field = smooth_field((100, 37))
    assert steps(StencilLinearOperator.diffusion((field, 1e-3 * field))) <= 18


def test_single_precision():
    field = smooth_field((48, 48)).astype(np.float32)
    operator = StencilLinearOperator.diffusion(field)
    preconditioner = Multigrid()(operator)
    leaves = jax.tree.leaves(eqx.filter(preconditioner, eqx.is_inexact_array))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.float32)}
    assert steps(operator, rtol=1e-4) <= 12
    constant = Multigrid()(StencilLinearOperator.poisson((80, 70), dtype=jnp.float32))
    assert apply(constant, jnp.ones((80, 70), jnp.float32)).dtype == jnp.float32


def test_repr_shows_the_hierarchy():
    text = repr(Multigrid()(StencilLinearOperator.diffusion(rough_field((60, 50)))))
    assert "30 x 25" in text and "operator complexity" in text and "dense inverse" in text
    assert max(map(len, text.splitlines())) <= 100


def test_tagged_operators_are_unwrapped(deep):
    plain = convection((12, 11))
    assert not lx.is_positive_semidefinite(Multigrid()(plain))
    symmetric = StencilLinearOperator.from_stencil({(0,): 2.0, (1,): -1.0, (-1,): -1.0}, (40,))
    tagged = lx.TaggedLinearOperator(symmetric, lx.positive_semidefinite_tag)
    assert lx.is_positive_semidefinite(Multigrid()(tagged))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="geometric"):
        Multigrid()(lx.MatrixLinearOperator(jnp.eye(3)))
    wide = StencilLinearOperator.from_stencil({(0,): 2.0, (2,): -1.0}, (9,))
    with pytest.raises(ValueError, match="compact"):
        Multigrid()(wide)


def obstacle(shape):
    """Inactive in a block, and in a frame around a pocket of cells."""
    field = rough_field(shape)
    field[2:5, 1:6] = 0
    field[8:13, 4:9] = 0
    field[9:12, 5:8] = 1.5
    return field


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("boundary", ["dirichlet", "neumann"])
def test_inactive_cells_and_pockets(boundary, traced, deep):
    """The solution on the active cells is that of the dense system without the others."""
    field = obstacle((15, 14))
    active = field.ravel() > 0
    matrix = StencilLinearOperator.diffusion(field, 0.5, boundary).as_scipy().toarray()
    x = np.where(active, np.random.default_rng(1).normal(size=active.size), 0)
    b = (matrix @ x).reshape(field.shape)

    def solve(field):
        operator = StencilLinearOperator.diffusion(field, 0.5, boundary)
        solver = ns.CG(rtol=1e-10, max_steps=60, preconditioner=Multigrid())
        solution = lx.linear_solve(operator, b, solver)
        return solution.value, solution.stats["num_steps"]

    value, num_steps = (jax.jit(solve) if traced else solve)(field)
    assert num_steps <= 25
    inner = matrix[np.ix_(active, active)]
    value = np.ravel(value)
    np.testing.assert_allclose(value[~active], 0, atol=1e-9)
    # Constants on a pocket are free: only differences are determined there.
    expected = np.linalg.pinv(inner) @ b.ravel()[active]
    difference = value[active] - expected
    np.testing.assert_allclose(inner @ difference, 0, atol=1e-7 * abs(b).max())


def test_a_pocket_that_loses_nothing_must_gain_nothing():
    field = obstacle((15, 14))
    operator = StencilLinearOperator.diffusion(field)
    b = jnp.zeros((15, 14)).at[10, 6].set(1.0)
    solver = ns.CG(rtol=1e-8, max_steps=100, preconditioner=Multigrid())
    assert lx.linear_solve(operator, b, solver, throw=False).result != lx.RESULTS.successful


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_dense_inverse_is_the_pseudoinverse(dtype):
    """Two singular blocks and a regular one, shuffled; on the host and compiled."""
    rng = np.random.default_rng(0)
    blocks = [rng.uniform(0.5, 1, (n, n)).astype(dtype) for n in (5, 4, 3)]
    if dtype is np.complex128:
        blocks = [block * np.exp(1j * rng.uniform(size=block.shape)) for block in blocks]
    for block in blocks[:2]:
        block -= np.diag(block.sum(1))
    order = rng.permutation(12)
    matrix = scipy.linalg.block_diag(*blocks)[order][:, order]
    for invert in (coarse.invert, jax.jit(coarse.invert)):
        np.testing.assert_allclose(invert(matrix), np.linalg.pinv(matrix), atol=1e-12)


def test_set_up_calls_no_lapack():
    """Its threads wait for those of the program that calls it."""
    text = jax.jit(lambda field: Multigrid()(StencilLinearOperator.diffusion(field)).mv(field)).lower(
        rough_field((20, 20))
    )
    assert "lapack" not in text.as_text()

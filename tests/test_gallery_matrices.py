"""The gallery's finite elements, random and kernel matrices, sequences, mixtures and clouds."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse.linalg as spla
from scipy.sparse.csgraph import structural_rank
from scipy.spatial.distance import cdist

import nsolve as ns
from nsolve import gallery
from nsolve.gallery import clouds, drifting, mixtures
from nsolve.gallery import finite_elements as fe
from tests import gallery_reference as reference
from tests.helpers import ROOT

KEY = jax.random.key(7)


@pytest.mark.parametrize(("size", "dim"), [(5, 2), (3, 3)])
class TestFiniteElements:
    def test_mesh_fills_the_cube(self, size, dim):
        points, cells = fe.mesh(KEY, size, dim)
        assert points.shape == (dim, (size + 2) ** dim) and cells.shape[0] == dim + 1
        volumes, _ = reference.elements(points, cells)
        assert volumes.sum() == pytest.approx(1) and volumes.min() > 1e-9
        assert set(np.unique(cells)) == set(range(points.shape[1]))
        # Each inner face has two cells, each face of a wall one.
        faces = np.sort(np.concatenate([np.delete(cells, k, axis=0) for k in range(dim + 1)], axis=1), axis=0)
        faces, count = np.unique(faces, axis=1, return_counts=True)
        corners = points[:, faces]
        on_wall = np.any(
            np.all((corners == 0) | (corners == 1), axis=1) & (np.ptp(corners, axis=1) == 0), axis=0
        )
        np.testing.assert_array_equal(count, np.where(on_wall, 1, 2))

    def test_entry_by_entry(self, size, dim):
        pytest.importorskip("skfem")
        for ours, theirs in (
            (fe.poisson(KEY, size, dim), reference.stiffness),
            (fe.heat(KEY, size, dim, 0.1), lambda *m: reference.mass(*m) + 0.1 * reference.stiffness(*m)),
            (fe.elasticity(KEY, size, dim, 0.4), lambda *m: reference.elasticity(*m, 0.4)),
        ):
            operator, vector, parts = ours
            unknowns = parts["nodes"]
            if operator.in_size() > len(unknowns):
                assert np.all(parts["mesh"].points[0][unknowns] > 0)
                unknowns = (dim * unknowns[:, None] + np.arange(dim)).ravel()
            else:
                assert len(unknowns) == size**dim
            expected = theirs(*parts["mesh"])[np.ix_(unknowns, unknowns)]
            matrix = operator.as_scipy().toarray()
            np.testing.assert_allclose(matrix, expected, atol=1e-12 * abs(expected).max())
            assert np.array_equal(matrix, matrix.T) and np.linalg.eigvalsh(matrix)[0] > 0
            assert lx.is_positive_semidefinite(operator) and vector.shape == (len(unknowns),)


@pytest.mark.parametrize("dim", [2, 3])
def test_rigid_motions_cost_nothing_away_from_the_clamp(dim):
    pytest.importorskip("skfem")
    operator, _, parts = fe.elasticity(KEY, 5, dim)
    points, cells = parts["mesh"]
    whole = reference.elasticity(points, cells, 0.3)
    everywhere = fe.rigid_motions(points.T)
    assert everywhere.shape == (points.size, dim * (dim + 1) // 2)
    assert np.linalg.matrix_rank(everywhere) == everywhere.shape[1]
    np.testing.assert_allclose(whole @ everywhere, 0, atol=1e-12 * abs(whole).max())
    clamped = np.setdiff1d(np.arange(points.shape[1]), parts["nodes"])
    unknowns, walls = ((dim * nodes[:, None] + np.arange(dim)).ravel() for nodes in (parts["nodes"], clamped))
    free = ~np.any(whole[np.ix_(unknowns, walls)], axis=1)
    forces = operator.as_scipy() @ np.asarray(parts["rigid_motions"])
    np.testing.assert_allclose(forces[free], 0, atol=1e-12)
    assert free.any() and np.abs(forces[~free]).max() > 0.1


def test_finite_elements_converge():
    pytest.importorskip("skfem")
    errors = []
    for size in (9, 19):
        operator, _, parts = fe.poisson(0, size)
        points, cells = parts["mesh"]
        volumes, _ = reference.elements(points, cells)
        share = np.bincount(cells.ravel(), np.tile(volumes / 3, 3))[parts["nodes"]]
        exact = np.prod(np.sin(np.pi * points[:, parts["nodes"]]), axis=0)
        u = spla.spsolve(operator.as_scipy().tocsc(), share * 2 * np.pi**2 * exact)
        errors.append(np.sqrt(np.sum(share * (u - exact) ** 2)))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.25)


def test_random_spd():
    operator, vector, parts = gallery.random_spd(KEY, 40, 4, 1e-2)
    factor = np.zeros((40, 40))
    np.add.at(factor, (parts["rows"], np.arange(40)[:, None]), np.asarray(parts["values"]))
    assert np.all((factor != 0).sum(axis=0) == 4)
    matrix = operator.as_scipy().toarray()
    np.testing.assert_allclose(matrix, factor @ factor.T + 1e-2 * np.eye(40), atol=1e-12)
    assert np.array_equal(matrix, matrix.T) and np.linalg.eigvalsh(matrix)[0] >= 0.99e-2
    patterns = [
        gallery.random_spd(key, 40, 4, pattern=p).operator.pattern for key, p in ((0, 0), (KEY, 0), (0, 1))
    ]
    assert patterns[0] == patterns[1] == operator.pattern != patterns[2]
    assert vector.shape == (40,) and lx.is_positive_semidefinite(operator)


@pytest.mark.parametrize(
    ("kernel", "law"),
    [
        ("gaussian", lambda s: np.exp(-(s**2) / 2)),
        ("exponential", lambda s: np.exp(-s)),
        ("matern32", lambda s: (1 + 3**0.5 * s) * np.exp(-(3**0.5) * s)),
        ("matern52", lambda s: (1 + 5**0.5 * s + 5 * s**2 / 3) * np.exp(-(5**0.5) * s)),
    ],
)
def test_kernel_matrices(kernel, law):
    operator, _, parts = gallery.kernel_matrix(KEY, 9, 3, kernel, 0.3, 0.02)
    expected = law(cdist(parts["points"], parts["points"]) / 0.3) + 0.02 * np.eye(9)
    np.testing.assert_allclose(operator.as_matrix(), expected, rtol=1e-10)

    def total(length):
        return jnp.sum(gallery.kernel_matrix(KEY, 9, 3, kernel, length).operator.as_matrix())

    slope = jax.jit(jax.grad(total))(0.3)
    assert slope == pytest.approx(float(total(0.3 + 1e-6) - total(0.3 - 1e-6)) / 2e-6, rel=1e-6)


def inertia(operator):
    eigenvalues = np.linalg.eigvalsh(operator.as_scipy().toarray())
    scale = 1e-12 * abs(eigenvalues).max()
    return int(np.sum(eigenvalues > scale)), int(np.sum(eigenvalues < -scale))


@pytest.mark.parametrize("size", [2, 5])
def test_stokes_is_what_the_staggered_grid_says(size):
    operator = gallery.stokes(KEY, size, viscosity=0.3).operator
    velocities, h = 2 * size * (size - 1), 1 / size
    assert inertia(operator) == (velocities, size**2 - 1)
    matrix = operator.as_scipy().toarray()
    # Sines are eigenvectors of the Laplacian with its walls: on x's faces, in y's cells.
    face, cell = np.arange(1, size) * h, (np.arange(size) + 0.5) * h
    for k, m in ((1, 1), (1, 2)):
        along_x = np.sin(np.pi * k * face)[:, None] * np.sin(np.pi * m * cell)
        u = np.concatenate([along_x.ravel(), 2 * along_x.T.ravel()])
        value = 4 / h**2 * (np.sin(np.pi * k * h / 2) ** 2 + np.sin(np.pi * m * h / 2) ** 2)
        np.testing.assert_allclose(matrix[:velocities, :velocities] @ u, 0.3 * value * u, atol=1e-11)
    # Pressures act by differences; velocities around a node have no divergence.
    p = np.add.outer(2 * cell, 3 * cell)
    gradient = matrix[:velocities, velocities:] @ (p - p[-1, -1]).ravel()[:-1]
    np.testing.assert_allclose(gradient, np.repeat([2, 3], velocities // 2), atol=1e-12)
    stream = np.pad(np.random.default_rng(0).standard_normal((size - 1,) * 2), 1)
    swirl = np.concatenate([np.diff(stream, axis=1)[1:-1].ravel(), -np.diff(stream, axis=0)[:, 1:-1].ravel()])
    np.testing.assert_allclose(matrix[velocities:, :velocities] @ swirl, 0, atol=1e-12)


@pytest.mark.parametrize(("key", "size", "constraints"), [(0, 30, None), (KEY, 12, 12)], ids=["host", "jax"])
def test_kkt_systems_have_their_inertia(size, constraints, key):
    operator, _, parts = gallery.kkt(key, size, constraints)
    assert inertia(operator) == (size, size // 2 if constraints is None else constraints)
    assert 1 < np.log10(parts["barrier"].max() / parts["barrier"].min()) < 6


def test_circuits_obey_kirchhoff():
    size, sources = 120, 20
    operator, b, parts = gallery.hard.circuit(KEY, size, sources)
    matrix, diagonal = operator.as_scipy(), operator.as_scipy().diagonal()
    currents = np.zeros((1 + size + sources,) * 2)  # into each node, of all voltages and of the sources
    for (first, second), conductance in zip(parts["resistors"], parts["conductance"], strict=True):
        for node, other in ((first, second), (second, first)):
            currents[node, node] += conductance
            currents[node, other] -= conductance
    for (drain, gate), gain in zip(parts["transistors"], parts["gain"], strict=True):
        currents[drain, gate] += gain
    for number, (plus, minus) in enumerate(parts["sources"], start=1 + size):
        currents[[plus, number], [number, plus]] += 1
        currents[[minus, number], [number, minus]] -= 1
    np.testing.assert_allclose(matrix.toarray(), currents[1:, 1:], atol=1e-15)
    assert np.all(diagonal[size:] == 0) and np.any(diagonal[:size] == 0)  # nodes that only sources touch
    assert structural_rank(matrix) == size + sources == operator.in_size()
    assert abs(matrix - matrix.T).max() > 0
    assert not np.any(b[:size]) and np.all(b[size:] != 0)
    decades = np.log10(np.asarray(parts["conductance"]))
    assert decades.max() <= 0 and decades.min() >= -6 and np.ptp(decades) > 4


def test_conditions_grow_with_decades():
    laplacian = gallery.poisson(0, (6, 6)).operator
    for make in (
        lambda decades: gallery.kkt(0, 40, decades=decades),
        lambda decades: gallery.hard.circuit(0, 40, decades=decades),
        lambda decades: gallery.hard.badly_scaled(0, laplacian, decades),
    ):
        small, large = (np.linalg.cond(make(d).operator.as_scipy().toarray()) for d in (0.0, 6.0))
        assert 30 * small < large


@pytest.mark.parametrize("symmetric", [False, True])
def test_scaled_systems_are_the_same_in_other_units(symmetric):
    operator = gallery.helmholtz(KEY, (4, 5), waves=1.3, damping=0.5).operator
    scaled, b, parts = gallery.hard.badly_scaled(KEY, operator, 8.0, symmetric)
    left, right = np.asarray(parts["left"]), np.asarray(parts["right"])
    expected = left[:, None] * np.asarray(operator.as_matrix()) * right
    np.testing.assert_allclose(scaled.as_matrix(), expected, rtol=1e-12)
    assert np.array_equal(left, right) == symmetric == lx.is_symmetric(scaled)
    assert 3 < np.log10(left.max() / left.min()) < 8 and 0.3 < abs(np.asarray(b) / left).mean() < 3


def test_nearly_singular_systems_have_one_small_eigenvalue():
    operator = gallery.hard.nearly_singular(KEY, (7, 4), 1e-7).operator
    first, second, *_ = np.linalg.eigvalsh(operator.as_matrix())
    assert first == pytest.approx(1e-7, rel=1e-6)
    assert second == pytest.approx(4 * np.sin(np.pi / 14) ** 2, rel=1e-6)
    np.testing.assert_allclose(operator.mv(jnp.ones((7, 4))), 1e-7, rtol=1e-6)


@pytest.mark.parametrize("key", [0, KEY], ids=["host", "jax"])
def test_shifts_have_their_law(key):
    for law, mean, variance in (("low", 2 / 8, 12 / (64 * 9)), ("high", 1 / 4, 0.75 / (4 * 3))):
        shifts, vectors = (np.asarray(x) for x in gallery.ShiftedLaplacian(4, law).draw(key, 4000))
        assert shifts.min() >= -0.15 and shifts.max() <= 0.45 and vectors.shape == (4000, 16)
        assert shifts.mean() == pytest.approx(-0.15 + 0.6 * mean, abs=5 * 0.6 * (variance / 4000) ** 0.5)
        assert shifts.var() == pytest.approx(0.36 * variance, rel=0.1)
        assert abs(vectors).max() <= 3 and vectors.std() == pytest.approx(0.987, abs=0.01)


@pytest.mark.parametrize("kind", drifting.KINDS)
def test_drifting_systems_are_solved_in_sequence(kind):
    systems = gallery.Drifting(20, kind)
    matrices, vectors = systems.draw(0, 3)
    definite = lx.is_positive_semidefinite(systems.operator(jnp.asarray(matrices[0])))
    assert definite == (kind != "wellconditioned")
    if definite:
        assert np.linalg.eigvalsh(matrices[-1])[0] > 0 and np.array_equal(matrices[-1], matrices[-1].T)
    solver = ns.CG(rtol=1e-10) if definite else ns.GMRES(rtol=1e-10)
    found = ns.solve_sequence(systems.operator, matrices, vectors, solver)
    np.testing.assert_allclose(found.value, np.linalg.solve(matrices, vectors[..., None])[..., 0], rtol=1e-5)


@pytest.mark.parametrize("key", [0, KEY], ids=["host", "jax"])
@pytest.mark.parametrize(
    "mixture", [mixtures.ring(3, 0.3), mixtures.gaussian(1, 3, 0.1, 2.0), mixtures.clusters(2, 2, 3)],
    ids=["ring", "gaussian", "clusters"],
)  # fmt: skip
def test_mixtures_are_drawn_by_their_moments(mixture, key):
    data = np.asarray(mixture.draw(key, 20_000))
    basis = np.eye(mixture.dimension) if mixture.basis is None else mixture.basis
    mean = mixture.weights @ mixture.means
    inner = [basis @ np.diag(v * np.ones(mixture.dimension)) @ basis.T for v in mixture.variances]
    covariance = np.einsum("k,kij->ij", mixture.weights, inner)
    offsets = mixture.means - mean
    covariance += (offsets.T * mixture.weights) @ offsets
    np.testing.assert_allclose(data.mean(0), mean, atol=5 * np.sqrt(np.diag(covariance) / 20_000).max())
    np.testing.assert_allclose(np.cov(data.T), covariance, atol=0.06 * np.diag(covariance).max())


def test_clouds():
    cost, a, b = clouds.assignment(KEY, 200)
    assert cost.max() == 1 and a.sum() == pytest.approx(1) and b.sum() == pytest.approx(1)
    assert float(cost.mean()) == pytest.approx(0.5, abs=0.01)
    x, y, *_ = (np.asarray(v) for v in clouds.cube_and_normal(KEY, 4000, 2))
    assert x.min() >= 0 and x.max() <= 1 and x.std() == pytest.approx(12**-0.5, rel=0.03)
    assert y.mean() == pytest.approx(0.5, abs=0.01) and y.std() == pytest.approx(0.2, rel=0.03)
    points, a, b = clouds.gaussian_densities(60, ((0.4, 0.05), (0.5, 0.04)), ((0.6, 0.05), (0.5, 0.07)))
    np.testing.assert_allclose(a @ points, (0.4, 0.5), atol=1e-6)
    np.testing.assert_allclose(np.sqrt(b @ (points - (0.6, 0.5)) ** 2), (0.05, 0.07), rtol=1e-6)
    radius = np.linalg.norm(clouds.eight_gaussians(KEY, 4000), axis=1)
    assert radius.mean() == pytest.approx(2, abs=0.02) and radius.std() == pytest.approx(0.15, abs=0.01)


def test_gaussian_transport():
    first, second = [(0.4, 0.05), (0.5, 0.04)], [(0.6, 0.08), (0.5, 0.07)]
    sharp, whole = clouds.gaussian_transport(first, second, 1e-9)
    assert sharp == pytest.approx(0.2**2 + 0.03**2 + 0.03**2, rel=1e-6)
    assert whole == pytest.approx(sharp, abs=1e-7)
    points, a, b = clouds.gaussian_densities(40, first[:1], second[:1])
    found = ns.transport.solve(ns.transport.PointCloud(points, points, epsilon=1e-2), a, b)
    assert found.cost == pytest.approx(clouds.gaussian_transport(first[:1], second[:1], 1e-2)[1], rel=1e-3)


def test_what_few_need_is_imported_when_it_is_called():
    heavy = {"skfem", "sklearn", "scipy.spatial", "scipy.stats", "scipy.ndimage"}
    code = f"import nsolve, sys; print(*({heavy} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


@pytest.mark.parametrize(
    ("module", "call", "words"),
    [
        ("skfem", lambda: fe.poisson(0, 4), r"scikit-fem.*pip install 'nsolve\[peers\]'"),
        ("skfem", lambda: fe.heat(0, 4), r"scikit-fem.*pip install 'nsolve\[peers\]'"),
        ("skfem", lambda: fe.elasticity(0, 4), r"scikit-fem.*pip install 'nsolve\[peers\]'"),
        ("sklearn.datasets", lambda: clouds.digits(0), r"scikit-learn.*pip install 'nsolve\[peers\]'"),
    ],
)
def test_what_is_missing_is_named(module, call, words, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=words):
        call()


MISTAKES = [
    (lambda: fe.mesh(0, 0), ValueError, "`size` must be at least 1"),
    (lambda: fe.mesh(0, 4, 4), ValueError, "`dim` must be 2"),
    (lambda: fe.mesh(0, 4, jitter=0.5), ValueError, "`jitter` must be below 0.5"),
    (lambda: fe.mesh(0, 4, jitter=-0.1), ValueError, "`jitter` must be positive"),
    (lambda: jax.jit(lambda key: fe.mesh(key, 4).points)(KEY), TypeError, "`key` is traced"),
    (lambda: fe.heat(0, 4, dt=0.0), ValueError, "`dt` must be positive"),
    (
        lambda: fe.elasticity(0, 4, poisson_ratio=0.5),
        ValueError,
        "`poisson_ratio` must be at least 0 and below",
    ),
    (lambda: gallery.random_spd(0, 4, 5), ValueError, "`entries` must be at most `size`"),
    (lambda: gallery.stokes(0, 1), ValueError, "`size` must be at least 2"),
    (lambda: gallery.stokes(0, 4, 0.0), ValueError, "`viscosity` must be positive"),
    (lambda: gallery.kkt(0, 4, 5), ValueError, "`constraints` must be at most `size`"),
    (lambda: gallery.hard.circuit(0, 4, 5), ValueError, "`sources` must be at most `size`"),
    (lambda: gallery.hard.circuit(0, 4, decades=-1), ValueError, "`decades` must be at least zero"),
    (lambda: gallery.hard.nearly_singular(0, (4, 4), -1.0), ValueError, "`shift` must be positive"),
    (lambda: gallery.random_spd(0, 4, 2, shift=0.0), ValueError, "`shift` must be positive"),
    (lambda: gallery.random_spd(0, 4.0), TypeError, "`size` must be an integer"),
    (lambda: gallery.kernel_matrix(0, 4, kernel="cubic"), ValueError, '`kernel` must be one of "gaussian"'),
    (lambda: gallery.kernel_matrix(0, 4, length=-1.0), ValueError, "`length` must be positive"),
    (lambda: gallery.kernel_matrix(0, 4, nugget=-1.0), ValueError, "`nugget` must be at least zero"),
    (lambda: gallery.ShiftedLaplacian(11), ValueError, "`size` must be at most 10"),
    (lambda: gallery.ShiftedLaplacian(4, "lo"), ValueError, "`law` must be one of"),
    (lambda: gallery.HeatTrajectory(3), ValueError, "`size` must be at least 4"),
    (lambda: gallery.Drifting(8), ValueError, "`size` must be at least 9"),
    (lambda: gallery.Drifting(20, "drifters"), ValueError, "`kind` must be one of"),
    (lambda: gallery.Drifting(20).draw(0, 0), ValueError, "`count` must be at least 1"),
    (lambda: gallery.families.Darcy(1), ValueError, "`size` must be at least 2"),
    (lambda: gallery.families.Darcy(8, "log"), ValueError, "`field` must be one of"),
    (lambda: mixtures.ring(0), ValueError, "`modes` must be at least 1"),
    (lambda: mixtures.ring(8, 0.0), ValueError, "`std` must be positive"),
    (lambda: mixtures.gaussian(0, 3, 2.0, 1.0), ValueError, "`low` must not exceed `high`"),
    (lambda: mixtures.ring().draw(KEY, 0), ValueError, "`count` must be at least 1"),
    (lambda: clouds.assignment(KEY, 0), ValueError, "`size` must be at least 1"),
    (
        lambda: clouds.gaussian_densities(9, [(0.5, 0.0)], [(0.5, 0.1)]),
        ValueError,
        "`first` must be positive",
    ),
    (lambda: clouds.gaussian_transport([(0.5, 0.1)], [], 0.1), ValueError, "`first` and `second` need"),
    (
        lambda: clouds.gaussian_transport([(0.5, 0.1)], [(0.5, 0.1)], 0.0),
        ValueError,
        "`epsilon` must be positive",
    ),
]


@pytest.mark.parametrize(("call", "kind", "words"), MISTAKES, ids=[words[:40] for _, _, words in MISTAKES])
def test_mistakes_are_named(call, kind, words):
    with pytest.raises(kind, match=words):
        call()

"""The gallery's coefficients, grids and obstacles: laws of what is random, equations against other
assemblers."""

import functools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse.linalg as spla

import nsolve as ns
from nsolve import gallery
from tests import gallery_reference as reference

KEY = jax.random.key(3)
GRID = (12, 9)
MASK = np.zeros(GRID, bool)
MASK[4:7, 3:6] = True

#: Every draw: a function of a key, to be jitted and mapped.
DRAWS = {
    "gaussian": lambda key: gallery.gaussian_field(key, GRID),
    "exponential": lambda key: gallery.gaussian_field(key, GRID, "exponential"),
    "lognormal": lambda key: gallery.lognormal(key, GRID, sigma=2.0),
    "lognormal white": lambda key: gallery.lognormal(key, GRID, covariance="white"),
    "lognormal 3-D": lambda key: gallery.lognormal(key, (3, 4, 5), covariance="exponential"),
    "lognormal contrast": lambda key: gallery.lognormal_contrast(key, GRID),
    "blocks": lambda key: gallery.blocks(key, GRID, size=5),
    "balls": lambda key: gallery.balls(key, GRID),
    "boxes": lambda key: gallery.boxes(key, (5, 6, 7)),
    "free surface": lambda key: gallery.free_surface(key, GRID, level=0.5),
    "poisson": lambda key: gallery.poisson(key, (9,)),
    "anisotropic": lambda key: gallery.anisotropic(key, GRID),
    "rotated": lambda key: gallery.rotated_anisotropy(key, GRID),
    "rotated, varying": lambda key: gallery.rotated_anisotropy(
        key, GRID, angle=gallery.gaussian_field(key, (13, 10))
    ),
    "diffusion": lambda key: gallery.diffusion(key, gallery.lognormal(key, GRID)),
    "convection": lambda key: gallery.convection_diffusion(key, GRID),
    "heat": lambda key: gallery.heat(key, GRID),
    "helmholtz": lambda key: gallery.helmholtz(key, GRID, waves=1.3),
    "helmholtz, damped": lambda key: gallery.helmholtz(key, GRID, waves=1.3, damping=0.5),
    "pressure": lambda key: gallery.pressure(key, gallery.balls(key, GRID)),
    "pressure, open": lambda key: gallery.pressure(key, MASK, gallery.free_surface(key, GRID)),
    "random": lambda key: gallery.random_spd(key, 12, entries=3),
    "kernel": lambda key: gallery.kernel_matrix(key, 10, kernel="matern52"),
    "stokes": lambda key: gallery.stokes(key, 4, viscosity=0.1),
    "kkt": lambda key: gallery.kkt(key, 20),
    "circuit": lambda key: gallery.hard.circuit(key, 20),
    "scaled": lambda key: gallery.hard.badly_scaled(key, gallery.poisson(key, (3, 4)).operator, decades=3),
    "scaled alike": lambda key: gallery.hard.badly_scaled(
        key, gallery.poisson(key, (3, 4)).operator, decades=3, symmetric=True
    ),
    "nearly singular": lambda key: gallery.hard.nearly_singular(key, GRID),
    "shifts": lambda key: gallery.ShiftedLaplacian(3).draw(key, 5),
    "assignment": lambda key: gallery.clouds.assignment(key, 5),
    "clouds": lambda key: gallery.clouds.cube_and_normal(key, 5),
    "mixture": lambda key: gallery.mixtures.ring(3).draw(key, 4),
}  # fmt: skip
SYSTEMS = [name for name, draw in DRAWS.items() if isinstance(draw(0), gallery.LinearProblem)]


@pytest.mark.parametrize("name", DRAWS)
class TestEveryDraw:
    def test_compiled_and_mapped_are_the_same(self, name):
        draw = DRAWS[name]
        keys = jax.random.split(KEY, 2)
        mapped = jax.jit(jax.vmap(draw))(keys)
        for i, key in enumerate(keys):
            leaves = zip(jax.tree.leaves(draw(key)), jax.tree.leaves(mapped), strict=True)
            for alone, stacked in leaves:
                np.testing.assert_allclose(stacked[i], alone, rtol=1e-9, atol=1e-12)

    def test_a_key_is_all_that_matters(self, name):
        first, again, other = (jax.tree.leaves(DRAWS[name](jax.random.key(k))) for k in (0, 0, 1))
        assert all(map(np.array_equal, first, again))
        assert not all(map(np.array_equal, first, other))

    def test_seeds_draw_on_the_host(self, name):
        def draw(seed):
            return jax.tree.leaves(DRAWS[name](np.random.default_rng(seed)))

        first, again, other = draw(0), draw(0), draw([1, 2])
        assert all(map(np.array_equal, first, again)) and not all(map(np.array_equal, first, other))
        for ours, jaxs in zip(first, jax.tree.leaves(DRAWS[name](KEY)), strict=True):
            assert ours.shape == jaxs.shape and ours.dtype == jaxs.dtype


@pytest.mark.parametrize("name", SYSTEMS)
def test_tags_are_true(name):
    operator, vector, _ = DRAWS[name](KEY)
    assert vector.shape == operator.in_structure().shape and vector.dtype == operator.in_structure().dtype
    matrix = np.asarray(operator.as_matrix())
    assert lx.is_symmetric(operator) == (name not in ("convection", "circuit", "scaled"))
    if lx.is_symmetric(operator):
        np.testing.assert_allclose(matrix, matrix.T, rtol=0, atol=0)
    if lx.is_positive_semidefinite(operator):
        smallest = np.linalg.eigvalsh(matrix)[0] / abs(matrix).max()
        assert smallest > (-1e-14 if "pressure" in name else 1e-9 if name == "nearly singular" else 1e-6)
    else:
        assert name in ("convection", "circuit", "scaled", "stokes", "kkt") or "helmholtz" in name
    # The system has a solution.
    x, *_ = np.linalg.lstsq(matrix, np.ravel(vector), rcond=1e-12)
    np.testing.assert_allclose(matrix @ x, np.ravel(vector), atol=1e-8 * np.abs(vector).max())


COUNT = 20_000
LENGTH = 0.23


@functools.cache
def many(covariance: str, shape=(8, 6)):
    draw = jax.jit(jax.vmap(lambda key: gallery.lognormal(key, shape, 0.7, covariance, LENGTH)))
    return np.asarray(draw(jax.random.split(KEY, COUNT))).reshape(COUNT, -1)


def distances(shape):
    points = np.stack(np.meshgrid(*((np.arange(n) + 0.5) / n for n in shape), indexing="ij"), -1)
    points = points.reshape(-1, len(shape))
    return np.linalg.norm(points[:, None] - points, axis=-1)


@pytest.mark.parametrize(
    ("covariance", "shape", "law"),
    [
        ("gaussian", (8, 6), lambda r: np.exp(-(r**2) / (2 * LENGTH**2))),
        ("exponential", (8, 6), lambda r: np.exp(-r / LENGTH)),
        ("exponential", (3, 4, 5), lambda r: np.exp(-r / LENGTH)),
        ("white", (8, 6), lambda r: np.where(r == 0, 1.0, 0.0)),
    ],
)
def test_lognormal_has_its_law(covariance, shape, law):
    fields = many(covariance, shape)
    logs = np.log(fields)
    # Five deviations of the estimators, over a few hundred pairs.
    assert np.abs(logs.mean(0)).max() < 5 * 0.7 / COUNT**0.5
    assert np.abs(logs.T @ logs / COUNT - 0.49 * law(distances(shape))).max() < 5 * 0.49 * (2 / COUNT) ** 0.5
    mean, deviation = np.exp(0.49 / 2), np.sqrt((np.exp(0.49) - 1) * np.exp(0.49))
    np.testing.assert_allclose(fields.mean(0), mean, atol=5 * deviation / COUNT**0.5)
    # Normal, not only of the right covariance: the fourth moment, and the share beyond two deviations.
    assert (logs**4).mean() / 0.49**2 == pytest.approx(3, abs=0.1)
    assert (np.abs(logs) > 1.4).mean() == pytest.approx(0.0455, abs=0.003)


@pytest.mark.parametrize(
    ("shape", "length"), [((128, 96), 0.3), ((40, 40), 1.0), ((12, 12, 12), 0.4), ((50,), 3.0)]
)
def test_exponential_covariance_is_exact_where_long(shape, length):
    from nsolve.gallery import fields

    deviations = fields._exponential_deviations(shape, length)
    # The covariance with the cell in the corner, of the law and of what is sampled: Q diag(d^2) Q^T e_0.
    rows = [fields._hartley(n, m) for n, m in zip(shape, deviations.shape, strict=True)]
    corner = functools.reduce(np.multiply.outer, [row[0] for row in rows])
    sampled = fields.along_axes(rows, deviations**2 * corner)
    apart = [np.arange(n) / n for n in shape]
    expected = np.exp(-np.sqrt(sum(x**2 for x in np.meshgrid(*apart, indexing="ij"))) / length)
    assert np.abs(sampled - expected).max() < 2e-5


def test_host_and_jax_filter_the_same_noise(monkeypatch):
    import nsolve.gallery.coefficients as coefficients

    noise = np.random.default_rng(0).standard_normal((10, 7))
    monkeypatch.setattr(coefficients, "normal", lambda key, shape, dtype: noise)
    host = gallery.lognormal_contrast(0, (10, 7), 1e3, 0.1)
    monkeypatch.setattr(coefficients, "normal", lambda key, shape, dtype: jnp.asarray(noise))
    np.testing.assert_allclose(gallery.lognormal_contrast(KEY, (10, 7), 1e3, 0.1), host, rtol=1e-11)
    assert host.max() / host.min() == pytest.approx(1e3) and host.max() * host.min() == pytest.approx(1)


def test_blocks_and_checkerboards():
    a = np.asarray(gallery.blocks(KEY, (300, 200), size=2, contrast=1e-3, probability=0.3))
    assert set(np.unique(a)) == {1e-3, 1.0}
    assert (a < 1).mean() == pytest.approx(0.3, abs=5 * (0.21 / 15_000) ** 0.5)
    assert np.array_equal(a, np.kron(a[::2, ::2], np.ones((2, 2))))
    for probability, value in ((0, 1.0), (1, 7.0)):
        assert np.all(np.asarray(gallery.blocks(KEY, (9,), 4, 7.0, probability)) == value)
    board = np.asarray(gallery.checkerboard((4, 5), size=2, contrast=10.0))
    assert board.tolist() == [[1, 1, 10, 10, 1]] * 2 + [[10, 10, 1, 1, 10]] * 2
    traced = jax.jit(lambda c: gallery.checkerboard((4, 5), 2, c))(10.0)
    np.testing.assert_array_equal(traced, board)
    assert gallery.checkerboard((4, 4, 4), 2, 3.0, np.float32)[0, 2, 2] == 1


def test_poisson_has_the_eigenvalues_of_the_book():
    n = np.array([4, 3, 5])
    k = np.stack(np.meshgrid(*map(np.arange, n), indexing="ij")).reshape(3, -1) + 1
    expected = np.sum(4 * (n + 1)[:, None] ** 2 * np.sin(np.pi * k / (2 * (n + 1)[:, None])) ** 2, axis=0)
    found = np.linalg.eigvalsh(gallery.poisson(0, (4, 3, 5)).operator.as_scipy().toarray())
    np.testing.assert_allclose(found, np.sort(expected), rtol=1e-12)


def test_stencils_equal_what_scipy_assembles():
    h = (1 / 8, 1 / 5, 1 / 4)
    laplacian = reference.laplacian((7, 4, 3), h)
    a = np.asarray(gallery.lognormal(KEY, (6, 6), 2.0))
    stretched = (h[0] / 0.1, *h[1:])
    pairs = [
        (gallery.poisson(0, (7, 4, 3)), laplacian),
        (gallery.anisotropic(0, (7, 4, 3), 0.01), reference.laplacian((7, 4, 3), stretched)),
        (gallery.heat(0, (7, 4, 3), 0.02), 0.02 * laplacian + np.eye(84)),
        (gallery.helmholtz(0, (7, 4, 3), 0.5), laplacian - np.pi**2 * np.eye(84)),
        (gallery.diffusion(0, a), reference.diffusion(a, 1 / 6)),
        (gallery.convection_diffusion(0, (7, 7), 30.0), reference.convection_diffusion(7, 30.0)),
    ]
    for problem, expected in pairs:
        expected = np.asarray(expected if isinstance(expected, np.ndarray) else expected.todense())
        np.testing.assert_allclose(problem.operator.as_matrix(), expected, rtol=1e-12, atol=1e-10)


def test_damped_waves():
    n = 9
    damping = np.linspace(0, 1, n * n).reshape(n, n)
    slowness = 1 + 0.1 * np.asarray(gallery.gaussian_field(KEY, (n, n)))
    operator, vector, parts = gallery.helmholtz(KEY, (n, n), 1.3, slowness, damping)
    k = 2 * np.pi * 1.3 * slowness
    shift = np.diag((1 - 1j * damping.ravel()) * k.ravel() ** 2)
    np.testing.assert_allclose(
        operator.as_matrix(), reference.laplacian((n, n), (0.1, 0.1)).todense() - shift
    )
    np.testing.assert_allclose(parts["wave_number"], k)
    assert jnp.iscomplexobj(vector) and np.std(vector.imag) > 0.5


def test_a_sponge_lets_waves_leave():
    """On a line, where leaving waves are `exp(-i k |x|)` in the convention of `exp(i omega t)`."""
    n, points = 239, 24
    damping = gallery.sponge((n,), 2 * points)
    assert damping[0] > 0.9 and not damping[2 * points : -2 * points].any() and damping.shape == (n,)
    np.testing.assert_array_equal(damping, damping[::-1])
    operator = gallery.helmholtz(KEY, (n,), 240 / points, damping=damping).operator
    u = np.linalg.solve(operator.as_matrix(), np.eye(n)[n // 2])
    inside = u[130:190]
    assert np.ptp(abs(inside)) < 0.05 * abs(inside).max()  # no standing wave: nothing comes back
    np.testing.assert_allclose(np.diff(np.unwrap(np.angle(inside))), -2 * np.pi / points, rtol=0.05)
    square = np.asarray(gallery.sponge((9, 7), 3, strength=2.0))
    assert square[4, 3] == 0 and square[0, 3] == square[4, 0] == square[0, 0] == 2 * (1 - 1 / 4) ** 2


def test_rotated_anisotropy_is_pyamgs():
    stencil = pytest.importorskip("pyamg.gallery").diffusion_stencil_2d(1e-2, 0.4, type="FE")
    operator = gallery.rotated_anisotropy(0, (9, 9), 1e-2, 0.4).operator
    ours = {offset: float(c) / 100 for offset, c in zip(operator.offsets, operator.coefficients, strict=True)}
    # PyAMG's first index goes down the rows as ours does, but against y.
    found = np.array([[ours[i, j] for j in (-1, 0, 1)] for i in (-1, 0, 1)])
    assert any(np.allclose(found, turned) for turned in (stencil, stencil[::-1], stencil.T[::-1]))


def test_rotated_anisotropy_that_varies_converges():
    """-div(K grad u) with u = sin(pi x) sin(pi y) and turning axes: second order."""

    def angle(x, y):
        return 0.3 + x - 2 * y * x

    def tensor(x, y):
        c, s = jnp.cos(angle(x, y)), jnp.sin(angle(x, y))
        q = jnp.stack([jnp.stack([c, -s]), jnp.stack([s, c])])
        return q @ jnp.diag(jnp.array([1.0, 0.1])) @ q.T

    def flux(z):
        return tensor(*z) @ jax.grad(lambda z: jnp.sin(jnp.pi * z[0]) * jnp.sin(jnp.pi * z[1]))(z)

    source = jax.jit(jax.vmap(lambda z: -jnp.trace(jax.jacfwd(flux)(z))))
    errors = []
    for n in (15, 31):
        nodes, centres = np.arange(1, n + 1) / (n + 1), (np.arange(n + 1) + 0.5) / (n + 1)
        at = angle(*np.meshgrid(centres, centres, indexing="ij"))
        matrix = gallery.rotated_anisotropy(0, (n, n), 0.1, at).operator.as_scipy()
        z = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
        u = spla.spsolve(matrix.tocsc(), np.asarray(source(jnp.asarray(z))))
        errors.append(np.abs(u - np.prod(np.sin(np.pi * z), axis=1)).max())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    constant = gallery.rotated_anisotropy(0, (4, 5), 0.1, 0.7).operator
    varying = gallery.rotated_anisotropy(0, (4, 5), 0.1, np.full((5, 6), 0.7)).operator
    np.testing.assert_allclose(constant.as_matrix(), varying.as_matrix(), atol=1e-12)


@pytest.mark.parametrize("shape", [(12, 9), (6, 5, 7)])
@pytest.mark.parametrize("open_", [False, True])
def test_pressure_face_by_face(shape, open_):
    solid = np.asarray(gallery.balls(KEY, shape, 4, (0.1, 0.2)) | gallery.boxes(KEY, shape, 2))
    air = np.asarray(gallery.free_surface(KEY, shape)) if open_ else np.zeros(shape, bool)
    operator, vector, parts = gallery.pressure(KEY, solid, air if open_ else None)
    matrix, fluid = reference.pressure(solid, air & ~solid, 1 / shape[0])
    np.testing.assert_array_equal(parts["fluid"], fluid)
    alone = matrix.diagonal() == 0
    inside = operator.as_scipy()[fluid.ravel()][:, fluid.ravel()].toarray()
    np.testing.assert_allclose(inside[~alone], matrix.toarray()[~alone])
    outside = operator.as_scipy()[~fluid.ravel()].toarray()
    assert np.all(np.asarray(vector)[~fluid] == 0) and np.count_nonzero(outside) == (~fluid).sum()
    assert abs(vector.sum()) < 1e-9 * np.abs(vector).sum() or open_
    # CG solves it from zero, in the range, to the tolerance, pockets and all.
    solution = lx.linear_solve(operator, vector, ns.CG(rtol=1e-8))
    residual = np.ravel(vector) - operator.as_scipy() @ np.ravel(solution.value)
    assert np.linalg.norm(residual) <= 1.01e-8 * np.linalg.norm(vector)
    assert np.all(np.asarray(solution.value)[~fluid] == 0)


def test_masks_are_what_they_say():
    shape = (60, 80)
    x, y = np.meshgrid(*((np.arange(n) + 0.5) / n for n in shape), indexing="ij")
    one = np.asarray(gallery.balls(KEY, (200, 200), 1, (0.1, 0.1)))
    assert one.mean() <= np.pi * 0.1**2 * 1.05
    areas = [np.asarray(gallery.balls(k, shape, 1, (0.02, 0.02))).mean() for k in range(200)]
    # A disc whose centre is uniform loses what reaches through the walls: in the mean r^2 (pi - 8 r / 3 + r^2
    # / 2).
    r = 0.02
    assert np.mean(areas) == pytest.approx(r**2 * (np.pi - 8 * r / 3 + r**2 / 2), rel=0.05)
    widths = np.array(
        [np.asarray(gallery.boxes(k, (100, 100), 1, (0.1, 0.3))).any(axis=0).mean() for k in range(300)]
    )
    assert widths.max() <= 0.31 and 0.1 < np.mean(widths) < 0.2
    air = np.asarray(gallery.free_surface(KEY, shape, level=0.5, ripple=0.0))
    np.testing.assert_array_equal(air, y > 0.5)
    assert np.all(np.diff(np.asarray(gallery.free_surface(KEY, shape)).astype(int), axis=1) >= 0)


A = np.ones((4, 4))
S = (8, 8)
TOO_LONG = {"covariance": "exponential", "length": 50.0}
#: What is called, and what the error says.
MISTAKES = [
    (lambda: gallery.lognormal(KEY, (8, 0)), ValueError, "`shape` must be at least 1"),
    (lambda: gallery.lognormal(KEY, (8, -8)), ValueError, "`shape` must be at least 1"),
    (lambda: gallery.lognormal(KEY, 8), TypeError, "`shape` must be a tuple of integers"),
    (lambda: gallery.lognormal(KEY, (8, 2.0)), TypeError, "`shape` must be an integer"),
    (lambda: gallery.lognormal(KEY, (2, 2, 2, 2)), ValueError, "`shape` must have 1 or 2 or 3 axes"),
    (lambda: gallery.lognormal(KEY, S, sigma=-1.0), ValueError, "`sigma` must be at least zero"),
    (lambda: gallery.lognormal(KEY, S, sigma=np.nan), ValueError, "`sigma` must be at least zero and finite"),
    (lambda: gallery.lognormal(KEY, S, covariance="matern"), ValueError,
     '`covariance` must be one of "gaussian", "exponential", "white", but is \'matern\''),
    (lambda: gallery.lognormal(KEY, S, length=0.0), ValueError, "`length` must be positive"),
    (lambda: gallery.lognormal(KEY, S, **TOO_LONG), ValueError, "`length` is 50, too long"),
    (lambda: gallery.lognormal(KEY, S, dtype=int), TypeError, "`dtype` must be float32 or float64"),
    (lambda: gallery.lognormal(None, S), TypeError, "`key` is None: give a JAX key"),
    (lambda: gallery.lognormal("one", S), TypeError, "`key` must be a JAX key"),
    (lambda: jax.jit(lambda s: gallery.lognormal(KEY, S, length=s))(0.1), TypeError,
     "`length` must be known before tracing"),
    (lambda: gallery.lognormal_contrast(KEY, S, contrast=0.5), ValueError, "`contrast` must be at least 1"),
    (lambda: gallery.lognormal_contrast(KEY, S, contrast=np.float32(0.5)), ValueError, "at least 1"),
    (lambda: gallery.lognormal_contrast(KEY, S, length=3.0), ValueError, "`length` must be at most 1"),
    (lambda: gallery.lognormal_contrast(KEY, (1, 1)), ValueError, "one cell has no contrast"),
    (lambda: gallery.blocks(KEY, S, contrast=A), ValueError, "`contrast` must be one number"),
    (lambda: gallery.blocks(KEY, S, probability=0.5 * A), ValueError, "must be a probability between"),
    (lambda: gallery.blocks(KEY, S, size=0), ValueError, "`size` must be at least 1"),
    (lambda: gallery.blocks(KEY, S, size=-2), ValueError, "`size` must be at least 1"),
    (lambda: gallery.blocks(KEY, S, size=2.5), TypeError, "`size` must be an integer"),
    (lambda: gallery.blocks(KEY, S, contrast=0.0), ValueError, "`contrast` must be positive"),
    (lambda: gallery.blocks(KEY, S, contrast="high"), TypeError, "`contrast` must be a real number"),
    (lambda: gallery.blocks(KEY, S, probability=1.5), ValueError, "must be a probability between"),
    (lambda: gallery.blocks(KEY, S, probability=-0.1), ValueError, "must be a probability between"),
    (lambda: gallery.blocks(KEY, S, probability=np.nan), ValueError, "`probability` must be a probability"),
    (lambda: gallery.checkerboard(S, size=0), ValueError, "`size` must be at least 1"),
    (lambda: gallery.checkerboard(S, contrast=-1.0), ValueError, "`contrast` must be positive"),
    (lambda: gallery.poisson(KEY, S, spacing=0.0), ValueError, "`spacing` must be positive"),
    (lambda: gallery.poisson(KEY, S, spacing=(1.0, 1.0, 1.0)), ValueError, "`spacing` needs one number or 2"),
    (lambda: gallery.anisotropic(KEY, (8,)), ValueError, "`shape` must have 2 or 3 axes"),
    (lambda: gallery.anisotropic(KEY, S, epsilon=0.0), ValueError, "`epsilon` must be positive"),
    (lambda: gallery.rotated_anisotropy(KEY, S, angle=np.zeros(S)), ValueError,
     r"`angle` must be a number or of shape \(9, 9\)"),
    (lambda: gallery.rotated_anisotropy(KEY, S, angle=np.nan), ValueError, "`angle` must be finite"),
    (lambda: gallery.diffusion(KEY, -A), ValueError, "`coefficient` must be positive"),
    (lambda: gallery.convection_diffusion(KEY, S, peclet=-1.0), ValueError, "`peclet` must be at least zero"),
    (lambda: gallery.heat(KEY, S, dt=-1.0), ValueError, "`dt` must be positive"),
    (lambda: gallery.helmholtz(KEY, S, waves=-1.0), ValueError, "`waves` must be at least zero"),
    (lambda: gallery.helmholtz(KEY, S, damping=-A), ValueError, "`damping` must be"),
    (lambda: gallery.sponge(S, 0), ValueError, "`width` must be at least 1"),
    (lambda: gallery.sponge(S, 3, -1.0), ValueError, "`strength` must be at least zero"),
    (lambda: gallery.balls(KEY, S, radius=(0.2, 0.1)), ValueError, "`radius` must be the least and"),
    (lambda: gallery.balls(KEY, S, radius=(0.0, 0.1)), ValueError, "`radius` must be positive"),
    (lambda: gallery.boxes(KEY, S, count=0), ValueError, "`count` must be at least 1"),
    (lambda: gallery.pressure(KEY, A), TypeError, "`solid` must be a boolean mask"),
    (lambda: gallery.pressure(KEY, A > 0), ValueError, "leave no cell to the fluid"),
    (lambda: gallery.pressure(KEY, A < 0, A[1:] < 0), ValueError, "`air` must have the shape of `solid`"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "words"), MISTAKES, ids=[words[:40] for _, _, words in MISTAKES])
def test_mistakes_are_named(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


def test_double_precision_has_to_be_on():
    with jax.enable_x64(False):
        with pytest.raises(ValueError, match="jax_enable_x64"):
            gallery.lognormal(KEY, S, dtype=np.float64)
        assert gallery.poisson(KEY, S).operator.dtype == np.float32
        assert gallery.lognormal(0, S).dtype == np.float32


#: Numbers that may be traced: what is made with them, and a value.
TRACED = {
    "sigma": (lambda v: gallery.lognormal(KEY, S, v), 0.7),
    "contrast": (lambda v: gallery.lognormal_contrast(KEY, S, v), 50.0),
    "contrast of blocks": (lambda v: gallery.blocks(KEY, S, 2, v), 50.0),
    "probability": (lambda v: gallery.blocks(KEY, S, 2, 3.0, v), 0.3),
    "spacing": (lambda v: gallery.poisson(KEY, S, v), 0.2),
    "epsilon": (lambda v: gallery.anisotropic(KEY, S, v), 0.1),
    "angle": (lambda v: gallery.rotated_anisotropy(KEY, S, v, v), 0.1),
    "coefficient": (lambda v: gallery.diffusion(KEY, v * jnp.ones(S)), 0.1),
    "peclet": (lambda v: gallery.convection_diffusion(KEY, S, v), 30.0),
    "dt": (lambda v: gallery.heat(KEY, S, v), 0.1),
    "waves": (lambda v: gallery.helmholtz(KEY, S, v, v, v), 0.4),
    "strength": (lambda v: gallery.sponge(S, 3, v), 0.4),
    "level": (lambda v: gallery.free_surface(KEY, S, v, v), 0.4),
    "shift": (lambda v: gallery.random_spd(KEY, 9, 3, v), 0.1),
    "length": (lambda v: gallery.kernel_matrix(KEY, 9, 2, "gaussian", v, v), 0.1),
}


@pytest.mark.parametrize("name", TRACED)
def test_numbers_may_be_traced(name):
    make, value = TRACED[name]
    leaves = zip(jax.tree.leaves(make(value)), jax.tree.leaves(jax.jit(make)(value)), strict=True)
    for concrete, traced in leaves:
        assert concrete.dtype == traced.dtype
        np.testing.assert_allclose(traced, concrete, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("boundary", ["neumann", "periodic", ("neumann", "dirichlet")])
def test_diffusion_around_obstacles_has_a_solution(boundary):
    a = np.where(MASK, 0, np.asarray(gallery.lognormal(KEY, GRID)))
    operator, vector, _ = gallery.diffusion(KEY, a, 0.1, boundary)
    solution = lx.linear_solve(operator, vector, ns.CG(rtol=1e-8))
    assert np.all(np.asarray(solution.value)[MASK] == 0)
    residual = np.ravel(vector) - operator.as_scipy() @ np.ravel(solution.value)
    assert np.linalg.norm(residual) <= 1.01e-8 * np.linalg.norm(vector)

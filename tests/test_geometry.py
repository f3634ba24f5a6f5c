"""Geometries: each sum against dense formulas, its derivatives against theirs, memory, and bad input."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from nsolve.transport import geometry as geometries
from nsolve.transport import point_cloud, solve
from nsolve.transport.cost_matrix import CostMatrix
from nsolve.transport.geometry import AbstractGeometry
from nsolve.transport.grid import Grid
from nsolve.transport.point_cloud import PointCloud

SMALL_TILE = 24  # two or three rows of the problems below, so that the last tile is not full
FEW_COORDINATES = 2  # not eight: with three there are more than a few


@pytest.fixture(autouse=True)
def few_coordinates(monkeypatch):
    monkeypatch.setattr(point_cloud, "_FEW_COORDINATES", FEW_COORDINATES)


class Case(NamedTuple):
    """A geometry built from differentiable parameters, and its cost matrix written plainly."""

    build: Callable[[dict], AbstractGeometry]
    costs: Callable[[dict], jax.Array]
    parameters: Callable[[np.random.Generator], dict]


def _points(d: int, n: int = 13, m: int = 9, offset: float = 0.3):
    def parameters(rng):
        x, y = rng.random((n, d)) + offset, rng.random((m, d)) + offset
        y[2] = y[1]  # points may coincide
        return {"x": x, "y": y, "epsilon": np.array(0.2)}

    return parameters


def _cloud(cost):
    return lambda p: PointCloud(p["x"], p["y"], cost, epsilon=p["epsilon"])


def _differences(p):
    return p["x"][:, None, :] - p["y"][None, :, :]


def _cosines(p):
    norms = jnp.linalg.norm(p["x"], axis=1)[:, None] * jnp.linalg.norm(p["y"], axis=1)[None, :]
    return 1 - p["x"] @ p["y"].T / norms


class Stretched(eqx.Module):
    """A cost with a parameter, in which source and target are not alike."""

    scale: jax.Array
    name: str = "stretched"

    def __call__(self, x, y):
        return jnp.sum((x - self.scale * y) ** 2)


def _axes(sources, targets):
    def parameters(rng):
        source = {f"s{k}": rng.random(n) for k, n in enumerate(sources)}
        target = {f"t{k}": rng.random(m) for k, m in enumerate(targets)}
        return {**source, **target, "epsilon": np.array(0.2)}

    return parameters


def _sides(p):
    return [[p[key] for key in sorted(p) if key[0] == side] for side in "st"]


def _grid(cost):
    return lambda p: Grid(*_sides(p), cost, epsilon=p["epsilon"])


def _grid_costs(term):
    def costs(p):
        sources, targets = (jnp.meshgrid(*axes, indexing="ij") for axes in _sides(p))
        terms = [
            term(k, s.reshape(-1, 1), t.reshape(1, -1))
            for k, (s, t) in enumerate(zip(sources, targets, strict=True))
        ]
        return sum(terms)

    return costs


CASES = {
    "squared_euclidean": Case(
        _cloud("squared_euclidean"), lambda p: jnp.sum(_differences(p) ** 2, -1), _points(2)
    ),
    "squared_euclidean_many_coordinates": Case(
        _cloud("squared_euclidean"), lambda p: jnp.sum(_differences(p) ** 2, -1), _points(3)
    ),
    "euclidean": Case(_cloud("euclidean"), lambda p: jnp.sqrt(jnp.sum(_differences(p) ** 2, -1)), _points(2)),
    "euclidean_many_coordinates": Case(
        _cloud("euclidean"), lambda p: jnp.sqrt(jnp.sum(_differences(p) ** 2, -1)), _points(3)
    ),
    "manhattan": Case(_cloud("manhattan"), lambda p: jnp.sum(jnp.abs(_differences(p)), -1), _points(2)),
    "cosine": Case(_cloud("cosine"), _cosines, _points(3)),
    "function": Case(
        lambda p: PointCloud(p["x"], p["y"], Stretched(jnp.asarray(p["scale"])), epsilon=p["epsilon"]),
        lambda p: jnp.sum((p["x"][:, None, :] - p["scale"] * p["y"][None]) ** 2, -1),
        lambda rng: {**_points(2)(rng), "scale": np.array(0.7)},
    ),
    "one_source": Case(_cloud("manhattan"), lambda p: jnp.sum(jnp.abs(_differences(p)), -1), _points(1, n=1)),
    "matrix": Case(
        lambda p: CostMatrix(p["C"], p["epsilon"]),
        lambda p: p["C"],
        lambda rng: {"C": rng.normal(size=(13, 9)), "epsilon": np.array(0.4)},
    ),
    "grid": Case(
        _grid("squared_euclidean"), _grid_costs(lambda k, s, t: (s - t) ** 2), _axes((4, 3), (3, 5))
    ),
    "grid_of_several_costs": Case(
        _grid(["manhattan", "squared_euclidean", lambda s, t: jnp.exp(s) * t]),
        _grid_costs(
            lambda k, s, t: (lambda: jnp.abs(s - t), lambda: (s - t) ** 2, lambda: jnp.exp(s) * t)[k]()
        ),
        _axes((4, 3, 2), (3, 1, 5)),
    ),
}

# Each takes a second to compile.  float64: the transpose of each case in small tiles, and one of each class
# as a single tile; float32 the other way round.
ONE_OF_EACH = ("squared_euclidean", "matrix", "grid")
LAYOUTS = [
    pytest.param((name, streamed), dtype, id=f"{name}-{dtype.__name__}{'-transposed_in_tiles' * streamed}")
    for dtype in (np.float64, np.float32)
    for name in CASES
    for streamed in (False, True)
    if streamed == (dtype == np.float64) or name in ONE_OF_EACH
]

# Derivatives of the sums take longer still: in tiles, and one of each class as a single tile.
SUMMED = [(name, True) for name in ("squared_euclidean", "euclidean", "function", "matrix", "grid")]
SUMMED += [(name, False) for name in ONE_OF_EACH]


@pytest.fixture
def layout(request, monkeypatch):
    """A geometry's parameters, its builder, and its dense costs."""
    name, streamed = request.param
    case = CASES[name]
    if streamed:
        monkeypatch.setattr(geometries, "TILE", SMALL_TILE)
    parameters = case.parameters(np.random.default_rng(0))
    if streamed:
        return parameters, lambda p: case.build(p).T, lambda p: case.costs(p).T
    return parameters, case.build, case.costs


def vectors(shape, dtype=np.float64, seed=1):
    """Potentials, weights of which some are zero, and something to multiply."""
    rng = np.random.default_rng(seed)
    n, m = shape
    f, g = rng.normal(size=n) / 4, rng.normal(size=m) / 4
    a, b = rng.random(n) + 0.1, rng.random(m) + 0.1
    a[n // 2 : n // 2 + (n > 1)] = 0
    b[: 2 * (m > 2)] = 0
    b[: m - 1 : 5] = 0  # on the grids below: all along a line
    v, columns = rng.normal(size=m), rng.normal(size=(m, 3))
    v[-1] = 0
    return tuple(z.astype(dtype) for z in (f, g, a, b, v, columns))


def sums(geometry, f, g, a, b, v, columns):
    """Every sum of a geometry, one vector."""
    return jnp.concatenate(
        [
            geometry.softmin(g, b),
            geometry.apply(f, g, a, b, v),
            geometry.apply(f, g, a, b, columns).reshape(-1),
            geometry.squares(f, g, a, b, v),
            geometry.transport_cost(f, g, a, b)[None],
        ]
    )


def dense_sums(C, epsilon, f, g, a, b, v, columns):
    """The same, as the definitions are written."""
    kernel = jnp.exp((g[None, :] - C) / epsilon)
    P = a[:, None] * b[None, :] * jnp.exp((f[:, None] + g[None, :] - C) / epsilon)
    return jnp.concatenate(
        [-epsilon * jnp.log(kernel @ b), P @ v, (P @ columns).reshape(-1), P**2 @ v, jnp.sum(P * C)[None]]
    )


def assert_close(actual, expected, rtol):
    """Each array up to a fraction of its largest entry."""
    for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=rtol, atol=rtol * np.max(np.abs(right)))


@pytest.mark.parametrize("layout, dtype", LAYOUTS, indirect=["layout"])
def test_sums_are_those_of_the_dense_matrix(layout, dtype):
    parameters, build, costs = layout
    parameters = {key: value.astype(dtype) for key, value in parameters.items()}
    geometry = build(parameters)
    C = np.asarray(costs(jax.tree.map(jnp.float64, parameters)))
    args = vectors(C.shape, dtype)
    expected = dense_sums(C, float(parameters["epsilon"]), *map(np.float64, args))
    everywhere = (jnp.ones(n, dtype) for n in C.shape)
    rtol = 200 * np.finfo(dtype).eps

    assert geometry.shape == C.shape
    assert geometry.dtype == dtype
    assert geometry.fits == (C.size <= geometries.TILE)

    @jax.jit
    def everything(geometry, *args):
        stored = geometry.precomputed().cost_matrix()
        starts = jnp.arange(0, C.shape[0], geometry.tile_rows)
        tiles = jax.lax.map(geometry.cost_rows, starts)
        return (
            sums(geometry, *args),
            geometry.cost_matrix(),
            stored,
            geometry.largest_cost(*everywhere),
            tiles,
        )

    result, matrix, stored, largest, tiles = everything(geometry, *args)
    assert result.dtype == dtype
    assert_close(result, expected, rtol)
    assert_close(matrix, C, rtol)
    assert_close(stored, C, rtol)
    assert_close(largest, np.max(np.abs(C)), rtol)
    assert tiles.shape[1:] == (geometry.tile_rows, C.shape[1])
    filled = C[np.minimum(np.arange(tiles.shape[0] * tiles.shape[1]), C.shape[0] - 1)]
    assert_close(tiles.reshape(filled.shape), filled, rtol)


def assert_same_derivatives(function, dense, arguments):
    """Values and a gradient, each with its tangent."""
    rng = np.random.default_rng(2)
    direction = jax.tree.map(lambda z: rng.normal(size=z.shape), arguments)
    cotangent = rng.normal(size=jax.eval_shape(dense, *arguments).shape)

    def derivatives(function):
        def first_order(*args):
            values, pull_back = jax.vjp(function, *args)
            return values, pull_back(cotangent)

        return jax.jit(lambda args: jax.jvp(first_order, args, direction))(arguments)

    assert_close(derivatives(function), derivatives(dense), 1e-11)


@pytest.mark.parametrize("layout", SUMMED, ids=str, indirect=True)
def test_derivatives_are_those_of_the_dense_formula(layout):
    parameters, build, costs = layout
    assert_same_derivatives(
        lambda p, *args: sums(build(p), *args),
        lambda p, *args: dense_sums(costs(p), p["epsilon"], *args),
        (parameters, *vectors(jax.eval_shape(costs, parameters).shape)),
    )


@pytest.mark.parametrize("name", CASES)
def test_derivatives_of_the_costs(name):
    case = CASES[name]
    assert_same_derivatives(
        lambda p: case.build(p).cost_matrix(), case.costs, (case.parameters(np.random.default_rng(0)),)
    )


PRODUCTS = [("matrix", False), ("euclidean", True), ("grid", True)]


@pytest.mark.parametrize("layout", PRODUCTS, ids=str, indirect=True)
def test_products_are_transposed(layout):
    """As implicit derivatives need it: in `v` alone, by reverse mode and as `T` has it."""
    parameters, build, costs = layout
    geometry = build(parameters)
    f, g, a, b, v, columns = vectors(geometry.shape)
    u = np.linspace(-1, 2, f.size)
    transposed = jax.jit(jax.linear_transpose(lambda v: geometry.apply(f, g, a, b, v), v))
    expected = jax.jit(lambda u: geometry.T.apply(g, f, b, a, u))
    assert_close(transposed(u)[0], expected(u), 1e-12)


@pytest.mark.parametrize("name", ["euclidean_many_coordinates", "function", "matrix", "grid"])
def test_a_batch_is_a_loop(name, monkeypatch):
    monkeypatch.setattr(geometries, "TILE", SMALL_TILE)
    case = CASES[name]
    problems = [case.parameters(np.random.default_rng(seed)) for seed in (3, 4)]
    shape = jax.eval_shape(case.costs, problems[0]).shape
    args = [vectors(shape, seed=seed) for seed in (5, 6)]
    stack = lambda *leaves: np.stack(leaves)  # noqa: E731
    one = lambda p, args: sums(case.build(p), *args)  # noqa: E731
    batch = jax.jit(jax.vmap(one))(jax.tree.map(stack, *problems), jax.tree.map(stack, *args))
    loop = [dense_sums(case.costs(p), p["epsilon"], *z) for p, z in zip(problems, args, strict=True)]
    assert_close(batch, np.stack(loop), 1e-12)


@pytest.mark.parametrize("name", CASES)
def test_a_geometry_is_a_pytree(name):
    case = CASES[name]
    geometry = case.build(case.parameters(np.random.default_rng(0)))
    leaves, structure = jax.tree.flatten(geometry)
    assert all(eqx.is_array(leaf) for leaf in leaves)
    assert hash(structure) == hash(jax.tree.structure(geometry.T.T))
    jax.tree.unflatten(structure, [object()] * len(leaves))
    jax.tree.map(lambda _: None, geometry)
    assert eqx.tree_equal(jax.tree.unflatten(structure, leaves), geometry)
    assert eqx.tree_equal(geometry.T.T, geometry)
    assert geometry.T.source_shape == geometry.target_shape
    assert float(geometry.with_epsilon(0.5).epsilon) == 0.5
    assert_close(geometry.with_epsilon(0.5).cost_matrix(), geometry.cost_matrix(), 0)


TINY, TINY_32 = (np.float64, 1e-12, True), (np.float32, 1e-5, False)
SMALL = [(name, *TINY) for name in ("squared_euclidean", "euclidean_many_coordinates", "matrix")]
SMALL += [("grid_of_several_costs", *TINY)]
SMALL += [(name, *TINY_32) for name in ("squared_euclidean", "matrix", "one_source")]


@pytest.mark.parametrize("name, dtype, fraction, streamed", SMALL)
def test_small_epsilon(name, dtype, fraction, streamed, monkeypatch):
    """Exponents of a million: sums, and derivatives in everything, stay right or at least finite."""
    if streamed:
        monkeypatch.setattr(geometries, "TILE", SMALL_TILE)
    case = CASES[name]
    parameters = {k: z.astype(dtype) for k, z in case.parameters(np.random.default_rng(0)).items()}
    C = np.asarray(case.build(parameters).cost_matrix(), np.float64)
    largest = np.max(np.abs(C))
    parameters["epsilon"] = np.asarray(fraction * largest, dtype)
    epsilon = float(parameters["epsilon"])
    _, g, a, b, v, columns = vectors(C.shape, dtype)
    g[b == 0] = 1e6  # what has no weight has no say
    if C.shape[1] > 3:
        b[3] = np.finfo(dtype).tiny * 8  # hardly any weight, where this still counts for some rows
        g[3] += 0.5
    expected = -epsilon * logsumexp((g - C) / epsilon, b=b, axis=1)

    softmin = jax.jit(lambda g: case.build(parameters).softmin(g, b))
    f = softmin(g)
    assert_close(f, expected, 8 * np.finfo(dtype).eps)
    # Rows whose sum was just computed have mass a_i, up to the rounding of the exponent.
    g[b == 0] = np.min(g[b > 0])
    f = np.array(softmin(g))
    rounding = 8 * np.finfo(dtype).eps / fraction
    if rounding < 0.1:
        mass = jax.jit(lambda f: case.build(parameters).apply(f, g, a, b, np.ones_like(b)))(f)
        assert_close(mass, a, 2 * rounding)

    def total(parameters, *args):
        return jnp.sum(sums(case.build(parameters), *args))

    g[b == 0] = 1e6
    f[a == 0] = 1e6
    value, gradient = jax.jit(jax.value_and_grad(total, argnums=tuple(range(7))))(
        parameters, f, g, a, b, v, columns
    )
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_coinciding_points_have_no_force():
    x = np.ones((3, 2))

    def total(x, epsilon):
        geometry = PointCloud(x, cost="euclidean", epsilon=epsilon)
        return jnp.sum(geometry.softmin(jnp.arange(3.0), jnp.ones(3)))

    gradient = jax.jit(jax.grad(total))(x, 0.1)
    hessian = jax.jit(jax.hessian(total))(x, 0.1)
    np.testing.assert_array_equal(gradient, 0)
    np.testing.assert_array_equal(hessian, 0)


@pytest.mark.parametrize("d", [2, 11])
@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
def test_clouds_far_from_the_origin_keep_their_digits(d, dtype):
    rng = np.random.default_rng(0)
    x, y = ((rng.random((n, d)) + 1e4).astype(dtype) for n in (7, 5))
    exact = np.sum((x[:, None].astype(np.longdouble) - y[None]) ** 2, axis=-1)
    C = PointCloud(x, y, epsilon=0.1).cost_matrix()
    assert_close(C, exact.astype(np.float64), 8 * np.finfo(dtype).eps)


def test_zero_vectors_cost_one_where_nobody_can_look():
    def matrix(x):
        return PointCloud(x, cost="cosine", epsilon=0.1).cost_matrix()

    x = np.array([[0.0, 0.0], [1.0, 1.0], [1e-30, 0.0]], np.float32)
    np.testing.assert_allclose(jax.jit(matrix)(x)[0], 1)
    assert np.all(np.isfinite(jax.jit(jax.jacobian(matrix))(x)))


def _largest_array(jaxpr) -> int:
    """Number of entries of the largest array that a program computes."""
    largest = 0
    for equation in jaxpr.eqns:
        largest = max([largest, *(np.prod(v.aval.shape, dtype=int) for v in equation.outvars)])
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                largest = max(largest, _largest_array(inner))
    return largest


@pytest.mark.parametrize("cost", ["squared_euclidean", "euclidean", "manhattan", "cosine", "function"])
@pytest.mark.parametrize("order", ["forward", "gradient", "hessian"])
def test_streamed_sums_never_hold_the_matrix(cost, order, monkeypatch):
    monkeypatch.setattr(geometries, "TILE", 256)
    n, m, d = 128, 64, 2
    rng = np.random.default_rng(0)
    x, y = rng.random((n, d)) + 1, rng.random((m, d)) + 1
    function = Stretched(jnp.array(0.5)) if cost == "function" else cost

    def total(x, y, f, g, a, b, v):
        geometry = PointCloud(x, y, function, epsilon=0.1)
        assert not geometry.fits
        return (
            jnp.sum(geometry.softmin(g, b) ** 2)
            + jnp.sum(geometry.apply(f, g, a, b, v) ** 2)
            + jnp.sum(geometry.squares(f, g, a, b, v) ** 2)
            + geometry.transport_cost(f, g, a, b)
            + geometry.largest_cost(a, b)
        )

    arguments = (x, y, *vectors((n, m))[:5])
    program = total
    if order != "forward":
        program = jax.grad(total, argnums=tuple(range(7)))
    if order == "hessian":
        gradient = program
        program = lambda *args: jax.jvp(gradient, args, args)  # noqa: E731
    largest = _largest_array(jax.make_jaxpr(program)(*arguments).jaxpr)
    assert 256 <= largest <= 2 * 256 < n * m


def test_grids_never_hold_the_matrix():
    axes = [np.linspace(0, 1, n) for n in (16, 12)]
    n = 16 * 12

    def total(g, b):
        geometry = Grid(axes, epsilon=0.1)
        return jnp.sum(geometry.softmin(g, b)) + geometry.transport_cost(g, g, b, b)

    program = jax.make_jaxpr(jax.grad(total, argnums=(0, 1)))(np.zeros(n), np.ones(n))
    assert _largest_array(program.jaxpr) <= 2 * n * 16


X = np.random.default_rng(0).random((4, 2))
ONE_NAN, ONE_ZERO = X.copy(), X.copy()
ONE_NAN[1, 1], ONE_ZERO[1, 1] = np.nan, 0
WRONG = {
    "flat_points": (lambda: PointCloud(X[0], epsilon=0.1), ValueError, r"`x`.*\(n, d\).*\(n, 1\)"),
    "no_points": (lambda: PointCloud(X[:0], epsilon=0.1), ValueError, "`x`.*n >= 1"),
    "other_dimension": (lambda: PointCloud(X, X[:, :1], epsilon=0.1), ValueError, "2 and 1 coordinates"),
    "complex_points": (lambda: PointCloud(X + 1j, epsilon=0.1), TypeError, "`x`.*complex128"),
    "half_precision": (lambda: PointCloud(X.astype(np.float16), epsilon=0.1), TypeError, "float16"),
    "text": (lambda: PointCloud(X, [["a", "b"]], epsilon=0.1), TypeError, "`y`"),
    "nan_points": (lambda: PointCloud(X, X * np.nan, epsilon=0.1), ValueError, "`y`.*finite"),
    "infinite_points": (lambda: PointCloud(X / 0.0, epsilon=0.1), ValueError, "`x`.*finite"),
    "unknown_cost": (lambda: PointCloud(X, cost="euclid", epsilon=0.1), ValueError, "'euclid'.*'cosine'"),
    "no_cost": (lambda: PointCloud(X, cost=2, epsilon=0.1), TypeError, "`cost` must be a name"),  # pyright: ignore
    "vector_cost": (lambda: PointCloud(X, cost=lambda x, y: x - y, epsilon=0.1), ValueError, r"shape \(2,\)"),
    "no_array": (lambda: PointCloud(X, cost=lambda x, y: None, epsilon=0.1), ValueError, "NoneType"),
    "integer_cost": (
        lambda: PointCloud(X, cost=lambda x, y: jnp.array(1), epsilon=0.1),
        TypeError,
        "float64.*int64",
    ),
    "nan_cost": (
        lambda: solve(PointCloud(X, cost=lambda x, y: jnp.log(-x[0]), epsilon=0.1)),
        ValueError,
        "cost between some sites is not finite: NaN",
    ),
    "overflowing_cost": (
        lambda: solve(PointCloud(X * 1e200, epsilon=0.1)),
        ValueError,
        "too large for float64",
    ),
    "zero_vector": (lambda: solve(PointCloud(X * 0, cost="cosine", epsilon=0.1)), ValueError, "zero vector"),
    "zero_epsilon": (lambda: PointCloud(X, epsilon=0), ValueError, "positive"),
    "negative_epsilon": (lambda: CostMatrix(X, epsilon=-1.0), ValueError, "positive"),
    "nan_epsilon": (lambda: CostMatrix(X, epsilon=np.nan), ValueError, "`epsilon` must be finite"),
    "infinite_epsilon": (lambda: CostMatrix(X, epsilon=np.inf), ValueError, "`epsilon` must be finite"),
    "complex_epsilon": (lambda: CostMatrix(X, epsilon=1j), TypeError, "`epsilon`"),  # pyright: ignore
    "many_epsilons": (lambda: CostMatrix(X, epsilon=[1.0, 2.0]), ValueError, "vmap"),  # pyright: ignore
    "new_epsilon": (lambda: CostMatrix(X, epsilon=1.0).with_epsilon(-1.0), ValueError, "positive"),
    "tiny_epsilon": (lambda: solve(PointCloud(X * 1e3, epsilon=1e-13)), ValueError, "too small.*float64"),
    "tiny_epsilon_matrix": (lambda: solve(CostMatrix(X, epsilon=1e-20)), ValueError, "too small"),
    "tiny_epsilon_32": (
        lambda: solve(PointCloud(X.astype(np.float32) * 1e3, epsilon=1e-3)),
        ValueError,
        "too small.*float32.*or use float64",
    ),
    "tiny_epsilon_grid": (lambda: solve(Grid([X[:, 0]], epsilon=1e-20)), ValueError, "too small"),
    "flat_matrix": (lambda: CostMatrix(X[0], epsilon=0.1), ValueError, "`C` must be a matrix"),
    "empty_matrix": (lambda: CostMatrix(X[:0], epsilon=0.1), ValueError, "n, m >= 1"),
    "nan_matrix": (lambda: CostMatrix(X * np.nan, epsilon=0.1), ValueError, "`C`.*finite"),
    "one_nan_point": (lambda: solve(PointCloud(ONE_NAN, epsilon=0.1)), ValueError, "`x`.*finite.*row 1"),
    "one_nan_cost": (lambda: solve(CostMatrix(ONE_NAN, epsilon=0.1)), ValueError, "`C`.*finite"),
    "forbidden_pair": (lambda: solve(CostMatrix(-1 / ONE_ZERO, epsilon=0.1)), ValueError, "`C`.*finite"),
    "forbidden_pairs": (lambda: solve(CostMatrix(1 / ONE_ZERO, 0.1)), ValueError, "large finite cost"),
    "complex_matrix": (lambda: CostMatrix(X * 1j, epsilon=0.1), TypeError, "complex128"),
    "one_axis": (lambda: Grid(X[0], epsilon=0.1), ValueError, "sequence with one array"),
    "no_axis": (lambda: Grid([], epsilon=0.1), ValueError, "sequence with one array"),
    "axis_of_points": (lambda: Grid([X], epsilon=0.1), ValueError, r"`axes\[0\]`.*\(4, 2\)"),
    "nan_axis": (lambda: Grid([X[0], X[1] * np.nan], epsilon=0.1), ValueError, r"`axes\[1\]`.*finite"),
    "missing_axis": (lambda: Grid([X[0], X[1]], [X[0]], epsilon=0.1), ValueError, "2 axes.*1"),
    "missing_cost": (lambda: Grid([X[0], X[1]], cost=["manhattan"], epsilon=0.1), ValueError, "1 entries.*2"),
    "inseparable": (lambda: Grid([X[0]], cost="euclidean", epsilon=0.1), ValueError, "PointCloud"),
    "no_axis_cost": (lambda: Grid([X[0]], cost=[3], epsilon=0.1), TypeError, "`cost`"),  # pyright: ignore
    "vector_axis_cost": (
        lambda: Grid([X[0]], cost=lambda s, t: jnp.stack([s, t]), epsilon=0.1),
        ValueError,
        r"returned shape \(2,\)",
    ),
    "integer_axis_cost": (
        lambda: Grid([X[0]], cost=lambda s, t: jnp.array(1), epsilon=0.1),
        TypeError,
        "int64",
    ),
    "nan_axis_cost": (
        lambda: Grid([X[0]], cost=lambda s, t: jnp.log(-s), epsilon=0.1),
        ValueError,
        "NaN or infinity",
    ),
}


@pytest.mark.parametrize("build, error, message", WRONG.values(), ids=WRONG.keys())
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_wrong_input_is_refused(build, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        build()


def test_integers_become_floats():
    assert PointCloud([[1, 2], [3, 4]], epsilon=1).dtype == np.float64
    assert CostMatrix([[1, 2], [3, 4]], epsilon=1).dtype == np.float64
    assert Grid([[0, 1], [0, 1, 2]], epsilon=1).dtype == np.float64
    assert PointCloud(np.ones((2, 1), np.float32), np.ones((2, 1)), epsilon=1).dtype == np.float64

"""Multigrid that looks at its coefficients: black-box interpolation, bounds, and where it turns algebraic."""

import itertools
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg

import nsolve as ns
from nsolve.preconditioners.multigrid import galerkin, hybrid, plan, smoothers
from nsolve.preconditioners.multigrid.black_box import coarsen_box
from nsolve.preconditioners.multigrid.stencils import Kind, as_operator, masked

Multigrid = ns.preconditioners.Multigrid
StencilLinearOperator = ns.operators.StencilLinearOperator
NINE = list(itertools.product((-1, 0, 1), repeat=2))


def m_matrix(shape, periodic=(False, False), seed=0, symmetric=False, points=NINE):
    """A random stencil with negative neighbours, rows summing to something positive."""
    rng = np.random.default_rng(seed)
    if symmetric:
        field = np.exp(2 * rng.normal(size=shape))
        return StencilLinearOperator.diffusion(
            field, 1.0, ["periodic" if p else "dirichlet" for p in periodic]
        )
    stencil = {offset: -rng.uniform(0.1, 1, shape) for offset in points if any(offset)}
    stencil[0, 0] = -sum(stencil.values()) + 0.1
    return StencilLinearOperator.from_stencil(stencil, shape, periodic)


def dense_of(function, shape):
    """A linear function of arrays of a shape, as a matrix."""
    size = int(np.prod(shape))
    rows = jax.jit(jax.vmap(function))(np.eye(size).reshape(size, *shape))
    return np.asarray(rows).reshape(size, -1).T


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    ("shape", "periodic"),
    [((9, 8), (False, False)), ((6, 7), (False, False)), ((8, 9), (True, False)), ((6, 8), (True, True))],
)
def test_coarse_stencil_is_the_galerkin_product(shape, periodic, symmetric, compiled):
    operator = m_matrix(shape, periodic, symmetric=symmetric)
    offsets = dict(zip(operator.offsets, operator.coefficients, strict=True))
    stencil = masked({o: np.asarray(c) for o, c in offsets.items()}, shape, periodic)
    mirrored = symmetric and not any(periodic)
    make = jax.jit(coarsen_box, static_argnums=(1, 2)) if compiled else coarsen_box
    interpolation, coarse = make(stencil, periodic, mirrored)
    if mirrored:
        coarse = galerkin._completed(coarse, periodic)
    kept = next(iter(coarse.values())).shape
    p = dense_of(interpolation.prolong, kept)
    np.testing.assert_allclose(dense_of(interpolation.restrict, shape), p.T, atol=1e-14)
    matrix = operator.as_scipy().toarray()
    found = as_operator(coarse, Kind.of(operator)).as_scipy().toarray()
    np.testing.assert_allclose(found, p.T @ matrix @ p, atol=1e-12 * abs(matrix).max())


def test_interpolation_follows_the_operator():
    """Rows of `A P` vanish at the middles of four, and summed over the other axis between two (Dendy)."""
    shape = (9, 9)
    operator = m_matrix(shape, seed=3)
    stencil = {o: np.asarray(c) for o, c in zip(operator.offsets, operator.coefficients, strict=True)}
    interpolation, _ = coarsen_box(masked(stencil, shape, (False, False)), (False, False), False)
    p = dense_of(interpolation.prolong, (4, 4))
    rows = (operator.as_scipy().toarray() @ p).reshape(*shape, -1)
    np.testing.assert_allclose(rows[0::2, 0::2], 0, atol=1e-12)
    p = p.reshape(*shape, 4, 4)
    for i, k in itertools.product(range(1, 4), range(4)):
        x, y = 2 * i, 2 * k + 1  # between (i - 1, k) and (i, k)
        below, centre, above = (sum(stencil[s, t][x, y] for t in (-1, 0, 1)) for s in (-1, 0, 1))
        np.testing.assert_allclose(p[x, y, i - 1, k], -below / centre)
        np.testing.assert_allclose(p[x, y, i, k], -above / centre)


ENERGIES = [
    ((9, 8), (False, False)),
    ((8, 9), (False, False)),
    ((6, 8), (True, True)),
    ((7, 6, 5), (False,) * 3),
]


def least_energy(matrix, p):
    """The trace of `P^T A P` at its least among all `P` with nonzeros where `p` has them, and its sums of
    rows."""
    places = np.argwhere(p)
    sums = (places[:, 0] == np.arange(len(p))[:, None]).astype(float)
    energy = matrix[np.ix_(places[:, 0], places[:, 0])] * (places[:, 1] == places[:, 1][:, None])
    free = scipy.linalg.null_space(sums)
    start = p[tuple(places.T)]
    least = start - free @ np.linalg.solve(free.T @ energy @ free, free.T @ energy @ start)
    return least @ energy @ least


@pytest.mark.parametrize(("shape", "periodic"), ENERGIES)
def test_interpolation_of_least_energy(shape, periodic):
    boundary = ["periodic" if wraps else "dirichlet" for wraps in periodic]
    field = np.exp(2 * np.random.default_rng(0).normal(size=shape))
    operator = StencilLinearOperator.diffusion(field, 1.0, boundary)
    matrix, found = operator.as_scipy().toarray(), []
    for energy in (False, True):
        interpolation, coarse = coarsen_box(galerkin.masked_stencil(operator), periodic, False, energy)
        p = dense_of(interpolation.prolong, next(iter(coarse.values())).shape)
        product = as_operator(coarse, Kind.of(operator)).as_scipy().toarray()
        np.testing.assert_allclose(product, p.T @ matrix @ p, atol=1e-12 * abs(matrix).max())
        found.append(p)
    before, after = (np.trace(p.T @ matrix @ p) for p in found)
    least = least_energy(matrix, found[0])
    assert least <= after < least + 0.1 * (before - least)
    np.testing.assert_allclose(found[1].sum(1), found[0].sum(1), atol=1e-14)
    assert not np.any(found[1][found[0] == 0])
    stencil = jax.tree.map(jnp.asarray, galerkin.masked_stencil(operator))
    traced, _ = jax.jit(coarsen_box, static_argnums=(1, 2, 3))(stencil, periodic, False, True)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-12), traced, interpolation)


@pytest.mark.parametrize("seed", range(4))
def test_bound_of_the_power_method(seed):
    """Close below the largest eigenvalue at worst: the smoother's own margin is a fifth."""
    field = np.exp(2 * np.random.default_rng(seed).normal(size=(24, 23)))
    operator = StencilLinearOperator.diffusion(field)
    kind, stencil = Kind.of(operator), galerkin.masked_stencil(operator)
    _, coarse, _ = galerkin.coarsen(stencil, (0, 1), kind, plan.Coarsening(False, (), (), 0))
    matrix = as_operator(coarse, kind).as_scipy().toarray()
    inverse_diagonal = 1 / np.diag(matrix)
    scale = np.sqrt(inverse_diagonal)
    largest = np.linalg.eigvalsh(scale[:, None] * matrix * scale)[-1]
    args = coarse, inverse_diagonal.reshape(coarse[0, 0].shape), np.ones(coarse[0, 0].shape), kind.periodic
    bound = smoothers.power_bound(*args)
    assert 0.9 * largest <= bound <= 1.05 * largest * (1 + 1e-12)
    traced = jax.jit(smoothers.power_bound, static_argnums=3)(*args)
    np.testing.assert_allclose(traced, bound, rtol=1e-12)


@eqx.filter_jit
def as_matrix(operator):
    return operator.as_matrix()


@eqx.filter_jit
def apply(operator, vector):
    return operator.mv(vector)


FAMILIES = {
    "blocks of 3": lambda n: ns.gallery.blocks(0, (n, n), size=3, contrast=1e4),
    "checkers of 5": lambda n: ns.gallery.checkerboard((n, n), size=5, contrast=1e4),
}


def counted(problem, preconditioner, rtol=1e-8):
    solver = ns.CG(rtol=rtol, max_steps=300)
    solution = lx.linear_solve(
        problem.operator, problem.vector, solver, options={"preconditioner": preconditioner}
    )
    residual = jnp.linalg.norm(problem.vector - problem.operator.mv(solution.value))
    assert residual <= 1.01 * rtol * jnp.linalg.norm(problem.vector)
    return int(solution.stats["num_steps"])


@pytest.mark.parametrize("name", FAMILIES)
def test_islands_are_found_and_coarsened_by_the_matrix(name):
    problem = ns.gallery.diffusion(0, FAMILIES[name](128))
    preconditioner = Multigrid()(problem.operator)
    assert preconditioner.plan.algebraic and 1 <= len(preconditioner.levels) <= 2
    geometric = Multigrid(algebraic=None)(problem.operator)
    assert not geometric.plan.algebraic
    assert counted(problem, preconditioner) <= 14 and counted(problem, geometric) >= 25


def test_smooth_coefficients_stay_geometric():
    problem = ns.gallery.diffusion(0, ns.gallery.lognormal(0, (100, 90), sigma=2.0))
    preconditioner = Multigrid()(problem.operator)
    assert not preconditioner.plan.algebraic and not preconditioner.plan.incomplete
    assert counted(problem, preconditioner) <= 8


@pytest.mark.parametrize("angle", [15, 105])
def test_turned_anisotropy_is_smoothed_by_factors(angle):
    problem = ns.gallery.rotated_anisotropy(0, (95, 96), 1e-2, np.deg2rad(angle))
    preconditioner = Multigrid()(problem.operator)
    assert preconditioner.plan.incomplete
    assert counted(problem, preconditioner) <= 6
    assert counted(problem, Multigrid(smoother="chebyshev", algebraic=None)(problem.operator)) >= 12


@pytest.mark.parametrize("angle", [45, 120])
def test_factors_are_damped_until_they_converge(angle, monkeypatch):
    """Undamped, the largest eigenvalue of `M A` is above 2, and the cycle indefinite."""
    monkeypatch.setattr(plan, "_COARSEST", {True: 30, False: 30})
    operator = ns.gallery.rotated_anisotropy(0, (31, 30), 1e-2, np.deg2rad(angle)).operator
    preconditioner = Multigrid(smoother="incomplete_cholesky", algebraic=None)(operator)
    assert any(level.smoother.weight < 1 for level in preconditioner.levels)
    inverse = np.asarray(as_matrix(preconditioner))
    spectrum = np.sort(scipy.linalg.eigvals(inverse @ operator.as_scipy().toarray()).real)
    assert spectrum[0] > 0.1 and spectrum[-1] < 1.1


def test_anisotropy_along_an_axis_is_not_halved_across():
    """Bilinear elements have positive couplings across: their sizes mislead, their signs do not."""
    problem = ns.gallery.rotated_anisotropy(0, (95, 96), 1e-2, 0.0)
    preconditioner = Multigrid()(problem.operator)
    assert preconditioner.plan.steps[0] == (0,)
    assert counted(problem, preconditioner) <= 8


@pytest.mark.parametrize(("epsilon", "angle"), [(1e-3, 30), (1e-3, 45)])
def test_strong_anisotropy_is_smoothed_by_damped_factors(epsilon, angle):
    problem = ns.gallery.rotated_anisotropy(0, (63, 64), epsilon, np.deg2rad(angle))
    preconditioner = Multigrid()(problem.operator)
    assert preconditioner.plan.incomplete and preconditioner.levels[0].smoother.weight < 0.5
    assert counted(problem, preconditioner) <= 12


@pytest.mark.parametrize("name", FAMILIES)
def test_plans_are_what_is_chosen_and_may_be_traced(name):
    problem = ns.gallery.diffusion(1, FAMILIES[name](96))
    planned = Multigrid().planned(problem.operator)
    assert planned.plan == Multigrid()(problem.operator).plan and planned.plan.algebraic
    steps = []
    for constructor in (planned, Multigrid()):
        solver = ns.CG(rtol=1e-8, max_steps=300, preconditioner=constructor)
        steps.append(int(lx.linear_solve(problem.operator, problem.vector, solver).stats["num_steps"]))
    assert steps[0] <= 12 < steps[1] / 1.5


def test_plans_are_made_of_the_part_that_varies():
    """Islands in one corner of a grid that is too large to be looked at as a whole."""
    field = np.ones((400, 300))
    field[-130:, -130:] = ns.gallery.blocks(0, (130, 130), size=3, contrast=1e4)
    operator = ns.gallery.diffusion(0, field).operator
    assert Multigrid().planned(operator).plan.algebraic
    assert (
        not Multigrid().planned(ns.gallery.diffusion(0, np.exp(np.ones((400, 300)))).operator).plan.algebraic
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_plans_of_what_is_not_finite_are_left_to_the_solve(value):
    operator = m_matrix((40, 40), symmetric=True)
    undefined = eqx.tree_at(lambda o: o.coefficients[0], operator, operator.coefficients[0] * value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Multigrid().planned(undefined).plan is not None


def test_plans_for_another_grid_are_refused():
    planned = Multigrid().planned(m_matrix((40, 40)))
    assert planned(m_matrix((41, 41), seed=1)).plan == planned.plan  # which ends in the same grid
    with pytest.raises(ValueError, match=r"`Multigrid\(plan=...\)` was planned for another operator"):
        planned(m_matrix((64, 64)))
    constant = Multigrid().planned(ns.gallery.poisson(0, (80, 80)).operator)
    with pytest.raises(ValueError, match="planned for another operator"):
        constant(m_matrix((80, 80)))
    with pytest.raises(TypeError, match=r"`Multigrid\(plan=...\)` must be made by"):
        Multigrid(plan="V")  # pyright: ignore[reportArgumentType]


CHOICES = [
    {"algebraic": 0},
    {"algebraic": 1},
    {"smoother": "incomplete_cholesky"},
    {"interpolation": "energy"},
]


@pytest.mark.parametrize("options", CHOICES)
@pytest.mark.parametrize("boundary", ["dirichlet", "neumann", "periodic"])
def test_every_cycle_is_symmetric_and_positive(options, boundary, monkeypatch):
    monkeypatch.setattr(plan, "_COARSEST", {True: 30, False: 30})
    field = np.exp(2 * np.random.default_rng(1).normal(size=(16, 14)))
    operator = StencilLinearOperator.diffusion(field, 1.0, boundary)
    preconditioner = Multigrid(**options)(operator)
    inverse, matrix = np.asarray(as_matrix(preconditioner)), operator.as_scipy().toarray()
    np.testing.assert_allclose(inverse, inverse.T, atol=1e-9 * abs(inverse).max())
    spectrum = np.sort(scipy.linalg.eigvals(inverse @ matrix).real)
    singular = boundary != "dirichlet"
    assert spectrum[int(singular)] > 0.2 and spectrum[-1] < 1.1
    np.testing.assert_allclose(as_matrix(preconditioner.transpose()), inverse, atol=0)


@pytest.mark.parametrize("options", [{"algebraic": 1}, {"smoother": "incomplete_cholesky"}])
def test_refresh_is_set_up_anew_also_traced(options):
    first, second = (m_matrix((20, 18), seed=k, symmetric=True) for k in (0, 1))
    vector = jnp.asarray(np.random.default_rng(5).normal(size=(20, 18)))
    expected = apply(Multigrid(**options)(second), vector)
    refreshed = Multigrid(**options)(first).refresh(second)
    np.testing.assert_allclose(apply(refreshed, vector), expected, rtol=1e-10)
    traced = eqx.filter_jit(lambda m, a, v: m.refresh(a).mv(v))(Multigrid(**options)(first), second, vector)
    np.testing.assert_allclose(traced, expected, rtol=1e-9)
    built = eqx.filter_jit(lambda a, v: Multigrid(**options)(a).mv(v))(second, vector)
    np.testing.assert_allclose(built, expected, rtol=1e-9)


def test_inactive_cells_above_algebraic_grids():
    field = np.asarray(ns.gallery.blocks(0, (40, 40), size=3, contrast=1e4))
    field[5:17, 8:20] = 0
    problem = ns.gallery.diffusion(0, field)
    for level in (0, 1):
        assert counted(problem, Multigrid(algebraic=level)(problem.operator)) <= 20


def test_the_hierarchy_is_shown():
    problem = ns.gallery.diffusion(0, FAMILIES["blocks of 3"](128))
    text = repr(Multigrid()(problem.operator)).splitlines()
    assert "operator complexity" in text[0] and "128 x 128" in text[2] and "Chebyshev" in text[2]
    assert "64 x 64" in text[3] and "Gauss-Seidel" in text[3] and "of the matrix" in text[4]
    assert max(map(len, text)) <= 100


def test_turning_depends_on_all_levels_above():
    assert hybrid.turns_algebraic([0.2], 2)
    assert not hybrid.turns_algebraic([0.03], 2)
    assert hybrid.turns_algebraic([0.0, 0.1], 2)
    assert not hybrid.turns_algebraic([0.03, 0.1], 2)  # the finest grid's points are the wrong ones
    assert not hybrid.turns_algebraic([np.nan], 2)


@pytest.mark.parametrize("constant", [False, True])
def test_a_smoother_that_was_asked_for_is_there(constant):
    field = np.ones((12, 11)) if constant else np.exp(np.random.default_rng(0).normal(size=(12, 11)))
    operator = StencilLinearOperator.diffusion(field)
    if constant:
        operator = StencilLinearOperator.poisson((12, 11))
    text = repr(Multigrid(smoother="incomplete_cholesky")(operator))
    assert "IC(0)" in text
    assert "IC(0)" not in repr(Multigrid(smoother="chebyshev")(operator))


def test_negative_and_undefined_operators_are_halved_as_others():
    field = np.exp(np.random.default_rng(0).normal(size=(40, 30)))
    operator = StencilLinearOperator.diffusion((field, 1e-3 * field))
    stencil = dict(zip(operator.offsets, (-c for c in operator.coefficients), strict=True))
    negative = StencilLinearOperator.from_stencil(stencil, (40, 30), tags=lx.negative_semidefinite_tag)
    made, expected = Multigrid()(negative), Multigrid(algebraic=None)(operator)
    assert made.plan.steps == expected.plan.steps and made.plan.steps[0] == (0,)
    undefined = eqx.tree_at(lambda o: o.coefficients[0], operator, operator.coefficients[0] * jnp.nan)
    vector = jnp.ones((40, 30))
    assert jnp.isnan(apply(Multigrid()(undefined), vector)).all()


def test_less_energy_takes_nothing_of_points_that_are_not_there():
    """Neither where grids are padded, nor of inactive cells."""
    field = np.exp(2 * np.random.default_rng(0).normal(size=(10, 9)))
    field[3:6, 3:8] = 0
    stencil = galerkin.masked_stencil(StencilLinearOperator.diffusion(field))
    padded = {offset: np.pad(c, ((0, 6), (0, 7))) for offset, c in stencil.items()}
    _, coarse = coarsen_box(stencil, (False, False), False, True)
    _, larger = coarsen_box(padded, (False, False), False, True)
    solid = field[1::2, 1::2] == 0
    for offset, c in coarse.items():
        n, m = c.shape
        assert offset == (0, 0) or not np.any(c[solid])
        np.testing.assert_allclose(larger[offset][:n, :m], c, atol=1e-13)
        assert not larger[offset][n:].any() and not larger[offset][:, m:].any()


def test_less_energy_takes_fewer_steps_on_rough_media():
    steps = {"black_box": 0, "energy": 0}
    for seed in range(6):
        problem = ns.gallery.diffusion([seed, 1], ns.gallery.lognormal([seed, 0], (64, 64), 2.0, "white"))
        for name in steps:
            steps[name] += counted(problem, Multigrid(interpolation=name, algebraic=None)(problem.operator))
    assert steps["energy"] < 0.97 * steps["black_box"]


def test_interpolation_of_least_energy_is_for_positive_operators():
    with pytest.raises(ValueError, match=r"`Multigrid\(interpolation='energy'\)` takes real operators"):
        Multigrid(interpolation="energy")(m_matrix((20, 20)))
    with pytest.raises(ValueError, match=r"`Multigrid\(interpolation=...\)` must be 'black_box' or 'energy'"):
        Multigrid(interpolation="least")


@pytest.mark.parametrize("level", [-1, True, 1.5, "geometric"])
def test_bad_levels_are_named(level):
    with pytest.raises(ValueError, match=r"`Multigrid\(algebraic=...\)` must be"):
        Multigrid(algebraic=level)


def test_bad_smoothers_are_named():
    with pytest.raises(ValueError, match=r"`Multigrid\(smoother=...\)` must be"):
        Multigrid(smoother="gauss")  # pyright: ignore[reportArgumentType]
    convection = m_matrix((80, 80))
    with pytest.raises(ValueError, match="`Multigrid\\(smoother='incomplete_cholesky'\\)` takes"):
        Multigrid(smoother="incomplete_cholesky")(convection)
    with pytest.raises(ValueError, match="`Multigrid\\(algebraic=0\\)` takes"):
        Multigrid(algebraic=0)(convection)

"""Cycles and smoothers of geometric multigrid, against dense algebra and closed forms."""

import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg

import nsolve as ns
from nsolve.preconditioners.multigrid import cycle, plan

Multigrid = ns.preconditioners.Multigrid
StencilLinearOperator = ns.operators.StencilLinearOperator


@pytest.fixture(autouse=True)
def deep(monkeypatch):
    """Coarsens down to a few points, so that small grids have several levels."""
    monkeypatch.setattr(plan, "_COARSEST", {True: 40, False: 40})
    monkeypatch.setattr(plan, "_LONGEST", {True: 10, False: 30})


def lognormal(shape, seed=0, sigma=1.5):
    return StencilLinearOperator.diffusion(np.exp(sigma * np.random.default_rng(seed).normal(size=shape)))


def nine_point(shape, seed=0):
    """Symmetric positive, with couplings across, as bilinear elements have."""
    field = np.exp(np.random.default_rng(seed).normal(size=(shape[0] + 1, shape[1] + 1)))
    stencil = {(i, k): np.zeros(shape) for i in (-1, 0, 1) for k in (-1, 0, 1)}
    for row, column in np.ndindex(2, 2):  # the four cells around a point
        cell = field[row : row + shape[0], column : column + shape[1]]
        down, across = 2 * row - 1, 2 * column - 1
        stencil[0, 0] += cell * 2 / 3
        stencil[down, 0] -= cell / 6
        stencil[0, across] -= cell / 6
        stencil[down, across] -= cell / 3
    return StencilLinearOperator.from_stencil(stencil, shape, tags=lx.positive_semidefinite_tag)


def convection(shape):
    stencil = {(0, 0): 4.6, (1, 0): -0.9, (-1, 0): -1.3, (0, 1): -1.0, (0, -1): -1.2}
    return StencilLinearOperator.from_stencil(stencil, shape)


OPERATORS = {
    "5 points": lambda: lognormal((17, 16)),
    "9 points": lambda: nine_point((16, 15)),
    "7 points": lambda: lognormal((11, 8, 7)),
    "constant": lambda: StencilLinearOperator.poisson((17, 12)),
    "periodic": lambda: periodic((13, 12)),
}


def periodic(shape):
    field = np.exp(np.random.default_rng(2).normal(size=shape))
    return StencilLinearOperator.diffusion(field, 1.0, "periodic").add_diagonal(0.01)


SMALL = {
    "5 points": lambda: lognormal((8, 7)),
    "9 points": lambda: nine_point((7, 8)),
    "7 points": lambda: lognormal((4, 5, 4)),
    "periodic": lambda: periodic((9, 6)),
    "convection": lambda: convection((7, 8)),
}


def dense(operator):
    return np.asarray(eqx.filter_jit(lambda o: o.as_matrix())(operator))


def dense_of(function, shape):
    """A linear function of arrays of a shape, as a matrix."""
    size = int(np.prod(shape))
    rows = jax.jit(jax.vmap(function))(np.eye(size).reshape(size, *shape))
    return np.asarray(rows).reshape(size, -1).T


#: Operator, and cycle, smoother and sweeps.
ROWS = [
    ("5 points", {"sweeps": 1}),
    ("7 points", {"sweeps": 4}),
    ("5 points", {"smoother": "fourth_kind"}),
    ("9 points", {"smoother": "fourth_kind", "sweeps": 6}),
    ("constant", {"smoother": "jacobi"}),
    ("periodic", {"smoother": "l1_jacobi", "sweeps": 3}),
    ("constant", {"smoother": "l1_jacobi"}),
    ("9 points", {"smoother": "incomplete_cholesky", "sweeps": 2}),
    ("9 points", {"smoother": "multicolour", "sweeps": 2}),
    ("7 points", {"smoother": "multicolour"}),
    ("constant", {"smoother": "multicolour"}),
    ("periodic", {"smoother": "multicolour"}),
    ("5 points", {"smoother": "line", "sweeps": 2}),
    ("9 points", {"smoother": "line", "cycle": "W"}),
    ("7 points", {"smoother": "line"}),
    ("periodic", {"smoother": "line"}),
    ("5 points", {"cycle": "W", "algebraic": 1}),
    ("5 points", {"cycle": "F", "smoother": "jacobi"}),
    ("constant", {"cycle": "W", "smoother": "fourth_kind"}),
    ("7 points", {"cycle": "F", "sweeps": 1}),
]


def shown(value):
    return " ".join(map(str, value.values())) if isinstance(value, dict) else value


@pytest.mark.parametrize(("name", "options"), ROWS, ids=shown)
def test_every_cycle_is_symmetric_positive_and_converges(name, options):
    operator = OPERATORS[name]()
    preconditioner = Multigrid(**({"algebraic": None} | options))(operator)
    assert len(preconditioner.plan.steps) >= 2 or preconditioner.plan.algebraic
    assert lx.is_positive_semidefinite(preconditioner)
    inverse, matrix = dense(preconditioner), operator.as_scipy().toarray()
    np.testing.assert_allclose(inverse, inverse.T, atol=1e-12 * abs(inverse).max())
    spectrum = scipy.linalg.eigh(matrix, np.linalg.inv(inverse), eigvals_only=True)
    assert np.linalg.eigvalsh(inverse).min() > 0
    assert spectrum[0] > 0.25 and spectrum[-1] < 1 + 1e-9


def residual_polynomial(name, count, values, largest):
    """What the sweeps leave of an error, for eigenvalues of `D^-1 A` up to `largest`."""
    if name == "chebyshev":
        low = 0.2 * largest
        scaled = (largest + low - 2 * values) / (largest - low)
        first = np.polynomial.chebyshev.Chebyshev.basis(count)
        return first(scaled) / first((largest + low) / (largest - low))
    if name == "fourth_kind":  # W_k(cos t) = sin((k + 1/2) t) / sin(t / 2)
        angle = np.arccos(1 - 2 * values / largest)
        return np.sin((count + 0.5) * angle) / np.sin(angle / 2) / (2 * count + 1)
    return (1 - {"jacobi": 1.6, "l1_jacobi": 1.0}[name] * values / largest) ** count


@pytest.mark.parametrize("count", [1, 2, 3, 6])
@pytest.mark.parametrize("name", ["chebyshev", "fourth_kind", "jacobi", "l1_jacobi"])
def test_sweeps_apply_the_polynomial_in_its_closed_form(name, count):
    operator = lognormal((8, 7))
    matrix = operator.as_scipy().toarray()
    level = Multigrid(algebraic=None, smoother=name, sweeps=count)(operator).levels[0]
    diagonal = np.diag(matrix)
    if name == "l1_jacobi":
        diagonal = abs(matrix).sum(1)
    largest = 1.0 if name == "l1_jacobi" else (abs(matrix).sum(1) / diagonal).max()
    scale = 1 / np.sqrt(diagonal)
    values, vectors = np.linalg.eigh(scale[:, None] * matrix * scale)
    left = vectors * residual_polynomial(name, count, values, largest) @ vectors.T
    expected = scale[:, None] * left / scale  # of an error
    before = dense_of(lambda b: level.smoother.from_zero(operator, b), (8, 7))
    after = dense_of(lambda x: level.smoother.improve(operator, x, jnp.zeros_like(x)), (8, 7))
    np.testing.assert_allclose(np.eye(56) - before @ matrix, expected, atol=1e-11)
    np.testing.assert_allclose(after, expected, atol=1e-11)


def gauss_seidel(operator, matrix, axis, backward):
    """What one sweep leaves of an error: by points, or by lines along an axis, each colour solved exactly but
    for couplings over the seam."""
    points = np.indices(operator.shape).reshape(len(operator.shape), -1)
    across = [k for k in range(len(points)) if k != axis]
    wide = any(sum(offset[k] != 0 for k in across) > 1 for offset in operator.offsets)
    if wide:
        colours = np.tensordot(2 ** np.arange(len(across)), points[across] % 2, 1)
    else:
        colours = points[across].sum(0) % 2
    same = np.eye(len(matrix), dtype=bool)
    if axis is not None:
        near = abs(points[axis][:, None] - points[axis]) <= 1
        same = near & (points[across][:, :, None] == points[across][:, None, :]).all(0)
    earlier = colours[:, None] < colours if backward else colours[:, None] > colours
    return np.eye(len(matrix)) - np.linalg.solve(np.where(same | earlier, matrix, 0), matrix)


@pytest.mark.parametrize("smoother", ["multicolour", "line"])
@pytest.mark.parametrize("name", ["5 points", "9 points", "7 points", "periodic", "convection"])
def test_sweeps_are_of_gauss_and_seidel_by_colours(name, smoother):
    operator = SMALL[name]()
    level = Multigrid(algebraic=None, smoother=smoother, sweeps=2)(operator).levels[0]
    matrix, shape = operator.as_scipy().toarray(), operator.shape
    identity = np.eye(len(matrix))
    forward, backward = identity, identity
    for axis in range(len(shape)) if smoother == "line" else [None]:
        forward = gauss_seidel(operator, matrix, axis, False) @ forward
        backward = backward @ gauss_seidel(operator, matrix, axis, True)
    before = dense_of(lambda b: level.smoother.from_zero(operator, b), shape)
    after = dense_of(lambda x: level.smoother.improve(operator, x, jnp.zeros_like(x)), shape)
    np.testing.assert_allclose(identity - before @ matrix, forward @ forward, atol=1e-11)
    np.testing.assert_allclose(after, backward @ backward, atol=1e-11)


def dense_levels(preconditioner):
    """Of each level the operator, what smooths before and after, and the restriction."""
    levels = []
    for level in preconditioner.levels:
        shape, operator, smoother = level.operator.shape, level.operator, level.smoother
        before = dense_of(lambda b, o=operator, s=smoother: s.from_zero(o, b), shape)
        after = dense_of(lambda b, o=operator, s=smoother: s.improve(o, jnp.zeros_like(b), b), shape)
        levels.append((operator.as_scipy().toarray(), before, after, dense_of(level.restrict, shape)))
    assert preconditioner.small is None
    return levels


DEEP = {
    "5 points": lambda: lognormal((33, 30)),
    "constant": lambda: StencilLinearOperator.poisson((33, 36)),
    "convection": lambda: convection((33, 30)),
}


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("kind", ["V", "W", "F"])
def test_cycles_are_the_dense_recursion(kind, name):
    operator = DEEP[name]()
    preconditioner = Multigrid(algebraic=None, cycle=kind).hierarchy(operator, may_share=False)
    assert len(preconditioner.levels) >= 3
    levels = dense_levels(preconditioner)
    exact = dense_of(preconditioner.coarse, preconditioner.plan.coarsest)

    def inverse(number, kind):
        if number == len(levels):
            return exact
        matrix, before, after, down = levels[number]
        identity = np.eye(len(matrix))
        left = np.eye(len(down))
        if number + 1 < len(levels):
            coarse = levels[number + 1][0]
            for visit in {"V": "V", "W": "WW", "F": "FV"}[kind]:
                left = (np.eye(len(coarse)) - inverse(number + 1, visit) @ coarse) @ left
            solved = (np.eye(len(coarse)) - left) @ np.linalg.inv(coarse)
        else:
            solved = exact
        error = (identity - after @ matrix) @ (identity - down.T @ solved @ down @ matrix)
        return (identity - error @ (identity - before @ matrix)) @ np.linalg.inv(matrix)

    found = dense(preconditioner)
    np.testing.assert_allclose(found, inverse(0, kind), atol=1e-11 * abs(found).max())


UNSYMMETRIC = [
    {"cycle": "W"},
    {"cycle": "F", "smoother": "fourth_kind", "sweeps": 3},
    {"smoother": "l1_jacobi"},
    {"smoother": "multicolour"},
    {"smoother": "line", "sweeps": 2},
]


@pytest.mark.parametrize("options", UNSYMMETRIC, ids=shown)
def test_transposes_of_unsymmetric_cycles_are_exact(options):
    operator = convection((21, 20))
    preconditioner = Multigrid(**options)(operator)
    matrix = dense(preconditioner)
    np.testing.assert_allclose(dense(preconditioner.transpose()), matrix.T, atol=1e-12 * abs(matrix).max())
    np.testing.assert_allclose(dense(preconditioner.conj()), matrix, atol=0)
    error = np.eye(len(matrix)) - matrix @ operator.as_scipy().toarray()
    assert abs(np.linalg.eigvals(error)).max() < 0.4


@pytest.mark.parametrize(("enough", "expected"), [(0.25, {0}), (0.01, {0, 1})])
def test_k_cycle_is_nested_conjugate_gradients(enough, expected, monkeypatch):
    """Against the same algorithm in NumPy."""
    monkeypatch.setattr(cycle, "_ENOUGH", enough)
    operator = lognormal((33, 30))
    multigrid = Multigrid(algebraic=None, smoother="jacobi", sweeps=1)
    made = ns.preconditioners.multigrid.KCycle(multigrid)(operator)
    levels = dense_levels(made.inverse)
    exact = dense_of(made.inverse.coarse, made.inverse.plan.coarsest)
    taken = []

    def cycled(number, b):
        matrix, before, after, down = levels[number]
        x = before @ b
        r = down @ (b - matrix @ x)
        x = x + down.T @ (exact @ r if number + 1 == len(levels) else conjugate_gradients(number + 1, r))
        return x + after @ (b - matrix @ x)

    def conjugate_gradients(number, b):
        matrix, e, r, last = levels[number][0], 0, b, None
        for k in range(2):
            if k and np.linalg.norm(r) <= enough * np.linalg.norm(b):
                return e
            d = cycled(number, r)
            if last is not None:
                d = d - (last @ matrix @ d) / (last @ matrix @ last) * last
            step = (d @ r) / (d @ matrix @ d)
            e, r, last = e + step * d, r - step * matrix @ d, d
            taken.append(k)
        return e

    apply = jax.jit(lambda r: made.apply(r, None)[0])
    for seed in range(3):
        r = np.random.default_rng(seed).normal(size=(33, 30))
        np.testing.assert_allclose(apply(r).ravel(), cycled(0, r.ravel()), rtol=1e-8)
    assert set(taken) == expected
    np.testing.assert_allclose(apply(1e180 * r), 1e180 * apply(r), rtol=1e-9)
    assert jnp.isnan(apply(jnp.full_like(r, jnp.nan))).all()
    np.testing.assert_array_equal(apply(jnp.zeros_like(r)), 0)


def test_k_cycle_is_taken_by_flexible_solvers_alone():
    operator = lognormal((33, 30))
    b = jnp.ones((33, 30))
    k_cycle = ns.preconditioners.multigrid.KCycle(Multigrid(algebraic=None))
    for given in (k_cycle, k_cycle(operator)):
        solution = lx.linear_solve(operator, b, ns.FlexibleCG(rtol=1e-8, preconditioner=given))
        assert solution.stats["num_steps"] <= 9
        with pytest.raises(ValueError, match="FlexibleCG"):
            lx.linear_solve(operator, b, ns.CG(rtol=1e-8), options={"preconditioner": k_cycle(operator)})
    with pytest.raises(ValueError, match="not tagged"):
        k_cycle(convection((20, 20)))
    with pytest.raises(TypeError, match=r"KCycle\(multigrid=...\)"):
        ns.preconditioners.multigrid.KCycle(ns.preconditioners.Jacobi())  # pyright: ignore[reportArgumentType]
    refreshed = k_cycle(operator).refresh(lognormal((33, 30), seed=1))
    np.testing.assert_allclose(
        refreshed.apply(b, None)[0], k_cycle(lognormal((33, 30), seed=1)).apply(b, None)[0], rtol=1e-9
    )
    assert "one K-cycle" in repr(refreshed)
    planned = ns.preconditioners.multigrid.KCycle(Multigrid(algebraic=None).planned(operator))(operator)
    np.testing.assert_array_equal(planned.apply(b, None)[0], k_cycle(operator).apply(b, None)[0])


def test_below_a_w_cycle_the_algebraic_cycle_runs_twice():
    operator = lognormal((40, 38))
    preconditioner = Multigrid(algebraic=1, cycle="W")(operator)
    ((matrix, before, after, down),) = dense_levels(preconditioner)
    coarse = preconditioner.coarse.operator.as_scipy().toarray()
    np.testing.assert_allclose(coarse, down @ matrix @ down.T, atol=1e-11 * abs(matrix).max())
    once = dense_of(preconditioner.coarse, (20, 19))
    assert abs(np.eye(len(coarse)) - once @ coarse).max() > 1e-3
    twice = 2 * once - once @ coarse @ once
    identity = np.eye(len(matrix))
    error = (identity - after @ matrix) @ (identity - down.T @ twice @ down @ matrix)
    expected = (identity - error @ (identity - before @ matrix)) @ np.linalg.inv(matrix)
    np.testing.assert_allclose(dense(preconditioner), expected, atol=1e-10 * abs(expected).max())


@pytest.mark.parametrize(
    "options",
    [{"cycle": "W"}, {"cycle": "F"}, {"sweeps": 4}, {"smoother": "fourth_kind", "sweeps": 4}],
    ids=shown,
)
def test_more_work_takes_no_more_steps(options, monkeypatch):
    monkeypatch.undo()  # hierarchies as they are
    problem = ns.gallery.diffusion(0, ns.gallery.lognormal(0, (127, 127), sigma=2.0))

    def steps(preconditioner):
        given = {"preconditioner": preconditioner(problem.operator)}
        solution = lx.linear_solve(problem.operator, problem.vector, ns.CG(rtol=1e-8), options=given)
        return int(solution.stats["num_steps"])

    assert steps(Multigrid(algebraic=None, **options)) <= steps(Multigrid(algebraic=None))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"cycle": "K"}, "KCycle"),
        ({"cycle": "v"}, r"`Multigrid\(cycle=...\)` must be"),
        ({"cycle": "W", "algebraic": 0}, "none above"),
        ({"sweeps": 0}, r"`Multigrid\(sweeps=...\)` must be"),
        ({"sweeps": 2.0}, r"`Multigrid\(sweeps=...\)` must be"),
        ({"smoother": "ssor"}, r"`Multigrid\(smoother=...\)` must be"),
    ],
    ids=shown,
)
def test_bad_options_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        Multigrid(**options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"cycle": "W", "sweeps": 4}, "one W-cycle.*4 \\+ 4 Chebyshev-Jacobi sweeps"),
        ({"smoother": "fourth_kind"}, "2 \\+ 2 fourth-kind Chebyshev sweeps"),
        ({"smoother": "line"}, "1 \\+ 1 zebra line Gauss-Seidel sweeps"),
        ({"smoother": "multicolour", "sweeps": 3}, "3 \\+ 3 multicolour Gauss-Seidel sweeps"),
        ({"smoother": "incomplete_cholesky", "sweeps": 2}, "2 \\+ 2 steps with IC"),
    ],
    ids=shown,
)
def test_the_hierarchy_says_what_was_chosen(options, text):
    preconditioner = Multigrid(algebraic=None, **options)(OPERATORS["constant"]())
    assert re.search(text, repr(preconditioner), re.DOTALL)


def test_refresh_keeps_the_cycle_and_traces():
    options: dict[str, Any] = {"cycle": "F", "smoother": "line"}
    first, second = lognormal((17, 16)), lognormal((17, 16), seed=1)
    vector = jnp.asarray(np.random.default_rng(0).normal(size=(17, 16)))
    expected = eqx.filter_jit(lambda m: m.mv(vector))(Multigrid(algebraic=None, **options)(second))
    made = Multigrid(algebraic=None, **options)(first)
    traced = eqx.filter_jit(lambda m, a: m.refresh(a).mv(vector))(made, second)
    np.testing.assert_allclose(traced, expected, rtol=1e-9)
    batched = eqx.filter_jit(eqx.filter_vmap(lambda v: made.refresh(second).mv(v)))(
        jnp.stack([vector, -vector])
    )
    np.testing.assert_allclose(batched, jnp.stack([expected, -expected]), rtol=1e-9)


@pytest.mark.parametrize(
    "options", [{"smoother": "line", "cycle": "F"}, {"smoother": "multicolour"}], ids=shown
)
def test_hermitian_operators_give_hermitian_cycles(options):
    stencil = {(0, 0): 4.2, (1, 0): -1j, (-1, 0): 1j, (0, 1): -1.0, (0, -1): -1.0}
    tag = lx.positive_semidefinite_tag
    preconditioner = Multigrid(**options)(StencilLinearOperator.from_stencil(stencil, (17, 16), tags=tag))
    matrix = dense(preconditioner)
    scale = abs(matrix).max()
    np.testing.assert_allclose(matrix, matrix.conj().T, atol=1e-12 * scale)
    np.testing.assert_allclose(dense(preconditioner.transpose()), matrix.T, atol=1e-12 * scale)
    np.testing.assert_allclose(dense(preconditioner.conj()), matrix.conj(), atol=0)


SINGLE = [
    {"smoother": "fourth_kind", "sweeps": 8},
    {"smoother": "l1_jacobi", "cycle": "W"},
    {"smoother": "line", "cycle": "F"},
    {"smoother": "multicolour", "sweeps": 2},
]


@pytest.mark.parametrize("options", SINGLE, ids=shown)
@pytest.mark.parametrize("constant", [False, True])
def test_single_precision(constant, options):
    operator = OPERATORS["constant" if constant else "5 points"]()
    single = jax.tree.map(lambda c: c.astype(jnp.float32), operator)
    r = np.random.default_rng(0).normal(size=operator.shape)
    found = eqx.filter_jit(lambda m, r: m.mv(r))(Multigrid(**options)(single), r.astype(np.float32))
    expected = eqx.filter_jit(lambda m, r: m.mv(r))(Multigrid(**options)(operator), jnp.asarray(r))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=1e-4 * abs(expected).max())


def test_the_set_up_may_be_differentiated():
    """By `build`, with every loop and branch of an F-cycle; against finite differences."""
    field = np.exp(np.random.default_rng(0).normal(size=(12, 11)))
    direction, r = np.random.default_rng(1).normal(size=(2, 12, 11))

    def value(t):
        operator = StencilLinearOperator.diffusion(field + t * direction)
        return jnp.sum(Multigrid(cycle="F", smoother="multicolour").build(operator).mv(r) ** 2)

    derivative = jax.jit(jax.grad(value))(0.0)
    step = 1e-5
    difference = (jax.jit(value)(step) - jax.jit(value)(-step)) / (2 * step)
    np.testing.assert_allclose(derivative, difference, rtol=1e-4)


@pytest.mark.parametrize(
    "options", [{"smoother": "line"}, {"smoother": "multicolour", "cycle": "W"}], ids=shown
)
def test_walls_without_loss_and_inactive_cells(options):
    """Singular: constants on each part of the grid are free, lines among them."""
    field = np.exp(np.random.default_rng(0).normal(size=(17, 16)))
    field[3:6, 2:9] = 0
    field[9:15, 5:11] = 0
    field[11, 7:10] = 1.0  # a pocket that is one line
    operator = StencilLinearOperator.diffusion(field, 0.5, "neumann")
    matrix = operator.as_scipy().toarray()
    b = (matrix @ np.where(field.ravel() > 0, np.random.default_rng(1).normal(size=field.size), 0)).reshape(
        17, 16
    )
    solver = ns.CG(rtol=1e-10, max_steps=40)
    given = {"preconditioner": Multigrid(algebraic=None, **options)(operator)}
    solution = lx.linear_solve(operator, jnp.asarray(b), solver, options=given)
    residual = matrix @ np.ravel(solution.value) - b.ravel()
    assert np.linalg.norm(residual) <= 1e-9 * np.linalg.norm(b)

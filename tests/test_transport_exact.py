"""Transport against closed forms, linear programs and another library."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, linprog
from scipy.special import kl_div

from nsolve.transport import (
    CostMatrix,
    Grid,
    Sinkhorn,
    SinkhornNewton,
    sinkhorn_divergence,
    solve,
)

# One size and one tolerance for all, so that few programs are compiled.
N = 100
NEWTON = SinkhornNewton(rtol=jnp.asarray(1e-10))
PLAIN = Sinkhorn(rtol=jnp.asarray(1e-10))


# ---- Gaussians: potentials are quadratic


class Gaussian(NamedTuple):
    mass: float
    mean: float
    variance: float

    def on(self, points):
        """Weights of a fine grid: for smooth functions this quadrature is exact to rounding."""
        density = np.exp(-((points - self.mean) ** 2) / (2 * self.variance))
        return self.mass * density / density.sum()

    def log_mean_exp(self, quadratic):
        """`log int exp(c0 + c1 y + c2 y^2)` over the measure."""
        c0, c1, c2 = quadratic
        curvature = 1 / (2 * self.variance) - c2
        slope = self.mean / self.variance + c1
        constant = np.log(self.mass) - 0.5 * np.log(2 * self.variance * curvature)
        return constant + c0 - self.mean**2 / (2 * self.variance) + slope**2 / (4 * curvature)

    def integral(self, quadratic):
        c0, c1, c2 = quadratic
        return self.mass * (c0 + c1 * self.mean + c2 * (self.variance + self.mean**2))


def half_sweep(measure, potential, epsilon, tau):
    """The best potential for `|x - y|^2`: three coefficients, from Gaussian integrals at three points."""

    def at(x):
        c0, c1, c2 = potential
        exponent = (c0 - x**2) / epsilon, (c1 + 2 * x) / epsilon, (c2 - 1) / epsilon
        return -epsilon * (1 if tau is None else tau / (tau + epsilon)) * measure.log_mean_exp(exponent)

    below, middle, above = at(-1.0), at(0.0), at(1.0)
    return middle, (above - below) / 2, (above + below) / 2 - middle


def between_gaussians(source, target, epsilon, tau=None):
    """Potentials, as coefficients, and cost of entropic transport between Gaussians on the line."""
    f = g = (0.0, 0.0, 0.0)
    for _ in range(2000):
        f = half_sweep(target, g, epsilon, tau)
        g = half_sweep(source, f, epsilon, tau)
    if tau is None:
        return f, g, source.integral(f) + target.integral(g)
    kept = [np.exp(m.log_mean_exp([-c / tau for c in p])) for m, p in ((source, f), (target, g))]
    np.testing.assert_allclose(*kept, rtol=1e-12)  # both are the plan's mass
    cost = tau * (source.mass + target.mass - sum(kept)) - epsilon * (kept[0] - source.mass * target.mass)
    return f, g, cost


def janati(source, target, epsilon):
    """The balanced cost: Janati, Muzellec, Peyre, Cuturi (2020, arXiv:2006.02572); 2 sigma^2 = epsilon."""
    s = epsilon / 2
    d = np.sqrt(4 * source.variance * target.variance + s**2)
    variances = source.variance + target.variance - d + s * (1 - np.log(2 * s)) + s * np.log(d + s)
    return (source.mean - target.mean) ** 2 + variances


LINE = np.linspace(-7, 7, N)
SQUARES = (LINE[:, None] - LINE) ** 2


@pytest.mark.parametrize("epsilon", [0.5, 5.0])
def test_gaussians_on_the_line(epsilon):
    source, target = Gaussian(1.0, 0.2, 0.3), Gaussian(1.0, -0.5, 0.7)
    f, g, cost = between_gaussians(source, target, epsilon)
    np.testing.assert_allclose(cost, janati(source, target, epsilon), rtol=1e-12)
    a, b = source.on(LINE), target.on(LINE)
    solution = solve(CostMatrix(SQUARES, epsilon), a, b, NEWTON, certificate=False)
    np.testing.assert_allclose(solution.cost, cost, rtol=1e-9)
    expected = [c[0] + c[1] * LINE + c[2] * LINE**2 for c in (f, g)]
    constant = expected[0][N // 2] - solution.f[N // 2]
    # quadratic even where next to no mass is
    near = np.abs(LINE) < 3
    np.testing.assert_allclose((solution.f + constant)[near], expected[0][near], atol=1e-7)
    np.testing.assert_allclose((solution.g - constant)[near], expected[1][near], atol=1e-7)


@pytest.mark.parametrize("tau", [0.3, 4.0])
def test_gaussians_with_relaxed_marginals(tau):
    source, target = Gaussian(1.5, 0.2, 0.3), Gaussian(0.7, -0.5, 0.7)
    f, g, cost = between_gaussians(source, target, 0.5, tau)
    a, b = source.on(LINE), target.on(LINE)
    solution = solve(CostMatrix(SQUARES, 0.5), a, b, NEWTON, tau=tau, certificate=False)
    np.testing.assert_allclose(solution.cost, cost, rtol=1e-9)
    near = np.abs(LINE) < 3
    for potential, c in ((solution.f, f), (solution.g, g)):
        np.testing.assert_allclose(potential[near], (c[0] + c[1] * LINE + c[2] * LINE**2)[near], atol=1e-7)


def test_gaussians_in_the_plane():
    """Independent coordinates: costs add up; on a grid, without any matrix of its points."""
    axis = np.linspace(-6, 6, 40)
    sources = Gaussian(1, 0.2, 0.3), Gaussian(1, 0.0, 0.5)
    targets = Gaussian(1, -0.5, 0.7), Gaussian(1, 0.4, 0.4)
    a, b = (np.multiply.outer(p.on(axis), q.on(axis)) for p, q in (sources, targets))
    solution = solve(Grid([axis, axis], epsilon=1.0), a, b, PLAIN, certificate=False)
    expected = sum(janati(p, q, 1.0) for p, q in zip(sources, targets, strict=True))
    np.testing.assert_allclose(solution.cost, expected, rtol=1e-9)


# ---- small epsilon: a linear program


def test_random_assignment_as_epsilon_vanishes():
    C = np.random.default_rng(0).random((N, N))
    best = C[linear_sum_assignment(C)].mean()
    excess = []
    for epsilon in (1e-1, 1e-2, 1e-3, 1e-5):
        solution = solve(CostMatrix(C, epsilon), None, None, NEWTON, certificate=False)
        excess.append(float(solution.transport_cost) - best)
        # the optimal plan, a permutation, is a candidate whose entropy term is epsilon log N
        assert -1e-9 <= excess[-1] <= epsilon * np.log(N)
        assert best - 1e-9 <= solution.cost <= best + epsilon * np.log(N)
    assert excess == sorted(excess, reverse=True)
    assert excess[-1] < 1e-6


def test_uneven_weights_as_epsilon_vanishes():
    rng = np.random.default_rng(1)
    C, a, b = rng.random((N, N)), rng.random(N), rng.random(N)
    a, b = a / a.sum(), b / b.sum()
    rows, columns = np.kron(np.eye(N), np.ones(N)), np.kron(np.ones(N), np.eye(N))
    exact = linprog(C.reshape(-1), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([a, b]))
    entropy = min(-np.sum(w * np.log(w)) for w in (a, b))
    for epsilon in (1e-2, 1e-4):
        solution = solve(CostMatrix(C, epsilon), a, b, NEWTON, certificate=False)
        assert -1e-9 <= solution.transport_cost - exact.fun <= epsilon * entropy
        # the potentials bound the program from below, once they are feasible
        slack = np.min(C - np.asarray(solution.f)[:, None] - np.asarray(solution.g))
        assert a @ solution.f + b @ solution.g + min(slack, 0) <= exact.fun + 1e-9
        assert slack >= -epsilon * np.log(1 / np.min(np.outer(a, b)))


# ---- plans that others know


def _drawn(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random(N), rng.random(N)
    return rng.random((N, N)), a / a.sum(), b / b.sum()


def test_pot_finds_the_same_plan():
    ot = pytest.importorskip("ot")
    C, a, b = _drawn(3)
    theirs = ot.sinkhorn(a, b, C, 0.05, method="sinkhorn_log", stopThr=1e-13, numItermax=10_000)
    ours = solve(CostMatrix(C, 0.05), a, b, NEWTON, certificate=False)
    np.testing.assert_allclose(ours.plan.as_matrix(), theirs, atol=1e-11)


def test_pot_finds_the_same_relaxed_plan():
    ot = pytest.importorskip("ot")
    C, a, b = _drawn(4)
    a, b = 2 * a, 0.5 * b
    theirs = ot.unbalanced.sinkhorn_unbalanced(
        a, b, C, 0.05, 0.4, reg_type="kl", method="sinkhorn", stopThr=1e-14, numItermax=10_000
    )
    ours = solve(CostMatrix(C, 0.05), a, b, NEWTON, tau=0.4, certificate=False)
    np.testing.assert_allclose(ours.plan.as_matrix(), theirs, atol=1e-11)


# ---- the Sinkhorn divergence


@pytest.fixture(scope="module")
def divergence():
    """Value, gradient in `y`, and all three results."""

    def value(x, y, a, b, epsilon):
        found = sinkhorn_divergence(x, y, a, b, NEWTON, epsilon=epsilon)
        return found.value, found.result

    return jax.jit(jax.value_and_grad(value, argnums=1, has_aux=True))


def _two_clouds():
    rng = np.random.default_rng(5)
    x, y, a, b = rng.random((N, 2)), rng.random((N, 2)) ** 2, rng.random(N), rng.random(N)
    return x, y, a / a.sum(), b / b.sum()


def test_divergence_from_itself_is_zero(divergence):
    x, _, a, _ = _two_clouds()
    (value, result), gradient = divergence(x, x, a, a, 0.1)
    assert result == lx.RESULTS.successful
    assert abs(value) <= 1e-12
    np.testing.assert_allclose(gradient, 0, atol=1e-9)


def test_divergence_is_positive_and_does_not_depend_on_order(divergence):
    x, y, a, b = _two_clouds()
    (there, _), gradient = divergence(x, y, a, b, 0.1)
    (back, _), _ = divergence(y, x, b, a, 0.1)
    assert there > 1e-4
    np.testing.assert_allclose(there, back, rtol=1e-9)
    direction = np.random.default_rng(6).normal(size=y.shape)
    h = 1e-4
    up, down = (divergence(x, y + s * direction, a, b, 0.1)[0][0] for s in (h, -h))
    np.testing.assert_allclose(np.vdot(gradient, direction), (up - down) / (2 * h), rtol=1e-6)


@pytest.mark.parametrize("epsilon", [1.0, 0.01])
def test_divergence_of_a_translation_is_its_square(divergence, epsilon):
    x, _, a, _ = _two_clouds()
    t = np.array([0.3, -1.2])
    (value, _), gradient = divergence(x, x + t, a, a, epsilon)
    np.testing.assert_allclose(value, t @ t, rtol=1e-9)
    np.testing.assert_allclose(gradient, 2 * a[:, None] * t, atol=1e-8)


def test_divergence_of_relaxed_measures():
    x, y, a, b = _two_clouds()

    def between(*args):
        return sinkhorn_divergence(*args, PLAIN, epsilon=0.1, tau=0.5).value

    assert abs(between(x, x, a, a)) <= 1e-9
    assert between(x, y, a, b) > 1e-4

    # of points that coincide: the plan is a number p, with epsilon log(p / mn) + tau log(p^2 / mn) = 0
    def single(m, n):
        p = (m * n) ** (0.6 / 1.1)
        return 0.1 * kl_div(p, m * n) + 0.5 * (kl_div(p, m) + kl_div(p, n))

    expected = single(1, 2) - (single(1, 1) + single(2, 2)) / 2 + 0.1 * (1 - 2) ** 2 / 2
    np.testing.assert_allclose(between(0 * x, 0 * x, a, 2 * a), expected, rtol=1e-8)

"""The gallery's exact answers against calculus and against others: scores and flows of mixtures, laws of
plans, dense transport."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nsolve import diffusion
from nsolve.diffusion.schedules import EDM, Flow, VPCosine, VPLinear
from nsolve.gallery import clouds, flows, mixtures, transport_reference
from nsolve.gallery.mixtures import Mixture

from .diffusion_moments import moments as other_moments

MIXTURES = {
    "mixture1d": mixtures.mixture1d(),
    "ring": mixtures.ring(),
    "lattice": mixtures.lattice(),
    "clusters": mixtures.clusters(0, dimension=5, modes=3),
    "near_singular": mixtures.near_singular(),
    "gaussian": mixtures.gaussian(0, dimension=4),
}
by_class = {"ids": lambda x: type(x).__name__}


def states(problem, count=6, seed=1):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal((count, problem.dimension)))


# --- mixtures ---


@pytest.mark.parametrize("name", MIXTURES)
def test_score_is_the_gradient_of_the_log_density(name):
    problem = MIXTURES[name]
    alpha, sigma = 0.8, 0.6

    @jax.jit
    def everything(x):
        gradient = jax.grad(lambda x: jnp.sum(problem.log_density(x, alpha, sigma)))(x)
        return gradient, *(f(x, alpha, sigma) for f in (problem.score, problem.x0, problem.eps))

    x = states(problem)
    gradient, score, x0, eps = everything(x)
    assert np.allclose(score, gradient, rtol=1e-10, atol=1e-12)
    # Tweedie's formula, and the noise that is left.
    assert np.allclose(x0, (x + sigma**2 * gradient) / alpha, rtol=1e-9, atol=1e-10)
    assert np.allclose(x, alpha * x0 + sigma * eps, atol=1e-12)


def test_log_density_of_a_mixture_against_a_dense_one():
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(0)
    means, variances = rng.standard_normal((3, 2)), rng.uniform(0.1, 2, (3, 2))
    basis, _ = np.linalg.qr(rng.standard_normal((2, 2)))
    problem = Mixture(np.array([0.2, 0.5, 0.3]), means, variances, basis)
    x, alpha, sigma = np.asarray(states(problem)), 0.5, 0.7

    def dense(m, v):
        covariance = alpha**2 * basis @ np.diag(v) @ basis.T + sigma**2 * np.eye(2)
        return multivariate_normal(alpha * m, covariance).pdf(x)

    expected = sum(w * dense(m, v) for w, m, v in zip(problem.weights, means, variances, strict=True))
    assert np.allclose(eqx.filter_jit(problem.log_density)(x, alpha, sigma), np.log(expected), rtol=1e-12)
    drawn = problem.draw(0, 20000)
    assert np.allclose(drawn.mean(axis=0), problem.weights @ means, atol=0.05)


def test_a_mixture_of_one_is_a_gaussian():
    gaussian = MIXTURES["gaussian"]
    mixture = Mixture(gaussian.weights, gaussian.means, gaussian.variances, gaussian.basis)
    means, variances = (np.repeat(value, 2, 0) for value in (gaussian.means, gaussian.variances))
    twins = Mixture(np.array([0.3, 0.7]), means, variances, gaussian.basis)
    x = states(gaussian)
    expected = eqx.filter_jit(gaussian.x0)(x, 0.9, 0.1)
    for other in (mixture, twins):
        assert np.allclose(eqx.filter_jit(other.x0)(x, 0.9, 0.1), expected, rtol=1e-12)


@pytest.mark.parametrize("schedule", [VPCosine(), EDM(), Flow(shift=3.0)], **by_class)
@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "score", "flow"])
def test_every_prediction_says_the_same(schedule, prediction):
    problem = mixtures.ring(modes=3)
    denoiser = mixtures.denoiser(problem, schedule, prediction)
    x, t = states(problem), jnp.asarray(0.3)
    expected = eqx.filter_jit(problem.x0)(x, schedule.alpha(t), schedule.sigma(t))
    assert np.allclose(eqx.filter_jit(denoiser.x0)(x, t), expected, atol=1e-12)


def test_single_precision_stays_single():
    x = states(mixtures.ring()).astype(jnp.float32)
    model = eqx.filter_jit(mixtures.denoiser(mixtures.ring(), VPLinear(), "v").model)
    assert model(x, jnp.float32(0.5)).dtype == jnp.float32
    assert np.allclose(model(x, jnp.float32(0.5)), model(x.astype(jnp.float64), jnp.asarray(0.5)), atol=1e-5)


def test_weights_and_means_must_fit():
    with pytest.raises(ValueError, match="weights"):
        Mixture(np.ones(2), np.zeros((3, 1)), np.ones((3, 1)))


# --- flows and laws ---


@pytest.mark.parametrize("schedule", [VPLinear(), EDM(), Flow(shift=3.0)], **by_class)
def test_the_exact_flow_of_a_gaussian(schedule):
    problem = MIXTURES["gaussian"]
    x = float(schedule.sigma(np.asarray(schedule.t_max))) * np.asarray(states(problem, 3))
    start, end = schedule.t_max, schedule.t_min
    ends = [
        tuple(np.exp(f(np.asarray(t))) for f in (schedule.log_alpha, schedule.log_sigma))
        for t in (start, end)
    ]
    found = flows.exact_flow(problem, schedule, x, start, end)
    assert np.allclose(found, problem.flow(jnp.asarray(x), *ends), rtol=1e-10, atol=1e-11)


def test_the_exact_flow_of_a_mixture_carries_its_quantiles():
    from scipy.stats import norm

    # On a line the flow is monotone, so it maps quantiles of one marginal to those of the other.
    problem, schedule = mixtures.mixture1d(), VPLinear()

    def quantile_of(x, t):
        alpha, sigma = schedule.alpha(np.asarray(t)), schedule.sigma(np.asarray(t))
        spread = np.sqrt(alpha**2 * problem.variances[:, 0] + sigma**2)
        return norm.cdf((x - alpha * problem.means[:, 0]) / spread) @ problem.weights

    x_T = np.linspace(-2, 2, 9)[:, None]
    x = flows.exact_flow(problem, schedule, x_T, 1.0, 1e-3)
    assert np.allclose(quantile_of(x, 1e-3), quantile_of(x_T, 1.0), atol=1e-11)


MADE = [
    diffusion.DPMSolverPP(2),
    diffusion.DPMSolverPP(2, sde=True),
    diffusion.UniPC(2),
    diffusion.RhoRK("rk4"),
]


@pytest.mark.parametrize("made", MADE, ids=["ode", "sde", "corrected", "stages"])
def test_moments_are_those_of_another_recursion(made):
    problem, schedule = mixtures.gaussian(0, 3, 0.1, 2.0), VPLinear()
    plan = made.plan(diffusion.log_snr_grid(5), schedule)
    centre, variances = problem.basis.T @ problem.means[0], problem.variances[0]

    def network(alpha, sigma):
        gain = alpha * variances / (alpha**2 * variances + sigma**2)
        return gain, (1 - alpha * gain) * centre

    alpha, sigma = plan.alpha[0], plan.sigma[0]
    expected = other_moments(plan, network, alpha * centre, alpha**2 * variances + sigma**2)
    mean, variance = flows.moments(plan, problem)
    assert np.allclose(mean, expected[0], rtol=1e-12) and np.allclose(variance, expected[1], rtol=1e-12)
    # The distance of two Gaussians with the same axes.
    alpha, sigma = plan.alpha[-1], plan.sigma[-1]
    spread = np.sqrt(alpha**2 * variances + sigma**2)
    distance = np.hypot(np.linalg.norm(mean - alpha * centre), np.linalg.norm(np.sqrt(variance) - spread))
    assert flows.wasserstein(plan, problem) == pytest.approx(distance, rel=1e-12)


def test_moments_are_those_of_samples():
    problem, schedule = mixtures.gaussian(0, 2, 0.1, 2.0), VPLinear()
    plan = diffusion.DPMSolverPP(2, sde=True).plan(diffusion.log_snr_grid(5), schedule)
    mean, variance = flows.moments(plan, problem)
    count = 40_000
    rng = np.random.default_rng(0)
    x_T = plan.alpha[0] * problem.draw(0, count) + plan.sigma[0] * rng.standard_normal((count, 2))
    found = diffusion.sample(
        mixtures.denoiser(problem, schedule), plan, jnp.asarray(x_T), key=jax.random.key(0)
    )
    x = np.asarray(found.value) @ problem.basis
    assert np.allclose(x.mean(axis=0), mean, atol=5 * np.sqrt(variance.max() / count))
    assert np.allclose(x.var(axis=0), variance, rtol=5 * np.sqrt(2 / count))


# --- dense transport ---


def small(size=6):
    x, y, a, b = clouds.cube_and_normal(0, size, 3, float)
    return np.sum((x[:, None] - y[None]) ** 2, axis=-1), a, b, 0.05


def test_the_dense_plan_has_its_marginals_and_the_closed_form_of_gaussians():
    first, second, epsilon = [(0.45, 0.07)], [(0.55, 0.055)], 0.01
    points, a, b = clouds.gaussian_densities(60, first, second)
    cost = (points - points.T) ** 2
    found = transport_reference.potentials(cost, a, b, epsilon)
    plan = transport_reference.plan(cost, a, b, *found, epsilon)
    assert np.abs(plan.sum(axis=1) - a).sum() < 1e-12 and np.abs(plan.sum(axis=0) - b).sum() < 1e-12
    assert a @ found.f == pytest.approx(0, abs=1e-14)
    sharp, whole = clouds.gaussian_transport(first, second, epsilon)
    assert np.sum(plan * cost) == pytest.approx(sharp, rel=1e-7)
    # The dual of the regularised cost, whose plan sums to one.
    assert a @ found.f + b @ found.g == pytest.approx(whole, rel=1e-7)


@pytest.mark.parametrize("which", ["cost", "potential"])
def test_dense_gradients_are_those_of_finite_differences(which):
    cost, a, b, epsilon = small()
    v = np.random.default_rng(1).standard_normal(6)
    v -= v.mean()
    found = transport_reference.potentials(cost, a, b, epsilon)
    plan = transport_reference.plan(cost, a, b, *found, epsilon)
    if which == "cost":
        gradients = transport_reference.cost_gradients(plan, found)
    else:
        gradients = transport_reference.potential_gradients(plan, v, a, epsilon)

    def functional(cost=cost, a=a, b=b):
        f, g = transport_reference.potentials(cost, a, b, epsilon)
        return f @ v if which == "potential" else a @ f + b @ g

    step, rng = 1e-5, np.random.default_rng(2)
    for name, value in (("cost", cost), ("a", a), ("b", b)):
        along = rng.standard_normal(value.shape) / 6
        along -= 0 if name == "cost" else along.mean()
        ends = [functional(**{name: value + s * step * along}) for s in (1, -1)]
        expected = np.sum(getattr(gradients, name) * along)
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(expected, rel=1e-6), name


def test_gradients_in_points_are_those_of_finite_differences():
    x, y, _, _ = clouds.cube_and_normal(0, 5, 3, float)
    weights = np.random.default_rng(0).standard_normal((5, 5))
    in_x, in_y = transport_reference.in_points(weights, x, y)

    def total(x, y):
        return np.sum(weights * np.sum((x[:, None] - y[None]) ** 2, axis=-1))

    along, step = np.random.default_rng(1).standard_normal((5, 3)), 1e-6
    found = (total(x + step * along, y) - total(x - step * along, y)) / (2 * step)
    assert found == pytest.approx(np.sum(in_x * along), rel=1e-6)
    found = (total(x, y + step * along) - total(x, y - step * along)) / (2 * step)
    assert found == pytest.approx(np.sum(in_y * along), rel=1e-6)


def test_costs_of_another_shape_are_refused():
    cost, a, b, epsilon = small()
    with pytest.raises(ValueError, match=r"shape \(n, m\)"):
        transport_reference.potentials(cost[:, :5], a, b, epsilon)
    with pytest.raises(ValueError, match="epsilon"):
        transport_reference.potentials(cost, a, b, 0.0)

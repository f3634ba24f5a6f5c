"""The suite diffusion: its problems against calculus, its measurements against known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench.diffusion import problems
from bench.diffusion.mixtures import Gaussian, Mixture
from nsolve.diffusion.schedules import EDM, Flow, VPCosine, VPLinear

NAMES = tuple(problems.MIXTURES)
SMALL = {"clusters": "clusters[dimension=5,modes=3]", "gaussian": "gaussian[dimension=4]"}


def states(problem, count=6, seed=1):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal((count, problem.dimension)))


@pytest.mark.parametrize("name", NAMES)
def test_score_is_the_gradient_of_the_log_density(name):
    problem = problems.build(SMALL.get(name, name))
    x, alpha, sigma = states(problem), 0.8, 0.6
    gradient = jax.grad(lambda x: jnp.sum(problem.log_density(x, alpha, sigma)))(x)
    score = problem.score(x, alpha, sigma)
    assert np.allclose(score, gradient, rtol=1e-10, atol=1e-12)
    # Tweedie's formula, and the noise that is left.
    assert np.allclose(problem.x0(x, alpha, sigma), (x + sigma**2 * gradient) / alpha, rtol=1e-9, atol=1e-10)
    assert np.allclose(
        x, alpha * problem.x0(x, alpha, sigma) + sigma * problem.eps(x, alpha, sigma), atol=1e-12
    )


def test_log_density_of_a_mixture_against_a_dense_one():
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(0)
    means, variances = rng.standard_normal((3, 2)), rng.uniform(0.1, 2, (3, 2))
    basis, _ = np.linalg.qr(rng.standard_normal((2, 2)))
    problem = Mixture(np.array([0.2, 0.5, 0.3]), means, variances, basis)
    x, alpha, sigma = np.asarray(states(problem)), 0.5, 0.7
    expected = sum(
        w
        * multivariate_normal(alpha * m, alpha**2 * basis @ np.diag(v) @ basis.T + sigma**2 * np.eye(2)).pdf(
            x
        )
        for w, m, v in zip(problem.weights, means, variances, strict=True)
    )
    assert np.allclose(problem.log_density(jnp.asarray(x), alpha, sigma), np.log(expected), rtol=1e-12)
    drawn = problem.draw(20000, 0)
    assert np.allclose(drawn.mean(axis=0), problem.weights @ means, atol=0.05)


@pytest.mark.parametrize("schedule", [VPLinear(), EDM(), Flow(shift=3.0)], ids=lambda s: type(s).__name__)
def test_the_reference_flow_of_a_gaussian(schedule):
    problem = problems.build("gaussian[dimension=4]")
    assert isinstance(problem, Gaussian)
    x_T = problems.starts(problem, schedule, 3)
    end, start = schedule.t_min, schedule.t_max
    ends = [
        tuple(np.exp(f(np.asarray(t))) for f in (schedule.log_alpha, schedule.log_sigma))
        for t in (start, end)
    ]
    found = problems.reference_flow(problem, schedule, x_T, start, end)
    assert np.allclose(found, problem.flow(jnp.asarray(x_T), *ends), rtol=1e-10, atol=1e-11)


def test_the_reference_flow_of_a_mixture_carries_its_quantiles():
    # On a line the flow is monotone, so it maps quantiles of one marginal to those of the other.
    problem, schedule = problems.build("mixture1d"), VPLinear()

    def quantile_of(x, t):
        alpha, sigma = schedule.alpha(np.asarray(t)), schedule.sigma(np.asarray(t))
        from scipy.stats import norm

        spread = np.sqrt(alpha**2 * problem.variances[:, 0] + sigma**2)
        return norm.cdf((x - alpha * problem.means[:, 0]) / spread) @ problem.weights

    x_T = np.linspace(-2, 2, 9)[:, None]
    x = problems.reference_flow(problem, schedule, x_T, 1.0, 1e-3)
    assert np.allclose(quantile_of(x, 1e-3), quantile_of(x_T, 1.0), atol=1e-11)


def test_a_mixture_of_one_is_a_gaussian():
    gaussian = problems.build("gaussian[dimension=4]")
    mixture = Mixture(gaussian.weights, gaussian.means, gaussian.variances, gaussian.basis)
    twins = Mixture(
        np.array([0.3, 0.7]),
        np.repeat(gaussian.means, 2, 0),
        np.repeat(gaussian.variances, 2, 0),
        gaussian.basis,
    )
    x = states(gaussian)
    for other in (mixture, twins):
        assert np.allclose(other.x0(x, 0.9, 0.1), gaussian.x0(x, 0.9, 0.1), rtol=1e-12)


@pytest.mark.parametrize("schedule", [VPCosine(), EDM(), Flow(shift=3.0)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "score", "flow"])
def test_every_prediction_says_the_same(schedule, prediction):
    problem = problems.build("ring[modes=3]")
    denoiser = problems.denoiser(problem, schedule, prediction)
    x, t = states(problem), jnp.asarray(0.3)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    assert np.allclose(denoiser.x0(x, t), problem.x0(x, alpha, sigma), atol=1e-12)


def test_single_precision_stays_single():
    problem = problems.build("ring")
    x = states(problem).astype(jnp.float32)
    model = problems.denoiser(problem, VPLinear(), "v").model
    assert model(x, jnp.float32(0.5)).dtype == jnp.float32
    assert np.allclose(model(x, jnp.float32(0.5)), model(x.astype(jnp.float64), jnp.asarray(0.5)), atol=1e-5)


def test_what_is_no_problem_is_refused():
    with pytest.raises(ValueError, match="ring"):
        problems.build("rings")
    with pytest.raises(ValueError, match="mode"):
        problems.build("ring[mode=3]")
    with pytest.raises(ValueError, match="weights"):
        Mixture(np.ones(2), np.zeros((3, 1)), np.ones((3, 1)))

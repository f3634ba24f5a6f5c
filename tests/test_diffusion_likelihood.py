"""Likelihood and latent inversion: the probability-flow ODE from the data to the noise."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.special import logsumexp

from nsolve import diffusion as D
from nsolve.diffusion._backward import backward_plan
from nsolve.diffusion._divergence import random_signs
from tests import diffusion_reference as reference
from tests.test_diffusion_laws import slope
from tests.test_diffusion_sample import Network, denoiser

VP = D.VPLinear()
SHIFTED = D.Flow(shift=3.0)
DENOISERS = {
    "vp": denoiser("eps"),
    # Told the shifted time, in which the path is straight.
    "flow": D.Denoiser(Network(D.Flow(), "flow"), "flow", SHIFTED),
}
X = jnp.asarray(0.8 * reference.starts(5))


def grid(schedule, num_steps):
    return schedule.t_of_lam(np.linspace(reference.LAM[0], reference.LAM[1], num_steps + 1))


TIMES = grid(VP, 20)


def log_density(x, alpha, sigma, xp=np):
    """Of the mixture with noise, at x (B, 2)."""
    variance = alpha**2 * reference.DEVIATIONS**2 + sigma**2
    squares = xp.sum((x[:, None] - alpha * reference.MEANS[None]) ** 2, axis=2)
    parts = (np.log(reference.WEIGHTS) - np.log(2 * np.pi * variance))[None] - 0.5 * squares / variance[None]
    return logsumexp(parts, axis=1) if xp is np else jax.nn.logsumexp(parts, axis=1)


def prior(schedule, t):
    alpha, sigma = float(schedule.alpha(np.asarray(t))), float(schedule.sigma(np.asarray(t)))
    return lambda x: log_density(x, alpha, sigma, jnp)


@pytest.mark.parametrize("name", DENOISERS)
def test_mixture(name):
    """Third order with DPM-Solver-3, in two schedules and kinds of prediction."""
    net = DENOISERS[name]
    errors = []
    for num_steps in (12, 24):
        times = grid(net.schedule, num_steps)
        value, _ = D.log_likelihood(
            net, X, times, method=D.DPMSolver(3, "single"), prior=prior(net.schedule, times[0])
        )
        exact = log_density(np.asarray(X), net.schedule.alpha(times[-1]), net.schedule.sigma(times[-1]))
        errors.append(np.max(np.abs(value - exact)))
    assert errors[1] < 1e-3 and np.log2(errors[0] / errors[1]) > 2.6, errors


def test_gaussian_pytree():
    """Independent normal numbers of unlike spread in two arrays: all of the answer is in closed form."""
    spread = {"a": np.array([0.3, 2.0]), "b": np.full((2, 2), 0.7)}

    def model(x, t):
        alpha, sigma = VP.alpha(t), VP.sigma(t)
        return jax.tree.map(lambda v, s: sigma * v / (alpha**2 * s[None] ** 2 + sigma**2), x, spread)

    rng = np.random.default_rng(0)
    x = jax.tree.map(lambda s: jnp.asarray(s * rng.normal(size=(3, *s.shape))), spread)
    value, x_T = D.log_likelihood(D.Denoiser(model, "eps", VP), x, D.log_snr_grid(400))
    ends = np.array([1.0, VP.t_min])
    alpha, sigma = VP.alpha(ends), VP.sigma(ends)
    expected = np.zeros(3)
    for name, s in spread.items():
        first, last = (np.hypot(a * s, b) for a, b in zip(alpha, sigma, strict=True))
        latent = np.asarray(x[name]) * first / last
        np.testing.assert_allclose(x_T[name], latent, rtol=1e-5)
        log_normal = -0.5 * (latent / sigma[0]) ** 2 - np.log(sigma[0] * np.sqrt(2 * np.pi))
        expected += np.sum((log_normal + np.log(first / last)).reshape(3, -1), axis=1)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_hutchinson_is_unbiased_and_keyed_by_sample():
    batch = 400
    x = jnp.broadcast_to(X[:1], (batch, 2))
    many, _ = D.log_likelihood(denoiser("eps"), x, TIMES, jr.key(0), trace="hutchinson")
    exact, _ = D.log_likelihood(denoiser("eps"), X, TIMES)
    assert np.std(many) > 1e-3
    assert abs(np.mean(many) - exact[0]) < 4 * np.std(many) / np.sqrt(batch)
    signs = random_signs(jr.key(0), 3, x)
    assert signs.shape == (3, batch, 2) and np.all(np.abs(signs) == 1.0)
    assert np.array_equal(random_signs(jr.key(0), 3, x[:2]), signs[:, :2])


def test_one_number_a_sample_has_an_exact_estimate():
    """v^2 = 1: one sign and one number leave no variance."""

    def model(x, t):
        return jnp.sin(x) + t

    x = jnp.array([[0.3], [-1.0]])
    net = D.Denoiser(model, "v", VP)
    exact, _ = D.log_likelihood(net, x, TIMES)
    probed, _ = D.log_likelihood(net, x, TIMES, jr.key(1), trace="hutchinson", num_probes=2)
    np.testing.assert_allclose(probed, exact, rtol=1e-12)


def test_gradient_is_the_score():
    def total(x):
        return jnp.sum(D.log_likelihood(denoiser("eps"), x, TIMES, prior=prior(VP, TIMES[0]))[0])

    gradient = jax.jit(jax.grad(total))(X)
    np.testing.assert_allclose(gradient, denoiser("eps").score(X, TIMES[-1]), rtol=3e-3, atol=3e-3)


def test_diffrax_and_the_kernel_agree():
    exact = log_density(np.asarray(X), VP.alpha(TIMES[-1]), VP.sigma(TIMES[-1]))
    value, x_T = D.log_likelihood(
        denoiser("eps"), X, TIMES[[0, -1]], method="diffrax", rtol=1e-8, prior=prior(VP, TIMES[0])
    )
    np.testing.assert_allclose(value, exact, atol=1e-6)
    flow = reference.run_plan(D.UniPC(4).plan(grid(VP, 200), VP), np.asarray(x_T))
    np.testing.assert_allclose(flow, X, atol=1e-5)


def test_bits_per_dim():
    # A uniform density over 256 levels of pixels brought to [-1, 1] takes 8 bits.
    assert float(D.bits_per_dim(jnp.asarray(-12 * np.log(2.0)), 12, scale=127.5)) == pytest.approx(
        1 + np.log2(127.5)
    )
    assert float(D.bits_per_dim(jnp.zeros(()), 3)) == 0.0
    with pytest.raises(ValueError, match="`dimension`"):
        D.bits_per_dim(jnp.zeros(()), 0)
    with pytest.raises(ValueError, match="`scale`"):
        D.bits_per_dim(jnp.zeros(()), 1, scale=0.0)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"denoiser": 1}, TypeError, "`denoiser`"),
        ({"x0": jnp.zeros(())}, ValueError, "leading axis"),
        ({"x0": {"a": jnp.zeros((2, 1)), "b": jnp.zeros((3, 1))}}, ValueError, "leading axis"),
        ({"x0": jnp.zeros((2, 2), int)}, TypeError, "floating-point"),
        ({"x0": ()}, ValueError, "no array"),
        ({"trace": "trace"}, ValueError, "`trace`"),
        ({"trace": "hutchinson"}, ValueError, "`key` is missing"),
        ({"num_probes": 0}, ValueError, "`num_probes`"),
        ({"method": "rk4"}, TypeError, "`method`"),
        ({"method": D.DDIM(1.0)}, ValueError, "deterministic"),
        ({"rtol": 1e-3}, ValueError, "`rtol`"),
        ({"checkpoints": 0}, ValueError, "`checkpoints`"),
        ({"grid": [1.0, 0.5, 0.0]}, ValueError, "signal and noise"),
        ({"grid": TIMES[::-1]}, ValueError, "`grid`"),
        ({"prior": lambda x: 0.0 * x, "method": D.DDIM()}, ValueError, "`prior`"),
    ],
)
def test_bad_input_to_likelihood(changes, error, words):
    arguments = {"denoiser": denoiser("eps"), "x0": X, "grid": TIMES} | changes
    with pytest.raises(error, match=words):
        D.log_likelihood(**arguments)


# Inversion


@pytest.mark.parametrize(
    "sampler",
    [D.DDIM(), D.DPMSolver(2, "single"), D.DPMSolver(3, "single"), D.DPMSolverPP(2, "single")],
    ids=lambda s: f"{type(s).__name__}-{s.order}",
)
def test_backward_run_returns_with_the_order(sampler):
    steps, errors = np.array([40, 80, 160]), []
    for num_steps in steps:
        times = grid(VP, int(num_steps))
        x_T = reference.run_plan(backward_plan(sampler, VP, times), np.asarray(X))
        errors.append(np.max(np.abs(reference.run_plan(sampler.plan(times, VP), x_T) - X)))
    assert slope(steps, errors) > sampler.order - 0.2, errors


def test_backward_run():
    """`invert` is the backward plan; the latent is that of the likelihood, and the residual what it says."""
    sampler = D.UniPC(3, prediction="eps", lower_order_final=False)
    found = D.invert(denoiser("eps"), sampler, X, TIMES)
    expected = reference.run_plan(backward_plan(sampler, VP, TIMES), np.asarray(X))
    np.testing.assert_allclose(found.value, expected, rtol=1e-11)
    _, latent = D.log_likelihood(denoiser("eps"), X, TIMES)
    np.testing.assert_allclose(found.value, latent, rtol=1e-12)
    back = reference.run_plan(sampler.plan(TIMES, VP), expected)
    relative = np.linalg.norm(back - X, axis=1) / np.linalg.norm(X, axis=1)
    np.testing.assert_allclose(found.residual, relative, rtol=1e-6)
    assert int(found.stats["num_evaluations"]) == 40 and 1e-6 < np.max(relative) < 1e-2


@pytest.mark.parametrize("sampler", [D.DDIM(), D.DPMSolverPP(2), D.UniPC(3)], ids=lambda s: type(s).__name__)
def test_exact_inversion(sampler):
    found = D.invert(denoiser("eps"), sampler, X, TIMES, rtol=1e-11)
    back = reference.run_plan(sampler.plan(TIMES, VP), np.asarray(found.value))
    np.testing.assert_allclose(back, X, rtol=1e-9, atol=1e-10)
    assert np.all(found.residual <= 1e-11)
    assert int(found.stats["num_evaluations"]) < (25 if sampler.order == 1 else 2 * 15) * 20


def test_first_order_samplers_have_one_latent():
    """Clean states or noise kept: the same steps, so the same latent."""
    ddim, solver = (
        D.invert(denoiser("eps"), s, X, TIMES, rtol=1e-11).value for s in (D.DDIM(), D.DPMSolverPP(1))
    )
    np.testing.assert_allclose(ddim, solver, rtol=1e-9)


def test_exact_inversion_has_forward_derivatives():
    def latent(x):
        return D.invert(denoiser("eps"), D.DDIM(), x, TIMES, rtol=1e-12, throw=False).value

    direction = jnp.asarray(np.random.default_rng(1).normal(size=X.shape))
    derivative = jax.jit(lambda x, v: jax.jvp(latent, (x,), (v,))[1])(X, direction)
    h = 1e-5
    difference = (latent(X + h * direction) - latent(X - h * direction)) / (2 * h)
    np.testing.assert_allclose(derivative, difference, rtol=1e-5, atol=1e-6)


def test_inversion_that_fails_says_so():
    arguments = (denoiser("eps"), D.DDIM(), X, TIMES)
    with pytest.raises(RuntimeError, match="no latent was found"):
        D.invert(*arguments, rtol=1e-11, max_steps=2)
    found = D.invert(*arguments, rtol=1e-11, max_steps=2, throw=False)
    assert np.all(np.isfinite(found.residual)) and np.max(found.residual) > 1e-11
    assert int(found.stats["num_evaluations"]) == 3 * 20

    broken = D.Denoiser(lambda x, t: jnp.where(t < 0.3, jnp.nan, x), "eps", VP)
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        D.invert(broken, D.DDIM(), X, TIMES, rtol=1e-6)
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        D.log_likelihood(broken, X, TIMES)
    with pytest.raises(Exception, match="NaN or infinity"):
        jax.block_until_ready(eqx.filter_jit(D.invert)(broken, D.DDIM(), X, TIMES, rtol=1e-6).value)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"denoiser": 1}, TypeError, "`denoiser`"),
        ({"sampler": D.AdaptiveMultistep()}, TypeError, "`sampler`"),
        ({"sampler": D.DDIM(0.5)}, ValueError, "deterministic"),
        ({"x0": jnp.zeros(())}, ValueError, "leading axis"),
        ({"rtol": 0.0}, ValueError, "`rtol`"),
        ({"max_steps": 0}, ValueError, "`max_steps`"),
        ({"grid": [1.0, 0.5, 0.0]}, ValueError, "signal and noise"),
    ],
)
def test_bad_input_to_inversion(changes, error, words):
    arguments = {"denoiser": denoiser("eps"), "sampler": D.DDIM(), "x0": X, "grid": TIMES} | changes
    with pytest.raises(error, match=words):
        D.invert(**arguments)


def test_float32():
    with jax.enable_x64(False):
        x = jnp.asarray(np.asarray(X), jnp.float32)
        net = D.Denoiser(lambda x, t: jnp.sin(x) * t, "v", VP)
        value, x_T = D.log_likelihood(net, x, TIMES)
        found = D.invert(net, D.DDIM(), x, TIMES, rtol=1e-5)
        assert value.dtype == x_T.dtype == found.value.dtype == found.residual.dtype == jnp.float32
    exact, latent = D.log_likelihood(net, X, TIMES)
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    np.testing.assert_allclose(x_T, latent, rtol=1e-5)

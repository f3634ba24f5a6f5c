"""Classifier-free guidance and dynamic thresholding against closed forms and NumPy."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from nsolve import diffusion as D
from nsolve.diffusion import ClassifierFree, DynamicThreshold

SCHEDULE = D.VPLinear()
MEANS, VARIANCES = np.array([1.5, -0.5]), np.array([0.3, 0.8])  # with the condition, without


def network(x, t, condition):
    """Noise prediction for normal data of the given mean and variance."""
    mean, variance = condition
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    return sigma * (x - alpha * mean) / (alpha**2 * variance + sigma**2)


def guided(scale, **options):
    cond, null = (tuple(jnp.asarray(v) for v in pair) for pair in zip(MEANS, VARIANCES, strict=True))
    return D.Denoiser(ClassifierFree(network, cond, null, scale, **options), "eps", SCHEDULE)


def test_guided_normal_score():
    # scores are linear: (1 - scale) of one and scale of the other make the score of a normal density
    t, scale, x = jnp.asarray(0.4), 2.5, jnp.linspace(-2.0, 3.0, 7)
    alpha, sigma = (float(f(0.4)) for f in (SCHEDULE.alpha, SCHEDULE.sigma))
    precision = 1 / (alpha**2 * VARIANCES + sigma**2)
    weights = np.array([scale, 1 - scale])
    expected = -(weights * precision).sum() * np.asarray(x) + alpha * (weights * precision * MEANS).sum()
    np.testing.assert_allclose(guided(scale).score(x, t), expected, rtol=1e-12)


@pytest.mark.parametrize("scale, which", [(1.0, 0), (0.0, 1)])
def test_ends_of_the_scale(scale, which):
    x_T = jr.normal(jr.key(0), (3, 2))
    grid, sampler = D.log_snr_grid(6), D.DPMSolverPP(2)
    alone = D.Denoiser(lambda x, t: network(x, t, (MEANS[which], VARIANCES[which])), "eps", SCHEDULE)
    expected = D.sample(alone, sampler, x_T, grid).value
    np.testing.assert_allclose(D.sample(guided(scale), sampler, x_T, grid).value, expected, rtol=1e-12)


def test_gradient_in_the_scale():
    x_T = jr.normal(jr.key(1), (4, 3))

    def loss(scale):
        return jnp.sum(
            D.sample(guided(scale, rescale=0.7), D.DPMSolverPP(2), x_T, D.log_snr_grid(5)).value ** 2
        )

    loss = jax.jit(loss)
    scale, step = 2.0, 1e-5
    difference = (loss(scale + step) - loss(scale - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(loss)(scale), difference, rtol=1e-6)


def test_scale_may_vary_with_time_and_sample():
    x, t = jnp.ones((2, 3)), jnp.asarray(0.3)
    expected = jnp.concatenate([guided(1.0).eps(x, t)[:1], guided(4.0).eps(x, t)[1:]])
    np.testing.assert_allclose(guided(jnp.array([1.0, 4.0])).eps(x, t), expected, rtol=1e-14)
    within = guided(lambda t: jnp.where(t < 0.5, 4.0, 1.0))
    np.testing.assert_allclose(within.eps(x, t), guided(4.0).eps(x, t), rtol=1e-14)
    late = jnp.asarray(0.7)
    np.testing.assert_allclose(within.eps(x, late), guided(1.0).eps(x, late), rtol=1e-14)


def test_rescaling():
    rescale = 0.7
    x, t = np.asarray(jr.normal(jr.key(2), (3, 8, 2))), jnp.asarray(0.5)
    cond = np.asarray(network(x, t, (MEANS[0], VARIANCES[0])))
    null = np.asarray(network(x, t, (MEANS[1], VARIANCES[1])))
    plain = null + 5.0 * (cond - null)
    ratio = cond.std(axis=(1, 2), keepdims=True) / plain.std(axis=(1, 2), keepdims=True)
    expected = rescale * plain * ratio + (1 - rescale) * plain
    np.testing.assert_allclose(guided(5.0, rescale=rescale).model(jnp.asarray(x), t), expected, rtol=1e-12)


def test_one_call_for_conditions_that_are_alike():
    calls = []

    def model(x, t, condition):
        calls.append(condition)
        return x if condition is None else x * condition

    x, t = jnp.ones((2, 2)), jnp.asarray(0.5)
    alike = ClassifierFree(model, jnp.asarray(3.0), jnp.asarray(1.0), 2.0)(x, t)
    assert len(calls) == 1
    unlike = ClassifierFree(model, jnp.asarray(3.0), None, 2.0)(x, t)
    assert len(calls) == 3
    np.testing.assert_array_equal(alike, 5.0 * x)
    np.testing.assert_array_equal(unlike, 5.0 * x)


@pytest.mark.parametrize("quantile, minimum", [(0.995, 1.0), (0.8, 1.0), (0.5, 2.0), (1.0, 0.1)])
def test_threshold_is_numpy_s(quantile, minimum):
    x0 = np.asarray(jr.normal(jr.key(3), (4, 5, 5))) * np.array([0.2, 1.0, 3.0, 0.0]).reshape(4, 1, 1)
    s = np.maximum(np.quantile(np.abs(x0).reshape(4, -1), quantile, axis=1), minimum).reshape(4, 1, 1)
    expected = np.clip(x0, -s, s) / s * minimum
    result = DynamicThreshold(quantile, minimum)(jnp.asarray(x0), 0.0)
    np.testing.assert_allclose(result, expected, rtol=1e-13)
    assert np.abs(result).max() <= minimum * (1 + 1e-15)


def test_threshold_in_sampling():
    wide = D.Denoiser(lambda x, t: 10 * jnp.ones_like(x), "x0", SCHEDULE, transform=DynamicThreshold())
    x = D.sample(wide, D.DDIM(), jnp.zeros((2, 3), jnp.bfloat16), jnp.array([0.9, 0.5, 0.0])).value
    np.testing.assert_array_equal(x, np.ones((2, 3)))
    assert x.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: ClassifierFree(3, None, None, 1.0), TypeError, "`model` must be callable"),  # pyright: ignore
        (lambda: guided("high"), TypeError, "`scale` must be a real number"),
        (lambda: guided(2.0, rescale=1.5), ValueError, r"`rescale` must lie in \[0, 1\], got 1.5"),
        (
            lambda: guided(jnp.ones(3)).eps(jnp.ones((2, 2)), 0.5),
            ValueError,
            r"one a sample, \(2,\), got shape \(3,\)",
        ),
        (lambda: DynamicThreshold(quantile=1.2), ValueError, "`quantile` must lie in"),
        (lambda: DynamicThreshold(minimum=0.0), ValueError, "`minimum` must be positive"),
        (lambda: DynamicThreshold()(jnp.asarray(1.0), 0.5), ValueError, "leading axis"),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()

"""PFGM++: its noise, and its field."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from nsolve import diffusion as D

DATA = np.array([[0.8, 0.1, -0.4], [-0.5, 0.9, 0.2], [0.0, -1.0, 0.6], [0.3, 0.4, 0.5]])


@pytest.mark.parametrize("dimensions", [2.0, 128.0, 1e5])
def test_radius_and_direction_of_the_noise(dimensions):
    """The paper's law, sigma sqrt(D) sqrt(b / (1 - b)) with b from Beta(N / 2, D / 2), and no preferred
    direction."""
    size = 5
    noise = np.asarray(D.pfgm_noise(jax.random.key(0), (2000, size), dimensions, sigma=2.5))
    radius = np.linalg.norm(noise, axis=1)
    ratio = radius**2 / (2.5**2 * dimensions)
    beta = stats.beta(0.5 * size, 0.5 * dimensions)
    assert stats.kstest(ratio / (1 + ratio), beta.cdf).pvalue > 1e-3
    # the square of one component of a uniform direction
    assert stats.kstest((noise[:, 0] / radius) ** 2, stats.beta(0.5, 0.5 * (size - 1)).cdf).pvalue > 1e-3
    assert abs(np.mean(np.sign(noise))) < 0.05


def test_noise_of_a_sample_does_not_depend_on_the_batch():
    key = jax.random.key(1)
    batch = D.pfgm_noise(key, (6, 2, 2), 8.0)
    np.testing.assert_array_equal(batch[:4], D.pfgm_noise(key, (4, 2, 2), 8.0))
    scales = jnp.arange(1.0, 7.0)
    scaled = D.pfgm_noise(key, (6, 2, 2), 8.0, scales)
    np.testing.assert_allclose(scaled, batch * scales[:, None, None], rtol=1e-12)


def states(batch=5):
    return np.random.default_rng(2).normal(size=(batch, 3))


def test_field_is_coulombs():
    """In N + D dimensions the data are charges, and (dx / dr) is the field's ratio E_x / E_r."""
    sigma, further = 0.7, 4
    x, radius = states(), 0.7 * np.sqrt(further)
    upwards = np.random.default_rng(3).normal(size=further)
    upwards *= radius / np.linalg.norm(upwards)
    seen = np.concatenate([x, np.tile(upwards, (len(x), 1))], axis=1)
    charges = np.concatenate([DATA, np.zeros((len(DATA), further))], axis=1)
    distance = seen[:, None] - charges
    field = np.sum(distance / np.linalg.norm(distance, axis=2, keepdims=True) ** (3 + further), axis=1)
    along_r = field[:, 3:] @ upwards / radius
    x0 = D.PFGMField(jnp.asarray(DATA), float(further))(jnp.asarray(x), jnp.asarray(sigma))
    # dx / dsigma = sqrt(D) dx / dr
    expected = np.sqrt(further) * field[:, :3] / along_r[:, None]
    np.testing.assert_allclose((x - np.asarray(x0)) / sigma, expected, rtol=1e-12)


def test_field_carries_the_density():
    """dp / dsigma + div(p (x - x0) / sigma) = 0 for p the mean of the kernels around the data."""
    dimensions = 2.5
    field = D.PFGMField(jnp.asarray(DATA), dimensions)

    def density(x, sigma):
        squares = jnp.sum((x[None] - DATA) ** 2, axis=1)
        return jnp.mean(sigma**dimensions * (squares + sigma**2 * dimensions) ** (-0.5 * (3 + dimensions)))

    def flux(x, sigma):
        return density(x, sigma) * (x - field(x[None], sigma)[0]) / sigma

    @jax.jit
    @jax.vmap
    def both_sides(x):
        return jax.grad(density, argnums=1)(x, 0.6), -jnp.trace(jax.jacobian(flux)(x, 0.6))

    np.testing.assert_allclose(*both_sides(jnp.asarray(states())), rtol=1e-10)


def test_many_dimensions_make_it_normal():
    x, sigma = states(), 0.5
    weight = np.exp(-0.5 * np.sum((x[:, None] - DATA) ** 2, axis=2) / sigma**2)
    expected = weight @ DATA / weight.sum(axis=1, keepdims=True)
    for dimensions, tolerance in ((1e3, 3e-2), (1e6, 3e-5), (1e12, 1e-10)):
        x0 = D.PFGMField(jnp.asarray(DATA), dimensions)(jnp.asarray(x), jnp.asarray(sigma))
        np.testing.assert_allclose(x0, expected, rtol=tolerance, atol=tolerance)


def test_sampling_ends_in_the_data_evenly():
    """Heun's method on EDM's grid carries the prior to the data's points, each as often as it should be."""
    schedule = D.EDM()
    grid = np.append(D.karras_grid(17)(schedule), 0.0)
    x_T = D.pfgm_noise(jax.random.key(4), (400, 3), 16.0, sigma=80.0)
    denoiser = D.Denoiser(D.PFGMField(jnp.asarray(DATA), 16.0), "x0", schedule)
    x = np.asarray(D.sample(denoiser, D.EDMHeun(), x_T, grid).value)
    distance = np.linalg.norm(x[:, None] - DATA, axis=2)
    assert np.mean(distance.min(axis=1) < 1e-3) > 0.99
    counts = np.bincount(distance.argmin(axis=1), minlength=4)
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: D.PFGMField(jnp.asarray(DATA), 0.0), "`D`"),
        (lambda: D.PFGMField(jnp.zeros((0, 3)), 1.0), "`data`"),
        (lambda: D.PFGMField(jnp.asarray(DATA), 1.0)(jnp.zeros((2, 4)), 1.0), "`x`"),
        (lambda: D.pfgm_noise(jax.random.key(0), (2, 3), -1.0), "`D`"),
        (lambda: D.pfgm_noise(jax.random.key(0), (), 1.0), "`shape`"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()

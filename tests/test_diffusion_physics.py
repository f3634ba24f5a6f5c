"""Physics at inference time: measurements, rewards and products, against closed forms.

Where particles are drawn, keys are fixed, and the bounds are two to four standard errors of the estimates.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from nsolve import diffusion as D
from nsolve.diffusion.inverse.ensemble_kalman import _kalman

# ---------------------------------------------------------------- normal data with linear measurements
DIM, ROWS, NOISE = 4, 2, 0.3
RNG = np.random.default_rng(0)
MEAN = RNG.normal(size=DIM)
ROOT = RNG.normal(size=(DIM, DIM))
COVARIANCE = ROOT @ ROOT.T / DIM + 0.1 * np.eye(DIM)
A = RNG.normal(size=(ROWS, DIM))
Y = A @ RNG.normal(size=DIM)
GAIN = COVARIANCE @ A.T @ np.linalg.inv(A @ COVARIANCE @ A.T + NOISE**2 * np.eye(ROWS))
POSTERIOR_MEAN = MEAN + GAIN @ (Y - A @ MEAN)
POSTERIOR_COVARIANCE = COVARIANCE - GAIN @ A @ COVARIANCE
SCHEDULE = D.EDM()


def normal_model(x, t):
    """E[x0 | x] of the data, with alpha = 1 and sigma = t."""
    shrink = COVARIANCE @ jnp.linalg.inv(COVARIANCE + t**2 * jnp.eye(DIM))
    mean = np.broadcast_to(MEAN, x.shape)
    return mean + (x - mean) @ shrink.T


PRIOR = D.Denoiser(normal_model, "x0", SCHEDULE)


def krylov_minimiser(matrix, right, start, num_steps):
    """The point of start + Krylov space of the residual with the least energy error, by projection."""
    residual = right - matrix @ start
    powers = [np.linalg.matrix_power(matrix, k) @ residual for k in range(num_steps)]
    basis, _ = np.linalg.qr(np.stack(powers, axis=1))
    return start + basis @ np.linalg.solve(basis.T @ matrix @ basis, basis.T @ residual)


MATRIX = lx.MatrixLinearOperator(jnp.asarray(A))


@pytest.mark.parametrize(
    "gamma, num_steps, operator",
    [(None, 1, MATRIX), (None, 2, MATRIX), (2.5, 1, MATRIX), (2.5, 2, MATRIX.mv)],
)
def test_consistency_is_the_best_of_a_krylov_space(gamma, num_steps, operator):
    x0 = np.random.default_rng(1).normal(size=(3, DIM))
    consistency = D.KrylovConsistency(operator, jnp.asarray(Y), gamma, num_steps)
    matrix, right = A.T @ A, np.broadcast_to(A.T @ Y, x0.shape)
    if gamma is not None:
        matrix, right = np.eye(DIM) + gamma * matrix, x0 + gamma * right
    expected = [krylov_minimiser(matrix, b, x, num_steps) for b, x in zip(right, x0, strict=True)]
    np.testing.assert_allclose(consistency(jnp.asarray(x0), 0.0), expected, rtol=1e-10)


def test_enough_steps_solve():
    numbers = np.random.default_rng(2)
    x0, ys = numbers.normal(size=(3, DIM)), numbers.normal(size=(3, ROWS))
    proximal = D.KrylovConsistency(MATRIX, jnp.asarray(ys), 0.7, DIM)(jnp.asarray(x0), 0.0)
    expected = np.linalg.solve(np.eye(DIM) + 0.7 * A.T @ A, (x0 + 0.7 * ys @ A).T).T
    np.testing.assert_allclose(proximal, expected, rtol=1e-10)
    # exact measurements: the projection onto A x = y
    projected = D.KrylovConsistency(MATRIX, jnp.asarray(ys), None, DIM)(jnp.asarray(x0), 0.0)
    np.testing.assert_allclose(projected, x0 + (ys - x0 @ A.T) @ np.linalg.pinv(A).T, rtol=1e-9)


def test_consistency_in_sampling():
    x_T = 10.0 * jr.normal(jr.key(0), (3, DIM))
    grid = D.karras_grid(12, start=10.0, end=0.02)

    def residual(x):
        return float(np.sqrt(np.mean((np.asarray(x) @ A.T - Y) ** 2)))

    free = residual(D.sample(PRIOR, D.DDIM(), x_T, grid).value)
    exact = D.KrylovConsistency(MATRIX, jnp.asarray(Y), None, ROWS)
    held = residual(D.sample_decomposed(PRIOR, exact, x_T, grid).value)
    assert free > 1.0
    assert held < 0.1  # what is left is the noise of the grid's last level
    as_transform = D.Denoiser(normal_model, "x0", SCHEDULE, transform=exact)
    assert residual(D.sample(as_transform, D.DPMSolverPP(2), x_T, grid).value) < 0.05


def test_gradients_of_consistent_sampling():
    x_T = 10.0 * jr.normal(jr.key(1), (2, DIM))

    @jax.jit
    def loss(parameters):
        gamma, matrix, y = parameters
        consistency = D.KrylovConsistency(lx.MatrixLinearOperator(matrix), y, gamma, 2)
        x = D.sample_decomposed(
            PRIOR, consistency, x_T, jnp.array([10.0, 3.0, 1.0, 0.1]), jr.key(2), eta=0.8
        ).value
        return jnp.sum(x**2)

    point = (jnp.asarray(1.3), jnp.asarray(A), jnp.asarray(Y))
    direction = jax.tree.map(lambda leaf: jr.normal(jr.key(3), leaf.shape), point)
    gradient = jax.grad(loss)(point)
    slope = sum(jnp.vdot(g, d) for g, d in zip(gradient, direction, strict=True))
    step = 1e-5
    ahead = loss(jax.tree.map(lambda p, d: p + step * d, point, direction))
    behind = loss(jax.tree.map(lambda p, d: p - step * d, point, direction))
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-6)


def reference_decomposed(xs, times, eta, noises, step):
    """DDS in NumPy on normal data: `step` makes a clean state consistent."""
    for k, (t, end) in enumerate(zip(times[:-1], times[1:], strict=True)):
        x0 = np.asarray(normal_model(xs, t))
        eps = (xs - x0) / t
        xs = step(x0) + end * (np.sqrt(1 - eta**2) * eps + eta * noises[k])
    return xs


def test_total_variation_is_the_reference_loop():
    # four slices; ADMM's variables are carried from level to level
    x_T, times, eta = 10.0 * np.asarray(jr.normal(jr.key(4), (4, DIM))), np.array([10.0, 4.0, 1.0, 0.2]), 0.85
    weight, rho, y = 0.3, 2.0, np.random.default_rng(3).normal(size=(4, ROWS))
    key = jr.key(5)
    noises = [np.asarray(D.IndependentNoise(key).draw(None, k, 0, 0, jnp.asarray(x_T))[0]) for k in range(3)]
    d = u = np.zeros((4, DIM))
    difference = np.roll(np.eye(4), 1, axis=1) - np.eye(4)
    matrix = np.kron(np.eye(4), A.T @ A) + rho * np.kron(difference.T @ difference, np.eye(DIM))

    def step(x0):
        nonlocal d, u
        right = (y @ A + rho * difference.T @ (d - u)).ravel()
        x = krylov_minimiser(matrix, right, x0.ravel(), 3).reshape(4, DIM)
        change = difference @ x + u
        d = np.sign(change) * np.maximum(np.abs(change) - weight / rho, 0)
        u = change - d
        return x

    expected = reference_decomposed(x_T, times, eta, noises, step)
    consistency = D.TotalVariationConsistency(lambda x: jnp.asarray(A) @ x, jnp.asarray(y), weight, rho, 3)
    x = D.sample_decomposed(PRIOR, consistency, jnp.asarray(x_T), times, key, eta=eta).value
    np.testing.assert_allclose(x, expected, rtol=1e-9)


def test_bias_of_decomposed_sampling():
    # Affine in the start where conjugate gradients solve: mean and covariance by columns, no Monte Carlo.
    start = 30.0
    grid = D.karras_grid(40, start=start, end=0.01)
    consistency = D.KrylovConsistency(lambda x: jnp.asarray(A) @ x, jnp.asarray(Y), 1.0 / NOISE**2, DIM)
    columns = jnp.concatenate([jnp.zeros((1, DIM)), start * jnp.eye(DIM)])
    x = np.asarray(D.sample_decomposed(PRIOR, consistency, columns, grid).value)
    mean, root = x[0], (x[1:] - x[0]).T
    bias = np.linalg.norm(mean - POSTERIOR_MEAN) / np.linalg.norm(MEAN - POSTERIOR_MEAN)
    spread = np.trace(root @ root.T) / np.trace(POSTERIOR_COVARIANCE)
    # no posterior: a ninth of the way from prior to posterior is missing, and a sixteenth of the variance
    np.testing.assert_allclose([bias, spread], [0.1129, 0.9365], atol=2e-4)


# ---------------------------------------------------------------- ensemble Kalman guidance
ENSEMBLE = 20.0 * jr.normal(jr.key(6), (4000, DIM))
SINGLE = D.DPMSolverPP(2, "single")


def ensemble(x_T=ENSEMBLE, forward=lambda x: x @ A.T, y=Y, noise_std=NOISE, sampler=SINGLE, **options):
    options = {"key": jr.key(7), "num_prediction_steps": 6} | options
    grid = D.karras_grid(12, start=20.0, end=0.02)
    return D.sample_ensemble_kalman(
        PRIOR, forward, jnp.asarray(y), noise_std, x_T, grid, sampler=sampler, **options
    ).value


def test_ensemble_reaches_the_posterior():
    x = np.asarray(ensemble())
    count, deviations = len(x), np.sqrt(np.diag(POSTERIOR_COVARIANCE))
    errors = (x.mean(axis=0) - POSTERIOR_MEAN) / deviations * np.sqrt(count)
    assert np.abs(errors).max() < 4  # in standard errors; measured 1.5
    errors = (np.cov(x.T) - POSTERIOR_COVARIANCE) / np.outer(deviations, deviations) * np.sqrt(count / 2)
    assert np.abs(errors).max() < 4  # measured 1.4


def test_published_ensemble_finds_the_measurements_and_no_posterior():
    x = np.asarray(ensemble(guidance_scale=2.0, key=None))
    assert np.abs(x.mean(axis=0) @ A.T - Y).max() < 0.05
    assert np.trace(np.cov(x.T)) < 0.8 * np.trace(POSTERIOR_COVARIANCE)
    assert np.linalg.norm(x.mean(axis=0) - POSTERIOR_MEAN) > 0.5


@pytest.mark.parametrize("count, size", [(7, 3), (3, 7)])
def test_gain_in_either_dimension(count, size):
    # with fewer particles than measurements the system is solved in the ensemble's own dimension
    numbers = np.random.default_rng(4)
    x, seen, misfit = (numbers.normal(size=(count, n)) for n in (4, size, size))
    joint = np.cov(np.concatenate([x, seen], axis=1).T)
    gain = joint[:4, 4:] @ np.linalg.inv(joint[4:, 4:] + np.eye(size) / 0.2)
    moved = _kalman({"a": x[:, :1], "b": x[:, 1:]}, jnp.asarray(seen), jnp.asarray(misfit), 0.2)
    expected = x - misfit @ gain.T
    np.testing.assert_allclose(np.concatenate([moved["a"], moved["b"]], axis=1), expected, rtol=1e-11)


def test_published_rule_is_the_reference_loop():
    def ddim(x, times):
        for t, end in zip(times[:-1], times[1:], strict=True):
            x = end / t * x + (1 - end / t) * np.asarray(normal_model(x, t))
        return x

    x = x_T = np.asarray(ENSEMBLE[:6])
    for predict in ([20.0, 5.0, 0.5], [5.0, 2.75, 0.5]):  # two steps each, in the grid's own spacing
        seen = np.tanh(ddim(x, predict))
        weights = (seen - 0.1) @ (seen - seen.mean(axis=0)).T / len(x)
        x = x - 1.5 / np.linalg.norm(weights) * weights @ (x - x.mean(axis=0))
        x = ddim(x, [predict[0], 5.0 if predict[0] == 20.0 else 0.5])
    result = D.sample_ensemble_kalman(
        PRIOR,
        jnp.tanh,
        jnp.full(DIM, 0.1),
        0.3,
        jnp.asarray(x_T),
        np.array([20.0, 5.0, 0.5]),
        num_prediction_steps=2,
        guidance_scale=1.5,
    ).value
    np.testing.assert_allclose(result, x, rtol=1e-9)


# ---------------------------------------------------------------- second-order Tweedie
WEIGHTS, CENTRES, WIDTHS = (
    np.array([0.4, 0.6]),
    np.array([-1.0, 0.8]),
    np.array([0.2, 0.3]),
)  # each coordinate
SLOPES, READINGS, READING_NOISE = np.array([1.5, -0.7]), np.array([0.4, 0.9]), 0.5


def log_density(x, t):
    """Of one state of independent coordinates at noise t."""
    variance = WIDTHS + t**2
    parts = (jnp.log(WEIGHTS) - 0.5 * jnp.log(variance))[None] - 0.5 * (
        x[:, None] - CENTRES[None]
    ) ** 2 / variance[None]
    return jnp.sum(jax.scipy.special.logsumexp(parts, axis=1))


def mixture_clean(x, t):
    return x + t**2 * jax.grad(log_density)(x, t)


def log_likelihood(x0):
    slopes, readings = (np.broadcast_to(value, x0.shape) for value in (SLOPES, READINGS))
    return -0.5 * jnp.sum((x0 * slopes - readings) ** 2, axis=-1) / READING_NOISE**2


def expected_log_likelihood(x, t):
    """E[log p(y | x0) | x] of one state, from the moments of the mixture's parts."""
    variance = WIDTHS + t**2
    parts = (jnp.log(WEIGHTS) - 0.5 * jnp.log(variance))[None] - 0.5 * (
        x[:, None] - CENTRES[None]
    ) ** 2 / variance[None]
    share = jax.nn.softmax(parts, axis=1)
    mean = CENTRES[None] + (WIDTHS / variance)[None] * (x[:, None] - CENTRES[None])
    square = (SLOPES[:, None] * mean - READINGS[:, None]) ** 2 + SLOPES[:, None] ** 2 * (
        WIDTHS * t**2 / variance
    )[None]
    return -0.5 * jnp.sum(share * square) / READING_NOISE**2


def surrogate(x, t):
    """The surrogate of STSL with curvature 0.3."""
    return log_likelihood(mixture_clean(x, t)) - 0.3 * jnp.trace(jax.hessian(log_density)(x, t))


MIXTURE = D.Denoiser(lambda x, t: jax.vmap(lambda one: mixture_clean(one, t))(x), "x0", SCHEDULE)


@pytest.mark.parametrize(
    "curvature, bound",
    [
        (None, expected_log_likelihood),
        (0.3, surrogate),
        (0.0, lambda x, t: log_likelihood(mixture_clean(x, t))),
    ],
)
def test_guidance_is_the_gradient_of_the_bound(curvature, bound):
    x, t = jr.normal(jr.key(8), (3, 2)), jnp.asarray(0.7)
    guided = D.second_order_tweedie(
        MIXTURE, log_likelihood, jr.key(9), curvature=curvature, scale=lambda t: 0.5
    )
    change = jax.jit(lambda x: guided.score(x, t) - MIXTURE.score(x, t))(x)
    gradients = jax.jit(jax.vmap(lambda one: jax.grad(bound)(one, t)))(x)
    np.testing.assert_allclose(change, 0.5 * gradients, rtol=1e-9)


def test_tweedie_in_sampling():
    # linear in the state: a reference by an ODE solver in NumPy
    def likelihood(x0):
        return -0.5 * jnp.sum((x0 @ A.T - Y[None]) ** 2, axis=1) / NOISE**2

    def slope(t, x):
        shrink = COVARIANCE @ np.linalg.inv(COVARIANCE + t**2 * np.eye(DIM))
        x0 = MEAN + shrink @ (x - MEAN)
        return (x - x0 - t**2 * shrink @ A.T @ (Y - A @ x0) / NOISE**2) / t

    x_T = 0.8 * jr.normal(jr.key(10), (1, DIM))
    expected = solve_ivp(slope, (0.8, 0.01), np.asarray(x_T[0]), "LSODA", rtol=1e-11, atol=1e-12).y[:, -1]
    guided = D.second_order_tweedie(PRIOR, likelihood, jr.key(11))
    errors = []
    for steps in (60, 120):
        grid = D.log_snr_grid(steps, start=0.8, end=0.01)
        x = D.sample(guided, D.DPMSolverPP(3, "single"), x_T, grid).value
        errors.append(np.abs(x[0] - expected).max())
    assert errors[0] < 2e-4 and errors[0] / errors[1] > 6  # third order, as without guidance


def test_tweedie_keeps_the_schedule_s_time():
    flow = D.Flow(shift=3.0)
    told = D.Denoiser(lambda x, t: t * x, "flow", flow)
    flat = D.second_order_tweedie(told, lambda x0: jnp.zeros(len(x0)), curvature=0)
    x, grid = jnp.ones((2, 3)), D.uniform_grid(4, start=0.99)
    expected = D.sample(told, D.DDIM(), x, grid).value
    np.testing.assert_allclose(D.sample(flat, D.DDIM(), x, grid).value, expected, rtol=1e-12)


# ---------------------------------------------------------------- Feynman-Kac correctors
POINTS = np.linspace(-20.0, 20.0, 40001)
COUNT, START, END = 4000, 1.5, 0.1


class MixtureModel(eqx.Module):
    """E[x0 | x] of a mixture on the line."""

    weights: jax.Array
    means: jax.Array
    variances: jax.Array

    def __call__(self, x, t):
        each = (None,) * x.ndim
        weights, means, variances = self.weights[each], self.means[each], self.variances[each]
        total = t.astype(weights.dtype) ** 2 + variances
        offset = x[..., None].astype(weights.dtype) - means
        share = jax.nn.softmax(jnp.log(weights / jnp.sqrt(total)) - 0.5 * offset**2 / total, axis=-1)
        return jnp.sum(share * (means + variances / total * offset), axis=-1)

    def density(self, t):
        """On POINTS, at noise t."""
        variance = t**2 + np.asarray(self.variances)
        parts = np.exp(-0.5 * (POINTS[:, None] - np.asarray(self.means)) ** 2 / variance) / np.sqrt(
            2 * np.pi * variance
        )
        return parts @ np.asarray(self.weights)


def of_mixture(*parameters):
    return D.Denoiser(MixtureModel(*(jnp.asarray(p, float) for p in parameters)), "x0", SCHEDULE)


FIRST = of_mixture([0.5, 0.5], [0.5, 0.5], [0.5, 0.5])  # two normal densities
SECOND = of_mixture([0.5, 0.5], [-0.3, -0.3], [0.4, 0.4])
PAIR = of_mixture([0.4, 0.6], [-1.0, 1.0], [0.2, 0.3])


def product(denoisers, powers, t, reward=None):
    density = np.prod([d.model.density(t) ** p for d, p in zip(denoisers, powers, strict=True)], axis=0)
    return density if reward is None else density * np.exp(reward(POINTS[:, None], t))


def particles(denoisers, powers, reward=None, threshold=0.5, seed=0, steps=60):
    """The sampled particles, and the exact mean, variance and log of the ratio of normalisers."""
    start, end = (product(denoisers, powers, t, reward) for t in (START, END))
    quantiles = np.asarray(jr.uniform(jr.key(seed + 50), (COUNT,)))
    x_T = np.interp(quantiles, np.cumsum(start) / np.sum(start), POINTS)[:, None]
    grid = D.log_snr_grid(steps, start=START, end=END)
    result = D.sample_feynman_kac(
        denoisers, powers, jnp.asarray(x_T), grid, jr.key(seed), reward=reward, threshold=threshold
    )
    end_mean = np.sum(POINTS * end) / np.sum(end)
    variance = np.sum((POINTS - end_mean) ** 2 * end) / np.sum(end)
    return result, end_mean, variance, np.log(np.sum(end) / np.sum(start))


def ramp(x, t):
    """A reward that grows as the noise falls from START to END."""
    return (START - t) / (START - END) * (1.3 * x[:, 0] - 0.35 * x[:, 0] ** 2)


# denoisers, powers, reward; bounds of the errors of mean, variance and log normaliser; the moment in which
# unweighted particles are wrong, and by how much at least
PRODUCTS = {
    "product": ([FIRST, SECOND], [1.0, 1.0], None, (0.08, 0.05, 0.1), "variance", 0.06),
    "guidance": ([FIRST, SECOND], [2.0, -1.0], None, (0.08, 0.04, 0.04), "mean", 0.25),
    "tempered": ([PAIR], [2.0], None, (0.2, 0.12, 0.12), "variance", 0.15),
    "reward": ([FIRST], [1.0], ramp, (0.08, 0.05, 0.05), "mean", 0.15),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_weighted_particles(name):
    denoisers, powers, reward, bounds, moment, bias = PRODUCTS[name]
    for threshold in (0.0, 0.5):
        result, mean, variance, log_ratio = particles(denoisers, powers, reward, threshold)
        x, weights = np.asarray(result.value[:, 0]), np.exp(result.log_weights)
        np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-12)
        np.testing.assert_allclose(result.effective_size, 1 / np.sum(weights**2), rtol=1e-12)
        seen = np.sum(weights * x)
        errors = seen - mean, np.sum(weights * (x - seen) ** 2) - variance, result.log_normaliser - log_ratio
        assert all(abs(error) < bound for error, bound in zip(errors, bounds, strict=True))
        if threshold == 0.0:
            assert result.stats["num_resamplings"] == 0
            assert abs({"mean": x.mean() - mean, "variance": x.var() - variance}[moment]) > bias


def test_particles_are_of_second_order():
    # normal data: the same noise from two starts shows how means are carried on, without Monte Carlo
    power = 2.0

    def factor(steps):
        grid = D.log_snr_grid(steps, start=START, end=END)
        run = partial(D.sample_feynman_kac, FIRST, power, grid=grid, key=jr.key(0), threshold=0.0)
        zero, one = (run(x_T=jnp.full((1, 1), x)).value[0, 0] for x in (0.0, 1.0))
        return float(one - zero)

    exact = ((0.5 + END**2) / (0.5 + START**2)) ** power  # dz = 2 power (x0(z) - z) dlam
    errors = [abs(factor(steps) - exact) for steps in (40, 80)]
    assert 3.5 < errors[0] / errors[1] < 4.5


def test_log_normaliser_in_any_schedule():
    # densities of x = alpha z: the same particles in z, and the volume that alpha changes
    vp = D.VPLinear()
    shared = {"threshold": 0.0, "key": jr.key(3)}
    lam = jnp.linspace(-0.4, 2.0, 9)
    model = FIRST.model
    x_T = 1.2 * jr.normal(jr.key(4), (5, 1))
    in_vp = D.Denoiser(lambda x, t: model(x / vp.alpha(t), vp.sigma(t) / vp.alpha(t)), "x0", vp)
    times = vp.t_of_lam(np.asarray(lam))
    a = D.sample_feynman_kac(FIRST, 2.0, x_T, SCHEDULE.t_of_lam(np.asarray(lam)), **shared)
    b = D.sample_feynman_kac(in_vp, 2.0, x_T * vp.alpha(times[0]), times, **shared)
    np.testing.assert_allclose(b.value / vp.alpha(times[-1]), a.value, rtol=1e-9)
    np.testing.assert_allclose(b.log_weights, a.log_weights, rtol=1e-9)
    volume = np.log(vp.alpha(times[0]) / vp.alpha(times[-1]))
    np.testing.assert_allclose(b.log_normaliser, a.log_normaliser + volume, rtol=1e-9)


def test_gradients_through_particles():
    x_T = jr.normal(jr.key(13), (4, 1))

    @jax.jit
    def loss(power):
        grid = jnp.array([1.5, 0.7, 0.3])
        result = D.sample_feynman_kac(FIRST, power, x_T, grid, jr.key(14), reward=ramp, threshold=0.0)
        return result.log_normaliser + jnp.sum(jnp.exp(result.log_weights) * result.value[:, 0] ** 2)

    difference = (loss(0.8 + 1e-5) - loss(0.8 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(loss)(0.8), difference, rtol=1e-6)


# ---------------------------------------------------------------- what all of them share
STATES, GRID, FORWARD, KEY = (
    jnp.ones((3, DIM)),
    np.array([2.0, 1.0, 0.1]),
    lambda x: x @ A.T.astype(x.dtype),
    jr.key(0),
)


def consistency(**options):
    return D.KrylovConsistency(lambda x: jnp.asarray(A) @ x, jnp.asarray(Y), **options)


def decomposed(denoiser=PRIOR, made=None, x_T=STATES, grid=GRID, key=None, **options):
    return D.sample_decomposed(denoiser, made or consistency(), x_T, grid, key, **options).value


def kalman(denoiser=PRIOR, x_T=STATES, y=Y, noise_std=0.1, key=KEY, forward=FORWARD, **options):
    return D.sample_ensemble_kalman(
        denoiser, forward, jnp.asarray(y), noise_std, x_T, GRID, key, **options
    ).value


def feynman_kac(denoisers=PRIOR, powers=1.0, x_T=STATES, grid=GRID, key=KEY, **options):
    return D.sample_feynman_kac(denoisers, powers, x_T, grid, key, **options)


@pytest.mark.parametrize(
    "run, step", [(decomposed, 1), (kalman, 0), (lambda d, **options: feynman_kac(d, **options).value, 1)]
)
def test_a_network_that_fails(run, step):
    broken = D.Denoiser(lambda x, t: jnp.where(t < 1.5, jnp.nan, 1.0) * x, "x0", SCHEDULE)
    with pytest.raises(FloatingPointError, match=f"network or .* returned NaN or infinity at step {step};"):
        run(broken)
    assert np.isnan(run(broken, throw=False)).all()


def test_states_of_half_precision():
    dtype = jnp.bfloat16
    x_T = STATES.astype(dtype)
    model = D.Denoiser(lambda x, t: jax.tree.map(lambda leaf: leaf / 2, x), "x0", SCHEDULE)
    volume = D.TotalVariationConsistency(lambda x: jnp.asarray(A, x.dtype) @ x, jnp.asarray(Y))
    plane = D.KrylovConsistency(lambda x: jnp.asarray(A, x.dtype) @ x, jnp.asarray(Y), 2.0)
    for x in (
        decomposed(model, volume, x_T=x_T, key=KEY, eta=0.5),
        plane(x_T, 0.0),
        kalman(model, x_T=x_T),
        feynman_kac([model, model], [1.0, 1.0], x_T={"part": x_T}).value["part"],
    ):
        assert x.dtype == dtype
        assert np.isfinite(np.asarray(x, np.float64)).all()


def test_states_of_several_arrays():
    # parts of a state under names of their own give the parts of the whole
    def split(x):
        return {"a": x[:, :1], "b": x[:, 1:]}

    def join(x):
        return jnp.concatenate([x["a"], x["b"]], axis=1)

    whole = D.Denoiser(lambda x, t: 0.3 * jnp.tanh(x), "x0", SCHEDULE)
    parts = D.Denoiser(lambda x, t: split(0.3 * jnp.tanh(join(x))), "x0", SCHEDULE)
    x_T = jr.normal(jr.key(12), (3, DIM))
    operator = lambda x: jnp.asarray(A) @ jnp.concatenate([x["a"], x["b"]])  # noqa: E731
    held = D.KrylovConsistency(operator, jnp.asarray(Y), 2.0)
    np.testing.assert_allclose(
        join(decomposed(parts, held, x_T=split(x_T))), decomposed(whole, consistency(gamma=2.0), x_T=x_T)
    )
    forward = lambda x: x @ A.T  # noqa: E731
    ours = kalman(parts, split(x_T), forward=lambda x: forward(join(x)), key=None, guidance_scale=1.0)
    np.testing.assert_allclose(join(ours), kalman(whole, x_T, key=None, guidance_scale=1.0))
    quiet = D.second_order_tweedie(parts, lambda x: -jnp.sum(join(x) ** 2, axis=1), curvature=0)
    loud = D.second_order_tweedie(whole, lambda x: -jnp.sum(x**2, axis=1), curvature=0)
    ours, expected = jax.jit(lambda x: (join(quiet.eps(split(x), 0.5)), loud.eps(x, 0.5)))(x_T)
    np.testing.assert_allclose(ours, expected)


OTHER = D.Denoiser(normal_model, "x0", D.VPLinear())
BAD = {
    "operator": (lambda: D.KrylovConsistency(3.0, Y), TypeError, "`operator` must be a lineax operator"),  # pyright: ignore
    "steps": (lambda: consistency(num_steps=0), ValueError, "`num_steps` must be a positive integer, got 0"),
    "gamma": (lambda: consistency(gamma=-1.0), ValueError, "`gamma` must be positive"),
    "weight": (
        lambda: D.TotalVariationConsistency(lambda x: x, Y, weight=0.0),
        ValueError,
        "`weight` must be positive, got 0.0",
    ),
    "measurement": (
        lambda: D.KrylovConsistency(lambda x: x, jnp.ones(3))(STATES, 0.0),
        ValueError,
        "`measurement` must be like the operator's result",
    ),
    "eta": (lambda: decomposed(eta=1.5), ValueError, r"`eta` must lie in \[0, 1\], got 1.5"),
    "no key": (lambda: decomposed(eta=0.5), ValueError, "`key` is missing: sample_decomposed with eta=0.5"),
    "batch": (lambda: decomposed(x_T=jnp.asarray(1.0)), ValueError, "`x_T` must have its samples along one"),
    "grid": (lambda: decomposed(grid=np.array([1.0, 2.0])), ValueError, "from large to small noise"),
    "integers": (lambda: decomposed(x_T=jnp.ones((2, 2), int)), TypeError, "real floating-point"),
    "one particle": (lambda: kalman(x_T=STATES[:1]), ValueError, "two particles or more, got 1"),
    "noise": (lambda: kalman(noise_std=0.0), ValueError, "`noise_std` must be positive, got 0.0"),
    "forward": (lambda: kalman(y=np.ones(3)), ValueError, r"shape \(3, 3\), got \(3, 2\)"),
    "kalman key": (lambda: kalman(key=None), ValueError, "`key` is missing: sample_ensemble_kalman"),
    "prediction": (lambda: kalman(num_prediction_steps=0), ValueError, "positive integer, got 0"),
    "sampler": (lambda: kalman(sampler=D.DDPM()), ValueError, "must be deterministic, but DDPM adds noise"),
    "powers": (
        lambda: feynman_kac(powers=[1.0, 2.0]),
        ValueError,
        r"one for each of 1 denoisers, got shape \(2,\)",
    ),
    "sum": (lambda: feynman_kac(powers=-1.0), ValueError, "positive sum"),
    "schedules": (lambda: feynman_kac([PRIOR, OTHER], [1.0, 1.0]), ValueError, "must have the same schedule"),
    "denoisers": (lambda: feynman_kac([normal_model]), TypeError, "`denoisers` must be a Denoiser"),
    "end": (lambda: feynman_kac(grid=np.array([2.0, 0.0])), ValueError, "signal and noise at both ends"),
    "keys": (lambda: feynman_kac(key=jr.split(jr.key(0), 3)), ValueError, r"must be one key.*shape \(3,\)"),
    "not a key": (lambda: feynman_kac(key=3), TypeError, "must be a jax.random key, got int"),
    "threshold": (lambda: feynman_kac(threshold=2.0), ValueError, r"`threshold` must lie in \[0, 1\]"),
    "reward": (
        lambda: feynman_kac(reward=lambda x, t: x.sum()),
        ValueError,
        r"`reward` must return shape \(3,\)",
    ),
    "probes": (
        lambda: D.second_order_tweedie(PRIOR, log_likelihood, jr.key(0), num_probes=0),
        ValueError,
        "`num_probes` must be a positive integer, got 0",
    ),
    "tweedie key": (lambda: D.second_order_tweedie(PRIOR, log_likelihood), ValueError, "draws probes"),
    "likelihood": (
        lambda: D.second_order_tweedie(PRIOR, lambda x0: 0.0, curvature=0).x0(STATES, 1.0),
        ValueError,
        r"`log_likelihood` must return shape \(3,\), got \(\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    make, error, message = BAD[name]
    with pytest.raises(error, match=message):
        make()

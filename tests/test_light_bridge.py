"""`LightBridge` against closed forms, quadrature and simulation."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.integrate import quad
from scipy.special import logsumexp

import nsolve as ns
from nsolve.transport.light_bridge import LightBridge


def a_bridge(d=2, K=3, epsilon=0.5, seed=0, dtype=jnp.float64) -> LightBridge:
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=K), rng.normal(size=(K, d)), rng.uniform(0.3, 2, (K, d))
    return LightBridge(*(jnp.asarray(v, dtype) for v in numbers), epsilon)


@eqx.filter_jit
def call(bridge, method, *arguments):
    """One program in place of many small ones."""
    return getattr(bridge, method)(*arguments)


def log_gaussian(y, mean, variance):
    """Log density of independent Gaussians, summed over the last axis (NumPy)."""
    return np.sum(-((y - mean) ** 2) / (2 * variance) - np.log(2 * np.pi * variance) / 2, -1)


def parameters(bridge):
    """`log alpha`, `r`, `S` and epsilon in NumPy."""
    return (*map(np.asarray, (bridge.log_weights, bridge.means, bridge.covariances)), float(bridge.epsilon))


def conditional(bridge, x):
    """Log weights, means and variances of the mixture `pi(y | x)`, component by component."""
    log_alpha, r, s, epsilon = parameters(bridge)
    logs = log_alpha + ((s * x**2).sum(-1) + 2 * (r * x).sum(-1)) / (2 * epsilon)
    return logs - logsumexp(logs), r + s * x, epsilon * s


CASES = [dict(d=1, K=1), dict(), dict(d=64, K=4, epsilon=2.0), dict(epsilon=1e-3), dict(epsilon=1e3)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_densities_match_the_formulas(case):
    bridge = a_bridge(**case)
    d = bridge.means.shape[-1]
    x, y = np.random.default_rng(1).normal(size=(2, 5, d))
    log_alpha, r, s, epsilon = parameters(bridge)
    log_v = [logsumexp(log_alpha + log_gaussian(p, r, epsilon * s)) for p in y]
    np.testing.assert_allclose(call(bridge, "log_potential", y), log_v, rtol=1e-12)
    log_c = [logsumexp(log_alpha + ((s * p**2).sum(-1) + 2 * r @ p) / (2 * epsilon)) for p in x]
    np.testing.assert_allclose(call(bridge, "log_normaliser", x), log_c, rtol=1e-12)
    # Bayes: the two together, with the kernel, are the density of the mixture that is sampled from.
    expected = []
    for p, q in zip(x, y, strict=True):
        logs, means, variances = conditional(bridge, p)
        expected.append(logsumexp(logs + log_gaussian(q, means, variances)))
    np.testing.assert_allclose(call(bridge, "log_prob", y, x), expected, rtol=1e-12)
    whole = call(bridge, "log_potential", y) + np.sum(x * y, -1) / epsilon - call(bridge, "log_normaliser", x)
    np.testing.assert_allclose(whole, expected, rtol=1e-9)


def test_normaliser_is_the_integral_and_the_density_has_mass_one():
    bridge = a_bridge(d=1)
    for x in (-1.5, 0.0, 2.0):
        z = jnp.array([x])

        def weight(y, x=x):
            return float(np.exp(x * y / bridge.epsilon + call(bridge, "log_potential", np.array([y]))))

        def density(y, z=z):
            return float(np.exp(call(bridge, "log_prob", np.array([y]), z)))

        integral = quad(weight, -20, 20, points=(-3, 0, 3), epsabs=0, epsrel=1e-9, limit=200)[0]
        np.testing.assert_allclose(np.exp(call(bridge, "log_normaliser", z)), integral, rtol=1e-8)
        mass = quad(density, -20, 20, points=(-3, 0, 3), epsabs=1e-10, limit=200)[0]
        np.testing.assert_allclose(mass, 1, rtol=1e-9)


def test_one_component_is_the_gaussian_bridge():
    """Between N(m0, s0^2) and N(m1, s1^2) the covariance of the ends is (sqrt(4 s0^2 s1^2 + e^2) - e) / 2."""
    m0, s0, m1, s1, epsilon = 0.7, 1.3, -2.0, 0.6, 0.4
    covariance = (np.sqrt(4 * s0**2 * s1**2 + epsilon**2) - epsilon) / 2
    slope = covariance / s0**2
    bridge = LightBridge(jnp.zeros(1), jnp.array([[m1 - slope * m0]]), jnp.array([[slope]]), epsilon)
    x = m0 + s0 * jax.random.normal(jax.random.key(0), (4000, 1))
    y = call(bridge, "sample", x, jax.random.key(1))
    ends = np.concatenate([x, y], -1)
    np.testing.assert_allclose(ends.mean(0), [m0, m1], atol=4 * 1.3 / 4000**0.5)
    expected = [[s0**2, covariance], [covariance, s1**2]]
    np.testing.assert_allclose(np.cov(ends.T), expected, atol=4 * 1.5 * 1.3**2 / 4000**0.5)
    # The exact conditional, whose variance is what the first leaves of the second.
    z = np.array([1.1])
    exact = log_gaussian(z, m1 + slope * (np.asarray(x) - m0), s1**2 - covariance**2 / s0**2)
    np.testing.assert_allclose(call(bridge, "log_prob", z, x), exact, rtol=1e-10)
    # X_t is Gaussian, jointly with X_1: drift = (E[X_1 | X_t] - x) / (1 - t).
    for t in (0.0, 0.3, 0.9):
        variance = (1 - t) ** 2 * s0**2 + t**2 * s1**2 + 2 * t * (1 - t) * covariance + epsilon * t * (1 - t)
        joint = (1 - t) * covariance + t * s1**2
        mean_1 = m1 + joint / variance * (x - (1 - t) * m0 - t * m1)
        np.testing.assert_allclose(call(bridge, "drift", t, x), (mean_1 - x) / (1 - t), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.8])
def test_drift_is_the_conditional_expectation(t):
    """`X_1` given `X_t = x` has the density `N(y; x, (1 - t) e) exp(|y|^2 / 2e) v(y)`, by quadrature."""
    bridge = a_bridge(d=1, K=4, epsilon=0.3)
    y = np.linspace(-12, 12, 20001)
    log_v = np.asarray(call(bridge, "log_potential", y[:, None]))
    for x in (-2.0, 0.1, 1.5):
        logs = log_v + y**2 / (2 * 0.3) - (y - x) ** 2 / (2 * 0.3 * (1 - t))
        p = np.exp(logs - logs.max())
        expected = ((p @ y) / p.sum() - x) / (1 - t)
        np.testing.assert_allclose(call(bridge, "drift", t, np.array([x]))[0], expected, rtol=1e-9)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_drift_is_the_gradient_at_both_ends(case):
    """`epsilon grad log h` with `h(0, x) = c(x) exp(-|x|^2 / 2e)` and `h(1, x) = v(x) exp(|x|^2 / 2e)`."""
    bridge = a_bridge(**case)
    x = jnp.asarray(np.random.default_rng(2).normal(size=bridge.means.shape[-1]))
    start = bridge.epsilon * jax.grad(bridge.log_normaliser)(x) - x
    np.testing.assert_allclose(call(bridge, "drift", 0, x), start, rtol=1e-9, atol=1e-9)
    end = bridge.epsilon * jax.grad(bridge.log_potential)(x) + x
    np.testing.assert_allclose(call(bridge, "drift", 1, x), end, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", [dict(), dict(d=64, K=4), dict(epsilon=1e-3)], ids=str)
def test_samples_have_the_moments_of_the_plan(case):
    bridge = a_bridge(**case)
    n, d = 4000, bridge.means.shape[-1]
    x = np.random.default_rng(3).normal(size=d) / d**0.5
    y = np.asarray(call(bridge, "sample", jnp.broadcast_to(x, (n, d)), jax.random.key(0)))
    logs, means, variances = conditional(bridge, x)
    w = np.exp(logs)
    mean = w @ means
    covariance = (w[:, None] * (means - mean)).T @ (means - mean) + np.diag(w @ variances)
    deviation = np.sqrt(np.diag(covariance))
    np.testing.assert_array_less(np.abs(y.mean(0) - mean), 5 * deviation / n**0.5)
    error = np.abs(np.cov(y.T) - covariance)
    np.testing.assert_array_less(error, 6 * np.outer(deviation, deviation) * (2 / n) ** 0.5)


def test_the_sde_ends_where_the_plan_says():
    bridge = a_bridge(epsilon=0.6)
    n, x = 1500, jnp.array([0.4, -0.8])

    def end(key):
        noise = dfx.VirtualBrownianTree(0, 1, tol=1e-3, shape=(2,), key=key)
        scale = bridge.epsilon**0.5 * jnp.eye(2)
        terms = dfx.MultiTerm(dfx.ODETerm(bridge.drift), dfx.ControlTerm(lambda t, x, args: scale, noise))
        return dfx.diffeqsolve(terms, dfx.Euler(), 0, 1, 1 / 64, x).ys[0]

    ends = np.asarray(jax.vmap(end)(jax.random.split(jax.random.key(5), n)))
    logs, means, variances = conditional(bridge, np.asarray(x))
    mean = np.exp(logs) @ means
    covariance = (np.exp(logs)[:, None] * (means - mean)).T @ (means - mean) + np.diag(
        np.exp(logs) @ variances
    )
    deviation = np.sqrt(np.diag(covariance))
    # Euler's own bias at this step is near 0.01.
    np.testing.assert_allclose(ends.mean(0), mean, atol=4 * deviation.max() / n**0.5 + 0.01)
    np.testing.assert_allclose(
        np.cov(ends.T), covariance, atol=6 * deviation.max() ** 2 * (2 / n) ** 0.5 + 0.02
    )
    # The same of the one-shot samples, as distributions: energy distance below its noise.
    samples = np.asarray(call(bridge, "sample", jnp.broadcast_to(x, (n, 2)), jax.random.key(6)))

    def distance(p, q):
        return np.linalg.norm(p[:, None] - q, axis=-1).mean()

    energy = 2 * distance(ends, samples) - distance(ends, ends) - distance(samples, samples)
    assert energy < 0.01 * distance(samples, samples)


def test_interpolation_is_a_brownian_bridge():
    bridge = a_bridge(epsilon=0.6)
    x, y = jnp.array([0.0, 1.0]), jnp.array([2.0, -1.0])
    n = 4000
    for t in (0.0, 0.25, 1.0):
        z = np.asarray(call(bridge, "interpolate", jnp.broadcast_to(x, (n, 2)), y, t, jax.random.key(0)))
        variance = 0.6 * t * (1 - t)
        np.testing.assert_allclose(z.mean(0), (1 - t) * x + t * y, atol=5 * (variance / n) ** 0.5 + 1e-12)
        np.testing.assert_allclose(
            np.cov(z.T), variance * np.eye(2), atol=7 * variance * (2 / n) ** 0.5 + 1e-12
        )
    times = jnp.linspace(0, 1, 7)
    assert call(bridge, "interpolate", x, y, times, jax.random.key(0)).shape == (7, 2)


def test_difference_of_losses_is_the_divergence():
    """On paired samples, `log pi* - log pi` is the difference of the losses, sample by sample."""
    exact, other = a_bridge(), a_bridge(seed=1, K=5)
    x = jax.random.normal(jax.random.key(0), (50, 2))
    y = call(exact, "sample", x, jax.random.key(1))
    ratio = jnp.mean(call(exact, "log_prob", y, x) - call(other, "log_prob", y, x))
    np.testing.assert_allclose(call(other, "loss", x, y) - call(exact, "loss", x, y), ratio, rtol=1e-10)
    assert ratio > 0.1


def test_training_recovers_a_known_plan():
    exact = LightBridge(
        jnp.log(jnp.array([0.2, 0.5, 0.3])),
        jnp.array([[2.0, 0.5], [-1.5, 1.0], [0.0, -2.0]]),
        jnp.array([[0.6, 0.3], [0.2, 0.8], [0.5, 0.4]]),
        0.4,
    )
    keys = jax.random.split(jax.random.key(0), 6)
    # Not paired: the targets come from other starts than those that are trained on.
    x, other = jax.random.normal(keys[0], (2, 4000, 2))
    y = call(exact, "sample", other, keys[1])
    start = bridge = LightBridge.from_samples(y, 4, 0.4, covariance=0.5, key=keys[2])
    optimiser = optax.adam(optax.cosine_decay_schedule(0.2, 400))
    state = optimiser.init(eqx.filter(bridge, eqx.is_inexact_array))

    def step(carry, key):
        bridge, state = carry
        i, j = jax.random.randint(key, (2, 256), 0, len(x))
        loss, gradient = eqx.filter_value_and_grad(lambda b: b.loss(x[i], y[j]))(bridge)
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            updates, state = optimiser.update(gradient, state)
        return (eqx.apply_updates(bridge, updates), state), loss

    run = eqx.filter_jit(lambda carry: jax.lax.scan(step, carry, jax.random.split(keys[3], 400)))
    (bridge, _), _ = run((bridge, state))
    x = jax.random.normal(keys[4], (4000, 2))
    y = call(exact, "sample", x, keys[5])
    log_pi = call(exact, "log_prob", y, x)
    assert jnp.mean(log_pi - call(start, "log_prob", y, x)) > 5
    divergence = jnp.mean(log_pi - call(bridge, "log_prob", y, x))
    assert abs(divergence) < 0.01, divergence


@pytest.mark.parametrize("epsilon", [1e-3, 0.5, 100.0])
def test_the_plan_on_points_is_an_entropic_plan(epsilon):
    bridge = a_bridge(epsilon=epsilon)
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(7, 2)), rng.normal(size=(9, 2))
    a = rng.uniform(0.1, 1, 7)
    exact = call(bridge, "on_points", x, y, a)
    plan = np.exp(exact.log_plan)
    np.testing.assert_allclose(plan.sum(1), a, rtol=1e-12)
    np.testing.assert_allclose(plan.sum(0), exact.b, rtol=1e-12, atol=0)
    cost = np.sum((x[:, None] - y) ** 2, -1)
    gibbs = np.log(a)[:, None] + (np.asarray(exact.f)[:, None] + np.asarray(exact.g) - cost) / exact.epsilon
    log_b = np.asarray(logsumexp(exact.log_plan, 0))
    np.testing.assert_allclose(gibbs + log_b, exact.log_plan, rtol=1e-9)
    # Rows are the bridge's own conditional densities, renormalised to the points.
    log_rows = np.asarray(call(bridge, "log_prob", y, x[:, None]))
    log_rows = log_rows - logsumexp(log_rows, 1)[:, None]
    np.testing.assert_allclose(exact.log_plan - np.log(a)[:, None], log_rows, rtol=1e-8, atol=1e-9)


def test_on_a_fine_grid_the_masses_are_the_target_density():
    bridge = a_bridge(d=1)
    x, y = np.array([[0.3]]), np.linspace(-15, 15, 3001)[:, None]
    exact = call(bridge, "on_points", x, y)
    density = np.exp(call(bridge, "log_prob", y, x[0])) * 0.01
    np.testing.assert_allclose(exact.b, density, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    "solver", [ns.transport.Sinkhorn(rtol=1e-8), ns.transport.SinkhornNewton()], ids=repr
)
def test_solvers_find_the_plan_on_points(solver):
    bridge = a_bridge(epsilon=0.1)
    x, y = np.random.default_rng(7).normal(size=(2, 40, 2))
    exact = call(bridge, "on_points", x, y)
    geometry = ns.transport.PointCloud(x, y, epsilon=exact.epsilon)
    sol = ns.transport.solve(geometry, exact.a, exact.b, solver)
    assert np.abs(sol.plan.as_matrix() - np.exp(exact.log_plan)).sum() < 1e-7
    # But for a constant that moves from one to the other.
    assert np.ptp(sol.f - exact.f) < 1e-6 and np.ptp(sol.g - exact.g) < 1e-6


def test_batches_compilation_and_loops_agree():
    bridge = a_bridge()
    x, y = jax.random.normal(jax.random.key(0), (2, 3, 4, 2))
    t = jnp.linspace(0, 1, 4)
    for f in (
        lambda x, y, t: call(bridge, "log_potential", y),
        lambda x, y, t: call(bridge, "log_normaliser", x),
        lambda x, y, t: call(bridge, "log_prob", y, x),
        lambda x, y, t: call(bridge, "drift", t, x),
    ):
        batch = f(x, y, t)
        one_by_one = jax.jit(jax.vmap(jax.vmap(f, (0, 0, 0)), (0, 0, None)))(x, y, t)
        np.testing.assert_allclose(batch, one_by_one, rtol=1e-12)
    assert call(bridge, "sample", x, jax.random.key(1)).shape == x.shape
    assert call(bridge, "sample", x[0, 0], jax.random.key(1)).shape == (2,)
    bridges = eqx.filter_vmap(lambda seed: LightBridge.from_samples(y[0], 2, 0.5, key=seed))(
        jax.random.split(jax.random.key(2), 5)
    )
    assert eqx.filter_vmap(lambda b: b.loss(x[0], y[0]))(bridges).shape == (5,)


@pytest.mark.parametrize("epsilon", [1e-3, 1e4])
def test_single_precision(epsilon):
    wide, single = a_bridge(epsilon=epsilon), a_bridge(epsilon=epsilon, dtype=jnp.float32)
    x, y = np.random.default_rng(6).normal(size=(2, 4, 2)).astype(np.float32)
    for name, arguments in {
        "log_potential": (y,),
        "log_normaliser": (x,),
        "log_prob": (y, x),
        "drift": (0.3, x),
        "loss": (x, y),
    }.items():
        value = call(single, name, *arguments)
        assert value.dtype == jnp.float32
        # Logarithms have the size 1 / epsilon: their rounding errors too.
        expected = np.asarray(call(wide, name, *arguments))
        np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-6 / epsilon + 1e-5)
    assert call(single, "sample", x, jax.random.key(0)).dtype == jnp.float32
    assert call(single, "interpolate", x, y, 0.5, jax.random.key(0)).dtype == jnp.float32
    exact = call(single, "on_points", x, y)
    assert {v.dtype for v in exact[:5]} == {np.dtype(np.float32)}
    assert all(np.isfinite(v).all() for v in exact[:5])


ONES = np.ones((3, 2))
BAD = {
    "epsilon zero": (lambda: LightBridge(np.zeros(3), ONES, ONES, 0.0), "`epsilon` must be positive"),
    "epsilon nan": (lambda: LightBridge(np.zeros(3), ONES, ONES, np.nan), "`epsilon` must be positive"),
    "epsilon vector": (lambda: LightBridge(np.zeros(3), ONES, ONES, np.ones(3)), r"shape \(3,\)"),
    "covariance": (lambda: LightBridge(np.zeros(3), ONES, -ONES, 1.0), "`covariances` must be positive"),
    "weights": (lambda: LightBridge(np.zeros(2), ONES, ONES, 1.0), r"`log_weights` must have shape \(3,\)"),
    "means": (lambda: LightBridge(np.zeros(3), ONES[0], ONES, 1.0), r"shape \(K, d\)"),
    "shapes": (lambda: LightBridge(np.zeros(3), ONES, ONES[:, :1], 1.0), r"the shape \(3, 2\) of `means`"),
    "no components": (lambda: LightBridge(np.zeros(0), ONES[:0], ONES[:0], 1.0), "neither of them 0"),
    "dimension": (lambda: a_bridge().log_prob(ONES, np.ones((3, 4))), r"`x` must have shape \(\.\.\., 2\)"),
    "number": (lambda: a_bridge().log_potential(1.0), "`y` must have shape"),
    "components": (
        lambda: LightBridge.from_samples(ONES, 4, 1.0, key=jax.random.key(0)),
        "from 1 to 3, the number of samples; got 4",
    ),
    "samples": (lambda: LightBridge.from_samples(ONES[0], 1, 1.0, key=jax.random.key(0)), r"shape \(m, d\)"),
    "masses": (lambda: a_bridge().on_points(ONES, ONES, [1.0, 0.0, 1.0]), "`a` must be positive"),
    "mass shape": (lambda: a_bridge().on_points(ONES, ONES, [1.0, 1.0]), r"`a` must have shape \(3,\)"),
    "points": (lambda: a_bridge().on_points(ONES[0], ONES), "`x` and `y` must have shapes"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_named(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        make()


def test_mistaken_types_are_named():
    with pytest.raises(TypeError, match="`y` must be real"):
        a_bridge().log_potential(1j * ONES)
    with pytest.raises(TypeError, match="`num_components` must be an int"):
        LightBridge.from_samples(ONES, 2.0, 1.0, key=jax.random.key(0))  # pyright: ignore
    with pytest.raises(TypeError, match="known before tracing"):
        jax.jit(lambda e: a_bridge(epsilon=e).means)(1.0)

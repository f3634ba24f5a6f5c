"""Samplers with noise: exact moments, drift, Brownian paths, Langevin correctors, interpolants."""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

from nsolve import diffusion as D
from nsolve.diffusion import brownian, interpolant
from nsolve.diffusion.noise import normal_like
from tests import diffusion_reference as reference
from tests.diffusion_cases import STOCHASTIC, Case
from tests.diffusion_moments import exact, gaussian, marginal, moments

VP = D.VPLinear()
LAM = (-2.5, 2.0)
DATA = np.array([0.7, -0.4, 0.2]), np.array([0.05, 1.0, 0.4])  # means and variances
STEPS = 40 * 2 ** np.arange(4)


def slope(steps, errors) -> float:
    return -float(np.polyfit(np.log2(steps), np.log2(errors), 1)[0])


def even(num_steps: int) -> np.ndarray:
    """Times even in lam."""
    return VP.t_of_lam(np.linspace(*LAM, num_steps + 1))


# Moments.


@pytest.mark.parametrize("case", STOCHASTIC, ids=[case.name for case in STOCHASTIC])
def test_marginals_are_kept(case: Case):
    """On Gaussian data mean and covariance tend to the marginal's, with order 2 (or the drift's 1)."""
    errors = []
    for n in STEPS:
        times = even(int(n))
        plan = case.sampler.plan(times, VP)
        start = marginal(*DATA, VP.alpha(times[0]), VP.sigma(times[0]))
        mean, variance = moments(plan, gaussian(*DATA), *start)
        exact_mean, exact_variance = marginal(*DATA, plan.alpha[-1], plan.sigma[-1])
        np.testing.assert_allclose(mean, exact_mean, rtol=0.2, atol=0.05)
        errors.append(np.abs(mean - exact_mean).max() + np.abs(variance - exact_variance).max())
    assert slope(STEPS[1:], errors[1:]) > min(case.order, 2) - 0.15, errors


SDES = [
    # sampler, eta = d clock / d (2 lam), known outputs, order of the drift
    (D.DDIM(1.0), 1.0, 0, 1),
    (D.DPMSolverPP(1, sde=0.5), 0.5, 0, 1),
    (D.DPMSolverPP(2, sde=True), 1.0, 1, 2),
    (D.DPMSolverPP(2, sde=True, variant="heun"), 1.0, 1, 2),
    (D.DPMSolverPP(3, sde=True), 1.0, 2, 3),
    (D.DPMSolverPP(3, sde=0.4), 0.4, 2, 3),
    (D.DPMSolverPP(4, sde=True), 1.0, 3, 4),
    (D.SASolver(2, 3, tau=0.6), 0.36, 1, 3),
    (D.SASolver(3, 4), 1.0, 2, 4),
    (D.SASolver(3, 0, prediction="eps"), 1.0, 2, 3),
    (D.SASolver(2, 3, tau=lambda t: 0.0 * t + 0.6), 0.36, 1, 3),
    (D.ERSDE(1, "sde2"), 0.5, 0, 1),
    (D.ERSDE(2, "sde"), 1.0, 1, 2),
    (D.ERSDE(3, "sde3"), 1.5, 2, 3),
    (D.ERSDE(3, lambda rho: rho**1.7), 0.7, 2, 3),
]
LABELS = [
    f"{type(s).__name__}-{order}-{eta}-{getattr(s, 'prediction', '')}-{i}"
    for i, (s, eta, _, order) in enumerate(SDES)
]
sdes = pytest.mark.parametrize("sampler, eta, known, order", SDES, ids=LABELS)


@sdes
def test_moments_from_any_start(sampler, eta, known, order):
    """From a start off the marginal the moments are those of this very SDE, whose eta the clock tells."""
    start = np.array([1.0, -2.0, 0.5]), np.array([0.3, 2.0, 0.0])
    errors = []
    for n in STEPS:
        plan = sampler.plan(even(int(n)), VP)
        ends = [(plan.alpha[i], plan.sigma[i]) for i in (0, -1)]
        result = moments(plan, gaussian(*DATA), *start)
        errors.append(np.abs(np.subtract(result, exact(DATA, start, eta, *ends))).max())
    assert slope(STEPS[1:], errors[1:]) > min(order, 2) - 0.15, errors
    if getattr(sampler, "prediction", "x0") == "x0":
        np.testing.assert_allclose(
            np.diff(plan.clock), 2 * eta * np.diff(np.linspace(*LAM, STEPS[-1] + 1)), rtol=1e-9
        )


@sdes
def test_order_of_the_drift(sampler, eta, known, order):
    """Without their noise SDE samplers solve dz / dlam = (1 + eta) (x0 - z), z = x / alpha, in order."""

    def drift(lam, z):
        t, z = VP.t_of_lam(np.asarray(lam)), z.reshape(-1, 2)
        alpha = VP.alpha(t)
        return ((1 + eta) * (reference.clean(alpha * z, alpha, VP.sigma(t)) - z)).ravel()

    start = reference.starts(4)
    z = solve_ivp(
        drift,
        LAM,
        (start / VP.alpha(even(1)[0])).ravel(),
        "DOP853",
        rtol=1e-12,
        atol=1e-13,
        dense_output=True,
    )
    errors = []
    for n in STEPS:
        times, lams = even(int(n)), np.linspace(*LAM, int(n) + 1)
        whole, plan = sampler.plan(times, VP), sampler.plan(times, VP, known=known)
        points = VP.alpha(times)[:, None, None] * z.sol(lams).T.reshape(-1, 4, 2)
        registers = np.zeros((plan.num_registers, 4, 2))
        for i in range(known):
            x0 = reference.clean(points[i], VP.alpha(times[i]), VP.sigma(times[i]))
            registers[i % plan.num_registers] = whole.reads[i][0] * points[i] + whole.reads[i][1] * x0
        errors.append(np.abs(reference.run_plan(plan, points[known], registers=registers) - points[-1]).max())
    assert abs(slope(STEPS[1:], errors[1:]) - order) < 0.15, errors


@pytest.mark.parametrize("order", [1, 2, 3])
def test_sde_weights_are_exact_on_polynomials(order):
    """DPM-Solver++ and SA-Solver (in lam), ER-SDE (in rho): exact for polynomials of degree order - 1."""
    lams = np.linspace(*LAM, 7) + 0.05 * np.sin(np.arange(7))
    times, known = VP.t_of_lam(lams), order - 1
    coefficients = np.random.default_rng(0).normal(size=order)
    first, last = (VP.sigma(times[i]) for i in (known, -1))
    power = 1.7  # phi = rho^1.7, which is eta = 0.7

    def run(sampler, variable):
        plan = sampler.plan(times, VP, known=known)
        registers = np.zeros((plan.num_registers, 1, 1))
        registers[:known, 0, 0] = np.polyval(coefficients, variable(lams[:known]))

        def x0_of(x, alpha, sigma):
            return np.full_like(x, np.polyval(coefficients, variable(np.log(alpha / sigma))))

        return reference.run_plan(plan, np.array([[0.7]]), x0_of, registers)[0, 0]

    def integral(variable):
        # d(x e^{eta lam} / sigma) = x0 d(e^{(1 + eta) lam})
        total = quad(
            lambda lam: np.polyval(coefficients, variable(lam)) * power * np.exp(power * lam),
            lams[known],
            lams[-1],
            epsabs=1e-13,
            epsrel=1e-13,
        )[0]
        return (
            last * np.exp((1 - power) * lams[-1]) * (0.7 / first * np.exp((power - 1) * lams[known]) + total)
        )

    in_lam, in_rho = (lambda lam: lam / 3), (lambda lam: np.exp(-lam))
    expected = integral(in_lam)
    full = {"lower_order_final": False}
    for sampler in (
        D.DPMSolverPP(order, sde=0.7, variant="heun", **full),
        D.SASolver(order, 0, tau=np.sqrt(0.7), **full),
    ):
        np.testing.assert_allclose(run(sampler, in_lam), expected, rtol=1e-11)
    np.testing.assert_allclose(
        run(D.ERSDE(order, lambda rho: rho**power), in_rho), integral(in_rho), rtol=1e-11
    )


def test_noise_scales_of_er_sde():
    """The named noise scales are the functions that they say they are."""
    functions = {
        "sde": lambda r: r**2,
        "sde1": lambda r: r * (np.exp(-1 / r) + 10),
        "sde2": lambda r: r**1.5,
        "sde3": lambda r: r**2.5,
        "sde4": lambda r: r**0.9 * np.log10(1 + 100 * r**1.5),
        "sde5": lambda r: r * (np.exp(r**0.3) + 10),
    }
    for name, function in functions.items():
        named, free = D.ERSDE(3, name).plan(even(6), VP), D.ERSDE(3, function).plan(even(6), VP)
        np.testing.assert_allclose(named.weights, free.weights, rtol=1e-11, atol=1e-13)
    for sampler in (
        D.ERSDE(3),
        D.SASolver(),
        D.SASolver(tau=lambda t: 0 * t),
        D.SASolver(3, 0, prediction="eps", tau=np.sqrt),
    ):
        plan = sampler.plan(np.array([80.0, 20.0, 4.0, 1.0, 0.2, 0.0]), D.EDM())
        register = 1 + int(plan.registers[-1])
        read = plan.reads[-1]
        np.testing.assert_allclose(plan.weights[-1, register] * read[1], 1.0)  # ends in x0
        np.testing.assert_allclose(
            plan.weights[-1, 0] + plan.weights[-1, register] * read[0], 0.0, atol=1e-12
        )
        assert plan.weights[-1, -1] == 0


NOISE_SCALES = {
    "sde": lambda v: D.DPMSolverPP(3, sde=v),
    "tau": lambda v: D.SASolver(2, 3, tau=v),
    "tau, eps": lambda v: D.SASolver(2, 3, tau=v, prediction="eps"),
    "tau(t)": lambda v: D.SASolver(2, 3, tau=jax.tree_util.Partial(lambda v, t: v * t, v)),
    "phi": lambda v: D.ERSDE(3, jax.tree_util.Partial(lambda v, rho: rho ** (1 + v), v)),
}


@pytest.mark.parametrize("make", NOISE_SCALES.values(), ids=NOISE_SCALES)
def test_plan_differentiates_in_the_noise_scale(make):
    def table(v):
        plan = make(v).plan(even(5), VP)
        return plan.weights, plan.clock

    values, derivatives = jax.jit(lambda v: jax.jvp(table, (v,), (1.0,)))(0.8)
    for value, derivative, host, high, low in zip(
        values, derivatives, table(0.8), table(0.8 + 1e-5), table(0.8 - 1e-5), strict=True
    ):
        np.testing.assert_allclose(value, host, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(derivative, (high - low) / 2e-5, rtol=1e-6, atol=1e-8)


BAD_SAMPLERS = [
    (lambda: D.SASolver(0), "predictor_order"),
    (lambda: D.SASolver(2, 1), "corrector_order"),
    (lambda: D.SASolver(tau=-1.0), "tau"),
    (lambda: D.SASolver(prediction="v"), "prediction"),
    (lambda: D.SASolver(tau=lambda t: 1.0).plan(even(4), VP), "tau"),
    (lambda: D.ERSDE(4), "order"),
    (lambda: D.ERSDE(2, "sde9"), "noise"),
    (lambda: D.ERSDE(2, lambda rho: rho**0.5).plan(even(4), VP), "does not fall"),
    (lambda: D.BrownianPath(jr.key(0), depth=0), "depth"),
]


@pytest.mark.parametrize("make, word", BAD_SAMPLERS)
def test_bad_options(make, word):
    with pytest.raises(ValueError, match=word):
        make()


# Brownian paths.


@eqx.filter_jit
def position(path, clock, like):
    return path.position(clock, like)


@eqx.filter_jit
def increment(path, start, end, like):
    return path.draw(path.init(like, start), 0, start, end, like)[0]


def test_path_has_the_exact_law(monkeypatch):
    """With unit vectors for normal numbers a state is its coefficients, covariances are dot products."""
    depth = 6
    size = 2 + 2 ** (depth + 1)
    monkeypatch.setattr(
        brownian, "normal_like", lambda key, number, like: jax.nn.one_hot(number, size, dtype=like.dtype)
    )
    path, like = D.BrownianPath(jr.key(0), depth=depth), jnp.zeros(size)
    clocks = np.array([-64.0, -63.1, -30.0, -7.9, -4.5, -2.3, -0.7, 1.1, 2.0, 5.0, 6.2, 31.0, 64.0])
    y = np.stack([position(path, clock, like) for clock in jnp.asarray(clocks)])
    np.testing.assert_allclose(y @ y.T, np.exp(-0.5 * np.abs(clocks[:, None] - clocks)), atol=1e-14)
    pairs = zip(jnp.asarray(clocks[:-1]), jnp.asarray(clocks[1:]), strict=True)
    xi = np.stack([increment(path, start, end, like) for start, end in pairs])
    np.testing.assert_allclose(xi @ xi.T, np.eye(len(clocks) - 1), atol=1e-14)


def test_increments_add_up():
    """Over two halves they sum to that of the whole, be the clock rising or falling."""
    path, like = D.BrownianPath(jr.key(1)), {"a": jnp.zeros((3, 2)), "b": jnp.zeros((3,))}

    def xi(start, end):
        return increment(path, jnp.asarray(start), jnp.asarray(end), like)

    for a, b, c in ((-1.0, 0.3, 2.0), (2.0, 0.3, -1.0), (-61.0, -60.5, -60.0), (-0.01, 0.0, 0.01)):
        first, second, whole = xi(a, b), xi(b, c), xi(a, c)
        # B(e^s) itself, in units of e^(s/2) at the later end
        top = max(a, c)

        def scaled(xi, s, r, top=top):
            return np.asarray(xi) * np.sqrt(np.exp(max(s, r) - top) - np.exp(min(s, r) - top))

        for name in like:
            total = scaled(first[name], a, b) + scaled(second[name], b, c)
            np.testing.assert_allclose(total, scaled(whole[name], a, c), atol=1e-12)
    assert np.all(xi(0.4, 0.4)["a"] == 0)


def test_path_ignores_batch_and_depth():
    key, like = jr.key(2), jnp.zeros((5, 3))
    path, finer = D.BrownianPath(key), D.BrownianPath(key, depth=17)
    clock = jnp.asarray(0.1234)
    y = position(path, clock, like)
    np.testing.assert_array_equal(position(path, clock, like[:2]), y[:2])
    own = D.BrownianPath(jax.vmap(lambda i: jr.fold_in(key, i))(jnp.arange(5)))
    np.testing.assert_array_equal(position(own, clock, like), y)
    leaf = 128 / 2**14
    for clock in jnp.array([3 * leaf, -1000.5 * leaf]):  # an end and a middle of a leaf
        np.testing.assert_allclose(position(path, clock, like), position(finer, clock, like), atol=1e-13)
    half = position(path, jnp.float32(0.125), like.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, position(path, jnp.float32(0.125), like.astype(jnp.float32)), atol=1e-5)


class Linear:
    """The exact network for Gaussian data, predicting x0."""

    def __init__(self, mean, variance):
        self.mean, self.variance = mean, variance

    def __call__(self, x, t):
        alpha, sigma = VP.alpha(t), VP.sigma(t)
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        return self.mean + gain * (x - alpha * self.mean)


DENOISER = D.Denoiser(Linear(0.3, 0.4), "x0", VP)


@pytest.mark.compiles("a path draws its noise level by level")
@pytest.mark.parametrize("sampler", [D.DPMSolverPP(2, sde=True), D.SASolver(2, 0, prediction="eps")])
def test_solutions_converge_path_by_path(sampler):
    """Against a fine grid on the same path the error falls with the steps; with other noise it stays."""
    x_T = jr.normal(jr.key(0), (200,))

    def solve(num_steps, key):
        return D.sample(DENOISER, sampler, x_T, even(num_steps), key).value

    fine = solve(256, D.BrownianPath(jr.key(1)))
    steps = np.array([8, 16, 32])
    errors = [float(jnp.sqrt(jnp.mean((solve(n, D.BrownianPath(jr.key(1))) - fine) ** 2))) for n in steps]
    assert slope(steps, errors) > 0.85, errors
    others = float(jnp.sqrt(jnp.mean((solve(32, jr.key(1)) - fine) ** 2)))
    assert others > 10 * errors[-1]


@pytest.mark.parametrize(
    "sampler, form",
    [
        (D.DPMSolverPP(2, sde=0.7), "x0"),
        (D.SASolver(2, 3, tau=lambda t: np.where(t > even(2)[1], 0.5, 1.2)), "x0"),
        (D.ERSDE(3), "x0"),
        (D.SASolver(2, 3, tau=0.7, prediction="eps"), "eps"),
        (D.SASolver(2, 3, tau=lambda t: np.where(t > even(2)[1], 0.5, 1.2), prediction="eps"), "eps"),
    ],
)
def test_noise_alone_is_the_same_on_every_grid(sampler, form):
    """Where the interpolated output is 0 every step is exact, and so must be the noise that it adds."""
    path, x = D.BrownianPath(jr.key(5)), np.zeros((3, 2))
    results = []
    for n in (2, 6, 16):
        plan = sampler.plan(even(n), VP)
        ends = [jnp.asarray(clock) for clock in plan.clock]
        xi = [x] + [np.asarray(increment(path, *pair, jnp.asarray(x))) for pair in pairwise(ends)]

        def silent(x, alpha, sigma):
            return 0.0 * x if form == "x0" else x / alpha

        results.append(reference.run_plan(plan, x, silent, noise=lambda row, xi=xi: xi[row]))
    assert np.abs(results[0]).min() > 1e-3
    np.testing.assert_allclose(results[1:], [results[0]] * 2, atol=1e-6)


@pytest.mark.compiles("a path draws its noise level by level")
def test_sample_on_a_path():
    """Batch-invariant to the bit, and differentiable in the grid."""
    sampler, path, times = D.DPMSolverPP(2, sde=True), D.BrownianPath(jr.key(3), depth=7), even(5)
    x_T = jr.normal(jr.key(4), (3, 2))
    whole = D.sample(DENOISER, sampler, x_T, times, path).value
    np.testing.assert_array_equal(D.sample(DENOISER, sampler, x_T[:1], times, path).value, whole[:1])

    @jax.jit
    @jax.value_and_grad
    def loss(times):
        return jnp.sum(D.sample(DENOISER, sampler, x_T, times, path).value ** 2)

    direction, h = np.array([0.0, 1.0, -1.0, 0.5, 1.0, 0.0]), 1e-6
    _, gradient = loss(jnp.asarray(times))
    finite = (loss(times + h * direction)[0] - loss(times - h * direction)[0]) / (2 * h)
    np.testing.assert_allclose(gradient @ direction, finite, rtol=1e-6)


def test_paths_refuse_what_they_cannot_serve():
    sampler, key = D.DPMSolverPP(2, sde=True), jr.key(0)
    shallow = D.BrownianPath(key, depth=4)
    with pytest.raises(ValueError, match="depth=7"):
        shallow.check(sampler.plan(even(8), VP))
    D.BrownianPath(key, depth=7).check(sampler.plan(even(8), VP))
    with pytest.raises(ValueError, match="no `clock`"):
        D.sample(DENOISER, D.EDMHeun(churn=2.0), jnp.zeros(2), even(4), D.BrownianPath(key))
    with pytest.raises(ValueError, match="row 1"):
        D.BrownianPath(key).check(D.DPMSolverPP(1, sde=40.0).plan(even(4), VP))


# Predictor and corrector.


def test_corrector_is_langevin_dynamics():
    """The loop, in NumPy, with the same normal numbers."""
    x, key, times, snr = np.asarray(jr.normal(jr.key(0), (3, 5))), jr.key(1), even(3), 0.2
    plan = D.DDPM().plan(times, VP)
    result = D.sample_predictor_corrector(
        DENOISER, jnp.asarray(x), times, key, snr=snr, corrector_steps=2, predictor=D.DDPM()
    ).value
    count = 0
    for k in range(3):
        alpha, sigma = plan.alpha[k], plan.sigma[k]
        for number in (count, count + 1):
            score = (alpha * np.asarray(DENOISER.x0(x, times[k])) - x) / sigma**2
            z = np.asarray(normal_like(key, number, jnp.asarray(x)))
            e = 2 * (snr * np.linalg.norm(z, axis=1) / np.linalg.norm(score, axis=1)) ** 2
            x = x + e[:, None] * score + np.sqrt(2 * e)[:, None] * z
        w, x0 = plan.weights[k + 1], np.asarray(DENOISER.x0(x, times[k]))
        x = w[0] * x + w[1] * x0 + w[2] * np.asarray(normal_like(key, count + 2, jnp.asarray(x)))
        count += 3
    np.testing.assert_allclose(result, x, rtol=1e-12)


def test_corrector_heals_the_predictor():
    """Ancestral sampling with few steps ends too narrow; Langevin steps widen it to the data's variance."""
    grid = D.log_snr_grid(10, end=0.02)
    x_T, key = jr.normal(jr.key(0), (100, 64)), jr.key(1)
    end = grid(VP)[-1]
    expected = float(VP.alpha(end) ** 2 * 0.4 + VP.sigma(end) ** 2)

    def variance(steps):
        return float(
            jnp.var(
                D.sample_predictor_corrector(DENOISER, x_T, grid, key, snr=0.16, corrector_steps=steps).value
            )
        )

    errors = [abs(variance(steps) - expected) for steps in (0, 4)]
    assert errors[1] < 0.45 * errors[0]


def test_predictor_corrector_contract():
    call, grid, key = D.sample_predictor_corrector, even(3), jr.key(0)
    x_T = {"a": jr.normal(key, (3, 4)), "b": jr.normal(key, (3, 2, 2)).astype(jnp.float32)}

    def network(x, t):
        return jax.tree.map(lambda leaf: Linear(0.3, 0.4)(leaf.astype(t.dtype), t).astype(leaf.dtype), x)

    denoiser = D.Denoiser(network, "x0", VP)
    whole = call(denoiser, x_T, grid, key).value
    part = call(denoiser, jax.tree.map(lambda leaf: leaf[:2], x_T), grid, key).value
    for name in x_T:
        assert whole[name].dtype == x_T[name].dtype
        np.testing.assert_array_equal(part[name], whole[name][:2])

    @jax.jit
    @jax.value_and_grad
    def loss(snr):
        return jnp.sum(call(DENOISER, x_T["a"], grid, key, snr=snr, predictor=D.DDIM()).value ** 2)

    finite = (loss(0.2 + 1e-5)[0] - loss(0.2 - 1e-5)[0]) / 2e-5
    np.testing.assert_allclose(loss(0.2)[1], finite, rtol=1e-6)
    with pytest.raises(ValueError, match="key"):
        call(denoiser, x_T, grid, None)
    with pytest.raises(ValueError, match="predictor"):
        call(denoiser, x_T, grid, key, predictor=D.DPMSolverPP(2))
    with pytest.raises(ValueError, match="snr"):
        call(denoiser, x_T, grid, key, snr=-1.0)
    with pytest.raises(ValueError, match="corrector_steps"):
        call(denoiser, x_T, grid, key, corrector_steps=1.5)
    broken = D.Denoiser(lambda x, t: jnp.where(t < 0.5, jnp.nan, x), "x0", VP)
    with pytest.raises(FloatingPointError, match="evaluation"):
        call(broken, x_T["a"], grid, key)
    assert jnp.isnan(call(broken, x_T["a"], grid, key, throw=False).value).all()


# Interpolants.

START, END = (0.3, 0.5), (-1.0, 0.2)  # means and variances


class Gaussians:
    """The exact fields of the default interpolant between two independent normal distributions."""

    def __init__(self, start=START, end=END):
        (self.m0, self.v0), (self.m1, self.v1) = start, end

    def marginal(self, t):
        return (1 - t) * self.m0 + t * self.m1, (1 - t) ** 2 * self.v0 + t**2 * self.v1 + 2 * t * (1 - t)

    def velocity(self, x, t):
        mean, variance = self.marginal(t)
        return self.m1 - self.m0 + (t * self.v1 - (1 - t) * self.v0 + 1 - 2 * t) / variance * (x - mean)

    def denoiser(self, x, t):
        mean, variance = self.marginal(t)
        return jnp.sqrt(2 * t * (1 - t)) / variance * (x - mean)


def test_interpolant_flow():
    """The ODE's map between Gaussians is affine; Heun's method finds it with order 2, forwards and back."""
    fields, x = Gaussians(), np.linspace(-2, 2, 9)
    expected = END[0] + np.sqrt(END[1] / START[1]) * (x - START[0])
    steps, errors = np.array([20, 40, 80]), []
    for n in steps:
        times = np.linspace(0, 1, n + 1)
        there = D.sample_interpolant(D.Interpolant(), fields.velocity, jnp.asarray(x), times).value
        back = D.sample_interpolant(
            D.Interpolant(), fields.velocity, jnp.asarray(expected), times[::-1]
        ).value
        errors.append(max(np.abs(there - expected).max(), np.abs(back - x).max()))
    assert abs(slope(steps, errors) - 2) < 0.15, errors


@pytest.mark.parametrize("backwards", [False, True])
def test_interpolant_diffusion(monkeypatch, backwards):
    """With unit vectors for noise a state is its coefficients: the SDE's variance, of order 2."""
    first, last = (END, START) if backwards else (START, END)
    fields = Gaussians((0.0, START[1]), (0.0, END[1]))
    steps, errors = np.array([20, 40]), []
    for n in steps:
        monkeypatch.setattr(interpolant, "normal_like", lambda key, k, like: jax.nn.one_hot(k + 1, len(like)))
        times = np.linspace(0, 1, n + 1)
        coefficients = D.sample_interpolant(
            D.Interpolant(),
            lambda x, t: fields.velocity(x, t),
            jnp.zeros(n + 1).at[0].set(np.sqrt(first[1])),
            times[::-1] if backwards else times,
            jr.key(0),
            denoiser=fields.denoiser,
            diffusion=lambda t: 3 * t * (1 - t),
        ).value
        errors.append(abs(float(jnp.sum(coefficients**2)) - last[1]))
    assert slope(steps, errors) > 1.5 and errors[-1] < 5e-3, errors


def test_interpolant_of_samples():
    """The SDE of real noise has the law of x1; training pairs are a point and its derivative."""
    fields, x = Gaussians(), START[0] + np.sqrt(START[1]) * jr.normal(jr.key(0), (20000,))
    end = D.sample_interpolant(
        D.Interpolant(),
        fields.velocity,
        x,
        np.linspace(0, 1, 41),
        jr.key(1),
        denoiser=fields.denoiser,
        diffusion=lambda t: t * (1 - t),
    ).value
    deviation = np.sqrt(END[1] / 20000)
    assert (
        abs(end.mean() - END[0]) < 4 * deviation
        and abs(end.var() - END[1]) < 4 * np.sqrt(2) * END[1] / 141 + 1e-3
    )
    path, states, h = D.Interpolant(), (jnp.array([1.0]), jnp.array([-2.0]), jnp.array([0.7])), 1e-6
    finite = (path.point(*states, 0.3 + h) - path.point(*states, 0.3 - h)) / (2 * h)
    np.testing.assert_allclose(path.velocity(*states, 0.3), finite, rtol=1e-8)
    np.testing.assert_allclose(path.point(*states, 0.0), states[0])
    np.testing.assert_allclose(path.point(*states, 1.0), states[1])


def test_one_sided_interpolant():
    """Noise to data on a trigonometric path, counted upwards in time: every sampler serves it."""
    mean, variance = END

    def velocity(x, t):
        a, s = jnp.sin(t), jnp.cos(t)
        return s * mean + (a * s * variance - s * a) / (a**2 * variance + s**2) * (x - a * mean)

    denoiser = D.one_sided_denoiser(velocity, jnp.sin, jnp.cos, noise_time=0.0, data_time=np.pi / 2)
    u, x = 0.9, np.linspace(-1, 1, 5)
    a, s = np.cos(u), np.sin(u)
    np.testing.assert_allclose(
        denoiser.x0(jnp.asarray(x), u),
        mean + a * variance / (a**2 * variance + s**2) * (x - a * mean),
        rtol=1e-12,
    )
    grid = denoiser.schedule.t_of_lam(np.linspace(-2, 2, 41))
    result = D.sample(denoiser, D.UniPC(3), jnp.asarray(x), grid).value
    (first, begin), (last, end) = (marginal(mean, variance, np.cos(u), np.sin(u)) for u in grid[[0, -1]])
    np.testing.assert_allclose(result, last + np.sqrt(end / begin) * (x - first), atol=1e-5)
    flow = D.one_sided_denoiser(lambda x, t: x, lambda t: 1 - t, lambda t: t, noise_time=1.0, data_time=0.0)
    np.testing.assert_allclose(
        flow.x0(jnp.asarray(x), 0.25), D.Denoiser(lambda x, t: x, "flow", D.Flow()).x0(jnp.asarray(x), 0.25)
    )


BAD_INTERPOLANTS = [
    ({"grid": np.array([0.0, 0.5, 0.4])}, "grid"),
    ({"grid": np.array([0.0, 1.5])}, "grid"),
    ({"diffusion": lambda t: t}, "belong together"),
    ({"diffusion": lambda t: t, "denoiser": lambda x, t: x}, "key"),
    ({"diffusion": lambda t: 1.0 + t, "denoiser": lambda x, t: x, "key": jr.key(0)}, "gamma"),
    ({"diffusion": lambda t: -t, "denoiser": lambda x, t: x, "key": jr.key(0)}, "negative"),
    ({"velocity": lambda x, t: x[:2]}, "shape"),
]


@pytest.mark.parametrize("options, word", BAD_INTERPOLANTS)
def test_bad_interpolants(options, word):
    arguments = {"velocity": lambda x, t: x, "grid": np.linspace(0, 1, 3)} | options
    velocity, grid, key = arguments.pop("velocity"), arguments.pop("grid"), arguments.pop("key", None)
    with pytest.raises(ValueError, match=word):
        D.sample_interpolant(D.Interpolant(), velocity, jnp.ones(3), grid, key, **arguments)
    with pytest.raises(FloatingPointError):
        D.sample_interpolant(D.Interpolant(), lambda x, t: x * jnp.nan, jnp.ones(3), np.linspace(0, 1, 3))

"""Times, levels and options outside of what there is, and derivatives at edges and kinks."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from nsolve import diffusion as D

DISCRETE = D.Discrete(np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000)))
SCHEDULES = {
    "vp-linear": D.VPLinear(),
    "vp-cosine": D.VPCosine(),
    "ve": D.VE(),
    "edm": D.EDM(),
    "flow": D.Flow(shift=3.0),
    "discrete": DISCRETE,
    "functions": D.FromFunctions(lambda t: -(t**2), lambda t: jnp.log(t), 0.1, 2.0),
}
LAST = {"edm": 80.0, "discrete": 999.0, "functions": 2.0}
METHODS = ("log_alpha", "log_sigma", "lam", "alpha", "sigma", "model_time")
X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)))
DENOISER = D.Denoiser(lambda x, t: 0.5 * x, "x0", DISCRETE)


@pytest.mark.parametrize("name", SCHEDULES)
def test_times_outside_a_schedule(name):
    schedule, last = SCHEDULES[name], LAST.get(name, 1.0)
    first = 0.1 if name == "functions" else 0.0
    inner = 0.5 * (first + last)
    outside = (last * 1.001 + 1e-3, first - 1e-2 * last, -300.0)
    traced = jax.jit(lambda t: [getattr(schedule, method)(t) for method in METHODS])
    for t in outside:
        for method in METHODS:
            for given in (t, np.array([inner, t]), jnp.asarray(t)):
                with pytest.raises(ValueError, match=rf"`t` must lie in the range of .* to {last:g}; got"):
                    getattr(schedule, method)(given)
        assert np.isnan(traced(t)).all()
    # What rounding makes of the end is the end, in both precisions, and the time's precision is kept.
    beyond = np.nextafter(last, np.inf)
    assert schedule.lam(beyond) == schedule.lam(last) or not np.isfinite(schedule.lam(last))
    single = traced(np.float32(inner))
    np.testing.assert_allclose(single, traced(inner), rtol=1e-5)
    assert {value.dtype for value in single} == {np.dtype("float32")}
    # So with levels.
    levels = schedule.lam(np.array([last, first]))
    for lam in levels[np.isfinite(levels)] + np.array([-1.0, 1.0])[np.isfinite(levels)]:
        with pytest.raises(ValueError, match="`lam` must lie in the range of"):
            schedule.t_of_lam(lam)
        assert np.isnan(jax.jit(lambda v: schedule.t_of_lam(v))(lam))


CALLS = {
    "sample": lambda grid: D.sample(DENOISER, D.DDIM(), X, grid).value,
    "invert": lambda grid: D.invert(DENOISER, D.DDIM(), X, grid),
    "log_likelihood": lambda grid: D.log_likelihood(DENOISER, X, grid),
    "as_diffrax": lambda grid: D.as_diffrax(DENOISER, None, grid),
    "sample_decomposed": lambda grid: (
        D.sample_decomposed(DENOISER, D.KrylovConsistency(lambda x: x, X[0]), X, grid).value
    ),
    "sample_adaptive": lambda grid: D.sample_adaptive(DENOISER, D.AdaptiveMultistep(), X, *grid),
    "uniform_grid": lambda grid: D.sample(DENOISER, D.DDIM(), X, D.uniform_grid(1, *grid)).value,
    "log_snr_grid": lambda grid: D.log_snr_grid(1, *grid)(DISCRETE),
    "x0": lambda grid: [DENOISER.x0(X, t) for t in grid],
    "score": lambda grid: [DENOISER.score(X, t) for t in grid],
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("grid", [[1000.0, 10.0], [900.0, -300.0]])
def test_times_outside_a_schedule_are_refused_everywhere(call, grid):
    with pytest.raises(ValueError, match="from 0 to 999; got (1000|-300)"):
        call(np.array(grid))


def test_a_traced_grid_outside_a_schedule_fails():
    with pytest.raises(Exception, match="within the range of the schedule"):
        jax.block_until_ready(jax.jit(CALLS["sample"])(jnp.array([1000.0, 10.0])))


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda: D.VE(2.0, 1.0), "sigma_min"),
        (lambda: D.VE(0.0, 1.0), "sigma_min"),
        (lambda: D.VPLinear(t_min=1.0, t_max=0.5), "t_min"),
        (lambda: D.VPLinear(beta_min=-1.0), "beta_min"),
        (lambda: D.VPCosine(t_max=1.2), "t_max"),
        (lambda: D.EDM(t_min=-1.0), "t_min"),
        (lambda: D.Flow(shift=np.nan), "shift"),
        (lambda: D.TimeGrid("lambda", 4), "spacing"),
        (lambda: D.karras_grid(4, rho=np.inf), "rho"),
        (lambda: D.karras_grid(True), "num_steps"),
        (lambda: D.uniform_grid(4, final="zero"), "final"),  # pyright: ignore
        (lambda: D.log_snr_grid(4, start=np.nan)(D.VPLinear()), "grid"),
        (lambda: D.sample(DENOISER, D.DDIM(), X.astype(int), D.uniform_grid(2)).value, "x_T"),
        (lambda: D.sample(DENOISER, D.DDIM(), X, np.array([9.0, 5.0, 5.0])).value, "grid"),
        (lambda: D.sample(DENOISER, D.DDIM(), X, np.array([9.0, np.nan, 5.0])).value, "grid"),
        (lambda: D.DDIM(eta=np.nan), "eta"),
    ],
)
def test_ranges_are_checked(make, name):
    with pytest.raises((ValueError, TypeError), match=f"`{name}`|{name}"):
        make()


# ---------------------------------------------------------------- derivatives where something has an edge
def symmetric(function, x, step=1e-6):
    """Symmetric differences of a function of an array, entry by entry."""
    x = np.asarray(x, float)
    slopes = np.empty_like(x)
    for index in np.ndindex(x.shape):
        move = np.zeros_like(x)
        move[index] = step
        slopes[index] = (function(jnp.asarray(x + move)) - function(jnp.asarray(x - move))) / (2 * step)
    return slopes


WEIGHTS = np.array([0.3, -1.1, 0.7, 0.4])


@pytest.mark.parametrize(
    "quantile, x",
    [
        (0.5, [1.0, 0.0, 1.0, 0.0]),  # at the minimum, and at zero
        (0.995, [0.0, 4.0, 0.0, 0.0]),
    ],
)
def test_thresholds_at_ties_and_zeros(quantile, x):
    rule = D.DynamicThreshold(quantile, 1.0)

    @jax.jit
    def function(x):
        return rule(x[None], None)[0] @ WEIGHTS

    np.testing.assert_allclose(jax.grad(function)(jnp.array(x)), symmetric(function, x), atol=1e-5)


def test_sizes_that_tie_share_the_derivative():
    slope = jax.grad(lambda x: D.DynamicThreshold(1.0, 1.0)(x[None], None)[0, 2])(
        jnp.array([2.0, 2.0, 0.5, 0.0])
    )
    np.testing.assert_allclose(slope, [-0.0625, -0.0625, 0.5, 0.0])  # of x2 / max(x0, x1)


def test_rescaled_guidance_of_an_output_that_does_not_vary():
    """std(cond) / std(guided) is 0 for a constant conditional output, with a symmetric derivative."""

    def function(c, null=((0.5, -1.0, 2.0),)):
        guided = D.ClassifierFree(lambda x, t, c: c, c[None], jnp.asarray(null), 3.0, 1.0)
        return jnp.sum(guided(c[None], 0.0) ** 2)

    flat = jnp.full(3, 0.25)
    assert function(flat) == 0.0
    np.testing.assert_allclose(jax.grad(function)(flat), symmetric(function, flat), atol=1e-5)
    # Nothing varies at all: the output stays as it is.
    slope = jax.grad(lambda c: function(c, np.full((1, 3), 0.25)))(flat)
    assert np.isfinite(slope).all()


def test_an_ensemble_that_fits_exactly_has_derivatives():
    def function(x):
        return jnp.sum(D.sample_ensemble_kalman(
            D.Denoiser(lambda x, t: x, "x0", D.EDM()), lambda x: 0.0 * x, jnp.zeros(2), 1.0, x,
            np.array([1.0, 0.5]), guidance_scale=2.0, num_prediction_steps=1,
        ).value ** 2)  # fmt: skip

    np.testing.assert_allclose(jax.grad(function)(X), symmetric(function, X, 1e-5), atol=1e-6)


def test_the_residual_of_an_exact_inversion():
    """Of a model for which nothing is to be removed, and of a state of zeros, which has no size."""
    denoiser = D.Denoiser(lambda x, t: jnp.zeros_like(x), "eps", D.VPLinear())
    times = np.array([0.9, 0.5])
    for x in (X, 0.0 * X):
        for rtol in (None, 1e-6):
            assert (D.invert(denoiser, D.DDIM(), x, times, rtol=rtol).residual < 1e-12).all()
        slope = jax.grad(lambda x: jnp.sum(D.invert(denoiser, D.DDIM(), x, times, throw=False).residual))(x)
        assert np.isfinite(slope).all()


def test_langevin_without_a_score():
    denoiser = D.Denoiser(lambda x, t: jnp.zeros_like(x), "eps", D.VPLinear())

    def function(x):
        return jnp.sum(D.sample_predictor_corrector(denoiser, x, np.array([0.9, 0.5]), jr.key(0)).value ** 2)

    assert np.isfinite(jax.grad(function)(X)).all()


def test_interpolants_differentiate_in_the_ends_of_their_grid():
    def function(end):
        times = jnp.stack([0.0 * end, 0.5 * end, end])
        x = D.sample_interpolant(
            D.Interpolant(), lambda x, t: -x, X, times, jr.key(0),
            denoiser=lambda x, t: x, diffusion=lambda t: t * (1.0 - t),
        ).value  # fmt: skip
        return jnp.sum(x**2)

    # The noise vanishes like a root there, whose slope counts as zero.
    assert np.isfinite(jax.grad(function)(1.0))
    interpolant = D.Interpolant()
    assert np.isfinite(interpolant.velocity(X, X, X, 0.0)).all()


@pytest.mark.compiles("traced tables, differentiated")
@pytest.mark.parametrize("end", [0.0, 0.3])
def test_tables_differentiate_in_the_noise_at_none(end):
    """At eta = 0 all but the noise, which grows like a root, has a derivative; also towards sigma = 0."""
    grid = np.array([2.0, 1.0, end])

    def weights(eta):
        return D.DPMSolverPP(2, sde=eta).plan(grid, D.EDM()).weights

    derivative = jax.jacfwd(weights)(0.0)
    assert np.isfinite(derivative).all() and np.isfinite(jax.jacrev(weights)(0.0)).all()
    h = 1e-4
    slopes = (-3 * weights(jnp.asarray(0.0)) + 4 * weights(jnp.asarray(h)) - weights(jnp.asarray(2 * h))) / (
        2 * h
    )
    np.testing.assert_allclose(derivative[:, :-1], slopes[:, :-1], rtol=1e-5, atol=1e-6)
    for make in (D.DDIM, lambda tau: D.SASolver(tau=tau)):
        for value in (0.0, 1.0):
            plan = jax.jacrev(lambda value, make=make: make(value).plan(grid, D.EDM()).weights)(value)
            assert np.isfinite(plan).all() or (make is D.DDIM and value == 1.0 and end == 0.3)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_have_finite_derivatives_at_their_ends(name):
    schedule, last = SCHEDULES[name], LAST.get(name, 1.0)
    for t in (0.1 if name == "functions" else 0.0, last):
        for method in METHODS:
            assert np.isfinite(jax.grad(lambda t, method=method: getattr(schedule, method)(t))(t))


def test_a_discrete_schedule_without_signal_at_its_end():
    """Its infinite logarithm is not met at the time before."""
    schedule = D.Discrete(np.linspace(0.99, 0.0, 10))
    for t, expected in ((8.0, np.sqrt(0.11)), (9.0, 0.0)):
        np.testing.assert_allclose(jax.jit(lambda t: schedule.alpha(t))(t), expected, rtol=1e-12)

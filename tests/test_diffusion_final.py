"""A last step to sigma = 0, which schedules like `Discrete` have no time for."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from nsolve import diffusion as D
from tests.diffusion_cases import CASES
from tests.golden.records import RECORDS, carry_out, grid_of
from tests.test_diffusion_parity import ROWS

SCHEDULE = D.Discrete(np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000)))
MEAN, VARIANCE = 0.7, 0.09
X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)))


class Normal(eqx.Module):
    """The exact network for normal data."""

    schedule: D.AbstractSchedule

    def __call__(self, x, t):
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return MEAN + alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * (x - alpha * MEAN)


def denoiser(schedule):
    return D.Denoiser(Normal(schedule), "x0", schedule)


def exact(x, schedule, t):
    """The probability-flow ODE's end at sigma = 0."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return MEAN + np.sqrt(VARIANCE / (alpha**2 * VARIANCE + sigma**2)) * (np.asarray(x) - alpha * MEAN)


PLANS = {repr(case.sampler): case.sampler for case in CASES if not isinstance(case.sampler, D.DPMSolverV3)}


@pytest.mark.parametrize("sampler", PLANS.values(), ids=PLANS)
def test_every_sampler_ends_in_the_clean_state(sampler):
    """One evaluation more than without, finite numbers, and x0 of the point before as the result."""
    plan = sampler.plan(D.log_snr_grid(7, final="sigma0"), SCHEDULE)
    before = sampler.plan(D.log_snr_grid(6), SCHEDULE)
    assert plan.num_evaluations == before.num_evaluations + 1
    assert np.isfinite(plan.weights).all() and np.isfinite(plan.reads).all()
    np.testing.assert_array_equal(plan.reads[-1], [0, 1])
    np.testing.assert_array_equal(
        plan.weights[-1], np.eye(1, plan.num_registers + 2, 1 + plan.registers[-1])[0]
    )
    assert (plan.t[-1], plan.alpha[-1], plan.sigma[-1]) == (-np.inf, 1.0, 0.0)


@pytest.mark.parametrize(
    "sampler, error",
    [
        (D.DPMSolverPP(2), 0.02),
        (D.UniPC(3), 0.01),
        (D.DPMSolver(3, "single"), 2e-4),
        (D.RhoRK("kutta3"), 1e-3),
    ],
)
def test_runs_to_the_end(sampler, error):
    """Against the exact flow; as times, with a traced schedule, and as an explicit array."""
    grid = D.log_snr_grid(20, final="sigma0")
    run = eqx.filter_jit(lambda d, x, grid: D.sample(d, sampler, x, grid).value)
    x = D.sample(denoiser(SCHEDULE), sampler, X, grid).value
    np.testing.assert_allclose(x, exact(X, SCHEDULE, 999.0), atol=error)
    np.testing.assert_allclose(run(denoiser(SCHEDULE), X, grid), x, rtol=1e-9)
    np.testing.assert_array_equal(D.sample(denoiser(SCHEDULE), sampler, X, grid(SCHEDULE)).value, x)


def test_a_single_step_to_the_end():
    x = D.sample(denoiser(SCHEDULE), D.UniPC(3), X, D.uniform_grid(1, final="sigma0")).value
    np.testing.assert_allclose(x, denoiser(SCHEDULE).x0(X, 999.0), rtol=1e-12)


ZERO = [row for row in ROWS if "-zero" in row[0]]


@pytest.mark.parametrize("name, sampler, layout", ZERO, ids=[row[0] for row in ZERO])
def test_it_is_the_last_step_of_diffusers(name, sampler, layout):
    """`final_sigmas_type="zero"`, its records run with -inf for the last time."""
    record = RECORDS[name]
    times, length = grid_of(record, layout)
    times = np.append(times[:-1], -np.inf)
    points = carry_out(sampler.plan(times, record.schedule), record)
    np.testing.assert_allclose(
        points, record.states[:length], rtol=0, atol=1e-11 * np.abs(record.states).max()
    )


@pytest.mark.parametrize(
    "sampler", [D.DPMSolver(3, "single"), D.DPMSolverPP(2, "single"), D.DPMSolverPP(3, "fast")]
)
def test_single_steps_reach_sigma_zero(sampler):
    """On EDM's grids, which end at t = 0, with a last step of first order."""
    schedule = D.EDM()
    grid = np.append(D.karras_grid(30)(schedule), 0.0)
    x = D.sample(denoiser(schedule), sampler, 80.0 * X, grid).value
    np.testing.assert_allclose(x, exact(80.0 * X, schedule, 80.0), atol=5e-3)


def test_noise_ends_before_the_end():
    """Stochastic samplers, too; the same path whatever is behind it."""
    grid = D.log_snr_grid(40, final="sigma0")
    for sampler in (D.DDPM(), D.SASolver(), D.ERSDE(), D.EDMHeun(churn=5.0)):
        found = D.sample(denoiser(SCHEDULE), sampler, X, grid, jr.key(0), trajectory=True)
        last = denoiser(SCHEDULE).x0(found.trajectory.x[-2], 0.0)
        np.testing.assert_allclose(found.value, last, rtol=1e-10)
    D.sample(denoiser(SCHEDULE), D.DDPM(), X, grid, D.BrownianPath(jr.key(0)))


def test_a_plan_with_such_a_step_is_kept(tmp_path):
    plan = D.UniPC(2).plan(D.log_snr_grid(3, final="sigma0"), SCHEDULE)
    for name in ("plan.json", "plan.npz"):
        plan.save(tmp_path / name)
        assert eqx.tree_equal(D.Plan.load(tmp_path / name), plan)
    assert "Infinity" not in (tmp_path / "plan.json").read_text()


def test_other_loops_take_it_or_say_no():
    grid, den = D.log_snr_grid(5, final="sigma0"), denoiser(SCHEDULE)
    identity = D.KrylovConsistency(lambda x: x, X, gamma=1e-12)
    x = D.sample_decomposed(den, identity, X, grid).value
    np.testing.assert_allclose(x, D.sample(den, D.DDIM(), X, grid).value, rtol=1e-8)
    D.sample_predictor_corrector(den, X, grid, jr.key(0))
    refused = {
        "invert": lambda: D.invert(den, D.DDIM(), X, grid),
        "likelihood": lambda: D.log_likelihood(den, X, grid),
        "diffrax": lambda: D.as_diffrax(den, D.DDIM(), grid),
        "particles": lambda: D.sample_feynman_kac(den, 1.0, X, grid, jr.key(0)),
        "ensemble": lambda: D.sample_ensemble_kalman(den, lambda x: x, X[0], 1.0, X, grid, jr.key(0)).value,
        "choices": lambda: D.plan_of_choices([D.Choice()] * 4, grid, SCHEDULE),
        "twice": lambda: D.DDIM().plan(D.uniform_grid(3, end=0.0, final="sigma0"), D.VPLinear()),
    }
    for call in refused.values():
        with pytest.raises(ValueError, match="`grid`"):
            call()
    assert np.isfinite(jax.grad(lambda x: jnp.sum(D.sample(den, D.UniPC(2), x, grid).value))(X)).all()

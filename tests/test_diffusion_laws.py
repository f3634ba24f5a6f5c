"""What is true of every sampler in `tests/diffusion_cases.py`."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nsolve import diffusion as D
from tests import diffusion_reference as reference
from tests.diffusion_cases import CASES, DETERMINISTIC, Case

SCHEDULES = {
    "vp": D.VPLinear(),
    "cosine": D.VPCosine(),
    "ve": D.VE(),
    "edm": D.EDM(),
    "flow": D.Flow(shift=2.0),
}
LAM = reference.LAM


def rows(cases):
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def slope(steps, errors) -> float:
    return -float(np.polyfit(np.log2(steps), np.log2(errors), 1)[0])


@rows(DETERMINISTIC)
def test_order(case: Case):
    steps = case.first * 2 ** np.arange(5)
    errors = [reference.flow_error(case.sampler, SCHEDULES["vp"], int(n), case.known) for n in steps]
    assert abs(slope(steps, errors) - case.order) < 0.15, errors


def variable(case: Case, points: D.Points):
    if case.variable == "t":
        return points.t
    return {
        "lam": points.lam / 3.0,
        "rho": np.exp(-points.lam),
        "snr": np.exp(points.lam),
        "flow": points.sigma / (points.alpha + points.sigma),
    }[case.variable]


@rows([case for case in DETERMINISTIC if case.degree is not None])
def test_exact_on_polynomials(case: Case):
    """One network output, a polynomial of the time alone: the ODE is an integral, done here by quadrature."""
    schedule, lams = SCHEDULES["vp"], np.linspace(*LAM, 17) + 0.05 * np.sin(np.arange(17))
    coefficients = np.random.default_rng(1).normal(size=case.degree + 1)
    times = schedule.t_of_lam(lams)

    def output(points):
        return np.polynomial.polynomial.polyval(variable(case, points), coefficients)

    nodes, weights = np.polynomial.legendre.leggauss(30)
    total = 0.0
    for low, high in zip(lams[case.known : -1], lams[case.known + 1 :], strict=True):
        lam = 0.5 * (low + high) + 0.5 * (high - low) * nodes
        at = D.Points.of(schedule, schedule.t_of_lam(lam))
        if case.form == "x0":
            derivative = np.exp(lam)  # d(x / sigma) = x0 d(e^lam)
        elif case.form == "eps":
            derivative = -np.exp(-lam)  # d(x / alpha) = eps d(e^-lam)
        else:  # d(x / (alpha + sigma)) = (eps - x0) d(sigma / (alpha + sigma))
            derivative = -np.exp(-lam) / (1.0 + np.exp(-lam)) ** 2
        total += 0.5 * (high - low) * np.sum(weights * output(at) * derivative)
    ends = D.Points.of(schedule, times[[case.known, -1]])
    scale = {"x0": ends.sigma, "eps": ends.alpha, "flow": ends.alpha + ends.sigma}[case.form]
    start = np.array([[0.7]])
    exact = scale[1] * (start / scale[0] + total)

    def x0_of(x, alpha, sigma):
        at = D.Points.of(schedule, schedule.t_of_lam(np.log(alpha / sigma)))
        value = output(at)
        if case.form == "x0":
            return np.full_like(x, value)
        if case.form == "eps":
            return (x - sigma * value) / alpha
        return (x - sigma * value) / (alpha + sigma)

    plan = case.sampler.plan(times, schedule, known=case.known)
    registers = np.zeros((plan.num_registers, 1, 1))
    before = D.Points.of(schedule, times[: case.known])
    for i in range(case.known):
        registers[i % plan.num_registers] = output(before[i])
    np.testing.assert_allclose(reference.run_plan(plan, start, x0_of, registers), exact, rtol=1e-12)


@pytest.mark.parametrize("sampler", [D.UniPC(3), D.DPMSolverPP(3), D.UniPC(2), D.SASolver(tau=0.0)])
def test_a_long_last_step_is_not_extrapolated_to(sampler):
    """Times even in t end with a step several times as long in lam: there the order falls, elsewhere it does
    not, and a traced grid is treated alike."""
    full = dataclasses.replace(sampler, lower_order_final=False)
    schedule, errors = SCHEDULES["vp"], []
    first, last = schedule.lam(np.array([schedule.t_max, schedule.t_min]))
    exact = reference.exact_flow(schedule, first, last)
    for one in (sampler, full):
        reached = reference.run_plan(one.plan(D.uniform_grid(20), schedule), exact(first))
        errors.append(np.sqrt(np.mean((reached - exact(last)) ** 2)))
    assert errors[0] < 0.5 * errors[1]
    for grid in (D.uniform_grid(20)(schedule), D.log_snr_grid(20)(schedule)):
        traced = jax.jit(lambda t: sampler.plan(t, schedule).weights)(grid)
        np.testing.assert_allclose(traced, sampler.plan(grid, schedule).weights, rtol=1e-9, atol=1e-11)
    even = D.log_snr_grid(20)
    np.testing.assert_array_equal(sampler.plan(even, schedule).weights, full.plan(even, schedule).weights)


@rows(CASES)
def test_sample_runs_the_plan(case: Case):
    """The compiled loop equals the plan read word by word, here with a network that predicts the flow."""
    schedule = SCHEDULES["vp"]
    grid = D.log_snr_grid(6, start=schedule.t_of_lam(LAM[0]), end=schedule.t_of_lam(LAM[1]))
    plan = case.sampler.plan(grid, schedule)
    key = jax.random.key(3)
    x = reference.starts(4)

    def noise(row):
        return np.asarray(D.noise.normal_like(key, row, jnp.asarray(x)))

    expected = reference.run_plan(plan, x, noise=noise if plan.stochastic else None)
    result = D.sample(flow_denoiser(schedule), case.sampler, jnp.asarray(x), grid, key).value
    np.testing.assert_allclose(result, expected, rtol=1e-11, atol=1e-12)


def clean(x, alpha, sigma):
    """`reference.clean` in JAX."""
    variance = alpha**2 * reference.DEVIATIONS**2 + sigma**2
    offset = x[:, None, :] - alpha * reference.MEANS[None]
    weight = jax.nn.softmax(
        (np.log(reference.WEIGHTS) - jnp.log(variance))[None]
        - 0.5 * jnp.sum(offset**2, axis=2) / variance[None],
        axis=1,
    )
    inner = reference.MEANS[None] + (alpha * reference.DEVIATIONS**2 / variance)[None, :, None] * offset
    return jnp.einsum("bk,bkd->bd", weight, inner)


class FlowNetwork(eqx.Module):
    schedule: D.AbstractSchedule

    def __call__(self, x, t):
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        x0 = clean(x, alpha, sigma)
        return (x - alpha * x0) / sigma - x0


def flow_denoiser(schedule) -> D.Denoiser:
    return D.Denoiser(FlowNetwork(schedule), "flow", schedule)


@rows([case for case in CASES if case.invariant and case.variable != "t"])
def test_schedules_are_one(case: Case):
    """z = x / alpha obeys one equation for all schedules, so results on the same lam agree."""
    lams = np.linspace(*LAM, 7)
    normal = np.random.default_rng(2).normal(size=(40, 4, 2))
    results = []
    for schedule in SCHEDULES.values():
        times = schedule.t_of_lam(lams)
        plan = case.sampler.plan(times, schedule)
        first, last = schedule.alpha(times[0]), schedule.alpha(times[-1])
        z = reference.run_plan(plan, first * reference.starts(4), noise=lambda row: normal[row]) / last
        results.append(z)
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-9, atol=1e-10)


# One row of each kind of table: tracing a table takes seconds.
KINDS = {(type(case.sampler), getattr(case.sampler, "mode", None)): case for case in CASES}


@rows(KINDS.values())
def test_plan_differentiates_in_the_grid(case: Case):
    """The traced table equals the host's, and its derivative along the grid equals finite differences."""
    schedule = SCHEDULES["vp"]
    times = np.asarray(D.log_snr_grid(6, start=0.99)(schedule))  # differences need room at the start
    direction = 0.01 * times * np.cos(np.arange(7))

    def table(step):
        plan = case.sampler.plan(times + step * direction, schedule)
        return plan.weights, plan.reads, plan.model_time

    values, derivatives = jax.jit(lambda step: jax.jvp(table, (step,), (1.0,)))(0.0)
    high, low = table(1e-4), table(-1e-4)
    higher, lower = table(2e-4), table(-2e-4)
    for value, derivative, host, *around in zip(
        values, derivatives, table(0.0), high, low, higher, lower, strict=True
    ):
        np.testing.assert_allclose(value, host, rtol=1e-10, atol=1e-12)
        finite = (8 * (around[0] - around[1]) - (around[2] - around[3])) / 12e-4
        np.testing.assert_allclose(derivative, finite, rtol=1e-6, atol=1e-6 * (1 + np.abs(finite).max()))

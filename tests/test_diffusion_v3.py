"""DPM-Solver-v3: what its statistics must be, and what they buy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from nsolve import diffusion as D
from nsolve.diffusion.statistics import Spline

from . import diffusion_reference as reference

VP = D.VPLinear()
LAM = np.linspace(*reference.LAM, 60)


def constant(*numbers, shape=()):
    return D.Statistics(LAM, *(number * np.ones((len(LAM), *shape)) for number in numbers))


def even_grid(num_steps):
    return VP.t_of_lam(np.linspace(*reference.LAM, num_steps + 1))


def test_the_spline_is_scipys():
    rng = np.random.default_rng(0)
    knots, values = np.sort(rng.uniform(-3, 3, 12)), rng.normal(size=(12, 2))
    ours, scipys = Spline.through(knots, values), CubicSpline(knots, values)
    at = np.linspace(knots[0], knots[-1], 31)
    np.testing.assert_allclose(ours(at), scipys(at), rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(ours.integral(at), scipys.antiderivative()(at), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("numbers, form", [((1.0, 0.0, 0.0), "x0"), ((0.0, -1.0, 0.0), "eps")])
def test_plain_statistics_give_the_plain_forms(order, corrector, numbers, form):
    grid = even_grid(9)
    ours = D.DPMSolverV3(constant(*numbers, shape=(2,)), order, corrector).plan(grid, VP)
    plain = D.UniPC(order, corrector, form).plan(grid, VP)
    x = reference.starts(5)
    np.testing.assert_allclose(reference.run_plan(ours, x), reference.run_plan(plain, x), rtol=1e-11)


MEAN, COVARIANCE = np.array([0.7, -0.4]), np.array([[1.0, 0.35], [0.35, 0.3]])


class Normal(eqx.Module):
    """The noise in a state of normal data."""

    mean: jax.Array
    covariance: jax.Array
    schedule: D.AbstractSchedule

    def __call__(self, x, t):
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        total = alpha**2 * self.covariance + sigma**2 * jnp.eye(2)
        return sigma * jnp.linalg.solve(total, (x - alpha * self.mean[None]).T).T


def normal_problem(mean, covariance, number):
    denoiser = D.Denoiser(Normal(jnp.asarray(mean), jnp.asarray(covariance), VP), "eps", VP)
    rng = np.random.default_rng(0)
    return denoiser, jnp.asarray(rng.normal(size=(number, 2)) @ np.linalg.cholesky(covariance).T + mean)


def test_independent_normal_data_leave_nothing_to_extrapolate():
    variance = np.diag(COVARIANCE)
    denoiser, samples = normal_problem(MEAN, np.diag(variance), 64)
    found = D.fit_statistics(denoiser, samples, LAM, jax.random.key(0))
    linear = 1 / (1 + variance * np.exp(2 * LAM[:, None]))
    np.testing.assert_allclose(found.l, linear, rtol=1e-10)
    # f = -l mean does not vary over the samples; it changes along lam by l' = -2 l (1 - l).
    np.testing.assert_array_equal(found.s, 0.0)
    np.testing.assert_allclose(found.b, 2 * linear * (1 - linear) * MEAN, atol=1e-4)
    # Then a step of any length is exact but for the splines.
    x = reference.starts(5)
    plan = D.DPMSolverV3(found, 1).plan(even_grid(2), VP)

    def scale(lam):
        return np.sqrt(variance + np.exp(-2 * lam))

    alpha = VP.alpha(even_grid(1))
    z = MEAN + (x / alpha[0] - MEAN) * scale(LAM[-1]) / scale(LAM[0])
    result = D.sample(denoiser, plan, jnp.asarray(x)).value
    np.testing.assert_allclose(result, alpha[1] * z, atol=1e-5)


def test_the_regression_of_dependent_normal_data():
    denoiser, samples = normal_problem(np.zeros(2), COVARIANCE, 40_000)
    found = D.fit_statistics(denoiser, samples, LAM[::3], jax.random.key(1), batch_size=20_000)
    for i, lam in enumerate(LAM[::3]):
        # With P = (1 + e^{2 lam} covariance)^-1: f = (P - diag P) z, z' = -P z.
        p = np.linalg.inv(np.eye(2) + np.exp(2 * lam) * COVARIANCE)
        rate = -2 * np.exp(2 * lam) * p @ COVARIANCE @ p
        rest = p - np.diag(np.diag(p))
        f_rate = rate - np.diag(np.diag(rate)) - rest @ p
        spread = COVARIANCE + np.exp(-2 * lam) * np.eye(2)
        s = np.diag(f_rate @ spread @ rest.T) / np.diag(rest @ spread @ rest.T)
        np.testing.assert_allclose(found.l[i], np.diag(p), atol=0.01)
        np.testing.assert_allclose(found.s[i], s, atol=0.05)
        np.testing.assert_allclose(found.b[i], 0.0, atol=0.01)


class Mixture(eqx.Module):
    """The reference mixture's clean state."""

    def __call__(self, x, t):
        alpha, sigma = VP.alpha(t), VP.sigma(t)
        variance = alpha**2 * reference.DEVIATIONS**2 + sigma**2
        offset = x[:, None, :] - alpha * reference.MEANS[None]
        squares = jnp.sum(offset**2, axis=2)
        exponent = jnp.log(reference.WEIGHTS / variance)[None] - 0.5 * squares / variance[None]
        shrink = (alpha * reference.DEVIATIONS**2 / variance)[None, :, None]
        return jnp.einsum("bk,bkd->bd", jax.nn.softmax(exponent), reference.MEANS[None] + shrink * offset)


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    component = rng.choice(3, 1024, p=reference.WEIGHTS)
    noise = rng.normal(size=(1024, 2))
    samples = reference.MEANS[component] + reference.DEVIATIONS[component, None] * noise
    denoiser = D.Denoiser(Mixture(), "x0", VP)
    return D.fit_statistics(denoiser, jnp.asarray(samples), LAM, jax.random.key(0))


def test_fitted_statistics_halve_the_error_of_few_evaluations(fitted):
    errors = {
        name: np.array([reference.flow_error(sampler, VP, n, 0) for n in range(5, 11)])
        for name, sampler in {
            "third": D.DPMSolverV3(fitted),
            "pseudo": D.DPMSolverV3(fitted, pseudo="corrector"),
            "UniPC": D.UniPC(3),
            "plain": D.DPMSolverV3(constant(1.0, 0.0, 0.0)),
        }.items()
    }
    np.testing.assert_allclose(errors["plain"], errors["UniPC"], rtol=1e-9)
    assert np.all(errors["third"] < 0.75 * errors["UniPC"])
    assert errors["third"][-1] < 0.2 * errors["UniPC"][-1]
    assert errors["pseudo"][0] < 0.5 * errors["UniPC"][0]


def test_coefficients_of_each_component_in_the_loop(fitted):
    x, plan = reference.starts(3), D.DPMSolverV3(fitted).plan(even_grid(6), VP)
    assert plan.weights.shape == (7, 6, 2) and plan.shifts.shape == (7, 2)
    result = D.sample(D.Denoiser(Mixture(), "x0", VP), plan, jnp.asarray(x)).value
    np.testing.assert_allclose(result, reference.run_plan(plan, x), rtol=1e-11)


def test_plans_differentiate_in_the_statistics():
    known = D.Statistics(LAM[::10], *(np.cos(LAM[::10] + shift) for shift in (0.0, 1.0, 2.0)))
    sampler, grid = D.DPMSolverV3(known, 2), even_grid(4)

    def table(step):
        moved = jax.tree.map(lambda value: value + step * jnp.sin(value), known)
        plan = eqx.tree_at(lambda s: s.statistics, sampler, moved).plan(grid, VP)
        return plan.weights, plan.reads, plan.shifts

    # Knots that all move apart would uncover the ends of the grid: begin inside.
    grid = grid[1:-1]
    values, derivatives = jax.jit(lambda step: jax.jvp(table, (step,), (1.0,)))(0.0)
    for value, derivative, host, high, low in zip(
        values, derivatives, table(0.0), table(1e-5), table(-1e-5), strict=True
    ):
        np.testing.assert_allclose(value, host, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(derivative, (high - low) / 2e-5, rtol=1e-6, atol=1e-7)


def test_statistics_survive_a_file(tmp_path, fitted):
    path = tmp_path / "statistics.npz"
    fitted.save(path)
    assert eqx.tree_equal(D.Statistics.load(path), fitted)
    np.savez(path, lam=LAM, l=LAM)
    with pytest.raises(ValueError, match="holds no statistics: b, s missing"):
        D.Statistics.load(path)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: D.DPMSolverV3(None), "`statistics` must be an ns.diffusion.Statistics"),
        (lambda: D.DPMSolverV3(constant(1, 0, 0), 9), "`order` must be a number from 1 to 8"),
        (lambda: D.DPMSolverV3(constant(1, 0, 0), pseudo=True), "`pseudo` must be one of"),
        (
            lambda: D.DPMSolverV3(constant(1, 0, 0)).plan(D.log_snr_grid(5), VP),
            "`statistics` must cover the grid",
        ),
        (lambda: D.Statistics(LAM[::-1], LAM, LAM, LAM), "`lam` must grow"),
        (lambda: D.Statistics(LAM[:3], LAM[:3], LAM[:3], LAM[:3]), "at least four"),
        (lambda: D.Statistics(LAM, LAM, LAM[1:], LAM), "`s` must have one shape"),
        (
            lambda: D.fit_statistics(
                D.Denoiser(Mixture(), "x0", VP), jnp.ones((6, 2)), LAM, None, batch_size=4
            ),
            "`batch_size` must divide the 6 samples",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()

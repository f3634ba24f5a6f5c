"""Samplers as solvers of diffrax, and the flow as its term."""

import builtins
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from nsolve import diffusion as D
from tests import diffusion_reference as reference
from tests.test_diffusion_sample import Network

SCHEDULE = D.VPLinear()
TIMES = SCHEDULE.t_of_lam(np.linspace(*reference.LAM, 6))
STARTS = jnp.asarray(reference.starts(4))


def mixture(schedule: D.AbstractSchedule = SCHEDULE) -> D.Denoiser:
    # A flow's network is told the shifted time.
    told = D.Flow() if isinstance(schedule, D.Flow) else schedule
    return D.Denoiser(Network(told, "x0", jnp.ones(())), "x0", schedule)


def solve(problem, x, **options) -> Any:
    return diffrax.diffeqsolve(**problem, y0=x, **options)


SAMPLERS = [
    D.UniPC(3),
    D.EDMHeun(),  # visits each time twice
    D.PNDM("F"),  # with steps of unlike numbers of evaluations
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
def test_sampler_equals_sample(sampler):
    problem = D.as_diffrax(mixture(), sampler, TIMES)
    solution = solve(problem, STARTS)
    assert int(solution.stats["num_steps"]) == problem["max_steps"]
    expected = reference.run_plan(sampler.plan(TIMES, SCHEDULE), np.asarray(STARTS))
    np.testing.assert_allclose(solution.ys[0], expected, rtol=1e-12, atol=1e-12)


def test_states_are_pytrees_and_the_first_row_and_shifts_count():
    plan = D.UniPC(2).plan(TIMES, SCHEDULE)
    weights = np.array(plan.weights)
    weights[0, 0] = 0.7
    shifts = 0.1 * np.arange(len(TIMES))
    plan = eqx.tree_at(lambda p: (p.weights, p.shifts), plan, (weights, shifts), is_leaf=lambda v: v is None)
    network = mixture().model

    def model(x, t):
        return {"a": network(x["a"], t), "b": 0.5 * x["b"]}

    def threshold(x0, t):
        return jax.tree.map(jnp.tanh, x0)

    denoiser = D.Denoiser(model, "x0", SCHEDULE, threshold)
    x = {"a": STARTS, "b": jnp.ones((4, 3))}
    solution = solve(D.as_diffrax(denoiser, plan), x)
    expected = D.sample(denoiser, plan, x).value
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-14), solution.ys, expected)


def test_gradients_equal_those_of_sample():
    """In the network and in x_T, with fewer states kept than there are steps."""
    adjoint = diffrax.RecursiveCheckpointAdjoint(checkpoints=2)

    @eqx.filter_jit
    @eqx.filter_grad
    def by_diffrax(inputs):
        denoiser, x = inputs
        return jnp.sum(solve(D.as_diffrax(denoiser, D.UniPC(2), TIMES), x, adjoint=adjoint).ys ** 2)

    @eqx.filter_jit
    @eqx.filter_grad
    def by_sample(inputs):
        denoiser, x = inputs
        return jnp.sum(D.sample(denoiser, D.UniPC(2), x, TIMES).value ** 2)

    inputs = mixture(), STARTS
    ours, theirs = (jax.tree.leaves(g(inputs)) for g in (by_sample, by_diffrax))
    assert len(ours) == 2 and all(np.linalg.norm(leaf) > 1e-3 for leaf in ours)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_gradient_in_the_grid():
    def last(times):
        return solve(D.as_diffrax(mixture(), D.DDIM(), times), STARTS[:1]).ys[0, 0, 0]

    gradient = jax.jit(jax.grad(last))(jnp.asarray(TIMES))
    h = 1e-6

    def by_plan(times):
        return reference.run_plan(D.DDIM().plan(times, SCHEDULE), np.asarray(STARTS[:1]))[0, 0]

    steps = h * np.eye(len(TIMES))
    differences = [(by_plan(TIMES + step) - by_plan(TIMES - step)) / (2 * h) for step in steps]
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-8)


def test_any_solver_follows_the_flow():
    schedule = D.Flow(shift=2.0)
    ends = schedule.t_of_lam(np.array(reference.LAM))
    exact = reference.exact_flow(schedule, *reference.LAM, batch=4)
    solution = solve(
        D.as_diffrax(mixture(schedule), grid=ends),
        jnp.asarray(exact(reference.LAM[0])),
        solver=diffrax.Tsit5(),
        dt0=None,
        stepsize_controller=diffrax.PIDController(rtol=1e-8, atol=1e-8),
    )
    np.testing.assert_allclose(solution.ys[0], exact(reference.LAM[1]), atol=1e-7)


def test_adaptive_sampler_on_the_steps_of_sample_adaptive():
    sampler = D.AdaptiveMultistep(2)
    ends = TIMES[0], TIMES[-1]
    own = D.sample_adaptive(mixture(), sampler, STARTS, *ends, rtol=1e-4, atol=1e-4, shared_steps=True)
    lam = jnp.asarray(SCHEDULE.lam(np.asarray(own.t)[: int(own.stats["num_steps"]) + 1]))
    problem = D.as_diffrax(mixture(), sampler, TIMES[[0, -1]])
    assert float(problem["t0"]) == lam[0] and float(problem["t1"]) == lam[-1]
    same = problem | {"t0": lam[0], "t1": lam[-1], "dt0": None}
    solution = solve(same, STARTS, stepsize_controller=diffrax.StepTo(lam))
    np.testing.assert_allclose(solution.ys[0], own.value, rtol=1e-11)


def test_adaptive_sampler_under_a_controller():
    """The error falls with the tolerance, also when outputs are forgotten at a jump."""
    exact = reference.exact_flow(SCHEDULE, *reference.LAM, batch=4)
    problem = D.as_diffrax(mixture(), D.AdaptiveMultistep(3), SCHEDULE.t_of_lam(np.array(reference.LAM)))
    start, end = (jnp.asarray(exact(lam)) for lam in reference.LAM)

    @jax.jit
    def error(tolerance, x):
        controller = diffrax.ClipStepSizeController(
            diffrax.PIDController(rtol=tolerance, atol=tolerance), jump_ts=jnp.array([0.3])
        )
        solution = solve(problem, x, stepsize_controller=controller)
        return jnp.max(jnp.abs(solution.ys[0] - end)), solution.stats["num_steps"]

    coarse, fine = error(1e-4, start), error(1e-7, start)
    assert coarse[0] < 1e-3 and fine[0] < 1e-6 and coarse[1] < fine[1] < 300


def test_reverse_sde_keeps_the_mean_and_variance():
    """Gaussian data: Heun's steps with additive noise against the moments that every time must have."""
    mean, deviation = 0.5, 0.3

    def model(x, t):
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        variance = alpha**2 * deviation**2 + sigma**2
        return mean + alpha * deviation**2 / variance * (x - alpha * mean)

    denoiser = D.Denoiser(model, "x0", SCHEDULE)
    ends = SCHEDULE.t_of_lam(np.array([-2.0, 1.0]))
    alpha, sigma = SCHEDULE.alpha(ends), SCHEDULE.sigma(ends)
    spread = np.hypot(alpha * deviation, sigma)
    number = 20_000
    x = alpha[0] * mean + spread[0] * jr.normal(jr.key(0), (number,))
    path = diffrax.UnsafeBrownianPath(shape=(number,), key=jr.key(1))
    problem = D.as_diffrax(denoiser, grid=ends, eta=1.0, brownian=path)
    # No backward pass, so that the path needs no memory of itself.
    solution = solve(problem, x, solver=diffrax.Heun(), dt0=0.1, adjoint=diffrax.DirectAdjoint())
    result = np.asarray(solution.ys[0])
    assert np.mean(result) == pytest.approx(alpha[1] * mean, abs=5 * spread[1] / np.sqrt(number))
    assert np.std(result) == pytest.approx(spread[1], rel=0.03)
    correlation = np.corrcoef(np.asarray(x), result)[0, 1]
    assert abs(correlation) < 0.5  # the ODE would keep it at 1


def test_float32():
    with jax.enable_x64(False):
        x = jnp.asarray(np.asarray(STARTS), jnp.float32)
        denoiser = D.Denoiser(lambda x, t: t * jnp.sin(x), "x0", SCHEDULE)
        solution = solve(D.as_diffrax(denoiser, D.DPMSolverPP(2), TIMES), x)
        expected = D.sample(denoiser, D.DPMSolverPP(2), x, TIMES).value
        assert solution.ys.dtype == jnp.float32
        np.testing.assert_allclose(solution.ys[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"denoiser": 1}, TypeError, "`denoiser`"),
        ({"sampler": "ddim"}, TypeError, "`sampler`"),
        ({"sampler": D.DDIM()}, ValueError, "`grid` is missing"),
        ({"sampler": D.DDIM().plan(TIMES, SCHEDULE), "grid": TIMES}, ValueError, "`grid` must be None"),
        ({"sampler": D.DDIM(1.0), "grid": TIMES}, ValueError, "deterministic"),
        ({"sampler": D.DDIM(), "grid": [1.0, 0.5, 0.0]}, ValueError, "signal and noise"),
        ({"grid": [1.0, 0.5, 0.0]}, ValueError, "signal and noise"),
        ({"eta": 1.0}, ValueError, "belong together"),
        ({"eta": -1.0}, ValueError, "negative"),
        ({"eta": 1.0, "brownian": 1, "sampler": D.DDIM(), "grid": TIMES}, ValueError, "leave it out"),
    ],
)
def test_bad_input(arguments, error, words):
    with pytest.raises(error, match=words):
        D.as_diffrax(**{"denoiser": mixture(), **arguments})


def test_networks_that_fail_raise():
    denoiser = D.Denoiser(lambda x, t: jnp.where(t < 0.5, jnp.nan, x), "x0", SCHEDULE)
    with pytest.raises(Exception, match="NaN or infinity"):
        jax.block_until_ready(solve(D.as_diffrax(denoiser, D.DDIM(), TIMES), STARTS).ys)


def test_without_diffrax(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **named):
        if name == "diffrax":
            raise ModuleNotFoundError("No module named 'diffrax'", name="diffrax")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match="pip install diffrax"):
        D.as_diffrax(mixture())


class Bent(eqx.Module):
    gain: jax.Array

    def __call__(self, x, t):
        return jnp.tanh(self.gain * x) * D.VPLinear().alpha(t)


@pytest.mark.compiles("an adjoint equation is solved too")
@pytest.mark.parametrize("sampler", [None, pytest.param(D.UniPC(3), marks=pytest.mark.full)])
def test_backsolve(sampler):
    """The adjoint equation, by a solver of its own, has the gradient of the recorded steps."""
    control = diffrax.PIDController(rtol=1e-8, atol=1e-8)

    def loss(gain, adjoint):
        problem = D.as_diffrax(D.Denoiser(Bent(gain), "x0", D.VPLinear()), sampler, D.log_snr_grid(32))
        problem = {"solver": diffrax.Tsit5(), "dt0": 0.05, "stepsize_controller": control} | problem
        return jnp.sum(diffrax.diffeqsolve(**problem, y0=jnp.ones((1, 2)), adjoint=adjoint).ys ** 2)

    adjoint = diffrax.BacksolveAdjoint(solver=diffrax.Tsit5(), stepsize_controller=control, max_steps=4096)
    recorded = jax.grad(loss)(jnp.asarray(0.7), diffrax.RecursiveCheckpointAdjoint())
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(0.7), adjoint), recorded, rtol=1e-3)
    if sampler is not None:
        with pytest.raises(ValueError, match="give that a solver of its own"):
            jax.grad(loss)(jnp.asarray(0.7), diffrax.BacksolveAdjoint())

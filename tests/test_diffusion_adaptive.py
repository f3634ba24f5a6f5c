"""Samplers that choose their steps: against the exact flow, against `sample`, and when they fail."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import nsolve as ns
from nsolve.diffusion.samplers._multistep import multistep

from . import diffusion_reference as reference

D = ns.diffusion
BATCH = 4


class Mixture(eqx.Module):
    """The reference mixture's exact clean state, told t by a schedule."""

    schedule: Any
    prediction: str = "x0"

    def __call__(self, x, t):
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        variance = alpha**2 * reference.DEVIATIONS**2 + sigma**2
        offset = x[:, None, :] - alpha * reference.MEANS[None]
        squares = jnp.sum(offset**2, axis=2)
        exponent = jnp.log(reference.WEIGHTS / variance)[None] - 0.5 * squares / variance[None]
        shrink = (alpha * reference.DEVIATIONS**2 / variance)[None, :, None]
        x0 = jnp.einsum("bk,bkd->bd", jax.nn.softmax(exponent), reference.MEANS[None] + shrink * offset)
        return (x0 if self.prediction == "x0" else (x - alpha * x0) / sigma).astype(x.dtype)


def mixture(schedule, prediction="x0"):
    return D.Denoiser(Mixture(schedule, prediction), prediction, schedule)


VP = D.VPLinear(jnp.asarray(0.1), jnp.asarray(20.0))
LAM = -2.5, 2.0
TIMES = tuple(float(t) for t in D.VPLinear().t_of_lam(np.array(LAM)))


def problem():
    exact = reference.exact_flow(D.VPLinear(), *LAM, BATCH)
    return jnp.asarray(exact(LAM[0])), exact(LAM[1])


def solve(sampler, x, denoiser=None, times=TIMES, tol=1e-5, **options):
    denoiser = mixture(VP) if denoiser is None else denoiser
    return D.sample_adaptive(denoiser, sampler, x, *times, rtol=tol, atol=tol, **options)


def work_and_error(sampler, tol):
    x, exact = problem()
    found = solve(sampler, x, tol=tol, shared_steps=True)
    error = float(np.sqrt(np.mean((np.asarray(found.value) - exact) ** 2)))
    return int(found.stats["num_evaluations"]), error


SAMPLERS = [
    D.AdaptiveMultistep(3),
    D.AdaptiveMultistep(4, "eps"),
    D.AdaptiveDPMSolver(2, "x0"),
    D.AdaptiveDPMSolver(3),
]
TOLERANCES = np.array([1e-3, 1e-5, 1e-7])


@pytest.fixture(scope="module")
def measured():
    return {
        sampler: [work_and_error(sampler, tol) for tol in TOLERANCES[: 3 if sampler.order > 2 else 2]]
        for sampler in SAMPLERS
    }


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_the_error_follows_the_tolerance(measured, sampler):
    errors = np.array([error for _, error in measured[sampler]])
    tolerances = TOLERANCES[: len(errors)]
    assert np.all(errors < 3 * tolerances)
    assert np.all(errors > 0.01 * tolerances)


def test_a_free_estimate_saves_evaluations(measured):
    multistep, single = measured[SAMPLERS[1]], measured[SAMPLERS[3]]
    for work, error in single:
        # Work of the multistep method at the same error, between its two nearest runs.
        logs = np.log([[e, w] for w, e in reversed(multistep)])
        same = np.exp(np.interp(np.log(error), *logs.T))
        assert same < (0.8 if error > 1e-4 else 0.5) * work


def found_plan(sampler, t, schedule):
    """The steps that were found, as a table; a further step of no length makes the last correction."""
    orders = np.minimum(np.arange(1, len(t) + 1), sampler.order)
    further = jnp.append(t, t[-1] * (1 - 1e-13))
    return multistep(D.Points.of(schedule, further), sampler.form, [*orders[:-1], 1], [*orders[:-1], 0])


def target(value):
    return jnp.sum(value * jnp.arange(1.0, 1.0 + value.size).reshape(value.shape))


@pytest.mark.compiles("three gradients through two loops, and a derivative of one")
def test_it_is_sample_on_the_grid_found_and_so_are_its_derivatives():
    sampler, x = D.AdaptiveMultistep(3), problem()[0][:2]

    def adaptive(arguments, derivatives):
        x, beta_max, times = arguments
        denoiser = mixture(D.VPLinear(0.1, beta_max))
        options = {"max_steps": 100, "derivatives": derivatives, "throw": False}
        found = solve(sampler, x, denoiser, times, 1e-4, **options)
        return target(found.value[early]), found

    # Of two samples the one that arrives first, so that the other goes on without it.
    early = int(np.argmin(solve(sampler, x, tol=1e-4, max_steps=100).stats["num_steps"]))
    arguments = x, jnp.asarray(20.0), tuple(map(jnp.asarray, TIMES))
    reverse = jax.jit(jax.value_and_grad(lambda a: adaptive(a, "reverse"), has_aux=True))
    (value, found), gradient = reverse(arguments)
    num_steps = found.stats["num_steps"][early]
    assert found.stats["num_steps"][1 - early] > num_steps > 10
    inner = found.t[early, 1:num_steps]
    assert jnp.all(jnp.isnan(found.t[early, num_steps + 1 :]))

    @jax.jit
    @jax.value_and_grad
    def fixed(arguments):
        x, beta_max, (first, last) = arguments
        schedule = D.VPLinear(0.1, beta_max)
        plan = found_plan(sampler, jnp.concatenate([first[None], inner, last[None]]), schedule)
        return target(D.sample(mixture(schedule), plan, x, throw=False).value[early])

    same, expected = fixed(arguments)
    np.testing.assert_allclose(value, same, rtol=1e-11)
    for ours, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-8, atol=1e-10)
    forward = jax.jit(lambda a, b: jax.jvp(lambda a: adaptive(a, "forward")[0], (a,), (b,)))
    _, slope = forward(arguments, gradient)
    squared = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(slope, squared, rtol=1e-10)


def test_a_sample_does_not_know_its_batch():
    x, _ = problem()
    sampler = D.AdaptiveMultistep(3)
    found, alone = (solve(sampler, x, tol=1e-4) for x in (x, x[-1:]))
    assert len(set(found.stats["num_steps"].tolist())) > 1
    assert found.stats["num_steps"][-1] == alone.stats["num_steps"][0]
    np.testing.assert_allclose(found.value[-1], alone.value[0], rtol=1e-12)
    shared = solve(sampler, x, tol=1e-4, shared_steps=True)
    steps = shared.stats["num_steps"]
    assert steps.shape == () and steps >= found.stats["num_steps"].max() - 1
    np.testing.assert_allclose(shared.value, found.value, atol=1e-3)


def published_adaptive_solver(x, lam_end, lam, tol, order):
    """DPM-Solver-12 and -23 in the form eps (arXiv:2206.00927, appendix C), one sample, with what is left
    divided evenly into the last two steps."""
    schedule = D.VPLinear()

    def at(lam):
        t = schedule.t_of_lam(lam)
        return float(schedule.alpha(t)), float(schedule.sigma(t))

    def eps(x, lam):
        alpha, sigma = at(lam)
        return (x - alpha * reference.clean(x[None], alpha, sigma)[0]) / sigma

    def first(x, lam, h, e):
        return at(lam + h)[0] / at(lam)[0] * x - at(lam + h)[1] * np.expm1(h) * e

    def second(x, lam, h, e, r):
        other = eps(first(x, lam, r * h, e), lam + r * h)
        return first(x, lam, h, e) - at(lam + h)[1] * np.expm1(h) / (2 * r) * (other - e), other

    def third(x, lam, h, e, other):
        sigma = at(lam + 2 * h / 3)[1]
        phi = np.expm1(2 * h / 3) / (2 * h / 3) - 1
        middle = first(x, lam, 2 * h / 3, e) - 2 * sigma * phi * (other - e)
        change = eps(middle, lam + 2 * h / 3) - e
        return first(x, lam, h, e) - 1.5 * at(lam + h)[1] * (np.expm1(h) / h - 1) * change

    h, previous, evaluations = 0.05, x, 0
    while lam < lam_end:
        left = lam_end - lam
        step = left if h >= left else min(h, left / 2)
        e = eps(x, lam)
        if order == 2:
            low = first(x, lam, step, e)
            high, _ = second(x, lam, step, e, 1 / 2)
        else:
            low, other = second(x, lam, step, e, 1 / 3)
            high = third(x, lam, step, e, other)
        evaluations += order
        scale = np.maximum(tol, tol * np.maximum(np.abs(low), np.abs(previous)))
        error = np.sqrt(np.mean(((high - low) / scale) ** 2))
        if error <= 1:
            x, previous, lam = high, low, lam_end if step == left else lam + step
        h = 0.9 * step * error ** (-1 / order)
    return x, evaluations


@pytest.mark.parametrize("order", [2, 3])
def test_the_embedded_pairs_are_the_published_ones(order):
    x, _ = problem()
    found = solve(D.AdaptiveDPMSolver(order), x, tol=1e-3)
    for i in range(BATCH):
        expected, evaluations = published_adaptive_solver(np.asarray(x[i]), LAM[1], LAM[0], 1e-3, order)
        np.testing.assert_allclose(found.value[i], expected, rtol=1e-9, atol=1e-11)
        assert found.stats["num_evaluations"][i] == evaluations
        assert order * (found.stats["num_steps"][i] + found.stats["num_rejected"][i]) == evaluations


@pytest.mark.parametrize(
    "schedule, times, prediction",
    [(D.EDM(), (20.0, 0.01), "eps"), (D.Flow(), (0.999, None), "x0")],
)
def test_other_schedules(schedule, times, prediction):
    lam = [float(schedule.lam(np.asarray(t))) for t in (times[0], times[1] or schedule.t_min)]
    exact = reference.exact_flow(schedule, *lam, BATCH)
    denoiser = mixture(schedule, prediction)
    found = solve(
        D.AdaptiveMultistep(4), jnp.asarray(exact(lam[0])), denoiser, times, 1e-5, shared_steps=True
    )
    np.testing.assert_allclose(found.value, exact(lam[1]), atol=1e-4)
    assert found.t[0] == times[0] and found.t[found.stats["num_steps"]] == (times[1] or schedule.t_min)


def spread(t):
    """Standard deviation at t of normal data with variance 1/4."""
    schedule = D.VPLinear()
    return jnp.sqrt(0.25 * schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2)


@pytest.mark.parametrize("dtype, tol", [(jnp.bfloat16, 1e-2), (jnp.float32, 1e-5)])
def test_precision_and_trees(dtype, tol):
    def model(state, t):
        factor = 0.25 * D.VPLinear().alpha(t) / spread(t) ** 2
        return {
            "a": (factor * state["a"].astype(factor.dtype)).astype(dtype),
            "b": jnp.zeros_like(state["b"]),
        }

    state = {"a": jnp.ones((BATCH, 2), dtype), "b": jnp.ones((BATCH, 3), dtype)}
    denoiser = D.Denoiser(model, "x0", D.VPLinear())
    with jax.enable_x64(False):
        found = solve(D.AdaptiveMultistep(3), state, denoiser, tol=tol, derivatives="forward")
        lost = solve(
            D.AdaptiveMultistep(3), state, denoiser, tol=1e-3 * tol, derivatives="forward", throw=False
        )
    assert jax.tree.map(lambda leaf: leaf.dtype, found.value) == {"a": dtype, "b": dtype}
    ratio = {"a": spread(TIMES[1]) / spread(TIMES[0]), "b": VP.sigma(TIMES[1]) / VP.sigma(TIMES[0])}
    for name, expected in ratio.items():
        np.testing.assert_allclose(found.value[name].astype(float), expected, atol=2 * tol)
    # Less than the rounding of a state cannot be promised.
    assert np.all(lost.result == lx.RESULTS.stagnation)


class Jump(eqx.Module):
    """A clean state that jumps where positive samples pass t = 0.3."""

    height: jax.Array

    def __call__(self, x, t):
        return jnp.where((t < 0.3) & (x > 0), self.height, 0.0 * x)


@pytest.mark.parametrize(
    "height, max_steps, reason, words",
    [
        (jnp.nan, 300, lx.RESULTS.breakdown, "the network returned NaN"),
        (1e30, 300, lx.RESULTS.stagnation, "the steps shrank to nothing"),
        (1e30, 20, lx.RESULTS.max_steps_reached, "all of `max_steps` were taken without reaching"),
    ],
)
def test_failures_are_reported_sample_by_sample(height, max_steps, reason, words):
    x = jnp.array([-1.0, -2.0, 1.0, -1.5])[:, None] * jnp.ones((4, 2))
    sampler, denoiser = D.AdaptiveMultistep(3), D.Denoiser(Jump(jnp.asarray(height)), "x0", VP)
    found = solve(sampler, x, denoiser, max_steps=max_steps, throw=False)
    assert (found.result == reason).tolist() == [False, False, True, False]
    assert (found.result == lx.RESULTS.successful).tolist() == [True, True, False, True]
    with pytest.raises(RuntimeError, match=f"sample_adaptive: {words}"):
        solve(sampler, x, denoiser, max_steps=max_steps)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sampler": D.UniPC()}, "`sampler` must choose its own steps"),
        ({"x_T": jnp.array(1.0)}, "`x_T` must have the batch"),
        ({"x_T": {"a": jnp.ones(2), "b": jnp.ones(3)}}, "`x_T` must have the batch"),
        ({"max_steps": 0}, "`max_steps` must be a positive integer, got 0"),
        ({"derivatives": "both"}, "`derivatives` must be one of"),
        ({"t_start": 0.1, "t_end": 0.2}, "`t_start` and `t_end` must lie"),
        ({"t_end": 0.0}, "`t_start` and `t_end` must lie"),
    ],
)
def test_bad_input(change, message):
    arguments = {"denoiser": mixture(VP), "sampler": D.AdaptiveMultistep(), "x_T": jnp.ones((2, 2))}
    with pytest.raises((TypeError, ValueError), match=message):
        D.sample_adaptive(**(arguments | change))


@pytest.mark.parametrize(
    "make",
    [lambda: D.AdaptiveMultistep(7), lambda: D.AdaptiveDPMSolver(1), lambda: D.AdaptiveMultistep(form="v")],
)
def test_bad_samplers(make):
    with pytest.raises(ValueError, match="must be one of"):
        make()

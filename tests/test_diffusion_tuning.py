"""Plans that know their model: fitted, tuned, searched, saved."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nsolve import diffusion as D
from tests import diffusion_reference as reference
from tests.test_diffusion_laws import clean

VP = D.VPLinear()
DENOISER = D.Denoiser(lambda x, t: clean(x, VP.alpha(t), VP.sigma(t)), "x0", VP)
GRID = D.log_snr_grid(6)
TRAIN, TEST = (jax.random.normal(jax.random.key(k), (64, 2)) for k in (0, 1))


def error(plan, x) -> float:
    """Against the flow itself, from a fine grid."""
    fine = D.UniPC(3).plan(D.log_snr_grid(400), VP)
    difference = np.asarray(D.sample(DENOISER, plan, x).value) - reference.run_plan(fine, np.asarray(x))
    return float(np.sqrt(np.mean(difference**2)))


DEFAULT = error(D.UniPC(3).plan(GRID, VP), TEST)


def test_least_squares():
    """One step: the weight is that of least squares against the flow; all steps: half the error."""
    plan = D.UniPC(3).plan(GRID, VP)
    path = D.reference_path(DENOISER, plan, TRAIN)
    fitted = D.fit_coefficients(DENOISER, plan, TRAIN, path, ridge=1e-14)
    x = np.asarray(TRAIN)
    x0 = reference.clean(x, float(plan.alpha[0]), float(plan.sigma[0]))
    miss = np.asarray(path[1]) - plan.weights[1, 0] * x
    expected = np.sum(miss * x0) / np.sum(x0 * x0)
    np.testing.assert_allclose(fitted.weights[1, 1], expected, rtol=1e-8)
    np.testing.assert_allclose(fitted.weights[:, 0], plan.weights[:, 0], rtol=1e-14)
    assert error(fitted, TEST) < 0.5 * DEFAULT


def test_the_reference_path_is_the_flow():
    plan = D.DDIM().plan(np.asarray(GRID(VP)), VP)
    lams = VP.lam(plan.t)
    exact = reference.exact_flow(VP, lams[0], lams[-1])
    start = jnp.asarray(exact(lams[0]))
    path = D.reference_path(DENOISER, plan, start, refine=40)
    for state, lam in zip(path, lams, strict=True):
        np.testing.assert_allclose(state, exact(lam), atol=2e-5)


def test_gradients_tune_grid_and_weights():
    errors = {}
    for move in (("weights", "model_time"), ("grid", "weights")):
        plan = D.tune(DENOISER, D.UniPC(2), GRID, TRAIN, num_steps=60, move=move, progress=False,
                      optimiser=optax.adam(2e-2))  # fmt: skip
        errors[move] = error(plan, TEST)
        assert (np.abs(plan.t - GRID(VP)).max() > 1e-3) == ("grid" in move)
        assert plan.t[0] == VP.t_max and plan.t[-1] == VP.t_min
    assert errors["grid", "weights"] < 0.5 * DEFAULT
    assert max(errors.values()) < DEFAULT


def test_a_plan_of_equal_choices_is_the_sampler():
    for sampler, choice in (
        (D.UniPC(3, lower_order_final=False), D.Choice("x0", 3, True)),
        (D.UniPC(3, prediction="eps", lower_order_final=False), D.Choice("eps", 3, True)),
        (D.DPMSolver(2, variant="heun", lower_order_final=False), D.Choice("eps", 2)),
        (D.DDIM(), D.Choice("eps", 1)),
    ):
        mixed = D.plan_of_choices([choice] * 6, GRID, VP)
        x = reference.starts()
        expected = reference.run_plan(sampler.plan(GRID, VP), x)
        np.testing.assert_allclose(reference.run_plan(mixed, x), expected, rtol=1e-10, atol=1e-12)


def test_mixed_forms_step_by_step():
    """A mixture against two states carried along: what each step says, with all outputs remembered."""
    choices = [D.Choice("eps", 1), D.Choice("x0", 2, True), D.Choice("eps", 3), D.Choice("x0", 3, True)]
    choices += [D.Choice("eps", 2, True), D.Choice("x0", 2)]
    times = GRID(VP)
    lam, alpha, sigma = VP.lam(times), VP.alpha(times), VP.sigma(times)
    x, start, points, outputs = reference.starts(), reference.starts(), [], []

    def integral(form, i, nodes, samples):
        """The step's integral of the interpolated output, by quadrature."""
        at, weight = np.polynomial.legendre.leggauss(30)
        half = 0.5 * (lam[i + 1] - lam[i])
        s = lam[i] + half * (at + 1)
        total = 0.0
        for j, sample in zip(nodes, samples, strict=True):
            basis = np.prod(
                [(s - lam[k]) / (lam[j] - lam[k]) for k in nodes if k != j], axis=0
            ) * np.ones_like(s)
            kernel = sigma[i + 1] * np.exp(s) if form == "x0" else -alpha[i + 1] * np.exp(-s)
            total = total + np.sum(half * weight * kernel * basis) * sample
        return total

    for i, choice in enumerate(choices):
        points.append(x)
        outputs.append(reference.clean(x, alpha[i], sigma[i]))
        if i and choices[i - 1].corrector:
            before = choices[i - 1]
            nodes = list(range(i, i - 1 - min(before.order, i), -1))
            x = made(before.form, i - 1, nodes, start, outputs, points, alpha, sigma, integral)
        start = x
        nodes = list(range(i, i - min(choice.order, i + 1), -1))
        x = made(choice.form, i, nodes, start, outputs, points, alpha, sigma, integral)
    plan = D.plan_of_choices(choices, GRID, VP)
    np.testing.assert_allclose(reference.run_plan(plan, reference.starts()), x, rtol=1e-9)


def made(form, i, nodes, start, outputs, points, alpha, sigma, integral):
    if form == "x0":
        samples = [outputs[j] for j in nodes]
        return sigma[i + 1] / sigma[i] * start + integral(form, i, nodes, samples)
    samples = [(points[j] - alpha[j] * outputs[j]) / sigma[j] for j in nodes]
    return alpha[i + 1] / alpha[i] * start + integral(form, i, nodes, samples)


def test_search():
    scores = []

    def score(plan):
        scores.append(error(plan, TRAIN))
        return scores[-1]

    options = dict(population=14, generations=5, progress=False)
    found = D.search_plan(score, GRID, VP, **options)
    assert found.score == min(scores) and len(scores) <= 14 * 6
    assert np.all(np.diff(found.scores) <= 0) and found.scores[0] == min(scores[:14])
    assert error(found.plan, TEST) < 0.5 * DEFAULT
    again = D.plan_of_choices(found.choices, found.times, VP)
    np.testing.assert_array_equal(again.weights, found.plan.weights)
    repeated = D.search_plan(score, GRID, VP, **options)
    assert repeated.score == found.score


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_save_and_load(tmp_path, suffix):
    for plan in (
        D.UniPC(3).plan(GRID, VP),
        D.DPMSolverPP(2, sde=True).plan(np.array([80.0, 1.0, 0.0]), D.EDM()),
    ):
        path = tmp_path / f"plan.{suffix}"
        plan.save(path)
        loaded = D.Plan.load(path)
        assert jax.tree.structure(loaded) == jax.tree.structure(plan)
        for got, saved in zip(jax.tree.leaves(loaded), jax.tree.leaves(plan), strict=True):
            np.testing.assert_array_equal(got, saved)
    if suffix == "json":
        json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_bad_files(tmp_path):
    path = tmp_path / "plan.json"
    plan = D.DDIM().plan(GRID, VP)
    plan.save(path)
    content = json.loads(path.read_text())
    for change, message in (
        ({"format": "other"}, "does not hold a plan"),
        ({"wieghts": [1]}, "what no plan has"),
        ({"registers": [7] * 6}, "`registers` must lie"),
        ({"registers": [0.5] * 6}, "`registers` must be integers"),
        ({"stochastic": "no"}, "`stochastic` must be true or false"),
        ({"t": [1.0]}, "`t` must have shape"),
    ):
        path.write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=message):
            D.Plan.load(path)
    del content["weights"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="lacks"):
        D.Plan.load(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        D.Plan.load(path)
    with pytest.raises(ValueError, match=".json or .npz"):
        plan.save(tmp_path / "plan.txt")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: D.fit_coefficients(DENOISER, D.DDIM(1.0).plan(GRID, VP), TRAIN), "deterministic"),
        (lambda: D.fit_coefficients(DENOISER, D.DDIM().plan(GRID, VP), TRAIN, ridge=0.0), "`ridge`"),
        (lambda: D.reference_path(DENOISER, D.EDMHeun().plan(GRID, VP), TRAIN), "fall strictly"),
        (lambda: D.tune(DENOISER, D.DDIM(), GRID, TRAIN, move=("times",)), "`move`"),
        (lambda: D.tune(DENOISER, D.DDIM(1.0), GRID, TRAIN), "deterministic"),
        (lambda: D.tune(DENOISER, D.DDIM(), GRID, TRAIN, num_steps=0), "`num_steps`"),
        (lambda: D.plan_of_choices([D.Choice()], GRID, VP), "one choice for each of 6"),
        (lambda: D.search_plan(lambda plan: 0.0, GRID, VP, population=0), "`population`"),
        (lambda: D.search_plan(lambda plan: 0.0, np.array([1.0, 0.5, 0.1]), D.Flow()), "move_times=False"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()

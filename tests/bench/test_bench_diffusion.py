"""The suite diffusion: its problems against calculus, its measurements against known answers."""

import importlib.util
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bench.diffusion as diffusion_bench
from bench import plots, show, specs, suite, table
from bench.cells import Cell, Settings, run_cell
from bench.diffusion import beside, digits, errors, moments, order, own, problems, report
from bench.page import write_page
from nsolve import diffusion
from nsolve.diffusion.schedules import EDM, Flow, VPCosine, VPLinear
from nsolve.gallery import mixtures
from nsolve.gallery.mixtures import Gaussian, Mixture

# The digits come with scikit-learn, a peer.
HAS_DIGITS = importlib.util.find_spec("sklearn") is not None
needs_digits = pytest.mark.skipif(not HAS_DIGITS, reason="scikit-learn is not installed")

NAMES = tuple(problems.MIXTURES)
SMALL = {"clusters": "clusters[dimension=5,modes=3]", "gaussian": "gaussian[dimension=4]"}


def states(problem, count=6, seed=1):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal((count, problem.dimension)))


@pytest.mark.parametrize("name", NAMES)
def test_score_is_the_gradient_of_the_log_density(name):
    problem = problems.build(SMALL.get(name, name))
    alpha, sigma = 0.8, 0.6

    @jax.jit
    def everything(x):
        gradient = jax.grad(lambda x: jnp.sum(problem.log_density(x, alpha, sigma)))(x)
        return gradient, *(f(x, alpha, sigma) for f in (problem.score, problem.x0, problem.eps))

    x = states(problem)
    gradient, score, x0, eps = everything(x)
    assert np.allclose(score, gradient, rtol=1e-10, atol=1e-12)
    # Tweedie's formula, and the noise that is left.
    assert np.allclose(x0, (x + sigma**2 * gradient) / alpha, rtol=1e-9, atol=1e-10)
    assert np.allclose(x, alpha * x0 + sigma * eps, atol=1e-12)


def test_log_density_of_a_mixture_against_a_dense_one():
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(0)
    means, variances = rng.standard_normal((3, 2)), rng.uniform(0.1, 2, (3, 2))
    basis, _ = np.linalg.qr(rng.standard_normal((2, 2)))
    problem = Mixture(np.array([0.2, 0.5, 0.3]), means, variances, basis)
    x, alpha, sigma = np.asarray(states(problem)), 0.5, 0.7
    expected = sum(
        w
        * multivariate_normal(alpha * m, alpha**2 * basis @ np.diag(v) @ basis.T + sigma**2 * np.eye(2)).pdf(
            x
        )
        for w, m, v in zip(problem.weights, means, variances, strict=True)
    )
    assert np.allclose(eqx.filter_jit(problem.log_density)(x, alpha, sigma), np.log(expected), rtol=1e-12)
    drawn = problem.draw(0, 20000)
    assert np.allclose(drawn.mean(axis=0), problem.weights @ means, atol=0.05)


@pytest.mark.parametrize("schedule", [VPLinear(), EDM(), Flow(shift=3.0)], ids=lambda s: type(s).__name__)
def test_the_reference_flow_of_a_gaussian(schedule):
    problem = problems.build("gaussian[dimension=4]")
    assert isinstance(problem, Gaussian)
    x_T = problems.starts(problem, schedule, 3)
    end, start = schedule.t_min, schedule.t_max
    ends = [
        tuple(np.exp(f(np.asarray(t))) for f in (schedule.log_alpha, schedule.log_sigma))
        for t in (start, end)
    ]
    found = problems.reference_flow(problem, schedule, x_T, start, end)
    assert np.allclose(found, problem.flow(jnp.asarray(x_T), *ends), rtol=1e-10, atol=1e-11)


def test_the_reference_flow_of_a_mixture_carries_its_quantiles():
    # On a line the flow is monotone, so it maps quantiles of one marginal to those of the other.
    problem, schedule = problems.build("mixture1d"), VPLinear()

    def quantile_of(x, t):
        alpha, sigma = schedule.alpha(np.asarray(t)), schedule.sigma(np.asarray(t))
        from scipy.stats import norm

        spread = np.sqrt(alpha**2 * problem.variances[:, 0] + sigma**2)
        return norm.cdf((x - alpha * problem.means[:, 0]) / spread) @ problem.weights

    x_T = np.linspace(-2, 2, 9)[:, None]
    x = problems.reference_flow(problem, schedule, x_T, 1.0, 1e-3)
    assert np.allclose(quantile_of(x, 1e-3), quantile_of(x_T, 1.0), atol=1e-11)


def test_a_mixture_of_one_is_a_gaussian():
    gaussian = problems.build("gaussian[dimension=4]")
    mixture = Mixture(gaussian.weights, gaussian.means, gaussian.variances, gaussian.basis)
    twins = Mixture(
        np.array([0.3, 0.7]),
        np.repeat(gaussian.means, 2, 0),
        np.repeat(gaussian.variances, 2, 0),
        gaussian.basis,
    )
    x = states(gaussian)
    expected = eqx.filter_jit(gaussian.x0)(x, 0.9, 0.1)
    for other in (mixture, twins):
        assert np.allclose(eqx.filter_jit(other.x0)(x, 0.9, 0.1), expected, rtol=1e-12)


@pytest.mark.parametrize("schedule", [VPCosine(), EDM(), Flow(shift=3.0)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "score", "flow"])
def test_every_prediction_says_the_same(schedule, prediction):
    problem = problems.build("ring[modes=3]")
    denoiser = mixtures.denoiser(problem, schedule, prediction)
    x, t = states(problem), jnp.asarray(0.3)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    assert np.allclose(
        eqx.filter_jit(denoiser.x0)(x, t), eqx.filter_jit(problem.x0)(x, alpha, sigma), atol=1e-12
    )


def test_single_precision_stays_single():
    problem = problems.build("ring")
    x = states(problem).astype(jnp.float32)
    model = eqx.filter_jit(mixtures.denoiser(problem, VPLinear(), "v").model)
    assert model(x, jnp.float32(0.5)).dtype == jnp.float32
    assert np.allclose(model(x, jnp.float32(0.5)), model(x.astype(jnp.float64), jnp.asarray(0.5)), atol=1e-5)


def test_what_is_no_problem_is_refused():
    with pytest.raises(ValueError, match="ring"):
        problems.build("rings")
    with pytest.raises(ValueError, match="mode"):
        problems.build("ring[mode=3]")
    with pytest.raises(ValueError, match="weights"):
        Mixture(np.ones(2), np.zeros((3, 1)), np.ones((3, 1)))


# --- cells ---


def cell(problem, solver, size, dtype="float64"):
    return Cell(problem, size, specs.parse(solver), 1e-8, dtype, 0)


def run(*args, **keywords):
    return run_cell(cell(*args, **keywords), Settings(repeats=1), "test", "config")


def forget():
    """What was computed with another number of samples."""
    for remembered in (errors.exact, order._path, digits._reference):
        remembered.cache_clear()


@pytest.fixture(scope="module")
def records():
    """A small record of every question that the suite asks."""
    images = "images[batch=2,network=convolutions,side=8]"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(errors, "SAMPLES", 8)
        patch.setattr(order, "SAMPLES", 4)
        patch.setattr(order, "DOUBLINGS", 2)
        patch.setattr(digits, "SAMPLES", 12)
        patch.setattr(digits, "REFERENCE_STEPS", 9)
        forget()
        rows = [
            run("mixture1d", "unipc[order=2]@order", 24),
            run("gaussian[dimension=3]", "ddpm@order", 40),
            *([run("trained_digits", "ddim", 8, "float32")] if HAS_DIGITS else []),
            run("images[batch=2,side=8]", "dpm_solver_pp[order=2]", 6, "float32"),
        ]
        for size in (4, 8):
            rows += [
                run("mixture1d", solver, size) for solver in ("ddim", "dpm_solver_pp[mode=single,order=2]")
            ]
            rows += [run("gaussian[dimension=3]", solver, size) for solver in ("ddim", "ddpm")]
            rows += [
                run(images, f"ddim[checkpoints={kept}]@gradient", 8 * size, "float32")
                for kept in ("none", "step")
            ]
        yield rows
        forget()


def test_every_question_has_its_answer(records):
    kinds = {"order", "error", "overhead", "gradient"} | ({"digits"} if HAS_DIGITS else set())
    assert {row["kind"] for row in records} == kinds
    for row in records:
        assert row["result"] == "successful" and table.succeeded(row), row
        assert row["kind"] == report.kind(row) and row["rtol"] is None


def test_orders_are_found(records):
    found = {row["solver"]: row for row in records if row["kind"] == "order"}
    for name, stated in (("unipc[order=2]@order", 3), ("ddpm@order", 1)):
        assert found[name]["stated_order"] == stated
        assert found[name]["order"] == pytest.approx(stated, abs=0.15)
        assert len(found[name]["errors"]) == len(found[name]["steps"]) == 3


def test_a_sampler_below_its_order_is_a_failure(monkeypatch):
    monkeypatch.setattr(order, "DOUBLINGS", 2)
    monkeypatch.setattr(own, "stated_order", lambda made: 2)
    row = run("gaussian[dimension=2]", "ddim@order", 40)
    assert row["result"] == "order_missed" and "below its order" in table.reason(row)


def test_the_slope_is_that_of_a_power():
    counts = [10, 20, 40, 80, 160]
    assert order.slope(counts, [3.0 * n**-2.5 for n in counts]) == pytest.approx(2.5)
    assert order.slope(counts, [1e-3, 1e-15, 1e-15, 0.0, 0.0]) != order.slope(counts, [1.0] * 5)  # rounding


@pytest.mark.parametrize(
    "made", [diffusion.DPMSolverPP(3), diffusion.UniPC(2)], ids=lambda s: type(s).__name__
)
def test_exact_starts_are_the_first_points(made):
    problem = problems.build("mixture1d")
    times = np.linspace(0.9, 0.1, 9)
    known = made.plan(times, order.SCHEDULE).num_registers - 1
    path = np.random.default_rng(0).standard_normal((known + 1, 4, 1))
    plan = order.with_exact_start(made, times, path)
    network = mixtures.denoiser(problem, order.SCHEDULE)
    found = diffusion.sample(network, plan, jnp.zeros((4, 1)), trajectory=True)
    x, way = found.value, found.trajectory
    assert np.allclose(way.x[: known + 1], path, rtol=0, atol=1e-15)
    # From there on it is the method itself, which is given the outputs at the first points.
    again = order.with_exact_start(made, times, np.asarray(way.x[: known + 1]))
    assert np.array_equal(diffusion.sample(network, again, jnp.ones((4, 1))).value, x)


@pytest.mark.parametrize(
    "made", [diffusion.DPMSolverPP(2), diffusion.DPMSolverPP(2, sde=True)], ids=["ode", "sde"]
)
def test_moments_are_those_of_samples(made):
    problem, schedule = problems.build("gaussian[dimension=2,low=0.1,high=2.0]"), VPLinear()
    plan = made.plan(diffusion.log_snr_grid(5), schedule)
    mean, variance = moments.after(plan, problem)
    count = 40_000
    rng = np.random.default_rng(0)
    x_T = plan.alpha[0] * problem.draw(0, count) + plan.sigma[0] * rng.standard_normal((count, 2))
    x = diffusion.sample(
        mixtures.denoiser(problem, schedule), plan, jnp.asarray(x_T), key=jax.random.key(0)
    ).value
    x = np.asarray(x) @ problem.basis
    assert np.allclose(x.mean(axis=0), mean, atol=5 * np.sqrt(variance.max() / count))
    assert np.allclose(x.var(axis=0), variance, rtol=5 * np.sqrt(2 / count))
    # The distance of two Gaussians with the same axes.
    alpha, sigma = plan.alpha[-1], plan.sigma[-1]
    goal = alpha * problem.means[0] @ problem.basis, alpha**2 * problem.variances[0] + sigma**2
    distance = np.hypot(np.linalg.norm(mean - goal[0]), np.linalg.norm(np.sqrt(variance) - np.sqrt(goal[1])))
    assert moments.wasserstein(plan, problem) == pytest.approx(distance, rel=1e-12)


def test_evaluations_are_counted_not_steps(records):
    found = [row for row in records if row["kind"] == "error" and row["problem"] == "mixture1d"]
    by_column = {solver: line for solver, line in report.by_solver(found).items()}
    assert [row["num_evaluations"] for row in by_column["dpm_solver_pp[mode=single,order=2]"]] == [4, 8]
    assert by_column["ddim"][0]["true_residual"] > by_column["ddim"][1]["true_residual"] > 1e-3
    assert run("mixture1d", "dpm_solver_pp[mode=single,order=2]", 5)["num_evaluations"] == 4


def test_noise_is_measured_where_its_distribution_is_known():
    for mode in ("", "@order"):
        assert "measure it on gaussian" in run("mixture1d", f"ddpm{mode}", 16)["result"]


def test_samplers_of_an_order_share_programs(records):
    row = next(row for row in records if row["kind"] == "overhead")
    assert {"dpm_solver[order=2]", "deis[order=2]"} <= set(row["of_order"]) - set(row["compiled"])
    assert "unipc[order=2]" in row["compiled"]  # its corrector keeps one output more
    assert row["solve_s"]["median"] > 0 and row["compile_s"] > 0


def test_memory_of_reverse_mode_grows_with_what_is_kept(records):
    found = report.by_solver([row for row in records if row["kind"] == "gradient"])
    size = {solver: [row["temporary_bytes"] for row in line] for solver, line in found.items()}
    none, step = size["ddim[checkpoints=none]"], size["ddim[checkpoints=step]"]
    state = 2 * 8 * 8 * 3 * 4
    assert none[1] - none[0] > 32 * 5 * state  # a step keeps the features of the network
    assert 32 * state <= step[1] - step[0] < 32 * 2 * state  # the state alone


@needs_digits
def test_digits_of_a_record_can_be_seen(records):
    row = next(row for row in records if row["kind"] == "digits")
    pictures = digits.decode(row["pictures"])
    assert pictures.shape == (digits.SHOWN, 8, 8) and pictures.min() == 0 and pictures.max() == 255
    images = np.linspace(-1, 1, 64).reshape(1, 8, 8, 1)
    assert np.abs(digits.decode(digits.encode(images))[0] / 127.5 - 1 - images[0, ..., 0]).max() <= 1 / 255
    assert digits.strip(row["pictures"]).shape == (10, 9 * digits.SHOWN + 1)
    assert row["energy_distance"] == pytest.approx(row["reference_energy"], abs=0.1)


@needs_digits
def test_a_missing_network_says_how_to_make_it():
    row = run("trained_digits[model=nowhere/model.eqx]", "ddim", 5, "float32")
    assert (
        row["result"] == "missing" and "nsolve-train diffusion --data digits --out nowhere" in row["message"]
    )


def test_columns_that_learn():
    row = run("mixture1d", "tuned[num_steps=30,order=1]", 3)
    plain = run("mixture1d", "unipc[order=1]", 3)
    assert row["true_residual"] < 0.7 * plain["true_residual"] and row["setup_s"] > 0


def test_other_libraries_may_be_missing():
    if beside.version() is None:
        assert run("mixture1d", "diffusers:ddim", 5)["result"] == "missing"
        assert run("images[side=8]", "diffusers:unipc[order=2]", 5, "float32")["result"] == "missing"
    with pytest.raises(ValueError, match="order"):
        suite.ad_hoc({"problem": "ring", "solver": "diffusers:ddim[order=2]", "size": 5})
    with pytest.raises(ValueError, match="only nsolve"):
        suite.ad_hoc({"problem": "ring", "solver": "diffusers:ddim@order", "size": 5})


@needs_digits
def test_tables_pictures_and_page(records, tmp_path):
    text = show.markdown(records)
    assert "**mixture1d: order**" in text and "| unipc[order=2] | 3 | " in text
    assert "Smallest: " in text and "energy, 8" in text
    for kind in ("evaluations", "order", "reverse", "digits"):
        assert len(plots.plot(records, kind, tmp_path)) >= 2
    with pytest.raises(ValueError, match="diffusion problems"):
        plots.plot([row for row in records if row["kind"] == "order"], "evaluations", tmp_path)
    page = write_page(records, tmp_path / "page.html", "Samplers").read_text()
    assert page.count("<h2>") == 8 and "2 of 2 samplers show the order that they state" in page
    assert page.count("data:image/png") == 2 and not re.search(r"https?://|@import", page)


def test_the_suite_is_valid_and_kept_apart():
    loaded = suite.load("diffusion")
    assert all(diffusion_bench.is_diffusion(c.problem) for c in loaded.cells)
    with pytest.raises(ValueError, match="diffusion problems and linear systems"):
        suite.ad_hoc({"problem": ["ring", "poisson2d"], "solver": "ddim", "size": 5})
    with pytest.raises(ValueError, match="sampler 'cg'"):
        suite.ad_hoc({"problem": "ring", "solver": "cg", "size": 5})

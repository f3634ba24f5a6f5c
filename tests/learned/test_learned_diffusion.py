"""`nsolve-train diffusion`: the loss has the right minimum, the network keeps its scale, runs go on."""

import dataclasses
import json
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.spatial.distance import cdist

import learned
import nsolve as ns
from learned import cli
from learned.averaging import Averaged, averaging
from learned.diffusion import SCHEDULES, Images, blank_denoiser, digits, generate, loss
from learned.distances import nearest_distance
from learned.score_net import ScoreNet
from nsolve.diffusion import EDM, VE, Denoiser, Discrete, Flow, VPCosine, VPLinear

MEAN, VARIANCE = 0.7, 0.3


class Perturbed(eqx.Module):
    """The best prediction for independent normal numbers, plus what `shift` says of the state and of 1."""

    shift: jax.Array
    schedule: ns.diffusion.AbstractSchedule
    prediction: str

    def __call__(self, x, t):
        # The tests' schedules tell the model their own time.
        t = t[:, None]
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        size = alpha**2 * VARIANCE + sigma**2
        x0 = MEAN + alpha * VARIANCE / size * (x - alpha * MEAN)
        eps = sigma / size * (x - alpha * MEAN)
        best = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "score": -eps / sigma, "flow": eps - x0}
        scale = {"v": jnp.sqrt(alpha**2 + sigma**2), "score": 1 / sigma}.get(self.prediction, 1.0)
        wrong = self.shift[0] * x / jnp.sqrt(alpha**2 + sigma**2) + self.shift[1]
        return best[self.prediction] + scale * wrong


@pytest.mark.parametrize(
    "prediction, schedule, spacing",
    [
        ("eps", VPLinear(), "time"),
        ("x0", VPCosine(), "lam"),
        ("v", Discrete(np.linspace(0.99, 0.01, 20)), "time"),
        ("v", EDM(), "lam"),
        ("score", VE(), "time"),
        ("flow", Flow(), "time"),
    ],
)
def test_the_conditional_expectation_has_the_least_loss(prediction, schedule, spacing):
    @jax.jit
    def newton(key):
        """Where the loss, quadratic in the shift, is least; and its slope elsewhere."""
        key, drawing = jax.random.split(key)
        x0 = MEAN + VARIANCE**0.5 * jax.random.normal(drawing, (8192, 4))

        def value(shift):
            model = Perturbed(shift, schedule, prediction)
            return loss(Denoiser(model, prediction, schedule), x0, key, spacing=spacing)

        zero, elsewhere = jnp.zeros(2), jnp.full(2, 0.1)
        slope = jax.grad(value)
        return -jnp.linalg.solve(jax.jacfwd(slope)(zero), slope(zero)), slope(elsewhere)

    best, slope = newton(jax.random.key(0))
    np.testing.assert_allclose(best, 0, atol=0.02)
    assert slope.min() > 0.05  # the units leave no prediction without weight


def test_a_schedule_is_not_trained():
    schedule = VPLinear(beta_max=jnp.asarray(20.0))
    denoiser = Denoiser(Perturbed(jnp.ones(2), schedule, "eps"), "eps", schedule)
    x0 = jax.random.normal(jax.random.key(0), (16, 4))
    gradient = eqx.filter_grad(
        lambda s: loss(dataclasses.replace(denoiser, schedule=s), x0, jax.random.key(1))
    )
    assert gradient(schedule).beta_max == 0


def a_net(schedule=VPCosine(), num_classes=3, size=16):  # noqa: B008
    """A small network with numbers in all its places."""
    net = eqx.filter_eval_shape(ScoreNet, size, schedule, "v", num_classes, 8, 2, key=jax.random.key(0))
    rng = np.random.default_rng(0)

    def number(leaf):
        return jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(lambda leaf: number(leaf) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf, net)


def test_the_network_takes_states_times_and_labels_of_all_shapes():
    net = eqx.filter_jit(a_net())
    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4, 4, 1)))
    labels = jnp.array([0, 1, 2, 0, -1])
    y = net(x, 0.3, labels)
    assert y.shape == x.shape and y.dtype == x.dtype == jnp.float64
    flat = net(x.reshape(5, 16), jnp.full(5, 0.3), labels)
    np.testing.assert_allclose(flat.reshape(x.shape), y, rtol=1e-4, atol=1e-5)
    one_by_one = [net(x[i : i + 1], 0.3, label)[0] for i, label in enumerate(labels)]
    np.testing.assert_allclose(y, jnp.stack(one_by_one), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(net(x, 0.3), net(x, 0.3, jnp.array(-1)), rtol=1e-4, atol=1e-5)
    assert not np.allclose(net(x, 0.3, jnp.array(0)), net(x, 0.3), atol=1e-3)
    assert not np.allclose(net(x, 0.6, labels), y, atol=1e-3)
    for dtype in (jnp.float32, jnp.bfloat16):
        assert net(x.astype(dtype), 0.3, labels).dtype == dtype
    for unknown in (3, -2):
        assert np.isnan(net(x, 0.3, jnp.array(unknown))).all()
    guided = ns.diffusion.ClassifierFree(a_net(), labels, jnp.full(5, -1), 2.0)
    expected = 2 * y - net(x, 0.3)
    np.testing.assert_allclose(guided(x, jnp.asarray(0.3)), expected, rtol=1e-4, atol=1e-4)


def test_the_network_is_the_same_on_every_schedule():
    # x0 as a function of x / alpha and sigma / alpha knows nothing of the schedule, for a `v` prediction.
    x = np.random.default_rng(2).normal(size=(5, 16))
    clean = eqx.filter_jit(lambda schedule, x, t: Denoiser(a_net(schedule), "v", schedule).x0(x, t))
    cosine = VPCosine()
    for t in np.array([0.05, 0.5, 0.9]):
        expected = clean(cosine, x, t)
        for schedule in (VPLinear(), VE(), EDM(), Flow()):
            there = schedule.t_of_lam(cosine.lam(t))
            scale = schedule.alpha(there) / cosine.alpha(t)
            np.testing.assert_allclose(clean(schedule, scale * x, there), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_can_be_sampled(schedule):
    # A fresh network predicts 0; for `v` the samples are then noise of the size of the data.
    denoiser = blank_denoiser(16, 3, 8, 1, "v", schedule)
    images = generate(denoiser, jnp.zeros(200, jnp.int32), jax.random.key(0), (4, 4, 1), num_steps=4)
    assert images.shape == (200, 4, 4, 1) and images.dtype == jnp.float32
    assert np.isfinite(images).all() and images.std() < 1.2


def test_the_average_weighs_the_last_steps():
    weights = [jnp.asarray(value) for value in (3.0, -1.0, 4.0, 1.5)]
    pair = Averaged(jnp.asarray(0.0), jnp.asarray(0.0))
    optimiser = averaging(optax.sgd(1.0), sharpness=3)
    state = optimiser.init(pair)
    for weight in weights:
        gradient = Averaged(pair.model - weight, jnp.zeros(()))
        updates, state = optimiser.update(gradient, state, pair)
        pair = optax.apply_updates(pair, updates)
        np.testing.assert_allclose(pair.model, weight)
    # (i^3 - (i-1)^3) / n^3: a step counts about as its number squared.
    np.testing.assert_allclose(pair.average, np.dot([1, 7, 19, 37], weights) / 64)
    with pytest.raises(ValueError, match="update\\(updates, state, params\\)"):
        optimiser.update(pair, state)


def test_nearest_distance():
    p, q = np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[0.0, 1.0], [3.0, 7.0], [9.0, 9.0]])
    assert nearest_distance(p, q) == 2.0


def test_digits():
    pytest.importorskip("sklearn")
    data = digits(32)
    assert data.images.shape == (1797, 8, 8, 1) and data.images.dtype == jnp.float32
    assert (data.images.min(), data.images.max()) == (-1, 1)
    images, labels = data(jax.random.key(0))
    assert images.shape == (32, 8, 8, 1) and labels.shape == (32,)
    rows = [int(jnp.argmax((data.images == image[None]).all((1, 2, 3)))) for image in images[:4]]
    np.testing.assert_array_equal(data.labels[jnp.asarray(rows)], labels[:4])


def test_the_pretrained_model_writes_digits():
    pytest.importorskip("sklearn")
    assert "diffusion-digits" in learned.pretrained()
    denoiser = learned.load_pretrained("diffusion-digits")
    data, labels = digits(1), jnp.arange(200) % 10
    images = np.asarray(data.images).reshape(-1, 64)
    steered = ns.diffusion.ClassifierFree(denoiser.model, labels, jnp.full(200, -1), 2.0)
    guided = Denoiser(lambda x, t, _: steered(x, t), "v", denoiser.schedule)
    # Named after the nearest image of the data; of the data themselves, one left out, 98.8 % are named right.
    for model, right in ((denoiser, 0.9), (guided, 0.98)):
        drawn = np.asarray(generate(model, labels, jax.random.key(0), (8, 8, 1), num_steps=10)).reshape(
            -1, 64
        )
        distances = cdist(drawn, images)
        assert np.mean(np.asarray(data.labels)[distances.argmin(1)] == np.asarray(labels)) > right
        assert distances.min() > 0.5  # none is a copy
    with pytest.raises(ValueError, match="`name` must be one of diffusion-digits, not 'digits'"):
        learned.load_pretrained("digits")


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder, on 60 of the digits: exit code, stdout and stderr."""
    pytest.importorskip("sklearn")
    few = digits(8)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(
        sys.modules["learned.diffusion"].DATA,
        "digits",
        lambda size: Images(few.images[:60], few.labels[:60], size),
    )
    monkeypatch.setattr("learned.diffusion.REPEATS", 2)

    def command(out, *arguments):
        arguments = ["diffusion", "--data", "digits", "--out", out, "--batch-size", 8, *arguments]
        monkeypatch.setattr(sys, "argv", ["nsolve-train", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return command


@pytest.mark.compiles("trains twice")
def test_a_run_trains_and_the_same_command_goes_on(run, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(
        "learned.diffusion.fit", lambda *a, **k: trained.append(learned.fit(*a, **k)) or trained[-1]
    )
    code, shown, err = run("whole", "--steps", 12)
    assert code == 0 and "energy_distance_of_data" in shown and "12/12" in err and "resuming" not in err
    files = {"checkpoints", "lock", "log.jsonl", "metrics.json", "model.eqx", "picture.png", "settings.json"}
    assert {path.name for path in (tmp_path / "whole").iterdir()} == files
    assert (tmp_path / "whole" / "picture.png").read_bytes().startswith(b"\x89PNG")
    metrics = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert metrics["step"] == 12 and metrics["energy_distance"] > metrics["energy_distance_of_data"] > 0

    assert run("parts", "--steps", 8)[0] == 0
    code, _, err = run("parts", "--steps", 12)
    assert code == 0 and "resuming: 8 of 12 steps" in err
    models = [(tmp_path / name / "model.eqx").read_bytes() for name in ("whole", "parts")]
    assert models[0] == models[1]

    denoiser = learned.load(tmp_path / "whole" / "model.eqx", blank_denoiser)
    assert (denoiser.prediction, denoiser.schedule) == ("v", VPCosine())
    assert eqx.tree_equal(denoiser, trained[0].average) and not eqx.tree_equal(denoiser, trained[0].model)
    x_T = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    grid = ns.diffusion.log_snr_grid(5)
    assert np.isfinite(ns.diffusion.sample(denoiser, ns.diffusion.DDIM(), x_T, grid).value).all()

    code, _, err = run("parts", "--steps", 12, "--prediction", "eps")
    assert code == 2 and "holds a run with prediction 'v', not 'eps'" in err


def test_mistakes_end_in_one_line(run, tmp_path, monkeypatch):
    (tmp_path / "taken").touch()
    for out, arguments, message in [
        ("out", ["--data", "cats"], "unknown --data 'cats': give digits, a folder of PNG"),
        (
            "out",
            ["--schedule", "cosine"],
            "unknown --schedule 'cosine': give vp-linear, vp-cosine, flow, ve, edm",
        ),
        ("out", ["--prediction", "noise"], "unknown --prediction 'noise': give eps, x0, v, score, flow"),
        ("out", ["--learning-rate", "nan"], "--learning-rate must be positive and finite, not nan"),
        ("taken", [], "cannot write to taken"),
    ]:
        code, shown, err = run(out, *arguments)
        assert (code, shown) == (2, "") and message in err, err
        assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'nsolve\[peers\]'"):
        digits(8)


def test_mistakes_in_python_are_named():
    net, x, key = a_net(), np.zeros((5, 16)), jax.random.key(0)
    for call, error, message in [
        (lambda: ScoreNet(0, VPCosine(), key=key), ValueError, "`size` must be an int of 1 or more, not 0"),
        (lambda: ScoreNet(4, VPCosine(), "noise", key=key), ValueError, "`prediction` must be"),  # pyright: ignore
        (lambda: ScoreNet(4, "vp", key=key), TypeError, "`schedule` must be"),  # pyright: ignore
        (lambda: net(x[:, :9], 0.5), ValueError, "with 16 numbers a state, not (5, 9)"),
        (lambda: net(x[0], 0.5), ValueError, "`x` must have shape (B, ...)"),
        (lambda: net(x, x[:4, 0]), ValueError, "`t` must have shape () or (5,), not (4,)"),
        (lambda: net(x, 0.5, x.astype(int)), ValueError, "`label` must have shape () or (5,), not (5, 16)"),
        (lambda: net(x, 0.5, x[:, 0]), TypeError, "`label` must hold integers, not float64"),
        (
            lambda: loss(Denoiser(lambda x, t: t, "eps", VPCosine()), jnp.asarray(x), key),
            ValueError,
            "the model must return the shape of the state, (5, 16), not (5,)",
        ),
    ]:  # fmt: skip
        with pytest.raises(error) as caught:
            call()
        assert message in str(caught.value)

"""`nsolve-train bridge`: what it writes, that it goes on, and what it says of mistakes."""

import json
import re
import shlex
import sys

import jax
import numpy as np
import pytest
import typer
from scipy.stats import energy_distance as scipy_energy_distance

import learned
from learned import cli
from learned.bridge import blank_bridge, energy_distance
from learned.picture import paths
from learned.samples import SHAPES, sampler
from nsolve.transport.light_bridge import LightBridge
from tests.helpers import ROOT

SMALL = ["--components", "8", "--batch-size", "64", "--learning-rate", "0.02"]


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("learned.bridge.TEST_SIZE", 300)
    monkeypatch.setattr("learned.bridge.REPEATS", 3)

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["nsolve-train", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return command


def bridge(source, target, out="out", *arguments):
    return ["bridge", "--source", source, "--target", target, "--out", out, *SMALL, *arguments]


@pytest.mark.compiles("trains twice")
def test_a_run_trains_and_the_same_command_goes_on(run, tmp_path):
    out = tmp_path / "out"
    code, shown, err = run(*bridge("gaussian", "8-gaussians", "whole", "--steps", 600))
    assert code == 0 and "energy_distance" in shown and "600/600" in err and "resuming" not in err
    assert {p.name for p in (tmp_path / "whole").iterdir()} == {
        "checkpoints", "lock", "log.jsonl", "metrics.json", "model.eqx", "picture.png", "settings.json",
    }  # fmt: skip
    metrics = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert metrics["step"] == 600
    # The samples are where the target's are: an untrained bridge is ten times as far off.
    assert metrics["energy_distance"] < 3 * metrics["energy_distance_of_draws"]
    assert (tmp_path / "whole" / "picture.png").read_bytes().startswith(b"\x89PNG")

    code, _, err = run(*bridge("gaussian", "8-gaussians", out, "--steps", 500))
    assert code == 0
    code, _, err = run(*bridge("gaussian", "8-gaussians", out, "--steps", 600))
    assert code == 0 and "resuming: 500 of 600 steps" in err
    models = [(tmp_path / name / "model.eqx").read_bytes() for name in ("whole", "out")]
    assert models[0] == models[1]

    code, shown, err = run(*bridge("gaussian", "8-gaussians", out, "--steps", 600))
    assert (
        code == 0
        and "resuming: 600 of 600" in err
        and json.loads((out / "metrics.json").read_text()) == metrics
    )

    model = learned.load(out / "model.eqx", blank_bridge)
    assert model.means.shape == (8, 2) and model.epsilon == 0.1
    x = SHAPES["gaussian"](jax.random.key(0), 500)
    radius = np.linalg.norm(model.sample(x, jax.random.key(1)), axis=-1)
    np.testing.assert_allclose(np.median(radius), 2, atol=0.1)

    code, _, err = run(*bridge("gaussian", "8-gaussians", out, "--steps", 600, "--epsilon", 0.2))
    assert code == 2 and "holds a run with epsilon 0.1, not 0.2" in err
    code, _, err = run(*bridge("gaussian", "8-gaussians", out, "--steps", 100))
    assert code == 2 and "holds 600 steps, more than" in err
    (out / "mine.txt").touch()
    code, _, err = run(*bridge("gaussian", "moons", out, "--steps", 2, "--fresh"))
    assert code == 0 and "resuming" not in err and (out / "mine.txt").exists()


def test_the_command_of_the_guide_parses():
    guide = (ROOT / "docs" / "light-bridge.md").read_text()
    commands = [shlex.split(line)[1:] for line in re.findall(r"^\$ (nsolve-train .*)$", guide, re.MULTILINE)]
    assert commands
    group = typer.main.get_command(cli.app)
    for arguments in commands:
        with group.make_context("nsolve-train", list(arguments)) as context:
            name, command, rest = group.resolve_command(context, arguments)  # pyright: ignore
            command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("dimension", [1, 3])
def test_files_of_points(run, tmp_path, dimension):
    rng = np.random.default_rng(0)
    np.save("source.npy", rng.normal(size=(40, dimension)).astype(np.float32))
    np.savez("target.npz", first=np.arange(3), points=rng.integers(-3, 3, (30, dimension)))
    code, shown, err = run(*bridge("source.npy", "target.npz:points", "out", "--steps", 3))
    assert code == 0, err
    assert (tmp_path / "out" / "picture.png").stat().st_size > 10_000
    np.save("source.npy", rng.normal(size=(40, dimension)))
    code, _, err = run(*bridge("source.npy", "target.npz:points", "out", "--steps", 3))
    assert code == 2 and "holds a run with source_digest" in err


def test_mistakes_end_in_one_line(run, tmp_path):
    np.save("plane.npy", np.ones((9, 2)))
    np.save("space.npy", np.ones((9, 3)))
    np.save("vector.npy", np.ones(9))
    np.save("words.npy", np.array([["a", "b"]]))
    np.save("objects.npy", np.array([[{}, {}]]), allow_pickle=True)
    np.save("holes.npy", np.array([[1, 2], [np.nan, 0], [0, np.inf]]))
    np.savez("two.npz", p=np.ones((9, 2)), q=np.ones((9, 2)))
    (tmp_path / "broken.npy").write_text("no array")
    (tmp_path / "taken").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "settings.json").write_text("{")
    for arguments, message in [
        (bridge("gaussian", "cube"), "unknown samples 'cube': give gaussian, 8-gaussians, moons, swiss-roll"),
        (bridge("none.npy", "moons"), "cannot read none.npy"),
        (bridge("broken.npy", "moons"), "broken.npy is no file of NumPy"),
        (bridge("objects.npy", "moons"), "objects.npy is no file of NumPy"),
        (bridge("vector.npy", "moons"), "vector.npy has shape (9,), not (samples, dimension)"),
        (bridge("words.npy", "moons"), "not real numbers"),
        (bridge("holes.npy", "moons"), "holes.npy has 2 rows with NaN or infinity, the first is row 1"),
        (bridge("two.npz", "moons"), "two.npz has the arrays p, q: name one as two.npz:ARRAY"),
        (bridge("two.npz:r", "moons"), "two.npz has no array 'r'; it has p, q"),
        (bridge("space.npy", "moons"), "space.npy has dimension 3 and moons 2"),
        (bridge("moons", "plane.npy", "out", "--components", 10), "plane.npy has 9 samples: too few for 10"),
        (
            bridge("gaussian", "moons", "out", "--epsilon", 0),
            "--epsilon must be positive and finite, not 0.0",
        ),
        (bridge("gaussian", "moons", "out", "--learning-rate", -1), "--learning-rate must be positive"),
        (bridge("gaussian", "moons", "taken"), "cannot write to taken"),
        (bridge("gaussian", "moons", "other"), "settings.json is not the settings of a run"),
    ]:
        code, out, err = run(*arguments)
        assert (code, out) == (2, "") and message in err, err
        assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
    code, _, err = run(*bridge("gaussian", "moons", "out", "--steps", 0))
    assert code == 2 and "--steps" in err
    code, _, err = run(*bridge("gaussian", "moons", "out", "--steps", 20, "--learning-rate", 1e30))
    assert code == 1 and "diverged" in err and "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        bridge("gaussian", "cube"),
        bridge("none.npy", "moons"),
        bridge("gaussian", "moons", "out", "--epsilon", 0),
        ["diffusion", "--data", "digit", "--out", "out"],
        ["diffusion", "--data", "digits", "--out", "out", "--schedule", "vp"],
    ],
)
def test_a_mistake_in_a_fresh_request_loses_nothing(run, tmp_path, arguments):
    names = ("model.eqx", "log.jsonl", "settings.json", "checkpoints/7/arrays")
    for name in names:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("weeks of work")
    code, _, err = run(*arguments, "--fresh")
    assert code == 2, err
    assert all((tmp_path / "out" / name).read_text() == "weeks of work" for name in names)


MEANS = {"gaussian": (0, 0), "8-gaussians": (0, 0), "moons": (0, 0), "swiss-roll": (1 / 3, 1 / (9 * np.pi))}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_around_the_origin(name):
    points = np.asarray(sampler(name)(jax.random.key(0), 2000))
    assert points.shape == (2000, 2)
    np.testing.assert_allclose(points.mean(0), MEANS[name], atol=5 * points.std() / 2000**0.5)
    assert 0.7 < points.std() < 1.6


def test_energy_distance_is_that_of_scipy():
    p, q = np.random.default_rng(0).normal(size=(2, 30, 1))
    np.testing.assert_allclose(energy_distance(p, q + 1), scipy_energy_distance(p[:, 0], q[:, 0] + 1) ** 2)


def test_paths_end_where_samples_do():
    one = LightBridge([0.0], [[1.0, -2.0]], [[0.5, 0.2]], 0.3)
    x = jax.numpy.broadcast_to(jax.numpy.array([0.5, 1.0]), (3000, 2))
    xs = paths(one, x, jax.random.key(0))
    assert xs.shape == (201, 3000, 2) and (xs[0] == x).all()
    np.testing.assert_allclose(xs[-1].mean(0), [1.25, -1.8], atol=0.03)
    np.testing.assert_allclose(xs[-1].var(0), [0.15, 0.06], rtol=0.15)

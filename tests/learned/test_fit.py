"""The training loop: it finds minima, and a killed run ends with the numbers of one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned
from tests.helpers import ROOT


class Line(eqx.Module):
    slope: jax.Array
    offset: jax.Array
    count: jax.Array  # not trained: an integer
    activation: str = "none"


def a_line(dtype=jnp.float64):
    return Line(jnp.zeros((), dtype), jnp.zeros(2, dtype), jnp.arange(3))


def loss(line, batch, key):
    x, y = batch
    return jnp.mean((line.slope * x + line.offset.sum() - y) ** 2)


@jax.jit
def batches(key):
    x = jax.random.normal(key, (16,))
    return x, 3 * x - 1


def fit(num_steps, checkpoint=None, every=10, seed=0, line=None, **options):
    key = jax.random.key(seed)
    line = a_line() if line is None else line
    options = {"optimiser": optax.adam(0.1), "progress": False} | options
    return learned.fit(line, loss, batches, num_steps, checkpoint=checkpoint, every=every, key=key, **options)


def same(p, q):
    return bool(eqx.tree_equal(p, q))


def test_it_finds_the_minimum():
    line = fit(200)
    np.testing.assert_allclose(line.slope, 3, atol=0.01)
    np.testing.assert_allclose(line.offset.sum(), -1, atol=0.01)
    assert same(line.count, jnp.arange(3)) and line.activation == "none"


@pytest.mark.parametrize(
    "optimiser", [optax.adam(0.1), optax.sgd(0.1), optax.adamw(optax.cosine_decay_schedule(0.1, 30))]
)
def test_a_resumed_run_is_the_same_run(tmp_path, optimiser):
    whole = fit(30, tmp_path / "whole", optimiser=optimiser)
    assert not same(whole, fit(20, tmp_path / "parts", optimiser=optimiser))
    assert same(whole, fit(30, tmp_path / "parts", optimiser=optimiser))
    assert same(whole, fit(30, optimiser=optimiser))  # keeping it changes nothing
    logs = [(tmp_path / run / "log.jsonl").read_text() for run in ("whole", "parts")]
    assert logs[0] == logs[1]
    rows = [json.loads(line) for line in logs[0].splitlines()]
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_a_finished_run_is_read_not_trained(tmp_path):
    whole = fit(20, tmp_path)

    def never(key):
        raise AssertionError

    again = learned.fit(
        a_line(), loss, never, 20, optimiser=optax.adam(0.1), checkpoint=tmp_path, progress=False,
        key=jax.random.key(0),
    )  # fmt: skip
    assert same(whole, again)


def test_an_error_between_checkpoints_loses_no_more_than_they_are_apart(tmp_path):
    calls = 0

    def interrupted(key):
        nonlocal calls
        calls += 1
        if calls > 17:
            raise KeyboardInterrupt
        return batches(key)

    with pytest.raises(KeyboardInterrupt):
        learned.fit(
            a_line(), loss, interrupted, 30, optimiser=optax.adam(0.1), checkpoint=tmp_path, every=10,
            progress=False, key=jax.random.key(0),
        )  # fmt: skip
    with (tmp_path / "log.jsonl").open("a") as file:  # a kill after the log's line, and amid the next
        file.write('{"step": 20, "loss": 1.0}\n{"step": 3')
    assert same(fit(30, tmp_path), fit(30))
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [10, 20, 30]


def test_a_killed_process_resumes_to_the_last_bit(tmp_path):
    program = (
        "import jax; jax.config.update('jax_enable_x64', True)\n"
        "import sys, time, tests.learned.test_fit as t\n"
        "fast = t.batches\n"
        "t.batches = lambda key: (time.sleep(0.01), fast(key))[1]\n"
        "t.fit(10**6, sys.argv[1], every=5)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT)
    log = tmp_path / "log.jsonl"
    deadline = time.monotonic() + 100
    while (not log.exists() or log.read_text().count("\n") < 3) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with learned.checkpoint.Checkpoints(tmp_path / "checkpoints") as checkpoints:
        done = checkpoints.latest
    assert done is not None and done >= 10
    end = done + 7
    assert same(fit(end, tmp_path, every=5), fit(end))


def test_divergence_is_an_error_and_no_checkpoint(tmp_path):
    fit(10, tmp_path, optimiser=optax.sgd(0.1))
    with pytest.raises(FloatingPointError, match=r"diverged in the steps 11 to \d+"):
        fit(2000, tmp_path, every=1000, optimiser=optax.sgd(1e3))
    assert same(fit(10, tmp_path, optimiser=optax.sgd(0.1)), fit(10, optimiser=optax.sgd(0.1)))


def test_what_does_not_belong_together_is_refused(tmp_path):
    fit(20, tmp_path)
    with pytest.raises(ValueError, match="another key"):
        fit(30, tmp_path, seed=1)
    with pytest.raises(ValueError, match="more than `num_steps` = 10"):
        fit(10, tmp_path)
    with pytest.raises(ValueError, match=r"slope has .* float64, not .* float32: .* belongs to another run"):
        fit(30, tmp_path, line=a_line(jnp.float32))
    with pytest.raises(ValueError, match="arrays where .* are needed: .* belongs to another run"):
        fit(30, tmp_path, optimiser=optax.sgd(0.1))
    with pytest.raises(ValueError, match="`every` must be positive"):
        fit(10, every=0)
    with pytest.raises(TypeError, match="`num_steps` must be an int"):
        fit(10.0)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot keep checkpoints .* choose another folder"):
        fit(10, tmp_path / "file")


def test_the_bar_and_what_it_says(tmp_path, capsys):
    fit(20, tmp_path, progress=True)
    fit(30, tmp_path, progress=True)
    captured = capsys.readouterr()
    assert captured.out == "" and "30/30" in captured.err
    assert "resuming: 20 of 30 steps are in" in captured.err


def test_raw_keys_are_keys():
    lines = [
        learned.fit(a_line(), loss, batches, 3, progress=False, key=key)
        for key in (jax.random.PRNGKey(4), jax.random.key(4))
    ]
    assert same(*lines)


def test_a_saved_model_is_the_model(tmp_path):
    def make(size, activation):
        return Line(jnp.zeros(()), jnp.zeros(size), jnp.arange(3), activation)

    model = Line(jnp.array(1 / 3), jnp.array([1.0, jnp.pi]), jnp.array([5, 6, 7]), "tanh")
    path = tmp_path / "new" / "model"
    learned.save(path, model, size=2, activation="tanh")
    assert same(learned.load(path, make), model)
    assert [p.name for p in path.parent.iterdir()] == ["model"]

    with pytest.raises(ValueError, match="cannot read"):
        learned.load(tmp_path / "none", make)
    with pytest.raises(ValueError, match="holds no model of <lambda>"):
        learned.load(path, lambda size, activation: make(size + 1, activation))
    with pytest.raises(ValueError, match="holds no model of a_line"):
        learned.load(path, a_line)
    content = path.read_bytes()
    for broken in (b"", b"no model", content[:-5], content[:20]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="holds no model of make"):
            learned.load(path, make)
    with pytest.raises(TypeError):
        learned.save(path, model, size=jnp.ones(2))


def damage(path, how):
    content = path.read_bytes()
    if how == "deleted":
        path.unlink()
    else:
        path.write_bytes({"truncated": content[: len(content) // 2], "garbled": content[::-1]}[how])


@pytest.mark.parametrize("how", ["deleted", "truncated", "garbled"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, how):
    fit(20, tmp_path)
    damage(tmp_path / "checkpoints" / "20" / "default" / "manifest.ocdbt", how)
    damage(tmp_path / "checkpoints" / "20" / "default" / "_METADATA", how)
    with pytest.warns(UserWarning, match=r"damaged checkpoints .*\(step 20.* going on from .* step 10"):
        line = fit(30, tmp_path)
    assert same(line, fit(30))
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [10, 20, 30]
    assert (tmp_path / "checkpoints-damaged" / "20").is_dir()
    assert same(fit(30, tmp_path), line)  # and the next run finds whole ones


def test_damaged_checkpoints_alone_are_an_error(tmp_path):
    fit(20, tmp_path)
    for step in ("10", "20"):
        damage(tmp_path / "checkpoints" / step / "default" / "_METADATA", "truncated")
    with pytest.raises(ValueError, match="no checkpoint in .* is whole .*step 20: .*step 10: ") as caught:
        fit(30, tmp_path)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)
    assert (tmp_path / "checkpoints" / "20").is_dir()


def test_two_trainings_do_not_share_a_folder(tmp_path):
    def second(key):
        with pytest.raises(ValueError, match=f"another training, process {os.getpid()}, is at work in"):
            thread.submit(fit, 30, tmp_path).result()
        return batches(key)

    with ThreadPoolExecutor(1) as thread:
        learned.fit(a_line(), loss, second, 1, checkpoint=tmp_path, progress=False, key=jax.random.key(0))
    fit(2, tmp_path / "other")
    learned.fit(a_line(), loss, batches, 2, checkpoint=tmp_path, progress=False, key=jax.random.key(0))


def test_damage_to_a_model_is_seen(tmp_path):
    """A changed number, and a file of a larger model whose first arrays fit."""
    path, model = tmp_path / "model", (jnp.arange(3.0), jnp.arange(4.0))
    learned.save(path, model)
    assert same(learned.load(path, lambda: model), model)
    with pytest.raises(ValueError, match="holds no model of <lambda>, or a damaged one"):
        learned.load(path, lambda: model[:1])
    content = path.read_bytes()
    number = np.float64(2.0).tobytes()
    path.write_bytes(content.replace(number, np.float64(2.5).tobytes()))
    with pytest.raises(ValueError, match="or a damaged one"):
        learned.load(path, lambda: model)
    path.write_bytes(content[: content.index(b"sha256")])  # as earlier versions wrote it
    assert same(learned.load(path, lambda: model), model)

"""Data sets: what a file holds, that it can be made again, and what a kill, a failure or a mistake leaves."""

import io
import os
import signal
import subprocess
import sys
import time

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg as spla
from rich.console import Console

from bench import cli
from bench.columns.nsolve import solvers
from bench.engine.spec import parse
from bench.generate import SOLVERS, Request, generate, make_family
from learned.data import chains
from nsolve.gallery import families
from tests.helpers import ROOT

DATA = ("input", "solution", "parameters/permeability", "true_residual", "num_steps", "result", "sample_seed")


def make(out, family="darcy", fresh=False, **options):
    """Exit code, stdout and stderr of a run; small and without a preconditioner unless told otherwise."""
    options = {"size": 8, "count": 5, "solver": "cg", "rtol": 1e-8, "chunk": 4, **options}
    consoles = [Console(file=io.StringIO(), width=200) for _ in range(2)]
    code = generate(Request(family=family, out=out, **options), fresh, *consoles)
    return code, *(console.file.getvalue() for console in consoles)


def read(path, names=DATA):
    with h5py.File(path) as file:
        assert np.all(file["complete"][:])
        return {name: file[name][:] for name in names}


def assert_same(one, other, count=None):
    for name in one:
        np.testing.assert_array_equal(one[name][:count], other[name][:count], err_msg=name)


class TestSamples:
    def test_file_says_everything(self, tmp_path):
        path = tmp_path / "new folder" / "d.h5"
        code, out, err = make(path, seed=7)
        assert code == 0 and "cg" in out and str(path) in err
        data = read(path)
        assert data["input"].shape == (5, 1, 8, 8) and data["solution"].shape == (5, 8, 8)
        assert set(data["result"]) == {b"successful"}
        assert np.all(data["true_residual"] <= 1e-8 * (1 + 1e-6)) and np.all(data["num_steps"] > 5)
        with h5py.File(path) as file:
            settings = dict(file.attrs)
            assert file["solution"].chunks == (file["solution"].chunks[0], 8, 8)
        assert settings["family"] == "darcy" and settings["solver"] == "cg" and settings["seed"] == 7
        assert settings["channels"] == "permeability" and "jaxlib" in settings["versions"]
        # Each sample is made again from its seed alone.
        system = make_family("darcy", 8)
        for key, field in zip(data["sample_seed"], data["parameters/permeability"], strict=True):
            again = jax.jit(system.sample)(jax.random.wrap_key_data(jnp.asarray(key)))["permeability"]
            np.testing.assert_allclose(again, field, rtol=1e-12)

    @pytest.mark.parametrize("family", ["darcy", "thermal", "poisson", "helmholtz", "heat[steps=3]"])
    def test_every_family_by_its_own_solver(self, tmp_path, family):
        path, size = tmp_path / "d.h5", 20 if family == "helmholtz" else 10
        code, *_ = make(path, family, size=size, count=2, solver=None, rtol=1e-10, preview=True)
        assert code == 0 and path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        system, data = make_family(family, size), read(path, DATA[:2])
        with h5py.File(path) as file:
            parameters = {name: jnp.asarray(values[1]) for name, values in file["parameters"].items()}
        x, matrix = None, system.operator(parameters).as_scipy().tocsc()
        for _ in range(system.num_solves):
            x = jnp.asarray(spla.spsolve(matrix, np.asarray(system.vector(parameters, x))))
        field = system.solution_field(parameters, x)
        np.testing.assert_allclose(data["solution"][1], field, rtol=1e-6, atol=1e-7 * np.abs(field).max())
        np.testing.assert_allclose(data["input"][1], system.input_field(parameters), rtol=1e-12)


class TestFailures:
    def test_samples_that_fail_are_marked_and_reported(self, tmp_path):
        path = tmp_path / "d.h5"
        code, out, err = make(path, max_steps=3)
        assert code == 1 and "5 max_steps_reached" in out and "5 of 5 samples miss rtol=1e-08" in err
        data = read(path)
        assert set(data["result"]) == {b"max_steps_reached"} and np.all(data["true_residual"] > 1e-8)
        code, *_ = make(path, max_steps=3)
        assert code == 1  # the finished file still has them


class TestResume:
    def test_larger_count_extends_and_smaller_keeps(self, tmp_path):
        path = tmp_path / "d.h5"
        make(path, count=3)
        code, _, err = make(path, count=9)
        assert code == 0 and "resuming: 3 samples" in err
        make(tmp_path / "whole.h5", count=9)
        assert_same(read(path), read(tmp_path / "whole.h5"))
        before = path.read_bytes()
        code, out, _ = make(path, count=2)
        assert code == 0 and path.read_bytes() == before

    def test_interruption_keeps_what_is_finished(self, tmp_path, monkeypatch):
        path, draw = tmp_path / "d.h5", chains.Chains.draw_and_solve

        def interrupted(self, seed, start, count):
            if start == 4:
                raise KeyboardInterrupt
            return draw(self, seed, start, count)

        monkeypatch.setattr(chains.Chains, "draw_and_solve", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(path)
        monkeypatch.undo()
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["complete"][:], [True] * 4 + [False])
        code, _, err = make(path)
        assert code == 0 and "resuming: 4 samples" in err
        make(tmp_path / "whole.h5")
        assert_same(read(path), read(tmp_path / "whole.h5"))
        # What was never finished is not kept when less is asked for.
        make(path, fresh=True, count=2)
        assert len(read(path)["input"]) == 2

    def test_kill_in_the_middle(self, tmp_path):
        path = tmp_path / "d.h5"
        options = ["--count", "4000", "--size", "8", "--solver", "cg", "--chunk", "4"]
        command = [sys.executable, "-m", "bench.cli", "generate", "darcy", "--out", str(path), *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
        deadline, done = time.monotonic() + 90, 0
        while done < 12 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
            if path.exists():
                with h5py.File(path, locking=False) as file:
                    done = int(file["complete"][:].sum())
        with pytest.raises(ValueError, match="being written by another process"):
            make(path, count=40)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=30) == -signal.SIGKILL and 12 <= done < 4000
        with h5py.File(path) as file:
            kept = int(file["complete"][:].sum())
        code, _, err = make(path, count=kept + 10)
        assert code == 0 and f"resuming: {kept} samples" in err
        make(tmp_path / "whole.h5", count=kept + 10)
        resumed, whole = read(path), read(tmp_path / "whole.h5")
        for name in ("input", "solution"):
            # Another process may have compiled for other settings than this one.
            np.testing.assert_allclose(resumed[name], whole[name], rtol=1e-6, err_msg=name)


class TestManyDevices:
    def test_one_chain_for_each_device(self, tmp_path):
        options = ["--count", "10", "--size", "8", "--solver", "cg+ic", "--chunk", "6"]
        for devices in (1, 4):
            flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
            environment = {**os.environ, "XLA_FLAGS": flags}
            command = [sys.executable, "-m", "bench.cli", "generate", "darcy", *options]
            command += ["--out", str(tmp_path / f"{devices}.h5")]
            subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True, timeout=120)
        assert_same(read(tmp_path / "1.h5"), read(tmp_path / "4.h5"))


def run(capsys, monkeypatch, *arguments):
    """Exit code, stdout and stderr of a command."""
    monkeypatch.setattr(sys, "argv", ["nsolve-bench", "generate", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    captured = capsys.readouterr()
    return end.value.code or 0, captured.out, captured.err


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["darcey"], "unknown family 'darcey': did you mean darcy"),
            (["darcy[contrast=3]"], "unknown parameter of family 'darcy' 'contrast'"),
            (["darcy", "--solver", "cgg"], "unknown solver 'cgg': did you mean cg"),
            (["darcy", "--solver", "scipy:cg"], "nsolve's solvers only"),
            (["darcy", "--solver", "product"], "unknown solver 'product'"),
            (["darcy", "--solver", "cg[form=sparse]+multigrid"], "`Multigrid` is geometric"),
            (["darcy", "--solver", "cg[recycle=0]"], "`recycle=True` needs a solver that recycles"),
            (["darcy", "--solver", "cg[form=bcoo]"], "form of cg must be one of sparse, stencil, got 'bcoo'"),
            (["darcy", "--solver", "cg+ilu"], "positive definite preconditioner"),
            (["helmholtz", "--solver", "cg"], "CG"),
            (["darcy", "--solver", "cg@carried"], "leave out @carried"),
            (["darcy", "--solver", "cg[recycle=few]"], "recycle of cg must be an integer, got 'few'"),
            (["darcy", "--order", "greedily"], "unknown order 'greedily': did you mean greedy"),
            (["darcy", "--size", "1"], "--size is 1: give at least 2"),
            (["darcy", "--count", "0"], "--count is 0: give at least 1"),
            (["darcy", "--chunk", "0"], "--chunk is 0: give at least 1"),
            (["darcy", "--seed", "-1"], "--seed is -1: give at least 0"),
            (["darcy", "--max-steps", "0"], "--max-steps is 0: give at least 1"),
            (["darcy", "--rtol", "0"], "--rtol is 0.0: give a number between 0 and 1"),
            (["darcy", "--rtol", "nan"], "--rtol is nan"),
        ],
    )
    def test_one_line_and_code_2_and_no_file(self, capsys, monkeypatch, tmp_path, arguments, message):
        path = tmp_path / "d.h5"
        command = [arguments[0], "--count", 4, "--size", 20, "--out", path, *arguments[1:]]
        code, _, err = run(capsys, monkeypatch, *command)
        assert code == 2 and message in err
        assert len(err.strip().splitlines()) == 1 and not list(tmp_path.iterdir())

    def test_wired(self, capsys, monkeypatch, tmp_path):
        command = ["darcy", "--count", 2, "--size", 8, "--solver", "cg", "--out", tmp_path / "d.h5"]
        code, out, err = run(capsys, monkeypatch, *command)
        assert code == 0 and "darcy 8" in out and "samples:" in err
        code, _, err = run(capsys, monkeypatch, *command, "--rtol", 1e-6, "--chunk", 5)
        assert code == 2 and "chunk=64 (now 5), rtol=1e-08 (now 1e-06)" in err and "--fresh" in err
        code, _, _ = run(capsys, monkeypatch, *command, "--rtol", 1e-6, "--fresh")
        assert code == 0 and read(tmp_path / "d.h5")["true_residual"].max() > 1e-8

    def test_file_that_cannot_be_used(self, tmp_path):
        path = tmp_path / "d.h5"
        make(path)
        whole = path.read_bytes()
        for damage, message in (
            (whole[: len(whole) // 2], "no HDF5 file, or one cut short"),
            (b"x" * 1000, "no HDF5 file, or one cut short"),
            (b"", "no HDF5 file, or one cut short"),
            (whole[:600] + bytes(2000) + whole[2600:], "damaged|no HDF5 file|not written by this command"),
        ):
            path.write_bytes(damage)
            with pytest.raises(ValueError, match=message) as error:
                make(path)
            assert "--fresh" in str(error.value) and path.read_bytes() == damage
        with h5py.File(path, "w") as file:
            file["x"] = np.ones(3)
        with pytest.raises(ValueError, match="not written by this command"):
            make(path)
        with pytest.raises(ValueError, match="is a folder"):
            make(tmp_path)
        with pytest.raises(ValueError, match="cannot write /proc/nowhere/d.h5"):
            make(tmp_path.__class__("/proc/nowhere/d.h5"))
        code, *_ = make(path, fresh=True)
        assert code == 0 and path.stat().st_size == len(whole)


def test_every_family_has_a_solver():
    assert SOLVERS.keys() == families.FAMILIES.keys()
    for text in SOLVERS.values():
        solvers.check(parse(text))


@pytest.mark.parametrize(
    ("text", "size", "message"),
    [
        ("darcey", 8, "unknown family 'darcey': did you mean darcy"),
        ("darcy[feild=threshold]", 8, "unknown parameter of family 'darcy' 'feild': did you mean field"),
        ("darcy[field=thresh]", 8, '`field` must be one of "lognormal", "threshold"'),
        ("darcy", 1, "needs a size of at least 2"),
        ("thermal", 3, "at least 4 cells"),
        ("helmholtz", 16, "use a size of 20 or more"),
        ("helmholtz[waves=-1]", 16, "`waves` of helmholtz must be a number >= 0"),
        ("heat[steps=0]", 16, "`steps` of heat must be an integer >= 1"),
        ("heat[time=soon]", 16, "`time` of heat must be a positive number"),
    ],
)
def test_mistakes_are_named(text, size, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        make_family(text, size)

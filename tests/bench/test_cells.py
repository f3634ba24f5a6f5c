"""Suites and their execution: failures are rows, kills are survived, mistakes are named."""

import dataclasses
import json

import numpy as np
import pytest
from rich.console import Console

from bench import execute, record, specs, suite, timing
from bench.cells import Cell, Settings, run_cell
from bench.peers.base import Run

SUITE = """
title = "two peers"
[defaults]
max_steps = 200
repeats = 1
rtol = [1e-4, 1e-8]
[[group]]
problem = "poisson2d"
size = [4, 6]
solver = ["scipy:cg", "scipy:cg+jacobi"]
"""
REQUIRED = {
    "schema", "problem", "size", "solver", "params", "rtol", "dtype", "device", "seed", "num_steps",
    "num_matvecs", "num_preconditioner_applications", "result", "true_residual", "setup_s",
    "compile_s", "solve_s", "env", "time",
}  # fmt: skip


@pytest.fixture
def small(tmp_path):
    (tmp_path / "small.toml").write_text(SUITE)
    return suite.load(str(tmp_path / "small.toml"))


def quiet():
    return Console(quiet=True)


def test_cells_are_the_product_of_the_axes(small):
    assert len(small.cells) == 2 * 2 * 2
    assert len({cell.key("cpu") for cell in small.cells}) == 8
    assert set(small.cells.values()) == {Settings(max_steps=200, repeats=1)}


def test_records_have_every_field(small, tmp_path):
    rows = execute.execute(small, tmp_path / "r.jsonl", False, quiet())
    assert len(rows) == 8
    for row in rows:
        assert row.keys() >= REQUIRED
        assert row["result"] == "successful" and row["true_residual"] <= row["rtol"]
        assert row["solve_s"].keys() == {"min", "median", "iqr", "n"}
        assert row["env"].keys() >= {"commit", "dirty", "versions", "cpu", "threads", "load",
                                     "xla_flags", "cache"}  # fmt: skip
        assert row["env"]["versions"]["scipy"]
    assert record.read(tmp_path / "r.jsonl") == json.loads(json.dumps(rows))


def test_a_killed_run_resumes_without_repeating(small, tmp_path, monkeypatch):
    file = tmp_path / "r.jsonl"
    first = execute.execute(small, file, False, quiet())
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]) + lines[3][:50])  # killed in the middle of the fourth
    ran = []
    monkeypatch.setattr(execute, "run_cell", lambda c, *a: ran.append(c) or run_cell(c, *a))
    again = execute.execute(small, file, False, quiet())
    assert ran == list(small.cells)[3:]
    assert [row["key"] for row in again] == [row["key"] for row in first]
    assert again[:3] == record.read(file)[:3] and len(record.read(file)) == 8


def test_fresh_starts_over_and_other_settings_are_refused(small, tmp_path):
    file = tmp_path / "r.jsonl"
    execute.execute(small, file, False, quiet())
    other = dataclasses.replace(small, config="other")
    with pytest.raises(ValueError, match="with other settings"):
        execute.execute(other, file, False, quiet())
    assert len(execute.execute(other, file, True, quiet())) == 8
    assert {row["config"] for row in record.read(file)} == {"other"}


def test_interruption_keeps_what_was_done(small, tmp_path, monkeypatch):
    file = tmp_path / "r.jsonl"

    def stop_at_the_third(cell, *rest):
        if cell == list(small.cells)[2]:
            raise KeyboardInterrupt
        return run_cell(cell, *rest)

    monkeypatch.setattr(execute, "run_cell", stop_at_the_third)
    with pytest.raises(execute.Interrupted) as interrupted:
        execute.execute(small, file, False, quiet())
    assert len(interrupted.value.records) == len(record.read(file)) == 2


def test_failures_are_rows(monkeypatch):
    def explode(*_):
        raise RuntimeError("no such luck\nsecond line")

    monkeypatch.setattr("bench.peers.scipy.KrylovRun.solve", explode)
    cell = Cell("poisson2d", 4, specs.parse("scipy:cg"), 1e-8, "float64", 0)
    row = run_cell(cell, Settings(), "s", "c")
    assert row["result"] == "error: RuntimeError: no such luck"
    assert row["size"] == 4 and row["unknowns"] == 16
    assert row.keys() >= REQUIRED and row["num_steps"] is None


def test_a_missing_peer_is_a_row_and_reported_once(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.peers.base.version", lambda name: None)
    found = suite.ad_hoc({"problem": "poisson2d", "size": [4, 5], "solver": "pyamg:cg"})
    with (console := Console(width=200)).capture() as capture:
        rows = execute.execute(found, tmp_path / "r.jsonl", False, console)
    assert [row["result"] for row in rows] == ["missing", "missing"]
    assert capture.get().count("pyamg is not installed") == 1
    monkeypatch.undo()
    pytest.importorskip("pyamg")  # once it is there, the cells are measured after all
    rows = execute.execute(found, tmp_path / "r.jsonl", False, quiet())
    assert [row["result"] for row in rows] == ["successful", "successful"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[[group]]", "[[group", "not valid TOML.*line"),
        ("[[group]]", "[[grup]]", "unknown key 'grup': did you mean group"),
        ("max_steps", "max_step", "unknown key of group 1 'max_step': did you mean max_steps"),
        ("repeats = 1", 'repeats = "1"', "repeats of group 1 must be int"),
        ("poisson2d", "poison2d", "did you mean poisson2d"),
        ("scipy:cg+jacobi", "scipy:cg+jacoby", "did you mean jacobi"),
        ("size = [4, 6]", "sizes = [4, 6]", "unknown key of group 1 'sizes': did you mean size"),
        ("size = [4, 6]", "", "'poisson2d' of group 1 needs a size"),
        ("size = [4, 6]", "size = [4.5]", "size of group 1 must be an integer"),
        ("1e-4, ", "0.0, ", "rtol of group 1 must lie between 0 and 1"),
        ('solver = ["scipy:cg", "scipy:cg+jacobi"]', "", "group 1 has no 'solver'"),
    ],
)
def test_a_bad_suite_is_named(tmp_path, old, new, message):
    file = tmp_path / "bad.toml"
    assert old in SUITE
    file.write_text(SUITE.replace(old, new))
    with pytest.raises(ValueError, match=message) as error:
        suite.load(str(file))
    assert "bad.toml" in str(error.value)


def test_filters_choose_and_unknown_ones_are_refused(small):
    chosen = suite.select(small, ["scipy:cg+jacobi"], [])
    assert {str(cell.spec) for cell in chosen.cells} == {"scipy:cg+jacobi"}
    assert chosen.config == small.config  # so that the rest can follow into the same file
    with pytest.raises(ValueError, match="unknown solver 'cgg'"):
        suite.select(small, ["cgg"], [])
    with pytest.raises(ValueError, match="admits no cell"):
        suite.select(small, ["scipy:gmres"], [])
    with pytest.raises(ValueError, match="no cell of small is left with .*poisson3d"):
        suite.select(small, [], ["poisson3d"])


@pytest.mark.parametrize("name", suite.names())
def test_shipped_suites_load(name):
    assert suite.load(name).cells


class Clocked(Run):
    """A run that takes a given time according to a clock of our own."""

    def __init__(self, clock, seconds, first=0.0, setups=(0.0,), compiles=False):
        self.clock, self.seconds, self.first, self.setups = clock, seconds, first, list(setups)
        self.compiles = compiles  # type: ignore[misc]
        self.solves = 0

    def setup(self):
        self.clock[0] += self.setups.pop(0)

    def compile(self, state):
        self.clock[0] += 7.0 if self.compiles else 0.0

    def solve(self, program):
        self.solves += 1
        self.clock[0] += self.seconds + (self.first if self.solves == 1 else 0.0)

    def answer(self, raw):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("seconds", "repeats", "n"),
    [
        (0.01, None, timing.MOST),
        (0.5, None, 4),
        (1.5, None, 3),
        (6.0, None, 1),
        (0.5, 2, 2),
        (6.0, 2, 2),
    ],
)
def test_repeats_adapt(monkeypatch, seconds, repeats, n):
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    timings, _ = timing.measure(Clocked(clock, seconds), repeats)
    assert timings.solve_s["n"] == n
    assert timings.solve_s["median"] == pytest.approx(seconds)
    assert timings.compile_s == 0


def test_compilation_is_told_apart(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    run = Clocked(clock, 1.0, first=2.0, setups=(5.0, 0.5), compiles=True)
    timings, _ = timing.measure(run)
    assert timings.setup_s == pytest.approx(0.5)
    assert timings.compile_s == pytest.approx((5.0 - 0.5) + 7.0 + 2.0)
    assert timings.solve_s == pytest.approx({"min": 1.0, "median": 1.0, "iqr": 0.0, "n": 3})


def test_fresh_processes_report_first_call_and_memory():
    settings = Settings(max_steps=100, repeats=1, memory=True, first_call=1)
    cell = Cell("poisson2d", 6, specs.parse("jax.scipy:cg"), 1e-8, "float64", 0)
    row = run_cell(cell, settings, "s", "c")
    assert row["result"] == "successful"
    assert 0 < row["first_call_s"] < 60
    assert 50 * 2**20 < row["peak_bytes"] < 8 * 2**30


def test_memory_is_the_cells_own_and_not_its_starters():
    ballast = np.ones(2**27)  # 1 GiB in this process
    settings = Settings(max_steps=100, repeats=1, memory=True)
    row = run_cell(Cell("poisson2d", 6, specs.parse("scipy:cg"), 1e-8, "float64", 0), settings, "s", "c")
    assert ballast.nbytes == 2**30 > row["peak_bytes"]

"""Suites and their execution: failures are rows, kills are survived, mistakes are named."""

import dataclasses
import json
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial

import numpy as np
import pytest
from rich.console import Console

import bench
from bench.engine import environment, measure, process, record, run
from bench.engine import suite as suites
from bench.engine.suite import Group, ad_hoc, load, select
from bench.engine.work import Answer, Cell, Missing, Run, Settings, Task, Work, libraries_of

SUITE = """
from bench import Group, Suite, linear

SUITE = Suite(
    "two columns",
    linear,
    [Group("poisson2d", ["scipy:cg", "scipy:cg+jacobi"], size=[4, 6], rtol=[1e-4, 1e-8], max_steps=200,
           repeats=1)],
)
"""
REQUIRED = {
    "schema", "problem", "size", "solver", "params", "rtol", "dtype", "device", "seed", "num_steps",
    "num_matvecs", "num_preconditioner_applications", "result", "true_residual", "setup_s",
    "compile_s", "solve_s", "env", "time", "suite", "work", "settings", "key",
}  # fmt: skip


def quiet():
    return Console(quiet=True)


def written(tmp_path, text, name="small.py"):
    (tmp_path / name).write_text(textwrap.dedent(text))
    return str(tmp_path / name)


@pytest.fixture
def small(tmp_path):
    return load(written(tmp_path, SUITE))


@pytest.fixture
def counted(monkeypatch):
    """The cells that are measured."""
    ran = []
    measured = process.measured
    monkeypatch.setattr(process, "measured", lambda cell, *rest: ran.append(cell) or measured(cell, *rest))
    return ran


# --- what is measured ---------------------------------------------------------------------------


def test_cells_are_the_product_of_the_axes(small):
    assert len(small.cells) == 2 * 2 * 2
    assert len({record.key(cell, "cpu") for cell in small.cells}) == 8
    assert set(small.cells.values()) == {Settings(max_steps=200, repeats=1)}


def test_records_have_every_field(small, tmp_path):
    rows = run.execute(small, tmp_path / "r.jsonl", quiet())
    assert len(rows) == 8
    for row in rows:
        assert row.keys() >= REQUIRED
        assert row["result"] == "successful" and row["true_residual"] <= row["rtol"]
        assert row["solve_s"].keys() == {"min", "median", "iqr", "n"}
        assert row["settings"] == {"max_steps": 200, "repeats": 1}
        assert row["env"].keys() >= {"commit", "dirty", "code", "versions", "cpu", "threads", "load",
                                     "xla_flags", "cache"}  # fmt: skip
        assert row["env"]["versions"]["scipy"]
    assert record.read(tmp_path / "r.jsonl") == json.loads(json.dumps(rows))


@pytest.mark.parametrize("name", suites.names())
def test_shipped_suites_load_and_say_what_they_are(name):
    suite = load(name)
    assert suite.cells and suite.name == name and suite.title
    assert len({record.key(cell, "cpu") for cell in suite.cells}) == len(suite.cells)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("from bench import", "from bench import nothing,", r"small\.py, line 2: ImportError"),
        ("SUITE = Suite(", "SUITE = 1 / 0, (", r"small\.py, line 4: ZeroDivisionError"),
        ("SUITE = Suite(", "SUITE = Suite((", r"small\.py, line \d: SyntaxError"),
        ("SUITE = Suite(", "WHAT = Suite(", "defines no SUITE"),
        ("max_steps=", "max_step=", "unknown key of group 1 'max_step': did you mean max_steps"),
        ("repeats=1", 'repeats="1"', "repeats of group 1 must be int"),
        ("repeats=1", "limit_s=1.0", "limit_s of group 1 has no meaning for linear problems"),
        ("repeats=1", "count=3", "linear problems are single ones"),
        ("repeats=1", "stages=1", "stages of group 1 are of our programs and of lineax's, not of scipy:cg"),
        ("poisson2d", "poison2d", "did you mean poisson2d"),
        ("poisson2d", "lognormal2d[contrast=abc]", "contrast of lognormal2d must be a number, got 'abc'"),
        ('"poisson2d"', '["poisson2d", 3]', "problem of group 1 must be text, got 3"),
        ("scipy:cg+jacobi", "scipy:cg+jacoby", "did you mean jacobi"),
        ("scipy:cg+jacobi", "scpy:cg", "unknown library 'scpy': did you mean scipy"),
        ("scipy:cg+jacobi", "ott:sinkhorn", "ott offers nothing for linear problems"),
        ("scipy:cg+jacobi", "scipy:cg@warm", "columns of linear problems have no mode @warm"),
        ("scipy:cg+jacobi", "cg+ssor[omega=7]", r"cg\+ssor\[omega=7\]: .*between 0 and 2.*7"),
        ("scipy:cg+jacobi", "cg[form=dense]", "form of cg must be one of sparse, stencil, got 'dense'"),
        ("size=[4, 6]", "sizes=[4, 6]", "unknown key of group 1 'sizes': did you mean size"),
        ("size=[4, 6], ", "", "'poisson2d' of group 1 needs a size"),
        ("size=[4, 6]", "size=[4.5]", "size of group 1 must be an integer of at least 2, got 4.5"),
        ("size=[4, 6]", "size=[-3]", "size of group 1 must be an integer of at least 2, got -3"),
        ("1e-4, ", "10.0, ", "rtol of group 1 must lie between 0 and 1, got 10.0"),
        ("max_steps=200", "max_steps=0", "max_steps of group 1 must be at least 1"),
        ('["scipy:cg", "scipy:cg+jacobi"]', "[]", "group 1 has no solver"),
        ("rtol=", 'dtype="float16", rtol=', "unknown dtype 'float16'"),
    ],
)
def test_a_bad_suite_is_named(tmp_path, old, new, message):
    assert old in SUITE
    with pytest.raises(ValueError, match=message) as error:
        load(written(tmp_path, SUITE.replace(old, new)))
    assert "small" in str(error.value)


def test_a_suite_is_read_from_where_one_is(tmp_path, monkeypatch):
    """With what stands beside it, and its faults by the line."""
    written(tmp_path, "from beside_it import nothing\n" + SUITE)
    (tmp_path / "beside_it.py").write_text("nothing = 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    load("small.py")
    (tmp_path / "small.py").write_text("import bench\n\n1 / 0\n")
    with pytest.raises(ValueError, match=r"^cannot import small\.py, line 3: ZeroDivisionError"):
        load("small.py")


def test_suites_that_are_not_there():
    with pytest.raises(ValueError, match="unknown suite 'quik': did you mean quick"):
        load("quik")
    with pytest.raises(ValueError, match="cannot read none.py: No such file"):
        load("none.py")


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (("darcy", "cg"), "'darcy' is a sequence: give the number of systems"),
        (partial(Group, "poisson2d", "cg", count=3), "'poisson2d' is one system: leave out"),
        ((["poisson2d", "ring"], "cg"), "of different kinds: diffusion and linear"),
        (("poison2d", "cg"), "did you mean poisson2d"),
        (("nosuch.mtx", "cg"), "there is no file nosuch.mtx"),
    ],
)
def test_cells_of_a_command_line_that_cannot_be(group, message):
    with pytest.raises(ValueError, match=message):
        ad_hoc(Group(*group, size=8) if isinstance(group, tuple) else group(size=8))


def test_filters_choose_and_unknown_ones_are_refused(small):
    chosen = select(small, ["scipy:cg+jacobi"], [])
    assert {cell.solver for cell in chosen.cells} == {"scipy:cg+jacobi"}
    for filters, problems, message in (
        (["cgg"], [], "unknown solver 'cgg'"),
        (["scipy:gmres"], [], "admits no cell"),
        ([], ["poisson3d"], "no cell of small is left with .*poisson3d"),
    ):
        with pytest.raises(ValueError, match=message):
            select(small, filters, problems)


# --- going on ------------------------------------------------------------------------------------


def test_a_killed_run_resumes_without_repeating(small, tmp_path, counted):
    file = tmp_path / "r.jsonl"
    first = run.execute(small, file, quiet())
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]) + lines[3][:50])  # killed in the middle of the fourth
    counted.clear()
    again = run.execute(small, file, quiet())
    assert counted == list(small.cells)[3:]
    assert [row["key"] for row in again] == [row["key"] for row in first]
    assert again[:3] == record.read(file)[:3] and len(record.read(file)) == 8


STALE = {
    "versions": lambda row: row["env"]["versions"].update(scipy="0.1"),
    "python": lambda row: row["env"].update(python="2.7"),
    "cpu": lambda row: row["env"].update(cpu="abacus"),
    "code": lambda row: row["env"].update(code="0"),
    "settings": lambda row: row["settings"].update(repeats=3),
    "unknown": lambda row: row.pop("env"),
}


@pytest.mark.parametrize("what", STALE)
def test_what_would_come_out_otherwise_is_measured_again_or_kept_on_demand(small, tmp_path, counted, what):
    file = tmp_path / "r.jsonl"
    rows = run.execute(small, file, quiet())
    old = json.loads(json.dumps(rows))
    for row in old[:2]:
        STALE[what](row)
    with record.RecordFile(file) as opened:
        opened.replace(old)
    counted.clear()
    kept = run.execute(small, file, quiet(), keep_old=True)
    assert counted == [] and kept == old
    with (console := Console(width=200)).capture() as capture:
        again = run.execute(small, file, console)
    assert counted == list(small.cells)[:2] and "measuring 2 cells again: " in capture.get()
    assert again[2:] == old[2:] and again[0] != old[0]
    # One record a cell, in the file too.
    assert record.read(file) == json.loads(json.dumps(again))


def test_a_stale_record_stays_until_all_is_measured_again(small, tmp_path, monkeypatch):
    file = tmp_path / "r.jsonl"
    rows = run.execute(small, file, quiet())
    monkeypatch.setattr(environment, "environment", lambda: {**rows[0]["env"], "code": "new"})
    monkeypatch.setattr(run, "environment", environment.environment)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(process, "measured", stop)
    with pytest.raises(run.Interrupted):
        run.execute(small, file, quiet())
    assert len(record.read(file)) == 8


def test_records_that_an_interrupted_run_made_anew_are_not_kept_twice(small, tmp_path, counted):
    file = tmp_path / "r.jsonl"
    rows = run.execute(small, file, quiet())
    with record.RecordFile(file) as opened:
        opened.append(rows[3])  # as it stood when the run was stopped
    counted.clear()
    assert run.execute(small, file, quiet()) == rows and counted == []
    assert record.read(file) == json.loads(json.dumps(rows))


def test_a_changed_title_or_another_size_keeps_the_rest(small, tmp_path, counted):
    file = tmp_path / "r.jsonl"
    run.execute(small, file, quiet())
    counted.clear()
    grown = load(written(tmp_path, SUITE.replace("[4, 6]", "[4, 6, 5]").replace("two columns", "two")))
    rows = run.execute(grown, file, quiet())
    assert len(rows) == 12 and {cell.size for cell in counted} == {5}


def test_fresh_starts_over_and_other_suites_are_refused(small, tmp_path):
    file = tmp_path / "r.jsonl"
    run.execute(small, file, quiet())
    other = dataclasses.replace(small, name="other")
    with pytest.raises(ValueError, match="holds records of suite small; choose another --out, or --fresh"):
        run.execute(other, file, quiet())
    assert len(record.read(file)) == 8
    assert len(run.execute(other, file, quiet(), fresh=True)) == 8
    assert {row["suite"] for row in record.read(file)} == {"other"}


def test_interruption_keeps_what_was_done(small, tmp_path, monkeypatch):
    file, measured = tmp_path / "r.jsonl", process.measured

    def stop_at_the_third(cell, *rest):
        if cell == list(small.cells)[2]:
            raise KeyboardInterrupt
        return measured(cell, *rest)

    monkeypatch.setattr(process, "measured", stop_at_the_third)
    with pytest.raises(run.Interrupted) as interrupted:
        run.execute(small, file, quiet())
    assert len(interrupted.value.records) == len(record.read(file)) == 2


def test_kills_at_random_moments_lose_and_double_nothing(tmp_path):
    """What was written before a SIGKILL is there after it, once; at the end everything is."""
    suite, file = written(tmp_path, SUITE.replace("[4, 6]", "range(4, 14)")), tmp_path / "r.jsonl"
    command = [sys.executable, "-c", "from bench.cli import main; main()", "run", suite, "--out", str(file)]
    rng, before, kills = np.random.default_rng(0), [], 0
    while kills < 2:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        size = file.stat().st_size if file.exists() else 0
        deadline = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < deadline:  # until it writes, then some time more
            if file.exists() and file.stat().st_size > size:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.05))
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
        kills += 1
        child.wait()
        found = record.read(file)
        assert found[: len(before)] == before
        before = found
    rows = run.execute(load(suite), file, quiet())
    assert len(rows) == 40 == len(record.read(file)) == len({row["key"] for row in rows})
    assert rows[: len(before)] == before


# --- what goes wrong -----------------------------------------------------------------------------


def made_up(columns, judge=lambda problem, answer, task: {"true_residual": answer.value}, problems=None):
    libraries = libraries_of(columns, "made_up")
    return Work("made_up", problems or {"one": lambda: 1.0}, judge, libraries)


def measured(work, solver="it", settings=None, **cell):
    given = {"problem": "one", "size": None, "rtol": 1e-8, "dtype": "float64", "seed": 0} | cell
    return measure.measure(Cell(solver=solver, **given), settings or Settings(repeats=1), work, "s")


def test_failures_are_rows():
    def explode(problem):
        raise RuntimeError("no such luck\nsecond line")

    row = measured(made_up({"it": explode}))
    assert row["result"] == "error: RuntimeError: no such luck"
    assert row.keys() >= REQUIRED and row["num_steps"] is None


def test_a_judge_that_raises_is_a_row():
    def judge(problem, answer, task):
        raise KeyError("weights")

    assert measured(made_up({"it": lambda p: 0.0}, judge))["result"] == "error: judge: KeyError: 'weights'"


def test_a_metric_that_is_no_number_is_told_and_no_success(tmp_path):
    from bench.report import frame

    def judge(problem, answer, task):
        return {"true_residual": float("nan"), "gap": float("inf"), "fine": 1.0}

    row = measured(made_up({"it": lambda p: 0.0}, judge))
    assert row["nonfinite"] == ["true_residual", "gap"] and not frame.succeeded(row)
    with record.RecordFile(tmp_path / "r") as file:
        file.append(row)
    assert record.read(tmp_path / "r")[0]["nonfinite"] == ["true_residual", "gap"]


def test_a_missing_library_is_a_row_and_reported_once(tmp_path, monkeypatch):
    found = ad_hoc(Group("poisson2d", "pyamg:cg", size=[4, 5]))
    monkeypatch.setattr("bench.engine.work.version", lambda name: None)
    with (console := Console(width=200)).capture() as capture:
        rows = run.execute(found, tmp_path / "r.jsonl", console)
    assert [row["result"] for row in rows] == ["missing", "missing"]
    assert capture.get().count("pyamg is not installed (pip install 'nsolve[peers]')") == 1
    monkeypatch.undo()
    pytest.importorskip("pyamg")  # once it is there, the cells are measured after all
    rows = run.execute(found, tmp_path / "r.jsonl", quiet())
    assert [row["result"] for row in rows] == ["successful", "successful"]


def test_a_problem_that_needs_a_library():
    def problem():
        raise Missing("it needs a thing (pip install thing)")

    row = measured(made_up({"it": lambda p: 0.0}, problems={"one": problem}))
    assert row["result"] == "missing" and row["message"] == "it needs a thing (pip install thing)"


def test_tighter_tolerances_are_not_tried_after_the_time_was_up(monkeypatch):
    asked = []

    def judge(problem, answer, task):
        asked.append(task.rtol)
        return {"result": "time_limit" if task.rtol < 1e-3 else "successful", "true_residual": 0.0}

    work = dataclasses.replace(made_up({"it": lambda p: 0.0}, judge), settings=("limit_s",))
    group = Group("one", "it", rtol=[1e-2, 1e-4, 1e-6, 1e-8], limit_s=1.0, repeats=1)
    suite = bench.Suite("t", work, [group], name="t", cells=suites.expand(group, work, "group 1"))
    rows = run.execute(suite, None, quiet())
    assert asked == [1e-2, 1e-4]
    assert [row["result"] for row in rows] == ["successful", *["time_limit"] * 3]
    assert [row.get("not_tried_after") for row in rows] == [None, None, 1e-4, 1e-4]


# --- clocks --------------------------------------------------------------------------------------


class Clocked(Run):
    """A run that takes a given time according to a clock of our own."""

    def __init__(self, clock, seconds, first=0.0, setups=(0.0,), compiles=False, ahead=False):
        super().__init__(Task(None, Cell("p", None, "s", 1e-8, "float64", 0)))
        self.clock, self.length, self.first, self.setups = clock, seconds, first, list(setups)
        self.compiles, self.ahead = compiles, ahead
        self.solves = 0

    def setup(self):
        self.clock[0] += self.setups.pop(0)

    def compile(self, state):
        self.clock[0] += 7.0 if self.compiles else 0.0

    def solve(self, program):
        self.solves += 1
        self.clock[0] += self.length + (self.first if self.solves == 1 else 0.0)

    def answer(self, raw):
        return Answer("successful")


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "repeats", "n"),
    [
        (0.01, None, measure.MOST),
        (0.25, None, 4),
        (0.9, None, 3),
        (6.0, None, 1),
        (0.5, 2, 2),
        (6.0, 2, 2),
    ],
)
def test_repeats_adapt(clock, seconds, repeats, n):
    row, _ = measure.timed(Clocked(clock, seconds), repeats)
    assert row["solve_s"]["n"] == n
    assert row["solve_s"]["median"] == pytest.approx(seconds)
    assert row["compile_s"] == 0


def test_compilation_is_told_apart(clock):
    row, _ = measure.timed(Clocked(clock, 1.0, first=2.0, setups=(5.0, 0.5), compiles=True))
    assert row["setup_s"] == pytest.approx(0.5)
    assert row["compile_s"] == pytest.approx((5.0 - 0.5) + 7.0 + 2.0)
    assert row["solve_s"] == pytest.approx({"min": 1.0, "median": 1.0, "iqr": 0.0, "n": 3})


def test_what_is_compiled_ahead_is_solved_once_where_once_is_asked_for(clock):
    timed = Clocked(clock, 1.0, setups=(0.5,), compiles=True, ahead=True)
    timed.seconds["compile_s"] = 3.0  # for an earlier cell
    row, _ = measure.timed(timed, repeats=1)
    assert (row["setup_s"], row["compile_s"], timed.solves) == (0.5, 3.0, 1)


# --- processes -----------------------------------------------------------------------------------


FRAGILE = """
import os, time
from bench import Group, Suite, Work, libraries_of

def column(problem, how="well"):
    if how == "signal":
        os.kill(os.getpid(), 11)
    if how == "exit":
        os._exit(3)
    if how == "forever":
        time.sleep(1000)
    return 0.0

WORK = Work(
    "fragile", {"one": lambda: 1.0}, lambda p, a, t: {"true_residual": a.value},
    libraries_of({"it": column}, "fragile"),
)
SUITE = Suite(
    "processes", WORK,
    [Group("one", ["it[how=signal]", "it", "it[how=exit]", "it[how=forever]"], isolate=True, kill_s=300.0,
           repeats=1)],
)
"""


def test_a_crash_in_a_process_of_its_own_is_a_record(tmp_path):
    suite = load(written(tmp_path, FRAGILE.replace(', "it[how=forever]"', "")))
    rows = run.execute(suite, tmp_path / "r.jsonl", quiet())
    assert rows[0]["result"] == "error: the process was ended by SIGSEGV"
    assert rows[1]["result"] == "successful" and rows[1]["settings"]["isolate"] is True
    assert rows[2]["result"].startswith("error: ")
    assert all(row["source"] == suite.source and row["env"] for row in rows)


def test_a_process_is_killed_at_its_limit(tmp_path):
    text = FRAGILE.replace('"it[how=signal]", "it", "it[how=exit]", ', "").replace("300.0", "4.0")
    start = time.monotonic()
    (row,) = run.execute(load(written(tmp_path, text)), None, quiet())
    assert row["result"] == "killed at its limit" and time.monotonic() - start < 60


def test_fresh_processes_report_first_call_memory_and_stages():
    ballast = np.ones(2**27)  # 1 GiB in this process, of which nothing may show
    cell = Cell("lognormal2d[contrast=100.0]", 6, "cg[form=stencil]", 1e-8, "float64", 0)
    settings = Settings(max_steps=100, repeats=1, memory=True, first_call=1, stages=1)
    row = process.measured(cell, settings, bench.linear, "s", None)
    assert row["result"] == "successful"
    assert 0 < row["first_call_s"] < 60
    assert 50 * 2**20 < row["peak_bytes"] < ballast.nbytes
    assert 0 <= row["memory_bytes"] < row["peak_bytes"] and row["compile_memory_bytes"] > 0
    assert row["stages"].keys() == {"value", "gradient"}
    for found in row["stages"].values():
        assert found.keys() == set(process.STAGES) and all(seconds > 0 for seconds in found.values())

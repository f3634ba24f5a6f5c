"""`compare` and `regress`: what is a regression, and what is only noise."""

import json
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from bench.report import compare as module
from bench.report.compare import compare
from bench.report.regress import beside_peers, regress
from tests.bench import records
from tests.bench.records import timed, write


def record(**changes):
    return records.record(
        **{"size": 64, "steps": 100, "residual_norms": None, "solve_s": timed(1.0)} | changes
    )


@pytest.fixture
def console():
    return Console(width=160, record=True, force_terminal=False)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, 0),
        ({"result": "breakdown", "true_residual": 0.5}, 1),
        ({"result": "error: no memory", "true_residual": None}, 1),
        ({"true_residual": 1.1e-8}, 1),
        ({"true_residual": None}, 1),
        ({"false_success": True}, 1),
        ({"num_steps": 102}, 0),  # not over 2
        ({"num_steps": 105}, 0),  # not over 5 %
        ({"num_steps": 106}, 1),
        ({"num_steps": None}, 0),
        ({"num_steps": 50, "solve_s": timed(0.5)}, 0),
        ({"solve_s": timed(1.24)}, 0),  # below the threshold
        ({"solve_s": timed(1.4)}, 1),
        ({"solve_s": timed(1.4, iqr=0.5)}, 0),  # drowns in the spread
        ({"solve_s": None}, 0),
    ],
)
def test_verdict(tmp_path, console, change, code):
    base = write(tmp_path / "base.jsonl", record())
    new = write(tmp_path / "new.jsonl", record(**change))
    assert compare(base, new, 1.25, console) == code
    assert ("regressed" in console.export_text()) == bool(code)


def test_every_reason_is_named(tmp_path, console):
    solvers = ("cg", "minres", "gmres", "bicgstab", "qmr")
    changes = [
        {"result": "breakdown"},
        {"num_steps": 300},
        {"solve_s": timed(2.0)},
        {},
        {"true_residual": 1e-9},
    ]
    base = [record(solver=s) for s in solvers[:4]] + [record(solver="qmr", true_residual=0.1)]
    new = [record(solver=s, **change) for s, change in zip(solvers, changes, strict=True)]
    assert compare(write(tmp_path / "a", *base), write(tmp_path / "b", *new), 1.25, console) == 1
    text = console.export_text()
    for words in (
        "now fails: breakdown",
        "200 more steps",
        "2.00x slower",
        "now succeeds",
        "3 of 5 cells regressed",
    ):
        assert words in text
    assert "100 → 300" in text and "1.00 s → 2.00 s" in text and "2.00 ± 0.10" in text


def test_a_failure_that_stays_one_is_no_regression(tmp_path, console):
    failed = record(result="max_steps_reached", true_residual=0.1)
    slower = failed | {"solve_s": timed(9.0), "num_steps": 900}
    base, new = write(tmp_path / "a", failed), write(tmp_path / "b", slower)
    assert compare(base, new, 1.25, console) == 0
    assert "still fails: out of steps" in console.export_text()


def test_threshold_is_obeyed(tmp_path, console):
    base, new = write(tmp_path / "a", record()), write(tmp_path / "b", record(solve_s=timed(1.4)))
    assert compare(base, new, 1.5, console) == 0
    with pytest.raises(ValueError, match="threshold is 0.5"):
        compare(base, new, 0.5, console)


def test_cells_on_one_side_are_listed(tmp_path, console):
    base = write(tmp_path / "a", record(), record(solver="gmres[restart=30]"))
    new = write(tmp_path / "b", record(), record(solver="minres"))
    assert compare(base, new, 1.25, console) == 0
    text = console.export_text()
    assert "poisson2d 64  gmres[restart=30] (1e-8)" in text and "poisson2d 64  minres (1e-8)" in text


def test_nothing_in_common_is_no_pass(tmp_path, console):
    base, new = write(tmp_path / "a", record()), write(tmp_path / "b", record(rtol=1e-6))
    assert compare(base, new, 1.25, console) == 2


def test_seeds_precisions_and_lengths_are_other_cells(tmp_path, console):
    base = write(tmp_path / "a", record(), record(seed=1, solve_s=timed(9.0)), record(dtype="float32"))
    new = write(
        tmp_path / "b",
        record(seed=1, solve_s=timed(9.0)),
        record(),
        record(length=3, work="linear", solve_s=timed(9.0)),
    )
    assert compare(base, new, 1.25, console) == 0
    assert "No regression in 2 cells" in console.export_text()


def test_a_cell_measured_again_replaces_the_older_one(tmp_path, console):
    base = write(tmp_path / "a", record())
    new = write(tmp_path / "b", record(num_steps=300), record())
    assert compare(base, new, 1.25, console) == 0


def at(minute, median):
    return record(solve_s=timed(median, iqr=0.0), time=f"2026-11-20T12:{minute:02d}:00+00:00")


def test_what_was_measured_in_turn_is_compared_pair_by_pair(tmp_path, console):
    # The machine slows down threefold; the new code takes 10 % more throughout.
    speeds = [1.0, 2.0, 3.0]
    base = write(tmp_path / "a", *(at(2 * k, speed) for k, speed in enumerate(speeds)))
    new = write(tmp_path / "b", *(at(2 * k + 1, 1.1 * speed) for k, speed in enumerate(speeds)))
    assert compare(base, new, 1.25, console) == 0
    assert "1.10 ± 0.00" in console.export_text()
    slow = write(tmp_path / "c", *(at(2 * k + 1, 1.5 * speed) for k, speed in enumerate(speeds)))
    assert compare(base, slow, 1.25, console) == 1
    # One after the other, the last records count.
    later = write(tmp_path / "d", *(at(20 + k, 1.1 * speed) for k, speed in enumerate([1.0, 2.0, 9.0])))
    assert compare(base, later, 1.25, console) == 1


def test_another_machine_is_warned_of(tmp_path, console):
    base = write(tmp_path / "a", record(env={"cpu": "old", "versions": {"jax": "1", "scipy": "2"}}))
    new = write(tmp_path / "b", record(env={"cpu": "new", "versions": {"jax": "1", "scipy": "3"}}))
    assert compare(base, new, 1.25, console) == 0
    text = console.export_text()
    assert "cpu differ: old → new" in text and "versions differ: scipy 2 → 3" in text


def test_files_of_commits(tmp_path, console, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def git(*arguments):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True, capture_output=True
        )

    git("init")
    write(tmp_path / "r.jsonl", record())
    git("add", "r.jsonl")
    git("commit", "-m", "records")
    write(tmp_path / "r.jsonl", record(num_steps=300))
    assert compare("HEAD:r.jsonl", "r.jsonl", 1.25, console) == 1
    assert compare("HEAD:r.jsonl", "HEAD:r.jsonl", 1.25, console) == 0
    with pytest.raises(ValueError, match="cannot read HEAD:none.jsonl"):
        compare("HEAD:none.jsonl", "r.jsonl", 1.25, console)


def test_bad_line_is_named(tmp_path, console):
    good = write(tmp_path / "good.jsonl", record())
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(record()) + "\nnonsense\n")
    with pytest.raises(ValueError, match=r"bad.jsonl, line 2"):
        compare(good, bad, 1.25, console)
    with pytest.raises(ValueError, match="none.jsonl"):
        compare(good, tmp_path / "none.jsonl", 1.25, console)
    with pytest.raises(ValueError, match="holds no records"):
        compare(good, write(tmp_path / "empty.jsonl"), 1.25, console)


# ---- regress -------------------------------------------------------------------------------------
SUITE = """
import time
from bench import Answer, Group, Suite, Work, libraries_of

def waiting(seconds, steps=10):
    def column(problem):
        time.sleep(seconds)
        return Answer("successful", 1.0, {"num_steps": steps})
    return column

def problem(size):
    return size

columns = {"ours": waiting(0.02), "counted": waiting(0.02, 20), "scipy:slow": waiting(0.04),
           "scipy:fast": waiting(0.002), "pyamg:slowest": waiting(0.06)}
work = Work("waiting", {"problem": problem}, lambda problem, answer, task: {"true_residual": 0.0},
            libraries_of(columns, "waiting"))
SUITE = Suite("waits", work, [Group("problem", list(columns), size=[1], repeats=3)])
"""


def then(solver, median, iqr=0.0, **changes):
    """A record of the suite, on a machine ten times as slow as sleeping is here."""
    made = record(
        problem="problem", size=1, solver=solver, solve_s=timed(10 * median, 10 * iqr), num_steps=10
    )
    return made | {"true_residual": 0.0, "work": "waiting"} | changes


PEERS = [then("scipy:slow", 0.04), then("scipy:fast", 0.002), then("pyamg:slowest", 0.06)]


@pytest.mark.parametrize(
    ("ours", "code", "words"),
    [
        ([then("ours", 0.02), then("counted", 0.02, num_steps=20)], 0, "No regression in 2 columns"),
        ([then("ours", 0.01)], 1, "slower"),
        ([then("ours", 0.01, iqr=0.02)], 0, "No regression in 1 columns"),  # drowns
        ([then("counted", 0.02)], 1, "10 more steps"),
        ([then("elsewhere", 0.02)], 2, "Nothing to compare"),
    ],
)
def test_regress(tmp_path, console, ours, code, words):
    suite = tmp_path / "waits.py"
    suite.write_text(SUITE)
    base = write(tmp_path / "base.jsonl", *PEERS, *ours)
    assert regress(str(suite), base, console) == code
    text = console.export_text()
    assert words in text
    assert "scipy:slow" in text or code == 2
    assert "pyamg:slowest" not in text  # where there is one of SciPy's
    assert ("elsewhere" in text) == (code == 2)


def test_regress_allows_what_it_is_told_to(tmp_path, console):
    suite = tmp_path / "waits.py"
    suite.write_text(SUITE)
    base = write(tmp_path / "base.jsonl", *PEERS, then("ours", 0.01))
    assert regress(str(suite), base, console, threshold=4.0) == 0
    with pytest.raises(ValueError, match="threshold is 0.5"):
        regress(str(suite), base, console, threshold=0.5)


def test_regress_takes_any_peer_that_is_there_and_says_where_there_is_none(tmp_path, console):
    suite = tmp_path / "waits.py"
    suite.write_text(SUITE)
    failed = then("scipy:slow", 0.04, result="breakdown")
    assert regress(str(suite), write(tmp_path / "a", then("ours", 0.02), failed, PEERS[2]), console) == 0
    assert "pyamg:slowest" in console.export_text()
    assert regress(str(suite), write(tmp_path / "b", then("ours", 0.0001), failed), console) == 0
    assert "1 columns have no peer there: their times are not compared" in console.export_text()


def test_committed_records_do_not_regress_beside_themselves(console):
    path = Path(__file__).parents[2] / "docs" / "benchmarks" / "quick.jsonl"
    read = module.read(path)
    changes = beside_peers(module.joined(read, read), 1.25)
    assert len(changes) == len([r for r in read if ":" not in r["solver"]]) > 20
    assert changes["problems"].list.len().sum() == 0
    assert changes["peer"].null_count() == 0 and set(changes["ratio"]) == {1.0}
    assert all(peer.startswith("scipy:") for peer in changes["peer"])

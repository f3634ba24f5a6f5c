"""The line about a long solve: on a terminal, and nowhere else."""

import io
import re

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

import nsolve as ns
from bench import live
from bench.solve import solve_file


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(live, "PATIENCE", 0.0)
    return Terminal()


def laplacian(n):
    return sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))


def words(stream):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())


@pytest.mark.parametrize("solver", ["cg", "gmres[restart=50]", "lsmr"])
def test_it_tells_attempt_step_and_residual(terminal, monkeypatch, solver):
    scipy.io.mmwrite("a.mtx", sp.coo_array(laplacian(200)), precision=17)
    monkeypatch.setattr("sys.stderr", terminal)
    assert solve_file("a.mtx", solver=solver, max_steps=3) == 1
    assert re.search(re.escape(solver) + r" \S+ step \d+, residual [\d.e-]+ / 1e-8 0:00:0\d", words(terminal))
    assert terminal.getvalue().rstrip().endswith("\x1b[2K")  # and is wiped away


def test_each_column_has_its_own_line(terminal, monkeypatch):
    scipy.io.mmwrite("a.mtx", sp.coo_array(laplacian(30)), precision=17)
    np.save("b.npy", np.random.default_rng(0).normal(size=(30, 2)))
    monkeypatch.setattr("sys.stderr", terminal)
    assert solve_file("a.mtx", rhs="b.npy", solver="cg+ic") == 0
    assert "cg+ic, column 1" in words(terminal)


def test_nothing_is_shown_elsewhere(terminal, monkeypatch):
    plain = io.StringIO()
    assert live.Live(plain, 1).monitor is None
    with live.Live(plain, 1).solving("cg"):
        pass
    monkeypatch.setenv("TERM", "dumb")
    assert plain.getvalue() == "" and live.Live(Terminal(), 1).monitor is None


def test_short_solves_are_not_shown(terminal, monkeypatch):
    monkeypatch.setattr(live, "PATIENCE", 60.0)
    with live.Live(terminal, 1).solving("cg"):
        pass
    assert terminal.getvalue() == ""


def test_the_bar_is_the_logarithm_of_the_residual(terminal):
    for stays, completed, total in ((False, 0.5, 1.0), (True, 0.0, None)):
        shown = live.Live(terminal, 10**9, stays)
        assert shown.monitor is not None and shown.bar is not None
        assert shown.monitor.every == 1  # which would slow down those with few entries
        with shown.solving("cg"):
            (task,) = shown.bar.tasks
            shown.monitor.call(ns.Progress("CG", 7, 100, 3e-4, 3.0, 3e-8))
            assert task.total == total and task.completed == pytest.approx(completed)
            assert task.fields["reached"].startswith("step 7, residual 1e-4")
        assert shown.bar.tasks == []
    shown = live.Live(terminal, 1)
    assert shown.monitor is not None and shown.monitor.every == 1000

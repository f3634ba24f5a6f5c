"""Monitors: they see every step once, can end a solve, and change nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import nsolve as ns
from nsolve.chain import Attempt, Chain
from nsolve.monitor import Both

from .subjects.linear import PSD, grid_matrix

N = 8
MATRIX = grid_matrix(N) + 0.5 * np.eye(N * N)
SLOW = ns.SparseLinearOperator.from_scipy(grid_matrix(24), PSD)
DEFINITE = ns.SparseLinearOperator.from_scipy(MATRIX, PSD)
B = np.random.default_rng(0).standard_normal(N * N)
jacobi = ns.preconditioners.Jacobi()
SOLVERS = {
    "cg": ns.CG(rtol=1e-8),
    "cg-recycling": ns.CG(rtol=1e-8, recycle=2),
    "fcg": ns.FlexibleCG(rtol=1e-8),
    "minres+jacobi": ns.MINRES(rtol=1e-8, preconditioner=jacobi),
    "bicgstab": ns.BiCGStab(rtol=1e-8),
    "gmres": ns.GMRES(rtol=1e-8, restart=7),
    "fgmres": ns.FGMRES(rtol=1e-8, restart=7),
    "gcrodr": ns.GCRODR(rtol=1e-8, restart=7, recycle=2),
    "chebyshev": ns.Chebyshev(rtol=1e-8),
    "sor": ns.SOR(rtol=1e-4),
    "richardson": ns.Richardson(rtol=1e-4, preconditioner=jacobi),
    "refinement": ns.IterativeRefinement(ns.CG(rtol=1e-2), rtol=1e-10),
    "lsmr": ns.LSMR(rtol=1e-8),
    "lsqr": ns.LSQR(rtol=1e-8),
    "cgls": ns.CGLS(rtol=1e-8),
}


class Seen:
    """A monitor's function that keeps what it is called with, and ends the solve at a step."""

    def __init__(self, last: float = np.inf):
        self.all: list[ns.Progress] = []
        self.last = last

    def __call__(self, progress: ns.Progress) -> bool:
        self.all.append(progress)
        return progress.num_steps >= self.last

    @property
    def steps(self) -> list[int]:
        return [progress.num_steps for progress in self.all]


def solve(solver, b=B, operator=DEFINITE, **kwargs):
    return lx.linear_solve(operator, jnp.asarray(b), solver, throw=False, **kwargs)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_step_is_seen_once(name):
    seen, scale = Seen(), 2.0**-300  # norms are told in the user's units
    monitored = dataclasses.replace(SOLVERS[name], monitor=ns.Monitor(seen, every=3), history=True)
    solution = solve(monitored, scale * B)
    steps = int(solution.stats["num_steps"])
    assert solution.result == lx.RESULTS.successful and steps > 3
    assert seen.steps == list(range(0, steps + 1, 3))
    # The last entry of each cycle is computed, where the monitor has been told the recursion's.
    history = np.asarray(solution.stats["residual_norms"])[seen.steps]
    np.testing.assert_allclose([p.residual_norm for p in seen.all], history, rtol=1e-5)
    first = seen.all[0]
    size = float(scale * np.linalg.norm(B))
    assert first.solver == type(monitored).__name__ and first.max_steps == solution.stats["max_steps"]
    np.testing.assert_allclose(
        [first.residual_norm, first.vector_norm, first.tolerance / float(monitored.rtol)], size, rtol=1e-14
    )


@pytest.mark.parametrize("name", ["cg", "gmres", "lsmr"])
def test_a_monitor_changes_nothing(name):
    plain, monitored = (
        solve(solver) for solver in (SOLVERS[name], dataclasses.replace(SOLVERS[name], monitor=ns.Forecast()))
    )
    np.testing.assert_array_equal(plain.value, monitored.value)
    assert plain.stats["num_matvecs"] == monitored.stats["num_matvecs"]


@pytest.mark.parametrize("name", ["cg", "gmres", "bicgstab", "lsmr", "refinement"])
def test_a_monitor_ends_the_solve_with_the_best_iterate(name):
    seen = Seen(last=2)
    solution = solve(dataclasses.replace(SOLVERS[name], monitor=ns.Monitor(seen)))
    assert seen.steps == [0, 1, 2] and solution.stats["num_steps"] == 2
    assert solution.stats["reason"] == ns.linear.REASONS.stopped
    assert solution.result == lx.RESULTS.max_steps_reached
    true = np.linalg.norm(B - MATRIX @ np.asarray(solution.value))
    assert true <= np.linalg.norm(B)
    np.testing.assert_allclose(solution.stats["residual_norm"], true, rtol=1e-10)


def test_a_monitor_can_end_the_solve_before_its_first_step_and_is_heard_with_throw():
    solution = solve(ns.CG(rtol=1e-8, monitor=ns.Monitor(Seen(last=0))))
    assert solution.stats["num_steps"] == 0 and solution.stats["reason"] == ns.linear.REASONS.stopped
    with pytest.raises(Exception, match=r"CG: The monitor asked for the end of the solve"):
        lx.linear_solve(DEFINITE, jnp.asarray(B), ns.CG(rtol=1e-8, monitor=ns.Monitor(Seen(last=3))))


def test_a_solve_that_is_done_is_not_called_stopped():
    plain = solve(ns.CG(rtol=1e-8))
    last = int(plain.stats["num_steps"])
    solution = solve(ns.CG(rtol=1e-8, monitor=ns.Monitor(Seen(last=last))))
    assert solution.result == lx.RESULTS.successful and solution.stats["num_steps"] == last


def test_lines_are_printed(capfd):
    solution = solve(ns.CG(rtol=1e-8, history=True, monitor=ns.Monitor(every=5)))
    jax.block_until_ready(solution.value)
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == int(solution.stats["num_steps"]) // 5 + 1
    norm = float(solution.stats["residual_norms"][5])
    expected = f"     5 CG residual norm {norm:.6e}, relative {norm / np.linalg.norm(B):.2e}"
    assert lines[1] == expected
    assert str(ns.Progress("CG", 0, 10, 0.0, 0.0, 0.0)).endswith("relative nan")


def test_each_element_of_a_batch_is_seen_as_far_as_it_goes():
    seen = Seen()
    solver = ns.CG(rtol=1e-8, monitor=ns.Monitor(seen))
    batch = np.stack([B, np.ones(N * N), np.zeros(N * N)])
    counts = jax.vmap(lambda b: solve(solver, b).stats["num_steps"])(batch)
    for b, count in zip(batch, counts, strict=True):
        size = np.linalg.norm(b)
        steps = [p.num_steps for p in seen.all if np.isclose(p.vector_norm, size, rtol=1e-12)]
        assert steps == list(range(count + 1))


def test_adjoint_solves_are_seen_as_well():
    seen = Seen()
    solver = ns.CG(rtol=1e-8, monitor=ns.Monitor(seen))
    gradient = jax.jit(jax.grad(lambda b: solve(solver, b).value[0] ** 2))(jnp.asarray(B))
    row = np.linalg.inv(MATRIX)[0]
    np.testing.assert_allclose(gradient, 2 * (row @ B) * row, atol=1e-8)
    assert seen.steps.count(0) == 2


def test_what_a_monitor_raises_ends_the_solve():
    def broken(progress):
        raise KeyError("no such thing")

    with pytest.raises(Exception, match="no such thing"):
        jax.block_until_ready(solve(ns.CG(rtol=1e-8, monitor=ns.Monitor(broken))).value)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: ns.CG(rtol=1e-8, monitor=10), TypeError, r"CG\(monitor=.*Monitor\(every=10\)"),
        (lambda: ns.LSMR(rtol=1e-8, monitor=print), TypeError, r"LSMR\(monitor=.*Monitor\(function\)"),
        (lambda: ns.Monitor(every=0), ValueError, r"Monitor\(every=.*>= 1, but is 0"),
        (lambda: ns.Monitor(every=2.0), ValueError, r"Monitor\(every=.*>= 1, but is 2.0"),
        (lambda: ns.Monitor(10), TypeError, r"Monitor\(call=.*but is 10"),
    ],
)
def test_bad_monitors_are_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_forecast_ends_what_would_not_end_in_time_and_only_that():
    b = np.random.default_rng(1).standard_normal(24 * 24)
    needed = int(solve(ns.CG(rtol=1e-10), b, SLOW).stats["num_steps"])
    solution = solve(ns.CG(rtol=1e-10, max_steps=needed, monitor=ns.Forecast()), b, SLOW)
    assert solution.result == lx.RESULTS.successful
    solution = solve(ns.CG(rtol=1e-10, max_steps=needed // 3, monitor=ns.Forecast()), b, SLOW)
    assert solution.stats["reason"] == ns.linear.REASONS.hopeless
    assert solution.result == lx.RESULTS.stagnation and solution.stats["num_steps"] < needed // 3
    # Without a tolerance all steps are wanted.
    solution = solve(ns.CG(rtol=0.0, max_steps=40, monitor=ns.Forecast()), b, SLOW)
    assert solution.stats["num_steps"] == 40
    # A restarted method that stands still is left at the first look.
    cycle = ns.SparseLinearOperator.from_scipy(np.roll(np.eye(64), 1, axis=1))
    one = np.eye(64)[0]
    solution = solve(ns.BiCGStab(rtol=1e-8, max_steps=400, monitor=ns.Forecast()), one, cycle)
    assert solution.stats["num_steps"] <= 50


def test_two_monitors_both_see_and_either_ends():
    seen = Seen()
    both = Both(ns.Monitor(seen), ns.Forecast())
    b = np.random.default_rng(1).standard_normal(24 * 24)
    solution = solve(ns.CG(rtol=1e-10, max_steps=40, monitor=both), b, SLOW)
    assert solution.stats["reason"] == ns.linear.REASONS.hopeless
    assert seen.steps == list(range(int(solution.stats["num_steps"]) + 1))
    solution = solve(ns.CG(rtol=1e-10, monitor=Both(ns.Monitor(Seen(last=4)), ns.Forecast())), b, SLOW)
    assert solution.stats["reason"] == ns.linear.REASONS.stopped and solution.stats["num_steps"] == 4


def test_a_monitor_that_ends_an_attempt_ends_the_chain():
    seen = Seen(last=3)
    monitor = ns.Monitor(seen)
    attempts = (Attempt(ns.CG(rtol=1e-12, monitor=monitor)), Attempt(ns.GMRES(rtol=1e-12, monitor=monitor)))
    solution = solve(Chain(attempts))
    assert {progress.solver for progress in seen.all} == {"CG"}
    assert solution.stats["reason"] == ns.linear.REASONS.stopped

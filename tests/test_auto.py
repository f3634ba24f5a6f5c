"""`auto`: what it chooses, and that the chain it returns finds the answer or says why there is none."""

import importlib
import re
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp

import nsolve as ns
from nsolve.chain import Attempt, Chain

from .subjects.linear import PSD, grid_matrix

auto = importlib.import_module("nsolve.auto")  # the package's name is the function
precond = ns.preconditioners


def sparse(matrix, tags=()) -> ns.SparseLinearOperator:
    return ns.SparseLinearOperator.from_scipy(matrix, tags)


def named(chain: Chain) -> list[str]:
    return [re.sub(", at most.*", "", str(attempt)) for attempt in chain.attempts]


@pytest.fixture
def all_are_large(monkeypatch):
    """Small matrices are treated as if factors cost seconds."""
    monkeypatch.setattr(auto, "_SMALL", 0)
    monkeypatch.setattr(auto, "factor_cost", lambda pattern: (1e6, 20.0))


@pytest.fixture
def none_fits(monkeypatch):
    monkeypatch.setattr(auto, "_SMALL", 0)
    monkeypatch.setattr(auto, "factor_cost", lambda pattern: (1e15, 1e6))


DEFINITE = sparse(grid_matrix(4), PSD)
SYMMETRIC = sparse(grid_matrix(4) - 5.1 * np.eye(16), lx.symmetric_tag)
SUPPOSED = sparse(grid_matrix(4))
PLAIN = sparse(grid_matrix(4) + np.diag(np.ones(15), 1))
HOLLOW = sparse(np.roll(np.eye(16), 1, axis=1))
GRID = ns.StencilLinearOperator.poisson((8, 8), 1.0)
WIDE = ns.StencilLinearOperator.from_stencil(
    {(-2,): 1.0, (-1,): -4.0, (0,): 6.5, (1,): -4.0, (2,): 1.0}, (40,), tags=PSD
)


@pytest.mark.parametrize("operator", [DEFINITE, SYMMETRIC, PLAIN, HOLLOW, GRID, WIDE, 2 * DEFINITE + PLAIN])
def test_few_unknowns_are_factorised_at_once(operator):
    solver = ns.auto(operator, rtol=1e-10)
    assert named(solver) == ["SparseLU"] and "factorised at once" in repr(solver)
    b = jax.tree.map(lambda s: jnp.ones(s.shape), operator.in_structure())
    solution = lx.linear_solve(operator, b, solver)
    assert jnp.linalg.norm((b - operator.mv(solution.value)).ravel()) <= 1e-10 * jnp.linalg.norm(b.ravel())


LARGE = [
    (GRID, ["CG with Multigrid", "SparseLU", "CG with IncompleteCholesky"]),
    (WIDE, ["CG with IncompleteCholesky", "SparseLU", "CG with Jacobi"]),
    (DEFINITE, ["CG with IncompleteCholesky", "SparseLU", "CG with Jacobi"]),
    (SUPPOSED, ["CG with IncompleteCholesky", "SparseLU", "CG with Jacobi"]),
    (SYMMETRIC, ["SparseLU", "MINRES"]),
    (
        PLAIN,
        ["GMRES with IncompleteLU", "SparseLU", "GMRES with ThresholdLU", "GMRES"],
    ),
    (HOLLOW, ["GMRES with ThresholdLU", "SparseLU", "GMRES"]),
]


@pytest.mark.parametrize("operator, names", LARGE)
def test_what_comes_first_where_factors_are_dear(operator, names, all_are_large):
    chain = ns.auto(operator, rtol=1e-8)
    assert named(chain) == names
    assert chain.about.startswith(f"{operator.in_size()} unknowns")
    first = chain.attempts[0].solver
    budget = not isinstance(first, ns.SparseLU) and names[0] != "GMRES with ThresholdLU"
    assert (getattr(first, "max_steps", None) is not None) == budget


@pytest.mark.parametrize("operator, names", LARGE)
def test_factors_that_do_not_fit_have_no_place(operator, names, none_fits):
    assert named(ns.auto(operator)) == [name for name in names if name != "SparseLU"]


def test_products_only():
    structure = jax.ShapeDtypeStruct((3,), float)
    for tags, expected in ((PSD, "CG"), (lx.symmetric_tag, "MINRES"), ((), "GMRES")):
        operator = lx.FunctionLinearOperator(lambda x: 2 * x, structure, tags)
        assert named(ns.auto(operator)) == [expected]
        np.testing.assert_allclose(
            lx.linear_solve(operator, jnp.ones(3), ns.auto(operator)).value, 0.5, rtol=1e-6
        )


def test_multigrid_is_planned_by_what_is_seen(all_are_large):
    jumps = ns.gallery.blocks(0, (60, 60), size=3, contrast=1e4)
    problem = ns.gallery.diffusion(1, jumps)
    plans = []

    def plan(operator):
        plans.append(ns.auto(operator).attempts[0].solver.preconditioner.plan)

    plan(problem.operator)
    jax.jit(lambda: plan(problem.operator))()  # which is closed over
    eqx.filter_jit(plan)(problem.operator)
    assert plans[0] == plans[1] and plans[0].algebraic and plans[2] is None


def test_a_stalled_attempt_hands_on_its_best(all_are_large):
    """An indefinite matrix supposed definite: `CG` breaks down, `SparseLU` solves, and it is told."""
    matrix = grid_matrix(6) - 0.9 * np.eye(36)
    chain = ns.auto(sparse(matrix, lx.symmetric_tag), rtol=1e-10)
    assert named(chain)[:2] == ["CG with IncompleteCholesky", "SparseLU"]
    b = jnp.arange(36.0)
    solution = lx.linear_solve(sparse(matrix, lx.symmetric_tag), b, chain)
    np.testing.assert_allclose(matrix @ solution.value, b, atol=1e-8)
    attempts = solution.stats["attempts"]
    assert attempts.ran.tolist() == [True, True, False]
    text = repr(attempts)
    assert re.search(r"1\. CG with .*supposed positive definite\): (indefinite|precond)", text)
    assert re.search(
        r"2\. SparseLU .*: converged after \d steps, residual .* s\n3\. MINRES .*: not made", text
    )
    assert 0 < attempts.seconds[0] < 60 and attempts.seconds[2] == 0
    assert solution.stats["num_steps"] == sum(attempts.num_steps)


def test_gradients_and_batches_of_a_chain(all_are_large):
    chain = ns.auto(PLAIN, rtol=1e-12)
    assert len(chain.attempts) == 4
    chain = Chain(chain.attempts[:2])
    b = jnp.arange(16.0)

    def total(solve):
        return lambda values, b: jnp.sum(solve(PLAIN.with_values(values), b) ** 2)

    ours = total(lambda A, b: lx.linear_solve(A, b, chain).value)
    dense = total(lambda A, b: jnp.linalg.solve(A.as_matrix(), b))
    found = jax.jit(jax.grad(ours, (0, 1)))(PLAIN.values, b)
    for actual, expected in zip(found, jax.grad(dense, (0, 1))(PLAIN.values, b), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-10)
    scales = jnp.array([1.0, 2.0])
    batch = jax.vmap(lambda s: lx.linear_solve(PLAIN.with_values(s * PLAIN.values), b, chain, throw=False))(
        scales
    )
    np.testing.assert_allclose(batch.value[0], 2 * batch.value[1], rtol=1e-9)
    assert "made in 2 of 2" in repr(batch.stats["attempts"])


def test_state_start_and_failure():
    chain = Chain((Attempt(ns.GMRES(rtol=1e-10, max_steps=2)), Attempt(ns.GMRES(rtol=1e-10, max_steps=3))))
    b = jnp.arange(16.0)
    state = chain.init(PLAIN, {})
    solution = lx.linear_solve(PLAIN, b, chain, state=state, throw=False)
    assert solution.result == lx.RESULTS.max_steps_reached
    attempts = solution.stats["attempts"]
    assert attempts.residual_norms[1] <= attempts.residual_norms[0] < jnp.linalg.norm(b)
    true = jnp.linalg.norm(b - PLAIN.mv(solution.value))
    np.testing.assert_allclose(solution.stats["residual_norm"], true, rtol=1e-10)
    with pytest.raises(eqx.EquinoxRuntimeError, match="auto: All of `max_steps` were taken"):
        lx.linear_solve(PLAIN, b, chain)
    exact = jnp.linalg.solve(PLAIN.as_matrix(), b)
    solution = lx.linear_solve(PLAIN, b, chain, state=state, options={"y0": exact})
    assert solution.stats["num_steps"] == 0 and solution.stats["attempts"].ran.tolist() == [True, False]
    for spoiled in (b.at[3].set(jnp.nan), b.at[0].set(jnp.inf)):
        solution = lx.linear_solve(PLAIN, spoiled, chain, throw=False)
        assert solution.result == lx.RESULTS.nonfinite_input and not solution.stats["attempts"].ran[1]


def test_a_singular_matrix_is_left_to_krylov():
    """The system may have solutions; with none, the least bad iterate comes with a failure."""
    line = sp.diags_array([-1.0, 2, -1], offsets=[-1, 0, 1], shape=(9, 9)).toarray()
    line[0, 0] = line[-1, -1] = 1
    for tags, expected in ((lx.symmetric_tag, "MINRES"), ((), "GMRES")):
        chain = ns.auto(sparse(line, tags), rtol=1e-8)
        assert named(chain) == [expected] and "singular to rounding" in repr(chain)
        b = jnp.asarray(line @ np.arange(9.0) ** 2)
        solution = lx.linear_solve(sparse(line, tags), b, chain)
        np.testing.assert_allclose(line @ solution.value, b, atol=1e-6)
        assert lx.linear_solve(sparse(line, tags), b + 1, chain, throw=False).result != lx.RESULTS.successful


def test_under_jit_the_pattern_decides():
    @jax.jit
    def solve(values):
        operator = PLAIN.with_values(values)
        solver = ns.auto(operator, rtol=1e-10)
        assert named(solver) == ["SparseLU"]
        return lx.linear_solve(operator, jnp.ones(16), solver).value

    np.testing.assert_allclose(PLAIN.mv(solve(PLAIN.values)), 1, rtol=1e-9)


def test_under_jit_what_a_function_closes_over_is_concrete(all_are_large):
    for operator in (SUPPOSED, SYMMETRIC, sparse(np.diag(np.arange(1.0, 17)))):
        expected = named(ns.auto(operator))

        def solve(b, operator=operator, expected=expected):
            solver = ns.auto(operator, rtol=1e-10)
            assert named(solver) == expected
            return lx.linear_solve(operator, b, solver).value

        np.testing.assert_allclose(operator.mv(jax.jit(solve)(jnp.ones(16))), 1, rtol=1e-8)


def test_under_jit_a_singular_matrix_is_seen():
    line = 2 * np.eye(9) - np.eye(9, k=1) - np.eye(9, k=-1)
    line[0, 0] = line[-1, -1] = 1
    operator = sparse(line)

    @jax.jit
    def solve(b):
        assert named(ns.auto(operator)) == ["GMRES"]
        return lx.linear_solve(operator, b, ns.auto(operator, rtol=1e-8)).value

    b = line @ np.arange(9.0) ** 2
    np.testing.assert_allclose(line @ solve(jnp.asarray(b)), b, atol=1e-5)


def test_an_attempt_without_an_answer_hides_none(monkeypatch):
    from nsolve.direct import memory

    def broken(*_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(memory, "factorise", broken)
    gmres, b = ns.GMRES(rtol=1e-10, max_steps=4), jnp.arange(1.0, 17)
    operator = PLAIN.with_values(1.234 * PLAIN.values)
    best = lx.linear_solve(operator, b, gmres, throw=False).value
    for attempts in ((gmres, ns.SparseLU()), (ns.SparseLU(), gmres)):
        chain = Chain(tuple(map(Attempt, attempts)))
        solution = lx.linear_solve(operator, b, chain, throw=False)
        assert solution.result != lx.RESULTS.successful
        np.testing.assert_allclose(solution.value, best, rtol=1e-10)
        true = jnp.linalg.norm(b - operator.mv(solution.value))
        np.testing.assert_allclose(solution.stats["residual_norm"], true, rtol=1e-10)
    near = jnp.linalg.solve(operator.as_matrix(), b) * (1 + 1e-3)
    chain = Chain((Attempt(ns.SparseLU()),))
    solution = lx.linear_solve(operator, b, chain, options={"y0": near}, throw=False)
    np.testing.assert_array_equal(solution.value, near)  # never worse than the start


def test_seconds_are_those_of_set_up_and_solve(monkeypatch):
    """XLA orders by what depends on what; a clock that nothing waits for is read at any time."""
    from nsolve.direct import memory, refine

    def slow(function, pause):
        def waiting(*arguments):
            time.sleep(pause)
            return function(*arguments)

        return waiting

    chain = Chain(
        (Attempt(ns.GMRES(rtol=1e-10, max_steps=1)), Attempt(ns.SparseLU()), Attempt(ns.SparseLU()))
    )
    operator = PLAIN.with_values(0.987 * PLAIN.values)
    monkeypatch.setattr(memory, "factorise", slow(memory.factorise, 0.3))
    monkeypatch.setattr(refine, "solve", slow(refine.solve, 0.2))
    attempts = lx.linear_solve(operator, jnp.ones(16), chain).stats["attempts"]
    assert attempts.seconds[1] >= 0.5 and attempts.seconds[2] == 0
    alone = Chain((Attempt(ns.SparseLU()),))
    solution = lx.linear_solve(operator, jnp.ones(16), alone, state=alone.init(operator, {}))
    assert solution.stats["attempts"].seconds[0] >= 0.2


def test_bad_input():
    empty = np.diag([1.0, 2, 0])
    empty[0, 1] = 1
    matrix = sp.csr_array(empty)
    matrix.eliminate_zeros()
    with pytest.raises(ValueError, match="`operator` is singular whatever.*row 2 is empty.*LSMR"):
        ns.auto(sparse(matrix))
    with pytest.raises(ValueError, match="for square operators, and this one is 2 x 4.*LSMR"):
        ns.auto(sparse(np.ones((2, 4))))
    with pytest.raises(TypeError, match="`operator`"):
        ns.auto(np.eye(3))
    with pytest.raises(TypeError, match="`attempts` must hold"):
        Chain((Attempt(lx.LU()),))
    with pytest.raises(ValueError, match=r"may have the keys \['y0'\], not"):
        ns.auto(PLAIN).init(PLAIN, {"preconditioner": None})


def test_an_attempt_that_would_not_do_is_left_early(all_are_large):
    """The second attempt, a factorisation, comes before the first one's budget is spent."""
    seen = []
    matrix = sparse(grid_matrix(40), PSD)
    solver = ns.auto(matrix, rtol=1e-10, max_steps=40, monitor=ns.Monitor(seen.append))
    assert named(solver)[:2] == ["CG with IncompleteCholesky", "SparseLU"]
    solution = lx.linear_solve(matrix, jnp.ones(1600), solver)
    attempts = solution.stats["attempts"]
    steps = int(attempts.num_steps[0])
    assert 0 < steps < 40 and "tolerance was not to be met" not in repr(solver)
    assert "hopeless" in repr(attempts) and bool(attempts.ran[1])
    assert [progress.num_steps for progress in seen] == list(range(steps + 1))
    assert solution.result == lx.RESULTS.successful

"""Recycled subspaces: they pay where they should, cost little elsewhere, and never spoil an answer."""

import dataclasses

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import nsolve as ns
from nsolve.linear import Recycled
from nsolve.linear._lanczos_window import open_window, record, ritz
from nsolve.linear._recycled import orthonormalise

N = 120
PSD = lx.positive_semidefinite_tag


def drifting(name: str, count: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Dense systems that resemble each other, each with a right-hand side of its own."""
    rng = np.random.default_rng(seed)
    if name == "laplacian":
        A = 2.01 * np.eye(N) - np.eye(N, k=1) - np.eye(N, k=-1)
    elif name == "outliers":
        q, _ = np.linalg.qr(rng.standard_normal((N, N)))
        A = (q * np.concatenate([np.geomspace(1e-3, 3e-2, 8), np.linspace(0.5, 2, N - 8)])) @ q.T
    elif name == "complex":
        q = rng.standard_normal((N, N)) + 1j * rng.standard_normal((N, N))
        q, _ = np.linalg.qr(q)
        A = (q * np.concatenate([np.geomspace(1e-3, 3e-2, 8), np.linspace(0.5, 2, N - 8)])) @ q.conj().T
        A = A + 0.002j * np.eye(N)
    else:
        A = rng.standard_normal((N, N)) / np.sqrt(N) + 1.5 * np.eye(N)
    matrices = []
    for _ in range(count):
        matrices.append(A)
        E = rng.standard_normal((N, N))
        E *= 1e-3 / np.linalg.norm(E, 2)
        A = (np.eye(N) + E) @ A @ (np.eye(N) + E).T
        A = A if name in ("complex", "wellconditioned") else (A + A.T) / 2
    b = rng.standard_normal((count, N))
    return np.stack(matrices), b + 1j * b[::-1] if name == "complex" else b


def solve_all(solver, matrices, vectors, carry: bool, tags=()):
    """Products of each system; every answer is checked."""

    @jax.jit
    def solve(A, b, recycled):
        solution = lx.linear_solve(
            lx.MatrixLinearOperator(A, tags), b, solver, options={"recycled": recycled}, throw=False
        )
        return solution.value, solution.result, solution.stats

    products, empty = [], solver.nothing_recycled(jax.ShapeDtypeStruct(vectors[0].shape, vectors.dtype))
    recycled = empty
    for A, b in zip(matrices, vectors, strict=True):
        x, result, stats = solve(A, b, recycled)
        assert result == lx.RESULTS.successful
        assert np.linalg.norm(A @ x - b) <= 1.001e-8 * np.linalg.norm(b)
        products.append(int(stats["num_matvecs"]))
        recycled = stats["recycled"] if carry else empty
    return products


@pytest.mark.parametrize("name", ["outliers", "laplacian", "complex"])
def test_a_recycled_subspace_saves_products(name):
    """Every product counted, those for taking the subspace over as well."""
    matrices, vectors = drifting(name)
    solver = ns.GCRODR(rtol=1e-8, restart=20, recycle=10)
    cold, warm = (solve_all(solver, matrices, vectors, carry) for carry in (False, True))
    assert warm[0] == cold[0]
    assert all(w < 0.75 * c for w, c in zip(warm[1:], cold[1:], strict=True))


@pytest.mark.parametrize("name", ["outliers", "laplacian"])
def test_recycling_in_cg_takes_no_product_and_fewer_than_gcro_dr(name):
    matrices, vectors = drifting(name)
    cold = solve_all(ns.CG(rtol=1e-8, recycle=10), matrices, vectors, False, PSD)
    warm = solve_all(ns.CG(rtol=1e-8, recycle=10), matrices, vectors, True, PSD)
    general = solve_all(ns.GCRODR(rtol=1e-8, restart=20, recycle=10), matrices, vectors, True)
    assert all(w < 0.65 * c for w, c in zip(warm[1:], cold[1:], strict=True))
    assert sum(warm) < sum(general)


def test_where_recycling_does_not_pay_it_stops():
    """Well-conditioned, new right-hand sides: at most 5 % above cold solves, over few systems and many."""
    for count in (5, 20):
        matrices, vectors = drifting("wellconditioned", count)
        solver = ns.GCRODR(rtol=1e-8, restart=20, recycle=10)
        cold, warm = (sum(solve_all(solver, matrices, vectors, carry)) for carry in (False, True))
        assert warm <= 1.05 * cold


def test_stale_directions_are_found_anew():
    """When the matrix has left the directions behind, the next solve goes without and learns new ones."""
    first, b = drifting("outliers", 3, seed=0)
    second, c = drifting("outliers", 6, seed=1)
    warm = solve_all(
        ns.CG(rtol=1e-8, recycle=10), np.concatenate([first, second]), np.concatenate([b, c]), True, PSD
    )
    assert warm[-1] < 0.65 * warm[0]


def test_a_system_without_work_teaches_nothing():
    """`b = 0` amid the others takes no step, and must not make the next ones look dear."""
    matrices, vectors = drifting("outliers", 9)
    vectors[2] = 0
    solution = ns.solve_sequence(
        lambda matrix: lx.MatrixLinearOperator(matrix, PSD),
        jnp.asarray(matrices),
        jnp.asarray(vectors),
        ns.CG(rtol=1e-8, recycle=10),
        recycle=True,
        y0="previous",
    )
    steps = np.asarray(solution.stats["num_steps"])
    assert steps[2] == 0 and (steps[[1, 3, 4, 5, 6, 7, 8]] < 0.65 * steps[0]).all()


def test_the_subspace_is_that_of_the_slow_directions():
    """GCRO-DR keeps the smallest singular directions, CG the lowest eigenvectors of `M A`."""
    (A, *_), (b, *_) = drifting("outliers", 1)
    values, vectors = np.linalg.eigh(A)
    slow = vectors[:, :6]
    for solver, tags in (
        (ns.GCRODR(rtol=1e-10, restart=40, recycle=8), ()),
        (ns.CG(rtol=1e-10, recycle=8), PSD),
    ):
        operator = lx.MatrixLinearOperator(jnp.asarray(A), tags)
        recycled = lx.linear_solve(operator, jnp.asarray(b), solver).stats["recycled"]
        q, _ = np.linalg.qr(np.asarray(recycled.vectors).T)
        assert np.linalg.norm(slow - q @ (q.T @ slow), 2) < 0.05
        np.testing.assert_allclose(np.sort(recycled.values)[:6], values[:6], rtol=0.05)


def test_ritz_pairs_survive_the_restarts_of_the_window():
    """Against a full Lanczos basis: CG's coefficients through a window of 12, 60 steps."""
    rng = np.random.default_rng(0)
    A = np.diag(np.concatenate([[0.01, 0.02, 0.05, 0.1], np.linspace(1, 3, 96)]))
    inverse = np.diag(rng.uniform(0.5, 2, 100))  # a preconditioner
    r = rng.standard_normal(100)
    window, p, gamma = open_window(4, jnp.asarray(r)), np.zeros(100), 0.0
    add = jax.jit(record)
    for _ in range(60):
        z = inverse @ r
        gamma, before = r @ z, gamma
        beta = gamma / before if before else 0.0
        p = z + beta * p
        alpha = gamma / (p @ A @ p)
        window = add(window, jnp.asarray(z), jnp.asarray(gamma), jnp.asarray(beta), jnp.asarray(alpha))
        r = r - alpha * (A @ p)
    vectors, values = ritz(window)
    root = np.sqrt(inverse)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(root @ A @ root)[:4], rtol=1e-8)
    np.testing.assert_allclose(vectors @ np.linalg.inv(inverse) @ vectors.T, np.eye(4), atol=1e-6)
    np.testing.assert_allclose(vectors @ A @ vectors.T, np.diag(values), atol=1e-6)


def test_orthonormalise_drops_what_depends():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((4, 30)) * np.array([[1.0], [1e-6], [1e5], [1.0]])
    rows = np.concatenate([rows, rows[:1] + rows[3:], np.zeros((1, 30))])
    q, change = jax.jit(orthonormalise)(jnp.asarray(rows))
    np.testing.assert_allclose(q, change @ rows, atol=1e-9)
    gram = np.asarray(q @ q.T)
    assert np.linalg.matrix_rank(gram) == 4
    np.testing.assert_allclose(gram @ gram, gram, atol=1e-9)


def spaces(kind: str) -> np.ndarray:
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((6, N))
    if kind == "lost rank":
        vectors[3:] = vectors[:3]
    elif kind == "zeros":
        vectors[:] = 0
    elif kind == "nan":
        vectors[2, 7] = np.nan
    elif kind == "huge":
        vectors *= 1e200
    return vectors


@pytest.mark.parametrize("kind", ["random", "lost rank", "zeros", "nan", "huge"])
def test_no_subspace_spoils_an_answer(kind):
    (A, *_), (b, *_) = drifting("outliers", 1)
    solver = ns.GCRODR(rtol=1e-8, restart=20, recycle=6)
    options = {"recycled": jnp.asarray(spaces(kind))}
    solution = lx.linear_solve(
        lx.MatrixLinearOperator(jnp.asarray(A)), jnp.asarray(b), solver, options=options
    )
    assert np.linalg.norm(A @ solution.value - b) <= 1.001e-8 * np.linalg.norm(b)
    assert np.isfinite(solution.stats["recycled"].vectors).all()


def test_bad_subspaces_are_refused():
    operator, b = lx.MatrixLinearOperator(2 * jnp.eye(5), PSD), jnp.ones(5)
    solver = ns.GCRODR(rtol=1e-8, restart=3, recycle=2)
    wrong = (
        (jnp.ones((3, 5)), ValueError, r"options\['recycled'\].*must hold 2 vectors.*5 unknowns.*\(3, 5\)"),
        (jnp.ones((2, 5), jnp.float32), ValueError, "float32"),
        ("space", TypeError, "stats"),
    )
    for given, error, message in wrong:
        with pytest.raises(error, match=message):
            lx.linear_solve(operator, b, solver, options={"recycled": given})
    with pytest.raises(ValueError, match="recycle=0"):
        lx.linear_solve(operator, b, ns.CG(rtol=1e-8), options={"recycled": jnp.ones((2, 5))})
    with pytest.raises(TypeError, match="values that go with them"):
        lx.linear_solve(operator, b, ns.CG(rtol=1e-8, recycle=2), options={"recycled": jnp.ones((2, 5))})
    with pytest.raises(TypeError, match="values that go with them"):
        lx.linear_solve(
            operator, b, ns.CG(rtol=1e-8, recycle=2), options={"recycled": {"a": jnp.ones((2, 5))}}
        )
    with pytest.raises(ValueError, match="recycled.*starts without"):
        ns.unroll(solver, operator, b, 2, {"recycled": jnp.ones((2, 5))})
    for fields in ({"restart": 0}, {"recycle": 0}, {"recycle": 2.5}):
        with pytest.raises(ValueError, match=next(iter(fields))):
            ns.GCRODR(rtol=1e-8, **fields)
    with pytest.raises(ValueError, match="recycle"):
        ns.CG(rtol=1e-8, recycle=-1)


@pytest.mark.parametrize(
    "solver", [ns.GCRODR(rtol=1e-10, restart=5, recycle=3), ns.CG(rtol=1e-10, recycle=3)]
)
def test_vectors_of_any_structure_are_recycled_stacked_or_as_rows(solver):
    """Leaves with an axis in front; the rows of a matrix, as earlier versions kept them, say the same."""
    flat = {"a": jnp.zeros(40), "b": jnp.zeros((10, 6))}
    _, unravel = ravel_pytree(flat)
    spectrum = jnp.asarray(np.concatenate([[1e-3, 2e-3, 4e-3], np.linspace(1, 4, 97)]))
    operator = lx.FunctionLinearOperator(
        lambda x: unravel(spectrum * ravel_pytree(x)[0]), jax.eval_shape(lambda: flat), PSD
    )
    b = unravel(jnp.asarray(np.random.default_rng(0).standard_normal(100)))

    @jax.jit
    def solve(recycled):
        return lx.linear_solve(operator, b, solver, options={"recycled": recycled}, throw=False)

    first = solve(solver.nothing_recycled(operator.in_structure()))
    recycled = first.stats["recycled"]
    assert jax.tree.map(jnp.shape, recycled.vectors) == {"a": (3, 40), "b": (3, 10, 6)}
    rows = jax.vmap(lambda v: ravel_pytree(v)[0])
    as_rows = dataclasses.replace(recycled, vectors=rows(recycled.vectors), sources=rows(recycled.sources))
    forms = [recycled, as_rows]
    if isinstance(solver, ns.GCRODR):  # which takes vectors without their values as well
        forms += [recycled.vectors, as_rows.vectors]
    for given in forms:
        again = solve(given)
        assert int(again.stats["num_steps"]) < 0.95 * int(first.stats["num_steps"])
        np.testing.assert_allclose(ravel_pytree(again.value)[0], ravel_pytree(b)[0] / spectrum, rtol=1e-6)


def test_the_adjoint_system_recycles_too():
    """The transposed state takes the subspace along, and its solve starts from it."""
    (A, B, *_), (b, *_) = drifting("outliers", 2)
    solver = ns.GCRODR(rtol=1e-8, restart=20, recycle=10)
    recycled = lx.linear_solve(lx.MatrixLinearOperator(jnp.asarray(A)), jnp.asarray(b), solver).stats[
        "recycled"
    ]
    state = solver.init(lx.MatrixLinearOperator(jnp.asarray(B)), {})
    products = []
    for options in ({}, {"recycled": recycled}):
        adjoint, carried = solver.transpose(state, options)
        x, _, stats = solver.compute(adjoint, jnp.asarray(b), carried)
        assert np.linalg.norm(B.T @ x - b) <= 1.001e-8 * np.linalg.norm(b)
        products.append(int(stats["num_matvecs"]))
    assert products[1] < 0.75 * products[0]


def test_recycled_is_a_pytree_of_fixed_structure():
    """It can be carried through `scan`, whatever happened."""
    (A, *_), (b, *_) = drifting("outliers", 1)
    solver = ns.CG(rtol=1e-8, recycle=3)
    before = solver.nothing_recycled(jax.ShapeDtypeStruct(b.shape, b.dtype))
    operator = lx.MatrixLinearOperator(jnp.asarray(A), PSD)
    after = lx.linear_solve(operator, jnp.asarray(b), solver, options={"recycled": before}).stats["recycled"]
    assert isinstance(after, Recycled)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert [x.dtype for x in jax.tree.leaves(before)] == [x.dtype for x in jax.tree.leaves(after)]

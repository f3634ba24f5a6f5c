"""Large batches of whatever reaches dense linear algebra: with JAX's own threads and flags, nothing may hang.

    python -m tests.stress LIMIT CALLS CASE:DTYPE ...

Each case is compiled once, called so many times and its answer checked; a case that takes longer than LIMIT
seconds ends the process with every thread's Python stack on stderr.
"""

import faulthandler
import functools
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

import nsolve as ns

BATCH, N = 400, 20
DTYPES = ("float32", "float64", "complex64", "complex128")


def random(rng: np.random.Generator, *shape: int, dtype: str) -> np.ndarray:
    values = rng.standard_normal(shape)
    return (values + 1j * rng.standard_normal(shape) if dtype.startswith("complex") else values).astype(dtype)


def systems(dtype: str, definite: bool, shift: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    matrices, b = random(rng, BATCH, N, N, dtype=dtype), random(rng, BATCH, N, dtype=dtype)
    if definite:
        matrices = matrices @ matrices.conj().swapaxes(1, 2) / N + np.eye(N, dtype=dtype)
    return matrices + shift * np.eye(N, dtype=dtype), b


def linear(make: Callable[[float], Any], tags: Any, shift: float, dtype: str) -> tuple[Callable, Callable]:
    rtol = 1e-3 if np.finfo(dtype).bits == 32 else 1e-8
    matrices, b = systems(dtype, bool(tags), shift)
    solver = make(rtol)

    @jax.jit
    @jax.vmap
    def solve(matrix, b):
        operator = lx.MatrixLinearOperator(matrix, tags)
        solution = lx.linear_solve(operator, b, solver, throw=False)
        if "recycled" in solution.stats:
            # once more with the subspace, which has to be made ready first
            options = {"recycled": solution.stats["recycled"]}
            solution = lx.linear_solve(operator, b, solver, options=options, throw=False)
        return solution.value, solution.result == lx.RESULTS.successful

    def check(answer):
        x, good = (np.asarray(part) for part in answer)
        residual = np.linalg.norm((matrices @ x[..., None])[..., 0] - b, axis=1) / np.linalg.norm(b, axis=1)
        assert good.mean() > 0.9, f"only {good.mean():.0%} solved"
        assert (residual[good] <= 2 * rtol).all(), residual[good].max()

    return lambda: solve(matrices, b), check


def multigrid(dtype: str) -> tuple[Callable, Callable]:
    """A set-up with a dense inverse for each of many coefficients."""
    shape = (24, 24)
    kappa = np.exp(0.5 * np.random.default_rng(0).standard_normal((24, *shape))).astype(dtype)
    b, rtol = np.ones(shape, dtype), 1e-3 if dtype == "float32" else 1e-8

    @jax.jit
    @jax.vmap
    def solve(kappa):
        operator = ns.StencilLinearOperator.diffusion(kappa, spacing=1 / 25, boundary="dirichlet")
        solver = ns.CG(rtol=rtol, preconditioner=ns.preconditioners.Multigrid())
        solution = lx.linear_solve(operator, b, solver, throw=False)
        return solution.value, solution.stats["num_steps"]

    def check(answer):
        x, steps = (np.asarray(part) for part in answer)
        assert steps.max() <= 20, steps.max()
        operator = ns.StencilLinearOperator.diffusion(kappa[7], spacing=1 / 25, boundary="dirichlet")
        residual = operator.as_scipy() @ x[7].ravel() - b.ravel()
        assert np.linalg.norm(residual) <= 2 * rtol * np.linalg.norm(b)

    return lambda: solve(kappa), check


def transport(solver: Any, dtype: str) -> tuple[Callable, Callable]:
    """Many small problems: Anderson's least squares, or Newton's equations factorised."""
    count, sites = 64, 40
    costs = np.random.default_rng(0).random((count, sites, sites)).astype(dtype)
    weights = np.full(sites, 1 / sites, dtype)

    @jax.jit
    @jax.vmap
    def solve(cost):
        geometry = ns.transport.CostMatrix(cost, epsilon=1e-2)
        return ns.transport.solve(geometry, weights, weights, solver, throw=False).marginal_error

    def check(answer):
        assert np.asarray(answer).max() <= 2e-3, np.asarray(answer).max()

    return lambda: solve(costs), check


def low_rank(dtype: str) -> tuple[Callable, Callable]:
    rng = np.random.default_rng(0)
    left = random(rng, BATCH, 60, N, dtype=dtype) / 8

    @jax.jit
    @jax.vmap
    def invert(left):
        # twice, without one waiting for the other
        operators = (
            ns.LowRankPlusDiagonalLinearOperator(jnp.ones(60, dtype), part) for part in (left, -2 * left)
        )
        return [operator.inverse().mv(left[:, 0]) for operator in operators]

    def check(answer):
        for factor, x in zip((1, 4), answer, strict=True):
            matrix = np.eye(60) + factor * left @ left.conj().swapaxes(1, 2)
            error = np.abs((matrix @ np.asarray(x)[..., None])[..., 0] - left[..., 0]).max()
            assert error < 100 * np.finfo(dtype).eps, error

    return lambda: invert(left), check


CASES: dict[str, Callable[[str], tuple[Callable, Callable]]] = {
    "gmres": functools.partial(linear, lambda rtol: ns.GMRES(rtol=rtol, max_steps=200), (), 0.0),
    # Many cycles, each of which once ended in two triangular solves at a time.
    "restarted": functools.partial(
        linear, lambda rtol: ns.GMRES(rtol=rtol, max_steps=400, restart=15), (), 8.0
    ),
    "fgmres": functools.partial(linear, lambda rtol: ns.FGMRES(rtol=rtol, max_steps=200), (), 0.0),
    "gcrodr": functools.partial(
        linear, lambda rtol: ns.GCRODR(rtol=rtol, max_steps=200, restart=12, recycle=6), (), 8.0
    ),
    "cg": functools.partial(
        linear, lambda rtol: ns.CG(rtol=rtol, max_steps=200, recycle=4), lx.positive_semidefinite_tag, 0.0
    ),
    "chebyshev": functools.partial(
        linear, lambda rtol: ns.Chebyshev(rtol=rtol, max_steps=400), lx.positive_semidefinite_tag, 0.0
    ),
    "low-rank": low_rank,
    "multigrid": multigrid,
    "sinkhorn": functools.partial(transport, ns.transport.Sinkhorn(rtol=1e-3, anderson=5)),
    "newton": functools.partial(transport, ns.transport.SinkhornNewton(rtol=1e-3)),
}
REAL_ONLY = ("multigrid", "sinkhorn", "newton")
ALL = [
    f"{case}:{dtype}"
    for case in CASES
    for dtype in DTYPES
    if not (case in REAL_ONLY and dtype.startswith("complex"))
]


def main(limit: float, calls: int, names: list[str]) -> None:
    jax.config.update("jax_enable_x64", True)
    for name in names:
        faulthandler.dump_traceback_later(limit, exit=True)
        start = time.perf_counter()
        case, dtype = name.split(":")
        call, check = CASES[case](dtype)
        for _ in range(calls):
            answer = jax.block_until_ready(call())
        check(answer)
        faulthandler.cancel_dump_traceback_later()
        print(f"{name}: {calls} calls in {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or ALL)

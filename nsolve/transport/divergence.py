"""The Sinkhorn divergence: entropic transport without its bias."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike

from ._problem import Problem
from .base import AbstractTransportSolver
from .cost_matrix import CostMatrix
from .point_cloud import PointCloud
from .sinkhorn_newton import SinkhornNewton
from .solve import Found, Transport, as_problem, differentiable, precomputed, search

#: Clouds of different sizes are filled up to the larger one, up to this size: their solves are shorter than
#: the compilation of two more programs.
_FILLED_UP = 256


class Divergence(eqx.Module):
    """What `nsolve.transport.sinkhorn_divergence` returns: its value, and the three solutions behind it.

    `result` is that of the first solve that failed.
    """

    value: Array
    between: Transport
    source: Transport
    target: Transport
    result: lx.RESULTS


def sinkhorn_divergence(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    solver: AbstractTransportSolver | None = None,
    *,
    epsilon: ArrayLike,
    cost: Any = "squared_euclidean",
    rho: Any = None,
    throw: bool = True,
) -> Divergence:
    """`OT(a, b) - OT(a, a) / 2 - OT(b, b) / 2 + epsilon (m_a - m_b)^2 / 2` between two weighted clouds.

    Use it as a loss between point clouds: unlike the regularised cost it vanishes where the clouds agree, is
    positive elsewhere and convex in the weights, for costs `c` with a positive definite `exp(-c / epsilon)`,
    such as the squared Euclidean, Euclidean and Manhattan ones.  Arguments as for
    `nsolve.transport.PointCloud` and `nsolve.transport.solve`; `rho` is one number, for all marginals.  The
    last term vanishes for equal masses.

    Three solves; the derivative of `value` needs no linear solve.

    Feydy, Sejourne, Vialard, Amari, Trouve, Peyre (2019, arXiv:1810.08278); relaxed: Sejourne, Feydy,
    Vialard, Trouve, Peyre (2019, arXiv:1910.12958).
    """
    if isinstance(rho, tuple | list):
        raise ValueError(
            "`rho` must be None or one number: each measure is source in one solve, target in another."
        )

    solver = SinkhornNewton() if solver is None else solver
    clouds = ((x, y, a, b), (x, x, a, a), (y, y, b, b))
    problems = [
        as_problem(PointCloud(p, q, cost, epsilon=epsilon), weights_p, weights_q, solver, rho)
        for p, q, weights_p, weights_q in clouds
    ]
    divergence = _divergence(problems, solver)
    if throw:
        failed = divergence.result != lx.RESULTS.successful
        divergence = divergence.result.error_if(divergence, failed)
    return divergence


@eqx.filter_jit
def _divergence(problems: list[Problem], solver: AbstractTransportSolver) -> Divergence:
    prepared = [problem.prepared() for problem in problems]
    working = [precomputed(reduced) for reduced, _ in prepared]
    found = _search(jax.lax.stop_gradient(working), solver)
    between, source, target = (
        differentiable(reduced, stored, offsets, one)
        for (reduced, offsets), stored, one in zip(prepared, working, found, strict=True)
    )
    first, second = problems[0].a, problems[0].b
    difference = jnp.sum(first) - jnp.sum(second)
    value = between.cost - (source.cost + target.cost) / 2
    value = value + problems[0].geometry.epsilon * difference**2 / 2
    result = target.result
    for earlier in (source, between):
        failed = earlier.result != lx.RESULTS.successful
        result = lx.RESULTS.where(failed, earlier.result, result)
    return Divergence(value, between, source, target, result)


def _search(problems: list[Problem], solver: AbstractTransportSolver) -> list[Found]:
    """All three, one after the other; by one program, which is compiled once, where shapes allow."""
    fits = all(problem.geometry.fits for problem in problems)
    shapes = [problem.geometry.shape for problem in problems]
    largest = max(max(shape) for shape in shapes)
    if len(set(shapes)) > 1:
        if not (fits and largest <= _FILLED_UP):
            return [search(p, solver, None, p.geometry.fits) for p in problems]
        problems = [_filled_up(problem, largest) for problem in problems]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
    found = jax.lax.map(lambda problem: search(problem, solver, None, fits), stacked)
    one_by_one = [jax.tree.map(lambda leaf, k=k: leaf[k], found) for k in range(len(problems))]
    return [
        eqx.tree_at(lambda one: (one.f, one.g), one, (one.f[:n], one.g[:m]))
        for one, (n, m) in zip(one_by_one, shapes, strict=True)
    ]


def _filled_up(problem: Problem, size: int) -> Problem:
    """The same problem with more sites, which have no weight."""
    n, m = problem.geometry.shape
    costs = jnp.pad(problem.geometry.cost_matrix(), ((0, size - n), (0, size - m)))
    return Problem(
        CostMatrix(costs, problem.geometry.epsilon),
        jnp.pad(problem.a, (0, size - n)),
        jnp.pad(problem.b, (0, size - m)),
        problem.rho_a,
        problem.rho_b,
    )

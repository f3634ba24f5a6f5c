"""The Sinkhorn divergence: entropic transport without its bias."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike

from .._results import AbstractSolution, Stats
from ._problem import EntropicProblem
from .base import AbstractTransportSolver
from .cost_matrix import CostMatrix
from .point_cloud import PointCloud
from .sinkhorn_newton import SinkhornNewton
from .solve import Solved, Transport, as_given, as_problem, judged, numbers, precomputed, raising

#: Clouds of different sizes are filled up to the larger one, up to this size: their solves are shorter than
#: the compilation of two more programs.
_FILLED_UP = 256


class Divergence(AbstractSolution):
    """What `nsolve.transport.sinkhorn_divergence` returns: its value, and the three solutions behind it.

    `result` is that of the first solve that failed; `stats["num_steps"]` the steps of all three.
    """

    value: Array
    between: Transport
    source: Transport
    target: Transport
    result: lx.RESULTS
    stats: dict[str, Array]


def sinkhorn_divergence(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    solver: AbstractTransportSolver | None = None,
    *,
    epsilon: ArrayLike,
    cost: Any = "squared_euclidean",
    tau: Any = None,
    throw: bool = True,
) -> Divergence:
    """`OT(a, b) - OT(a, a) / 2 - OT(b, b) / 2 + epsilon (m_a - m_b)^2 / 2` between two weighted clouds.

    Use it as a loss between point clouds: unlike the regularised cost it vanishes where the clouds agree, is
    positive elsewhere and convex in the weights, for costs `c` with a positive definite `exp(-c / epsilon)`,
    such as the squared Euclidean, Euclidean and Manhattan ones.  Arguments as for
    `nsolve.transport.PointCloud` and `nsolve.transport.solve`; `tau` is one number, for all marginals.  The
    last term vanishes for equal masses.

    Three solves; the derivative of `value` needs no linear solve.

    Feydy, Sejourne, Vialard, Amari, Trouve, Peyre (2019, arXiv:1810.08278); relaxed: Sejourne, Feydy,
    Vialard, Trouve, Peyre (2019, arXiv:1910.12958).
    """
    if isinstance(tau, tuple | list):
        raise ValueError(
            "`tau` must be None or one number: each measure is source in one solve, target in another."
        )

    solver = SinkhornNewton() if solver is None else solver
    clouds = ((x, y, a, b), (x, x, a, a), (y, y, b, b))
    problems = [
        as_problem(PointCloud(p, q, cost, epsilon=epsilon), weights_p, weights_q, solver, tau, waits=throw)
        for p, q, weights_p, weights_q in clouds
    ]
    divergence = _divergence(problems, solver)
    return raising(divergence, _numbers) if throw else divergence


def _numbers(divergence: Divergence) -> tuple:
    solutions = divergence.between, divergence.source, divergence.target
    return divergence.value, *(number for solution in solutions for number in numbers(solution))


@eqx.filter_jit
def _divergence(problems: list[EntropicProblem], solver: AbstractTransportSolver) -> Divergence:
    prepared = [problem.prepared() for problem in problems]
    solved = _solve_all([precomputed(reduced) for reduced, _ in prepared], solver)
    between, source, target = (
        as_given(reduced, offsets, one) for (reduced, offsets), one in zip(prepared, solved, strict=True)
    )
    difference = jnp.sum(problems[0].a) - jnp.sum(problems[0].b)
    value = between.cost - (source.cost + target.cost) / 2
    value = value + problems[0].geometry.epsilon * difference**2 / 2
    result = target.result
    for earlier in (source, between):
        failed = earlier.result != lx.RESULTS.successful
        result = lx.RESULTS.where(failed, earlier.result, result)
    steps = sum(solution.stats["num_steps"] for solution in (between, source, target))
    return Divergence(
        value=value,
        between=between,
        source=source,
        target=target,
        result=result,
        stats=Stats(num_steps=steps),
    )


def _solve_all(problems: list[EntropicProblem], solver: AbstractTransportSolver) -> list[Solved]:
    """One after the other; by one program, which is compiled once, where shapes allow."""
    shapes = [problem.geometry.shape for problem in problems]
    fits = all(problem.geometry.fits for problem in problems)
    largest = max(map(max, shapes))
    if len(set(shapes)) > 1:
        if not fits or largest > _FILLED_UP:
            constants = jax.lax.stop_gradient(problems)
            outcomes = [solver.run(problem, None) for problem in constants]
            return [
                judged(problem, solver, outcome, problem.geometry.fits)
                for problem, outcome in zip(problems, outcomes, strict=True)
            ]
        problems = [_filled_up(problem, largest) for problem in problems]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
    outcomes = jax.lax.map(lambda problem: solver.run(problem, None), jax.lax.stop_gradient(stacked))
    solved = jax.vmap(lambda problem, outcome: judged(problem, solver, outcome, fits))(stacked, outcomes)
    one_by_one = [jax.tree.map(lambda leaf, k=k: leaf[k], solved) for k in range(len(problems))]
    return [
        eqx.tree_at(lambda one: (one.f, one.g), one, (one.f[:n], one.g[:m]))
        for one, (n, m) in zip(one_by_one, shapes, strict=True)
    ]


def _filled_up(problem: EntropicProblem, size: int) -> EntropicProblem:
    """The same problem with more sites, which have no weight."""
    n, m = problem.geometry.shape
    costs = jnp.pad(problem.geometry.cost_matrix(), ((0, size - n), (0, size - m)))
    return EntropicProblem(
        CostMatrix(costs, problem.geometry.epsilon),
        jnp.pad(problem.a, (0, size - n)),
        jnp.pad(problem.b, (0, size - m)),
        problem.tau_a,
        problem.tau_b,
    )

"""The Sinkhorn divergence: entropic transport without its bias."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike

from .base import AbstractTransportSolver
from .point_cloud import PointCloud
from .solve import Transport, solve


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

    def transport(p, q, weights_p, weights_q):
        geometry = PointCloud(p, q, cost, epsilon=epsilon)
        return solve(geometry, weights_p, weights_q, solver, rho=rho, throw=throw)

    between = transport(x, y, a, b)
    source, target = transport(x, x, a, a), transport(y, y, b, b)
    difference = jnp.sum(between.plan.a) - jnp.sum(between.plan.b)
    value = between.cost - (source.cost + target.cost) / 2
    value = value + between.plan.geometry.epsilon * difference**2 / 2
    result = target.result
    for earlier in (source, between):
        failed = earlier.result != lx.RESULTS.successful
        result = lx.RESULTS.where(failed, earlier.result, result)
    return Divergence(value, between, source, target, result)

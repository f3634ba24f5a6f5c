"""Integrals of Lagrange polynomials: multistep methods that interpolate the noise in any variable.

With rho = sigma / alpha, z = x / alpha obeys dz / drho = eps on every schedule. A polynomial in some
variable w through the outputs at earlier points gives

    x_t = (alpha_t / alpha_s) x_s + alpha_t sum_j (int_{rho_s}^{rho_t} l_j(w(rho)) drho) eps_j,

exact for outputs that are polynomials in w, with as many orders as nodes (DEIS, arXiv:2204.13902).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .._arrays import beside, is_traced, namespace
from ..phi import gauss_legendre
from ..plan import Plan, build
from ..points import Points
from ._multistep import in_registers

Weights = Callable[[np.ndarray, np.ndarray], Any]


def lagrange_integrals(nodes: Any, at: Any, measure: Any) -> Any:
    """int l_j(w) dv for the Lagrange polynomials of `nodes` (..., n), shape (..., n), by a quadrature in v
    with weights `measure` (..., Q) at whose points w takes the values `at` (..., Q)."""
    xp = namespace(nodes, at, measure)
    n = nodes.shape[-1]
    integrals = []
    for j in range(n):
        basis = measure
        for i in range(n):
            if i != j:
                basis = basis * (at - nodes[..., i, None]) / (nodes[..., j, None] - nodes[..., i, None])
        integrals.append(xp.sum(basis, axis=-1))
    return xp.stack(integrals, axis=-1)


def rho_of(points: Points) -> Any:
    """sigma / alpha."""
    return namespace(points.lam).exp(-points.lam)


def needs_signal(grid: Points, sampler: Any) -> None:
    """Raises ValueError where rho is infinite."""
    if not is_traced(grid) and np.isneginf(grid.log_alpha[0]):
        raise ValueError(
            f"`grid` begins at t = {grid.t[0]}, where there is no signal; {type(sampler).__name__} steps in "
            "sigma / alpha, which is infinite there. Begin later, or take `FlowRK` or `DPMSolverPP`."
        )


def rho_quadrature(start: Points, end: Points) -> tuple[Points, Any]:
    """Points (..., Q) and weights (..., Q) of a Gauss-Legendre rule for integrals over rho between two points
    (...).

    The rule is even in asinh rho, which is logarithmic where noise prevails and still regular where there is
    none."""
    xp = namespace(start.lam, end.lam)
    nodes, weights = gauss_legendre()
    first, last = xp.arcsinh(rho_of(start))[..., None], xp.arcsinh(rho_of(end))[..., None]
    variable = first + (last - first) * beside(nodes, first)
    measure = (last - first) * beside(weights, first) * xp.cosh(variable)
    return start.at_lam(-xp.log(xp.sinh(variable))), measure


def adams_rows(grid: Points, rows: np.ndarray, orders: np.ndarray, weights: Weights) -> tuple[Any, Any]:
    """(factors of x (R,), weights (R, max order) of the outputs, the newest first) of the steps `rows` (R,).

    `orders` (R,) says how many outputs each uses; `weights(rows, nodes)` gives the integrals (R, n) of steps
    whose outputs lie at the points `nodes` (R, n)."""
    start, end = grid[rows], grid[rows + 1]
    xp = namespace(grid.lam)
    width = int(orders.max())
    blocks, positions = [], []
    for order in sorted(set(orders.tolist())):
        (these,) = np.nonzero(orders == order)
        block = weights(rows[these], rows[these][:, None] - np.arange(order))
        blocks.append(xp.concatenate([block, xp.zeros((len(these), width - order))], axis=1))
        positions.append(these)
    table = xp.concatenate(blocks)[np.argsort(np.concatenate(positions))]
    return xp.exp(end.log_alpha - start.log_alpha), end.alpha[:, None] * table


def adams(grid: Points, orders: np.ndarray, known: int, weights: Weights) -> Plan:
    """The plan of a multistep method, `orders` (N,) and `weights` as in `adams_rows`."""
    rows = np.arange(known, len(grid) - 1)
    decay, table = adams_rows(grid, rows, orders[rows], weights)
    xp = namespace(decay, table)
    width = int(orders.max())
    table = xp.concatenate([table, xp.zeros((len(rows), width - table.shape[1]))], axis=1)
    table, registers = in_registers(table, rows, width)
    columns = [decay[:, None], table, xp.zeros((len(rows), 1))]
    return build(grid[known:], "eps", registers, xp.concatenate(columns, axis=1))

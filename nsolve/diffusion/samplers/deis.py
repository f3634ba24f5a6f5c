"""DEIS: multistep methods that extrapolate the noise in a variable of choice."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np

from .._arrays import namespace
from ..plan import Plan
from ..points import Points
from ._adams import Weights, adams, lagrange_integrals, needs_signal, rho_of, rho_quadrature
from ._multistep import multistep, start_up
from .base import AbstractSampler, check_choice, check_order

Variable = Literal["t", "rho", "log_rho"]


class DEIS(AbstractSampler):
    """Diffusion exponential integrator sampler: the noise as a polynomial through the last `order` outputs.

    One evaluation a step, `order` outputs kept. Strong on unguided models at ten steps and more; the paper's
    grid is `quadratic_grid`. Needs signal at the grid's start.

    - `order`: how many outputs are used, and the order; the paper's tAB-k is order k + 1.
    - `variable`: in which the noise is a polynomial: `"t"` the time (tAB, the paper's choice), `"rho"` sigma
      / alpha (rhoAB, the ordinary Adams-Bashforth method of any spacing), `"log_rho"` the logarithm of it
      (diffusers; the same as multistep DPM-Solver with exact weights).
    - `lower_order_final`: the last steps use fewer outputs; None: where there are less than 15 steps, or
      the last is over 1.5 times as long in lam as the one before.
    - `legacy`: integrate by the 10000-point Riemann sums of the published code. They are of first order,
      which shows once the sample's error falls to 1e-5.

    Zhang & Chen, arXiv:2204.13902.
    """

    order: int = eqx.field(static=True, default=3)
    variable: Variable = eqx.field(static=True, default="t")
    lower_order_final: bool | None = eqx.field(static=True, default=False)
    legacy: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_order(self.order, 8)
        check_choice("variable", self.variable, ("t", "rho", "log_rho"))
        if self.legacy and self.variable == "log_rho":
            raise ValueError("`legacy` needs variable='t' or 'rho': the published code has no log_rho.")

    def table(self, grid: Points, known: int) -> Plan:
        needs_signal(grid, self)
        orders = start_up(grid, self.order, self.lower_order_final)
        if self.variable == "log_rho":
            return multistep(grid, "eps", orders, known=known)
        if self.legacy:
            return adams(grid, orders, known, _riemann_weights(grid, self.variable))
        variable = rho_of if self.variable == "rho" else time_of
        return adams(grid, orders, known, exact_weights(grid, variable))


def time_of(points: Points) -> Any:
    return points.t


def exact_weights(grid: Points, variable: Callable[[Points], Any]) -> Weights:
    """int l_j(w) drho over steps of a grid, w the variable, to rounding on smooth schedules."""

    def weights(rows: np.ndarray, nodes: np.ndarray) -> Any:
        at, measure = rho_quadrature(grid[rows], grid[rows + 1])
        return lagrange_integrals(variable(grid)[nodes], variable(at), measure)

    return weights


_RIEMANN_POINTS = 10_000


def _riemann_weights(grid: Points, variable: Literal["t", "rho"]) -> Weights:
    """The same by left sums, even in the variable."""
    fraction = np.arange(_RIEMANN_POINTS)[None] / _RIEMANN_POINTS

    def weights(rows: np.ndarray, nodes: np.ndarray) -> Any:
        w = grid.t if variable == "t" else rho_of(grid)
        first, width = w[rows, None], (w[rows + 1] - w[rows])[:, None]
        at = first + width * fraction
        slope = _rho_slope(grid.at(at)) if variable == "t" else namespace(w).ones_like(at)
        return lagrange_integrals(w[nodes], at, slope * width / _RIEMANN_POINTS)

    return weights


def _rho_slope(at: Points) -> Any:
    """drho / dt = -rho dlam / dt."""

    def slope() -> Any:
        return jax.jvp(at.schedule.lam, (at.t,), (np.ones(at.t.shape, at.t.dtype),))[1]

    if namespace(at.lam) is not np:
        return -rho_of(at) * slope()
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        return -rho_of(at) * np.asarray(slope())

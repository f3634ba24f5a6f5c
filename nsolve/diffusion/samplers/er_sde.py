"""ER-SDE-Solver: multistep methods for reverse SDEs with any amount of noise, in rho = sigma / alpha.

With z = x / alpha, a noise scale phi(rho) names a reverse SDE of the same marginals whose solution is

    z_t = r z_s - phi_t int_s^t x0 (phi' / phi^2) drho + sqrt(rho_t^2 - r^2 rho_s^2) xi,   r = phi_t / phi_s.

phi = rho is the probability-flow ODE and phi = rho^2 the reverse SDE (arXiv:2309.06169). With x0 a polynomial
in u = (rho - rho_s) / (rho_t - rho_s) through the outputs at earlier points, the integral is a sum of

    m_0 = 1 - r,    m_k = k int_0^1 u^(k-1) (1 - phi_t / phi) du,

which are positive and lose no digits to cancellation.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._arrays import is_traced, namespace, root
from ..phi import gauss_legendre, lagrange
from ..plan import Plan, build
from ..points import Points
from ._adams import adams_rows
from ._multistep import in_registers, start_up
from .base import AbstractSampler, check_order

_FAR = 40.0
# log(phi / rho) as functions of log rho.
_SCALES: dict[str, Callable[[Any], Any]] = {
    "ode": lambda log_rho: 0.0 * log_rho,
    "sde": lambda log_rho: log_rho,
    "sde1": lambda log_rho: namespace(log_rho).logaddexp(-namespace(log_rho).exp(-log_rho), np.log(10.0)),
    "sde2": lambda log_rho: 0.5 * log_rho,
    "sde3": lambda log_rho: 1.5 * log_rho,
    "sde4": lambda log_rho: _log_log10(1.5 * log_rho + np.log(100.0)) - 0.1 * log_rho,
    "sde5": lambda log_rho: namespace(log_rho).logaddexp(namespace(log_rho).exp(0.3 * log_rho), np.log(10.0)),
}


def _log_log10(log_y: Any) -> Any:
    """log(log10(1 + e^log_y))."""
    xp = namespace(log_y)
    return xp.log(xp.logaddexp(0.0, log_y) / np.log(10.0))


class ERSDE(AbstractSampler):
    """Multistep solver of the extended reverse SDEs; good at 20 and more evaluations, and in wide use for
    images.

    One evaluation a step. `order` (1, 2, 3) outputs are interpolated in rho = sigma / alpha, which is the
    order of its drift; with `noise="ode"` it is the order of the solution.

    - `noise`: how much there is: `"ode"` none (phi = rho), `"sde"` the reverse SDE (rho^2), or the authors'
      `"sde1"` (rho (e^(-1/rho) + 10)), `"sde2"` (rho^1.5), `"sde3"` (rho^2.5), `"sde4"` (rho^0.9 log10(1 +
      100 rho^1.5)), `"sde5"` (rho (e^(rho^0.3) + 10), their choice). Or a function phi of rho, elementwise on
      arrays, written with operators or `jax.numpy`; phi / rho must not fall.
    - `legacy`: the published method, with sums of 100 terms for the integrals (an error of first order, once
      the others are small) and at order 3 a first derivative that belongs to another point (order 2).

    A last step to sigma = 0 gives x0. Cui et al., arXiv:2309.06169.
    """

    order: int = eqx.field(static=True, default=3)
    noise: Any = "sde5"
    legacy: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_order(self.order, 3)
        if not (callable(self.noise) or self.noise in _SCALES):
            raise ValueError(f"`noise` must be one of {tuple(_SCALES)} or a function, got {self.noise!r}.")

    def table(self, grid: Points, known: int) -> Plan:
        if is_traced(self.noise):  # its parameters are differentiated, the grid is not
            t, log_alpha, log_sigma = map(jnp.asarray, (grid.t, grid.log_alpha, grid.log_sigma))
            grid = Points(t, log_alpha, log_sigma, grid.schedule)
        xp = namespace(grid.lam)
        stochastic = self.noise != "ode"
        # No signal and no noise are told from very little of them by less than rounding.
        lam = xp.clip(grid.lam, -_FAR, _FAR)
        log_ratio = self._log_ratio(-lam)
        fall = log_ratio[:-1] - log_ratio[1:]
        if not is_traced(fall) and not np.all(fall >= -1e-12):
            raise ValueError(
                "`noise` must be a positive function phi(rho) for which phi(rho) / rho does not fall."
            )
        rows = np.arange(known, len(grid) - 1)
        orders = start_up(grid, self.order)
        if not is_traced(grid.lam) and xp is np:
            orders = _within(grid.lam, orders)
        _, table = adams_rows(grid, rows, orders[rows], lambda *at: self._weights(lam, *at))
        table, registers = in_registers(table, rows, table.shape[1])
        fall = xp.maximum(fall, 0.0)[rows]
        end = grid[rows + 1]
        decay = xp.exp(end.log_sigma - grid[rows].log_sigma - fall)
        scale = end.sigma * root(-xp.expm1(-2.0 * fall)) if stochastic else xp.zeros_like(end.sigma)
        return build(
            grid[known:],
            "x0",
            registers,
            xp.concatenate([decay[:, None], table, scale[:, None]], axis=1),
            clock=-2.0 * log_ratio[known:] if stochastic else None,
            stochastic=stochastic,
        )

    def _log_ratio(self, log_rho: Any) -> Any:
        """log(phi / rho)."""
        xp = namespace(log_rho)
        if callable(self.noise):
            return xp.log(self.noise(xp.exp(log_rho))) - log_rho
        return _SCALES[self.noise](log_rho)

    def _weights(self, lam: Any, rows: np.ndarray, nodes: np.ndarray) -> Any:
        """Weights of z_t (R, n) for the outputs at the points `nodes` (R, n)."""
        xp = namespace(lam)
        start, step = -lam[rows][:, None], lam[rows][:, None] - lam[rows + 1][:, None]  # in log rho
        final = self._log_ratio(start + step) + start + step

        def falls_by(log_rho: Any) -> Any:
            """log(phi_t / phi)."""
            return final - (self._log_ratio(log_rho) + log_rho)

        moments = [-xp.expm1(falls_by(start))[:, 0]]
        if nodes.shape[1] == 1:
            return moments[0][:, None]
        span = xp.expm1(step)  # (rho_t - rho_s) / rho_s
        u_nodes = xp.expm1(-lam[nodes] - start) / span
        if self.legacy:
            u = 1.0 - np.arange(100)[None] / 100.0 + 0.0 * start
            ratio = xp.exp(falls_by(start + xp.log1p(u * span)))
            moments += [1.0 - k * xp.mean(u ** (k - 1) * ratio, axis=1) for k in range(1, nodes.shape[1])]
            if len(moments) == 3:  # the first derivative is taken half a step too early
                moments[2] = moments[2] + moments[1] * u_nodes[:, 1]
        else:
            at, measure = (values[None] for values in gauss_legendre())
            u = xp.expm1(at * step) / span
            measure = measure * xp.exp(at * step) * step / span
            gap = -xp.expm1(falls_by(start + at * step))
            moments += [k * xp.sum(measure * u ** (k - 1) * gap, axis=1) for k in range(1, nodes.shape[1])]
        return xp.einsum("rjk,rk->rj", lagrange(u_nodes), xp.stack(moments, axis=-1))


def _within(lam: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """`orders` without the use of a point that has no signal, and 1 in a last step to sigma = 0."""
    if np.isneginf(lam[0]):
        orders = np.minimum(orders, np.maximum(np.arange(len(orders)), 1))
    if np.isposinf(lam[-1]):
        orders[-1] = 1
    return orders

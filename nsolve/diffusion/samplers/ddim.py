"""DDIM and DDPM: one evaluation a step, first order."""

from typing import Any, Literal

import equinox as eqx
import numpy as np

from .._arrays import namespace, root
from ..plan import Plan, build
from ..points import Points
from ._multistep import is_noisy, noise_clock
from .base import AbstractSampler, check_choice, no_history


class DDIM(AbstractSampler):
    """x_t = alpha_t x0 + sqrt(sigma_t^2 - s^2) eps + s xi with s = eta sigma_t sqrt(1 - e^{-2h}).

    One evaluation a step; order 1. `eta = 0` is deterministic (then the same as DPM-Solver-1), `eta = 1`
    DDPM's posterior. Song et al., arXiv:2010.02502.
    """

    eta: Any = 0.0
    order: int = eqx.field(static=True, default=1, init=False)

    def __check_init__(self):
        if isinstance(self.eta, float | int) and not 0 <= self.eta <= 1:
            raise ValueError(f"`eta` must lie in [0, 1], got {self.eta}.")

    def table(self, grid: Points, known: int) -> Plan:
        no_history(known, self)
        return _posterior(grid, self.eta, grid[1:].sigma * self.eta)


class DDPM(AbstractSampler):
    """Ancestral sampling: the posterior mean of DDPM with the small or the large variance.

    One evaluation a step; order 1 in the drift. `variance="small"` is sigma_t^2 (1 - e^{-2h}), exact for data
    of one point; `"large"` is sigma_s^2 (1 - e^{-2h}), exact for normal data of variance one. No noise in a
    last step that ends at sigma = 0. Ho et al., arXiv:2006.11239.
    """

    variance: Literal["small", "large"] = eqx.field(static=True, default="small")
    order: int = eqx.field(static=True, default=1, init=False)

    def __check_init__(self):
        check_choice("variance", self.variance, ("small", "large"))

    def table(self, grid: Points, known: int) -> Plan:
        no_history(known, self)
        ends = grid[1:].sigma
        scale = ends if self.variance == "small" else namespace(ends).where(ends > 0, grid[:-1].sigma, 0.0)
        return _posterior(grid, 1.0, scale)


def _posterior(grid: Points, eta: Any, noise_scale: Any) -> Plan:
    """DDIM's mean at `eta`, with noise of standard deviation noise_scale sqrt(1 - e^{-2h})."""
    xp = namespace(grid.lam, eta, noise_scale)
    # A first step may leave a point without signal, a last one reach sigma = 0, where no noise is left.
    h = xp.diff(grid.lam)
    infinite = xp.isposinf(h)
    h = xp.where(infinite, 1.0, h)
    limit = xp.where(xp.isneginf(grid.log_sigma[1:]), 0.0, 1.0)
    with np.errstate(divide="ignore"):
        spread = xp.where(infinite, limit, -xp.expm1(-2.0 * h))
        # What the fresh noise leaves of the predicted one: log sqrt(sigma_t^2 - s^2) - log sigma_t.
        left = 0.5 * xp.log1p(-(eta**2) * spread)
    ends = grid[1:]
    decay = xp.exp(ends.log_sigma - grid[:-1].log_sigma + left)
    # alpha_t - alpha_s decay, without the cancellation
    stochastic = is_noisy(eta)
    noise = noise_scale * root(spread) if stochastic else 0.0 * ends.alpha
    share = xp.where(infinite, 1.0, -xp.expm1(left - h))
    weights = xp.stack([decay, ends.alpha * share, noise], axis=1)
    return build(
        grid,
        "x0",
        np.zeros(len(ends), int),
        weights,
        clock=noise_clock(eta**2, grid.lam) if stochastic else None,
        stochastic=stochastic,
    )

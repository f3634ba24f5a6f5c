"""The accelerated DDIM and DDPM of Li et al.: samplers with a proof of how fast they converge.

Their variable is v = rho^2, rho = sigma / alpha, in which z = x / alpha follows dz = g dv with g = eps / (2
rho); minus 2 g is the score of z. Steps here take the exact increments of v; the paper's 1 - alpha_t differ
from them in factors 1 + O(1 - alpha_t), which leave the order as it is.
"""

from typing import Any

import equinox as eqx
import numpy as np

from .._arrays import namespace
from ..plan import Plan, build
from ..points import Points, stack
from ._adams import needs_signal, rho_of
from ._multistep import is_free_of_noise
from ._singlestep import singlestep
from .base import AbstractSampler, no_history


class AcceleratedDDIM(AbstractSampler):
    """DDIM with a second-order term, from one more evaluation a step back towards the noise.

    Two evaluations a step (one in the first, which is plain DDIM); order 2. From each point it steps back to
    the noise of the point before, and takes the slope of the outputs between the two: unlike a multistep
    method it keeps nothing from step to step, and every difference belongs to one trajectory. Of interest for
    its theory; DPM-Solver has its order for half the evaluations. Needs signal at the grid's start.

    Li et al., arXiv:2403.03852 (ICML 2024).
    """

    order: int = eqx.field(static=True, default=2, init=False)

    def table(self, grid: Points, known: int) -> Plan:
        no_history(known, self)
        needs_signal(grid, self)
        groups = [_first(grid[:1], grid[1:2])]
        if len(grid) > 2:
            steps = np.arange(1, len(grid) - 1)
            groups.append((steps, *_second_order(grid[:-2], grid[1:-1], grid[2:])))
        return singlestep("eps", groups, grid[-1:], 2)


def _first(start: Points, end: Points) -> tuple[np.ndarray, Points, Any, Any]:
    """One step (1,) of DDIM as a group for `singlestep`."""
    xp = namespace(start.lam, end.lam)
    change = end.alpha * (rho_of(end) - rho_of(start))
    a = xp.stack([xp.ones_like(change), end.alpha / start.alpha], axis=1)
    b = xp.stack([xp.zeros_like(change), change], axis=1)[:, :, None]
    return np.array([0]), stack([start]), a, b


def _second_order(before: Points, here: Points, after: Points) -> tuple[Points, Any, Any]:
    """Steps (S,) from `here` to `after`, by way of `before`: their stages as `singlestep` takes them."""
    xp = namespace(before.lam, here.lam, after.lam)
    v = rho_of(here) ** 2
    back, step = rho_of(before) ** 2 - v, rho_of(after) ** 2 - v
    bend = 0.5 * step**2 / back  # times the difference of the two outputs
    own, other = 0.5 / rho_of(here), 0.5 / rho_of(before)  # g per eps
    zero = xp.zeros_like(v)
    a = xp.stack([here.alpha, before.alpha, after.alpha], axis=1) / here.alpha[:, None]
    b = [
        xp.stack([zero, zero], axis=1),
        xp.stack([before.alpha * back * own, zero], axis=1),
        after.alpha[:, None] * xp.stack([(step - bend) * own, bend * other], axis=1),
    ]
    return stack([here, before]), a, xp.stack(b, axis=1)


class AcceleratedDDPM(AbstractSampler):
    """Ancestral sampling with half of each step's noise added before the network sees the state.

    One evaluation a step; weak order 2 (mean and covariance; DDPM has 1). It is the Euler-Maruyama method for
    the reverse SDE in v = (sigma / alpha)^2, but for the place of the noise: it goes from z to z + sqrt(h/2)
    xi, evaluates there, and adds the other half behind the drift. A last step to sigma = 0 is free of noise.
    Needs signal at the grid's start.

    Li et al., arXiv:2403.03852 (ICML 2024).
    """

    order: int = eqx.field(static=True, default=2, init=False)

    def table(self, grid: Points, known: int) -> Plan:
        no_history(known, self)
        needs_signal(grid, self)
        xp = namespace(grid.lam)
        rho, alpha = rho_of(grid), grid.alpha
        step = -xp.diff(rho**2)
        half = 0.5 * step
        if is_free_of_noise(grid):
            half = xp.concatenate([half[:-1], np.zeros(1)])
        # Behind the drift of one step and before the next evaluation: one draw for both halves.
        variance = xp.concatenate([half, np.zeros(1)]) + xp.concatenate([np.zeros(1), half])
        some = variance > 0  # the root's derivative at 0 is infinite
        noise = alpha * xp.where(some, xp.sqrt(xp.where(some, variance, 1.0)), 0.0)
        columns = [alpha[1:] / alpha[:-1], -alpha[1:] * step / rho[:-1], noise[1:]]
        plan = build(grid, "eps", np.zeros(len(step), int), xp.stack(columns, axis=1), stochastic=True)
        first = xp.stack([xp.ones_like(noise[:1]), 0.0 * noise[:1], noise[:1]], axis=1)
        return eqx.tree_at(lambda p: p.weights, plan, xp.concatenate([first, plan.weights[1:]]))

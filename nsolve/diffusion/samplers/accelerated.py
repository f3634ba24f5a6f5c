"""The accelerated DDIM and DDPM of Li et al.: samplers with a proof of how fast they converge."""

from typing import Any

import equinox as eqx
import numpy as np

from .._arrays import namespace, root
from ..plan import Plan, build
from ..points import Points, stack
from ._adams import adams, needs_signal, rho_of
from ._multistep import is_free_of_noise, start_up
from ._singlestep import singlestep
from .base import AbstractSampler, no_history
from .deis import exact_weights


class AcceleratedDDIM(AbstractSampler):
    """DDIM with a second-order term: the noise as a linear function of alpha^2 / (alpha^2 + sigma^2).

    Order 2. The slope is between the outputs at the present noise and at that of the point before. With
    `reuse=True`, as in the authors' code, the latter is the output that is already there: one evaluation a
    step, DEIS of order 2 in that variable. With `reuse=False`, as in their analysis, the network is asked
    again, where a DDIM step back to that noise leads: two evaluations a step, one in the first, which is
    plain DDIM. Needs signal at the grid's start.

    Li et al., arXiv:2403.03852 (ICML 2024).
    """

    reuse: bool = eqx.field(static=True, default=True)
    order: int = eqx.field(static=True, default=2, init=False)

    def table(self, grid: Points, known: int) -> Plan:
        needs_signal(grid, self)
        weights = exact_weights(grid, _signal_share)
        if self.reuse:
            return adams(grid, start_up(grid, 2), known, weights)
        no_history(known, self)
        first = np.zeros(1, int)
        groups = [(first, *_stages([grid[:1]], grid[1:2], weights(first, first[:, None])))]
        if len(grid) > 2:
            steps = np.arange(1, len(grid) - 1)
            both = weights(steps, np.stack([steps, steps - 1], axis=1))
            groups.append((steps, *_stages([grid[1:-1], grid[:-2]], grid[2:], both)))
        return singlestep("eps", groups, grid[-1:], 2)


def _signal_share(points: Points) -> Any:
    return 1.0 / (1.0 + rho_of(points) ** 2)


def _stages(at: list[Points], end: Points, weights: Any) -> tuple[Points, Any, Any]:
    """Steps (S,) from the first points `at` by way of the others, which DDIM reaches: as `singlestep` takes
    them.

    `weights` (S, m): of the outputs in dz."""
    xp = namespace(end.lam, weights)
    start = at[0]
    zeros = xp.zeros_like(weights[:, 1:])
    a = xp.stack([p.alpha for p in [*at, end]], axis=1) / start.alpha[:, None]
    reached = [p.alpha * (rho_of(p) - rho_of(start)) for p in at]
    b = [xp.concatenate([change[:, None], zeros], axis=1) for change in reached]
    return stack(at), a, xp.stack([*b, end.alpha[:, None] * weights], axis=1)


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
        noise = alpha * root(variance)
        columns = [alpha[1:] / alpha[:-1], -alpha[1:] * step / rho[:-1], noise[1:]]
        plan = build(grid, "eps", np.zeros(len(step), int), xp.stack(columns, axis=1), stochastic=True)
        first = xp.stack([xp.ones_like(noise[:1]), 0.0 * noise[:1], noise[:1]], axis=1)
        return eqx.tree_at(lambda p: p.weights, plan, xp.concatenate([first, plan.weights[1:]]))

"""PNDM and iPNDM: Adams methods on the noise, in the time."""

from dataclasses import replace
from typing import Any, Literal

import equinox as eqx
import numpy as np

from .._arrays import namespace
from ..plan import Plan
from ..points import Points
from ._adams import Weights, adams, needs_signal, rho_of
from ._multistep import start_up
from ._singlestep import singlestep
from .base import AbstractSampler, check_choice, check_order
from .deis import exact_weights, time_of
from .runge_kutta import RHO, TABLEAUX, step_groups

# Adams-Bashforth weights for even steps, the newest output first.
_ADAMS_BASHFORTH = (
    np.array([1.0]),
    np.array([3.0, -1.0]) / 2.0,
    np.array([23.0, -16.0, 5.0]) / 12.0,
    np.array([55.0, -59.0, 37.0, -9.0]) / 24.0,
)


class IPNDM(AbstractSampler):
    """Improved PNDM: Adams-Bashforth on the noise, started by its own lower orders.

    One evaluation a step, `order` (1 to 4) outputs kept. The published form averages outputs with the weights
    of even steps and then takes a DDIM step with the average, which leaves out how the noise level moves
    within the step: order 2, whatever `order` says (`legacy=True`). With the weights that account for it the
    method is DEIS of the same order in the time, and that is what is computed by default.

    Liu et al., arXiv:2202.09778; Zhang & Chen, arXiv:2204.13902 (iPNDM).
    """

    order: int = eqx.field(static=True, default=4)
    legacy: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_order(self.order, 4)

    def table(self, grid: Points, known: int) -> Plan:
        needs_signal(grid, self)
        return adams(grid, start_up(grid, self.order), known, _weights(grid, self.legacy))


Kind = Literal["S", "F", "PLMS"]

# Order of the Adams method, tableau and number of the steps that start it.
_KINDS = {"S": (2, "heun", 1), "F": (4, "rk4", 3), "PLMS": (4, "heun", 1)}


class PNDM(AbstractSampler):
    """Pseudo numerical methods: a few Runge-Kutta steps, then Adams-Bashforth on the noise, one evaluation a
    step.

    - `kind`: `"S"`: one Heun step, then 2 outputs: N + 1 evaluations, order 2. `"F"`: three Runge-Kutta steps
      of four stages, then 4 outputs: N + 9 evaluations, order 4. `"PLMS"` (Stable Diffusion's): one Heun
      step, then 2, 3, 4 outputs: N + 1 evaluations, order 4 but for these first steps, which have order 3
      (too little to show where it was measured).
    - `legacy`: the published weights, those of even steps, and Runge-Kutta stages halfway in the time: order
      2 for every kind. The default integrates the outputs' polynomial in the time exactly (as `IPNDM` does),
      and starts by Runge-Kutta in rho = sigma / alpha.

    Needs signal at the grid's start. Liu et al., arXiv:2202.09778.
    """

    kind: Kind = eqx.field(static=True, default="F")
    legacy: bool = eqx.field(static=True, default=False)
    order: int = eqx.field(static=True, init=False)

    def __post_init__(self):
        check_choice("kind", self.kind, tuple(_KINDS))
        self.order = 2 if self.legacy else _KINDS[self.kind][0]

    def table(self, grid: Points, known: int) -> Plan:
        needs_signal(grid, self)
        order, name, num_starts = _KINDS[self.kind]
        num_starts = min(num_starts, len(grid) - 1)
        orders = np.minimum(np.arange(len(grid) - 1) + 1, order)
        if known >= num_starts:
            return adams(grid, orders, known, _weights(grid, self.legacy))
        start = _start(grid, np.arange(known, num_starts), name, order, self.legacy)
        if num_starts == len(grid) - 1:
            return start
        return _joined(start, adams(grid, orders, num_starts, _weights(grid, self.legacy)))


def _weights(grid: Points, legacy: bool) -> Weights:
    if not legacy:
        return exact_weights(grid, time_of)

    def weights(rows: np.ndarray, nodes: np.ndarray) -> Any:
        rho = rho_of(grid)
        return (rho[rows + 1] - rho[rows])[:, None] * _ADAMS_BASHFORTH[nodes.shape[1] - 1]

    return weights


def _halfway(start: Points, end: Points, node: float) -> Points:
    return start.at(start.t + node * (end.t - start.t))


def _start(grid: Points, steps: np.ndarray, tableau: str, order: int, legacy: bool) -> Plan:
    """Runge-Kutta steps; the first output of step i stays in register i, the others lie behind the first
    `order`."""
    first, last = grid[steps], grid[steps + 1]
    groups = step_groups(RHO, first, last, TABLEAUX[tableau], _halfway if legacy else None)
    width = len(TABLEAUX[tableau].weights)
    plan = singlestep("eps", groups, last[-1:], width)
    begins = plan.registers == 0
    step = steps[np.cumsum(begins) - 1]  # of each row
    registers = np.where(begins, step, order - 1 + plan.registers)
    xp, inner = namespace(plan.weights), plan.weights[1:]
    own = inner[:, 1:2] * (step[:, None] == np.arange(order)).astype(inner.dtype)
    inner = xp.concatenate([inner[:, :1], own, inner[:, 2:]], axis=1)
    first_row = np.eye(1, order + width + 1)
    return replace(plan, registers=registers, weights=xp.concatenate([first_row, inner]))


def _joined(start: Plan, rest: Plan) -> Plan:
    """The plan that carries on with `rest`, which has fewer registers, where `start` ends."""
    xp = namespace(start.weights, rest.weights)
    missing = start.num_registers - rest.num_registers
    weights = xp.concatenate([rest.weights[1:], xp.zeros((rest.num_evaluations, missing))], axis=1)
    return Plan(
        t=xp.concatenate([start.t[:-1], rest.t]),
        model_time=xp.concatenate([start.model_time, rest.model_time]),
        alpha=xp.concatenate([start.alpha[:-1], rest.alpha]),
        sigma=xp.concatenate([start.sigma[:-1], rest.sigma]),
        reads=xp.concatenate([start.reads, rest.reads]),
        registers=np.concatenate([start.registers, rest.registers]),
        weights=xp.concatenate([start.weights, weights]),
    )

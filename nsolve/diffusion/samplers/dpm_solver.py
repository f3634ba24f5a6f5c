"""DPM-Solver and DPM-Solver++: exponential integrators of orders one to three."""

from typing import Any, Literal

import equinox as eqx
import numpy as np

from .._arrays import namespace
from ..phi import phi
from ..plan import Plan
from ..points import Points, stack
from ._multistep import exact_moments, is_free_of_noise, is_noisy, multistep, start_up
from ._singlestep import singlestep
from .base import AbstractSampler, check_choice, check_order, no_history

Mode = Literal["single", "multi", "fast"]
Variant = Literal["midpoint", "heun"]


class DPMSolver(AbstractSampler):
    """Exponential integrator for the probability-flow ODE that interpolates the predicted noise.

    `mode="multi"`: one evaluation a step, earlier outputs serve again (any order up to 8). `"single"`:
    `order` evaluations a step and no history (up to 3). `"fast"`: single steps over the grid's own points,
    exactly one evaluation for each of them. For guided or latent models take `DPMSolverPP`.

    - `variant`: how two outputs are weighted: `"midpoint"` (phi_1 / 2, smaller error) or `"heun"` (phi_2).
    - `lower_order_final`: the last steps use fewer outputs; None: where there are less than 15 steps, or
      the last is over 1.5 times as long in lam as the one before.
    - `legacy`: the published third-order multistep, which misses a factor 2 and has order 2.

    `"fast"` ends with steps of lower order, so its global order is at most 2.

    Lu et al., arXiv:2206.00927.
    """

    order: int = eqx.field(static=True, default=2)
    mode: Mode = eqx.field(static=True, default="multi")
    variant: Variant = eqx.field(static=True, default="midpoint")
    lower_order_final: bool | None = eqx.field(static=True, default=None)
    legacy: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        _check(self)

    def table(self, grid: Points, known: int) -> Plan:
        return _table(self, "eps", grid, known, 0.0)


class DPMSolverPP(AbstractSampler):
    """Exponential integrator that interpolates the predicted clean state: the workhorse for guided and latent
    models.

    Modes and options as in `DPMSolver`. `sde=True` integrates the reverse SDE instead of the ODE (multistep
    only; `order` is then that of the drift), and a number eta in between, or beyond, is an SDE with that much
    noise.

    Lu et al., arXiv:2211.01095.
    """

    order: int = eqx.field(static=True, default=2)
    mode: Mode = eqx.field(static=True, default="multi")
    sde: Any = False
    variant: Variant = eqx.field(static=True, default="midpoint")
    lower_order_final: bool | None = eqx.field(static=True, default=None)
    legacy: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        _check(self)
        if self.sde is not False and self.mode != "multi":
            raise ValueError(f"`sde` needs mode='multi', got mode={self.mode!r}.")

    def table(self, grid: Points, known: int) -> Plan:
        eta = float(self.sde) if isinstance(self.sde, bool) else self.sde
        return _table(self, "x0", grid, known, eta)


def _check(solver: DPMSolver | DPMSolverPP) -> None:
    check_choice("mode", solver.mode, ("single", "multi", "fast"))
    check_choice("variant", solver.variant, ("midpoint", "heun"))
    check_order(solver.order, 8 if solver.mode == "multi" else 3)


def _table(
    solver: DPMSolver | DPMSolverPP, form: Literal["x0", "eps"], grid: Points, known: int, eta: Any
) -> Plan:
    if solver.mode == "multi":

        def moments(order: int, z: Any) -> list[Any]:
            values = exact_moments(order, z)
            if order == 2 and solver.variant == "midpoint":
                values[1] = 0.5 * phi(1, z)
            if order == 3 and solver.legacy:
                # Published: half of the last divided difference; diffusers' SDE has a wrong sign, too.
                values[2] = (phi(2, z) + 0.5) / z if is_noisy(eta) else 0.5 * values[2]
            return values

        orders = start_up(grid, solver.order, solver.lower_order_final)
        return multistep(grid, form, orders, eta=eta, known=known, predictor_moments=moments)

    no_history(known, solver)
    num_steps = len(grid) - 1
    reaches = is_free_of_noise(grid)  # a step to sigma = 0 can only be of first order
    if solver.mode == "single":
        starts, orders = np.arange(num_steps), np.full(num_steps, solver.order)
        orders[-1] = 1 if reaches else solver.order
    else:
        orders = np.array(_fast_orders(num_steps - reaches, solver.order) + [1] * reaches)
        starts = np.cumsum(orders) - orders
    groups = []
    for order in sorted(set(orders.tolist())):
        (steps,) = np.nonzero(orders == order)
        first = starts[steps]
        start, end = grid[first], grid[first + (1 if solver.mode == "single" else order)]
        if solver.mode == "single":
            h = end.lam - start.lam
            inner = [grid.at_lam(start.lam + h * j / order) for j in range(1, order)]
        else:
            inner = [grid[first + j] for j in range(1, order)]
        groups.append((steps, *stages(form, start, inner, end, solver.variant)))
    return singlestep(form, groups, grid[-1:], solver.order)


def _fast_orders(budget: int, order: int) -> list[int]:
    """Orders of single steps that add up to `budget` evaluations (DPM-Solver-fast)."""
    if order == 1 or budget < 2:
        return [1] * budget
    if order == 2:
        return [2] * (budget // 2) + [1] * (budget % 2)
    if budget % 3 == 0:
        return [3] * (budget // 3 - 1) + [2, 1]
    return [3] * (budget // 3) + [budget % 3]


def stages(
    form: Literal["x0", "eps"], start: Points, inner: list[Points], end: Points, variant: Variant
) -> Any:
    """(stages' points (S, m), a (S, m + 1), b (S, m + 1, m)) of steps of order m = 1, 2, 3 (algorithms 1, 4,
    5)."""
    xp = namespace(start.lam, end.lam)
    h = end.lam - start.lam
    zero, one = xp.zeros_like(start.alpha), xp.ones_like(start.alpha)

    def reach(point: Points) -> tuple[Any, Any, Any]:
        """Factor of x, gain and argument of phi for a step from `start` to `point`."""
        step = point.lam - start.lam
        if form == "x0":
            return xp.exp(point.log_sigma - start.log_sigma), point.alpha * step, -step
        with np.errstate(
            invalid="ignore"
        ):  # 0 times infinity, of a step to sigma = 0, which has no use for it
            return xp.exp(point.log_alpha - start.log_alpha), -point.sigma * step, step

    def euler(point: Points) -> Any:
        """gain phi_1, finite where the last point has no noise."""
        step = point.lam - start.lam
        if form == "x0":
            return -point.alpha * xp.expm1(-step)
        return point.sigma - reach(point)[0] * start.sigma

    factors = [one] + [reach(point)[0] for point in [*inner, end]]
    order = len(inner) + 1
    rows = [[zero] * order]
    if order > 1:
        r1 = (inner[0].lam - start.lam) / h
        rows.append([euler(inner[0])] + [zero] * (order - 1))
    _, gain, z = reach(end)
    if order == 1:
        rows.append([euler(end)])
    elif order == 2:
        slope = gain * (0.5 * phi(1, z) if variant == "midpoint" else phi(2, z)) / r1
        rows.append([euler(end) - slope, slope])
    else:
        r2 = (inner[1].lam - start.lam) / h
        _, gain2, z2 = reach(inner[1])
        slope2 = gain2 * phi(2, z2) * r2 / r1
        rows.append([euler(inner[1]) - slope2, slope2, zero])
        if variant == "midpoint":
            slope = gain * phi(2, z) / r2
            rows.append([euler(end) - slope, zero, slope])
        else:
            # Both divided differences (the "taylor" form).
            first, second = gain * phi(2, z), 2.0 * gain * phi(3, z)
            c1, c2 = (r2 * first - second) / (r1 * (r2 - r1)), (second - r1 * first) / (r2 * (r2 - r1))
            rows.append([euler(end) - c1 - c2, c1, c2])
    b = xp.stack([xp.stack(row, axis=-1) for row in rows], axis=1)
    return stack([start, *inner]), xp.stack(factors, axis=1), b

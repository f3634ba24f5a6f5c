"""Exponential multistep methods of any order, as rows of a plan.

With lam as variable, the probability-flow ODE and the reverse SDEs are linear in x but for the network's
output y, so that over a step from lam_s to lam_t = lam_s + h

    x_t = A x_s + B sum_j w_j y_j + s xi,
    sum_j w_j r_j^k = k! phi_{k+1}(z) for k = 0, 1, ...,    r_j = (lam_j - lam_s) / h,

is exact for every y that is a polynomial in lam through the nodes lam_j: as many orders as nodes.

    y = x0:   A = (sigma_t / sigma_s) e^{-eta h}, B = alpha_t (1 + eta) h, z = -(1 + eta) h,
              s^2 = sigma_t^2 (1 - e^{-2 eta h})
    y = eps:  A = alpha_t / alpha_s, B = -sigma_t (1 + eta) h, z = h, s^2 = eta sigma_t^2 (e^{2h} - 1)

eta = 0 is the ODE, eta = 1 the reverse SDE. DDIM, DPM-Solver and DPM-Solver++ (multistep), UniPC, SA-Solver
and DEIS in log rho are this formula (arXiv:2206.00927, 2211.01095, 2302.04867, 2309.05019, 2204.13902).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from .._arrays import is_traced, namespace, root
from ..phi import lagrange, phis
from ..plan import Plan, build
from ..points import Points

Moments = Callable[[int, Any], list[Any]]


def exact_moments(order: int, z: Any) -> list[Any]:
    """k! phi_{k+1}(z) for k < order."""
    values = phis(order, z)
    return [math.factorial(k) * values[..., k] for k in range(order)]


def node_weights(lam: Any, start: Any, h: Any, z: Any, moments: Moments = exact_moments) -> Any:
    """w_j for nodes lam (..., n), a step of length h (...) from `start` (...)."""
    xp = namespace(lam, start, h, z)
    nodes = (lam - start[..., None]) / h[..., None]
    wanted = xp.stack(moments(lam.shape[-1], z), axis=-1)
    return xp.einsum("...jk,...k->...j", lagrange(nodes), wanted)


class Step:
    """A, B, z, s of steps between consecutive points, in one form of output, and the clock of the noise at
    the points. `eta` is a number, or one for each step."""

    def __init__(self, form: Literal["x0", "eps"], points: Points, eta: Any):
        start, end = points[:-1], points[1:]
        xp = namespace(points.lam, eta)
        self.points, self.form = points, form
        with np.errstate(invalid="ignore", over="ignore"):
            # A first step may leave a point without signal, a last one reach sigma = 0: only the limit of
            # order 1 has a meaning there. Their length counts as 1, so that no derivative meets infinity.
            h = end.lam - start.lam
            infinite = xp.isposinf(h)
            self.h = h = xp.where(infinite, 1.0, h)
            if form == "x0":
                damping = xp.where(infinite, xp.where(eta == 0, 0.0, np.inf), eta * h)
                self.decay = xp.exp(end.log_sigma - start.log_sigma - damping)
                self.gain = end.alpha * (1.0 + eta) * h
                self.first = end.alpha * xp.where(infinite, 1.0, -xp.expm1(-(1.0 + eta) * h))
                self.z = -(1.0 + eta) * h
                self.noise = end.sigma * root(-xp.expm1(-2.0 * damping)) if is_noisy(eta) else 0.0 * end.alpha
            else:
                self.decay = xp.exp(end.log_alpha - start.log_alpha)
                self.gain = -end.sigma * (1.0 + eta) * h
                # sigma_t expm1(h) = alpha_t sigma_s / alpha_s - sigma_t
                self.first = -(1.0 + eta) * (self.decay * start.sigma - end.sigma)
                self.z = h
                variance = end.alpha**2 * (xp.exp(-2.0 * start.lam) - xp.exp(-2.0 * end.lam))
                self.noise = root(eta * variance) if is_noisy(eta) else 0.0 * end.alpha
            self.clock: Any = _clock(form, points, eta) if is_noisy(eta) else None

    def weights(self, rows: np.ndarray, nodes: np.ndarray, moments: Moments) -> Any:
        """B w for some steps: `rows` (R,) their numbers, `nodes` (R, n) the numbers of the points that carry
        outputs."""
        if nodes.shape[1] == 1:  # phi_1, in a form that is finite where h is not
            return self.first[rows][:, None]
        lam = self.points.lam
        weights = node_weights(lam[nodes], lam[rows], self.h[rows], self.z[rows], moments)
        return self.gain[rows][:, None] * weights


def _clock(form: Literal["x0", "eps"], points: Points, eta: Any) -> Any:
    """Logarithm of the Brownian time whose increments are the steps' noise.

    With eps the noise is that of int e^{-lam} dW, of which the Brownian time runs back; with x0 that of
    int e^{eta lam} dW, where the times of the steps are added up if eta changes.
    """
    if form == "eps":
        return noise_clock(-1.0, points.lam)
    xp = namespace(points.lam, eta)
    if xp.ndim(eta) == 0:
        return noise_clock(eta, points.lam)
    doubled = noise_clock(1.0, points.lam)
    return xp.cumsum(xp.concatenate([eta[:1] * doubled[:1], eta * xp.diff(doubled)]))


def is_noisy(eta: Any) -> bool:
    """Whether noise is added: a traced eta may be anything."""
    return not (isinstance(eta, float | int) and eta == 0)


def start_up(grid: Points, order: int, lower_order_final: bool | None = False) -> np.ndarray:
    """Orders of the steps of a multistep method: as many as there are outputs, and if wished as few as there
    are steps left."""
    step = np.arange(len(grid) - 1)
    orders = np.minimum(step + 1, order)
    if lower_order_final:
        orders = np.minimum(orders, len(step) + grid.final - step)
    return orders


def multistep(
    points: Points,
    form: Literal["x0", "eps"],
    orders: Sequence[int] | np.ndarray,
    corrector_orders: Sequence[int] | np.ndarray | None = None,
    *,
    eta: Any = 0.0,
    known: int = 0,
    predictor_moments: Moments = exact_moments,
    corrector_moments: Moments = exact_moments,
) -> Plan:
    """The plan of a multistep predictor, with or without corrector.

    `orders[i]` is the number of outputs that step i uses, `corrector_orders[i]` that of earlier outputs that
    correct the point at which step i ends, once the network has seen it (0: none; the network is not called
    again, and the last point is not corrected). Steps before `known` are not taken.
    """
    num_steps = len(points) - 1
    orders = np.array(orders)
    orders[-1] = 1 if is_free_of_noise(points) else orders[-1]
    correct = np.zeros(num_steps, int) if corrector_orders is None else np.array(corrector_orders)
    correct[-1] = 0
    if _free_of_signal(points):
        # lam = -inf at the start: a point that no later interpolation can use.
        if form == "eps":
            raise ValueError("`grid` begins where there is no signal: interpolate x0 there, or begin later.")
        orders = np.minimum(orders, np.maximum(np.arange(num_steps), 1))
        correct = np.minimum(correct, np.arange(num_steps))
    # With a corrector the predictor's outputs are needed once more, one step later.
    width = int(max(orders.max(), correct.max())) + int(correct.any())
    step = Step(form, points, eta)
    xp = namespace(step.first, step.decay)
    rows = np.arange(known, num_steps)

    def newest_first(counts: np.ndarray, offset: int, moments: Moments) -> Any:
        """(R, width): the weights of outputs at points i+offset, i+offset-1, ... in step i, zeros where
        unused."""
        blocks, positions = [], []
        for count in sorted(set(counts[rows].tolist())):
            these = rows[counts[rows] == count]
            positions.append(these)
            if count == offset:  # a corrector of order 0 has no use for the new output
                blocks.append(xp.zeros((len(these), width)))
                continue
            nodes = (these + offset)[:, None] - np.arange(count)[None, :]
            weights = step.weights(these, nodes, moments)
            blocks.append(xp.concatenate([weights, xp.zeros((len(these), width - count))], axis=1))
        order = np.argsort(np.concatenate(positions))
        return xp.concatenate(blocks)[order]

    predicted = newest_first(orders, 0, predictor_moments)
    table = predicted
    if correct.any():
        # x_corrected = x + sum (c - p) y: what the next step starts from, in terms of the point that the
        # network saw.
        corrected = newest_first(np.where(correct > 0, correct + 1, 1), 1, corrector_moments)
        applies = (correct[rows] > 0)[:, None]
        older = xp.concatenate([xp.zeros((len(rows), 1)), predicted[:, : width - 1]], axis=1)
        change = xp.where(applies, corrected - older, 0.0)
        change = xp.concatenate([xp.zeros((1, width)), change[:-1]])
        table = predicted + step.decay[rows][:, None] * change
    table, registers = in_registers(table, rows, width)
    weights = xp.concatenate([step.decay[rows][:, None], table, step.noise[rows][:, None]], axis=1)
    stochastic = is_noisy(eta)
    return build(
        points[known:],
        form,
        registers,
        weights,
        clock=step.clock[known:] if stochastic else None,
        stochastic=stochastic,
    )


def noise_clock(eta: Any, lam: Any) -> Any:
    """Logarithm of the Brownian time e^{2 eta lam} that the noise of an eta-SDE is an increment over (see
    `BrownianPath`), cut where there is no signal or no noise."""
    return 2.0 * eta * namespace(lam, eta).clip(lam, -30.0, 30.0)


def in_registers(newest_first: Any, rows: np.ndarray, width: int) -> tuple[Any, np.ndarray]:
    """(weights by register, register of each row): the output at point i lies in register i mod width."""
    column = (rows[:, None] - np.arange(width)[None, :]) % width
    return namespace(newest_first).take_along_axis(newest_first, column, axis=1), rows % width


def is_free_of_noise(points: Points) -> bool:
    return not is_traced(points.log_sigma) and bool(np.isneginf(points.log_sigma[-1]))


def _free_of_signal(points: Points) -> bool:
    return not is_traced(points.log_alpha) and bool(np.isneginf(points.log_alpha[0]))

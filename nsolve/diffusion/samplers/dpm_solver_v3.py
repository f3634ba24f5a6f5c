"""DPM-Solver-v3: exponential multistep in the form that a model's own statistics make nearly constant."""

from typing import Any, Literal

import equinox as eqx
import numpy as np
from numpy.polynomial import legendre

from .._arrays import is_traced, namespace
from ..phi import gauss_legendre, lagrange
from ..plan import Plan
from ..points import Points
from ..statistics import Spline, Statistics
from ._multistep import start_up
from .base import AbstractSampler, check_choice, check_order

Pseudo = Literal["predictor", "corrector", "both"]


class DPMSolverV3(AbstractSampler):
    """Multistep predictor and corrector that extrapolate what is left of the model after its linear part.

    One evaluation a step. Order of the predictor `order`, one more with the corrector, whatever the
    statistics; fitted ones (`fit_statistics`) make its error at 5 to 10 steps small. Its plans hold
    coefficients for each component of a state, which must be a single array.

    - `statistics`: a `Statistics` that covers the grid's lam.
    - `order`: 1 to 8 outputs. Published: 3, with guidance 2.
    - `corrector`: correct each point with its own output (the last is not).
    - `pseudo`: estimate the k-th derivative from the k + 1 newest outputs alone, in the predictor (published:
      for 5 steps), the corrector (published: always) or both. Steadier with few steps, but of order 2.
    - `lower_order_final`: the last steps use fewer outputs; None: where there are less than 15 steps, or
      the last is over 1.5 times as long in lam as the one before.

    Zheng et al., arXiv:2310.13268. Deviations: the integrals are made by Gauss-Legendre quadrature over
    splines, so times need not be among those of the statistics; the corrector has all of its order.
    """

    statistics: Statistics
    order: int = eqx.field(static=True, default=3)
    corrector: bool = eqx.field(static=True, default=True)
    pseudo: Pseudo | None = eqx.field(static=True, default=None)
    lower_order_final: bool | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if not isinstance(self.statistics, Statistics):
            kind = type(self.statistics).__name__
            raise TypeError(f"`statistics` must be an ns.diffusion.Statistics, got {kind}.")
        check_order(self.order, 8)
        check_choice("pseudo", self.pseudo, (None, "predictor", "corrector", "both"))

    def table(self, grid: Points, known: int) -> Plan:
        num_steps = len(grid) - 1
        _check_range(grid, self.statistics)
        orders = start_up(grid, self.order, self.lower_order_final)
        correct = np.where(np.arange(num_steps) < num_steps - 1, orders, 0) if self.corrector else 0 * orders
        width = int(orders.max()) + int(correct.any())
        step = _Steps(grid, self.statistics, width)
        rows = np.arange(known, num_steps)
        xp = namespace(step.decay)
        each = (slice(None),) + (None,) * (step.decay.ndim - 1)

        predicted, shift = step.weights(rows, orders[rows], 0, self.pseudo in ("predictor", "both"))
        if correct.any():
            # As in `multistep`: x_corrected = x + sum (c - p) f + (difference of the constants).
            corrected, moved = step.weights(rows, correct[rows] + 1, 1, self.pseudo in ("corrector", "both"))
            applies = (correct[rows] > 0)[each]
            older = xp.concatenate([xp.zeros_like(predicted[:, :1]), predicted[:, :-1]], axis=1)
            change = xp.where(applies[:, None], corrected - older, 0.0)
            difference = xp.where(applies, moved - shift, 0.0)
            change = xp.concatenate([xp.zeros_like(change[:1]), change[:-1]])
            difference = xp.concatenate([xp.zeros_like(difference[:1]), difference[:-1]])
            predicted = predicted + step.decay[rows][:, None] * change
            shift = shift + step.decay[rows] * difference
        column = (rows[:, None] - np.arange(width)[None, :]) % width
        kept = xp.take_along_axis(predicted, column[(...,) + (None,) * (predicted.ndim - 2)], axis=1)
        decay = step.decay[rows][:, None]
        weights = xp.concatenate([decay, kept, xp.zeros_like(decay)], axis=1)
        first = xp.concatenate([xp.ones_like(weights[:1, :1]), xp.zeros_like(weights[:1, 1:])], axis=1)
        linear = step.linear[known:-1]
        alpha = grid.alpha[known:-1][each]
        return Plan(
            t=grid.t[known:],
            model_time=grid.schedule.model_time(grid.t[known:-1]),
            alpha=grid.alpha[known:],
            sigma=grid.sigma[known:],
            reads=xp.stack([(1.0 - linear) / alpha, -xp.ones_like(linear)], axis=1),
            registers=rows % width,
            weights=xp.concatenate([first, weights]),
            shifts=xp.concatenate([xp.zeros_like(shift[:1]), shift]),
        )


def _check_range(grid: Points, statistics: Statistics) -> None:
    if is_traced((grid.lam, statistics.lam)):
        return
    first, last, slack = statistics.lam[0], statistics.lam[-1], 1e-6
    if grid.lam[0] < first - slack or grid.lam[-1] > last + slack:
        raise ValueError(
            f"`statistics` must cover the grid: they are known for lam from {first:.6g} to {last:.6g}, and "
            f"the grid goes from {grid.lam[0]:.6g} to {grid.lam[-1]:.6g}."
        )


# Quadrature over a step, and the same from its start to each node.
_NODES, _WEIGHTS = gauss_legendre()
_TO_POLYNOMIAL = np.linalg.inv(legendre.legvander(2.0 * _NODES - 1.0, len(_NODES) - 1))
_PARTIAL = 0.5 * legendre.legval(2.0 * _NODES - 1.0, legendre.legint(_TO_POLYNOMIAL, lbnd=-1)).T


class _Steps:
    """The integrals of the steps of a grid.

    With L, S the integrals of l, s from a step's start lam_s, and B that of e^{-S} b,
    f = e^S (g + B) and z_t = e^{-L_t} (z_s - int e^{L+S} (g + B)), where g hardly changes: it is what is
    interpolated.
    """

    def __init__(self, grid: Points, statistics: Statistics, width: int):
        lam = grid.lam
        xp = namespace(lam, statistics.l)
        known = statistics.l, statistics.s, statistics.b
        linear, s, b = (Spline.through(statistics.lam, value) for value in known)
        shape = statistics.l.shape[1:]
        one = (slice(None),) + (None,) * len(shape)
        h = xp.diff(lam)
        inner = lam[:-1, None] + h[:, None] * _NODES[None]
        at_ends, s_ends = linear.integral(lam), s.integral(lam)
        grown_s = s.integral(inner) - s_ends[:-1][:, None]
        grown = xp.exp(linear.integral(inner) - at_ends[:-1][:, None] + grown_s)
        powers = _NODES[None, :] ** np.arange(width)[:, None]
        forcing = xp.exp(-grown_s) * b(inner)
        self.moments = h[one][:, None] * xp.einsum("kq,nq...->nk...", powers * _WEIGHTS, grown)
        partial = h[one][:, None] * xp.einsum("pq,nq...->np...", _PARTIAL, forcing)
        self.forced = h[one] * xp.einsum("q,nq...->n...", _WEIGHTS, grown * partial)
        # B from the first point, by steps.
        self.log_s = s_ends - s_ends[:1]
        of_steps = xp.exp(-self.log_s[:-1]) * h[one] * xp.einsum("q,nq...->n...", _WEIGHTS, forcing)
        self.force = xp.concatenate([xp.zeros_like(of_steps[:1]), xp.cumsum(of_steps, axis=0)])
        shrink = xp.exp(-xp.diff(at_ends, axis=0))
        self.gain = grid.alpha[1:][one] * shrink
        self.decay = xp.exp(xp.diff(grid.log_alpha))[one] * shrink
        self.linear = linear(lam)
        self.lam = lam

    def weights(self, rows: np.ndarray, counts: np.ndarray, offset: int, pseudo: bool) -> tuple[Any, Any]:
        """The weights (R, width, ...) of f at points i+offset, i+offset-1, ... in step i, of which `counts`
        (R,) serve, and the constants (R, ...)."""
        xp, width = namespace(self.decay), self.moments.shape[1]
        points = np.maximum((rows + offset)[:, None] - np.arange(width), 0)
        start, h = self.lam[rows], self.lam[rows + 1] - self.lam[rows]
        nodes = (self.lam[points] - start[:, None]) / h[:, None]
        blocks, positions = [], []
        for count in sorted(set(counts.tolist())):
            (these,) = np.nonzero(counts == count)
            basis = (_newton if pseudo else _interpolation)(nodes[these, :count], offset)
            blocks.append(xp.pad(basis, ((0, 0), (0, width - count), (0, width - count))))
            positions.append(these)
        polynomials = xp.concatenate(blocks)[np.argsort(np.concatenate(positions))]
        weights = xp.einsum("rjk,rk...->rj...", polynomials, self.moments[rows])
        back = self.log_s[rows][:, None]
        force = xp.exp(back) * (self.force[points] - self.force[rows][:, None])
        constant = self.gain[rows] * (xp.sum(weights * force, axis=1) - self.forced[rows])
        return -self.gain[rows][:, None] * weights * xp.exp(back - self.log_s[points]), constant


def _interpolation(nodes: Any, offset: int) -> Any:
    del offset
    return lagrange(nodes)


def _newton(nodes: Any, offset: int) -> Any:
    """Coefficients (R, n, n) as `lagrange` gives them, but those of power k are the divided difference of
    the first k + 1 nodes. The step's start, at `offset`, counts as the first."""
    xp, n = namespace(nodes), nodes.shape[1]
    order = sorted(range(n), key=lambda j: j != offset)
    coefficients = {}
    for k in range(n):
        among = order[: k + 1]
        for j in among:
            gaps = [nodes[:, j] - nodes[:, i] for i in among if i != j]
            coefficients[j, k] = 1.0 / xp.prod(xp.stack([xp.ones_like(nodes[:, j]), *gaps]), axis=0)
    zero = xp.zeros_like(nodes[:, 0])
    rows = [xp.stack([coefficients.get((j, k), zero) for k in range(n)], axis=1) for j in range(n)]
    return xp.stack(rows, axis=1)

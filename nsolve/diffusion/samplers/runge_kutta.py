"""Classical Runge-Kutta methods for the probability-flow ODE, in variables that make it dy / dv = output."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import numpy as np

from .._arrays import namespace
from ..plan import Form, Plan
from ..points import Points, stack
from ._adams import needs_signal, rho_of
from ._multistep import is_free_of_noise
from ._singlestep import singlestep
from .base import AbstractSampler, check_choice, no_history


class Unknown(NamedTuple):
    """y = x / scale as a function of `value`; its derivative is the network's output in `form`."""

    form: Form
    scale: Callable[[Points], Any]
    value: Callable[[Points], Any]
    lam: Callable[[Any], Any]  # of a value


def _share(points: Points) -> Any:
    return points.sigma / (points.alpha + points.sigma)


# d(x / alpha) / d(sigma / alpha) = eps
RHO = Unknown("eps", lambda points: points.alpha, rho_of, lambda v: -namespace(v).log(v))
# d(x / (alpha + sigma)) / d(sigma / (alpha + sigma)) = eps - x0: on `Flow` x itself as a function of its time
FLOW = Unknown(
    "flow", lambda points: points.alpha + points.sigma, _share, lambda v: namespace(v).log((1.0 - v) / v)
)


class Tableau(NamedTuple):
    """An explicit Butcher tableau: stage i at `nodes[i]` of the step, from `stages[i]` (i weights)."""

    order: int
    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


def two_stages(alpha: float) -> Tableau:
    """The methods of order 2 with two stages, the second at `alpha` of the step."""
    return Tableau(2, (0.0, alpha), ((), (alpha,)), (1.0 - 0.5 / alpha, 0.5 / alpha))


TABLEAUX = {
    "euler": Tableau(1, (0.0,), ((),), (1.0,)),
    "midpoint": two_stages(0.5),
    "heun": two_stages(1.0),
    "kutta3": Tableau(3, (0.0, 1 / 2, 1.0), ((), (1 / 2,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6)),
    "ralston3": Tableau(3, (0.0, 1 / 2, 3 / 4), ((), (1 / 2,), (0.0, 3 / 4)), (2 / 9, 1 / 3, 4 / 9)),
    "heun3": Tableau(3, (0.0, 1 / 3, 2 / 3), ((), (1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4)),
    "vdh3": Tableau(3, (0.0, 8 / 15, 2 / 3), ((), (8 / 15,), (1 / 4, 5 / 12)), (1 / 4, 0.0, 3 / 4)),
    "ssprk3": Tableau(3, (0.0, 1.0, 1 / 2), ((), (1.0,), (1 / 4, 1 / 4)), (1 / 6, 1 / 6, 2 / 3)),
    "rk4": Tableau(
        4,
        (0.0, 1 / 2, 1 / 2, 1.0),
        ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    ),
}
TableauName = Literal["euler", "midpoint", "heun", "kutta3", "ralston3", "heun3", "vdh3", "ssprk3", "rk4"]


class RhoRK(AbstractSampler):
    """A Runge-Kutta method in rho = sigma / alpha: dz / drho = eps with z = x / alpha (the rhoRK of DEIS).

    As many evaluations a step as the tableau has stages; its order. `tableau`: `"euler"` (DDIM),
    `"midpoint"`, `"heun"` (order 2), `"kutta3"`, `"ralston3"`, `"heun3"`, `"vdh3"`, `"ssprk3"` (order 3),
    `"rk4"` (order 4). Needs signal at the grid's start. A last step to sigma = 0 is one of Euler where a
    stage would lie there.

    Zhang & Chen, arXiv:2204.13902.
    """

    tableau: TableauName = eqx.field(static=True, default="heun")
    order: int = eqx.field(static=True, init=False)

    def __post_init__(self):
        check_choice("tableau", self.tableau, tuple(TABLEAUX))
        self.order = TABLEAUX[self.tableau].order

    def table(self, grid: Points, known: int) -> Plan:
        no_history(known, self)
        needs_signal(grid, self)
        return _plan(RHO, grid, TABLEAUX[self.tableau])


class FlowRK(AbstractSampler):
    """A Runge-Kutta method in s = sigma / (alpha + sigma): dy / ds = eps - x0 with y = x / (alpha + sigma).

    What flow matching calls Euler, midpoint or Heun: on `Flow` y is x and s the network's time. Works on
    every schedule, and from a start without signal. Evaluations, order, tableaux and a last step to sigma = 0
    as in `RhoRK`.

    Lipman et al., arXiv:2210.02747; Liu et al., arXiv:2209.03003.
    """

    tableau: TableauName = eqx.field(static=True, default="heun")
    order: int = eqx.field(static=True, init=False)

    def __post_init__(self):
        check_choice("tableau", self.tableau, tuple(TABLEAUX))
        self.order = TABLEAUX[self.tableau].order

    def table(self, grid: Points, known: int) -> Plan:
        no_history(known, self)
        return _plan(FLOW, grid, TABLEAUX[self.tableau])


class RFSolver(AbstractSampler):
    """RF-Solver: the second-order Taylor step of a rectified flow, its derivative by a difference over half a
    step.

    Written out that is x + h u(x + h/2 u(x)), the explicit midpoint rule in s = sigma / (alpha + sigma), so
    it is the same as `FlowRK("midpoint")`. Two evaluations a step; order 2; a last step to sigma = 0 has that
    order, too.

    Wang et al., arXiv:2411.04746.
    """

    order: int = eqx.field(static=True, default=2, init=False)

    def table(self, grid: Points, known: int) -> Plan:
        no_history(known, self)
        return _plan(FLOW, grid, TABLEAUX["midpoint"])


def _plan(variable: Unknown, grid: Points, tableau: Tableau) -> Plan:
    groups = step_groups(variable, grid[:-1], grid[1:], tableau)
    return singlestep(variable.form, groups, grid[-1:], len(tableau.weights))


Group = tuple[np.ndarray, Points, Any, Any]
Inner = Callable[[Points, Points, float], Points]


def step_groups(
    variable: Unknown, start: Points, end: Points, tableau: Tableau, inner: Inner | None = None
) -> list[Group]:
    """Steps between `start` (S,) and `end` (S,) as groups for `singlestep`.

    A last step whose stages include its end is Euler's if there is no noise at that end: outputs say nothing
    there. `inner(start, end, node)` gives the points within the steps, if they are not to be even in the
    variable."""
    steps = np.arange(len(start))
    if not (1.0 in tableau.nodes and is_free_of_noise(end)):
        return [(steps, *_stages(variable, start, end, tableau, inner))]
    last = (steps[-1:], *_stages(variable, start[-1:], end[-1:], TABLEAUX["euler"], None))
    if len(steps) == 1:
        return [last]
    return [(steps[:-1], *_stages(variable, start[:-1], end[:-1], tableau, inner)), last]


def _stages(
    variable: Unknown, start: Points, end: Points, tableau: Tableau, inner: Inner | None
) -> tuple[Points, Any, Any]:
    """(points (S, m), a (S, m + 1), b (S, m + 1, m)) of the stages, as `singlestep` takes them."""
    xp = namespace(start.lam, end.lam)
    first, last = variable.value(start), variable.value(end)

    def point(node: float) -> Points:
        if node in (0.0, 1.0):
            return end if node else start
        if inner is not None:
            return inner(start, end, node)
        return start.at_lam(variable.lam(first + node * (last - first)))

    at = [*(point(node) for node in tableau.nodes), end]
    scale = xp.stack([variable.scale(p) for p in at], axis=1)
    reach = xp.stack([variable.value(p) - first for p in at], axis=1)
    # What the stages give as an average over their reach.
    average = np.zeros((len(at), len(tableau.weights)))
    for i, row in enumerate([*tableau.stages, tableau.weights]):
        average[i, : len(row)] = np.array(row) / (sum(row) or 1.0)
    return stack(at[:-1]), scale / scale[:, :1], (scale * reach)[:, :, None] * average[None]

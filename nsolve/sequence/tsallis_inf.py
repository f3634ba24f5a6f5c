"""Tsallis-INF: the bandit of choice for costs that need not be random.

Deviations from Zimmert & Seldin, whose losses lie in [0, 1]: costs are divided by their running mean, as
Khodak et al. do, but not shifted by one first, since a cost may be seconds; and the normaliser of the
probabilities is found to rounding from a start that needs no memory.
"""

from typing import Any, Literal, NamedTuple, get_args

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PRNGKeyArray, PyTree

from .base import AbstractTuner, Bins, as_arms, as_bins, clean_cost, draw, real_dtype, require_key

Estimator = Literal["reduced-variance", "importance-weighted"]


class TsallisINFState(NamedTuple):
    """Leading axis of all but `key`, `count` and `largest`: the bin of the context."""

    key: PRNGKeyArray
    count: Array
    #: largest finite cost
    largest: Array
    #: number and sum of costs
    rounds: Array
    total: Array
    #: importance-weighted sums of the costs of each arm, in their own unit
    sums: Array
    #: the same for the baseline, in units of the mean cost
    baselines: Array


class TsallisINF(AbstractTuner):
    """Online mirror descent with the Tsallis entropy of order 1/2.

    Use it when nothing is known of how costs come about: its regret against the best fixed arm grows as
    `sqrt(d T)` for any sequence of costs, and as `log T` where they are independent draws.  With `bins` it
    competes with the best arm of each bin of the context; `ChebCB` learns smooth dependence faster.

    * `arms`: array or pytree of arrays, leading axis of length `d`.
    * `estimator`: `"reduced-variance"` subtracts a baseline from costs before it divides them by
      probabilities, or `"importance-weighted"` does not.
    * `bins`, `bounds`: as many independent learners, one for each of equal parts of `bounds` = (smallest,
      largest context).  One bin ignores the context.

    Probabilities are `4 / (eta (L_i - x))^2`, with `L` the estimated sums of costs over their mean, `eta =
    2 / sqrt(t)` (importance-weighted) or `4 / sqrt(t)` (reduced variance), and `x` such that they sum to
    one. Cost of a step: `O(d)`, some microseconds.  Costs and contexts: see `AbstractTuner`'s module.

    Zimmert & Seldin (2021), JMLR 22(28), arXiv:1807.07623; for relaxation, Khodak, Chow, Balcan & Talwalkar
    (2024), arXiv:2310.02246.
    """

    arms: PyTree = eqx.field(converter=as_arms)
    estimator: Estimator = eqx.field(static=True)
    bins: Bins = eqx.field(static=True)

    def __init__(
        self, arms: PyTree, estimator: Estimator = "reduced-variance", bins: int = 1, bounds: Any = None
    ):
        if estimator not in get_args(Estimator):
            raise ValueError(f"`estimator` must be one of {get_args(Estimator)}, not {estimator!r}.")
        self.arms = arms
        self.estimator = estimator
        self.bins = as_bins(bins, bounds)

    def init(self, key: PRNGKeyArray | None) -> TsallisINFState:
        bins, real = self.bins.number, real_dtype()
        return TsallisINFState(
            key=require_key("TsallisINF", key),
            count=jnp.zeros((), jnp.int32),
            largest=jnp.zeros((), real),
            rounds=jnp.zeros(bins, real),
            total=jnp.zeros(bins, real),
            sums=jnp.zeros((bins, self.num_arms), real),
            baselines=jnp.zeros((bins, self.num_arms), real),
        )

    def check_context(self, context: Any) -> None:
        self.bins.check(context)

    def probabilities(self, state: TsallisINFState, context: ArrayLike | None = None) -> Array:
        """The distribution of the next arm, shape `(d,)`."""
        bin_, _ = self.bins.find(context)
        return self._probabilities(state, bin_)

    def select(self, state: TsallisINFState, context: ArrayLike | None = None) -> Array:
        return draw(state.key, state.count, self.probabilities(state, context))

    def update(
        self, state: TsallisINFState, index: ArrayLike, cost: ArrayLike, context: ArrayLike | None = None
    ) -> TsallisINFState:
        bin_, usable = self.bins.find(context)
        cost, known = clean_cost(cost, state.largest)
        weight = (usable & known).astype(cost.dtype)
        p = self._probabilities(state, bin_)
        played = jnp.arange(self.num_arms) == index
        share = jnp.where(played, weight / p, 0)
        baselines = state.baselines
        if self.estimator == "reduced-variance":
            # Where p < eta^2 the estimate could fall below -1/eta, and regret would no longer be bounded.
            baseline = jnp.where(p >= self._rate(state, bin_) ** 2, BASELINE, 0)
            baselines = baselines.at[bin_].add(baseline * (weight - share))
        return TsallisINFState(
            key=state.key,
            count=state.count + 1,
            largest=jnp.maximum(state.largest, cost * weight),
            rounds=state.rounds.at[bin_].add(weight),
            total=state.total.at[bin_].add(weight * cost),
            sums=state.sums.at[bin_].add(share * cost),
            baselines=baselines,
        )

    def _rate(self, state: TsallisINFState, bin_: Array) -> Array:
        """`eta`."""
        numerator = 4 if self.estimator == "reduced-variance" else 2
        return numerator / jnp.sqrt(state.rounds[bin_] + 1)

    def _probabilities(self, state: TsallisINFState, bin_: Array) -> Array:
        rounds, total = state.rounds[bin_], state.total[bin_]
        mean = jnp.where(total > 0, total / jnp.maximum(rounds, 1), 1)
        losses = state.sums[bin_] / mean + state.baselines[bin_]
        return tsallis_probabilities(self._rate(state, bin_) * losses)


#: The middle of the unit interval, in which the theory wants losses.
BASELINE = 0.5


def tsallis_probabilities(losses: Array) -> Array:
    """`p_i = 4 / (losses_i - x)^2` with `x` below all losses such that they sum to one; shape `(d,)`.

    With `z = (losses - min losses) / 2` and `y = (min losses - x) / 2` the equation is `h(y) = 1` for the
    mean `h(y) = (sum (z + y)^-2)^(-1/2)`.  `h` is concave and increasing and `h(1) <= 1`, so Newton's method
    from `y = 1` rises to the solution without any safeguard, and converges quadratically.
    """
    z = (losses - jnp.min(losses)) / 2
    y = jnp.ones((), losses.dtype)
    for _ in range(NEWTON_STEPS):
        inverse = 1 / (z + y)
        square = jnp.sum(inverse**2)
        y = y + (square**1.5 - square) / jnp.sum(inverse**3)
    p = 1 / (z + y) ** 2
    return p / jnp.sum(p)


NEWTON_STEPS = 6

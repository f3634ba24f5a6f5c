"""Tsallis-INF: the bandit of choice for costs that need not be random.

Zimmert & Seldin want losses in [0, 1].  Khodak et al. subtract one from the costs, the least number of
iterations, and divide by their running mean.  Since costs may also be seconds, here the smallest cost seen
becomes 0 and the mean 1/2, so that the baseline of the reduced-variance estimator, 1/2, is what a typical
system costs.  Older costs follow as both move.  The normaliser of the probabilities is found to rounding from
a start that needs no memory.
"""

from typing import Any, Literal, NamedTuple, get_args

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PRNGKeyArray, PyTree

from .base import AbstractTuner, Bins, as_arms, as_bins, clean_cost, draw, real_dtype, require_key

Estimator = Literal["reduced-variance", "importance-weighted"]


class TsallisINFState(NamedTuple):
    """Leading axis of all but `key`, `count` and `largest`: the bin of the context."""

    key: Array
    count: Array
    #: largest finite cost
    largest: Array
    #: smallest cost, number of costs, and sum of their excess over the smallest
    smallest: Array
    rounds: Array
    excess: Array
    #: for each arm: importance-weighted sums of excess, of ones, and of the baseline
    sums: Array
    weights: Array
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

    Probabilities are `4 / (eta (L_i - x))^2`, with `L` the estimated sums of losses, `eta =
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
        arms = jnp.zeros((bins, self.num_arms), real)
        return TsallisINFState(
            key=require_key("TsallisINF", key),
            count=jnp.zeros((), jnp.int32),
            largest=jnp.zeros((), real),
            smallest=jnp.full(bins, jnp.inf, real),
            rounds=jnp.zeros(bins, real),
            excess=jnp.zeros(bins, real),
            sums=arms,
            weights=arms,
            baselines=arms,
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
        use = usable & known
        weight = use.astype(cost.dtype)
        p = self._probabilities(state, bin_)
        share = jnp.where(jnp.arange(self.num_arms) == jnp.asarray(index, int), weight / p, 0)
        baselines = state.baselines
        if self.estimator == "reduced-variance":
            # Where p < eta^2 an estimate could fall below -1/eta, for which the regret is not bounded.
            baseline = jnp.where(p >= self._rate(state, bin_) ** 2, BASELINE, 0)
            baselines = baselines.at[bin_].add(baseline * (weight - share))
        rounds, old = state.rounds[bin_], state.smallest[bin_]
        smallest = jnp.where(use, jnp.minimum(old, cost), old)
        fall = jnp.where(rounds > 0, old - smallest, 0)
        gain = jnp.where(use, cost - smallest, 0)
        return TsallisINFState(
            key=state.key,
            count=state.count + 1,
            largest=jnp.maximum(state.largest, weight * cost),
            smallest=state.smallest.at[bin_].set(smallest),
            rounds=state.rounds.at[bin_].add(weight),
            excess=state.excess.at[bin_].add(rounds * fall + gain),
            sums=state.sums.at[bin_].add(state.weights[bin_] * fall + share * gain),
            weights=state.weights.at[bin_].add(share),
            baselines=baselines,
        )

    def _rate(self, state: TsallisINFState, bin_: Array) -> Array:
        """`eta`."""
        numerator = 4 if self.estimator == "reduced-variance" else 2
        return numerator / jnp.sqrt(state.rounds[bin_] + 1)

    def _probabilities(self, state: TsallisINFState, bin_: Array) -> Array:
        mean = state.excess[bin_] / jnp.maximum(state.rounds[bin_], 1)
        unit = jnp.where(mean > 0, mean / BASELINE, 1)
        losses = state.sums[bin_] / unit + state.baselines[bin_]
        return tsallis_probabilities(self._rate(state, bin_) * losses)


#: What a typical system costs in the scale of losses, and the middle of [0, 1].
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

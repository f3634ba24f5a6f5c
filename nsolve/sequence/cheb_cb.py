"""ChebCB: a bandit whose costs depend smoothly on a scalar context.

Deviations from Khodak et al.: the regression runs in the unit of the costs, where their normalisation
cancels out of the probabilities and leaves only the constraints; it keeps Gram matrices in place of the
history, so that a step costs the same however many have gone before; and only the arm that was played is
fitted again when the constraints loosen.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PRNGKeyArray, PyTree

from .._dense import solve
from .base import AbstractTuner, Bounds, as_arms, as_bounds, clean_cost, draw, real_dtype, require_key


class ChebCBState(NamedTuple):
    key: Array
    count: Array
    #: smallest and largest finite cost
    smallest: Array
    largest: Array
    #: number of costs and sum of the squared errors of their predictions
    rounds: Array
    errors: Array
    #: of each arm: sums of `phi phi^T`, `cost phi` and `cost^2`; coefficients of the fit
    gram: Array
    moments: Array
    squares: Array
    coefficients: Array


class ChebCB(AbstractTuner):
    """SquareCB on Chebyshev series: each arm's cost is fitted by a polynomial of the context.

    Use it where the best arm moves with something known before the solve, such as the time step or the shift:
    it then beats every fixed arm, and needs fewer systems than `TsallisINF` with bins.

    * `arms`: array or pytree of arrays, leading axis of length `d`.
    * `bounds`: (smallest, largest context).
    * `degree`: of the polynomials.

    Least squares with the constraints `|theta_0| <= K`, `|theta_j| <= 2 (K - k) / j`, for `k` and `K` the
    smallest and largest cost so far: coefficients of a Lipschitz function decay so.  The arm of least
    predicted cost is played, and another with probability `1 / (d + gamma gap)`, `gap` being its predicted
    excess and `gamma` growing with time and with the success of the predictions.

    Cost of a step: `O(d degree + degree^3)`, some ten microseconds.  The context is required.  Costs and
    contexts: see `AbstractTuner`'s module.

    Khodak, Chow, Balcan & Talwalkar (2024), arXiv:2310.02246; Foster & Rakhlin (2020), arXiv:2002.04926.
    """

    arms: PyTree = eqx.field(converter=as_arms)
    bounds: Bounds = eqx.field(static=True, converter=as_bounds)
    degree: int = eqx.field(static=True, default=5)

    def __check_init__(self):
        if isinstance(self.degree, bool) or not isinstance(self.degree, int) or self.degree < 0:
            raise ValueError(f"`degree` must be a non-negative integer, not {self.degree!r}.")

    def init(self, key: PRNGKeyArray | None) -> ChebCBState:
        d, m, real = self.num_arms, self.degree + 1, real_dtype()
        zero = jnp.zeros((), real)
        return ChebCBState(
            key=require_key("ChebCB", key),
            count=jnp.zeros((), jnp.int32),
            smallest=jnp.full((), jnp.inf, real),
            largest=zero,
            rounds=zero,
            errors=zero,
            gram=jnp.zeros((d, m, m), real),
            moments=jnp.zeros((d, m), real),
            squares=jnp.zeros(d, real),
            coefficients=jnp.zeros((d, m), real),
        )

    def check_context(self, context: Any) -> None:
        self.bounds.check(context)

    def predict(self, state: ChebCBState, context: ArrayLike) -> Array:
        """The predicted cost of each arm, shape `(d,)`; zero for arms that were never played."""
        features, _ = self._features(context)
        return state.coefficients @ features

    def probabilities(self, state: ChebCBState, context: ArrayLike | None = None) -> Array:
        """The distribution of the next arm, shape `(d,)`."""
        features, _ = self._features(context)
        predicted = state.coefficients @ features
        best = jnp.argmin(predicted)
        p = 1 / (self.num_arms + self._exploitation(state) * (predicted - predicted[best]))
        p = jnp.where(jnp.arange(self.num_arms) == best, 0, p)
        return p.at[best].set(1 - jnp.sum(p))

    def select(self, state: ChebCBState, context: ArrayLike | None = None) -> Array:
        return draw(state.key, state.count, self.probabilities(state, context))

    def update(
        self, state: ChebCBState, index: ArrayLike, cost: ArrayLike, context: ArrayLike | None = None
    ) -> ChebCBState:
        features, usable = self._features(context)
        cost, known = clean_cost(cost, state.largest)
        use = usable & known
        weight = use.astype(cost.dtype)
        old = state.coefficients[index]
        smallest = jnp.where(use, jnp.minimum(state.smallest, cost), state.smallest)
        largest = jnp.where(use, jnp.maximum(state.largest, cost), state.largest)
        gram = state.gram.at[index].add(weight * jnp.outer(features, features))
        moments = state.moments.at[index].add(weight * cost * features)
        spread = jnp.maximum(largest - smallest, 0)
        limits = jnp.concatenate(
            [largest[None], 2 * spread / jnp.arange(1, self.degree + 1, dtype=spread.dtype)]
        )
        fit = box_least_squares(gram[index], moments[index], limits, old)
        return ChebCBState(
            key=state.key,
            count=state.count + 1,
            smallest=smallest,
            largest=largest,
            rounds=state.rounds + weight,
            errors=state.errors + weight * (old @ features - cost) ** 2,
            gram=gram,
            moments=moments,
            squares=state.squares.at[index].add(weight * cost**2),
            coefficients=state.coefficients.at[index].set(jnp.where(use, fit, old)),
        )

    def _features(self, context: ArrayLike | None) -> tuple[Array, Array]:
        """Chebyshev polynomials of the context, shape `(degree + 1,)`, and whether it can be used."""
        unit, usable = self.bounds.unit(context)
        x = 2 * unit - 1
        features = [jnp.ones_like(x), x]
        while len(features) <= self.degree:
            features.append(2 * x * features[-1] - features[-2])
        return jnp.stack(features[: self.degree + 1]), usable

    def _exploitation(self, state: ChebCBState) -> Array:
        """`gamma`, per unit of cost."""
        m, t = self.degree + 1, state.rounds
        spread = jnp.maximum(state.largest - state.smallest, 0)
        # how well a Chebyshev series with m terms can approximate a Lipschitz function
        alpha = (math.pi + 2 / math.pi * math.log(2 * m + 1)) / (2 * (m + 1)) * jnp.where(t > 0, spread, 0)
        regret = state.errors + 2 * alpha**2 * t
        return jnp.where(
            regret > 0, 2 * t * jnp.sqrt(self.num_arms * t / jnp.where(regret > 0, regret, 1)), 0
        )


def box_least_squares(gram: Array, moments: Array, limits: Array, start: Array) -> Array:
    """The minimiser of `x G x / 2 - m x` under `|x| <= limits`; of several, the one of least norm.

    The primal active-set method: solve for the free entries; where that leaves the box, go as far as the
    first limit and fix the entry that met it; else free the fixed entry whose multiplier has the wrong sign
    most. The objective falls at each free solution, so it ends, after a few steps from a `start` that
    solves a similar problem.  A little of the identity makes the Gram matrix definite and selects the least
    norm.
    """
    m = moments.shape[0]
    epsilon = jnp.finfo(gram.dtype).eps ** 0.5
    hessian = gram + (epsilon * jnp.trace(gram) / m + jnp.finfo(gram.dtype).tiny) * jnp.eye(
        m, dtype=gram.dtype
    )
    x = jnp.clip(start, -limits, limits)

    def step(state):
        x, fixed, _, steps = state
        gradient = hessian @ x - moments
        free = ~fixed
        block = jnp.where(free[:, None] & free[None, :], hessian, jnp.eye(m, dtype=gram.dtype))
        direction = -solve(block, jnp.where(free, gradient, 0))
        direction = jnp.where(free, direction, 0)
        room = jnp.where(direction > 0, limits - x, limits + x)
        reach = jnp.where(direction != 0, room / jnp.abs(direction), jnp.inf)
        first = jnp.argmin(reach)
        blocked = reach[first] < 1
        x = jnp.clip(x + jnp.minimum(reach[first], 1) * direction, -limits, limits)
        # at a free solution: the decrease per unit of moving a fixed entry inwards
        gradient = hessian @ x - moments
        pull = jnp.where(fixed, jnp.sign(x) * gradient, -jnp.inf)
        rounding = jnp.max(jnp.abs(moments)) * jnp.finfo(gram.dtype).eps ** 0.75
        worst = jnp.argmax(pull)
        done = ~blocked & (pull[worst] <= rounding)
        change = jnp.where(blocked, first, worst)
        fixed = jnp.where(done, fixed, fixed.at[change].set(blocked))
        return x, fixed, done, steps + 1

    def proceed(state):
        return ~state[2] & (state[3] < 6 * m)

    start_state = (x, jnp.abs(x) >= limits, jnp.zeros((), bool), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(proceed, step, start_state)[0]

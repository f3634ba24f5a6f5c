"""`BrownianPath`: the noise of one Brownian path, the same on every grid.

With lam as variable, the noise of a reverse SDE's step is the increment of a Brownian motion B in a time of
its own, scaled. B(e^s) / e^(s/2) = y(s) is the stationary Ornstein-Uhlenbeck process of correlation e^(-|s -
r|/2), so the increment from s to s + D, scaled to variance one, is

    xi = (y(s + D) - e^(-D/2) y(s)) / sqrt(1 - e^(-D)),

and increments of neighbouring rows add up as those of B do: sqrt(1 - e^(-D)) xi = e^(-(D - D')/2)
sqrt(1 - e^(-D')) xi' + sqrt(1 - e^(-(D - D'))) xi''. A grid and its refinement see the same path.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from ._arrays import accumulation_dtype, is_traced, root, together, weighted
from .noise import AbstractNoise, normal_like
from .plan import Plan

# The tree spans e^-64 ... e^64 of Brownian time: lam in [-32, 32] for the reverse SDE. Beyond it B stands
# still.
_END = 64.0
_DEEPEST = 24
# Which normal number serves what: the two ends, then the tree's nodes numbered as in a heap.
_LEFT, _RIGHT, _TREE = 0, 1, 1


class BrownianPath(AbstractNoise):
    """One Brownian path a sample, to be given to `sample` as `key`.

    The same key gives the same path on every grid: halving the steps refines the noise instead of replacing
    it, so that solutions of an SDE converge path by path. As with plain keys, sample i has the same path
    whatever the batch (`key` is one key, or an array of one a sample). Where the samples' convergence does
    not matter a plain key is cheaper.

    The path is exact at the 2^depth + 1 ends of equal intervals ("leaves") of the clock, found by halving an
    interval with an Ornstein-Uhlenbeck bridge, and in a leaf it is the bridge's mean plus its deviation times
    one normal number. So y(s) is standard normal everywhere, and the increments of a grid have exactly the
    law of independent normal numbers as long as no two points share a leaf. `check` raises ValueError where
    they would: a larger `depth` (at most 24; the path stays the same where it was known) makes smaller
    leaves, 128 / 2^depth long in units of 2 eta lam.

    Costs depth + 3 normal numbers a row and entry of the state; y of the last point is carried.
    Differentiable in the grid through the bridge's weights (in reality a Brownian path has no derivative:
    this is the derivative of what was computed, and grows as the leaves shrink); a point that is the end of a
    leaf counts as fixed. Two grids meet the same value of the path only where their clocks agree; a
    difference d of rounding changes it by sqrt(d). Churn has no such clock: `check` raises ValueError for
    plans whose `clock` is None.
    """

    key: PRNGKeyArray
    depth: int = eqx.field(static=True, default=14)

    def __check_init__(self):
        is_number = isinstance(self.depth, int) and not isinstance(self.depth, bool)
        if not (is_number and 1 <= self.depth <= _DEEPEST):
            raise ValueError(f"`depth` must be a number from 1 to {_DEEPEST}, got {self.depth!r}.")

    def check(self, plan: Plan) -> None:
        """Raises ValueError if this path cannot serve a plan."""
        if plan.clock is None:
            raise ValueError(
                "`key` is a BrownianPath, but this plan has no `clock`: its noise (churn, say) is no "
                "increment of a Brownian motion. Give a jax.random key."
            )
        if is_traced((plan.clock, plan.weights)):
            return
        clock = np.asarray(plan.clock, np.float64)
        if np.isnan(clock).any():
            raise ValueError(f"`clock` of the plan holds NaN: {clock}.")
        clock = np.clip(clock, -_END, _END)
        noisy = np.reshape(np.asarray(plan.weights)[1:, -1] != 0, (len(clock) - 1, -1)).any(axis=1)
        lost = np.flatnonzero(noisy & (np.diff(clock) == 0))
        if len(lost):
            raise ValueError(
                f"a BrownianPath cannot give noise to row {lost[0] + 1} of the plan: its ends stand at "
                f"{plan.clock[lost[0]]:.9g} and {plan.clock[lost[0] + 1]:.9g} of the plan's clock, but must "
                f"differ and lie within [-{_END:g}, {_END:g}]. Take a jax.random key."
            )
        points = np.unique(clock)
        leaf = np.floor(points * (2.0**self.depth / (2.0 * _END)))
        shared = np.flatnonzero(np.diff(leaf) == 0)
        if len(shared):
            first, second = points[shared[0] : shared[0] + 2]
            needed = math.ceil(math.log2(2.0 * _END / np.min(np.diff(points))))
            advice = f"Give `depth={needed}`" if needed <= _DEEPEST else "Take larger steps"
            raise ValueError(
                f"two points of the grid, at {first:.9g} and {second:.9g} of the plan's clock, share an "
                f"interval of a BrownianPath of depth {self.depth}. {advice}."
            )

    def init(self, like: PyTree[Array], clock: Any) -> PyTree:
        return self.position(clock, like)

    def draw(
        self, state: PyTree, row: Any, clock: Any, next_clock: Any, like: PyTree[Array]
    ) -> tuple[PyTree, PyTree]:
        del row
        after = self.position(next_clock, like)
        gap = jnp.clip(next_clock, -_END, _END) - jnp.clip(clock, -_END, _END)
        distance = jnp.abs(gap)
        moves = distance > 0
        distance = jnp.where(moves, distance, 1.0)
        decay, scale = jnp.exp(-0.5 * distance), jax.lax.rsqrt(-jnp.expm1(-distance))
        forward = gap > 0

        def increment(y_from: Array, y_to: Array) -> Array:
            # A clock that runs back (noise-weighted SDEs) sees the increment from its later end.
            shrunk, scaled, before, behind = together(decay, scale, y_from, y_to)
            xi = jnp.where(forward, behind - shrunk * before, before - shrunk * behind) * scaled
            return jnp.where(moves, xi, 0.0).astype(y_to.dtype)

        return jax.tree.map(increment, state, after), after

    def position(self, clock: Any, like: PyTree[Array]) -> PyTree[Array]:
        """y at a time of the clock, standard normal in the shape of `like`: B(e^clock) / e^(clock/2)."""
        dtype = accumulation_dtype(jnp.result_type(clock))
        s = jnp.clip(jnp.asarray(clock, dtype), -_END, _END)
        length = 2.0 * _END / 2.0**self.depth
        # Multiples of a power of two: exact also in float32.
        start = jnp.clip(jnp.floor(jax.lax.stop_gradient(s) / length), -_END / length, _END / length - 1)
        leaf = (start + _END / length).astype(jnp.int32)

        def mix(weights: Any, left: PyTree[Array], right: PyTree[Array], number: Any) -> PyTree[Array]:
            def of_leaf(a: Array, b: Array, z: Array) -> Array:
                return weighted([weights[j] for j in range(3)], (a, b, z)).astype(z.dtype)

            return jax.tree.map(of_leaf, left, right, normal_like(self.key, number, like))

        def narrow(ends: Any, row: Any) -> tuple[Any, None]:
            number, replaces_left, weights = row
            left, right = ends
            new = mix(weights, left, right, number)
            left = jax.tree.map(lambda m, a: jnp.where(replaces_left, m, a), new, left)
            right = jax.tree.map(lambda m, b: jnp.where(replaces_left, b, m), new, right)
            return (left, right), None

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, accumulation_dtype(leaf.dtype)), like)
        (left, right), _ = jax.lax.scan(narrow, (zeros, zeros), self._path_to(leaf, dtype))
        past = s - start * length
        whole, before, behind = math.sinh(0.5 * length), jnp.sinh(0.5 * past), jnp.sinh(0.5 * (length - past))
        variance = 2.0 * before * behind / whole
        weights = behind / whole, before / whole, root(variance)
        return mix(weights, left, right, _TREE + 2**self.depth + leaf)

    def _path_to(self, leaf: Array, dtype: Any) -> tuple[Array, Array, Array]:
        """What narrows the tree's two ends down to those of a leaf: the normal numbers to take (depth + 2,),
        whether the new value replaces the left end, and its weights (depth + 2, 3) of ends and number."""
        level = jnp.arange(self.depth, dtype=leaf.dtype)
        node = jnp.left_shift(1, level) + jnp.right_shift(leaf, self.depth - level)
        goes_right = jnp.bitwise_and(jnp.right_shift(leaf, self.depth - 1 - level), 1) == 1
        quarter = 0.5 * _END * 0.5 ** np.arange(self.depth)  # of the interval's length
        weight = 0.5 / np.cosh(quarter)
        halves = np.stack([weight, weight, np.sqrt(np.tanh(quarter))], axis=1)
        # The tree's ends are independent: e^-64 is less than rounding.
        free = np.array([[0.0, 0.0, 1.0]] * 2)
        return (
            jnp.concatenate([jnp.array([_LEFT, _RIGHT], leaf.dtype), _TREE + node]),
            jnp.concatenate([jnp.array([True, False]), goes_right]),
            jnp.asarray(np.concatenate([free, halves]), dtype),
        )

"""The search for the best iterate of a solve that failed, by taking steps of its cycles once more.

The first guess is the step at which the recursion's residual was smallest.  Where the computed residual there
is larger, the recursion had lost touch with the truth before: bisection finds about where.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

#: Gains below this are not worth taking steps again for.
WORTH_A_REPLAY = 0.99
#: The recursion's residual is honest if the computed one is at most so many times larger.
HONEST = 2
#: Bisection ends when the step is known to one part in so many.
_BISECTED = 16


class Search(NamedTuple):
    """For the best iterate, after the last cycle; how many of a cycle's steps to take once more."""

    replay: Array  # zero: the solve goes on, or the search is over
    low: Array  # up to here the recursion is honest
    high: Array  # from here on it is not
    first: Array  # the number of steps of the first cycle where that is still to be searched, else zero
    replayed: Array  # steps taken once more, in all
    code: Array  # why the solve failed

    def begun(
        self, failed: Array, passed: Array, least_at: Array, count: Array, lied: Array, code: Array
    ) -> "Search":
        """After a cycle of `count` steps: where to look first, if it was the last."""
        replay = jnp.where(passed, least_at, jnp.where(lied, count // 2, 0))
        high = jnp.where(passed, least_at, count)
        replay, low = jnp.where(failed, replay, 0), jnp.zeros_like(count)
        return Search(replay, low, high, self.first, self.replayed, code)

    def went_on(self, honest: Array, passed: Array, least_at: Array, count: Array) -> "Search":
        """After a replay of `count` steps: where to look next."""
        low, high = jnp.where(honest, count, self.low), jnp.where(honest, self.high, count)
        wide = (high - low) * _BISECTED > jnp.maximum(high, _BISECTED)
        replay = jnp.where(wide, (low + high) // 2, 0)
        # Where the recursion is to be believed, its smallest residual is what is looked for.  It may be a lie
        # all the same, and what was honest behind it luck: a residual that had grown past the true one.
        found = honest & passed
        replay, high = (jnp.where(found, least_at, other) for other in (replay, high))
        low = jnp.where(found, self.low, low)
        return Search(replay, low, high, self.first, self.replayed + count, self.code)

    def rewound(self, rewind: Array) -> "Search":
        """When all is done with the last cycle: the first."""
        again = Search(
            self.first // 2, jnp.zeros_like(self.low), self.first, jnp.zeros_like(self.first), *self[4:]
        )
        return Search(*(jnp.where(rewind, a, b) for a, b in zip(again, self, strict=True)))

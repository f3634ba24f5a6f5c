"""What the transport solvers share: tolerance, continuation in epsilon, and what they return."""

import abc
import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ._problem import EntropicProblem


class Iterate(eqx.Module):
    """Potentials, statistics, and whether the steps ran out."""

    f: Array
    g: Array
    stats: dict[str, Array]
    out_of_steps: Array


class AbstractTransportSolver(eqx.Module):
    """Base of the transport solvers: called by `nsolve.transport.solve`.

    * `rtol`: stop when `||P 1 - a||_1 + ||P^T 1 - b||_1 <= rtol * mass`; None: 1e-8 in float64, 1e-3 in
      float32.
    * `max_steps`: the most steps.
    """

    rtol: eqx.AbstractVar[Any]
    max_steps: eqx.AbstractVar[int]

    def __check_init__(self):
        name = type(self).__name__
        if isinstance(self.rtol, int | float) and not 0 < self.rtol < math.inf:
            raise ValueError(f"`{name}(rtol=...)` must be positive and finite, but is {self.rtol}.")
        if not isinstance(self.max_steps, int) or self.max_steps < 0:
            raise ValueError(f"`{name}(max_steps=...)` must be an integer >= 0, but is {self.max_steps!r}.")

    @abc.abstractmethod
    def run(self, problem: EntropicProblem, start: Array | None) -> Iterate:
        """Potentials of the problem, from the column potential `start` if given."""

    def tolerance(self, problem: EntropicProblem) -> Array:
        """The largest marginal error that is a solution."""
        dtype = problem.b.dtype
        default = 1e-8 if dtype == jnp.float64 else 1e-3
        return jnp.asarray(default if self.rtol is None else self.rtol, dtype) * problem.mass


def continuation_start(problem: EntropicProblem, decay: float) -> Array:
    """The first epsilon: the target times a power of `decay`, about a sixteenth of the largest cost.

    With more, one step from potentials of zero leaves next to nothing to do.
    """
    target = problem.geometry.epsilon
    largest = problem.geometry.largest_cost(problem.a, problem.b)
    levels = jnp.ceil(jnp.log(jnp.maximum(largest / (16 * target), 1)) / math.log(decay))
    return target * decay**levels


def next_epsilon(epsilon: Array, target: Array, decay: float) -> Array:
    """One level down; the last one is the target exactly."""
    lower = epsilon / decay
    return jnp.where(lower < target * math.sqrt(decay), target, lower)

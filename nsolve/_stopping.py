"""The one stopping rule, and the loop that enforces it.

A solve is successful when `||b - A x||_2 <= max(rtol ||b||_2, atol)`, with the residual *computed from x* at
the end.  The methods' recursions only suggest when to look: an inner loop runs a method until its recursion
claims convergence (or the method's cycle is full, or it breaks down), then the residual is computed, and
where the claim was wrong the method starts again from there, until it holds or nothing is gained any more.

Exit reasons are members of `lx.RESULTS`:

* `successful`: the rule above.
* `max_steps_reached`.
* `breakdown`: the method cannot go on: non-positive curvature in CG, a preconditioner that is not positive
  definite, a vanishing inner product.
* `stagnation`: the recursion claims what the residual does not show, and starting again gains nothing: the
  tolerance lies below what the precision attains, or the system is singular and inconsistent.
* `nonfinite_input`: NaN or Inf in the vector, the start, the operator or the preconditioner.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PyTree

from ._vectors import (
    Vector,
    all_finite,
    largest_entry,
    norm,
    real_dtype,
    scale,
    subtract,
    where,
    zeros_like,
)

#: How much of the residual may be rounding before it is computed again.
_DRIFT = 1e-3


class Method(NamedTuple):
    """An iterative method in the form in which the loop drives it.

    `start(x, r)` opens a cycle; `step(state)` advances it; `finish(state)` gives the iterate.  A state has
    the fields `residual_norm` (the recursion's) and `broken`.

    A method that carries something from cycle to cycle, such as a recycled subspace, gives its `memory` at
    the outset, and `remember(state)` at the end of each cycle; `start(x, r, memory)` then takes it as well.
    """

    start: Callable[..., Any]
    step: Callable[[Any], Any]
    finish: Callable[[Any], Vector]
    #: Steps after which a cycle ends and the residual is computed; None: only when convergence is claimed.
    cycle_length: int | None
    #: A cycle that leaves more than this fraction of the residual is flat; `patience` of them in a row end
    #: the solve.
    least_progress: float
    #: Whether a broken cycle that made progress is followed by another.
    restarts_when_broken: bool
    patience: int = 1
    memory: Any = None
    remember: Callable[[Any], Any] | None = None
    #: As `finish`, with the iterate's residual without a product and an estimate of its rounding error: for
    #: cycles that are not the last.
    finish_with_residual: Callable[[Any], tuple[Vector, Vector, Array]] | None = None
    #: `report(memory, stats)`: statistics to add or replace.
    report: Callable[[Any, dict[str, Any]], dict[str, Any]] | None = None

    def open(self, x: Vector, r: Vector, memory: Any) -> Any:
        """The state at the start of a cycle."""
        return self.start(x, r) if self.remember is None else self.start(x, r, memory)

    def close(self, state: Any) -> Any:
        """The memory after a cycle."""
        return None if self.remember is None else self.remember(state)


class _Outer(NamedTuple):
    x: Vector
    r: Vector
    residual_norm: Array
    num_steps: Array
    num_cycles: Array
    num_residuals: Array  # computed from the iterate
    num_flat: Array  # cycles in a row
    drift: Array  # how far the recursion's residual may be from the computed one
    history: Array | None
    memory: Any
    result: lx.RESULTS
    running: Array


def power_of_two_scale(b: Vector) -> Array:
    """The power of two just above the largest entry of `b`: dividing by it is exact and avoids
    underflow and overflow of `||b||^2`.  One for zero and non-finite `b`."""
    largest = largest_entry(b)
    _, exponent = jnp.frexp(largest)
    limits = jnp.finfo(largest.dtype)
    # neither the unit nor its inverse may overflow or be subnormal
    exponent = jnp.clip(exponent, limits.minexp + 2, limits.maxexp - 2)
    good = jnp.isfinite(largest) & (largest > 0)
    return jnp.ldexp(jnp.ones((), largest.dtype), jnp.where(good, exponent, 0))


def tolerance(b: Vector, rtol: Any, atol: Any) -> Array:
    """`max(rtol ||b||_2, atol)`."""
    real = real_dtype(b)
    return jnp.maximum(jnp.asarray(rtol, real) * norm(b), jnp.asarray(atol, real))


def solve_to_true_residual(
    method: Method,
    product: Callable[[Vector], Vector],
    b: Vector,
    x0: Vector | None,
    rtol: Any,
    atol: Any,
    max_steps: Any,
    history_length: int | None,
    inputs: PyTree,
) -> tuple[Vector, lx.RESULTS, dict[str, Any], Any]:
    """Runs the method under the stopping rule; `inputs` are what to look through when NaN appears.

    Returns the iterate, the exit reason, `num_steps, num_cycles, num_residuals, residual_norm,
    residual_norms`, and what the method remembers.
    Where the solve fails, the iterate with the smaller residual of the last two cycles is returned.
    """
    unit = power_of_two_scale(b)
    b = scale(1 / unit, b)
    tol = tolerance(b, rtol, jnp.asarray(atol, real_dtype(b)) / unit)
    b_is_zero = largest_entry(b) == 0
    if x0 is None:
        x0, r0 = zeros_like(b), b
    else:
        # the solution for b = 0 is known; a recursion from x0 would reach it to rounding only
        x0 = where(b_is_zero, zeros_like(b), scale(1 / unit, x0))
        r0 = subtract(b, product(x0))
    norm0 = norm(r0)
    history = None
    if history_length is not None:
        history = jnp.full(history_length + 1, jnp.nan, norm0.dtype).at[0].set(norm0)

    def keep_stepping(carry):
        state, steps, first, _ = carry
        go_on = (state.residual_norm > tol) & ~state.broken & (steps < max_steps)
        if method.cycle_length is not None:
            go_on &= steps - first < method.cycle_length
        return go_on

    def step(carry):
        state, steps, first, history = carry
        state = method.step(state)
        steps = steps + 1
        if history is not None:
            history = history.at[steps].set(state.residual_norm)
        return state, steps, first, history

    def cycle(outer: _Outer) -> _Outer:
        opened = method.open(outer.x, outer.r, outer.memory)
        carry = (opened, outer.num_steps, outer.num_steps, outer.history)
        state, steps, _, history = jax.lax.while_loop(keep_stepping, step, carry)
        computed, drift = jnp.array(True), outer.drift
        if method.finish_with_residual is None:
            x = method.finish(state)
            r = subtract(b, product(x))
        else:
            # A cycle that is merely full, and gained, goes on from the recursion's residual while that is
            # good.
            x, r, error = method.finish_with_residual(state)
            drift = drift + error
            gained = state.residual_norm <= method.least_progress * outer.residual_norm
            wanted = (state.residual_norm <= tol) | state.broken | (steps >= max_steps)
            computed = wanted | ~gained | ~(drift <= _DRIFT * state.residual_norm)
            r = jax.lax.cond(computed, lambda x, r: subtract(b, product(x)), lambda x, r: r, x, r)
            drift = jnp.where(computed, 0, drift)
        r_norm = norm(r)
        finite = jnp.isfinite(r_norm)
        converged = computed & finite & (r_norm <= tol)  # an infinite vector has an infinite tolerance
        progress = r_norm <= method.least_progress * outer.residual_norm
        num_flat = jnp.where(progress, 0, outer.num_flat + 1)
        broken = state.broken & ~(method.restarts_when_broken & progress)
        out_of_steps = steps >= max_steps
        result = lx.RESULTS.where(out_of_steps, lx.RESULTS.max_steps_reached, lx.RESULTS.stagnation)
        result = lx.RESULTS.where(broken | ~finite, lx.RESULTS.breakdown, result)
        result = lx.RESULTS.where(converged, lx.RESULTS.successful, result)
        running = ~converged & finite & (num_flat < method.patience) & ~broken & ~out_of_steps
        # Out of steps, the newest iterate is the one asked for (CG's error falls while its residual may
        # rise).
        worse = ~finite | ((r_norm > outer.residual_norm) & ~out_of_steps)
        x, r = where(worse, outer.x, x), where(worse, outer.r, r)
        r_norm = jnp.where(worse, outer.residual_norm, r_norm)
        if history is not None:
            history = history.at[steps].set(r_norm)
        memory = method.close(state)
        num_residuals = outer.num_residuals + computed
        cycles = outer.num_cycles + 1
        return _Outer(
            x, r, r_norm, steps, cycles, num_residuals, num_flat, drift, history, memory, result, running
        )

    zero = jnp.zeros((), jnp.int32)
    start_converged = jnp.isfinite(norm0) & (norm0 <= tol)
    result = lx.RESULTS.where(start_converged, lx.RESULTS.successful, lx.RESULTS.max_steps_reached)
    running = jnp.isfinite(norm0) & ~start_converged & (max_steps > 0)
    outer = _Outer(x0, r0, norm0, zero, zero, zero, zero, 0 * norm0, history, method.memory, result, running)
    outer = jax.lax.while_loop(lambda outer: outer.running, cycle, outer)

    failed = outer.result != lx.RESULTS.successful
    nonfinite = jax.lax.cond(
        failed, lambda args: ~all_finite(args), lambda _: jnp.array(False), (b, x0, inputs)
    )
    result = lx.RESULTS.where(nonfinite, lx.RESULTS.nonfinite_input, outer.result)
    stats = {
        "num_steps": outer.num_steps,
        "num_cycles": outer.num_cycles,
        "num_residuals": outer.num_residuals,
        "residual_norm": outer.residual_norm * unit,
    }
    if outer.history is not None:
        stats["residual_norms"] = outer.history * unit
    x = scale(unit, outer.x)
    # A solution too small for its dtype is not the zero that it would be rounded to.
    vanished = (largest_entry(outer.x) > 0) & (largest_entry(x) == 0)
    result = lx.RESULTS.where(vanished, lx.RESULTS.breakdown, result)
    return x, result, stats, outer.memory


def inexact_leaves(tree: PyTree) -> PyTree:
    """Floating-point arrays of a pytree: where NaN can hide."""
    return jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))

"""The one stopping rule, and the loop that enforces it.

A solve is successful when `||b - A x||_2 <= max(rtol ||b||_2, atol)`, with the residual *computed from x* at
the end.  The methods' recursions only suggest when to look: an inner loop runs a method until its recursion
claims convergence (or the method's cycle is full, or it breaks down), then the residual is computed, and
where the claim was wrong the method starts again from there, until it holds or nothing is gained any more.

A solve that fails returns the best iterate that it met, the start included.  Nothing is kept for that on the
way: the loop remembers at which step the recursion's residual was smallest, and takes the steps of the last
cycle up to there once more; where the recursion had lost touch with the truth, it bisects for the step where
that happened, in the last cycle and in the first.

Exit reasons are `nsolve._reasons.REASONS`, each of which stands for a member of `lx.RESULTS`:

* `successful`: the rule above.
* `max_steps_reached`.
* `breakdown`: the method cannot go on: non-positive curvature in CG, a preconditioner that is not positive
  definite or could not be made, a vanishing inner product, divergence.
* `stagnation`: nothing is gained any more: the tolerance lies below what the precision attains, or the system
  is singular and inconsistent.
* `nonfinite_input`: NaN or Inf in the vector, the start, the operator or the preconditioner that was given.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._reasons import CODES
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
#: Gains below this are not worth taking steps again for.
_WORTH_A_REPLAY = 0.99
#: The recursion's residual is honest if the computed one is at most so many times larger.
_HONEST = 2
#: Bisection ends when the step is known to this fraction.
_BISECTED = 1 / 16


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
    #: Names of `REASONS`: what it means that the recursion breaks, and that cycles are flat.
    broken_means: str
    flat_means: str = "flat"
    patience: int = 1
    memory: Any = None
    remember: Callable[[Any], Any] | None = None
    #: The residual of `finish(state)` without a product, and an estimate of its rounding error: for cycles
    #: that are not the last.  The residual falls from step to step.
    residual: Callable[[Any], tuple[Vector, Array]] | None = None
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
    num_replayed: Array  # steps taken once more
    num_flat: Array  # cycles in a row
    drift: Array  # how far the recursion's residual may be from the computed one
    history: Array | None
    memory: Any
    computed: Array  # whether `residual_norm` was computed from `x`
    code: Array  # the reason's number
    running: Array
    verify: "_Verify | None"
    search: "_Search | None"


class _Verify(NamedTuple):
    """A turn of the loop without steps, which computes the residual of an iterate whose recursion lied."""

    now: Array
    running: Array  # whether the solve goes on after it


class _Search(NamedTuple):
    """For the best iterate of a solve that failed."""

    x: Vector  # the best so far by its computed residual
    residual_norm: Array
    replay: Array  # how many of the last cycle's steps to take once more; zero: the solve goes on
    low: Array  # up to here the recursion is honest
    high: Array  # from here on it is not
    first: Array  # the number of steps of the first cycle where that is still to be searched, else zero
    rewind: Array  # whether the next cycle is the first one once more

    def met(self, x: Vector, residual_norm: Array) -> "_Search":
        """An iterate with its computed residual, if it is better."""
        better = residual_norm < self.residual_norm  # false for NaN
        best, least = where(better, x, self.x), jnp.where(better, residual_norm, self.residual_norm)
        return self._replace(x=best, residual_norm=least)

    def passed(self, least: Array, least_at: Array, count: Array) -> Array:
        """Whether a cycle of `count` steps went past a better iterate, if its recursion is honest."""
        return (least_at < count) & (least < _WORTH_A_REPLAY * self.residual_norm)

    def begun(self, failed: Array, passed: Array, least_at: Array, count: Array, lied: Array) -> "_Search":
        """After a cycle of `count` steps: where to look first, if it was the last."""
        replay = jnp.where(passed, least_at, jnp.where(lied, count // 2, 0))
        high = jnp.where(passed, least_at, count)
        return self._replace(replay=jnp.where(failed, replay, 0), low=jnp.zeros_like(count), high=high)

    def went_on(self, honest: Array, passed: Array, least_at: Array) -> "_Search":
        """After a replay: where to look next."""
        low, high = jnp.where(honest, self.replay, self.low), jnp.where(honest, self.high, self.replay)
        wide = (high - low).astype(jnp.float32) > jnp.maximum(_BISECTED * high.astype(jnp.float32), 1)
        replay = jnp.where(wide, (low + high) // 2, 0)
        # Where the recursion is to be believed, its smallest residual is what is looked for.
        found = honest & passed
        return self._replace(
            replay=jnp.where(found, least_at, replay),
            low=jnp.where(found, least_at, low),
            high=jnp.where(found, least_at, high),
        )

    def rewound(self, failed: Array) -> "_Search":
        """When all is done with the last cycle: the first."""
        rewind = failed & (self.replay == 0) & (self.first > 1)
        return self._replace(
            replay=jnp.where(rewind, self.first // 2, self.replay),
            low=jnp.where(rewind, 0, self.low),
            high=jnp.where(rewind, self.first, self.high),
            first=jnp.where(rewind, 0, self.first),
            rewind=rewind,
        )


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
    blame: tuple[tuple[str, PyTree], ...],
    unit_of_operator: Array | None,
    keep_best: bool,
) -> tuple[Vector, Array, dict[str, Any], Any, Array]:
    """Runs the method under the stopping rule.

    `product` is that of the operator divided by `unit_of_operator`.  `blame`: what to look through when NaN
    appears, in this order, with the name of the reason.  `keep_best`: whether anybody will look at the
    iterate where the solve fails.

    Returns the iterate, the number of the reason, the statistics `num_steps, num_cycles, num_residuals,
    num_replayed, residual_norm, residual_norms`, what the method remembers, and the relative residual.
    """
    unit = power_of_two_scale(b)
    b = scale(1 / unit, b)
    tol = tolerance(b, rtol, jnp.asarray(atol, real_dtype(b)) / unit)
    b_norm = norm(b)
    if x0 is None:
        x0, r0 = zeros_like(b), b
    else:
        given = x0
        if unit_of_operator is not None:
            x0 = scale(unit_of_operator, x0)
        x0 = scale(1 / unit, x0)
        r0 = subtract(b, product(x0))
        # A start of which the vector's own digits cannot be told is worse than none; the solution for b = 0
        # is known, where a recursion from x0 would reach it to rounding only.  NaN stays, and is reported.
        useless = (b_norm < jnp.finfo(b_norm.dtype).eps * norm(r0)) | ~jnp.isfinite(norm(r0))
        useless = (useless & all_finite(given)) | (b_norm == 0)
        x0, r0 = where(useless, zeros_like(b), x0), where(useless, b, r0)
        blame = (("nonfinite_start", given), *blame)
    norm0 = norm(r0)
    history = None
    if history_length is not None:
        history = jnp.full(history_length + 1, jnp.nan, norm0.dtype).at[0].set(norm0)
    # Without any tolerance a fixed number of steps is asked for, and the last iterate.
    fixed = tol == 0
    # The residuals of methods that minimise them fall from step to step: there is nothing to take again.
    searches = keep_best and method.residual is None

    def cycle(outer: _Outer) -> _Outer:
        search, verify, replaying = outer.search, outer.verify, jnp.array(False)
        room = max_steps - outer.num_steps
        if method.cycle_length is not None:
            room = jnp.minimum(room, method.cycle_length)
        if search is not None:
            replaying = search.replay > 0
            room = jnp.where(replaying, search.replay, room)
        if verify is not None:
            room = jnp.where(verify.now, 0, room)

        def keep_stepping(carry):
            state, count, *_ = carry
            return (state.residual_norm > tol) & ~state.broken & (count < room)

        def step(carry):
            state, count, history, least, least_at = carry
            state = method.step(state)
            count = count + 1
            if history is not None:  # what a replay does is known, and written beyond the end
                place = jnp.where(replaying, history.size, outer.num_steps + count)
                history = history.at[place].set(state.residual_norm, mode="drop")
            if searches:
                less = state.residual_norm < least
                least, least_at = (
                    jnp.where(less, state.residual_norm, least),
                    jnp.where(less, count, least_at),
                )
            return state, count, history, least, least_at

        opened = method.open(outer.x, outer.r, outer.memory)
        zero = jnp.zeros((), jnp.int32)
        carry = (opened, zero, outer.history, opened.residual_norm, zero)
        state, count, history, least, least_at = jax.lax.while_loop(keep_stepping, step, carry)
        steps = jnp.where(replaying, outer.num_steps, outer.num_steps + count)
        out_of_steps = steps >= max_steps
        x = method.finish(state)
        computed, drift = jnp.array(True), outer.drift
        if method.residual is None or verify is None:
            r = subtract(b, product(x))
        else:
            x = where(verify.now, outer.x, x)
            # A cycle that is merely full, and gained, goes on from the recursion's residual while that is
            # good.
            r, error = method.residual(state)
            drift = drift + error
            gained = state.residual_norm <= method.least_progress * outer.residual_norm
            wanted = (state.residual_norm <= tol) | state.broken | out_of_steps | verify.now
            computed = wanted | ~gained | ~(drift <= _DRIFT * state.residual_norm)
            r = jax.lax.cond(computed, lambda x, r: subtract(b, product(x)), lambda x, r: r, x, r)
            drift = jnp.where(computed, 0, drift)
        r_norm = norm(r)
        finite = jnp.isfinite(r_norm)
        converged = computed & finite & (r_norm <= tol)  # an infinite vector has an infinite tolerance
        progress = r_norm <= method.least_progress * outer.residual_norm
        num_flat = jnp.where(progress, 0, outer.num_flat + 1)
        # A recursion that has lost touch with the residual says nothing about the operator.
        exhausted = finite & ((state.residual_norm <= tol) | (state.residual_norm <= 0.1 * r_norm))
        restarts = progress & (exhausted | method.restarts_when_broken)
        broken = (state.broken & ~restarts) | ~finite
        code = jnp.where(exhausted, CODES["precision"], CODES[method.flat_means])
        code = jnp.where(out_of_steps, CODES["max_steps"], code)
        code = jnp.where(broken & ~exhausted, CODES[method.broken_means], code)
        code = jnp.where(converged, CODES["converged"], code).astype(jnp.int32)
        running = ~converged & finite & (num_flat < method.patience) & ~broken & ~out_of_steps
        worse = ~finite | ((r_norm > outer.residual_norm) & ~(out_of_steps & fixed))
        memory = method.close(state)
        if search is not None:
            search = search.met(x, jnp.where(computed, r_norm, jnp.inf))
        if verify is not None:
            num_flat = jnp.where(verify.now, outer.num_flat, num_flat)
            running = jnp.where(verify.now, verify.running & ~converged, running)
            code = jnp.where(verify.now & ~converged, outer.code, code)
            worse &= ~verify.now
            doubtful = worse & ~outer.computed & ~converged
            verify = _Verify(doubtful, running)
            running |= doubtful
        elif search is not None:
            honest = r_norm <= _HONEST * state.residual_norm
            failed = ~converged & ~fixed & (replaying | ~running)
            search = search._replace(first=jnp.where((outer.num_cycles == 0) & ~honest, count, search.first))
            passed = search.passed(least, least_at, count)
            begun = search.begun(failed, passed, least_at, count, worse & ~honest)
            search = where(replaying, search.went_on(honest, passed, least_at), begun).rewound(failed)
            again = ~converged & (search.replay > 0)
            worse |= again  # from where the cycle began
            running = (running & ~replaying) | again
            code = jnp.where(replaying & ~converged, outer.code, code)
            memory = where(replaying, outer.memory, memory)
        x, r = where(worse, outer.x, x), where(worse, outer.r, r)
        r_norm = jnp.where(worse, outer.residual_norm, r_norm)
        if search is not None:
            x, r = where(search.rewind, x0, x), where(search.rewind, r0, r)
            r_norm = jnp.where(search.rewind, norm0, r_norm)
        if history is not None:
            place = jnp.where(replaying, history.size, steps)
            history = history.at[place].set(r_norm, mode="drop")
        return _Outer(
            x=x,
            r=r,
            residual_norm=r_norm,
            num_steps=steps,
            num_cycles=outer.num_cycles + 1,
            num_residuals=outer.num_residuals + computed.astype(jnp.int32),
            num_replayed=outer.num_replayed + jnp.where(replaying, count, 0),
            num_flat=num_flat,
            drift=drift,
            history=history,
            memory=memory,
            computed=jnp.where(worse, outer.computed, computed),
            code=code,
            running=running,
            verify=verify,
            search=search,
        )

    zero = jnp.zeros((), jnp.int32)
    start_converged = jnp.isfinite(norm0) & (norm0 <= tol)
    code = jnp.where(start_converged, CODES["converged"], CODES["max_steps"]).astype(jnp.int32)
    outer = _Outer(
        x=x0,
        r=r0,
        residual_norm=norm0,
        num_steps=zero,
        num_cycles=zero,
        num_residuals=zero,
        num_replayed=zero,
        num_flat=zero,
        drift=jnp.zeros_like(norm0),
        history=history,
        memory=method.memory,
        computed=jnp.array(True),
        code=code,
        running=jnp.isfinite(norm0) & ~start_converged & (max_steps > 0),
        verify=None if method.residual is None else _Verify(jnp.array(False), jnp.array(False)),
        search=_Search(x0, norm0, zero, zero, zero, zero, jnp.array(False)) if keep_best else None,
    )
    outer = jax.lax.while_loop(lambda outer: outer.running, cycle, outer)

    x, r_norm, failed = outer.x, outer.residual_norm, outer.code != CODES["converged"]
    if outer.search is not None:
        chosen, best = failed & ~fixed, outer.search
        x, r_norm = where(chosen, best.x, x), jnp.where(chosen, best.residual_norm, r_norm)
    blame = (("nonfinite_vector", b), *blame)
    code = jax.lax.cond(failed, lambda: _blamed(blame, outer.code), lambda: outer.code)
    stats = {
        "num_steps": outer.num_steps,
        "num_cycles": outer.num_cycles,
        "num_residuals": outer.num_residuals,
        "num_replayed": outer.num_replayed,
        "residual_norm": r_norm * unit,
    }
    if outer.history is not None:
        stats["residual_norms"] = outer.history * unit
    value = scale(unit, x)
    if unit_of_operator is not None:
        value = scale(1 / unit_of_operator, value)
    # A solution too small for its dtype is not the zero that it would be rounded to.
    vanished = (largest_entry(x) > 0) & (largest_entry(value) == 0)
    overflowed = all_finite(x) & ~all_finite(value)
    code = jnp.where(vanished | overflowed, CODES["range"], code)
    return value, code, stats, outer.memory, r_norm / b_norm


def _blamed(blame: tuple[tuple[str, PyTree], ...], code: Array) -> Array:
    """The number of the first reason whose arrays hold NaN or infinity; else `code`."""
    for reason, place in reversed(blame):
        code = jnp.where(all_finite(place), code, CODES[reason])
    return code


def inexact_leaves(tree: PyTree) -> PyTree:
    """Floating-point arrays of a pytree: where NaN can hide."""
    return jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))

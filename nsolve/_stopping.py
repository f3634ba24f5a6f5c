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

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._reasons import CODES, blamed
from ._search import HONEST, WORTH_A_REPLAY, Search
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
from .monitor import GO_ON, AbstractMonitor, Watched, opened

#: How much of the residual may be rounding before it is computed again.
_DRIFT = 1e-3


class Method(NamedTuple):
    """An iterative method in the form in which the loop drives it.

    `start(x, r)` opens a cycle; `step(state)` advances it; `finish(state)` gives the iterate.  A state has
    the fields `residual_norm` (the recursion's) and `broken`.

    A method that carries something from cycle to cycle, such as a recycled subspace or what a variable
    preconditioner remembers, gives its `memory` at the outset, and `remember(state)` at the end of each
    cycle; `start(x, r, memory)` then takes it as well.
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
    #: What it means that the recursion meets NaN or infinity; None: what breaking does.
    nonfinite_means: str | None = None
    patience: int = 1
    memory: Any = None
    remember: Callable[[Any], Any] | None = None
    #: As `finish`, with the iterate's residual without a product and an estimate of its rounding error: for
    #: cycles that are not the last.
    finish_with_residual: Callable[[Any], tuple[Vector, Vector, Array]] | None = None
    #: `report(memory, stats)`: statistics to add or replace.
    report: Callable[[Any, dict[str, Any]], dict[str, Any]] | None = None

    def with_variable(self, memory: Any, remember: Callable[[Any], Any]) -> "Method":
        """The method with a variable preconditioner, which begins with `memory`."""
        return self._replace(memory=memory, remember=remember, nonfinite_means="variable_failed")

    def open(self, x: Vector, r: Vector, memory: Any) -> Any:
        """The state at the start of a cycle."""
        return self.start(x, r) if self.remember is None else self.start(x, r, memory)

    def close(self, state: Any) -> Any:
        """The memory after a cycle."""
        return None if self.remember is None else self.remember(state)


class _Outer(NamedTuple):
    """Between cycles.  Counters share one array: XLA compiles, and runs, a kernel for each array."""

    x: Vector
    r: Vector
    residual_norm: Array
    counters: Array  # steps, cycles, the reason's number, flat cycles in a row
    history: Array | None
    memory: Any
    recursion: "_Recursion | None"  # of methods that know the residual without a product
    search: Array | None  # a `Search`, where the best iterate of a solve that fails is wanted
    best: tuple[Vector, Array] | None  # the iterate with the smallest computed residual so far, and its norm
    watched: Watched | None  # of solves that are looked at


class _Recursion(NamedTuple):
    """How far the residual of the last iterate is to be believed."""

    drift: Array  # how far it may be from the computed one
    computed: Array  # whether it was computed
    num_computed: Array
    least: Array  # the smallest that was computed: what cycles gain is measured by it
    verify: Array  # whether the next turn of the loop takes no steps, but computes it
    then: Array  # the reason's number after that


def power_of_two_scale(b: Vector) -> Array:
    """The power of two at or just below the largest entry of `b`: dividing by it is exact and avoids
    underflow and overflow of `||b||^2`.  One for zero and non-finite `b`."""
    largest = largest_entry(b)
    limits = jnp.finfo(largest.dtype)
    # neither the unit nor its inverse may overflow or be subnormal
    bounded = jnp.clip(largest, 4 * limits.tiny, limits.max / 4)
    # without its fraction, whose bits come last
    bits = jax.lax.bitcast_convert_type(bounded, f"uint{limits.bits}")
    power = jax.lax.bitcast_convert_type(bits >> limits.nmant << limits.nmant, largest.dtype)
    return jnp.where(jnp.isfinite(largest) & (largest > 0), power, 1).astype(largest.dtype)


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
    monitor: AbstractMonitor | None = None,
    name: str = "",
) -> tuple[Vector, Array, dict[str, Any], Any, Array]:
    """Runs the method under the stopping rule.

    `product` is that of the operator divided by `unit_of_operator`.  `blame`: what to look through when NaN
    appears, in this order, with the name of the reason.  `keep_best`: whether anybody will look at the
    iterate where the solve fails.  `monitor`: who
    looks at the steps of the solver of this `name`.

    Returns the iterate, the number of the reason, the statistics `num_steps, num_cycles, num_residuals,
    num_replayed, residual_norm, residual_norms`, what the method remembers, and the relative residual.
    """
    unit = power_of_two_scale(b)
    b = scale(1 / unit, b)
    tol = tolerance(b, rtol, jnp.asarray(atol, real_dtype(b)) / unit)
    b_norm = norm(b)
    blame = (("nonfinite_vector", b_norm), *blame)
    if x0 is None:
        x0, r0 = zeros_like(b), b
    else:
        blame = (*blame[:1], ("nonfinite_start", x0), *blame[1:])
        x0, r0 = start_from(x0, b, product, unit, unit_of_operator)
    norm0 = norm(r0)
    history = None
    if history_length is not None:
        history = jnp.full(history_length + 1, jnp.nan, norm0.dtype).at[0].set(norm0)
    # Without any tolerance a fixed number of steps is asked for, and the last iterate.
    fixed = tol == 0
    has_residual = method.finish_with_residual is not None
    # The residuals of methods that minimise them fall from step to step: there is nothing to take again.
    searches = keep_best and not has_residual

    def cycle(outer: _Outer) -> _Outer:
        packed, search = outer.search, None if outer.search is None else Search(*outer.search)
        recursion, best = outer.recursion, outer.best
        before, num_cycles, _, num_flat = outer.counters
        room = max_steps - before
        if method.cycle_length is not None:
            room = jnp.minimum(room, method.cycle_length)
        if recursion is not None:
            room = jnp.where(recursion.verify, 0, room)
        if search is not None:
            room = jnp.where(search.replay > 0, search.replay, room)

        def keep_stepping(carry):
            state, count, *_, watched = carry
            going = (state.residual_norm > tol) & ~state.broken & (count < room)
            if watched is not None:
                going &= watched.goes_on if search is None else watched.goes_on | (search.replay > 0)
            return going

        def step(carry):
            counts = keep_stepping(carry)
            state, count, history, least, watched = carry
            state, count = method.step(state), count + 1
            if watch is not None:  # which has heard of steps that are taken again
                counts = counts if search is None else counts & (search.replay == 0)
                watched = watch.looked(watched, before + count, state.residual_norm, counts)
            if history is not None:  # what a replay does is known, and written beyond the end
                place = before + count
                place = place if search is None else jnp.where(search.replay > 0, history.size, place)
                history = history.at[place].set(state.residual_norm, mode="drop")
            if least is not None:
                less = state.residual_norm < least[0]
                least = jnp.where(less, state.residual_norm, least[0]), jnp.where(less, count, least[1])
            return state, count, history, least, watched

        opened, zero = method.open(outer.x, outer.r, outer.memory), jnp.zeros((), jnp.int32)
        least = None if search is None else (opened.residual_norm, zero)
        carry = (opened, zero, outer.history, least, outer.watched)
        state, count, history, least, watched = jax.lax.while_loop(keep_stepping, step, carry)
        stopped = no if watched is None else ~watched.goes_on
        steps = before + count
        memory = method.close(state)
        claimed = state.residual_norm <= tol
        computed: Any = None  # always
        if method.finish_with_residual is None or recursion is None:
            x = method.finish(state)
            r = subtract(b, product(x))
        else:
            x, r, error = method.finish_with_residual(state)
            x = where(recursion.verify, outer.x, x)
            # A cycle that is merely full, and gained, goes on from the recursion's residual while that is
            # good.
            drift = recursion.drift + error
            flat = ~(state.residual_norm <= method.least_progress * outer.residual_norm)
            computed = claimed | state.broken | stopped | (steps >= max_steps) | recursion.verify
            computed |= flat | ~(drift <= _DRIFT * state.residual_norm)
            r = jax.lax.cond(computed, lambda x, r: subtract(b, product(x)), lambda x, r: r, x, r)
            drift = jnp.where(computed, 0, drift)
        r_norm = norm(r)
        finite = jnp.isfinite(r_norm)
        # an infinite vector has an infinite tolerance
        converged = finite & (r_norm <= tol) & (True if computed is None else computed)
        progress = r_norm <= method.least_progress * outer.residual_norm
        if computed is None or recursion is None:
            num_flat = jnp.where(progress, 0, num_flat + 1)
        else:  # what the recursion claims in between is no progress
            gained = r_norm <= method.least_progress * recursion.least
            num_flat = jnp.where(computed, jnp.where(gained, 0, num_flat + 1), num_flat)
        # A recursion that has lost touch with the residual says nothing about the operator.
        exhausted = finite & (claimed | (state.residual_norm <= 0.1 * r_norm))
        restarts = progress & (exhausted | method.restarts_when_broken)
        broken = (state.broken & ~restarts) | ~finite
        code = jnp.where(exhausted, CODES["precision"], CODES[method.flat_means])
        code = jnp.where(steps >= max_steps, CODES["max_steps"], code)
        code = jnp.where(broken & ~exhausted, CODES[method.broken_means], code)
        if method.nonfinite_means is not None:
            nonfinite = broken & ~jnp.isfinite(state.residual_norm)
            code = jnp.where(nonfinite, CODES[method.nonfinite_means], code)
        if watched is not None:
            code = jnp.where(stopped, watched.reason, code)
        running = (num_flat < method.patience) & ~broken & ~stopped & (steps < max_steps)
        code = jnp.where(running, GO_ON, code)
        code = jnp.where(converged, CODES["converged"], code)
        worse = ~finite | (r_norm > outer.residual_norm)
        if keep_best:
            worse &= ~(fixed & (steps >= max_steps)) | ~finite
        if best is not None:
            better = r_norm < best[1]  # false for NaN
            better = better if computed is None else better & computed
            best = where(better, x, best[0]), jnp.where(better, r_norm, best[1])
        if recursion is not None and computed is not None:
            verified = recursion.verify
            code = jnp.where(verified & ~converged, recursion.then, code)
            worse &= ~verified
            doubtful = worse & ~recursion.computed & ~converged
            recursion = _Recursion(
                drift,
                jnp.where(worse, recursion.computed, computed),
                recursion.num_computed + computed.astype(jnp.int32),
                jnp.where(computed, jnp.minimum(r_norm, recursion.least), recursion.least),
                doubtful,
                code,
            )
            code = jnp.where(doubtful, GO_ON, code)
        x_next, r_next, norm_next = x, r, r_norm
        # A cycle that gained nothing is the last where patience is one: nobody goes on from it.
        if keep_best or method.patience > 1 or recursion is not None:
            x_next, r_next = where(worse, outer.x, x), where(worse, outer.r, r)
            norm_next = jnp.where(worse, outer.residual_norm, r_norm)
        if search is not None and best is not None and least is not None:
            replaying = search.replay > 0
            honest = r_norm <= HONEST * state.residual_norm
            failed = ~converged & ~fixed & (replaying | (code != GO_ON))
            passed = (least[1] < count) & (least[0] < WORTH_A_REPLAY * best[1])
            search = search._replace(first=jnp.where((num_cycles == 0) & ~honest, count, search.first))
            begun = search.begun(failed, passed, least[1], count, worse & ~honest, code)
            search = where(replaying, search.went_on(honest, passed, least[1], count), begun)
            rewind = failed & (search.replay == 0) & (search.first > 1)
            search = search.rewound(rewind)
            again = ~converged & (search.replay > 0)
            code = jnp.where(replaying & ~converged, search.code, code)
            code = jnp.where(again, GO_ON, code)
            steps = jnp.where(replaying, before, steps)
            memory = where(replaying, outer.memory, memory)
            # back to where the cycle began
            x_next, r_next, norm_next = where(again, outer[:3], (x_next, r_next, norm_next))
            x_next, r_next, norm_next = where(rewind, (x0, r0, norm0), (x_next, r_next, norm_next))
            if history is not None:
                place = jnp.where(replaying, history.size, steps)
                history = history.at[place].set(jnp.where(worse, best[1], r_norm), mode="drop")
            packed = jnp.stack(search)
        elif history is not None:
            history = history.at[steps].set(norm_next)
        counters = jnp.stack([steps, num_cycles + 1, code.astype(jnp.int32), num_flat])
        return _Outer(x_next, r_next, norm_next, counters, history, memory, recursion, packed, best, watched)

    zero, no = jnp.zeros((), jnp.int32), jnp.array(False)
    watch, watched, code = opened(monitor, name, max_steps, unit, b_norm, tol, norm0)
    outer = _Outer(
        x=x0,
        r=r0,
        residual_norm=norm0,
        counters=jnp.stack([zero, zero, code.astype(jnp.int32), zero]),
        history=history,
        memory=method.memory,
        recursion=_Recursion(jnp.zeros_like(norm0), ~no, zero, norm0, no, zero) if has_residual else None,
        search=jnp.zeros(len(Search._fields), jnp.int32) if searches else None,
        best=(x0, norm0) if keep_best else None,
        watched=watched,
    )
    outer = jax.lax.while_loop(lambda outer: outer.counters[2] == GO_ON, cycle, outer)

    num_steps, num_cycles, code, _ = outer.counters
    x, r_norm, failed = outer.x, outer.residual_norm, code != CODES["converged"]
    if outer.best is not None:
        x, r_norm = where(failed & ~fixed, outer.best, (x, r_norm))
    code = jax.lax.cond(failed, lambda code: blamed(blame, code), lambda code: code, code)
    stats = {
        "num_steps": num_steps,
        "num_cycles": num_cycles,
        "num_residuals": num_cycles if outer.recursion is None else outer.recursion.num_computed,
        "num_replayed": 0 if outer.search is None else outer.search[4],
        "residual_norm": r_norm * unit,
    }
    if outer.history is not None:
        stats["residual_norms"] = outer.history * unit
    value, code = scaled_back(x, unit, unit_of_operator, code)
    return value, code, stats, outer.memory, r_norm / b_norm


def start_from(
    given: Vector, b: Vector, product: Callable[[Vector], Vector], unit: Array, unit_of_operator: Array | None
) -> tuple[Vector, Vector]:
    """The start in the units of the solve, and its residual; zero where it is of no use."""
    x0 = given if unit_of_operator is None else scale(unit_of_operator, given)
    x0 = scale(1 / unit, x0)
    r0, b_norm = subtract(b, product(x0)), norm(b)
    # A start of which the vector's own digits cannot be told is worse than none; the solution for b = 0
    # is known, where a recursion from x0 would reach it to rounding only.  NaN stays, and is reported.
    near = norm(r0) * jnp.finfo(b_norm.dtype).eps <= b_norm
    useless = (~near & all_finite(given)) | (b_norm == 0)
    return where(useless, zeros_like(x0), x0), where(useless, b, r0)


def scaled_back(x: Vector, unit: Array, unit_of_operator: Array | None, code: Array) -> tuple[Vector, Array]:
    """The solution in the units of the user; the reason's number says where those cannot hold it."""
    # A solution too small for its dtype is not the zero that it would be rounded to.
    largest = peak = largest_entry(x)
    value = scale(unit, x)
    peak = peak * unit
    if unit_of_operator is not None:
        value, peak = scale(1 / unit_of_operator, value), peak / unit_of_operator
    out_of_range = ((largest > 0) & (peak == 0)) | (jnp.isfinite(largest) & ~jnp.isfinite(peak))
    return value, jnp.where(out_of_range, CODES["range"], code)


def norm_of_any_size(x: Vector) -> Array:
    """The Euclidean norm, where squares might over- or underflow."""
    unit = power_of_two_scale(x)
    return unit * norm(scale(1 / unit, x))

"""Solvers that are tried one after the other until one succeeds."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from ._reasons import CODES, NAMES, REASONS, as_reason, as_result, raise_in_words
from ._results import Stats
from ._stopping import norm_of_any_size
from ._system import System
from ._upstream import solve_throws
from ._vectors import Vector, safe_divide, subtract, where, zeros_like
from .direct.base import AbstractDirectSolver
from .linear.base import AbstractIterativeSolver, as_vector, check_options
from .linear.projected import Projected


class Attempt(eqx.Module):
    """A solver to try.

    * `solver`: one of this package's.
    * `why`: the reason, in words.
    * `supposed`: tags that the operator is given for it, not knowing whether they are true: `CG` finds out.
    """

    solver: Any
    why: str = eqx.field(static=True, default="")
    supposed: frozenset[object] = eqx.field(static=True, default=frozenset())

    def __str__(self) -> str:
        solver, name = self.solver, type(self.solver).__name__
        if isinstance(solver, Projected):
            solver, name = solver.solver, f"projected {type(solver.solver).__name__}"
        made = getattr(solver, "preconditioner", None)
        with_it = "" if made is None else f" with {type(made).__name__}"
        steps = getattr(solver, "max_steps", None)
        at_most = "" if steps is None else f", at most {steps} steps"
        return f"{name}{with_it}{at_most}"


class Attempts(eqx.Module):
    """What came of each attempt of a chain; prints as a table.

    * `ran`: which ones were made.
    * `reasons` (`nsolve.linear.REASONS`, an array), `num_steps`, `residual_norms`: how each ended; of those
      that were not made the reason of the one before, zero and NaN.
    * `seconds`: how long each took, set-up included where it is not part of `state`; float32.
    """

    ran: Array
    reasons: REASONS
    num_steps: Array
    residual_norms: Array
    seconds: Array
    names: tuple[str, ...] = eqx.field(static=True)
    whys: tuple[str, ...] = eqx.field(static=True)

    def __repr__(self) -> str:
        lines = []
        for k, (name, why) in enumerate(zip(self.names, self.whys, strict=True)):
            outcome = "traced"
            if not isinstance(self.ran, Tracer):
                ran = np.asarray(self.ran[..., k])
                outcome = _in_words(self, k) if ran.ndim == 0 else f"made in {int(ran.sum())} of {ran.size}"
            lines.append(f"{k + 1}. {name}{why and f' ({why})'}: {outcome}")
        return "\n".join(lines)


def _in_words(attempts: Attempts, k: int) -> str:
    if not attempts.ran[k]:
        return "not made"
    (codes,) = jax.tree.leaves(attempts.reasons)
    reason, steps = NAMES[int(codes[k])], int(attempts.num_steps[k])
    reached = f"residual {float(attempts.residual_norms[k]):.1e}, {float(attempts.seconds[k]):.2g} s"
    return f"{reason} after {steps} steps, {reached}"


class _Outcome(NamedTuple):
    value: Vector
    code: Array
    residual_norm: Array
    num_steps: Array
    num_matvecs: Array
    seconds: Array
    inconsistency: Array


class Chain(lx.AbstractLinearSolver[System]):
    """Tries solvers one after the other until one succeeds; what [`nsolve.auto`][nsolve.auto.auto] returns.

    * `attempts`: the solvers, with the reasons for them (`Attempt`).
    * `about`: what is known of the operator, in words.

    `print(chain)` tells which solvers come in which order, and why; `stats["attempts"]` what came of each.
    An attempt begins where the best answer of those before it stands, if its method can; the best is
    returned.  The chain is compiled as a whole, and runs under `jit` and `vmap`; what a solve does not need
    is not run, but under `vmap`, where all is.  It succeeds when one attempt does, by that one's stopping
    rule; else the result is the last one's.

    `init` makes the state of the first attempt, which `state=` then reuses; the others prepare themselves
    where they are needed.  **Options:** `y0`.  **Statistics:** `num_steps` and `num_matvecs` of all attempts
    together, `residual_norm`, `reason`, `attempts`, and the `inconsistency` that `Projected` tells.
    """

    attempts: tuple[Attempt, ...]
    about: str = eqx.field(static=True, default="")

    known_options: ClassVar[tuple[str, ...]] = ("y0",)

    def __check_init__(self):
        solvers = AbstractIterativeSolver | AbstractDirectSolver | Projected
        if not self.attempts or not all(isinstance(a.solver, solvers) for a in self.attempts):
            raise TypeError(
                "`attempts` must hold one `Attempt(solver)` or more, each with a solver of nsolve."
            )

    def __repr__(self) -> str:
        lines = [f"  {k + 1}. {a}{a.why and f': {a.why}'}" for k, a in enumerate(self.attempts)]
        return "\n".join([f"Chain for {self.about or 'any operator'}", *lines])

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> System:
        check_options(self, options)
        return System(operator, None, _prepared(self.attempts[0], operator))

    def compute(
        self, state: System, vector: Vector, options: dict[str, Any]
    ) -> tuple[Vector, lx.RESULTS, dict[str, Any]]:
        from .kernels.clock import seconds  # here, since kernels are found where they are needed

        check_options(self, options)
        structure = state.operator.in_structure()
        y0 = options.get("y0")
        y0 = None if y0 is None else as_vector(y0, structure, "options['y0']")
        zero, none = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32)
        size = norm_of_any_size(vector)
        start, reached = zeros_like(structure), size
        if y0 is not None:  # which a direct solver does not look at
            residual_norm = norm_of_any_size(subtract(vector, state.operator.mv(y0)))
            start, reached = where(residual_norm < size, (y0, residual_norm), (start, size))
        best = _Outcome(start, jnp.full_like(zero, CODES["max_steps"]), reached, zero, zero, none, none)
        ran, outcomes = [], []
        for k, attempt in enumerate(self.attempts):

            def run(best: _Outcome, k: int = k, attempt: Attempt = attempt) -> _Outcome:
                begun = seconds(best.residual_norm)
                given = vector, y0 if k == 0 else best.value
                operator = state.operator if k else None
                operator, (b, guess) = _after(begun, (operator, given))
                own = state.extra if operator is None else _prepared(attempt, operator)
                outcome = _tried(attempt, own, b, guess)
                return outcome._replace(seconds=seconds(outcome.residual_norm) - begun)

            def skip(best: _Outcome) -> _Outcome:
                nothing = jnp.full_like(best.residual_norm, jnp.nan)
                return _Outcome(best.value, best.code, nothing, zero, zero, none, jnp.zeros_like(nothing))

            again = ~_ends(best.code)
            outcome = run(best) if k == 0 else jax.lax.cond(again, run, skip, best)
            ran.append(again)
            outcomes.append(outcome)
            # False for NaN: what gave up without an answer hides none.
            nearer = outcome.residual_norm < best.residual_norm
            better = again & (nearer | (outcome.code == CODES["converged"]))
            code = jnp.where(again, outcome.code, best.code)
            value, reached = where(better, (outcome.value, outcome.residual_norm), best[0:1] + best[2:3])
            best = best._replace(value=value, code=code, residual_norm=reached)
        value = best.value
        if solve_throws():
            value = raise_in_words("auto", value, best.code, safe_divide(best.residual_norm, size))
        stats = {
            "num_steps": sum(outcome.num_steps for outcome in outcomes),
            "num_matvecs": sum(outcome.num_matvecs for outcome in outcomes) + int(y0 is not None),
            "residual_norm": best.residual_norm,
            "reason": as_reason(best.code),
            "attempts": Attempts(
                jnp.stack(ran),
                as_reason(jnp.stack([outcome.code for outcome in outcomes])),
                jnp.stack([outcome.num_steps for outcome in outcomes]),
                jnp.stack([outcome.residual_norm for outcome in outcomes]),
                jnp.stack([outcome.seconds for outcome in outcomes]),
                tuple(map(str, self.attempts)),
                tuple(attempt.why for attempt in self.attempts),
            ),
        }
        if any(isinstance(attempt.solver, Projected) for attempt in self.attempts):
            stats["inconsistency"] = outcomes[0].inconsistency
        return value, as_result(best.code), Stats(stats)

    def transpose(self, state: System, options: dict[str, Any]) -> tuple[System, dict[str, Any]]:
        first, _ = self.attempts[0].solver.transpose(state.extra, {})
        return System(state.operator.transpose(), None, first), {}

    def conj(self, state: System, options: dict[str, Any]) -> tuple[System, dict[str, Any]]:
        first, _ = self.attempts[0].solver.conj(state.extra, {})
        return System(lx.conj(state.operator), None, first), {}

    def assume_full_rank(self) -> bool:
        return True


#: Reasons after which no other solver is asked: what is not finite stays so, and the user's monitor ends all.
_ENDS = np.array([name in ("converged", "stopped") or name.startswith("nonfinite") for name in NAMES])


def _ends(code: Array) -> Array:
    return jnp.asarray(_ENDS)[code]


def _prepared(attempt: Attempt, operator: lx.AbstractLinearOperator) -> Any:
    """The solver's state."""
    if attempt.supposed:
        operator = lx.TaggedLinearOperator(operator, attempt.supposed)
    # Traced, so that a factorisation which fails is not an error but the reason for the next attempt.
    return _init(attempt.solver, operator)


@eqx.filter_jit
def _init(solver: Any, operator: lx.AbstractLinearOperator) -> Any:
    return solver.init(operator, {})


def _after(time: Array, tree: Any) -> Any:
    """The same arrays, but not before the clock was read: XLA, which orders by what depends on what, does not
    know that time is never negative."""

    def wait(leaf: Any) -> Any:
        return jnp.where(time < 0, jnp.nan, leaf).astype(leaf.dtype) if eqx.is_inexact_array(leaf) else leaf

    return jax.tree.map(wait, tree)


def _tried(attempt: Attempt, state: Any, vector: Vector, y0: Vector | None) -> _Outcome:
    takes_start = y0 is not None and "y0" in attempt.solver.known_options
    value, _, stats = attempt.solver.compute(state, vector, {"y0": y0} if takes_start else {})
    code = jax.tree.leaves(stats["reason"])[0]
    steps = stats["num_steps"]
    products = stats.get("num_matvecs", steps + 1)
    inconsistency = stats.get("inconsistency", jnp.zeros_like(stats["residual_norm"]))
    clock = jnp.zeros((), jnp.float32)
    return _Outcome(value, code, stats["residual_norm"], steps, products, clock, inconsistency)

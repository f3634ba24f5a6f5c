"""Solvers that are tried one after the other until one succeeds."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from ._reasons import NAMES, as_reason, as_result, raise_in_words
from ._results import Stats
from ._system import System
from ._upstream import solve_throws
from ._vectors import Vector, norm, where
from .direct.base import AbstractDirectSolver
from .linear.base import AbstractIterativeSolver, as_vector, structure_zeros


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
        made = getattr(solver, "preconditioner", None)
        with_it = "" if made is None else f" with {type(made).__name__}"
        steps = getattr(solver, "max_steps", None)
        at_most = "" if steps is None else f", at most {steps} steps"
        return f"{name}{with_it}{at_most}"


class Attempts(eqx.Module):
    """What came of each attempt of a chain; prints as a table.

    * `ran`: which ones were made.
    * `reasons`, `num_steps`, `residual_norms`: how each ended; zero and NaN for those that were not made.
    * `seconds`: how long each took, set-up included where it is not part of `state`; float32.
    """

    ran: Array
    codes: Array
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
            lines.append(f"{k + 1}. {name} ({why}): {outcome}")
        return "\n".join(lines)


def _in_words(attempts: Attempts, k: int) -> str:
    if not attempts.ran[k]:
        return "not made"
    reason, steps = NAMES[int(attempts.codes[k])], int(attempts.num_steps[k])
    reached = f"residual {float(attempts.residual_norms[k]):.1e}, {float(attempts.seconds[k]):.2g} s"
    return f"{reason} after {steps} steps, {reached}"


class _Outcome(NamedTuple):
    value: Vector
    code: Array
    residual_norm: Array
    num_steps: Array
    num_matvecs: Array
    seconds: Array


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
    together, `residual_norm`, `reason`, `attempts`.
    """

    attempts: tuple[Attempt, ...]
    about: str = eqx.field(static=True, default="")

    def __check_init__(self):
        solvers = AbstractIterativeSolver | AbstractDirectSolver
        if not self.attempts or not all(isinstance(a.solver, solvers) for a in self.attempts):
            raise TypeError(
                "`attempts` must hold one `Attempt(solver)` or more, each with a solver of nsolve."
            )

    def __repr__(self) -> str:
        lines = [f"  {k + 1}. {attempt}: {attempt.why}" for k, attempt in enumerate(self.attempts)]
        return "\n".join([f"Chain for {self.about or 'any operator'}", *lines])

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> System:
        _check_options(options)
        return System(operator, None, _prepared(self.attempts[0], operator))

    def compute(
        self, state: System, vector: Vector, options: dict[str, Any]
    ) -> tuple[Vector, lx.RESULTS, dict[str, Any]]:
        _check_options(options)
        structure = state.operator.in_structure()
        y0 = options.get("y0")
        start = structure_zeros(structure) if y0 is None else as_vector(y0, structure, "options['y0']")
        best = _tried(self.attempts[0], state.extra, vector, None if y0 is None else start)
        ran, outcomes = [jnp.array(True)], [best]
        for attempt in self.attempts[1:]:

            def run(best: _Outcome, attempt: Attempt = attempt) -> _Outcome:
                own = _prepared(attempt, state.operator)
                return _tried(attempt, own, vector, best.value)

            def skip(best: _Outcome) -> _Outcome:
                zero = jnp.zeros((), jnp.int32)
                nothing = jnp.full_like(best.residual_norm, jnp.nan), zero, zero, jnp.zeros((), jnp.float32)
                return _Outcome(best.value, best.code, *nothing)

            # What the vector lacks no other solver finds.
            again = ~_ends(best.code)
            outcome = jax.lax.cond(again, run, skip, best)
            ran.append(again)
            outcomes.append(outcome)
            better = again & (_ends(outcome.code) | ~(outcome.residual_norm >= best.residual_norm))
            code = jnp.where(again, outcome.code, best.code)
            value, reached = where(better, (outcome.value, outcome.residual_norm), best[0:1] + best[2:3])
            best = best._replace(value=value, code=code, residual_norm=reached)
        value = best.value
        if solve_throws():
            size = norm(vector)
            value = raise_in_words(
                "auto", value, best.code, best.residual_norm / jnp.where(size > 0, size, 1)
            )
        stats = {
            "num_steps": sum(outcome.num_steps for outcome in outcomes),
            "num_matvecs": sum(outcome.num_matvecs for outcome in outcomes),
            "residual_norm": best.residual_norm,
            "reason": as_reason(best.code),
            "attempts": Attempts(
                jnp.stack(ran),
                jnp.stack([outcome.code for outcome in outcomes]),
                jnp.stack([outcome.num_steps for outcome in outcomes]),
                jnp.stack([outcome.residual_norm for outcome in outcomes]),
                jnp.stack([outcome.seconds for outcome in outcomes]),
                tuple(map(str, self.attempts)),
                tuple(attempt.why for attempt in self.attempts),
            ),
        }
        return value, as_result(best.code), Stats(stats)

    def transpose(self, state: System, options: dict[str, Any]) -> tuple[System, dict[str, Any]]:
        first, _ = self.attempts[0].solver.transpose(state.extra, {})
        return System(state.operator.transpose(), None, first), {}

    def conj(self, state: System, options: dict[str, Any]) -> tuple[System, dict[str, Any]]:
        first, _ = self.attempts[0].solver.conj(state.extra, {})
        return System(lx.conj(state.operator), None, first), {}

    def assume_full_rank(self) -> bool:
        return True


_ENDS = np.array([name == "converged" or name.startswith("nonfinite") for name in NAMES])


def _ends(code: Array) -> Array:
    return jnp.asarray(_ENDS)[code]


def _check_options(options: dict[str, Any]) -> None:
    unknown = set(options) - {"y0"}
    if unknown:
        raise ValueError(
            f"`options` of a `Chain` may have the key 'y0', not {sorted(unknown)}: a solver of your own "
            "choice takes a preconditioner."
        )


def _prepared(attempt: Attempt, operator: lx.AbstractLinearOperator) -> Any:
    """The solver's state."""
    if attempt.supposed:
        operator = lx.TaggedLinearOperator(operator, attempt.supposed)
    # Traced, so that a factorisation which fails is not an error but the reason for the next attempt.
    return _init(attempt.solver, operator)


@eqx.filter_jit
def _init(solver: Any, operator: lx.AbstractLinearOperator) -> Any:
    return solver.init(operator, {})


def _tried(attempt: Attempt, state: Any, vector: Vector, y0: Vector | None) -> _Outcome:
    from .kernels.clock import seconds

    vector, y0, begun = jax.lax.optimization_barrier((vector, y0, seconds(jnp.sum(norm(vector)))))
    takes_start = y0 is not None and isinstance(attempt.solver, AbstractIterativeSolver)
    value, _, stats = attempt.solver.compute(state, vector, {"y0": y0} if takes_start else {})
    code = jax.tree.leaves(stats["reason"])[0]
    steps = stats["num_steps"]
    products = stats.get("num_matvecs", steps + 1)
    spent = seconds(stats["residual_norm"]) - begun
    return _Outcome(value, code, stats["residual_norm"], steps, products, spent)

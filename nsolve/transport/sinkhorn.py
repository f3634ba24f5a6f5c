"""Sinkhorn's alternating projections, with the accelerations that are safe.

Sinkhorn and Knopp (1967); in the log domain after Cuturi (2013, arXiv:1306.0895) and Schmitzer (2019,
arXiv:1610.06519).  A sweep makes one pass over the costs instead of two: rows and columns come from the same
exponentials, since the columns' sums already say how far each column potential has to move.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._dense import solve
from ._point import best_column, relaxed, soft_column, stand_at
from ._problem import EntropicProblem, balancing_constant
from .base import AbstractTransportSolver, Iterate, continuation_start, next_epsilon

#: Sweeps between two estimates of the relaxation.
_WINDOW = 20
#: So many sweeps that leave 99.9 % of the error are stagnation.
_PATIENCE = 500


class Sinkhorn(AbstractTransportSolver):
    """Sinkhorn's algorithm.

    Use it when `epsilon` is large (a tenth of the costs), for a rough answer, or as a reference; where it
    would need more than some fifty sweeps `nsolve.transport.SinkhornNewton` is faster.

    * `rtol`: stop when `||P 1 - a||_1 + ||P^T 1 - b||_1 <= rtol * mass`; None: 1e-8 in float64, 1e-3 in
      float32.
    * `max_steps`: the most sweeps.
    * `relaxation`: 1 for the plain method; a number in (1, 2) over-relaxes both half-sweeps; `"adaptive"`
      estimates the best one from the rate of convergence, again and again.  A half-sweep that would lower the
      dual is taken plainly, so that convergence is global for each choice.
    * `anderson`: extrapolate from so many earlier sweeps; 0: none.  An extrapolation that lowers the dual is
      undone, and its memory cleared.  Not together with `relaxation`.
    * `decay`: lower `epsilon` from a sixteenth of the largest cost, by this factor each time that the
      marginal error falls below `inner_rtol`; None: start at the target.

    Cost: one sweep is one pass over the costs, O(n m), two where they are streamed.  Reports `num_steps`
    (sweeps) and `relaxation` (the last one).

    Where both marginals are relaxed, each sweep also moves the constant between the potentials that balances
    the masses, which costs nothing (Sejourne, Vialard, Peyre 2022, arXiv:2201.00730).

    Over-relaxation: Thibault, Chizat, Dossal, Papadakis (2021, arXiv:1711.01851); its estimate: Lehmann, von
    Renesse, Sambale, Uschmajew (2021, arXiv:2012.12562), and Young's relation where a relaxed sweep was
    measured.  Anderson acceleration: Walker and Ni (2011), doi:10.1137/10078356X.
    """

    rtol: Any = None
    max_steps: int = 10_000
    relaxation: float | str = 1.0
    anderson: int = 0
    decay: float | None = None
    inner_rtol: float = 0.1

    def __check_init__(self):
        if isinstance(self.relaxation, str):
            if self.relaxation != "adaptive":
                raise ValueError(
                    "`Sinkhorn(relaxation=...)` must be a number in (0, 2) or 'adaptive', but is "
                    f"{self.relaxation!r}."
                )
        elif not 0 < self.relaxation < 2:
            raise ValueError(
                "`Sinkhorn(relaxation=...)` must be a number in (0, 2) or 'adaptive', but is "
                f"{self.relaxation}."
            )
        if not isinstance(self.anderson, int) or self.anderson < 0:
            raise ValueError(f"`Sinkhorn(anderson=...)` must be an integer >= 0, but is {self.anderson!r}.")
        if self.anderson and self.relaxation != 1:
            raise ValueError("`Sinkhorn` takes either `anderson` or `relaxation`, not both.")
        if self.decay is not None and not 1 < self.decay < math.inf:
            raise ValueError(f"`Sinkhorn(decay=...)` must be None or greater than 1, but is {self.decay}.")
        if not 0 < self.inner_rtol < math.inf:
            raise ValueError(f"`Sinkhorn(inner_rtol=...)` must be positive, but is {self.inner_rtol}.")

    def run(self, problem: EntropicProblem, start: Array | None) -> Iterate:
        target = problem.geometry.epsilon
        tol = self.tolerance(problem)
        dtype = target.dtype
        g = jnp.zeros_like(problem.b) if start is None else start
        scale = target if self.decay is None or start is not None else continuation_start(problem, self.decay)
        infinite = jnp.full((), jnp.inf, dtype)
        memory = jnp.zeros((self.anderson, g.size), dtype)
        omega = jnp.asarray(1.0 if isinstance(self.relaxation, str) else self.relaxation, dtype)
        zero = jnp.zeros((), jnp.int32)
        state = _State(
            epsilon=scale,
            f=jnp.zeros_like(problem.a),
            g=g,
            omega=omega,
            best_f=jnp.zeros_like(problem.a),
            best_g=g,
            best_error=infinite,
            window_error=infinite,
            value=-infinite,
            fallback=g,
            sweeps=memory,
            residuals=memory,
            filled=zero,
            window=zero,
            steps=zero,
            mark=infinite,
            idle=zero,
            running=jnp.array(True),
        )
        state = jax.lax.while_loop(
            lambda s: s.running & (s.steps < self.max_steps),
            lambda s: self.sweep(problem, target, tol, s),
            state,
        )
        found = jnp.isfinite(state.best_error)
        f = jnp.where(found, state.best_f, problem.best_row(state.g))
        g = jnp.where(found, state.best_g, state.g)
        stats = {"num_steps": state.steps, "relaxation": state.omega}
        return Iterate(f, g, stats, state.steps >= self.max_steps)

    def sweep(self, problem: EntropicProblem, target: Array, tol: Array, s: "_State") -> "_State":
        problem = problem.at_epsilon(s.epsilon)
        final = s.epsilon == target

        plain = self.relaxation == 1
        # the first row is the best one: there is none yet to relax from
        omega = jnp.where(s.steps > 0, s.omega, 1)
        point = stand_at(problem, s.g) if plain else stand_at(problem, s.g, (s.f, omega))
        best_g = best_column(problem, point)
        error = point.error
        better = final & (error < s.best_error)
        best_error = jnp.where(better, error, s.best_error)
        level_done = ~final & (error <= self.inner_rtol * problem.mass)
        epsilon = jnp.where(level_done, next_epsilon(s.epsilon, target, self.decay or 2.0), s.epsilon)

        sweeps, residuals, filled, fallback = s.sweeps, s.residuals, s.filled, s.fallback
        g = best_g
        if not plain:
            softmin = soft_column(problem, point)
            g = relaxed(s.g, s.omega, best_g, problem.b, softmin, s.epsilon, problem.tau_b)
        if self.anderson:
            lowered = (point.value < s.value) & (s.filled > 0)
            sweeps = jnp.roll(s.sweeps, 1, axis=0).at[0].set(best_g)
            residuals = jnp.roll(s.residuals, 1, axis=0).at[0].set(best_g - s.g)
            filled = jnp.minimum(s.filled + 1, self.anderson)
            mixed = _anderson(sweeps, residuals, filled, problem.b)
            good = jnp.all(jnp.isfinite(mixed)) & ~level_done
            g = jnp.where(lowered, s.fallback, jnp.where(good, mixed, best_g))
            filled = jnp.where(lowered | level_done, 0, filled)
            fallback = best_g
        constant = balancing_constant(problem, point.f, g)
        f, g, fallback = point.f + constant, g - constant, fallback - constant
        count = s.window + 1
        full = count >= _WINDOW
        omega = s.omega
        if self.relaxation == "adaptive":
            rate = (error / s.window_error) ** (1 / _WINDOW)
            omega = jnp.where(full & final & jnp.isfinite(rate), _best_omega(rate, s.omega), s.omega)
        gained = best_error < 0.999 * s.mark
        idle = jnp.where(gained | ~final, 0, s.idle + 1)
        return _State(
            epsilon=epsilon,
            f=f,
            g=g,
            omega=omega,
            best_f=jnp.where(better, point.f, s.best_f),
            best_g=jnp.where(better, s.g, s.best_g),
            best_error=best_error,
            window_error=jnp.where(full | level_done | (s.steps == 0), error, s.window_error),
            value=jnp.where(level_done, -jnp.inf, point.value),
            fallback=fallback,
            sweeps=sweeps,
            residuals=residuals,
            filled=filled,
            window=jnp.where(full | level_done, 0, count),
            steps=s.steps + 1,
            mark=jnp.where(gained, best_error, s.mark),
            idle=idle,
            running=(best_error > tol) & jnp.isfinite(error) & (idle < _PATIENCE),
        )


class _State(NamedTuple):
    epsilon: Array
    f: Array
    g: Array
    omega: Array
    best_f: Array
    best_g: Array
    best_error: Array
    window_error: Array  # when the window opened
    value: Array  # of the dual at the last point
    fallback: Array  # the plain sweep from there
    sweeps: Array  # (anderson, m), newest first
    residuals: Array
    filled: Array
    window: Array
    steps: Array
    mark: Array  # the best error when it last fell by a thousandth
    idle: Array  # sweeps since then
    running: Array


def _best_omega(rate: Array, omega: Array) -> Array:
    """The best relaxation, from the rate of convergence under the present one.

    A sweep's eigenvalue `t` (plain) and `rate` (relaxed by omega) obey Young's `(rate + omega - 1)^2 = rate
    omega^2 t`; for omega = 1 the rate is `t` itself.  Beyond the best omega all rates are `omega - 1` and say
    nothing: it stays.  Where errors grew it was too large.
    """
    t = (rate + omega - 1) ** 2 / (rate * omega**2)
    # far from the solution rates are no eigenvalues: at most 1.94
    best = 2 / (1 + jnp.sqrt(1 - jnp.clip(t, 0, 0.999)))
    grew, told = rate >= 1, rate > omega - 1
    return jnp.where(grew, 1 + 0.5 * (omega - 1), jnp.where(told, best, omega))


def _anderson(sweeps: Array, residuals: Array, filled: Array, weights: Array) -> Array:
    """The combination, with sum one, of the last sweeps whose residual is smallest in the weighted norm."""
    count = sweeps.shape[0]
    present = jnp.arange(count, dtype=filled.dtype) < filled
    scaled = jnp.where(present[:, None], residuals * jnp.sqrt(weights)[None, :], 0)
    gram = jnp.matmul(scaled, scaled.T, precision="highest")
    ridge = 1e3 * jnp.finfo(gram.dtype).eps * jnp.trace(gram) + jnp.finfo(gram.dtype).tiny
    system = gram + jnp.diag(jnp.where(present, ridge, 1))
    alpha = solve(system, present.astype(gram.dtype))
    return (alpha / jnp.sum(alpha)) @ sweeps

"""Sinkhorn-Newton: second order in the dual, safe far from the solution.

The frame is that of Sinkhorn-Newton-Sparse (Tang, Shavlovsky, Rahmanian, Tardini, Thekumparampil, Xiao, Ying,
ICLR 2024, arXiv:2401.12253).  Where we deviate:

* Newton runs on the semi-dual: the rows are always best for the columns, one half-sweep exact instead of
  linearised.  Each Newton step is followed by a half-sweep of the columns, which costs nothing but its
  evaluation, as the column sums are at hand.
* `epsilon` is lowered level by level (a factor of two), with extrapolated potentials; warm-up sweeps are
  unnecessary then.
* Steps are clipped to a radius, in units of `epsilon`, which a ratio test adapts.  This trust region in the
  maximum norm needs no further linear solve when a step is refused, and it is sound: the Hessian is a graph
  Laplacian `S`, whose form contracts under clipping, `u^T S clip(u) >= clip(u)^T S clip(u)`, so that a
  clipped Newton step is an ascent direction of which the quadratic model promises at least half.  A shift of
  the Hessian (Tang and Qiu, NeurIPS 2024) shortens all components of the step alike; at small `epsilon`,
  when the plan nearly falls into pieces, those that must be shortened differ from those that must not by
  orders of magnitude.
* Sparsification drops, from each row and column, at most a fraction of its mass (Tang and Qiu); it is used
  where costs are streamed, since a stored plan's products cost less than picking its entries.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array

from .._vectors import safe_divide
from ..linear import CG
from ._point import Kernel, Point, best_column, stand_at
from ._problem import EntropicProblem, middle
from .base import AbstractTransportSolver, Iterate, continuation_start, next_epsilon
from .schur import DENSE, diagonals, factorised, schur
from .sparsify import by_density, by_mass

#: Steps of conjugate gradients for a Newton step; then, up to `DENSE` unknowns, it is Cholesky's turn.
_CG_STEPS, _MANY_CG_STEPS = 200, 1000
#: Up to this many unknowns it is Cholesky's turn at once: as fast, and far less to compile.
_DIRECT = 128
#: The trust region: its first radius in units of epsilon.
_RADIUS = 8.0
#: The unclipped step is at most this many radii long.
_REACH = 8.0
#: So many refusals of a clipped direction, and it is given up for a half-sweep.
_REFUSALS = 8
#: So many steps that leave 99 % of the error are stagnation.
_PATIENCE = 60
#: A level of epsilon ends with this marginal error.
_INNER = 0.1


class SinkhornNewton(AbstractTransportSolver):
    """Sinkhorn-Newton: tens of passes over the costs where Sinkhorn needs thousands.

    The default.  Use it at any `epsilon`, and always where the marginals must hold to more than a few digits.
    At `epsilon` about the size of the costs plain `Sinkhorn` is as good.

    * `rtol`: stop when `||P 1 - a||_1 + ||P^T 1 - b||_1 <= rtol * mass`; None: 1e-8 in float64, 1e-3 in
      float32.
    * `max_steps`: the most Newton steps, refused ones included.
    * `decay`: the factor by which `epsilon` falls from level to level.
    * `sparsification`: which entries of the plan enter a Newton system.  None: all where costs are stored,
      and those with all but a small part of every row's and column's mass where they are streamed (`"mass"`
      does so everywhere); a number in (0, 1]: the largest entries, as many as make the Hessian of this
      density, the fixed rule of Sinkhorn-Newton-Sparse (whose density is 2 / n for unique plans).  Row and
      column sums are always exact.

    Cost of a step: three or four passes over the costs (one is two where they are streamed, and
    sparsification takes two), and the conjugate gradients of its linear system, two products with the plan or
    its entries each; up to 1024 target sites a stored system that they do not solve within 200 steps is
    factorised, up to 128 at once.  Memory: one array (n, m) where costs are stored, 16 (n + m) entries where
    they are streamed.

    Reports `num_steps`, the sum of `num_newton_steps` and `num_sweeps` (half-sweeps of the columns, one after
    each step that was taken), and `num_cg_steps`.  Under `vmap` the problems of a batch stop one by one.
    """

    rtol: Any = None
    max_steps: int = 1000
    decay: float = 2.0
    sparsification: str | float | None = None

    def __check_init__(self):
        if not 1 < self.decay < math.inf:
            raise ValueError(f"`SinkhornNewton(decay=...)` must be greater than 1, but is {self.decay}.")
        rule = self.sparsification
        good = rule in (None, "mass") if isinstance(rule, str | None) else 0 < rule <= 1
        if not good:
            raise ValueError(
                "`SinkhornNewton(sparsification=...)` must be None, 'mass' or a density in (0, 1], but is "
                f"{rule!r}."
            )

    def run(self, problem: EntropicProblem, start: Array | None) -> Iterate:
        return _Run(self, problem).solve(start)


class _State(NamedTuple):
    epsilon: Array
    g: Array
    best: Array  # the best g so far at this epsilon
    best_error: Array
    before: Array  # g and epsilon at the end of the last level
    before_epsilon: Array
    direction: Array  # Newton's step, before clipping
    fresh: Array  # whether g has moved since the direction was computed
    radius: Array
    newton: Array
    sweeps: Array
    cg: Array
    refused: Array  # in a row
    mark: Array  # the best error when it last fell by a hundredth
    idle: Array  # steps since then
    running: Array


class _Run(eqx.Module):
    solver: SinkhornNewton
    problem: EntropicProblem

    def solve(self, start: Array | None) -> Iterate:
        problem, solver = self.problem, self.solver
        target = problem.geometry.epsilon
        tol = solver.tolerance(problem)
        zero = jnp.zeros((), jnp.int32)
        g = jnp.zeros_like(problem.b) if start is None else start
        epsilon = continuation_start(problem, solver.decay) if start is None else target
        infinite = jnp.full((), jnp.inf, g.dtype)
        state = _State(
            epsilon=epsilon,
            g=g,
            best=g,
            best_error=infinite,
            before=g,
            before_epsilon=epsilon,
            direction=g,
            fresh=jnp.array(True),
            radius=jnp.asarray(_RADIUS, g.dtype),
            newton=zero,
            sweeps=zero,
            cg=zero,
            refused=zero,
            mark=infinite,
            idle=zero,
            running=jnp.array(True),
        )
        state = jax.lax.while_loop(
            lambda s: s.running & (s.newton < solver.max_steps), lambda s: self.step(s, target, tol), state
        )
        stats = {
            "num_steps": state.newton + state.sweeps,
            "num_newton_steps": state.newton,
            "num_sweeps": state.sweeps,
            "num_cg_steps": state.cg,
        }
        g = jnp.where(jnp.isfinite(state.best_error), state.best, state.g)
        return Iterate(problem.best_row(g), g, stats, state.newton >= solver.max_steps)

    def step(self, s: _State, target: Array, tol: Array) -> _State:
        problem = self.problem.at_epsilon(s.epsilon)
        final = s.epsilon == target
        # 1. Newton's direction, unless the last one was refused at full length
        point = stand_at(problem, s.g, keep=True)
        # The addition bounds Newton's step by `reach * epsilon`, by the maximum principle of Laplacians,
        # however loosely parts of the plan hang together; and it vanishes with the gradient.
        shift = jnp.abs(point.gradient) / (_REACH * s.radius)
        # in a batch, problems that need no direction get the right-hand side zero, which takes no CG step
        needed = s.fresh & s.running
        gradient = jnp.where(needed, point.gradient, 0)
        direction, cg_steps = jax.lax.cond(
            needed,
            lambda: self.direction(problem, point, gradient, shift),
            lambda: (s.direction / s.epsilon, jnp.zeros((), jnp.int32)),
        )
        direction = direction * s.epsilon
        # 2. the clipped step, and what the model promises of it
        longest = s.radius * s.epsilon
        step = jnp.clip(direction, -longest, longest)
        promised = jnp.vdot(point.gradient, step) - 0.5 * curvature(problem, point, shift, step) / s.epsilon
        trial = stand_at(problem, s.g + step)
        # 3. the ratio test.  Close to the solution values differ by rounding only; their slopes do not.
        size = jnp.sum(jnp.abs(point.f) * problem.a) + jnp.sum(jnp.abs(point.g) * problem.b)
        visible = promised > 1e5 * jnp.finfo(size.dtype).eps * size
        slopes = 0.5 * jnp.vdot(point.gradient + trial.gradient, step)
        increase = jnp.where(visible, trial.value - point.value, slopes)
        ratio = jnp.where(promised > 0, increase / promised, -1)
        accepted = (ratio > 0.01) & jnp.isfinite(trial.error)
        length = jnp.max(jnp.abs(step)) / s.epsilon
        radius = jnp.where(
            ratio < 0.25,
            length / 4,
            jnp.where((ratio > 0.75) & (length >= 0.99 * s.radius), 2 * s.radius, s.radius),
        )
        # 4. the best point of this level, and its end
        take_trial = accepted & (trial.error <= point.error)
        error, at = jnp.where(take_trial, trial.error, point.error), jnp.where(take_trial, trial.g, point.g)
        better = error < s.best_error
        best, best_error = jnp.where(better, at, s.best), jnp.where(better, error, s.best_error)
        level_done = ~final & accepted & (trial.error <= _INNER * problem.mass)
        epsilon = jnp.where(level_done, next_epsilon(s.epsilon, target, self.solver.decay), s.epsilon)
        swept = best_column(problem, trial)
        # potentials move nearly linearly in epsilon
        slope = jnp.where(
            s.before_epsilon > s.epsilon, (swept - s.before) / (s.epsilon - s.before_epsilon), 0
        )
        g = jnp.where(level_done, swept + slope * (epsilon - s.epsilon), swept)
        # A direction that no clipping makes good was not solved well enough: half a sweep always ascends.
        hopeless = ~accepted & (s.refused >= _REFUSALS)
        g = jnp.where(accepted, g, jnp.where(hopeless, best_column(problem, point), s.g))
        refused = jnp.where(accepted | hopeless, 0, s.refused + 1)
        gained = best_error < 0.99 * s.mark
        idle = jnp.where(gained | level_done, 0, s.idle + 1)
        done = final & (best_error <= tol)
        alive = jnp.isfinite(point.error) & (idle < _PATIENCE)
        infinite = jnp.full_like(error, jnp.inf)
        return _State(
            epsilon=epsilon,
            g=g,
            best=best,
            best_error=jnp.where(level_done, infinite, best_error),
            before=jnp.where(level_done, swept, s.before),
            before_epsilon=jnp.where(level_done, s.epsilon, s.before_epsilon),
            direction=direction,
            fresh=accepted | hopeless,
            radius=jnp.where(level_done | hopeless, jnp.maximum(radius, _RADIUS), radius),
            newton=s.newton + 1,
            sweeps=s.sweeps + (accepted | hopeless).astype(jnp.int32),
            cg=s.cg + cg_steps,
            refused=refused,
            mark=jnp.where(level_done, infinite, jnp.where(gained, best_error, s.mark)),
            idle=idle,
            running=~done & alive,
        )

    def direction(
        self, problem: EntropicProblem, point: Point, gradient: Array, shift: Array
    ) -> tuple[Array, Array]:
        """`S^-1 gradient` to an accuracy that fits the distance, and the number of CG steps that it took."""
        forcing = jnp.clip(point.error / problem.mass, 1e-3, 0.1)
        rule, stored = self.solver.sparsification, isinstance(point.plan, Kernel)
        plan = point.plan
        if rule == "mass" or (rule is None and not stored):
            plan = by_mass(problem, point, forcing)
        elif rule is not None:
            plan = by_density(problem, point, float(rule))
        exact = schur(problem, point.plan, point.rows, point.columns, point.g, shift)
        if rule is None and stored and gradient.size <= _DIRECT:
            step = factorised(exact).mv(gradient / exact.scale) / exact.scale
            return self.centred(step), jnp.zeros((), jnp.int32)
        operator = schur(problem, plan, point.rows, point.columns, point.g, shift)
        right = gradient / operator.scale
        dense = stored and right.size <= DENSE
        solver = CG(rtol=forcing, max_steps=_CG_STEPS if dense else _MANY_CG_STEPS)
        solution = lx.linear_solve(operator, right, solver, throw=False)
        x = solution.value
        if dense:
            unsolved = solution.result != lx.RESULTS.successful
            x = where_needed(
                unsolved,
                lambda: factorised(exact).mv(gradient / exact.scale) * (operator.scale / exact.scale),
                x,
            )
        return self.centred(x / operator.scale), solution.stats["num_steps"]

    def centred(self, step: Array) -> Array:
        """Balanced potentials are free by a constant: the clipped step is to be short."""
        return step - middle(step, self.problem.b) if self.problem.balanced else step


def curvature(problem: EntropicProblem, point: Point, shift: Array, step: Array) -> Array:
    """`step^T S step`, with the shift."""
    rows, columns, _ = diagonals(problem, point.rows, point.columns, point.g, shift)
    sent = point.plan.mv(step)
    return jnp.vdot(columns * step, step) - jnp.vdot(sent, safe_divide(sent, rows))


def where_needed(needed: Array, compute: Callable[[], Array], otherwise: Array) -> Array:
    """`compute()` where `needed` and finite, else `otherwise`.

    A loop of at most one turn: `lax.cond` would compute for every problem of a batch, this does only if there
    is one that needs it.
    """

    def body(state: tuple[Array, Array]) -> tuple[Array, Array]:
        computed = compute()
        return jnp.zeros_like(needed), jnp.where(jnp.all(jnp.isfinite(computed)), computed, state[1])

    return jax.lax.while_loop(lambda state: state[0], body, (needed, otherwise))[1]

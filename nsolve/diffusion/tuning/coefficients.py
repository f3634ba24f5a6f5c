"""Plans fitted to a model: by least squares, step by step, or by gradients through the whole sampler.

With few evaluations the best coefficients are not those of highest order: they know the model. Both functions
here take a reference from many more evaluations of the same model, need no data, and return a `Plan`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, PyTree

from ..._extras import needed
from ..._progress import progress_bar
from .._arrays import common_dtype, is_traced
from .._rows import Row, Rows, advance, form_point
from ..denoiser import Denoiser
from ..grids import resolve
from ..plan import Plan
from ..points import Points
from ..sample import sample
from ..samplers.base import AbstractSampler
from ..samplers.unipc import UniPC
from ..schedules import AbstractSchedule

if TYPE_CHECKING:
    import optax


def reference_path(denoiser: Denoiser, plan: Plan, x_T: PyTree[Array], refine: int = 20) -> PyTree[Array]:
    """States (K+1, ...) of the probability-flow ODE at the times of a plan, from `refine` steps of UniPC-3
    between every two of them."""
    t = np.asarray(plan.t, np.float64)
    if not np.all(np.diff(t) < 0):
        raise ValueError("`plan` must visit times that fall strictly: one state belongs to each of them.")
    fine = _refined(denoiser.schedule, t, refine)
    path = sample(denoiser, UniPC(3), x_T, fine, trajectory=True).trajectory
    assert path is not None
    return jax.tree.map(lambda states: states[::refine], path.x)


def _refined(schedule: AbstractSchedule, t: np.ndarray, refine: int) -> np.ndarray:
    """`refine` steps, even in lam where that is finite and else in time, between every two times."""
    lam = Points.of(schedule, t).lam
    fraction = np.arange(refine) / refine
    pieces = []
    for i in range(len(t) - 1):
        if np.isfinite(lam[i : i + 2]).all():
            inner = schedule.t_of_lam(lam[i] + fraction[1:] * (lam[i + 1] - lam[i]))
        else:
            inner = t[i] + fraction[1:] * (t[i + 1] - t[i])
        pieces += [t[i : i + 1], np.asarray(inner)]
    return np.concatenate([*pieces, t[-1:]])


def fit_coefficients(
    denoiser: Denoiser,
    plan: Plan,
    x_T: PyTree[Array],
    reference: PyTree[Array] | None = None,
    *,
    refine: int = 20,
    ridge: float = 1e-8,
) -> Plan:
    """Weights that carry every step as close as possible to the reference, one step after another.

    For each step the weights of the registers are solved for by linear least squares over all samples and
    components, starting from the states that the fitted steps before have reached: improved integration
    approximation (arXiv:2304.11328), which fits one number a step against a finer solution from the same
    state, and averages it over samples.

    - `plan`: deterministic, of times that fall strictly (one evaluation a step).
    - `x_T`: states at the plan's first time, by convention with the batch as leading axis; some tens suffice.
    - `reference`: states (K+1, ...) at the plan's times; None: `reference_path(denoiser, plan, x_T, refine)`.
    - `ridge`: weight of staying at the plan's own coefficients, relative to the mean square of the registers.

    Cost: one run of the plan, the reference, and K least-squares problems of n unknowns.
    """
    if plan.stochastic or plan.reads.ndim != 2 or plan.weights.ndim != 2:
        raise ValueError("`plan` must be deterministic and have one coefficient for all components.")
    if not ridge > 0:
        raise ValueError(f"`ridge` must be positive, got {ridge}.")
    if reference is None:
        reference = reference_path(denoiser, plan, x_T, refine)
    return eqx.tree_at(
        lambda p: p.weights, plan, np.asarray(_fit(denoiser, plan, x_T, reference, ridge), np.float64)
    )


@eqx.filter_jit
def _fit(denoiser: Denoiser, plan: Plan, x_T: Any, reference: Any, ridge: float) -> Array:
    rows = Rows.of(plan, denoiser, x_T)
    n = plan.num_registers

    def flat(tree: Any) -> Array:
        return jnp.concatenate([leaf.reshape(*leaf.shape[:1], -1) for leaf in jax.tree.leaves(tree)], axis=1)

    def step(carry: Any, at: tuple[Row, Any]) -> tuple[Any, Array]:
        x, registers = carry
        row, wanted = at
        reached, registers = advance(denoiser, row, x, registers)
        miss = flat(jax.tree.map(lambda a, b: (a - b)[None], wanted, reached))[0]
        kept = flat(jax.tree.map(lambda *leaves: jnp.stack(leaves), *registers))
        damping = jnp.sqrt(ridge * jnp.sum(kept**2) / n)
        matrix = jnp.concatenate([kept.T, damping * jnp.eye(n, dtype=kept.dtype)])
        change = lx.linear_solve(
            lx.MatrixLinearOperator(matrix), jnp.concatenate([miss, jnp.zeros(n, miss.dtype)]), lx.QR()
        ).value
        weights = row.weights.at[1 : n + 1].add(change)
        x = form_point(jnp.concatenate([jnp.ones(1), change]), None, reached, registers)
        return (x, registers), weights

    following = jax.tree.map(lambda states: states[1:], reference)
    _, fitted = jax.lax.scan(step, rows.begin(x_T), (rows.row, following))
    return jnp.concatenate([rows.first[0][None], fitted])


class _Changes(eqx.Module):
    """What gradients move: shares of the way in lam, weights, and the times that the network is told."""

    shares: Array
    weights: Array
    model_time: Array


def tune(
    denoiser: Denoiser,
    sampler: AbstractSampler,
    grid: Any,
    x_T: PyTree[Array],
    *,
    target: PyTree[Array] | None = None,
    loss: Callable[[PyTree[Array], PyTree[Array]], Array] | None = None,
    num_steps: int = 1000,
    optimiser: "optax.GradientTransformation | None" = None,
    move: tuple[str, ...] = ("grid", "weights"),
    progress: bool = True,
) -> Plan:
    """A sampler's grid and coefficients, trained on a model by gradients through the whole run.

    - `sampler`, `grid`: where to begin; the ends of the grid stay. Deterministic samplers.
    - `x_T`: states at the grid's first time; a few hundred. `target`: where they should arrive; None: where
      the probability-flow ODE takes them.
    - `loss`: of (result, target); None: mean square of the difference.
    - `num_steps`, `optimiser`: any optax optimiser; None: Adam from 1e-2 down to 0 along a cosine.
    - `move`: what is trained, of `"grid"` (the times), `"weights"` (the table), `"model_time"` (what the
      network is told, apart from where the state is: arXiv:2405.15506).

    Returns the best plan met. Try it on other states than those it was trained on.
    Cost: `num_steps` reverse-mode passes through the sampler.
    """
    unknown = set(move) - {"grid", "weights", "model_time"}
    if unknown or not move:
        raise ValueError(f"`move` must name some of 'grid', 'weights', 'model_time', got {move}.")
    if num_steps < 1:
        raise ValueError(f"`num_steps` must be positive, got {num_steps}.")
    start = sampler.plan(grid, denoiser.schedule)
    if start.stochastic:
        raise ValueError("`sampler` must be deterministic.")
    if target is None:
        # The whole way in equal steps: a stage of the sampler need not be a time of the grid.
        ends = np.asarray(start.t)[[0, -1]]
        fine = _refined(denoiser.schedule, ends, 40 * start.num_evaluations)
        target = sample(denoiser, UniPC(3), x_T, fine).value
    optax = needed("optax", "learned", "`tune`")
    adam = optax.adam(optax.cosine_decay_schedule(1e-2, num_steps))
    transform = adam if optimiser is None else optimiser
    times = resolve(grid, denoiser.schedule)
    if is_traced(times):
        raise ValueError("`grid` is traced: `tune` cannot run inside jit or grad.")
    lam = np.asarray(Points.of(denoiser.schedule, times).lam)
    if not np.isfinite(lam).all() and "grid" in move:
        raise ValueError("`grid` can only be moved where there is noise and signal at both ends.")
    dtype = jnp.result_type(float)
    changes = _Changes(
        jnp.log(jnp.asarray(np.diff(lam), dtype)),
        jnp.zeros(start.weights.shape, dtype),
        jnp.zeros(start.model_time.shape, dtype),
    )

    def plan_of(changes: _Changes) -> Plan:
        if "grid" in move:
            shares = jnp.cumsum(jax.nn.softmax(changes.shares))[:-1]
            inner = denoiser.schedule.t_of_lam(lam[0] + (lam[-1] - lam[0]) * shares)
            plan = sampler.plan(jnp.concatenate([times[:1], inner, times[-1:]]), denoiser.schedule)
        else:
            plan = start
        if "weights" in move:
            # Row 0 takes x_T as it is, and nothing multiplies noise.
            free = np.ones(start.weights.shape)
            free[0], free[:, -1] = 0.0, 0.0
            plan = eqx.tree_at(lambda p: p.weights, plan, plan.weights + free * changes.weights)
        if "model_time" in move:
            plan = eqx.tree_at(lambda p: p.model_time, plan, plan.model_time * jnp.exp(changes.model_time))
        return plan

    measure = _mean_square if loss is None else loss

    def objective(changes: _Changes, denoiser: Denoiser, x_T: Any, target: Any) -> Array:
        return measure(sample(denoiser, plan_of(changes), x_T, throw=False).value, target)

    @eqx.filter_jit
    def advance(
        changes: _Changes, state: Any, best: Any, denoiser: Denoiser, x_T: Any, target: Any
    ) -> tuple[_Changes, Any, Any]:
        value, gradient = eqx.filter_value_and_grad(objective)(changes, denoiser, x_T, target)
        best = jax.tree.map(lambda new, old: jnp.where(value < best[0], new, old), (value, changes), best)
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            updates, state = transform.update(gradient, state, changes)
        return eqx.apply_updates(changes, updates), state, best

    state, best = transform.init(changes), (jnp.asarray(jnp.inf, _loss_dtype(x_T)), changes)
    with progress_bar(progress) as bar:
        task = bar.add_task("tune", total=num_steps)
        for step in range(num_steps):
            changes, state, best = advance(changes, state, best, denoiser, x_T, target)
            bar.advance(task)
            if progress and step % 50 == 0:
                bar.update(task, description=f"tune, loss {float(best[0]):.3e}")
    if not np.isfinite(float(best[0])):
        raise FloatingPointError("the loss was never finite: check the model on `x_T` or take smaller steps.")
    return jax.tree.map(np.asarray, plan_of(best[1]))


def _loss_dtype(x: PyTree[Array]) -> Any:
    return common_dtype(*jax.tree.leaves(x))


def _mean_square(x: PyTree[Array], target: PyTree[Array]) -> Array:
    squares = jax.tree.map(lambda a, b: jnp.mean((a - b) ** 2), x, target)
    return jnp.mean(jnp.stack(jax.tree.leaves(squares)))

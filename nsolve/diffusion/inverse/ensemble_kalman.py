"""Ensemble Kalman guidance: inverse problems whose forward model is a black box."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from ..._dense import solve
from ..._vectors import norm
from .._arrays import accumulation_dtype, beside, in_precision_of, is_traced, namespace, together, weighted
from .._checks import check_batch, check_key, check_state, is_finite
from .._rows import Rows
from ..denoiser import Denoiser
from ..grids import grid_points
from ..noise import normal_like
from ..plan import Plan
from ..sample import Sample, finished, run
from ..samplers.base import AbstractSampler
from ..samplers.ddim import DDIM
from ..schedules import AbstractSchedule


def sample_ensemble_kalman(
    denoiser: Denoiser,
    forward: Callable[[Any], Any],
    measurement: Array,
    noise_std: Any,
    x_T: PyTree[Array],
    grid: Any,
    key: PRNGKeyArray | None = None,
    *,
    sampler: AbstractSampler | None = None,
    num_prediction_steps: int = 5,
    guidance_scale: Any = None,
    throw: bool = True,
) -> Sample:
    """An ensemble that is guided by measurements y = G(x0) + noise, from values of G alone.

    At each level every particle is carried to the end of the grid by the probability-flow ODE, x -> p(x); the
    ensemble's own covariances of x with G(p(x)) then say how to move it towards the measurements.

    - `guidance_scale=None`: by the Kalman gain, each of the N levels taking 1/N of the likelihood in (with
      perturbed measurements). For linear G, normal data, exact flows and large ensembles the result is the
      posterior; elsewhere it is what the ensemble Kalman filter makes of it.
    - a number: the published rule, x_i <- x_i - w sum_j c_ij (x_j - mean x), c_ij = <G(p(x_i)) - y,
      G(p(x_j)) - mean> / n, w = guidance_scale / norm(c) (the authors take 2). It seeks the measurements,
      and the ensemble shrinks: no posterior.

    **Arguments:**

    - `forward`: G, on the whole ensemble (n, ...), returns (n, m) or (n, ...). Never differentiated: wrap
      what is not JAX in `jax.pure_callback`.
    - `measurement`: y, shaped like one result. `noise_std`: the standard deviation of its noise, a number
      or one for each entry, positive.
    - `x_T` (n, ...): the ensemble, drawn as for `sample`; `grid`, `throw` as there. `key`: for the
      perturbed measurements; needed unless `guidance_scale` is given.
    - `sampler`: deterministic; makes the predictions and the steps between levels (default `DDIM()`, as
      published). Of multistep methods it would use one-step starts only: take single-step ones,
      `DPMSolverPP(2, "single")`.
    - `num_prediction_steps`: of the sampler, from each level to the end of the grid, where G sees the
      state; 1 is Tweedie's estimate where the grid ends without noise.

    **Returns** a `Sample`, the ensemble.

    Cost of N levels: N (num_prediction_steps + 1) steps of the sampler and N calls of G, for all particles;
    the gain and the update of n particles of size d take O(n min(n, m) (m + d)) operations.

    Zheng et al. (EnKG), arXiv:2409.20175; the gain: Iglesias, Law & Stuart (2013),
    doi:10.1088/0266-5611/29/4/045001.
    """
    sampler = DDIM() if sampler is None else sampler
    check_state(x_T)
    count = check_batch(x_T)
    if count < 2:
        raise ValueError(f"`x_T` must hold an ensemble of two particles or more, got {count}.")
    if not isinstance(num_prediction_steps, int) or num_prediction_steps < 1:
        raise ValueError(f"`num_prediction_steps` must be a positive integer, got {num_prediction_steps!r}.")
    if not is_traced(noise_std) and not np.all(np.asarray(noise_std) > 0):
        raise ValueError(f"`noise_std` must be positive, got {noise_std}.")
    if guidance_scale is None:
        key = check_key(key, "sample_ensemble_kalman")
    result = jax.eval_shape(forward, x_T)
    if result.shape != (count, *jnp.shape(measurement)):
        raise ValueError(
            f"`forward` must return one result like the measurement for each of {count} particles, shape "
            f"{(count, *jnp.shape(measurement))}, got {result.shape}."
        )
    levels = grid_points(grid, denoiser.schedule)
    if levels.final:
        raise ValueError(
            "`grid` must not end in a step to sigma = 0: `forward` sees states at its last time."
        )
    times = levels.t
    predict, advance = _plans(sampler, denoiser.schedule, times, num_prediction_steps)
    rows = [_stack([Rows.of(plan, denoiser, x_T) for plan in plans]) for plans in (predict, advance)]
    measurement, noise_std = in_precision_of(x_T, (measurement, noise_std))
    guidance_scale = in_precision_of(x_T, guidance_scale)
    x, failed = _run(denoiser, forward, rows, measurement, noise_std, x_T, key, guidance_scale)
    calls = sum(plan.num_evaluations for plan in [*predict, *advance])
    return finished(x, times, failed, x_T, calls, throw, "the network or `forward`", "step")


def _plans(
    sampler: AbstractSampler, schedule: AbstractSchedule, times: Any, num_steps: int
) -> tuple[list[Plan], list[Plan]]:
    """From each time to the last one, in steps of the grid's own spacing; and to the next one."""
    xp, last = namespace(times), len(times) - 1
    predict = [
        sampler.plan(xp.interp(np.linspace(k, last, num_steps + 1), np.arange(last + 1.0), times), schedule)
        for k in range(last)
    ]
    advance = [sampler.plan(times[k : k + 2], schedule) for k in range(last)]
    if any(plan.stochastic for plan in predict):
        raise ValueError(f"`sampler` must be deterministic, but {type(sampler).__name__} adds noise.")
    return predict, advance


def _stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *trees)


@eqx.filter_jit
def _run(
    denoiser: Any, forward: Any, rows: Any, y: Any, noise_std: Any, x_T: Any, key: Any, guidance_scale: Any
) -> tuple[PyTree[Array], Array]:
    num_levels = rows[0].row.weights.shape[0]

    def step(carry: Any, row: Any) -> tuple[Any, None]:
        x, failed = carry
        number, predict, advance = row
        end, _, bad = run(denoiser, predict, x, None, False, "none")
        result, goal, std = together(forward(end), y[None], noise_std)
        seen = (result / beside(std, result)).reshape(-1, y.size)
        misfit = seen - (goal / beside(std, result)).reshape(1, -1)
        if guidance_scale is None:
            power = jnp.asarray(1.0 / num_levels, seen.dtype)
            misfit = misfit + normal_like(key, number, misfit) / jnp.sqrt(power)
            moved = _kalman(x, seen, misfit, power)
        else:
            moved = _published(x, seen, misfit, guidance_scale)
        x, _, worse = run(denoiser, advance, moved, None, False, "none")
        failed = jnp.where((failed < 0) & ~(is_finite(x, seen) & (bad < 0) & (worse < 0)), number, failed)
        return (x, failed), None

    carry = (x_T, jnp.asarray(-1))
    (x, failed), _ = jax.lax.scan(step, carry, (jnp.arange(num_levels), *rows))
    return x, failed


def _centred(x: Array) -> Array:
    return x - jnp.mean(x, axis=0, keepdims=True)


def _kalman(x: PyTree[Array], seen: Array, misfit: Array, power: Array) -> PyTree[Array]:
    """x_i - C_xg (C_gg + 1/power)^{-1} misfit_i, measurements in units of their noise."""
    count, size = seen.shape
    degrees = math.sqrt(count - 1.0)
    spread = _centred(seen) / degrees
    small = spread.T @ spread if size <= count else spread @ spread.T
    small = small + jnp.eye(len(small), dtype=small.dtype) / power
    if size <= count:
        return _shift(x, solve(small, misfit.T).T, spread.T / degrees)
    # The same by the push-through identity, in the ensemble's own dimension.
    return _shift(x, solve(small, spread @ misfit.T).T / degrees)


def _published(x: PyTree[Array], seen: Array, misfit: Array, guidance_scale: Any) -> PyTree[Array]:
    weights = misfit @ _centred(seen).T / len(seen)
    size = norm(weights)
    factor = guidance_scale.astype(weights.dtype) / jnp.where(size > 0, size, 1.0)
    return _shift(x, weights * factor)


def _shift(x: PyTree[Array], *weights: Array) -> PyTree[Array]:
    """x_i - sum_j weights_ij (x_j - mean x), with the weights as a product of matrices."""

    def shift(leaf: Array) -> Array:
        wide = leaf.astype(accumulation_dtype(leaf.dtype))
        change = _centred(wide)
        for factor in reversed(weights):
            change = jnp.tensordot(*together(factor, change), axes=1)
        return weighted((1.0, -1.0), (wide, change)).astype(leaf.dtype)

    return jax.tree.map(shift, x)

"""`sample_adaptive`: steps as long as a tolerance allows."""

from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, PyTree

from .._frozen import asynchronous_jit
from .._results import Stats, raised_in_words
from .._upstream import checkpointed_while_loop
from ._arrays import accumulation_dtype, is_traced, on_host
from ._checks import check_state, verdict
from .denoiser import Denoiser, affine, combine, evaluate, transformed
from .plan import reads
from .points import Points
from .sample import Sample
from .samplers.base import AbstractAdaptiveSampler, Attempt, check_choice

#: How a failure is raised, by the member of `lx.RESULTS`.
_FAILED = {
    "max_steps_reached": (
        "sample_adaptive: all of `max_steps` were taken without reaching `t_end`. Raise `max_steps`, or the "
        "tolerances."
    ),
    "stagnation": (
        "sample_adaptive: the steps shrank to nothing: the tolerances lie below what the precision attains, "
        "or the network's output jumps."
    ),
    "breakdown": "sample_adaptive: the network returned NaN or infinity.",
    "nonfinite_input": "sample_adaptive: `x_T` holds NaN or infinity.",
}


def sample_adaptive(
    denoiser: Denoiser,
    sampler: AbstractAdaptiveSampler,
    x_T: PyTree[Array],
    t_start: Any = None,
    t_end: Any = None,
    *,
    rtol: Any = 0.05,
    atol: Any = 0.0078,
    max_steps: int = 1000,
    shared_steps: bool = False,
    derivatives: Literal["reverse", "forward"] = "reverse",
    throw: bool = True,
) -> Sample:
    """Carry x_T from `t_start` to `t_end` with steps in lam = log(alpha / sigma) that keep the error of each
    below a tolerance.

    **Arguments:**

    - `denoiser`: a `Denoiser`.
    - `sampler`: `AdaptiveMultistep` (one evaluation a step) or `AdaptiveDPMSolver`.
    - `x_T`: the state at `t_start`, any pytree of floating-point arrays with the batch as leading axis.
    - `t_start`, `t_end`: where there is signal and noise; None: the schedule's `t_max` and `t_min`.
    - `rtol`, `atol`: a step is accepted if its estimated error, divided by max(atol, rtol |x|) component by
      component, has a root mean square of at most 1 over a sample. The error of the result falls with the
      tolerance, but is not bounded by it. Tolerances below the rounding of x are reported as not met. The
      defaults are those of DPM-Solver, for images in [-1, 1].
    - `max_steps`: accepted and rejected steps.
    - `shared_steps`: one sequence of steps for the whole batch, which follows its worst sample. By default
      each sample has its own: the network is then called on batches of one under `jax.vmap`, and sees the
      whole batch only after batching; it must not hold arrays with the batch as an axis.
    - `derivatives`: which mode of differentiation is open.
    - `throw`: raise if a sample does not reach `t_end`; otherwise see `result`.

    **Returns:** a `Sample`. `t`, `result` and what is in `stats` have the batch as leading axis, unless the
    steps were shared. `result` may also be `max_steps_reached`, or `stagnation`: the steps shrank to nothing,
    since the tolerances lie below what the precision attains or the network's output jumps. `stats`:
    `num_steps`, `num_rejected` (steps that were accepted and that were not) and `num_evaluations` (calls of
    the network for this sample; a batch runs until its last sample is done).

    Differentiable in x_T, the network, the schedule's parameters and both ends, with the inner times as
    constants: the same derivatives that `sample` has on the grid found. Reverse mode keeps about
    sqrt(2 max_steps) states.
    """
    check_state(x_T)
    _check(sampler, x_T, max_steps)
    check_choice("derivatives", derivatives, ("reverse", "forward"))
    start, end = _ends(denoiser, t_start, t_end)
    tolerances = jnp.asarray(rtol, float), jnp.asarray(atol, float)
    outcome = _run(
        denoiser, sampler, x_T, start, end, tolerances, max_steps, shared_steps, derivatives == "reverse"
    )
    if throw:
        value = raised_in_words(outcome.value, outcome.result, _FAILED)
        outcome = eqx.tree_at(lambda o: o.value, outcome, value)
    return outcome


def _check(sampler: Any, x_T: PyTree[Array], max_steps: Any) -> None:
    if not isinstance(sampler, AbstractAdaptiveSampler):
        raise TypeError(
            "`sampler` must choose its own steps, as `ns.diffusion.AdaptiveMultistep` does, got "
            f"{type(sampler).__name__}; for samplers on a fixed grid call `ns.diffusion.sample`."
        )
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(f"`max_steps` must be a positive integer, got {max_steps!r}.")
    batch = {leaf.shape[:1] for leaf in jax.tree.leaves(x_T)}
    if len(batch) > 1 or () in batch:
        raise ValueError(f"`x_T` must have the batch as leading axis of every array, got {sorted(batch)}.")


def _ends(denoiser: Denoiser, t_start: Any, t_end: Any) -> tuple[Array, Array]:
    schedule = denoiser.schedule
    start = schedule.t_max if t_start is None else t_start
    end = schedule.t_min if t_end is None else t_end
    if not is_traced((schedule, start, end)):
        known, first, last = on_host((schedule, np.asarray(start), np.asarray(end)))
        lam = known.lam(first), known.lam(last)
        if not (np.all(np.isfinite(lam)) and lam[0] < lam[1]):
            raise ValueError(
                "`t_start` and `t_end` must lie where there are signal and noise, the end where there is "
                f"less noise; got t = {first} with lam = {lam[0]}, and t = {last} with lam = {lam[1]}."
            )
    return jnp.asarray(start, float), jnp.asarray(end, float)


@asynchronous_jit
def _run(
    denoiser: Denoiser,
    sampler: AbstractAdaptiveSampler,
    x_T: PyTree[Array],
    start: Array,
    end: Array,
    tolerances: tuple[Array, Array],
    max_steps: int,
    shared_steps: bool,
    reverse: bool,
) -> Sample:
    def one(x: PyTree[Array]) -> Sample:
        return _integrate(denoiser, sampler, x, start, end, tolerances, max_steps, reverse)

    if shared_steps:
        return one(x_T)
    outcome = jax.vmap(one)(jax.tree.map(lambda leaf: leaf[:, None], x_T))
    return eqx.tree_at(lambda o: o.value, outcome, jax.tree.map(lambda leaf: leaf[:, 0], outcome.value))


class _State(NamedTuple):
    x: PyTree[Array]
    memory: PyTree
    t: Array  # where x is
    lam: Array
    h: Array  # length of the next step in lam
    ratio: Array  # error to tolerance of the last accepted step
    grid: Array
    accepted: Array
    tried: Array
    status: Array


_RUNNING, _DONE, _SMALL, _NONFINITE = range(4)


def _integrate(
    denoiser: Denoiser,
    sampler: AbstractAdaptiveSampler,
    x_T: PyTree[Array],
    t_start: Array,
    t_end: Array,
    tolerances: tuple[Array, Array],
    max_steps: int,
    reverse: bool,
) -> Sample:
    """One sequence of steps for the whole of x_T."""
    schedule = denoiser.schedule

    def output(form: Literal["x0", "eps"], x: PyTree[Array], at: Points) -> PyTree[Array]:
        return _output(denoiser, form, jax.tree.map(lambda u, like: u.astype(like.dtype), x, x_T), at)

    freeze = jax.lax.stop_gradient
    lam_start, lam_end = freeze(schedule.lam(t_start)), freeze(schedule.lam(t_end))
    largest = jnp.maximum(jnp.abs(lam_start), jnp.abs(lam_end))
    smallest = 100.0 * jnp.finfo(largest.dtype).eps * (1.0 + largest)  # shorter steps are made of rounding

    def step(state: _State) -> _State:
        left = lam_end - state.lam
        last = state.h >= left
        # What is left is divided evenly into the last two steps.
        h = jnp.where(last, left, jnp.minimum(state.h, jnp.maximum(0.5 * left, smallest)))
        inner = freeze(schedule.t_of_lam(state.lam + h))
        start, end = Points.of(schedule, state.t), Points.of(schedule, jnp.where(last, t_end, inner))
        attempt = sampler.step(output, state.x, state.memory, start, end)
        ratio, rounding = _ratios(attempt, x_T, tolerances)
        good = ratio <= 1.0
        growth = sampler.growth(ratio, state.ratio, state.memory)
        shrunk = h * jnp.minimum(growth, _SURELY_SHORTER)
        too_small = (~good & (shrunk < smallest)) | (rounding > 1.0) | ~(end.lam > start.lam)
        status = jnp.where(good & last, _DONE, _RUNNING)
        status = jnp.where(too_small, _SMALL, jnp.where(jnp.isfinite(ratio), status, _NONFINITE))
        # A run that has ended repeats its last step for as long as others of its batch go on: so nothing of
        # what that step starts from changes but x, and no derivative meets a step of length zero.
        goes_on = good & (status == _RUNNING)
        moved = good & ((status == _RUNNING) | (status == _DONE))

        def choose(condition: Array, new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)

        accepted = state.accepted + moved.astype(state.accepted.dtype)
        return _State(
            x=choose(moved, attempt.x, state.x),
            memory=choose(goes_on, attempt.memory, state.memory),
            t=jnp.where(goes_on, end.t, state.t),
            lam=jnp.where(goes_on, state.lam + h, state.lam),
            h=jnp.where(status == _RUNNING, jnp.where(good, h * growth, shrunk), state.h),
            ratio=jnp.where(goes_on, ratio, state.ratio),
            grid=state.grid.at[accepted].set(jnp.where(moved, freeze(end.t), state.grid[accepted])),
            accepted=accepted,
            tried=state.tried + 1,
            status=status,
        )

    # Many small changes of a state in half precision would be lost: it is carried in float32.
    x = jax.tree.map(lambda leaf: leaf.astype(accumulation_dtype(leaf.dtype)), x_T)
    state = _State(
        x=x,
        memory=sampler.init(output, x, Points.of(schedule, t_start)),
        t=t_start,
        lam=lam_start,
        h=jnp.asarray(sampler.first_step, lam_end.dtype),
        ratio=jnp.ones_like(lam_end),
        grid=jnp.full(max_steps + 1, jnp.nan, t_start.dtype).at[0].set(freeze(t_start)),
        accepted=jnp.asarray(0),
        tried=jnp.asarray(0),
        status=jnp.asarray(_RUNNING),
    )

    def running(state: _State) -> Array:
        return (state.status == _RUNNING) & (state.tried < max_steps)

    if reverse:
        state = checkpointed_while_loop(running, step, state, max_steps)
    else:
        state = jax.lax.while_loop(running, step, state)
    known = lx.RESULTS
    result = known.where(state.status == _RUNNING, known.max_steps_reached, known.successful)
    result = known.where(state.status == _SMALL, known.stagnation, result)
    failed = jnp.where(state.status == _NONFINITE, 0, -1)
    result = known.where(failed < 0, result, verdict(failed, x_T))
    return Sample(
        value=jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), state.x, x_T),
        t=state.grid,
        result=result,
        stats=Stats(
            num_steps=state.accepted,
            num_rejected=state.tried - state.accepted,
            num_evaluations=sampler.initial_evaluations + sampler.evaluations * state.tried,
        ),
    )


# A rejected step is at least this much shorter when it is tried again.
_SURELY_SHORTER = 0.9


def _output(denoiser: Denoiser, form: Literal["x0", "eps"], x: PyTree[Array], at: Points) -> PyTree[Array]:
    """x0 or eps from one evaluation at the point `at` ()."""
    dtype = accumulation_dtype(*jax.tree.leaves(x))
    raw = evaluate(denoiser, x, jnp.asarray(denoiser.schedule.model_time(at.t), dtype))
    if denoiser.transform is None and denoiser.prediction == form:
        return raw
    a, b = affine(denoiser.prediction, at.alpha, at.sigma)
    p, q = reads(form, at)
    if denoiser.transform is None:
        return combine(p + q * a, x, q * b, raw)
    return combine(p, x, q, transformed(denoiser, combine(a, x, b, raw), at.t.astype(dtype)))


def _ratios(attempt: Attempt, like: PyTree[Array], tolerances: tuple[Array, Array]) -> tuple[Array, Array]:
    """The root mean squares of a sample's estimated error, and of its rounding, in units of the tolerance:
    the largest of all samples."""
    rtol, atol = tolerances

    def squares(error: Array, one: Array, other: Array, like: Array) -> Array:
        size = jnp.maximum(jnp.abs(one), jnp.abs(other)).astype(rtol.dtype)
        rounding = 0.5 * float(jnp.finfo(like.dtype).eps) * size
        scaled = jnp.stack([error.astype(rtol.dtype), rounding]) / jnp.maximum(atol, rtol * size)[None]
        return jnp.sum(scaled.reshape(2, size.shape[0], -1) ** 2, axis=2)

    total = sum(jax.tree.leaves(jax.tree.map(squares, attempt.error, *attempt.sizes, like)))
    count = sum(leaf[0].size for leaf in jax.tree.leaves(like))
    ratio, rounding = jax.lax.stop_gradient(jnp.sqrt(jnp.max(total, axis=1) / count))
    return ratio, rounding

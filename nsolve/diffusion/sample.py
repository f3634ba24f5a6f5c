"""`sample`: run a sampler, which is one compiled loop over the rows of its plan."""

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, ArrayLike, PRNGKeyArray, PyTree

from .._frozen import asynchronous_jit
from .._results import AbstractSolution, Stats
from .._upstream import checkpointed_scan
from ._arrays import is_traced
from ._cache import prepared
from ._checks import check_key, check_state, is_finite, raise_if_failed, verdict
from ._rows import Row, Rows, form_point, look, store
from .denoiser import Denoiser
from .noise import AbstractNoise, IndependentNoise
from .plan import Plan
from .samplers.base import AbstractAdaptiveSampler, AbstractSampler

Checkpoints = Literal["none", "step", "sqrt"] | int


class Trajectory(eqx.Module):
    """All points of a run: times `t` (K+1,), states `x` (K+1, ...), the last of them the result, and the
    clean states `x0` (K, ...) that the network saw in the others."""

    t: ArrayLike
    x: PyTree[Array]
    x0: PyTree[Array]


class Sample(AbstractSolution):
    """What `sample` and the other functions `sample_...` of `nsolve.diffusion` return.

    - `value`: the sample, in the structure, shapes and dtypes of x_T.
    - `t`: the times of its path: where the network was called, and the last. Of `sample_adaptive` those of
      the accepted steps, with the batch as leading axis unless steps were shared, NaN after the last:
      `t[:num_steps + 1]` is a grid for `sample`.
    - `trajectory`: all points, where it was asked for.
    - `result`: how it ended, a member of `lineax.RESULTS`: `successful`; `breakdown`, the network returned
      NaN or infinity; `nonfinite_input`, these were in x_T. `sample_adaptive` has more.
    - `stats`: `num_evaluations`, how often the network was called. `sample_adaptive` has more.
    """

    value: PyTree[Array]
    t: ArrayLike
    result: lx.RESULTS
    stats: dict[str, Any]
    trajectory: Trajectory | None = None


def sample(
    denoiser: Denoiser,
    sampler: AbstractSampler | Plan,
    x_T: PyTree[Array],
    grid: Any = None,
    key: PRNGKeyArray | AbstractNoise | None = None,
    *,
    trajectory: bool = False,
    checkpoints: Checkpoints = "step",
    unroll: int = 1,
    throw: bool = True,
) -> Sample:
    """Carry x_T along the grid to a sample.

    **Arguments:**

    - `denoiser`: a `Denoiser`.
    - `sampler`: one of `ns.diffusion`'s samplers, or a `Plan` (which has its grid).
    - `x_T`: the state at the grid's first time, any pytree of bfloat16, float16, float32 or float64 arrays,
      by convention with the batch as leading axis. `schedule.sigma(t_max)` times normal noise for a fresh
      sample.
    - `grid`: times (N+1,) from large to small, or one of `log_snr_grid(num_steps)`, `uniform_grid`,
      `quadratic_grid`, `karras_grid`.
    - `key`: for stochastic samplers. A key, or one key a sample: sample i is then the same whatever the
      batch. Or a `BrownianPath`, which stays the same when the grid is refined.
    - `trajectory`: keep all points.
    - `checkpoints`: what reverse mode keeps of N evaluations. `"step"` the N states (the network is evaluated
      again); `"none"` all that the network needs (fastest, and largest); `"sqrt"` about 2 sqrt(N) states; a
      number c at most c states, constant in N. Only the last excludes forward mode.
    - `unroll`: so many evaluations make one turn of the compiled loop. For networks that take microseconds;
      the program, and its compilation, grow with it. Not with a number of checkpoints.
    - `throw`: raise if the network returns NaN or infinity, which waits for the result. Else nothing waits,
      and `result` tells.

    **Returns:** a `Sample`: `value`, in the structure, shapes and dtypes of x_T, `result`, `stats`.

    Differentiable in x_T, the network, guidance, the schedule's parameters, an explicit grid and a plan's
    numbers. The loop is compiled once for all plans of a size. Weighted sums of half-precision states are
    made in float32.
    """
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"`denoiser` must be an `ns.diffusion.Denoiser`, got {type(denoiser).__name__}.")
    check_state(x_T)
    check_checkpoints(checkpoints)
    _check_unroll(unroll, checkpoints)
    if isinstance(sampler, AbstractAdaptiveSampler):
        raise TypeError(
            f"{type(sampler).__name__} chooses its own steps: call `ns.diffusion.sample_adaptive` instead."
        )
    if isinstance(sampler, Plan):
        if grid is not None:
            raise ValueError("`grid` must be None with a Plan, which has its own.")
    elif isinstance(sampler, AbstractSampler):
        if grid is None:
            raise ValueError(
                "`grid` is missing: give times or, say, `ns.diffusion.log_snr_grid(num_steps=10)`."
            )
    else:
        got = f"the class {sampler.__name__}" if isinstance(sampler, type) else type(sampler).__name__
        raise TypeError(f"`sampler` must be a sampler such as `ns.diffusion.DDIM()`, or a Plan, got {got}.")
    plan, rows = prepared(denoiser, sampler, grid, x_T)
    noise = _noise(plan, key, type(sampler).__name__)
    arguments = denoiser, rows, plan.t, x_T, noise, trajectory, checkpoints, unroll
    found, failed = judged_run(*arguments, False)
    if throw and is_traced(failed):
        found = eqx.tree_at(lambda found: found.value, found, raise_if_failed(found.value, failed))
    elif throw and int(failed) >= 0:
        _, failed = judged_run(*arguments, True)  # which evaluation it was
        raise_if_failed(None, failed)
    return found


def finished(
    x: PyTree[Array],
    t: Any,
    failed: Array,
    x_T: PyTree[Array],
    num_evaluations: int,
    throw: bool,
    who: str = "the network",
    counted: str = "evaluation",
) -> Sample:
    """The sample `x` that was made of `x_T`, where `failed` is the number of what was not finite, or -1."""
    result = _verdict(failed, x_T)
    if throw:
        x = raise_if_failed(x, failed, who, counted)
    return Sample(value=x, t=t, result=result, stats=evaluations(num_evaluations))


def evaluations(count: int) -> Stats:
    """The statistics of a run whose length is known."""
    return Stats(num_evaluations=np.asarray(count, np.int32))


_verdict = asynchronous_jit(verdict)


def run(
    denoiser: Denoiser,
    rows: Rows,
    x_T: PyTree[Array],
    noise: AbstractNoise | None = None,
    trajectory: bool = False,
    checkpoints: Checkpoints = "step",
    unroll: int = 1,
    watch: bool = True,
) -> tuple[PyTree[Array], Any, Array]:
    """(x, points of the trajectory, number of the first evaluation that was not finite or -1).

    Without `watch` only the result is looked at, into which NaN and infinity of any evaluation are carried,
    and the number is that of the last."""
    clock = rows.row.clock
    noise_state = xi = None
    if noise is not None:
        noise_state = noise.init(x_T, clock[0][0])
        xi, noise_state = noise.draw(noise_state, jnp.asarray(0), clock[0][0], clock[0][0], x_T)
    x, registers = rows.begin(x_T, xi)

    def step(carry: Any, numbered: tuple[Array, Row]) -> tuple[Any, Any]:
        x, registers, noise_state, failed = carry
        number, row = numbered
        kept, x0 = look(denoiser, row, x, clean=trajectory)
        if watch:
            failed = jnp.where((failed < 0) & ~is_finite(kept), number, failed)
        registers = store(row, registers, kept)
        xi = None
        if noise is not None:
            before, after = row.clock
            xi, noise_state = noise.draw(noise_state, number + 1, before, after, x)
        next_x = form_point(row.weights, row.shift, x, registers, xi)
        return (next_x, registers, noise_state, failed), ((x, x0) if trajectory else None)

    carry = (x, registers, noise_state, jnp.asarray(-1))
    table = (jnp.arange(len(rows)), rows.row)
    (x, _, _, failed), points = _scan(step, carry, table, len(rows), checkpoints, unroll)
    failed = jnp.where((failed < 0) & ~is_finite(x), len(rows) - 1, failed)
    if trajectory:
        visited, clean = points
        visited = jax.tree.map(lambda leaf, last: jnp.concatenate([leaf, last[None]]), visited, x)
        points = (visited, clean)
    return x, points, failed


@asynchronous_jit
def judged_run(
    denoiser: Denoiser,
    rows: Rows,
    t: ArrayLike,
    x_T: PyTree[Array],
    noise: AbstractNoise | None,
    trajectory: bool,
    checkpoints: Checkpoints,
    unroll: int,
    watch: bool,
) -> tuple[Sample, Array]:
    """What `run` gives and how it ended, and the number of the evaluation that was not finite, or -1."""
    x, points, failed = run(denoiser, rows, x_T, noise, trajectory, checkpoints, unroll, watch)
    points = Trajectory(t, *points) if trajectory else None
    stats = evaluations(len(rows))
    return Sample(value=x, t=t, result=verdict(failed, x_T), stats=stats, trajectory=points), failed


def _scan(
    step: Any, carry: Any, table: Any, length: int, checkpoints: Checkpoints, unroll: int
) -> tuple[Any, Any]:
    if checkpoints == "none":
        return jax.lax.scan(step, carry, table, unroll=unroll)
    if checkpoints == "step":
        return jax.lax.scan(jax.checkpoint(step), carry, table, unroll=unroll)
    if checkpoints != "sqrt":
        return checkpointed_scan(step, carry, table, length, checkpoints)
    # Blocks of about sqrt(N) rows are recomputed from their first state, and their rows one by one.
    size = math.ceil(math.sqrt(length))
    whole = length - length % size
    blocks = jax.tree.map(lambda leaf: leaf[:whole].reshape(whole // size, size, *leaf.shape[1:]), table)
    rest = jax.tree.map(lambda leaf: leaf[whole:], table)

    def block(carry: Any, rows: Any) -> tuple[Any, Any]:
        return jax.lax.scan(jax.checkpoint(step), carry, rows, unroll=unroll)

    carry, points = jax.lax.scan(jax.checkpoint(block), carry, blocks)
    points = jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), points)
    carry, last = block(carry, rest)
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), points, last)


def _noise(plan: Plan, key: Any, name: str) -> AbstractNoise | None:
    if not plan.stochastic:
        return None
    noise = key if isinstance(key, AbstractNoise) else IndependentNoise(check_key(key, name))
    noise.check(plan)
    return noise


def check_checkpoints(checkpoints: Any) -> None:
    is_count = isinstance(checkpoints, int) and not isinstance(checkpoints, bool) and checkpoints > 0
    if not (is_count or checkpoints in ("none", "step", "sqrt")):
        raise ValueError(
            f"`checkpoints` must be 'none', 'step', 'sqrt' or a positive number, got {checkpoints!r}."
        )


def _check_unroll(unroll: Any, checkpoints: Checkpoints) -> None:
    if isinstance(unroll, bool) or not isinstance(unroll, int) or unroll < 1:
        raise ValueError(f"`unroll` must be a positive number, got {unroll!r}.")
    if unroll > 1 and isinstance(checkpoints, int):
        raise ValueError(f"`unroll` must be 1 where `checkpoints` is a number, got {unroll}.")

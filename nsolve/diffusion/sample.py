"""`sample`: run a sampler, which is one compiled loop over the rows of its plan."""

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._upstream import checkpointed_scan
from ._arrays import is_traced, namespace
from .denoiser import Denoiser, affine, combine, evaluate, transformed
from .noise import AbstractNoise, IndependentNoise, accumulation_dtype
from .plan import Plan
from .samplers.base import AbstractAdaptiveSampler, AbstractSampler

Checkpoints = Literal["none", "step", "sqrt"] | int


class Trajectory(eqx.Module):
    """All points of a run: times `t` (K+1,), states `x` (K+1, ...), the last of them the result, and the
    clean states `x0` (K, ...) that the network saw in the others."""

    t: Array
    x: PyTree[Array]
    x0: PyTree[Array]


def sample(
    denoiser: Denoiser,
    sampler: AbstractSampler | Plan,
    x_T: PyTree[Array],
    grid: Any = None,
    key: PRNGKeyArray | AbstractNoise | None = None,
    *,
    trajectory: bool = False,
    checkpoints: Checkpoints = "step",
    throw: bool = True,
) -> Any:
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
    - `trajectory`: return `(x, Trajectory)`.
    - `checkpoints`: what reverse mode keeps of N evaluations. `"step"` the N states (the network is evaluated
      again); `"none"` all that the network needs (fastest, and largest); `"sqrt"` about 2 sqrt(N) states; a
      number c at most c states, constant in N. Only the last excludes forward mode.
    - `throw`: raise if the network returns NaN or infinity (else such a sample is returned).

    **Returns:** the sample, in the structure, shapes and dtypes of x_T.

    Differentiable in x_T, the network, guidance, the schedule's parameters, an explicit grid and a plan's
    numbers. The loop is compiled once for all plans of a size. Weighted sums of half-precision states are
    made in float32.
    """
    _check_state(x_T)
    _check_checkpoints(checkpoints)
    if isinstance(sampler, AbstractAdaptiveSampler):
        raise TypeError(
            f"{type(sampler).__name__} chooses its own steps: call `ns.diffusion.sample_adaptive` instead."
        )
    if isinstance(sampler, Plan):
        if grid is not None:
            raise ValueError("`grid` must be None with a Plan, which has its own.")
        plan = sampler
    elif isinstance(sampler, AbstractSampler):
        if grid is None:
            raise ValueError(
                "`grid` is missing: give times or, say, `ns.diffusion.log_snr_grid(num_steps=10)`."
            )
        plan = sampler.plan(grid, denoiser.schedule)
    else:
        raise TypeError(
            f"`sampler` must be a sampler of ns.diffusion or a Plan, got {type(sampler).__name__}."
        )
    noise = _noise(plan, key, type(sampler).__name__)
    x, points, failed = _run(
        denoiser, _Rows.of(plan, denoiser, x_T), x_T, noise, None, trajectory, checkpoints
    )
    if throw:
        x = _raise_if_failed(x, failed)
    return (x, Trajectory(jnp.asarray(plan.t), *points)) if trajectory else x


class _Rows(eqx.Module):
    """A plan in the precision of a state, with the network's kind of prediction worked into its reads."""

    times: Any  # what the network is told, and the schedule's times
    reads: Any
    clean: Any
    registers: Any
    weights: Any
    shifts: Any
    clock: Any

    @staticmethod
    def of(plan: Plan, denoiser: Denoiser, like: PyTree[Array]) -> "_Rows":
        alpha, sigma = plan.alpha[:-1], plan.sigma[:-1]
        if denoiser.prediction in ("eps", "score") and not is_traced(alpha) and not np.all(alpha > 0):
            where = int(np.flatnonzero(~(np.asarray(alpha) > 0))[0])
            raise ValueError(
                f"at evaluation {where} (t = {plan.t[where]}) there is no signal, and prediction="
                f"{denoiser.prediction!r} says nothing of the clean state there. Begin the grid at a "
                "smaller time, or use an `x0`, `v` or `flow` prediction."
            )
        a, b = affine(denoiser.prediction, alpha, sigma)
        reads = plan.reads
        if denoiser.transform is None:
            xp = namespace(reads, a)
            inner = (...,) + (None,) * (reads.ndim - 2)
            reads = xp.stack([reads[:, 0] + reads[:, 1] * a[inner], reads[:, 1] * b[inner]], axis=1)
        dtype = accumulation_dtype(jnp.result_type(*jax.tree.leaves(like)))

        def cast(value: Any) -> Any:
            return None if value is None else value.astype(dtype)

        return _Rows(
            times=(cast(plan.model_time), cast(plan.t[:-1])),
            reads=cast(reads),
            clean=(cast(a), cast(b)),
            registers=plan.registers,
            weights=cast(plan.weights),
            shifts=cast(plan.shifts),
            clock=cast(plan.clock),
        )


def run(
    denoiser: Denoiser,
    rows: _Rows,
    x_T: PyTree[Array],
    noise: AbstractNoise | None,
    registers: PyTree[Array] | None,
    trajectory: bool,
    checkpoints: Checkpoints,
) -> tuple[PyTree[Array], Any, Array]:
    """(x, points of the trajectory, number of the first evaluation that was not finite or -1)."""
    num_evaluations, num_registers = rows.registers.shape[0], rows.weights.shape[1] - 2
    if registers is None:
        registers = jax.tree.map(lambda leaf: jnp.zeros((num_registers, *leaf.shape), leaf.dtype), x_T)
    clock = jnp.zeros(num_evaluations + 1) if rows.clock is None else rows.clock
    shifts = rows.shifts

    def next_point(x: Any, registers: Any, weights: Any, shift: Any, xi: Any) -> Any:
        def sum_up(leaf: Any, kept: Any, number: Any) -> Any:
            total = weights[0] * leaf
            for j in range(num_registers):
                total = total + weights[1 + j] * kept[j]
            if number is not None:
                total = total + weights[-1] * number
            if shift is not None:
                total = total + shift
            return total.astype(leaf.dtype)

        if xi is None:
            return jax.tree.map(lambda leaf, kept: sum_up(leaf, kept, None), x, registers)
        return jax.tree.map(sum_up, x, registers, xi)

    def step(carry: Any, row: Any) -> tuple[Any, Any]:
        x, registers, noise_state, failed = carry
        number, (model_time, t), reads, (a, b), register, weights, shift, clocks = row
        output = evaluate(denoiser, x, model_time)
        x0 = combine(a, x, b, output) if trajectory or denoiser.transform is not None else None
        if denoiser.transform is not None:
            x0 = transformed(denoiser, x0, t)
        kept = combine(reads[0], x, reads[1], output if denoiser.transform is None else x0)
        finite = jnp.stack([jnp.isfinite(jnp.sum(leaf)) for leaf in jax.tree.leaves(kept)]).all()
        failed = jnp.where((failed < 0) & ~finite, number, failed)
        registers = jax.tree.map(
            lambda store, leaf: jax.lax.dynamic_update_index_in_dim(
                store, leaf.astype(store.dtype), register, 0
            ),
            registers,
            kept,
        )
        xi = None
        if noise is not None:
            xi, noise_state = noise.draw(noise_state, number + 1, clocks[0], clocks[1], x)
        next_x = next_point(x, registers, weights, shift, xi)
        return (next_x, registers, noise_state, failed), ((x, x0) if trajectory else None)

    noise_state = xi = None
    if noise is not None:
        noise_state = noise.init(x_T, clock[0])
        xi, noise_state = noise.draw(noise_state, jnp.asarray(0), clock[0], clock[0], x_T)
    x = next_point(x_T, registers, rows.weights[0], None if shifts is None else shifts[0], xi)
    carry = (x, registers, noise_state, jnp.asarray(-1))
    table = (
        jnp.arange(num_evaluations),
        rows.times,
        rows.reads,
        rows.clean,
        rows.registers,
        rows.weights[1:],
        None if shifts is None else shifts[1:],
        jnp.stack([clock[:-1], clock[1:]], axis=1),
    )
    (x, _, _, failed), points = _scan(step, carry, table, num_evaluations, checkpoints)
    if trajectory:
        visited, clean = points
        visited = jax.tree.map(lambda leaf, last: jnp.concatenate([leaf, last[None]]), visited, x)
        points = (visited, clean)
    return x, points, failed


_run = eqx.filter_jit(run)


def _scan(step: Any, carry: Any, table: Any, length: int, checkpoints: Checkpoints) -> tuple[Any, Any]:
    if checkpoints == "none":
        return jax.lax.scan(step, carry, table)
    if checkpoints == "step":
        return jax.lax.scan(jax.checkpoint(step), carry, table)
    if checkpoints != "sqrt":
        return checkpointed_scan(step, carry, table, length, checkpoints)
    # Blocks of about sqrt(N) rows are recomputed from their first state, and their rows one by one.
    size = math.ceil(math.sqrt(length))
    whole = length - length % size
    blocks = jax.tree.map(lambda leaf: leaf[:whole].reshape(whole // size, size, *leaf.shape[1:]), table)
    rest = jax.tree.map(lambda leaf: leaf[whole:], table)

    def block(carry: Any, rows: Any) -> tuple[Any, Any]:
        return jax.lax.scan(jax.checkpoint(step), carry, rows)

    carry, points = jax.lax.scan(jax.checkpoint(block), carry, blocks)
    points = jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), points)
    carry, last = block(carry, rest)
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), points, last)


def _noise(plan: Plan, key: Any, name: str) -> AbstractNoise | None:
    if not plan.stochastic:
        return None
    if key is None:
        raise ValueError(
            f"`key` is missing: {name} adds noise. Give a jax.random key or an `ns.diffusion.BrownianPath`."
        )
    noise = key if isinstance(key, AbstractNoise) else IndependentNoise(key)
    noise.check(plan)
    return noise


def _raise_if_failed(x: PyTree[Array], failed: Array) -> PyTree[Array]:
    message = "the network returned NaN or infinity"
    if is_traced(failed):
        return eqx.error_if(x, failed >= 0, f"{message} while sampling; throw=False returns such a sample.")
    if int(failed) >= 0:
        raise FloatingPointError(f"{message} at evaluation {int(failed)}; throw=False returns such a sample.")
    return x


def _check_state(x: PyTree[Array]) -> None:
    leaves = jax.tree.leaves(x)
    if not leaves:
        raise ValueError("`x_T` holds no array.")
    for leaf in leaves:
        if not (eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)):
            kind = leaf.dtype if eqx.is_array(leaf) else type(leaf).__name__
            raise TypeError(
                f"`x_T` must hold real floating-point arrays, got {kind}; carry complex states as two reals."
            )


def _check_checkpoints(checkpoints: Any) -> None:
    is_count = isinstance(checkpoints, int) and not isinstance(checkpoints, bool) and checkpoints > 0
    if not (is_count or checkpoints in ("none", "step", "sqrt")):
        raise ValueError(
            f"`checkpoints` must be 'none', 'step', 'sqrt' or a positive number, got {checkpoints!r}."
        )

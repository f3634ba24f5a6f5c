"""What a sampler itself costs: seconds beside a network that does nothing, and memory of reverse mode."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from nsolve import diffusion

from ..specs import OWN
from ..timing import clock, spread, wants_more
from . import columns, own
from .errors import schedule
from .networks import Counted, Images


def overhead(cell: Any, settings: Any, images: Images) -> dict[str, Any]:
    """The fields of a record: seconds of `size` steps, compilation apart; and of the samplers of that order
    and as many evaluations, those that then need a program of their own."""
    x_T = images.start(cell.dtype)
    if cell.spec.peer != OWN:
        return columns.find(cell.spec.peer).overhead(cell, settings, x_T)
    counted = Counted(images.model(cell.dtype))
    denoiser = diffusion.Denoiser(counted, "eps", schedule())
    x = jnp.asarray(x_T)

    made, grid = own.sampler(cell.spec.solver), own.grid(cell.spec.solver, cell.size)

    unroll = int(cell.spec.solver.options.get("unroll", 1))

    def solve() -> jax.Array:
        return jax.block_until_ready(
            diffusion.sample(denoiser, made, x, grid, jr.key(0), unroll=unroll).value
        )

    _, first = clock(solve)
    times: list[float] = []
    while wants_more(times, settings.repeats):
        times.append(clock(solve)[1])
    others, compiled = own.of_order(made.order), []
    for column in others:
        plan, traces = own.plan_of(column, schedule(), cell.size), counted.count.traces
        diffusion.sample(denoiser, plan, x, unroll=unroll)
        compiled += [str(column)] if counted.count.traces > traces else []
    return {
        "result": "successful",
        "num_steps": cell.size,
        "setup_s": 0.0,
        "compile_s": max(0.0, first - float(np.median(times))),
        "solve_s": spread(times),
        "seconds_per_step": float(np.median(times)) / cell.size,
        "of_order": [str(column) for column in others],
        "compiled": compiled,
    }


def reverse_mode(cell: Any, settings: Any, images: Images) -> dict[str, Any]:
    """The fields of a record: seconds and working memory of the gradient of a functional of `size` steps'
    result, in the start and in the network's parameters.

    `temporary_bytes` is what the compiled program allocates beside its arguments and results, as XLA plans
    it."""
    column = cell.spec.solver
    checkpoints = column.options.get("checkpoints", "step")
    denoiser = diffusion.Denoiser(images.model(cell.dtype), "eps", schedule())
    plan = own.sampler(column).plan(own.grid(column, cell.size), schedule())

    def loss(given: Any) -> jax.Array:
        denoiser, x = given
        return jnp.mean(diffusion.sample(denoiser, plan, x, checkpoints=checkpoints, throw=False).value ** 2)

    given = denoiser, jnp.asarray(images.start(cell.dtype))
    program = eqx.filter_jit(eqx.filter_grad(loss))
    compiled, seconds = clock(lambda: program.lower(given).compile())

    def solve() -> Any:
        return jax.block_until_ready(compiled(given))

    solve()
    times: list[float] = []
    while wants_more(times, settings.repeats):
        times.append(clock(solve)[1])
    memory = compiled.compiled.memory_analysis()
    return {
        "result": "successful",
        "num_steps": cell.size,
        "num_evaluations": plan.num_evaluations,
        "setup_s": 0.0,
        "compile_s": seconds,
        "solve_s": spread(times),
        "temporary_bytes": memory.temp_size_in_bytes,
        "state_bytes": given[1].nbytes,
    }

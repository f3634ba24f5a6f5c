"""Inversion: the latent from which a deterministic sampler makes a given state.

The flow of the ODE can be run backwards, but a sampler's steps only approximate it, so the latent found in
this way leads back to x0 up to the error of the method (for DDIM, the well-known drift of "DDIM inversion").
The sampler's own map F is inverted by iteration:

* Where each step keeps a single output (first order), step by step from the data on: with that output as
  noise, x_{k+1} = c x_k + d eps(x_k) is solved for x_k by x <- (x_{k+1} - d eps(x)) / c. For Gaussian data
  without spread the error shrinks by 1 - e^{-h} a turn, and faster for wider data.
* Otherwise as a whole, by defect correction with the backward sampler G: x <- x + G(x0) - G(F(x)). F and G
  follow the same flow, so the error shrinks by a power of the step, as many as the sampler has orders.

Fixed points for DDIM: arXiv:2309.04907 and 2312.12540; exact inversion of DPM-Solvers by other means:
arXiv:2311.18387.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from ..._results import AbstractSolution, Stats
from .._arrays import accumulation_dtype, is_traced, namespace, root, weighted
from .._backward import backward_plan
from .._checks import check_batch, verdict
from .._rows import Row, Rows, form_point, look
from ..denoiser import Denoiser
from ..plan import Plan
from ..sample import run
from ..samplers.base import AbstractSampler


class Inversion(AbstractSolution):
    """A latent, and how well it leads back.

    - `value`: the latent x_T, in the structure, shapes and dtypes of x0.
    - `residual` (B,): ||sample(x_T) - x0|| / ||x0|| of each sample.
    - `result` (B,): members of `lineax.RESULTS`: `successful`; `max_steps_reached`, the residual is above
      `rtol`; `breakdown`, the network returned NaN or infinity; `nonfinite_input`, these were in x0.
    - `stats`: `num_evaluations`, how often the network was called, the check of the residual included.
    """

    value: PyTree[Array]
    residual: Float[Array, " batch"]
    result: lx.RESULTS
    stats: dict[str, Any]


def invert(
    denoiser: Denoiser,
    sampler: AbstractSampler,
    x0: PyTree[Array],
    grid: Any,
    *,
    rtol: float | None = None,
    max_steps: int = 100,
    throw: bool = True,
) -> Inversion:
    """The latent x_T from which `sample(denoiser, sampler, x_T, grid)` makes x0.

    **Arguments:**

    - `denoiser`: a `Denoiser`; the samples of a batch must not depend on each other.
    - `sampler`: a deterministic sampler of ns.diffusion.
    - `x0`: states (B, ...) at the grid's last time, any pytree of real arrays with the batch as leading
      axis.
    - `grid`: as for `sample`; both ends need signal and noise.
    - `rtol`: None runs the sampler backwards: N evaluations, and N more for the residual, which falls with
      the step to the power of the sampler's order. A number inverts the sampler's own map until
      ||sample(x_T) - x0|| <= rtol ||x0|| for every sample: for samplers of first order some 10 to 20 N
      evaluations, for others 2 N a turn. On coarse grids there can be states that no latent leads to, or
      where the iteration does not settle.
    - `max_steps`: the most turns (of each step, for first order).
    - `throw`: raise if the residual is above `rtol` (RuntimeError) or the network returned NaN or infinity
      (FloatingPointError); else return what was found, with its residual.

    **Returns:** an `Inversion`. With `rtol=None` it is differentiable as `sample` is; with a number in
    forward mode only.
    """
    _check(denoiser, sampler, rtol, max_steps)
    check_batch(x0, "x0")
    backward = backward_plan(sampler, denoiser.schedule, grid)
    plan = sampler.plan(grid, denoiser.schedule)
    rows = Rows.of(plan, denoiser, x0), Rows.of(backward, denoiser, x0)
    if rtol is None:
        result = _by_backward_run(denoiser, rows, x0)
    elif plan.num_registers == 1:
        in_eps = Rows.of(_with_noise_outputs(plan), denoiser, x0)
        result = _by_steps(denoiser, rows[0], in_eps, x0, jnp.asarray(rtol, float), max_steps)
    else:
        result = _by_defect_correction(denoiser, rows, x0, jnp.asarray(rtol, float), max_steps)
    return _raise_unless(result, rtol) if throw else result


@eqx.filter_jit
def _by_backward_run(denoiser: Denoiser, rows: Any, x0: PyTree[Array]) -> Inversion:
    forward, backward = rows
    x_T = _carry(denoiser, backward, x0)
    residual = _relative(_carry(denoiser, forward, x_T), x0)
    return _judged(x_T, residual, jnp.asarray(len(forward) + len(backward)), None, x0)


@eqx.filter_jit
def _by_steps(
    denoiser: Denoiser, rows: Rows, in_eps: Rows, x0: PyTree[Array], rtol: Array, max_steps: int
) -> Inversion:
    # The steps' errors add up at worst; below rounding no turn helps.
    dtype = accumulation_dtype(*jax.tree.leaves(x0))
    goal = jnp.maximum(0.1 * rtol / len(rows), 4.0 * jnp.finfo(dtype).eps)

    def correct(
        x: PyTree[Array], end: PyTree[Array], noise: PyTree[Array], weights: Any, shift: Any
    ) -> tuple[PyTree[Array], Array]:
        """x + (end - c x - d eps) / c, and the size of this gap."""
        point = form_point(weights, shift, x, (noise,))
        gap = jax.tree.map(jnp.subtract, end, point)
        c = weights[0]
        moved = jax.tree.map(lambda a, b: weighted((1.0, 1.0 / c), (a, b)).astype(a.dtype), x, gap)
        return moved, _relative(point, end)

    def invert_row(carry: Any, row: Row) -> Any:
        end, evaluations = carry

        def turn(state: Any) -> Any:
            x, _, steps = state
            eps, _ = look(denoiser, row, x)
            return *correct(x, end, eps, row.weights, row.shift), steps + 1

        def goes_on(state: Any) -> Array:
            _, error, steps = state
            return (steps < max_steps) & jnp.any(~(error <= goal) & ~jnp.isnan(error))

        infinite = jnp.full_like(_norm(end), jnp.inf)
        x, _, steps = jax.lax.while_loop(goes_on, turn, (end, infinite, jnp.asarray(0)))
        return (x, evaluations + steps), None

    (x, evaluations), _ = jax.lax.scan(invert_row, (x0, jnp.asarray(0)), in_eps.row, reverse=True)
    x_T, _ = correct(x, x, jax.tree.map(jnp.zeros_like, x), *in_eps.first)
    return _judged(x_T, _relative(_carry(denoiser, rows, x_T), x0), evaluations + len(rows), rtol, x0)


@eqx.filter_jit
def _by_defect_correction(
    denoiser: Denoiser, rows: Any, x0: PyTree[Array], rtol: Array, max_steps: int
) -> Inversion:
    forward, backward = rows
    goal = _carry(denoiser, backward, x0)

    def turn(state: Any) -> Any:
        x, best, residual, steps = state
        reached = _carry(denoiser, forward, x)
        now = _relative(reached, x0)
        better = now < residual
        best, residual = _choose(better, x, best), jnp.where(better, now, residual)
        moved = jax.tree.map(
            lambda a, g, b: (a + g - b).astype(a.dtype), x, goal, _carry(denoiser, backward, reached)
        )
        # A sample that has left the numbers rests at its best.
        return _choose(jnp.isfinite(_norm(moved)), moved, best), best, residual, steps + 1

    def goes_on(state: Any) -> Array:
        _, _, residual, steps = state
        return (steps < max_steps) & jnp.any(~(residual <= rtol))

    infinite = jnp.full_like(_norm(x0), jnp.inf)
    _, best, residual, steps = jax.lax.while_loop(goes_on, turn, (goal, goal, infinite, jnp.asarray(0)))
    per_turn = len(forward) + len(backward)
    return _judged(best, residual, len(backward) + steps * per_turn, rtol, x0)


def _judged(
    x_T: PyTree[Array], residual: Array, num_evaluations: Array, rtol: Array | None, x0: PyTree[Array]
) -> Inversion:
    """A latent with its verdict."""

    def judge(residual: Array) -> lx.RESULTS:
        result = verdict(jnp.where(jnp.isfinite(residual), -1, 0), x0)
        missed = jnp.asarray(False) if rtol is None else residual > rtol
        return lx.RESULTS.where(missed, lx.RESULTS.max_steps_reached, result)

    return Inversion(
        value=x_T,
        residual=residual,
        result=jax.vmap(judge)(residual),
        stats=Stats(num_evaluations=num_evaluations),
    )


def _carry(denoiser: Denoiser, rows: Rows, x: PyTree[Array]) -> PyTree[Array]:
    return run(denoiser, rows, x)[0]


def _with_noise_outputs(plan: Plan) -> Plan:
    """A plan with one register, rewritten so that it keeps the noise; each point leads to the same next one.

    Kept was y = r0 x + r1 x0, where x0 = (x - sigma eps) / alpha."""
    inner = (...,) + (None,) * (plan.weights.ndim - 2)
    alpha, sigma = plan.alpha[:-1][inner], plan.sigma[:-1][inner]
    r0, r1 = plan.reads[:, 0], plan.reads[:, 1]
    w0, w1 = plan.weights[1:, 0], plan.weights[1:, 1]
    xp = namespace(w0, r0)
    c, d = w0 + w1 * (r0 + r1 / alpha), -w1 * r1 * sigma / alpha
    new_reads = xp.stack(xp.broadcast_arrays(1.0 / sigma, -alpha / sigma), axis=1)
    weights = xp.concatenate([plan.weights[:1], xp.stack([c, d, xp.zeros_like(c)], axis=1)])
    return eqx.tree_at(lambda p: (p.reads, p.weights), plan, (new_reads, weights))


def _norm(x: PyTree[Array]) -> Float[Array, " batch"]:
    leaves = jax.tree.leaves(x)
    dtype = accumulation_dtype(*leaves)
    squares = [jnp.sum(leaf.astype(dtype).reshape(leaf.shape[0], -1) ** 2, axis=1) for leaf in leaves]
    return root(sum(squares[1:], squares[0]))


def _relative(x: PyTree[Array], x0: PyTree[Array]) -> Float[Array, " batch"]:
    """The size of x - x0 in that of x0, of a state of zeros as it is."""
    size = _norm(x0)
    return _norm(jax.tree.map(jnp.subtract, x, x0)) / jnp.where(size == 0, 1.0, size)


def _choose(first: Array, a: PyTree[Array], b: PyTree[Array]) -> PyTree[Array]:
    """For each sample a where `first` holds, else b."""
    return jax.tree.map(lambda u, v: jnp.where(first.reshape(-1, *[1] * (u.ndim - 1)), u, v), a, b)


def _raise_unless(result: Inversion, rtol: float | None) -> Inversion:
    """`result` if it is finite and, with a tolerance, leads back to x0."""
    not_finite = (
        "the network returned NaN or infinity while inverting. Pass throw=False to get the result anyway."
    )
    missed = (
        f"no latent was found that leads back to every x0 within rtol={rtol}. Use more steps in the grid, a "
        "larger `max_steps` or `rtol`; or pass throw=False and look at `residual`."
    )
    residual = result.residual
    failed = ~jnp.all(jnp.isfinite(residual))
    above = jnp.asarray(False) if rtol is None else jnp.any(residual > rtol)
    if is_traced(residual):
        result = eqx.error_if(result, failed, not_finite)
        return eqx.error_if(result, above, missed)
    if bool(failed):
        raise FloatingPointError(not_finite)
    if bool(above):
        raise RuntimeError(f"{missed} The largest residual is {float(jnp.max(residual)):.1e}.")
    return result


def _check(denoiser: Any, sampler: Any, rtol: Any, max_steps: Any) -> None:
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"`denoiser` must be a Denoiser, got {type(denoiser).__name__}.")
    if not isinstance(sampler, AbstractSampler):
        raise TypeError(f"`sampler` must be a sampler with fixed steps, got {type(sampler).__name__}.")
    if rtol is not None and not rtol > 0:
        raise ValueError(f"`rtol` must be positive or None, got {rtol}.")
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(f"`max_steps` must be a positive integer, got {max_steps!r}.")

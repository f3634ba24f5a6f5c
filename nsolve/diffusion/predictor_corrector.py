"""Predictor-corrector sampling of score-based models: every step is followed up by Langevin dynamics."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from ._arrays import accumulation_dtype, is_traced, namespace, root, weighted
from ._checks import check_key, check_state, is_finite
from ._rows import Row, Rows, form_point, look
from .denoiser import Denoiser
from .noise import normal_like
from .plan import Plan
from .sample import Sample, finished
from .samplers.base import AbstractSampler
from .samplers.ddim import DDIM


def sample_predictor_corrector(
    denoiser: Denoiser,
    x_T: PyTree[Array],
    grid: Any,
    key: PRNGKeyArray,
    *,
    snr: Any = 0.16,
    corrector_steps: int = 1,
    predictor: AbstractSampler | None = None,
    throw: bool = True,
) -> Sample:
    """Carry x_T along the grid, each time mending the state's distribution before the step to the next time.

    At a time of the grid `corrector_steps` times

        x <- x + e s(x) + sqrt(2 e) z,    e = 2 (snr |z| / |s|)^2,

    with the score s and normal z, then a step of the predictor. `corrector_steps` + 1 evaluations a step of
    the grid, the last point of which is not corrected (it may be free of noise). The corrector heals errors
    of the predictor at the price of a bias of order snr^2; with many evaluations it gives better samples of
    score models than the predictor alone. Norms are those of a sample, so that a sample does not depend on
    its batch; they should be of many components (in one or two dimensions |s| may come near 0, and e grows
    without bound).

    **Arguments:**

    - `denoiser`, `x_T`, `grid`, `throw`: as for `sample`.
    - `key`: a jax.random key, or one for each sample (leading axis).
    - `snr`: the ratio of the sizes of the step along the score and of the noise; 0.16 (VE) or 0.01 ... 0.2
      (VP).
    - `predictor`: a sampler of one evaluation a step and no history; None is `DDIM(1.0)`, ancestral sampling.

    **Returns:** a `Sample`.

    Differentiable like `sample`; reverse mode keeps a state a step. Raises ValueError for a predictor that is
    not of one step, and FloatingPointError if the network returns NaN or infinity.

    Song et al., arXiv:2011.13456 (there norms are averaged over the batch).
    """
    check_state(x_T)
    predictor = DDIM(1.0) if predictor is None else predictor
    if not isinstance(predictor, AbstractSampler):
        raise TypeError(f"`predictor` must be a sampler with fixed steps, got {type(predictor).__name__}.")
    key = check_key(key, "the corrector")
    if isinstance(corrector_steps, bool) or not isinstance(corrector_steps, int) or corrector_steps < 0:
        raise ValueError(f"`corrector_steps` must be a number from 0, got {corrector_steps!r}.")
    if not is_traced(snr) and not (np.ndim(snr) == 0 and math.isfinite(snr) and snr >= 0):
        raise ValueError(f"`snr` must be a number and not negative, got {snr}.")
    plan = predictor.plan(grid, denoiser.schedule)
    if plan.num_registers > 1 or not _begins_plainly(plan):
        raise ValueError(
            "`predictor` must take each step by one evaluation at the grid's point, without history, like "
            f"DDIM or DDPM; {type(predictor).__name__} does not."
        )
    rows = Rows.of(plan, denoiser, x_T), Rows.of(_reading_noise(plan), denoiser, x_T)
    dtype = accumulation_dtype(*jax.tree.leaves(x_T))
    sigma = jnp.asarray(plan.sigma, dtype)
    x, failed = _run(denoiser, *rows, sigma, x_T, key, jnp.asarray(snr, dtype), corrector_steps)
    return finished(x, plan.t, failed, x_T, len(rows[0]) * (corrector_steps + 1), throw)


def _begins_plainly(plan: Plan) -> bool:
    """Whether the first row leaves the state as it is."""
    row = plan.weights[0]
    return is_traced(row) or bool(np.all(row[0] == 1) and np.all(row[1:] == 0))


def _reading_noise(plan: Plan) -> Plan:
    """The plan, but keeping every output as eps."""
    alpha, sigma = plan.alpha[:-1], plan.sigma[:-1]
    pair = namespace(alpha, sigma).stack([1.0 / sigma, -alpha / sigma], axis=-1)
    return eqx.tree_at(lambda p: p.reads, plan, pair)


@eqx.filter_jit
def _run(
    denoiser: Denoiser,
    rows: Rows,
    noise_rows: Rows,
    sigma: Array,
    x_T: PyTree[Array],
    key: PRNGKeyArray,
    snr: Array,
    corrector_steps: int,
) -> tuple[PyTree[Array], Array]:
    """(x, number of the first evaluation that was not finite or -1)."""

    @jax.checkpoint
    def step(carry: Any, at: tuple[Array, Row, Row, Array]) -> tuple[Any, None]:
        k, row, noise_row, sigma = at

        def watch(failed: Array, number: Any, output: PyTree[Array]) -> Array:
            return jnp.where((failed < 0) & ~is_finite(output), number, failed)

        def correct(carry: Any, number: Any) -> tuple[Any, None]:
            x, failed = carry
            eps, _ = look(denoiser, noise_row, x)
            z = normal_like(key, number, x)
            return (_langevin(x, eps, z, sigma, snr), watch(failed, number, eps)), None

        number = k * (corrector_steps + 1)
        carry, _ = jax.lax.scan(correct, carry, number + jnp.arange(corrector_steps))
        x, failed = carry
        number = number + corrector_steps
        kept, _ = look(denoiser, row, x)
        z = normal_like(key, number, x)
        x = form_point(row.weights, row.shift, x, (kept,), z)
        return (x, watch(failed, number, kept)), None

    table = (jnp.arange(len(rows)), rows.row, noise_rows.row, sigma[:-1])
    (x, failed), _ = jax.lax.scan(step, (x_T, jnp.asarray(-1)), table)
    return x, failed


def _langevin(x: PyTree[Array], eps: PyTree[Array], z: PyTree[Array], sigma: Any, snr: Any) -> PyTree[Array]:
    """One step of Langevin dynamics with the score -eps / sigma and e = sigma^2 length."""
    square = _squared_norm(eps)
    ratio = root(jnp.where(square > 0, _squared_norm(z) / jnp.where(square > 0, square, 1.0), 0.0))
    spread, length = 2.0 * snr * ratio, 2.0 * (snr * ratio) ** 2

    def move(leaf: Array, noise: Array, normal: Array) -> Array:
        of_sample = (...,) + (None,) * (leaf.ndim - length.ndim)
        weights = (1.0, sigma * spread[of_sample], -sigma * length[of_sample])
        return weighted(weights, (leaf, normal, noise)).astype(leaf.dtype)

    return jax.tree.map(move, x, eps, z)


def _squared_norm(x: PyTree[Array]) -> Array:
    """Of each sample, over all leaves: shape (batch,), or () for a state without axes."""
    dtype, leaves = accumulation_dtype(*jax.tree.leaves(x)), jax.tree.leaves(x)
    squares = [jnp.sum(leaf.astype(dtype) ** 2, axis=tuple(range(1, leaf.ndim))) for leaf in leaves]
    return sum(squares[1:], squares[0])

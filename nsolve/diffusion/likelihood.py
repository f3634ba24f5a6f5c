"""Log-likelihood through the probability-flow ODE.

With z = x / alpha and rho = sigma / alpha the flow is dz/drho = eps, so along it d log p(z) = -tr(d eps/dz)
drho, whatever the schedule. The integral l of the trace, times alpha, obeys the equation of x with the trace
as its noise: a state (x, alpha l) whose network returns (eps, tr d eps/dz) is a diffusion problem like any
other, and the samplers' own tables integrate it, run from the data to the noise.

Song et al., arXiv:2011.13456 (section D.2); the estimator of the trace is Hutchinson's, as in FFJORD,
arXiv:1810.01367.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ._arrays import accumulation_dtype
from ._backward import backward_plan, finite_points
from ._checks import check_batch, raise_if_failed
from ._divergence import divergence, random_signs
from ._rows import Rows
from .as_diffrax import ProbabilityFlow, import_diffrax
from .denoiser import Denoiser
from .sample import Checkpoints, check_checkpoints, judged_run
from .samplers.base import AbstractSampler
from .samplers.unipc import UniPC
from .schedules import TrueTime

Trace = Literal["exact", "hutchinson"]

_UNIPC = UniPC(order=3, prediction="eps", lower_order_final=False)


def log_likelihood(
    denoiser: Denoiser,
    x0: PyTree[Array],
    grid: Any,
    key: PRNGKeyArray | None = None,
    *,
    trace: Trace = "exact",
    num_probes: int = 1,
    method: AbstractSampler | Literal["diffrax"] = _UNIPC,
    rtol: float | None = None,
    prior: Callable[[PyTree[Array]], Array] | None = None,
    checkpoints: Checkpoints = "step",
    throw: bool = True,
) -> tuple[Float[Array, " batch"], PyTree[Array]]:
    """The logarithm (in nats) of the model's density at x0, and the latent that x0 is carried to.

    **Arguments:**

    - `denoiser`: a `Denoiser`. Sample i of its output may depend on sample i of the state alone (no batch
      normalisation), since the trace is taken sample by sample.
    - `x0`: states (B, ...) at the grid's last time, any pytree of real arrays with the batch as leading axis.
      The density is that of x at this time: data with noise sigma(t_min).
    - `grid`: as for `sample`, from large to small times; the ODE runs along it backwards. Both ends need
      signal and noise.
    - `key`: for `trace="hutchinson"`: one key, or one a sample; sample i is the same whatever the batch.
    - `trace`: `"exact"` costs D Jacobian-vector products an evaluation, with D numbers a sample (64 at once).
      `"hutchinson"` costs `num_probes`: v^T J v with signs v that stay the same along the ODE; unbiased, with
      a variance of 2 sum_{i != j} J_ij^2 a probe (J symmetrised).
    - `method`: a deterministic sampler, run backwards at its own order (prefer `prediction="eps"`: clean
      states lose digits on the way to the noise); or `"diffrax"`: Dormand and Prince's method of order 8 with
      adaptive steps, tolerance `rtol` (default 1e-6), of the grid only the ends.
    - `prior`: called as `prior(x_T)`, the log-density (B,) at the grid's first time; None: normal with
      standard deviation sigma(t_max).
    - `checkpoints`, `throw`: as for `sample`.

    **Returns:** `(log_p, x_T)`: (B,) and the latent, in the structure, shapes and dtypes of x0. The latent is
    that of `invert` with the same method. Differentiable as `sample` is; the gradient in x0 is the score.
    """
    batch = _check(denoiser, x0, key, trace, num_probes, method, rtol)
    check_checkpoints(checkpoints)
    ends = finite_points(denoiser.schedule, grid)
    probes = random_signs(key, num_probes, x0) if trace == "hutchinson" else None
    start = x0, jnp.zeros(batch, accumulation_dtype(*jax.tree.leaves(x0)))
    if method == "diffrax":
        x_T, log_ratio = _by_diffrax(denoiser, probes, start, ends.lam, rtol or 1e-6, throw)
    else:
        model = _WithTrace(denoiser, probes)
        schedule = denoiser.schedule
        augmented = Denoiser(model, "eps", TrueTime(schedule))
        plan = backward_plan(method, augmented.schedule, grid)
        rows = Rows.of(plan, augmented, start)
        found, failed = judged_run(augmented, rows, plan.t, start, None, False, checkpoints, 1, True)
        x_T, integral = found.value
        if throw:
            x_T, integral = raise_if_failed((x_T, integral), failed)
        volume = _dimension(x0) * (ends.log_alpha[0] - ends.log_alpha[-1])
        log_ratio = integral / plan.alpha[-1] + volume
    log_prior = _normal(x_T, ends.log_sigma[0]) if prior is None else prior(x_T)
    if jnp.shape(log_prior) != (batch,):
        raise ValueError(f"`prior` must return one number a sample, shape {(batch,)}, got {log_prior.shape}.")
    return (log_prior + log_ratio).astype(start[1].dtype), x_T


def bits_per_dim(log_p: Array, dimension: int, scale: float = 1.0) -> Array:
    """-log2 p per number of a sample, the usual unit of image models.

    - `log_p`: log-likelihoods in nats, any shape.
    - `dimension`: how many numbers a sample has.
    - `scale`: how many levels of the data one unit of x spans: 127.5 for pixels 0 ... 255 brought to [-1, 1].
    """
    if dimension < 1:
        raise ValueError(f"`dimension` must be positive, got {dimension}.")
    if not scale > 0:
        raise ValueError(f"`scale` must be positive, got {scale}.")
    return -log_p / (dimension * math.log(2.0)) + math.log2(scale)


class _WithTrace(eqx.Module):
    """The network of a state (x, alpha l): (eps, tr d eps/dz), where tr d eps/dz = alpha tr d eps/dx."""

    denoiser: Denoiser
    probes: PyTree[Array] | None

    def __call__(self, state: Any, t: Array) -> Any:
        x, integral = state
        eps, trace = divergence(lambda x: self.denoiser.eps(x, t), x, self.probes)
        return eps, (self.denoiser.schedule.alpha(t) * trace).astype(integral.dtype)


class _FlowWithTrace(eqx.Module):
    """The probability-flow ODE of a state (x, l) in lam, dl/dlam the divergence; what diffrax calls."""

    flow: ProbabilityFlow
    probes: PyTree[Array] | None

    def __call__(self, lam: Array, state: Any, args: Any) -> Any:
        del args
        return divergence(lambda x: self.flow(lam, x), state[0], self.probes)


def _by_diffrax(
    denoiser: Denoiser, probes: PyTree[Array] | None, start: Any, lam: Any, rtol: float, throw: bool
) -> Any:
    """(x_T, log p(x0) - log p(x_T)); in lam, where d log p(x) = -div(dx/dlam) dlam."""
    diffrax = import_diffrax("`method='diffrax'`")
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_FlowWithTrace(ProbabilityFlow(denoiser), probes)),
        diffrax.Dopri8(),
        t0=jnp.asarray(lam[-1], dtype=float),
        t1=jnp.asarray(lam[0], dtype=float),
        dt0=None,
        y0=start,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol),
        throw=throw,
    )
    x_T, integral = jax.tree.map(lambda leaf, like: leaf[0].astype(like.dtype), solution.ys, start)
    return x_T, integral


def _normal(x: PyTree[Array], log_sigma: Any) -> Array:
    """log N(x; 0, sigma^2), sample by sample."""
    leaves = jax.tree.leaves(x)
    dtype = accumulation_dtype(*leaves)
    squares = sum(jnp.sum(leaf.astype(dtype).reshape(leaf.shape[0], -1) ** 2, axis=1) for leaf in leaves)
    return -0.5 * squares * jnp.exp(-2.0 * log_sigma) - _dimension(x) * (
        log_sigma + 0.5 * math.log(2.0 * math.pi)
    )


def _dimension(x: PyTree[Array]) -> int:
    return sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(x))


def _check(
    denoiser: Any, x0: Any, key: Any, trace: Any, num_probes: Any, method: Any, rtol: float | None
) -> int:
    """The size of the batch."""
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"`denoiser` must be a Denoiser, got {type(denoiser).__name__}.")
    batch = check_batch(x0, "x0")
    if trace not in get_args(Trace):
        raise ValueError(f"`trace` must be one of {get_args(Trace)}, got {trace!r}.")
    if isinstance(num_probes, bool) or not isinstance(num_probes, int) or num_probes < 1:
        raise ValueError(f"`num_probes` must be a positive integer, got {num_probes!r}.")
    if trace == "hutchinson" and key is None:
        raise ValueError("`key` is missing: trace='hutchinson' draws random probes. Give a jax.random key.")
    if not (isinstance(method, AbstractSampler) or method == "diffrax"):
        raise TypeError(
            f"`method` must be a sampler with fixed steps or 'diffrax', got {type(method).__name__}."
        )
    if rtol is not None and (method != "diffrax" or not rtol > 0):
        raise ValueError(f"`rtol` must be positive, and belongs to method='diffrax' alone; got {rtol}.")
    return batch

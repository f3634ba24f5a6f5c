"""Guidance by measurements through Tweedie's formula, to second order."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._arrays import accumulation_dtype
from .._checks import check_key
from ..denoiser import Denoiser, clean, combine
from ..noise import normal_like
from ..schedules import TrueTime


def second_order_tweedie(
    denoiser: Denoiser,
    log_likelihood: Callable[[Any], Any],
    key: PRNGKeyArray | None = None,
    *,
    curvature: Any = None,
    num_probes: int = 1,
    scale: Any = 1.0,
) -> Denoiser:
    """A denoiser whose score has the gradient of a bound of log p(y | x) in it: for any sampler.

    Where log p(y | x) = log E[p(y | x0) | x] is out of reach, its lower bound E[log p(y | x0) | x] follows
    to second order from the mean x0(x) (Tweedie's formula) and the covariance C = (sigma^2 / alpha) dx0/dx
    (its derivative),

        log p(y | x0(x)) + tr(H C) / 2,   H the Hessian of log p(y | .) at x0(x),

    exact for normal measurement noise and linear measurements, whatever the data. The first term alone is
    diffusion posterior sampling. Second-order samplers from a surrogate loss (STSL) take

        log p(y | x0(x)) - curvature * tr(Hessian of log p(x)),

    the weaker bound that bounds H by a number. Both traces are estimated with num_probes random signs.

    **Arguments:**

    - `denoiser`: of the data, whatever its prediction.
    - `log_likelihood`: log p(y | x0), up to a constant, on a batch: x0 (B, ...) to (B,); differentiable.
    - `key`: of the probes, which stay the same through a run, so that samplers keep their order. One key,
      or one a sample; not needed with `curvature=0`.
    - `curvature`: None for tr(H C) / 2; a number, or a function of the time, for the surrogate; 0 for the
      first order. With noise of standard deviation s, linear A and its norm |A|, the bound is |A|^2 sigma^4
      / (2 s^2 alpha^2).
    - `num_probes`: exact already with one where the Hessians are diagonal.
    - `scale`: multiplies the gradient; a number or a function of the time. With small noise and large steps
      the gradient is stiff: more steps, or a smaller scale where sigma is large.

    **Returns** a `Denoiser` that predicts x0, of the same schedule, which is told the schedule's own time.
    One evaluation costs one of the network, a forward derivative of it for each probe, and a reverse pass
    through both. The bound is not the likelihood: samples are pulled too hard towards y where C is large.
    Differentiable in everything.

    Rout et al., arXiv:2312.00852, theorem 4.4, where the surrogate's gradient stands in the drift, as here;
    the curvature is a constant there. First order: Chung et al. (DPS), arXiv:2209.14687.
    """
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"`denoiser` must be a Denoiser, got {type(denoiser).__name__}.")
    if not callable(log_likelihood):
        raise TypeError(f"`log_likelihood` must be a function of x0, got {type(log_likelihood).__name__}.")
    if isinstance(num_probes, bool) or not isinstance(num_probes, int) or num_probes < 1:
        raise ValueError(f"`num_probes` must be a positive integer, got {num_probes!r}.")
    if isinstance(curvature, float | int) and curvature == 0:
        num_probes = 0
    else:
        key = check_key(key, "second_order_tweedie", "draws probes")
    model = _Guided(denoiser, log_likelihood, key, curvature, num_probes, scale)
    schedule = denoiser.schedule
    return Denoiser(model, "x0", TrueTime(schedule))


class _Guided(eqx.Module):
    denoiser: Denoiser
    log_likelihood: Callable[[Any], Any]
    key: Any
    curvature: Any
    num_probes: int = eqx.field(static=True)
    scale: Any

    def __call__(self, x: PyTree[Array], t: Array) -> PyTree[Array]:
        alpha, sigma = self.denoiser.schedule.alpha(t), self.denoiser.schedule.sigma(t)
        ratio = sigma**2 / alpha

        def predict(x: PyTree[Array]) -> PyTree[Array]:
            return clean(self.denoiser, x, t, alpha, sigma)

        def likelihood(x0: PyTree[Array]) -> Array:
            batch, values = len(jax.tree.leaves(x0)[0]), self.log_likelihood(x0)
            if jnp.shape(values) != (batch,):
                raise ValueError(f"`log_likelihood` must return shape ({batch},), got {jnp.shape(values)}.")
            return jnp.sum(values)

        def correction(x: PyTree[Array], number: Array) -> Array:
            signs = jax.tree.map(jnp.sign, normal_like(self.key, number, x))
            signs = jax.tree.map(lambda sign, leaf: sign.astype(leaf.dtype), signs, x)
            x0, change = jax.jvp(predict, (x,), (signs,))
            if self.curvature is None:
                _, bent = jax.jvp(jax.grad(likelihood), (x0,), (signs,))
                return 0.5 * ratio * _dot(bent, change)
            # The Hessian is (alpha dx0/dx - 1) / sigma^2; the 1 has no gradient.
            return -_at(self.curvature, t) * alpha / sigma**2 * _dot(signs, change)

        def bound(x: PyTree[Array]) -> tuple[Array, PyTree[Array]]:
            x0 = predict(x)
            value = likelihood(x0)
            if self.num_probes:
                numbers = jnp.arange(self.num_probes)
                value = value + jnp.mean(jax.vmap(lambda number: correction(x, number))(numbers))
            return value, x0

        gradient, x0 = jax.grad(bound, has_aux=True)(x)
        return combine(1.0, x0, _at(self.scale, t) * ratio, gradient)


def _at(value: Any, t: Array) -> Any:
    return value(t) if callable(value) else value


def _dot(x: PyTree[Array], y: PyTree[Array]) -> Array:
    dtype = accumulation_dtype(*jax.tree.leaves((x, y)))
    pairs = zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    products = [jnp.sum(a.astype(dtype) * b.astype(dtype)) for a, b in pairs]
    return sum(products[1:], products[0])

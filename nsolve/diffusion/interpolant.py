"""Stochastic interpolants: flows and diffusions between any two distributions.

I_t = a(t) x0 + b(t) x1 + gamma(t) z with z normal joins a sample x0 (at t = 0) to a sample x1 (at t = 1). Its
law is that of the ODE dx = v dt with the velocity v(x, t) = E[I'_t | I_t = x], and also of

    dx = (v - (e / gamma) eta) dt + sqrt(2 e) dW,    eta(x, t) = E[z | I_t = x],

for any e(t) >= 0, since the score is -eta / gamma; backwards in time the sign of e in the drift is the other.
(Albergo, Boffi, Vanden-Eijnden, arXiv:2303.08797.)
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from ._arrays import accumulation_dtype, as_times, is_traced, root, weighted
from ._checks import check_state, is_finite
from .denoiser import Denoiser, _check_like
from .noise import normal_like
from .sample import Sample, finished
from .schedules import FromFunctions

Field = Callable[[PyTree[Array], Array], PyTree[Array]]


class Interpolant(eqx.Module):
    """I_t = a(t) x0 + b(t) x1 + gamma(t) z, from three functions of the time written with `jax.numpy`.

    a(0) = b(1) = 1, a(1) = b(0) = gamma(0) = gamma(1) = 0, and gamma > 0 between. The default is the straight
    line with gamma = sqrt(2 t (1 - t)). `point` and `velocity` make training pairs: regress a network of
    (I_t, t) on the velocity, and another on z.
    """

    a: Callable[[Any], Any] = eqx.field(default_factory=lambda: lambda t: 1.0 - t)
    b: Callable[[Any], Any] = eqx.field(default_factory=lambda: lambda t: t)
    gamma: Callable[[Any], Any] = eqx.field(default_factory=lambda: lambda t: root(2.0 * t * (1.0 - t)))

    def point(self, x0: PyTree[Array], x1: PyTree[Array], z: PyTree[Array], t: Any) -> PyTree[Array]:
        """I_t, at a time of shape ()."""
        t = jnp.asarray(t, float)
        return _weighted((self.a(t), self.b(t), self.gamma(t)), x0, x1, z)

    def velocity(self, x0: PyTree[Array], x1: PyTree[Array], z: PyTree[Array], t: Any) -> PyTree[Array]:
        """dI_t / dt, at a time of shape (); gamma' may be infinite at 0 and 1 (the default's counts as 0
        there, the mean of gamma' z)."""
        t = jnp.asarray(t, float)
        slopes = (jax.jvp(f, (t,), (jnp.ones_like(t),))[1] for f in (self.a, self.b, self.gamma))
        return _weighted(tuple(slopes), x0, x1, z)


def _weighted(weights: tuple[Any, ...], *states: PyTree[Array]) -> PyTree[Array]:
    """sum_j weights_j states_j, in the structure and dtypes of the first."""
    return jax.tree.map(lambda *leaves: weighted(weights, leaves).astype(leaves[0].dtype), *states)


def sample_interpolant(
    interpolant: Interpolant,
    velocity: Field,
    x: PyTree[Array],
    grid: Any,
    key: PRNGKeyArray | None = None,
    *,
    denoiser: Field | None = None,
    diffusion: Callable[[Any], Any] | None = None,
    throw: bool = True,
) -> Sample:
    """Carry a sample along an interpolant, by the ODE or, with `denoiser` and `diffusion`, the SDE.

    Heun's method on the drift: two evaluations a step (of both networks for the SDE), order 2; for the SDE of
    weak order 2 and strong order 1, the noise being additive.

    **Arguments:**

    - `velocity`: v(x, t), with x any pytree of real arrays (leading axis the batch) and t of shape ();
      returns the structure and shapes of x.
    - `x`: the state at the grid's first time.
    - `grid`: times (N+1,) within [0, 1]: rising to go from x0 to x1, falling to go back.
    - `key`: for the SDE, a jax.random key or one for each sample.
    - `denoiser`: eta(x, t), the expected z, called like `velocity`.
    - `diffusion`: e(t) >= 0, elementwise on times. Where gamma is 0, so must e be (t (1 - t) say, of which
      e / gamma vanishes, too), or the grid must stay away from there.
    - `throw`: raise if a network returns NaN or infinity.

    **Returns:** a `Sample` at the grid's last time, in the structure, shapes and dtypes of x. Differentiable
    in x, both networks, the interpolant, the diffusion and the grid; reverse mode keeps a state a step.
    """
    check_state(x)
    times = as_times(grid)
    if times.ndim != 1 or times.shape[0] < 2:
        raise ValueError(f"`grid` must be an array of two or more times, got shape {times.shape}.")
    if not is_traced(times):
        steps = np.diff(times)
        if not (np.all(steps > 0) or np.all(steps < 0)) or times.min() < 0 or times.max() > 1:
            raise ValueError(f"`grid` must rise or fall strictly within [0, 1], got {times}.")
    if (denoiser is None) != (diffusion is None):
        raise ValueError(
            "`denoiser` and `diffusion` belong together: give both (the SDE) or neither (the ODE)."
        )
    if diffusion is not None and key is None:
        raise ValueError("`key` is missing: with `diffusion` noise is added. Give a jax.random key.")
    dtype = accumulation_dtype(*jax.tree.leaves(x))
    times = jnp.asarray(times)
    table: Any = None
    if diffusion is not None:
        table = _diffusion_table(interpolant, diffusion, times)
    fields = (velocity, denoiser)
    end, failed = _run(fields, x, times.astype(dtype), jax.tree.map(lambda v: v.astype(dtype), table), key)
    return finished(end, times, failed, x, 2 * (len(times) - 1), throw)


def _diffusion_table(
    interpolant: Interpolant, diffusion: Callable[[Any], Any], times: Array
) -> tuple[Any, Any]:
    """e / gamma (N+1,) with the direction's sign, and the standard deviations (N,) of the steps' noise."""
    strength = jnp.broadcast_to(diffusion(times), times.shape)
    middle = jnp.broadcast_to(diffusion(0.5 * (times[1:] + times[:-1])), (times.shape[0] - 1,))
    if not is_traced((strength, middle)) and not (np.all(strength >= 0) and np.all(middle >= 0)):
        raise ValueError("`diffusion` must not be negative.")
    acts = strength > 0
    # Where gamma vanishes its slope may be infinite: it is not asked where it does not count.
    asked = jnp.where(acts, times, 0.5)
    gamma = jnp.broadcast_to(interpolant.gamma(asked), times.shape)
    if not is_traced((strength, gamma)) and np.any(acts & (gamma <= 0)):
        where = times[np.flatnonzero(acts & (gamma <= 0))[0]]
        raise ValueError(
            f"`diffusion` is positive at t = {where}, where the interpolant's gamma is 0: let it vanish "
            "there, or keep the grid away."
        )
    ratio = jnp.where(acts, strength / jnp.where(acts, gamma, 1.0), 0.0)
    # The variance 2 int e dt by Simpson's rule.
    step = jnp.diff(times)
    variance = jnp.abs(step) * (strength[:-1] + 4.0 * middle + strength[1:]) / 3.0
    return jnp.sign(step[0]) * ratio, root(variance)


@eqx.filter_jit
def _run(
    fields: tuple[Field, Field | None], x: PyTree[Array], times: Array, table: Any, key: Any
) -> tuple[PyTree[Array], Array]:
    """(x, number of the first step whose slope was not finite or -1)."""
    velocity, denoiser = fields

    def slope(x: PyTree[Array], number: Any) -> PyTree[Array]:
        v = velocity(x, times[number])
        _check_like("`velocity`", v, x)
        if denoiser is None:
            return v
        eta = denoiser(x, times[number])
        _check_like("`denoiser`", eta, x)
        return jax.tree.map(lambda p, q: weighted((1.0, -table[0][number]), (p, q)), v, eta)

    @jax.checkpoint
    def step(carry: Any, k: Any) -> tuple[Any, None]:
        x, failed = carry
        h = times[k + 1] - times[k]
        noise = jax.tree.map(jnp.zeros_like, x)
        if denoiser is not None:
            noise = jax.tree.map(lambda z: weighted((table[1][k],), (z,)), normal_like(key, k, x))
        first = slope(x, k)
        guess = _weighted((1.0, h, 1.0), x, first, noise)
        second = slope(guess, k + 1)
        failed = jnp.where((failed < 0) & ~is_finite(first, second), 2 * k, failed)
        x = _weighted((1.0, 0.5 * h, 0.5 * h, 1.0), x, first, second, noise)
        return (x, failed), None

    (x, failed), _ = jax.lax.scan(step, (x, jnp.asarray(-1)), jnp.arange(times.shape[0] - 1))
    return x, failed


def one_sided_denoiser(
    velocity: Field,
    signal: Callable[[Any], Any],
    noise: Callable[[Any], Any],
    *,
    noise_time: float = 0.0,
    data_time: float = 1.0,
) -> Denoiser:
    """A network for the one-sided interpolant I_t = signal(t) x1 + noise(t) z, as a `Denoiser` for all
    samplers.

    `velocity(x, t)` is the expected dI_t / dt. `signal` and `noise` are functions of the time written with
    `jax.numpy`, smooth, with signal / noise growing strictly from `noise_time`, where sampling begins, to
    `data_time`; there z has unit size times noise(noise_time). The denoiser's schedule counts the time |t -
    data_time|: from |noise_time - data_time| down to 0, as grids of this package do; the network is still
    told t.
    """
    if not noise_time != data_time:
        raise ValueError(f"`noise_time` and `data_time` must differ, got {noise_time} twice.")
    sign = 1.0 if noise_time > data_time else -1.0

    def outer(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda u: jnp.log(function(data_time + sign * u))

    schedule = FromFunctions(
        log_alpha_function=outer(signal),
        log_sigma_function=outer(noise),
        t_min=0.0,
        t_max=abs(noise_time - data_time),
    )

    def clean(x: PyTree[Array], u: Array) -> PyTree[Array]:
        t = data_time + sign * u
        a, da = jax.jvp(signal, (t,), (jnp.ones_like(t),))
        s, ds = jax.jvp(noise, (t,), (jnp.ones_like(t),))
        # x = a x1 + s z and v = a' x1 + s' z
        scale = 1.0 / (a * ds - s * da)
        v = velocity(x, t)
        _check_like("`velocity`", v, x)
        return jax.tree.map(lambda p, q: (scale * (ds * p - s * q)).astype(p.dtype), x, v)

    return Denoiser(clean, "x0", schedule)

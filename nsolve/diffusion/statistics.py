"""Statistics of a model, by which DPM-Solver-v3 removes what is linear from its equation."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._dense import solve
from ._arrays import is_traced, namespace, on_host
from .denoiser import Denoiser


class Statistics(eqx.Module):
    """Three functions of lam for each component of a state: values at `lam` (M,), cubic splines between.

    With z = x / alpha the probability-flow ODE is dz/dlam = -l z - f, where f = (sigma eps - l x) / alpha,
    and along it df/dlam is about s f + b. `l, s, b` (M, ...) have the shape of one sample as further axes, or
    none: the same for all components. l = 1, s = b = 0 is the clean-state form, l = 0, s = -1, b = 0 the
    noise form. Any numbers give a consistent sampler; fitted ones (`fit_statistics`) leave the least to
    extrapolate.
    """

    lam: Float[Array, " M"] | Any
    l: Float[Array, "M ..."] | Any  # noqa: E741
    s: Float[Array, "M ..."] | Any
    b: Float[Array, "M ..."] | Any

    def __check_init__(self):
        if self.lam.ndim != 1 or self.lam.shape[0] < 4:
            raise ValueError(f"`lam` must hold at least four numbers, got shape {self.lam.shape}.")
        if not is_traced(self.lam) and not np.all(np.diff(self.lam) > 0):
            raise ValueError("`lam` must grow strictly.")
        for name in ("l", "s", "b"):
            shape = getattr(self, name).shape
            if shape != self.l.shape or shape[0] != self.lam.shape[0]:
                raise ValueError(
                    f"`{name}` must have one shape with `l`, beginning with {self.lam.shape[0]}, got {shape}."
                )

    def save(self, path: str | Path) -> None:
        """Write an npz file with the arrays `lam`, `l`, `s`, `b`."""
        with open(path, "wb") as file:  # NumPy would append .npz to a name without
            np.savez(file, lam=self.lam, l=self.l, s=self.s, b=self.b)

    @staticmethod
    def load(path: str | Path) -> "Statistics":
        """Read what `save` wrote. ValueError where arrays are missing."""
        with np.load(path) as file:
            missing = {"lam", "l", "s", "b"} - set(file.files)
            if missing:
                raise ValueError(f"{path} holds no statistics: {', '.join(sorted(missing))} missing.")
            return Statistics(file["lam"], file["l"], file["s"], file["b"])


class Spline(eqx.Module):
    """The cubic spline through values (M, ...) at knots (M,), with its integral (not-a-knot ends)."""

    knots: Any
    values: Any
    slopes: Any
    integrals: Any  # from the first knot

    @staticmethod
    def through(knots: Any, values: Any) -> "Spline":
        xp = namespace(knots, values)
        m = knots.shape[0]
        h = xp.diff(knots)
        each = (slice(None),) + (None,) * (values.ndim - 1)
        chord = xp.diff(values, axis=0) / h[each]
        # The equations of continuous curvature, and a third derivative that is continuous next to the ends.
        ends = h[0] + h[1], h[-1] + h[-2]
        matrix = xp.concatenate(
            [
                (h[1] * np.eye(m)[0] + ends[0] * np.eye(m)[1])[None],
                h[1:, None] * np.eye(m)[:-2]
                + 2.0 * (h[:-1] + h[1:])[:, None] * np.eye(m)[1:-1]
                + h[:-1, None] * np.eye(m)[2:],
                (ends[1] * np.eye(m)[-2] + h[-2] * np.eye(m)[-1])[None],
            ]
        )
        right = xp.concatenate(
            [
                (((h[0] + 2.0 * ends[0]) * h[1] * chord[0] + h[0] ** 2 * chord[1]) / ends[0])[None],
                3.0 * (h[1:][each] * chord[:-1] + h[:-1][each] * chord[1:]),
                ((h[-1] ** 2 * chord[-2] + (h[-1] + 2.0 * ends[1]) * h[-2] * chord[-1]) / ends[1])[None],
            ]
        )
        slopes = (np.linalg.solve if xp is np else solve)(matrix, right.reshape(m, -1)).reshape(right.shape)
        cells = h[each] * (values[:-1] + values[1:]) / 2 + h[each] ** 2 * (slopes[:-1] - slopes[1:]) / 12
        integrals = xp.concatenate([xp.zeros_like(values[:1]), xp.cumsum(cells, axis=0)])
        return Spline(knots, values, slopes, integrals)

    def __call__(self, lam: Any) -> Any:
        """Values (..., *shape) at lam (...)."""
        h, u, (y0, y1, m0, m1, _) = self._cell(lam)
        rising = u**2 * (3.0 - 2.0 * u)
        return y0 + rising * (y1 - y0) + h * u * (1.0 - u) * ((1.0 - u) * m0 - u * m1)

    def integral(self, lam: Any) -> Any:
        """The integral from the first knot to lam."""
        h, u, (y0, y1, m0, m1, before) = self._cell(lam)
        rising = u**3 - 0.5 * u**4
        bend = (u**2 / 2 - 2 * u**3 / 3 + u**4 / 4) * m0 - (u**3 / 3 - u**4 / 4) * m1
        return before + h * (u * y0 + rising * (y1 - y0) + h * bend)

    def _cell(self, lam: Any) -> Any:
        xp = namespace(lam, self.knots, self.values)
        cell = xp.clip(xp.searchsorted(self.knots, lam, side="right") - 1, 0, self.knots.shape[0] - 2)
        each = (...,) + (None,) * (self.values.ndim - 1)
        h = xp.asarray(self.knots)[cell + 1] - xp.asarray(self.knots)[cell]
        u = (lam - xp.asarray(self.knots)[cell]) / h
        values, slopes, integrals = map(xp.asarray, (self.values, self.slopes, self.integrals))
        corners = values[cell], values[cell + 1], slopes[cell], slopes[cell + 1], integrals[cell]
        return h[each], u[each], corners


def fit_statistics(
    denoiser: Denoiser,
    samples: Float[Array, "K ..."],
    lam: Float[Array, " M"] | Any,
    key: PRNGKeyArray,
    *,
    batch_size: int | None = None,
) -> Statistics:
    """The empirical model statistics of a denoiser (arXiv:2310.13268, section 3.2).

    - `samples`: clean states (K, ...), data or results of a sampler; about a thousand.
    - `lam`: where to fit, (M,) growing numbers that cover the grids to come; 50 to 200.
    - `batch_size`: how many samples the network sees at once (a divisor of K); None: all.

    l is the mean diagonal of the Jacobian of sigma eps, estimated with one random sign for each component; s
    and b are the regression of df/dlam along the ODE's paths on f. Where f does not vary, s = 0. Every lam
    sees the same noise and signs, so that the statistics are smooth. The network must not mix samples.

    Cost: for each lam and sample three evaluations and two forward-mode derivatives.
    """
    size = samples.shape[0] if batch_size is None else batch_size
    if size < 1 or samples.shape[0] % size:
        raise ValueError(f"`batch_size` must divide the {samples.shape[0]} samples, got {size}.")
    knots = np.asarray(lam, np.float64)
    noise_key, sign_key = jr.split(key)
    noise = jr.normal(noise_key, samples.shape, samples.dtype)
    signs = jr.rademacher(sign_key, samples.shape, samples.dtype)
    blocks = [value.reshape(-1, size, *samples.shape[1:]) for value in (jnp.asarray(samples), noise, signs)]
    times = on_host(denoiser.schedule).t_of_lam(knots)
    # The ends survive the round trip only up to rounding.
    at = jnp.asarray(knots, samples.dtype), jnp.asarray(times, samples.dtype)
    slope = _mean_diagonal(denoiser, at, blocks)
    linear = Spline.through(knots, np.asarray(slope, np.float64))
    linear = jax.tree.map(lambda leaf: jnp.asarray(leaf, samples.dtype), linear)
    s, b = _regression(denoiser, linear, at[0], blocks)
    return Statistics(knots, *(np.asarray(value, np.float64) for value in (slope, s, b)))


@eqx.filter_jit
def _mean_diagonal(denoiser: Denoiser, at: tuple[Array, Array], blocks: list[Array]) -> Array:
    def of_time(t: Array) -> Array:
        alpha, sigma = denoiser.schedule.alpha(t), denoiser.schedule.sigma(t)

        def of_block(total: Array, block: Any) -> tuple[Array, None]:
            x0, noise, signs = block
            x = alpha * x0 + sigma * noise
            _, change = jax.jvp(lambda x: denoiser.eps(x, t), (x,), (signs,))
            return total + jnp.sum(sigma * signs * change, axis=0), None

        total, _ = jax.lax.scan(of_block, jnp.zeros_like(blocks[0][0, 0]), tuple(blocks))
        return total / (blocks[0].shape[0] * blocks[0].shape[1])

    return jax.lax.map(of_time, at[1])


@eqx.filter_jit
def _regression(denoiser: Denoiser, linear: Spline, knots: Array, blocks: list[Array]) -> tuple[Array, Array]:
    schedule = denoiser.schedule

    def scaled_eps(lam: Array, z: Array) -> Array:
        t = schedule.t_of_lam(lam)
        return jnp.exp(-lam) * denoiser.eps(schedule.alpha(t) * z, t)

    def rest(lam: Array, z: Array) -> Array:
        return scaled_eps(lam, z) - linear(lam) * z

    def of_lam(lam: Array) -> tuple[Array, Array]:
        def of_block(sums: Any, block: Any) -> tuple[Any, None]:
            x0, noise, _ = block
            z = x0 + jnp.exp(-lam) * noise
            f, rate = jax.jvp(rest, (lam, z), (jnp.ones_like(lam), -scaled_eps(lam, z)))
            terms = f, rate, f * f, f * rate
            return tuple(s + jnp.sum(term, axis=0) for s, term in zip(sums, terms, strict=True)), None

        zero = jnp.zeros_like(blocks[0][0, 0])
        sums, _ = jax.lax.scan(of_block, (zero, zero, zero, zero), tuple(blocks))
        f, rate, square, product = (s / (blocks[0].shape[0] * blocks[0].shape[1]) for s in sums)
        variance = square - f * f
        varies = variance > jnp.sqrt(jnp.finfo(f.dtype).eps) * square
        s = jnp.where(varies, (product - f * rate) / jnp.where(varies, variance, 1.0), 0.0)
        return s, rate - s * f

    return jax.lax.map(of_lam, knots)

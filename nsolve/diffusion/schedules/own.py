"""Noise schedules that a user brings: a table of a network's training, or two functions of the time."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arrays import common_dtype, is_traced, namespace
from .base import Ranged, check_ends, level_of, log, log_alpha_preserving, log_sigma_preserving, time_of

_Number = Any  # a float, a NumPy array or a JAX array


class Discrete(Ranged):
    """The schedule of a network that was trained at integer times 0 ... T-1.

    `alphas_cumprod` (T,) holds alpha^2 at these times, as DDPM's code calls it; `t` is the index, and between
    two integers log alpha is interpolated linearly (as DPM-Solver does, arXiv:2206.00927). An array that ends
    in 0 (no signal at T-1) is legal; then sampling cannot begin there from an `eps` or `score` prediction.
    """

    log_alphas: jax.Array | np.ndarray
    t_min: float
    t_max: float

    def __init__(self, alphas_cumprod: _Number):
        if is_traced(alphas_cumprod):
            self.log_alphas = 0.5 * jnp.log(alphas_cumprod)
        else:
            values = np.asarray(alphas_cumprod, np.float64)
            if values.ndim != 1 or len(values) < 2:
                raise ValueError(
                    f"`alphas_cumprod` must be an array of two or more numbers, got shape {values.shape}."
                )
            if not (np.all(np.diff(values) < 0) and values[0] <= 1 and values[-1] >= 0):
                raise ValueError("`alphas_cumprod` must fall strictly within [0, 1].")
            self.log_alphas = 0.5 * log(values)
        self.t_min = 0.0
        self.t_max = float(self.log_alphas.shape[0] - 1)

    @property
    def ends(self) -> tuple[_Number, _Number]:
        return self.t_min, self.t_max

    def log_alpha(self, t: _Number) -> _Number:
        t = time_of(self, t)
        times = np.arange(self.log_alphas.shape[0], dtype=float)
        # An end without signal has an infinite logarithm, which no interpolation survives.
        table, xp = self.log_alphas, namespace(t, self.log_alphas)
        finite = xp.where(xp.isneginf(table[-1:]), table[-2:-1], table[-1:])
        values = _interpolate(t, times, xp.concatenate([table[:-1], finite]))
        return xp.where(xp.isneginf(table[-1]) & (t > float(times[-2])), -np.inf, values)

    def log_sigma(self, t: _Number) -> _Number:
        return log_sigma_preserving(self.log_alpha(t))

    def t_of_lam(self, lam: _Number) -> _Number:
        lam = level_of(self, lam)
        times = np.arange(self.log_alphas.shape[0], dtype=float)
        return _interpolate(log_alpha_preserving(lam), self.log_alphas[::-1], times[::-1])

    def model_time(self, t: _Number) -> _Number:
        return time_of(self, t)


def _interpolate(x: _Number, nodes: _Number, values: _Number) -> _Number:
    """Linear between nodes; in the dtype of x, or JAX's default where that is NumPy's and a table is not."""
    if namespace(x, nodes, values) is np:
        return np.interp(x, nodes, values)
    x = x if isinstance(x, jax.Array) else jnp.asarray(x, float)
    wide = common_dtype(x, nodes, values)
    return jnp.interp(x.astype(wide), jnp.asarray(nodes, wide), jnp.asarray(values, wide)).astype(x.dtype)


class FromFunctions(Ranged):
    """A schedule from two functions of the time, written with `jax.numpy`; they may be Equinox modules with
    parameters.

    lam(t) has to fall strictly over [t_min, t_max]; its inverse is found by bisection, and differentiated by
    the implicit function theorem.
    """

    log_alpha_function: Callable[[_Number], _Number]
    log_sigma_function: Callable[[_Number], _Number]
    t_min: float
    t_max: float

    def __check_init__(self):
        check_ends(self)

    @property
    def ends(self) -> tuple[_Number, _Number]:
        return self.t_min, self.t_max

    def log_alpha(self, t: _Number) -> _Number:
        return self._call(self.log_alpha_function, time_of(self, t))

    def log_sigma(self, t: _Number) -> _Number:
        return self._call(self.log_sigma_function, time_of(self, t))

    def t_of_lam(self, lam: _Number) -> _Number:
        xp = jnp if is_traced(self) else namespace(lam)
        lam = xp.asarray(level_of(self, lam))
        frozen = jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf, self)
        goal = jax.lax.stop_gradient(lam) if xp is jnp else lam
        low, high = xp.full_like(goal, self.t_min), xp.full_like(goal, self.t_max)
        for _ in range(60):  # to the last digit of float64
            middle = 0.5 * (low + high)
            noisy = frozen.lam(middle) < goal
            low, high = xp.where(noisy, low, middle), xp.where(noisy, middle, high)
        t = 0.5 * (low + high)
        if xp is np:
            return t
        _, slope = jax.jvp(frozen.lam, (t,), (jnp.ones_like(t),))
        return t - (self.lam(t) - lam) / slope  # changes nothing but the derivative

    def model_time(self, t: _Number) -> _Number:
        return time_of(self, t)

    def _call(self, function: Callable[[_Number], _Number], t: _Number) -> _Number:
        if namespace(t) is jnp or is_traced(self):
            return function(jnp.asarray(t))
        with jax.enable_x64(True), jax.ensure_compile_time_eval():
            return np.asarray(function(jnp.asarray(t, jnp.float64)), np.float64)

"""Noise schedules: how much signal and how much noise a state holds at time t.

A state is x = alpha(t) x0 + sigma(t) eps. Everything that a sampler needs follows from `log_alpha`,
`log_sigma` and lam = log_alpha - log_sigma (half of the logarithm of the signal-to-noise ratio), which grows
during sampling. Methods take a time or an array of times; on NumPy arrays they work in float64 on the host,
on JAX arrays, in the dtype of the times, they are differentiable in these and in the fields of the schedule.
At an end without signal or without noise, where a logarithm is infinite, its derivative counts as zero.

A time or a lam outside the range of a schedule raises ValueError; a traced one gives NaN.
"""

import math
from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arrays import is_traced, namespace
from .._range import inside

_Number = Any  # a float, a NumPy array or a JAX array


def log(value: _Number) -> _Number:
    """log with log(0) = -inf, derivative zero there, and no warning."""
    if namespace(value) is np:
        with np.errstate(divide="ignore"):
            return np.log(value)
    zero = value == 0
    return jnp.where(zero, -jnp.inf, jnp.log(jnp.where(zero, 1.0, value)))


def _like(t: _Number, *parameters: _Number) -> tuple[_Number, ...]:
    """A schedule's numbers in the dtype of the times, which is JAX's default where these are NumPy's."""
    if namespace(t, *parameters) is np:
        return parameters
    dtype = t.dtype if isinstance(t, jax.Array) else float
    return tuple(float(p) if isinstance(p, int | float) else jnp.asarray(p, dtype) for p in parameters)


def log_sigma_preserving(log_alpha: _Number) -> _Number:
    """log sqrt(1 - alpha^2) without the cancellation at alpha ~ 1."""
    return 0.5 * log(-namespace(log_alpha).expm1(2.0 * log_alpha))


def log_alpha_preserving(lam: _Number) -> _Number:
    """log alpha of a schedule with alpha^2 + sigma^2 = 1 at the given lam."""
    return -0.5 * namespace(lam).logaddexp(0.0, -2.0 * lam)


class AbstractSchedule(eqx.Module):
    """What every schedule offers. `t_max` is where sampling begins, `t_min` where it ends.

    `model_time(t)` is the time that the network is told.
    """

    t_min: eqx.AbstractVar[float]
    t_max: eqx.AbstractVar[float]

    @abstractmethod
    def log_alpha(self, t: _Number) -> _Number:
        """Logarithm of the signal's factor."""

    @abstractmethod
    def log_sigma(self, t: _Number) -> _Number:
        """Logarithm of the noise's factor (-inf where there is no noise)."""

    @abstractmethod
    def t_of_lam(self, lam: _Number) -> _Number:
        """The time at which `lam` is reached."""

    @abstractmethod
    def model_time(self, t: _Number) -> _Number:
        """The time that the network is told."""

    def lam(self, t: _Number) -> _Number:
        """Half of the logarithm of the signal-to-noise ratio, log(alpha / sigma)."""
        return self.log_alpha(t) - self.log_sigma(t)

    def alpha(self, t: _Number) -> _Number:
        log_alpha = self.log_alpha(t)
        return namespace(log_alpha).exp(log_alpha)

    def sigma(self, t: _Number) -> _Number:
        log_sigma = self.log_sigma(t)
        return namespace(log_sigma).exp(log_sigma)


class Ranged(AbstractSchedule):
    """A schedule that knows which times it has."""

    @property
    @abstractmethod
    def ends(self) -> tuple[_Number, _Number]:
        """The first time and the last."""


# Functions, since a method of a module costs as much as the rest of their work.
def time_of(schedule: Ranged, t: _Number) -> _Number:
    """The time, in the schedule's range."""
    return inside(t, *schedule.ends, "t", schedule)


def level_of(schedule: Ranged, lam: _Number) -> _Number:
    """The level of noise, in the schedule's range."""
    first, last = schedule.ends
    return inside(lam, schedule.lam(last), schedule.lam(first), "lam", schedule)


def _unit_range(schedule: AbstractSchedule) -> tuple[float, float]:
    """[0, 1], or what the user says to be more."""
    if is_traced((schedule.t_min, schedule.t_max)):
        return 0.0, 1.0
    return min(0.0, schedule.t_min), max(1.0, schedule.t_max)


def check_ends(schedule: AbstractSchedule, least: float = -np.inf, most: float = np.inf) -> None:
    first, last = schedule.t_min, schedule.t_max
    if not is_traced((first, last)) and not least <= first < last <= most:
        raise ValueError(
            f"`t_min` must be less than `t_max`, within [{least:g}, {most:g}], got {first} and {last}."
        )


def _check_positive(schedule: AbstractSchedule, *names: str) -> None:
    for name in names:
        value = getattr(schedule, name)
        if not is_traced(value) and not (np.ndim(value) == 0 and 0 < value < np.inf):
            raise ValueError(f"`{name}` must be a positive number, got {value}.")


class VPLinear(Ranged):
    """Variance preserving with a rate that grows linearly: d log alpha / dt = -(beta_min + t (beta_max -
    beta_min))/2.

    The continuous form of DDPM's schedule; t in [0, 1] (Song et al., arXiv:2011.13456).
    """

    beta_min: float | jax.Array = 0.1
    beta_max: float | jax.Array = 20.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def __check_init__(self):
        check_ends(self)
        _check_positive(self, "beta_max")
        if not is_traced(self.beta_min) and not self.beta_min >= 0:
            raise ValueError(f"`beta_min` must not be negative, got {self.beta_min}.")

    @property
    def ends(self) -> tuple[_Number, _Number]:
        return _unit_range(self)

    def log_alpha(self, t: _Number) -> _Number:
        t = time_of(self, t)
        beta_min, beta_max = _like(t, self.beta_min, self.beta_max)
        return -0.25 * t**2 * (beta_max - beta_min) - 0.5 * t * beta_min

    def log_sigma(self, t: _Number) -> _Number:
        return log_sigma_preserving(self.log_alpha(t))

    def t_of_lam(self, lam: _Number) -> _Number:
        # The root of the quadratic without cancellation.
        lam = level_of(self, lam)
        beta_min, beta_max = _like(lam, self.beta_min, self.beta_max)
        xp = namespace(lam, beta_min, beta_max)
        length = -2.0 * log_alpha_preserving(lam)
        discriminant = beta_min**2 + 2.0 * (beta_max - beta_min) * length
        return 2.0 * length / (xp.sqrt(discriminant) + beta_min)

    def model_time(self, t: _Number) -> _Number:
        return time_of(self, t)


class VPCosine(Ranged):
    """Variance preserving, alpha a quarter of a cosine (Nichol & Dhariwal, arXiv:2102.09672).

    `t_max` stops short of 1, where no signal would be left.
    """

    offset: float = 0.008
    t_min: float = 1e-3
    t_max: float = 0.9946

    def __check_init__(self):
        check_ends(self, 0.0, 1.0)
        if not is_traced(self.offset) and not 0 <= self.offset < np.inf:
            raise ValueError(f"`offset` must not be negative, got {self.offset}.")

    @property
    def ends(self) -> tuple[_Number, _Number]:
        return 0.0, 1.0

    def _angle(self, t: _Number) -> _Number:
        return (t + self.offset) / (1.0 + self.offset) * (np.pi / 2)

    def log_alpha(self, t: _Number) -> _Number:
        angle = self._angle(time_of(self, t))
        xp = namespace(angle)
        return log(xp.maximum(xp.cos(angle), 0.0)) - math.log(math.cos(self._angle(0.0)))

    def log_sigma(self, t: _Number) -> _Number:
        # 1 - cos^2 u / cos^2 u0 = sin(u - u0) sin(u + u0) / cos^2 u0 has no cancellation at t ~ 0.
        t, xp = time_of(self, t), namespace(t)
        angle, first = self._angle(t), self._angle(0.0)
        difference = t / (1.0 + self.offset) * (np.pi / 2)
        return 0.5 * log(xp.sin(difference) * xp.sin(angle + first)) - math.log(math.cos(first))

    def t_of_lam(self, lam: _Number) -> _Number:
        # alpha/sigma = e^lam gives tan u; arctan2 keeps its digits at both ends.
        lam, xp = level_of(self, lam), namespace(lam)
        first = self._angle(0.0)
        # sigma^2 cos^2 u0 = cos^2 u0 - cos^2 u, so tan^2 u = (sin^2 u0 + e^{-2 lam}) / cos^2 u0.
        tangent = xp.sqrt(math.sin(first) ** 2 + xp.exp(-2.0 * lam)) / math.cos(first)
        return xp.arctan(tangent) * (2.0 * (1.0 + self.offset) / np.pi) - self.offset

    def model_time(self, t: _Number) -> _Number:
        return time_of(self, t)


class VE(Ranged):
    """Variance exploding: alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t, t in [0, 1]
    (arXiv:2011.13456)."""

    sigma_min: float | jax.Array = 0.01
    sigma_max: float | jax.Array = 50.0
    t_min: float = 0.0
    t_max: float = 1.0

    def __check_init__(self):
        check_ends(self)
        _check_positive(self, "sigma_min", "sigma_max")
        if not is_traced((self.sigma_min, self.sigma_max)) and not self.sigma_min < self.sigma_max:
            raise ValueError(
                f"`sigma_min` must be less than `sigma_max`, got {self.sigma_min} and {self.sigma_max}."
            )

    @property
    def ends(self) -> tuple[_Number, _Number]:
        return _unit_range(self)

    def log_alpha(self, t: _Number) -> _Number:
        return 0.0 * time_of(self, t)

    def log_sigma(self, t: _Number) -> _Number:
        t = time_of(self, t)
        first, last = _like(t, log(self.sigma_min), log(self.sigma_max))
        return first + t * (last - first)

    def t_of_lam(self, lam: _Number) -> _Number:
        lam = level_of(self, lam)
        first, last = _like(lam, log(self.sigma_min), log(self.sigma_max))
        return (-lam - first) / (last - first)

    def model_time(self, t: _Number) -> _Number:
        return time_of(self, t)


class EDM(Ranged):
    """alpha = 1 and sigma = t in [0, t_max]: the time is the noise (Karras et al., arXiv:2206.00364)."""

    t_min: float = 0.002
    t_max: float = 80.0

    def __check_init__(self):
        check_ends(self, 0.0)

    @property
    def ends(self) -> tuple[_Number, _Number]:
        return 0.0, self.t_max

    def log_alpha(self, t: _Number) -> _Number:
        return 0.0 * time_of(self, t)

    def log_sigma(self, t: _Number) -> _Number:
        return log(time_of(self, t))

    def t_of_lam(self, lam: _Number) -> _Number:
        return namespace(lam).exp(-level_of(self, lam))

    def model_time(self, t: _Number) -> _Number:
        return time_of(self, t)


class Flow(Ranged):
    """The straight path alpha = 1 - s, sigma = s with s = shift t / (1 + (shift - 1) t), t in [0, 1].

    Rectified flow and flow matching (arXiv:2209.03003, 2210.02747); `shift` moves the grid towards the noise
    as large images need it (arXiv:2403.03206). Networks of this kind are told s, so `model_time(t)` is s.
    At t = 1 there is no signal: only `x0`, `v` and `flow` predictions can begin there, and a grid in lam
    cannot.
    """

    shift: float | jax.Array = 1.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def __check_init__(self):
        check_ends(self, 0.0, 1.0)
        _check_positive(self, "shift")

    @property
    def ends(self) -> tuple[_Number, _Number]:
        return 0.0, 1.0

    def log_alpha(self, t: _Number) -> _Number:
        t = time_of(self, t)
        (shift,) = _like(t, self.shift)
        return log((1.0 - t) / (1.0 + (shift - 1.0) * t))

    def log_sigma(self, t: _Number) -> _Number:
        return log(self.model_time(t))

    def t_of_lam(self, lam: _Number) -> _Number:
        lam = level_of(self, lam)
        (shift,) = _like(lam, self.shift)
        # s = 1 / (1 + e^lam); solving the shift for t gives s / (shift - (shift - 1) s).
        return 1.0 / (1.0 + shift * namespace(lam, shift).exp(lam))

    def model_time(self, t: _Number) -> _Number:
        t = time_of(self, t)
        (shift,) = _like(t, self.shift)
        return shift * t / (1.0 + (shift - 1.0) * t)


class TrueTime(AbstractSchedule):
    """Another schedule, whose network is told the schedule's own time: for networks made of a `Denoiser`."""

    schedule: AbstractSchedule
    t_min: float
    t_max: float

    def __init__(self, schedule: AbstractSchedule):
        self.schedule, self.t_min, self.t_max = schedule, schedule.t_min, schedule.t_max

    def log_alpha(self, t: _Number) -> _Number:
        return self.schedule.log_alpha(t)

    def log_sigma(self, t: _Number) -> _Number:
        return self.schedule.log_sigma(t)

    def t_of_lam(self, lam: _Number) -> _Number:
        return self.schedule.t_of_lam(lam)

    def model_time(self, t: _Number) -> _Number:
        return t

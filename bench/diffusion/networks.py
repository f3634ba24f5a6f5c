"""Networks of a known cost, to measure samplers by: pictures to which they are applied."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

NETWORKS = ("trivial", "convolutions")


@dataclass(frozen=True)
class Images:
    """Square images and a network that sees noise in them: `trivial` (a factor) or two `convolutions`."""

    batch: int = 16
    side: int = 64
    channels: int = 3
    network: str = "trivial"

    def __post_init__(self):
        if self.network not in NETWORKS:
            raise ValueError(f"network must be one of {NETWORKS}, got {self.network!r}")

    def start(self, dtype: str) -> np.ndarray:
        shape = (self.batch, self.side, self.side, self.channels)
        return np.random.default_rng(0).standard_normal(shape).astype(dtype)

    def model(self, dtype: str) -> Callable[[Any, Any], Any]:
        return Trivial() if self.network == "trivial" else Convolutions(self.channels, dtype)


class Trivial(eqx.Module):
    """Calls a tenth of the state noise."""

    def __call__(self, x: jax.Array, t: jax.Array) -> jax.Array:
        del t
        return 0.1 * x


class Convolutions(eqx.Module):
    """Two convolutions with 16 features between them, whose values reverse mode has to keep or to find
    again."""

    kernels: tuple[jax.Array, jax.Array]

    def __init__(self, channels: int, dtype: str):
        first, second = jr.split(jr.key(0))
        self.kernels = (
            0.1 * jr.normal(first, (3, 3, channels, 16), dtype),
            0.1 * jr.normal(second, (3, 3, 16, channels), dtype),
        )

    def __call__(self, x: jax.Array, t: jax.Array) -> jax.Array:
        def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )

        inner = jax.nn.silu(convolve(x, self.kernels[0]) + t.astype(x.dtype) / 1000)
        return convolve(inner, self.kernels[1])


class _Count:
    """How often a network was traced."""

    traces = 0


class Counted(eqx.Module):
    """A network that counts how often it is traced: at each compilation, and never else."""

    model: Callable[[Any, Any], Any]
    count: _Count = eqx.field(static=True, default_factory=_Count)

    def __call__(self, x: jax.Array, t: jax.Array) -> jax.Array:
        self.count.traces += 1
        return self.model(x, t)

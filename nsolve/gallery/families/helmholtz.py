"""Waves in a closed square: Helmholtz's equation with several wavelengths inside, so truly indefinite.

The data of Wang et al. (arXiv:2401.09516) have one wave number below 1 for each system, far below the first
resonance, which leaves the matrix positive definite; `waves=0` gives that form.
"""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ...operators import StencilLinearOperator
from ..fields import gaussian_random_field
from ..grids import combined
from .base import SYMMETRIC, AbstractGridFamily, Parameter, field_feature


class Helmholtz(AbstractGridFamily):
    """`-div(a grad u) - k^2 u = f` on the unit square, zero on the walls.

    `a = exp(g1 / 2)` and `k = 2 pi waves (1 + g2 / 2)` with Gaussian fields `g1, g2` (`alpha = 2.5`, `tau =
    7`); `waves` is the number of wavelengths along an axis, `f` a fixed narrow source off the centre. With
    `waves = 0`, `k` is one random number in (0, 1) for each system.

    Symmetric; with `waves >= 1` indefinite, and the further a `k` comes to a resonance the worse
    conditioned.  Ten cells for each wavelength at the least.  A neural operator learns `(a, k) -> u`.
    """

    size: int = eqx.field(static=True)
    waves: float = eqx.field(static=True, default=2.0)
    num_solves: ClassVar[int] = 1
    name: ClassVar[str] = "helmholtz"
    channels: ClassVar[tuple[str, ...]] = ("medium", "wave number")

    def __check_init__(self):
        if isinstance(self.waves, str) or not 0 <= self.waves < math.inf:
            raise ValueError(f"`waves` of helmholtz must be a number >= 0, but is {self.waves!r}.")
        if self.size < 10 * self.waves:
            raise ValueError(
                f"`size` is {self.size}, but {self.waves:g} wavelengths need at least ten cells each; "
                f"use a size of {math.ceil(10 * self.waves)} or more, or fewer waves."
            )

    def sample(self, key: PRNGKeyArray) -> Parameter:
        medium, number = jax.random.split(key)
        a = jnp.exp(gaussian_random_field(medium, self.grid) / 2)
        if self.waves:
            k = 2 * math.pi * self.waves * (1 + gaussian_random_field(number, self.grid) / 2)
        else:
            k = jnp.full(self.grid, jax.random.uniform(number))
        return {"medium": a, "wave_number": k}

    def stencil(self, parameter: Parameter) -> StencilLinearOperator:
        diffusion = StencilLinearOperator.diffusion(parameter["medium"], self.spacing, "dirichlet")
        return combined(diffusion, 1.0, -(parameter["wave_number"] ** 2), SYMMETRIC)

    def reference(self) -> StencilLinearOperator:
        return StencilLinearOperator.diffusion(jnp.ones(self.grid), self.spacing, "dirichlet")

    def vector(self, parameter: Parameter, previous: Array | None = None) -> Array:
        x = (np.arange(self.size) + 0.5) * self.spacing
        source = np.exp(-((x[:, None] - 0.4) ** 2 + (x - 0.3) ** 2) / (2 * 0.1**2))
        return jnp.asarray(source.ravel(), parameter["medium"].dtype)

    def features(self, parameter: Parameter) -> Array:
        k = parameter["wave_number"] / (2 * math.pi * self.waves or 1.0)
        return jnp.concatenate([field_feature(jnp.log(parameter["medium"])), field_feature(k)])

    def input_field(self, parameter: Parameter) -> Array:
        return jnp.stack([parameter["medium"], parameter["wave_number"]])

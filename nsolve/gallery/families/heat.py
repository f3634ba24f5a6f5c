"""Heat spreading in an uneven square: one sample is a trajectory, its systems are the time steps'.

A user of the data wants the state at a time `T` that one implicit step does not reach accurately, so a
sample is solved step by step and holds the initial field, the conductivity and the field at `T`.
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
from .base import DEFINITE, AbstractGridFamily, Parameter, field_feature


class Heat(AbstractGridFamily):
    """`u_t = div(a grad u)` on the unit square, zero on the walls, from `t = 0` to `time`.

    Crank and Nicolson's method in `steps` equal steps `dt`: `(I + dt/2 A) u_new = (I - dt/2 A) u_old`, second
    order.  `a = exp(g)` with a Gaussian field `g` (`alpha = 2.5`, `tau = 7`); the start is a sum of four
    bumps of random places, heights and widths (0.05 to 0.15).  Symmetric positive definite.  A neural
    operator learns `(u(0), a) -> u(time)`.
    """

    size: int = eqx.field(static=True)
    time: float = eqx.field(static=True, default=0.02)
    steps: int = eqx.field(static=True, default=20)
    name: ClassVar[str] = "heat"
    channels: ClassVar[tuple[str, ...]] = ("start", "conductivity")

    def __check_init__(self):
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"`steps` of heat must be an integer >= 1, but is {self.steps!r}.")
        if isinstance(self.time, str) or not 0 < self.time < math.inf:
            raise ValueError(f"`time` of heat must be a positive number, but is {self.time!r}.")

    @property
    def num_solves(self) -> int:
        return self.steps

    def sample(self, key: PRNGKeyArray) -> Parameter:
        conductivity, places, widths, heights = jax.random.split(key, 4)
        x = (np.arange(self.size)[None] + 0.5) * self.spacing
        centres = jax.random.uniform(places, (4, 2, 1), minval=0.2, maxval=0.8)
        width = jax.random.uniform(widths, (4, 1), minval=0.05, maxval=0.15)
        along = jnp.exp(-((x - centres[:, 0]) ** 2) / (2 * width**2))
        across = jnp.exp(-((x - centres[:, 1]) ** 2) / (2 * width**2))
        height = jax.random.normal(heights, (4,))
        return {
            "start": jnp.einsum("b,bi,bj->ij", height, along, across),
            "conductivity": jnp.exp(gaussian_random_field(conductivity, self.grid)),
        }

    def stencil(self, parameter: Parameter) -> StencilLinearOperator:
        return self._step(parameter, 0.5 * self.time / self.steps)

    def reference(self) -> StencilLinearOperator:
        return self.stencil({"conductivity": jnp.ones(self.grid)})

    def vector(self, parameter: Parameter, previous: Array | None = None) -> Array:
        u = parameter["start"] if previous is None else previous.reshape(self.grid)
        return self._step(parameter, -0.5 * self.time / self.steps).mv(u).ravel()

    def _step(self, parameter: Parameter, scale: float) -> StencilLinearOperator:
        a = StencilLinearOperator.diffusion(parameter["conductivity"], self.spacing, "dirichlet")
        return combined(a, scale, 1.0, DEFINITE)

    def features(self, parameter: Parameter) -> Array:
        start = field_feature(parameter["start"])
        return jnp.concatenate([start, field_feature(jnp.log(parameter["conductivity"]))])

    def input_field(self, parameter: Parameter) -> Array:
        return jnp.stack([parameter["start"], parameter["conductivity"]])

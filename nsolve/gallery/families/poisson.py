"""Poisson's equation with random sources and wall temperatures, in a mildly uneven medium.

Wang et al. (arXiv:2401.09516) keep the medium, and with it the matrix, fixed, on a finite-element mesh:
then only right-hand sides differ, and a factorisation of the one matrix beats any iteration. Here the
medium varies too, on a regular grid, so that the systems differ as those of a simulation do.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from ...operators import StencilLinearOperator
from ..fields import chebyshev_coefficients, chebyshev_values
from .base import AbstractGridFamily, Parameter, field_feature


class Poisson(AbstractGridFamily):
    """`-div(a grad u) = f` on the unit square with values given on the four walls.

    `f` and the wall values are random Chebyshev polynomials (of degrees below 6 along each axis), and
    `a = exp(q)` with `|q| <= 0.5` another one (degrees below 4).  Wall values may differ in the corners,
    where no unknown lies.  Symmetric positive definite.  A neural operator learns
    `(a, f, wall values) -> u`; each wall's values fill a channel, constant in the direction across.
    """

    size: int = eqx.field(static=True)
    num_solves: ClassVar[int] = 1
    name: ClassVar[str] = "poisson"
    channels: ClassVar[tuple[str, ...]] = ("medium", "source", "top", "bottom", "left", "right")

    def sample(self, key: PRNGKeyArray) -> Parameter:
        medium, source, walls = jax.random.split(key, 3)
        q = chebyshev_coefficients(medium, (4, 4))
        q = 0.5 * q / jnp.sum(jnp.abs(q))  # |T_i| <= 1 bounds the polynomial
        f = chebyshev_values(chebyshev_coefficients(source, (6, 6)), self.size)
        coefficients = jax.vmap(lambda key: chebyshev_coefficients(key, (6,)))(jax.random.split(walls, 4))
        return {
            "medium": jnp.exp(chebyshev_values(q, self.size)),
            "source": f,
            "walls": jax.vmap(lambda c: chebyshev_values(c, self.size))(coefficients),
        }

    def stencil(self, parameter: Parameter) -> StencilLinearOperator:
        return StencilLinearOperator.diffusion(parameter["medium"], self.spacing, "dirichlet")

    def reference(self) -> StencilLinearOperator:
        return self.stencil({"medium": jnp.ones(self.grid)})

    def vector(self, parameter: Parameter, previous: Array | None = None) -> Array:
        top, bottom, left, right = parameter["walls"]
        # A wall is half a cell away from the centres, so its conductance is twice that of a face.
        a, b = 2 * parameter["medium"] / self.spacing**2, parameter["source"]
        b = b.at[0].add(a[0] * top).at[-1].add(a[-1] * bottom)
        return b.at[:, 0].add(a[:, 0] * left).at[:, -1].add(a[:, -1] * right).ravel()

    def features(self, parameter: Parameter) -> Array:
        medium, source = field_feature(jnp.log(parameter["medium"])), field_feature(parameter["source"])
        return jnp.concatenate([medium, source, *map(field_feature, parameter["walls"])])

    def input_field(self, parameter: Parameter) -> Array:
        top, bottom, left, right = parameter["walls"]
        rows = [jnp.broadcast_to(wall, self.grid) for wall in (top, bottom)]
        columns = [jnp.broadcast_to(wall[:, None], self.grid) for wall in (left, right)]
        return jnp.stack([parameter["medium"], parameter["source"], *rows, *columns])

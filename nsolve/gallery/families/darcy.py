"""Flow through a porous square: `-div(a grad u) = 1` with a random permeability `a`.

In divergence form, unlike the generator that was released with the data of Wang et al. (arXiv:2401.09516):
that one multiplies the columns of one fixed Laplacian, which is not a discretisation of this equation.
"""

from typing import ClassVar, Literal, get_args

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from ...operators import StencilLinearOperator
from .._checks import choice
from ..fields import gaussian_random_field
from .base import AbstractGridFamily, Parameter, field_feature

Field = Literal["lognormal", "threshold"]


class Darcy(AbstractGridFamily):
    """`-div(a grad u) = 1` on the unit square, zero on the walls; finite volumes, harmonic face means.

    `field` is `lognormal`, `a = exp(g)`, or `threshold`, `a = 12` where `g > 0` and 3 elsewhere; `g` is a
    Gaussian field with `alpha = 2.5`, `tau = 7`.  Symmetric positive definite.  A neural operator learns
    `a -> u`.
    """

    size: int = eqx.field(static=True)
    field: Field = eqx.field(static=True, default="lognormal")
    num_solves: ClassVar[int] = 1
    name: ClassVar[str] = "darcy"
    channels: ClassVar[tuple[str, ...]] = ("permeability",)

    def __check_init__(self):
        choice(self.field, "field", get_args(Field))

    def sample(self, key: PRNGKeyArray) -> Parameter:
        g = gaussian_random_field(key, self.grid)
        a = jnp.exp(g) if self.field == "lognormal" else jnp.where(g > 0, 12.0, 3.0)
        return {"permeability": a}

    def stencil(self, parameter: Parameter) -> StencilLinearOperator:
        return StencilLinearOperator.diffusion(parameter["permeability"], self.spacing, "dirichlet")

    def reference(self) -> StencilLinearOperator:
        return self.stencil({"permeability": jnp.ones(self.grid)})

    def vector(self, parameter: Parameter, previous: Array | None = None) -> Array:
        return jnp.ones_like(parameter["permeability"]).ravel()

    def features(self, parameter: Parameter) -> Array:
        return field_feature(jnp.log(parameter["permeability"]))

    def input_field(self, parameter: Parameter) -> Array:
        return parameter["permeability"][None]

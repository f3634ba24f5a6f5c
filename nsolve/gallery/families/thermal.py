"""Heat conduction through a square block with a slit, cold on the left and hot on the right.

Wang et al. (arXiv:2401.09516) solve Laplace's equation by finite elements and vary the two temperatures
only, which leaves the matrix fixed. Here the block's conductivity varies too.
"""

import functools
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, PRNGKeyArray

from ...operators import SparseLinearOperator, SparsityPattern, StencilLinearOperator
from ..fields import gaussian_random_field
from .base import DEFINITE, AbstractFamily, Parameter, field_feature


class Thermal(AbstractFamily):
    """`-div(a grad T) = 0` in the unit square without a slit (0.1 wide, 0.5 high, in the middle).

    `T` is a random number in (-100, 0) on the left wall and in (0, 100) on the right one; the other walls
    and the slit's are insulated. `a = exp(g)` with a Gaussian field `g` (`alpha = 2.5`, `tau = 7`). Finite
    volumes with harmonic face means; the slit's cells are no unknowns, and zero in all fields. Symmetric
    positive definite. A neural operator learns `(a, left, right) -> T`.
    """

    size: int = eqx.field(static=True)
    num_solves: ClassVar[int] = 1
    name: ClassVar[str] = "thermal"
    channels: ClassVar[tuple[str, ...]] = ("conductivity", "left", "right")

    def __check_init__(self):
        if self.size < 4:
            raise ValueError(f"`size` is {self.size}, but the block with its slit needs at least 4 cells.")

    def sample(self, key: PRNGKeyArray) -> Parameter:
        conductivity, left, right = jax.random.split(key, 3)
        return {
            "conductivity": jnp.exp(gaussian_random_field(conductivity, self.grid)),
            "left": jax.random.uniform(left, minval=-100.0, maxval=0.0),
            "right": jax.random.uniform(right, minval=0.0, maxval=100.0),
        }

    def stencil(self, parameter: Parameter) -> StencilLinearOperator:
        block = _block(self.size)
        whole = StencilLinearOperator.diffusion(
            parameter["conductivity"], self.spacing, ("neumann", "dirichlet")
        )
        coefficients: dict[tuple[int, ...], Array] = {}
        removed = 0.0
        for offset, coefficient in zip(whole.offsets, whole.coefficients, strict=True):
            if any(offset):
                joined = block.joined[offset]
                coefficients[offset] = jnp.where(joined, coefficient, 0)
                removed = removed + jnp.where(joined, 0, coefficient)
            else:
                coefficients[offset] = coefficient
        centre = coefficients[0, 0] + removed  # arms are negative: their faces leave the diagonal
        coefficients[0, 0] = jnp.where(block.inside, centre, 1 / self.spacing**2)
        return StencilLinearOperator(
            tuple(coefficients.values()), whole.offsets, whole.shape, whole.periodic, frozenset({DEFINITE})
        )

    def reference(self) -> StencilLinearOperator:
        return self.stencil({"conductivity": jnp.ones(self.grid)})

    def as_sparse(self, stencil: StencilLinearOperator) -> SparseLinearOperator:
        block, whole = _block(self.size), stencil.as_sparse()
        return SparseLinearOperator(whole.values[block.entries], block.pattern, whole.tags)

    def vector(self, parameter: Parameter, previous: Array | None = None) -> Array:
        conductance = 2 * parameter["conductivity"] / self.spacing**2
        b = jnp.zeros(self.grid, conductance.dtype)
        b = b.at[:, 0].set(conductance[:, 0] * parameter["left"])
        return self.flatten(b.at[:, -1].set(conductance[:, -1] * parameter["right"]))

    def features(self, parameter: Parameter) -> Array:
        temperatures = jnp.stack([parameter["left"], parameter["right"]]) / 100
        log_conductivity = jnp.log(self.flatten(parameter["conductivity"]))
        return jnp.concatenate([field_feature(log_conductivity), temperatures])

    def input_field(self, parameter: Parameter) -> Array:
        conductivity = jnp.where(_block(self.size).inside, parameter["conductivity"], 0)
        walls = [jnp.broadcast_to(parameter[side], self.grid) for side in ("left", "right")]
        return jnp.stack([conductivity, *walls])

    def solution_field(self, parameter: Parameter, x: Array) -> Array:
        field = jnp.zeros(self.size**2, x.dtype).at[_block(self.size).cells].set(x)
        return field.reshape(self.grid)

    def flatten(self, field: Array) -> Array:
        return field.ravel()[_block(self.size).cells]


class _Block:
    """Which cells of the grid are in the block, which neighbours are both, and the matrix's pattern."""

    def __init__(self, size: int):
        distance = np.abs((np.arange(size) + 0.5) / size - 0.5)
        # On coarse grids the slit is one or two cells wide, so that there is one.
        self.inside = ~((distance[:, None] < 0.25) & (distance < max(0.05, 0.75 / size)))
        (self.cells,) = np.nonzero(self.inside.ravel())
        # What leaves the grid comes back on the other side, which is inside, and has no arm there.
        self.joined: dict[tuple[int, ...], np.ndarray] = {
            ((step, 0), (0, step))[axis]: self.inside & np.roll(self.inside, -step, axis)
            for axis in (0, 1)
            for step in (-1, 1)
        }
        whole = StencilLinearOperator.poisson((size, size)).as_sparse().pattern
        numbers = sp.csr_array((np.arange(whole.nnz), whole.indices, whole.indptr), shape=whole.shape)
        block = numbers[self.cells][:, self.cells]
        block.sort_indices()
        self.entries = block.data
        self.pattern = SparsityPattern(block.indptr, block.indices, block.shape)


_block = functools.lru_cache(maxsize=16)(_Block)

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

import nsolve as ns

from .base import DEFINITE, AbstractFamily, Parameter, field_feature
from .random_fields import gaussian_random_field


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
    solver: ClassVar[str] = "cg+ic"

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

    def operator(self, parameter: Parameter) -> ns.SparseLinearOperator:
        mesh = _mesh(self.size)
        a = parameter["conductivity"].ravel()[mesh.cells]
        face = 2 / (1 / a[mesh.first] + 1 / a[mesh.second])
        wall = jnp.zeros_like(a).at[mesh.left].add(2 * a[mesh.left]).at[mesh.right].add(2 * a[mesh.right])
        diagonal = wall.at[mesh.first].add(face).at[mesh.second].add(face)
        values = jnp.concatenate([-face, -face, diagonal])[mesh.source] / self.spacing**2
        return ns.SparseLinearOperator(values, mesh.pattern, DEFINITE)

    def vector(self, parameter: Parameter, previous: Array | None = None) -> Array:
        mesh = _mesh(self.size)
        conductance = 2 * parameter["conductivity"].ravel()[mesh.cells] / self.spacing**2
        b = jnp.zeros_like(conductance)
        b = b.at[mesh.left].add(conductance[mesh.left] * parameter["left"])
        return b.at[mesh.right].add(conductance[mesh.right] * parameter["right"])

    def features(self, parameter: Parameter) -> Array:
        temperatures = jnp.stack([parameter["left"], parameter["right"]]) / 100
        a = parameter["conductivity"].ravel()[_mesh(self.size).cells]
        return jnp.concatenate([field_feature(jnp.log(a)), temperatures])

    def input_field(self, parameter: Parameter) -> Array:
        a = self.solution_field(parameter, parameter["conductivity"].ravel()[_mesh(self.size).cells])
        walls = [jnp.broadcast_to(parameter[side], self.grid) for side in ("left", "right")]
        return jnp.stack([a, *walls])

    def solution_field(self, parameter: Parameter, x: Array) -> Array:
        field = jnp.zeros(self.size**2, x.dtype).at[_mesh(self.size).cells].set(x)
        return field.reshape(self.grid)


class _Mesh:
    """The block's cells: which of the grid's they are, their faces, and where matrix entries go."""

    def __init__(self, size: int):
        centres = np.abs((np.arange(size) + 0.5) / size - 0.5)
        # On coarse grids the slit is one or two cells wide, so that there is one.
        slit = (centres[:, None] < 0.25) & (centres < max(0.05, 0.75 / size))
        number = np.full((size, size), -1)
        number[~slit] = np.arange(np.count_nonzero(~slit))
        (self.cells,) = np.nonzero(~slit.ravel())
        faces = [(number[:, :-1], number[:, 1:]), (number[:-1], number[1:])]
        first, second = (np.concatenate([pair[k].ravel() for pair in faces]) for k in (0, 1))
        inside = (first >= 0) & (second >= 0)
        self.first, self.second = first[inside], second[inside]
        self.left, self.right = number[:, 0], number[:, -1]
        diagonal = np.arange(len(self.cells))
        rows = np.concatenate([self.first, self.second, diagonal])
        columns = np.concatenate([self.second, self.first, diagonal])
        shape = (len(diagonal), len(diagonal))
        places = sp.csr_array((np.arange(len(rows)), (rows, columns)), shape=shape)
        places.sort_indices()
        self.source = places.data
        self.pattern = ns.operators.SparsityPattern(places.indptr, places.indices, shape)


_mesh = functools.lru_cache(maxsize=16)(_Mesh)

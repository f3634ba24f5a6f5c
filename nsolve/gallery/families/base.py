"""What a family is: parametrised linear systems that share one sparsity pattern.

A neural operator learns the map from a system's input fields to its solution; a sequence solver makes use
of how much the systems resemble each other. Everything here is a pure function of arrays, so that systems
can be scanned, mapped and differentiated.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PRNGKeyArray

from ...operators import SparseLinearOperator, StencilLinearOperator
from .._checks import positive_integer

Parameter = dict[str, Array]
SYMMETRIC, DEFINITE = lx.symmetric_tag, lx.positive_semidefinite_tag


class AbstractFamily(eqx.Module):
    """A family of systems `A(p) x = b(p)` on a grid of `size` cells along each axis of the unit square.

    A *parameter* `p` is a dictionary of arrays: the fields and numbers that make one system.  Vectors are
    flat, fields have the shape `grid`, and cells are numbered in C order.
    """

    size: eqx.AbstractVar[int]
    name: eqx.AbstractClassVar[str]
    channels: eqx.AbstractClassVar[tuple[str, ...]]
    #: Systems solved one after the other for one sample: the time steps, or one.
    num_solves: eqx.AbstractVar[int]

    def __check_init__(self):
        positive_integer(self.size, "size", least=2)

    @property
    def grid(self) -> tuple[int, int]:
        """The shape of all fields."""
        return (self.size, self.size)

    @property
    def spacing(self) -> float:
        """The width of a cell."""
        return 1 / self.size

    @abc.abstractmethod
    def sample(self, key: PRNGKeyArray) -> Parameter:
        """Draws one system."""

    @abc.abstractmethod
    def stencil(self, parameter: Parameter) -> StencilLinearOperator:
        """`A(p)` on arrays of the grid's shape; cells that are no unknowns are equations by themselves."""

    @abc.abstractmethod
    def reference(self) -> StencilLinearOperator:
        """A positive definite stencil that resembles all of the family's, to make preconditioners of."""

    @abc.abstractmethod
    def as_sparse(self, stencil: StencilLinearOperator) -> SparseLinearOperator:
        """A stencil as a matrix on flat vectors of the unknowns."""

    def operator(self, parameter: Parameter) -> SparseLinearOperator:
        """`A(p)`, differentiable in `p`; the pattern is the same for all systems of the family."""
        return self.as_sparse(self.stencil(parameter))

    @abc.abstractmethod
    def vector(self, parameter: Parameter, previous: Array | None = None) -> Array:
        """`b(p)`, flat.  `previous`: the solution of the sample's solve before this one, if any."""

    @abc.abstractmethod
    def features(self, parameter: Parameter) -> Array:
        """A flat array whose Euclidean distances say how much two systems differ; for sorting.

        Fields are scaled to count as much as a number of the size of their root mean square."""

    @abc.abstractmethod
    def input_field(self, parameter: Parameter) -> Array:
        """What a neural operator is given: `(len(channels), *grid)`."""

    @abc.abstractmethod
    def solution_field(self, parameter: Parameter, x: Array) -> Array:
        """What a neural operator learns: the solution on the grid, zero in cells that are no unknowns."""

    @abc.abstractmethod
    def flatten(self, field: Array) -> Array:
        """The unknowns of a field: `solution_field` back again."""


class AbstractGridFamily(AbstractFamily):
    """A family whose unknowns are all cells of the grid."""

    def as_sparse(self, stencil: StencilLinearOperator) -> SparseLinearOperator:
        return stencil.as_sparse()

    def solution_field(self, parameter: Parameter, x: Array) -> Array:
        return x.reshape(self.grid)

    def flatten(self, field: Array) -> Array:
        return field.ravel()


def field_feature(field: Array) -> Array:
    """A field as a flat feature whose norm is its root mean square."""
    return jnp.ravel(field) / jnp.sqrt(field.size)

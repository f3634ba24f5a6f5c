"""The contract that every preconditioner follows.

A *constructor* is an Equinox module whose fields are the method's options.  Called with an operator `A` it
returns an *approximate inverse*: a lineax operator `M ~ A^-1`.

* set-up: `M = constructor(A)`.  Symbolic work (levels, colours, coarse grids) runs on the host, also while
  tracing, since patterns are static.
* refresh: `M.refresh(A2)`, new values on the same pattern, numeric work only; legal under `jit` and `scan`.
* apply: `M.mv(r)`; transpose: `M.transpose()`, exact, as adjoint solves need it.

Operators on trees of arrays are preconditioned as the operator on one flat array, in the order of
`jax.flatten_util.ravel_pytree`.

The solution of a linear system does not depend on its preconditioner, and lineax forbids tangents there:
`constructor(A)` does not differentiate through `A`.  `constructor.build(A)` does, where the method allows it;
`nsolve.unroll` uses that one.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from ..operators.base import AbstractOperator, require_operator, tags_of
from ..operators.convert import as_sparse, knows_its_entries


class AbstractApproximateInverse(AbstractOperator):
    """A linear operator `M ~ A^-1`, made by a preconditioner constructor."""

    structure: eqx.AbstractVar[jax.ShapeDtypeStruct]

    @abc.abstractmethod
    def refresh(self, operator: lx.AbstractLinearOperator) -> "AbstractApproximateInverse":
        """The same preconditioner for an operator with the same pattern and other values."""

    def as_matrix(self) -> Array:
        shape, dtype = self.structure.shape, self.structure.dtype
        size = self.in_size()
        identity = jnp.eye(size, dtype=dtype).reshape(size, *shape)
        return jax.vmap(self.mv, out_axes=-1)(identity).reshape(size, size)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return self.structure

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return self.structure


class AbstractPreconditioner(eqx.Module):
    """A preconditioner constructor: call it with an operator."""

    @abc.abstractmethod
    def build(self, operator: lx.AbstractLinearOperator) -> AbstractApproximateInverse:
        """`M ~ A^-1`, differentiable in `A` where the method allows it."""

    def __call__(self, operator: lx.AbstractLinearOperator) -> AbstractApproximateInverse:
        """`M ~ A^-1`, constant under differentiation with respect to `A`."""
        require_operator(operator, "operator")
        return build_flat(self, constant(operator))


class TreeInverse(AbstractOperator):
    """A preconditioner on trees of arrays: that of the operator on their entries, in the order of
    `jax.flatten_util.ravel_pytree`."""

    flat: AbstractApproximateInverse
    structure: PyTree[jax.ShapeDtypeStruct] = eqx.field(static=True)

    @property
    def tags(self) -> frozenset[object]:
        return self.flat.tags

    def mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        flat, unravel = ravel_pytree(vector)
        return unravel(self.flat.mv(flat))

    def refresh(self, operator: lx.AbstractLinearOperator) -> "TreeInverse":
        """The same preconditioner for an operator with other values."""
        return TreeInverse(self.flat.refresh(flattened(operator)), self.structure)

    def transpose(self) -> "TreeInverse":
        return TreeInverse(self.flat.transpose(), self.structure)

    def conj(self) -> "TreeInverse":
        return TreeInverse(lx.conj(self.flat), self.structure)

    def as_matrix(self) -> Array:
        return self.flat.as_matrix()

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        return self.structure

    def out_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        return self.structure


def build_flat(constructor: AbstractPreconditioner, operator: lx.AbstractLinearOperator) -> Any:
    """`constructor.build(operator)`, also of an operator on trees of arrays."""
    structure = operator.in_structure()
    if isinstance(structure, jax.ShapeDtypeStruct):
        return constructor.build(operator)
    return TreeInverse(constructor.build(flattened(operator)), structure)


def flattened(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    """An operator on trees as one on flat arrays: a matrix where it knows its entries, else a function."""
    if knows_its_entries(operator):
        return as_sparse(operator)
    tags = tags_of(operator) & {lx.symmetric_tag, lx.positive_semidefinite_tag, lx.negative_semidefinite_tag}
    example = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), operator.in_structure())
    flat, unravel = ravel_pytree(example)
    structure = jax.ShapeDtypeStruct(flat.shape, flat.dtype)
    return lx.FunctionLinearOperator(lambda x: ravel_pytree(operator.mv(unravel(x)))[0], structure, tags)


def constant(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    """The operator with its arrays cut off from differentiation."""
    arrays, rest = eqx.partition(operator, eqx.is_array)
    return eqx.combine(jax.lax.stop_gradient(arrays), rest)


def array_structure(operator: lx.AbstractLinearOperator, who: str) -> jax.ShapeDtypeStruct:
    """The one array on which a square operator acts."""
    structure = operator.in_structure()
    if not isinstance(structure, jax.ShapeDtypeStruct):
        raise ValueError(
            f"`{who}` acts on single arrays, but the operator's vectors are {structure}; flatten them "
            "with `jax.flatten_util.ravel_pytree`."
        )
    if operator.in_size() != operator.out_size():
        raise ValueError(
            f"`{who}` needs a square operator, but this one is {operator.out_size()} x {operator.in_size()}."
        )
    return structure

"""Operators in another precision."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PyTree

from .base import tags_of
from .sparse import SparseLinearOperator
from .stencil import StencilLinearOperator

#: Those whose entries are their arrays, one by one.
_BY_ENTRY = (
    SparseLinearOperator
    | StencilLinearOperator
    | lx.MatrixLinearOperator
    | lx.DiagonalLinearOperator
    | lx.TridiagonalLinearOperator
)


def cast(
    operator: lx.AbstractLinearOperator, dtype: Any, unit: Array | float = 1.0
) -> lx.AbstractLinearOperator:
    """`A / unit` with its entries rounded to another real precision, or to complex numbers of it.

    * `dtype`: `float32`, say: float64 becomes it, complex128 complex64.  What is of that precision or below
      it already stays.
    * `unit`: a power of two near the largest entry, by which none overflows.  What is smaller than that by
      more than the type's range becomes zero.

    Sparse operators, stencils and lineax's matrices, diagonals and tridiagonals have their entries cast.  Any
    other operator is applied in its own precision, and the product rounded.  All known tags stay, for which
    the user's word is taken: that of a matrix which is singular but for the digits that are lost may no
    longer be true.
    """
    if isinstance(operator, lx.TaggedLinearOperator):
        return _tagged(cast(operator.operator, dtype, unit), tags_of(operator))
    if isinstance(operator, _BY_ENTRY):
        entries, rest = eqx.partition(operator, eqx.is_inexact_array)
        entries = jax.tree.map(lambda leaf: cast_array(leaf / jnp.asarray(unit, leaf.dtype), dtype), entries)
        return _tagged(eqx.combine(entries, rest), tags_of(operator))

    def product(x: PyTree[Array]) -> PyTree[Array]:
        wide = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), x, operator.in_structure())
        y = operator.mv(jax.tree.map(lambda leaf: leaf / jnp.asarray(unit, leaf.dtype), wide))
        return cast_array(y, dtype)

    return _tagged(
        lx.FunctionLinearOperator(product, cast_structure(operator.in_structure(), dtype)), tags_of(operator)
    )


def cast_array(x: PyTree[Array], dtype: Any) -> PyTree[Array]:
    """Arrays in another real precision, or complex of it; those of no more digits stay."""
    return jax.tree.map(lambda leaf: leaf.astype(narrower(leaf.dtype, dtype)), x)


def cast_structure(structure: PyTree, dtype: Any) -> PyTree:
    """The same for a structure."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, narrower(leaf.dtype, dtype)), structure)


def require_real(dtype: Any, name: str) -> None:
    """Raises unless a precision is told by a real type."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"`{name}` must be a real floating-point type, but is {dtype}.")


def narrower(given: Any, dtype: Any) -> jnp.dtype:
    """The type of the real precision `dtype`, complex where `given` is; `given` where that is no wider."""
    given, dtype = jnp.dtype(given), jnp.dtype(dtype)
    if jnp.finfo(given).bits <= jnp.finfo(dtype).bits:
        return given
    if not jnp.issubdtype(given, jnp.complexfloating):
        return dtype
    if dtype != jnp.float32:
        raise ValueError(f"There are no complex numbers of precision {dtype}: choose float32.")
    return jnp.dtype(jnp.complex64)


def _tagged(operator: lx.AbstractLinearOperator, tags: frozenset[object]) -> lx.AbstractLinearOperator:
    """With the tags that division by a positive number keeps."""
    tags = tags - {lx.unit_diagonal_tag}
    return lx.TaggedLinearOperator(operator, tags) if tags - tags_of(operator) else operator

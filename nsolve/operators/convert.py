"""Any operator whose entries can be known in one form: as a sparse matrix, or as a stencil.

What lineax composes of such operators (sums, multiples, products, with its identities and diagonals) is formed
by the rules of `sparse_algebra` and `stencil_algebra`, and tagged by those of `tags`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array

from .._upstream import bounded_cache
from . import sparse_algebra, stencil_algebra
from .base import EXPLICIT, AbstractOperator, require_operator
from .pattern import SparsityPattern
from .sparse import SparseLinearOperator
from .stencil import StencilLinearOperator
from .tags import Tags, as_scaling, tags_of, untagged

_MULTIPLES = lx.NegLinearOperator | lx.MulLinearOperator | lx.DivLinearOperator
_PAIRS = lx.AddLinearOperator | lx.ComposedLinearOperator

_ON_GRIDS = StencilLinearOperator | lx.IdentityLinearOperator | lx.DiagonalLinearOperator

#: Matrices without zeros are written out up to this many entries.
_MOST_ENTRIES = 2**28


def as_sparse(operator: lx.AbstractLinearOperator) -> SparseLinearOperator:
    """An operator as a sparse matrix on flat vectors: what preconditioners that need entries work on.

    * Sparse operators, alone or with `lx.TaggedLinearOperator` around, stay as they are; stencils are assembled
      (C order), `lx.IdentityLinearOperator`, `lx.DiagonalLinearOperator` and `lx.TridiagonalLinearOperator`
      become what they are.
    * Sums, differences, multiples and products of them, as lineax composes them (`I + k * A`, `D @ A @ D`), are
      formed on the joint pattern.
    * Dense matrices, pytrees of matrices and `LowRankPlusDiagonalLinearOperator`s become patterns without
      zeros: `n^2` entries, and so do sums with them.

    The result has all tags that are known of the operator, those given to its parts included; the rules are
    those of the [arithmetic](#arithmetic).  `with_values` drops the tags that were derived.

    Differentiable in all arrays, and legal while tracing, since patterns are static.  **Cost:** time and memory
    in the number of entries, for products in that of multiplications; patterns are joined on the host, once.
    **Raises** `ValueError` for operators that only have products, such as `lx.FunctionLinearOperator`, and for
    matrices without zeros of more than 2^28 entries.
    """
    require_operator(operator, "operator")
    if not knows_its_entries(operator):
        raise ValueError(f"`as_sparse` needs the entries of the matrix, but {what_lacks_entries(operator)}")
    matrix, given, derived = matrix_of(operator), _given_tags(operator), tags_of(operator)
    if isinstance(untagged(operator), SparseLinearOperator):
        if given <= matrix.tags:
            return matrix
        given, derived = given | (matrix.tags - matrix._of_these_values), matrix._of_these_values
    return with_tags(matrix, given, derived)


def entries_of(operator: lx.AbstractLinearOperator, who: str) -> SparseLinearOperator:
    """The same with all entries written out, for whoever asks; the tags do not matter from here on."""
    require_operator(operator, f"operator of {who}")
    if not knows_its_entries(operator):
        raise ValueError(
            f"`{who}` needs the entries of the matrix, but {what_lacks_entries(operator)} Or choose a "
            "preconditioner that needs products only, such as `preconditioners.Chebyshev`."
        )
    return matrix_of(operator).written_out()


def as_stencil(operator: lx.AbstractLinearOperator) -> StencilLinearOperator | None:
    """An operator as a stencil, with all tags that are known of it; None where it is none.

    Stencils, lineax's identities and diagonals on grids, and what lineax composes of them.  Differentiable, and
    legal while tracing; a product of stencils costs a few operations on the grid for each pair of offsets.
    """
    require_operator(operator, "operator")
    if isinstance(operator, StencilLinearOperator):
        return operator
    if not all(isinstance(part, _ON_GRIDS) for part in parts(operator)):
        return None
    stencil = stencil_of(operator)
    return None if stencil is None else dataclasses.replace(stencil, tags=tags_of(operator))


def knows_its_entries(operator: lx.AbstractLinearOperator) -> bool:
    """Whether entries can be read without products."""
    return all(
        isinstance(part, AbstractOperator | EXPLICIT | lx.IdentityLinearOperator) for part in parts(operator)
    )


def parts(operator: lx.AbstractLinearOperator) -> list[lx.AbstractLinearOperator]:
    """What an operator is composed of."""
    if isinstance(operator, lx.TaggedLinearOperator | _MULTIPLES):
        return parts(operator.operator)
    if isinstance(operator, _PAIRS):
        return parts(operator.operator1) + parts(operator.operator2)
    return [operator]


def diagonal_of(operator: lx.AbstractLinearOperator) -> Array:
    """The main diagonal, flat, of an operator that knows its entries."""
    if _multiplies(operator):  # lineax would form a dense matrix
        return matrix_of(operator).diagonal()
    return lx.diagonal(operator)


def with_tags(operator: SparseLinearOperator, tags: Tags, tags_of_values: Tags) -> SparseLinearOperator:
    """The same matrix, with these tags and no others."""
    return SparseLinearOperator(operator._storage, operator.pattern, tags, tags_of_values=tags_of_values)


def matrix_of(operator: lx.AbstractLinearOperator) -> SparseLinearOperator:
    """The matrix, whatever is known of it."""
    operator = untagged(operator)
    if isinstance(operator, SparseLinearOperator):
        return operator
    if isinstance(operator, StencilLinearOperator):
        return operator.as_sparse()
    if isinstance(operator, lx.NegLinearOperator):
        return sparse_algebra.negate(matrix_of(operator.operator))
    if isinstance(operator, lx.MulLinearOperator):
        return sparse_algebra.multiply(matrix_of(operator.operator), operator.scalar)
    if isinstance(operator, lx.DivLinearOperator):
        return sparse_algebra.divide(matrix_of(operator.operator), operator.scalar)
    if isinstance(operator, lx.AddLinearOperator):
        return sparse_algebra.add(matrix_of(operator.operator1), matrix_of(operator.operator2))
    if isinstance(operator, lx.ComposedLinearOperator):
        scaling = as_scaling(operator)
        if scaling is not None:
            return sparse_algebra.scale(
                scaling.left, matrix_of(scaling.operator), scaling.right, scaling.keeps
            )
        return sparse_algebra.compose(matrix_of(operator.operator1), matrix_of(operator.operator2))
    return _leaf(operator)


def _leaf(operator: lx.AbstractLinearOperator) -> SparseLinearOperator:
    shape = operator.out_size(), operator.in_size()
    if isinstance(operator, lx.IdentityLinearOperator):
        with jax.numpy_dtype_promotion("standard"):
            dtype = jnp.result_type(*jax.tree.leaves(operator.in_structure()))
        return sparse_algebra.diagonal(jnp.ones(min(shape), dtype), shape)
    if lx.is_diagonal(operator) and shape[0] == shape[1]:
        return sparse_algebra.diagonal(lx.diagonal(operator))
    if isinstance(operator, lx.TridiagonalLinearOperator):
        i = np.arange(shape[0])
        rows, columns = np.concatenate([i, i[1:], i[:-1]]), np.concatenate([i, i[:-1], i[1:]])
        return SparseLinearOperator.from_coo(jnp.concatenate(lx.tridiagonal(operator)), rows, columns, shape)
    if shape[0] * shape[1] > _MOST_ENTRIES:
        raise ValueError(
            f"A {type(operator).__name__} of shape {shape} has no zeros: as a sparse matrix it would hold "
            f"{shape[0] * shape[1]} entries. Use a method that needs products only."
        )
    return SparseLinearOperator(operator.as_matrix().reshape(-1), _full_pattern(*shape))


@bounded_cache(4)
def _full_pattern(rows: int, columns: int) -> SparsityPattern:
    return SparsityPattern(np.arange(rows + 1) * columns, np.tile(np.arange(columns), rows), (rows, columns))


def stencil_of(operator: lx.AbstractLinearOperator) -> StencilLinearOperator | None:
    """The stencil, whatever is known of it."""
    operator = untagged(operator)
    if isinstance(operator, StencilLinearOperator):
        return operator
    if isinstance(operator, _MULTIPLES):
        stencil = stencil_of(operator.operator)
        if stencil is None or isinstance(operator, lx.NegLinearOperator):
            return stencil and stencil_algebra.negate(stencil)
        multiple = (
            stencil_algebra.multiply
            if isinstance(operator, lx.MulLinearOperator)
            else (stencil_algebra.divide)
        )
        return multiple(stencil, operator.scalar)
    if isinstance(operator, _PAIRS):
        first, second = stencil_of(operator.operator1), stencil_of(operator.operator2)
        if first is None or second is None:
            return None
        pair = stencil_algebra.add if isinstance(operator, lx.AddLinearOperator) else stencil_algebra.compose
        return pair(first, second)
    structure = operator.in_structure()
    grid = isinstance(structure, jax.ShapeDtypeStruct) and 1 <= len(structure.shape) <= 3
    if grid and operator.out_structure() == structure:
        if isinstance(operator, lx.IdentityLinearOperator):
            return stencil_algebra.diagonal(jnp.ones((), structure.dtype), structure.shape)
        if isinstance(operator, lx.DiagonalLinearOperator):
            return stencil_algebra.diagonal(operator.diagonal, structure.shape)
    return None


def _multiplies(operator: lx.AbstractLinearOperator) -> bool:
    """Whether an operator contains a product of two."""
    if isinstance(operator, lx.TaggedLinearOperator | _MULTIPLES):
        return _multiplies(operator.operator)
    if isinstance(operator, lx.AddLinearOperator):
        return _multiplies(operator.operator1) or _multiplies(operator.operator2)
    return isinstance(operator, lx.ComposedLinearOperator)


def _given_tags(operator: lx.AbstractLinearOperator) -> Tags:
    """Those around the operator."""
    if isinstance(operator, lx.TaggedLinearOperator):
        return operator.tags | _given_tags(operator.operator)
    return frozenset()


def what_lacks_entries(operator: lx.AbstractLinearOperator) -> str:
    """The rest of an error message."""
    lacking = [part for part in parts(operator) if not knows_its_entries(part)]
    return (
        f"was given a {type(lacking[0]).__name__}, which only has products. Pass a `SparseLinearOperator`, a "
        "`StencilLinearOperator`, one of lineax's explicit matrices, or sums and products of these."
    )

"""Any operator whose entries can be known in one form: as a sparse matrix, or as a stencil.

What lineax composes of such operators (sums, multiples, products, with its identities and diagonals) is
formed by the functions of `sparse_algebra` and `stencil_algebra`, and tagged by the rules of `tags`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
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
from .stencil_algebra import NoStencil
from .tags import Tags, as_scaling, is_complex, tags_of, untagged
from .values import complex_dtype

_MULTIPLES = lx.NegLinearOperator | lx.MulLinearOperator | lx.DivLinearOperator
_PAIRS = lx.AddLinearOperator | lx.ComposedLinearOperator

_ON_GRIDS = StencilLinearOperator | lx.IdentityLinearOperator | lx.DiagonalLinearOperator
_FEW_ENTRIES = _ON_GRIDS | SparseLinearOperator | lx.TridiagonalLinearOperator

#: Matrices without zeros are written out up to this many entries.
_MOST_ENTRIES = 2**28


def as_sparse(operator: lx.AbstractLinearOperator) -> SparseLinearOperator:
    """An operator as a sparse matrix on flat vectors: what preconditioners that need entries work on.

    * Sparse operators, alone or with `lx.TaggedLinearOperator` around, stay as they are; stencils are
      assembled (C order); of lineax's identities, diagonals and tridiagonals their entries are taken.
    * Sums, differences, multiples and products of them, as lineax composes them (`I + k * A`, `D @ A @ D`),
      are formed on the joint pattern.
    * Dense matrices, pytrees of matrices and `LowRankPlusDiagonalLinearOperator`s become patterns without
      zeros: `n^2` entries, and so do sums with them.

    The result has all tags that are known of the operator by the rules of the arithmetic, those given to its
    parts included.  `with_values` drops the ones that were derived.

    Differentiable in all arrays, and legal while tracing, since patterns are static.  **Cost:** time and
    memory in the number of entries, for products in that of multiplications; patterns are joined on the host,
    once.  **Raises** `ValueError` for operators that only have products, such as `lx.FunctionLinearOperator`,
    and for matrices without zeros of more than 2^28 entries.
    """
    require_operator(operator, "operator")
    if not knows_its_entries(operator):
        raise ValueError(f"`as_sparse` needs the entries of the matrix, but {what_lacks_entries(operator)}")
    matrix, given, derived = (
        _of_its_dtype(matrix_of(operator), operator),
        _given_tags(operator),
        tags_of(operator),
    )
    if isinstance(untagged(operator), SparseLinearOperator):
        derived = matrix._of_these_values
        if given <= matrix.tags - derived:
            return matrix
        given |= matrix.tags - derived
    return with_tags(matrix, given, derived)


def entries_of(operator: lx.AbstractLinearOperator, who: str) -> SparseLinearOperator:
    """The same with all entries written out, for whoever asks; the tags do not matter from here on."""
    require_operator(operator, f"operator of {who}")
    if not knows_its_entries(operator):
        raise ValueError(
            f"`{who}` needs the entries of the matrix, but {what_lacks_entries(operator)} Or choose a "
            "preconditioner that needs products only, such as `preconditioners.Chebyshev`."
        )
    return _of_its_dtype(matrix_of(operator), operator).written_out()


def as_stencil(operator: lx.AbstractLinearOperator) -> StencilLinearOperator | None:
    """An operator as a stencil, with all tags that are known of it; None where it is none.

    Stencils, lineax's identities and diagonals on grids, and what lineax composes of them.  Differentiable,
    and legal while tracing; a product of two costs a multiplication of grids for each pair of offsets.
    """
    require_operator(operator, "operator")
    if isinstance(operator, StencilLinearOperator):
        return operator
    if not any(isinstance(part, StencilLinearOperator) for part in parts(operator)):
        return None
    try:
        return dataclasses.replace(stencil_of(operator), tags=tags_of(operator))
    except NoStencil:
        return None


def as_one(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    """What lineax composed by sums and multiples as one stencil or sparse operator, where it is one.

    Then a product is one pass over the vector.  lineax's sums of tridiagonal operators are also read into
    three bands for each product, of which an identity's are float64 whatever it acts on."""
    if isinstance(untagged(operator), AbstractOperator | EXPLICIT) or _multiplies(operator):
        return operator
    formed = as_stencil(operator)
    if formed is None and has_few_entries(operator):
        formed = as_sparse(operator)
    same = formed is not None and formed.in_structure() == operator.in_structure()
    return formed if same else operator


def knows_its_entries(operator: lx.AbstractLinearOperator) -> bool:
    """Whether entries can be read without products."""
    return all(
        isinstance(part, AbstractOperator | EXPLICIT | lx.IdentityLinearOperator) for part in parts(operator)
    )


def has_few_entries(operator: lx.AbstractLinearOperator) -> bool:
    """Whether an operator on flat vectors is composed of parts that have few entries a row."""
    structures = operator.in_structure(), operator.out_structure()
    flat = all(isinstance(s, jax.ShapeDtypeStruct) and len(s.shape) == 1 for s in structures)
    return flat and all(isinstance(part, _FEW_ENTRIES) for part in parts(operator))


def parts(operator: lx.AbstractLinearOperator) -> list[lx.AbstractLinearOperator]:
    """What an operator is composed of."""
    if isinstance(operator, lx.TaggedLinearOperator | _MULTIPLES):
        return parts(operator.operator)
    if isinstance(operator, _PAIRS):
        return parts(operator.operator1) + parts(operator.operator2)
    return [operator]


def diagonal_of(operator: lx.AbstractLinearOperator) -> Array:
    """The main diagonal, flat, of an operator that knows its entries; of products all entries are formed."""
    if isinstance(untagged(operator), AbstractOperator | EXPLICIT):
        return lx.diagonal(operator)
    part = _matrix if _multiplies(operator) else _diagonal
    return _of_its_dtype(_composed_by(sparse_algebra, part, operator), operator).diagonal()


def with_tags(operator: SparseLinearOperator, tags: Tags, tags_of_values: Tags) -> SparseLinearOperator:
    """The same matrix, with these tags and no others."""
    return SparseLinearOperator(operator._storage, operator.pattern, tags, tags_of_values=tags_of_values)


def matrix_of(operator: lx.AbstractLinearOperator) -> SparseLinearOperator:
    """The matrix, whatever is known of it, and real where its numbers are."""
    return _composed_by(sparse_algebra, _matrix, operator)


def stencil_of(operator: lx.AbstractLinearOperator) -> StencilLinearOperator:
    """The same as a stencil; raises `NoStencil` where it is none."""
    if not all(isinstance(part, _ON_GRIDS) for part in parts(operator)):
        raise NoStencil
    return _composed_by(stencil_algebra, _stencil, operator)


def _of_its_dtype(matrix: SparseLinearOperator, operator: lx.AbstractLinearOperator) -> SparseLinearOperator:
    """The matrix for the vectors that the operator takes: an identity for complex ones has real numbers."""
    if not is_complex(operator) or jnp.issubdtype(matrix.dtype, jnp.complexfloating):
        return matrix
    dtype = complex_dtype(matrix.dtype)
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, matrix)


def _composed_by(algebra: Any, leaf: Callable, operator: lx.AbstractLinearOperator) -> Any:
    """What an operator's parts are composed to by the functions of a module, and its parts to by `leaf`."""
    operator = untagged(operator)
    again = functools.partial(_composed_by, algebra, leaf)
    if isinstance(operator, lx.NegLinearOperator):
        return algebra.negate(again(operator.operator))
    if isinstance(operator, lx.MulLinearOperator):
        return algebra.multiply(again(operator.operator), operator.scalar)
    if isinstance(operator, lx.DivLinearOperator):
        return algebra.divide(again(operator.operator), operator.scalar)
    if isinstance(operator, lx.AddLinearOperator):
        return algebra.add(again(operator.operator1), again(operator.operator2))
    if isinstance(operator, lx.ComposedLinearOperator):
        scaling = as_scaling(operator)
        if scaling is not None:
            return algebra.scale(scaling.left, again(scaling.operator), scaling.right, scaling.keeps)
        return algebra.compose(again(operator.operator1), again(operator.operator2))
    return leaf(operator)


def _diagonal(operator: lx.AbstractLinearOperator) -> SparseLinearOperator:
    """The diagonal part of what is not composed."""
    if isinstance(operator, lx.IdentityLinearOperator):
        return _matrix(operator)
    return sparse_algebra.diagonal(lx.diagonal(operator))


def _matrix(operator: lx.AbstractLinearOperator) -> SparseLinearOperator:
    """Of what is not composed."""
    if isinstance(operator, SparseLinearOperator):
        return operator
    if isinstance(operator, StencilLinearOperator):
        return operator.as_sparse()
    shape = operator.out_size(), operator.in_size()
    if isinstance(operator, lx.IdentityLinearOperator):
        with jax.numpy_dtype_promotion("standard"):
            dtype = jnp.result_type(*jax.tree.leaves(operator.in_structure()))
        return sparse_algebra.diagonal(jnp.ones(min(shape), jnp.finfo(dtype).dtype), shape)
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


def _stencil(operator: lx.AbstractLinearOperator) -> StencilLinearOperator:
    """Of what is not composed."""
    if isinstance(operator, StencilLinearOperator):
        return operator
    structure = operator.in_structure()
    grid = isinstance(structure, jax.ShapeDtypeStruct) and 1 <= len(structure.shape) <= 3
    if not grid or operator.out_structure() != structure:
        raise NoStencil
    if isinstance(operator, lx.DiagonalLinearOperator):
        return stencil_algebra.diagonal(operator.diagonal, structure.shape)
    return stencil_algebra.diagonal(jnp.ones((), jnp.finfo(structure.dtype).dtype), structure.shape)


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

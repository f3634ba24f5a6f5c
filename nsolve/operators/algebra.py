"""`+`, `-`, `*`, `/`, `@` of this package's operators: stencils stay stencils, and sparse ones sparse.

Everything else is what lineax makes of it: a composition that multiplies by its parts one after the other.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx

from . import sparse_algebra
from .convert import as_sparse, as_stencil, has_few_entries, matrix_of, with_tags
from .sparse import SparseLinearOperator
from .stencil import StencilLinearOperator
from .tags import tags_of, tags_of_compression
from .values import as_coefficients, complex_dtype, fit

#: A product of sparse operators with more multiplications than this for each of their entries is not formed.
_MOST_PRODUCTS = 16


def add(first: lx.AbstractLinearOperator, second: Any) -> lx.AbstractLinearOperator:
    """`A + B`."""
    if not isinstance(second, lx.AbstractLinearOperator):
        raise TypeError(
            f"`A + B` and `A - B` need two operators, but B is a {type(second).__name__}. Multiples of the "
            "identity and diagonals are added by `A.add_diagonal(d)`, matrices as operators that hold them."
        )
    first, second = _both_complex(first, second)
    for verb, a, b in (
        ("takes", first.in_structure(), second.in_structure()),
        ("gives", first.out_structure(), second.out_structure()),
    ):
        if a != b:
            raise ValueError(f"`A + B` and `A - B` need operators alike, but A {verb} {a}, and B {verb} {b}.")
    return _formed(lx.AddLinearOperator(first, second))


def multiply(operator: lx.AbstractLinearOperator, scalar: Any) -> lx.AbstractLinearOperator:
    """`s A`."""
    return _formed(lx.MulLinearOperator(operator, _scalar(scalar, "A * s", operator)))


def divide(operator: lx.AbstractLinearOperator, scalar: Any) -> lx.AbstractLinearOperator:
    """`A / s`."""
    return _formed(lx.DivLinearOperator(operator, _scalar(scalar, "A / s", operator)))


def negate(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    """`-A`."""
    return _formed(lx.NegLinearOperator(operator))


def compose(first: lx.AbstractLinearOperator, second: Any) -> lx.AbstractLinearOperator:
    """`A @ B`."""
    if not isinstance(second, lx.AbstractLinearOperator):
        raise TypeError(
            f"`A @ B` multiplies two operators, but B is a {type(second).__name__}. Write `A.mv(x)` for the "
            "product with a vector."
        )
    first, second = _both_complex(first, second)
    if first.in_structure() != second.out_structure():
        raise ValueError(
            f"`A @ B` needs an A that takes what B gives, but A takes {first.in_structure()}, and B gives "
            f"{second.out_structure()}."
        )
    product = lx.ComposedLinearOperator(first, second)
    if isinstance(first, SparseLinearOperator) and has_few_entries(second):
        a, b = first.pattern, matrix_of(second).pattern
        if sparse_algebra.num_products(a, b) > _MOST_PRODUCTS * (a.nnz + b.nnz):
            return product
    return _formed(product)


def add_diagonal(operator: SparseLinearOperator | StencilLinearOperator, d: Any) -> lx.AbstractLinearOperator:
    """`A + diag(d)`."""
    if isinstance(d, lx.AbstractLinearOperator):
        raise TypeError(f"`d` must be a number or an array, but is a {type(d).__name__}: write `A + D`.")
    structure, d = operator.in_structure(), as_coefficients(d, "d")
    if operator.out_structure() != structure:
        raise ValueError(f"`add_diagonal` needs a square operator, but this one is {operator}.")
    shape = jnp.shape(d)
    axes = zip(shape[::-1], structure.shape[::-1], strict=False)
    if len(shape) > len(structure.shape) or any(n not in (1, m) for n, m in axes):
        raise ValueError(
            f"`d` must be a number or broadcast to the shape {structure.shape}, but has shape {shape}."
        )
    if shape:
        d = jnp.broadcast_to(_in_precision_of(operator, d, "d"), structure.shape)
        return add(operator, lx.DiagonalLinearOperator(d))
    return add(
        operator, lx.MulLinearOperator(lx.IdentityLinearOperator(structure), _scalar(d, "d", operator))
    )


def select(operator: SparseLinearOperator, rows: Any, cols: Any) -> SparseLinearOperator:
    """`A` at the chosen rows and columns."""
    selected, alike = sparse_algebra.select(operator, rows, cols)
    return with_tags(selected, frozenset(), tags_of_compression(tags_of(operator)) if alike else frozenset())


def _formed(composed: lx.AbstractLinearOperator) -> Any:
    """What lineax composed, as one operator where that is a stencil or sparse."""
    stencil = as_stencil(composed)
    if stencil is not None:
        return stencil
    if has_few_entries(composed):
        return as_sparse(composed)
    if isinstance(composed, lx.MulLinearOperator | lx.DivLinearOperator):
        return dataclasses.replace(composed, scalar=jnp.asarray(composed.scalar))
    return composed


def _both_complex(*operators: lx.AbstractLinearOperator) -> tuple[lx.AbstractLinearOperator, ...]:
    """The operators, made complex if one of them is."""
    structures = [operator.in_structure() for operator in operators]
    if not all(isinstance(s, jax.ShapeDtypeStruct) for s in structures):
        return operators
    complex_ones = [jnp.issubdtype(s.dtype, jnp.complexfloating) for s in structures]
    if not any(complex_ones):
        return operators
    pairs = zip(operators, complex_ones, strict=True)
    return tuple(operator if done else _as_complex(operator) for operator, done in pairs)


def _as_complex(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    """The same matrix, for complex vectors; what is known of it stays known."""
    if isinstance(operator, lx.IdentityLinearOperator):
        structure = operator.in_structure()
        structure = jax.ShapeDtypeStruct(structure.shape, complex_dtype(structure.dtype))
        return lx.IdentityLinearOperator(structure)
    cast = jax.tree.map(
        lambda x: x.astype(complex_dtype(x.dtype)) if eqx.is_inexact_array(x) else x, _formed(operator)
    )
    return lx.TaggedLinearOperator(cast, tags_of(operator))


def _scalar(value: Any, name: str, operator: lx.AbstractLinearOperator) -> Any:
    """A number, of the operator's precision where it is known."""
    if isinstance(value, lx.AbstractLinearOperator):
        raise TypeError(f"`{name}` needs a number, but was given an operator; products are `A @ B`.")
    value = as_coefficients(value, name)
    if jnp.shape(value) != ():
        raise ValueError(
            f"`{name}` needs a number, but was given an array of shape {jnp.shape(value)}; rows and columns "
            "are scaled by `lx.DiagonalLinearOperator(d) @ A` and `A @ lx.DiagonalLinearOperator(d)`."
        )
    value = _in_precision_of(operator, value, name)
    return jnp.asarray(value) if jnp.iscomplexobj(value) else value  # lineax asks for the sign of NumPy's


def _in_precision_of(operator: lx.AbstractLinearOperator, value: Any, name: str) -> Any:
    """Numbers of the operator's precision, real or complex as they are."""
    (leaf, *_) = jax.tree.leaves(operator.in_structure())
    dtype = jnp.finfo(leaf.dtype).dtype
    if jnp.iscomplexobj(value):
        dtype = complex_dtype(dtype)
    return value.astype(dtype) if isinstance(value, jax.Array) else fit(value, dtype, name)

"""`+`, `-`, `*`, `/`, `@` of this package's operators: stencils stay stencils, and sparse ones sparse.

Everything else is what lineax makes of it: a composition that multiplies by its parts one after the other.
"""

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx

from . import sparse_algebra, stencil_algebra
from .convert import has_few_entries, matrix_of, stencil_of, with_tags
from .sparse import SparseLinearOperator
from .stencil import StencilLinearOperator
from .stencil_algebra import NoStencil
from .tags import (
    Tags,
    tags_of,
    tags_of_compression,
    tags_of_multiple,
    tags_of_product,
    tags_of_sum,
)
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
    for verb, a, b in (
        ("takes", first.in_structure(), second.in_structure()),
        ("gives", first.out_structure(), second.out_structure()),
    ):
        if not _alike(a, b):
            raise ValueError(f"`A + B` and `A - B` need operators alike, but A {verb} {a}, and B {verb} {b}.")
    tags = tags_of_sum(tags_of(first), tags_of(second))
    formed = _pair(first, second, tags, lambda algebra: algebra.add)
    return lx.AddLinearOperator(first, second) if formed is None else formed


def multiply(operator: lx.AbstractLinearOperator, scalar: Any) -> lx.AbstractLinearOperator:
    """`s A`."""
    scalar = _scalar(scalar, "A * s", operator)
    tags = tags_of_multiple(tags_of(operator), scalar)
    formed = _one(operator, tags, lambda algebra: algebra.multiply(operator, scalar))
    return lx.MulLinearOperator(operator, jnp.asarray(scalar)) if formed is None else formed


def divide(operator: lx.AbstractLinearOperator, scalar: Any) -> lx.AbstractLinearOperator:
    """`A / s`."""
    scalar = _scalar(scalar, "A / s", operator)
    tags = tags_of_multiple(tags_of(operator), scalar)
    formed = _one(operator, tags, lambda algebra: algebra.divide(operator, scalar))
    return lx.DivLinearOperator(operator, jnp.asarray(scalar)) if formed is None else formed


def negate(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    """`-A`."""
    formed = _one(operator, tags_of_multiple(tags_of(operator), -1), lambda algebra: algebra.negate(operator))
    return lx.NegLinearOperator(operator) if formed is None else formed


def compose(first: lx.AbstractLinearOperator, second: Any) -> lx.AbstractLinearOperator:
    """`A @ B`."""
    if not isinstance(second, lx.AbstractLinearOperator):
        raise TypeError(
            f"`A @ B` multiplies two operators, but B is a {type(second).__name__}. Write `A.mv(x)` for the "
            "product with a vector."
        )
    if not _alike(first.in_structure(), second.out_structure()):
        raise ValueError(
            f"`A @ B` needs an A that takes what B gives, but A takes {first.in_structure()}, and B gives "
            f"{second.out_structure()}."
        )
    tags = tags_of_product(tags_of(first), tags_of(second))
    formed = None if _fills_up(first, second) else _pair(first, second, tags, lambda algebra: algebra.compose)
    return lx.ComposedLinearOperator(first, second) if formed is None else formed


def add_diagonal(operator: SparseLinearOperator | StencilLinearOperator, d: Any) -> Any:
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
    d = _in_precision_of(operator, d, "d")
    if shape:
        return add(operator, lx.DiagonalLinearOperator(jnp.broadcast_to(d, structure.shape)))
    return add(operator, lx.MulLinearOperator(lx.IdentityLinearOperator(structure), d))


def select(operator: SparseLinearOperator, rows: Any, cols: Any) -> SparseLinearOperator:
    """`A` at the chosen rows and columns."""
    selected, alike = sparse_algebra.select(operator, rows, cols)
    return with_tags(selected, frozenset(), tags_of_compression(tags_of(operator)) if alike else frozenset())


def _one(operator: lx.AbstractLinearOperator, tags: Tags, function: Callable[[ModuleType], Any]) -> Any:
    """A function of a stencil or of a sparse operator, by the module that has it; None for others."""
    if isinstance(operator, StencilLinearOperator):
        return dataclasses.replace(function(stencil_algebra), tags=tags)
    if isinstance(operator, SparseLinearOperator):
        return with_tags(function(sparse_algebra), frozenset(), tags)
    return None


def _pair(
    first: lx.AbstractLinearOperator,
    second: lx.AbstractLinearOperator,
    tags: Tags,
    function: Callable[[ModuleType], Callable],
) -> Any:
    """The same for two, which may also be lineax's identities and diagonals and what is composed of these."""
    try:
        joint = function(stencil_algebra)(stencil_of(first), stencil_of(second))
        return dataclasses.replace(joint, tags=tags)
    except NoStencil:
        pass
    if has_few_entries(first) and has_few_entries(second):
        return with_tags(function(sparse_algebra)(matrix_of(first), matrix_of(second)), frozenset(), tags)
    return None


def _fills_up(first: lx.AbstractLinearOperator, second: lx.AbstractLinearOperator) -> bool:
    """Whether a product of sparse operators is much more work than its factors, as with a dense row."""
    if not (isinstance(first, SparseLinearOperator) and has_few_entries(second)):
        return False
    a, b = first.pattern, matrix_of(second).pattern
    return sparse_algebra.num_products(a, b) > _MOST_PRODUCTS * (a.nnz + b.nnz)


def _alike(a: Any, b: Any) -> bool:
    """Whether two structures are the same, but that one may be real and the other complex."""
    if not (isinstance(a, jax.ShapeDtypeStruct) and isinstance(b, jax.ShapeDtypeStruct)):
        return a == b
    return a.shape == b.shape and jnp.finfo(a.dtype).bits == jnp.finfo(b.dtype).bits


def _scalar(value: Any, name: str, operator: lx.AbstractLinearOperator) -> Any:
    if isinstance(value, lx.AbstractLinearOperator):
        raise TypeError(f"`{name}` needs a number, but was given an operator; products are `A @ B`.")
    value = as_coefficients(value, name)
    if jnp.shape(value) != ():
        raise ValueError(
            f"`{name}` needs a number, but was given an array of shape {jnp.shape(value)}; rows and columns "
            "are scaled by `lx.DiagonalLinearOperator(d) @ A` and `A @ lx.DiagonalLinearOperator(d)`."
        )
    return _in_precision_of(operator, value, name)


def _in_precision_of(operator: lx.AbstractLinearOperator, value: Any, name: str) -> Any:
    """Numbers of the operator's precision, real or complex as they are."""
    (leaf, *_) = jax.tree.leaves(operator.in_structure())
    dtype = complex_dtype(leaf.dtype) if jnp.iscomplexobj(value) else jnp.finfo(leaf.dtype).dtype
    if isinstance(value, jax.Array):
        return value.astype(dtype)
    value = fit(value, dtype, name)
    return jnp.asarray(value) if jnp.iscomplexobj(value) else value  # lineax asks for the sign of NumPy's

"""What is known of an operator, and what follows for sums, multiples and products: the rules of the tags.

A tag is a promise.  Of an operator that is composed of others, those hold that follow from its parts':

* `A + B`, `A - B`: what holds of both; so sums of positive semidefinite operators are so, with `s I` for
  `s >= 0` and diagonals without a negative entry among them.
* `s A`, `A / s`, `-A`: the symmetry (Hermitian: for real `s`) and the shape; definiteness is kept for
  `s >= 0` and turns into its opposite for `s < 0`.
* `D A D` with a real diagonal `D`, and `D A D^H`: everything but a unit diagonal.
* other products: shapes only, of factors that share them or are diagonal.

What depends on the values of `s` or `D` is claimed only where these are known: a number that is traced by
`jit` or `vmap` has no sign yet.  Differentiation alone hides none.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array


class _Tag:
    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return self.name


#: `A` equals its conjugate transpose.  lineax 0.1 has no such tag yet; where lineax has one, it is this one.
hermitian_tag = getattr(lx, "hermitian_tag", None) or _Tag("hermitian_tag")

if not hasattr(lx, "hermitian_tag"):

    @lx.transpose_tags_rules.append
    def _(tags: frozenset[object]):
        return hermitian_tag if hermitian_tag in tags else None


Tags = frozenset[object]

PSD, NSD = lx.positive_semidefinite_tag, lx.negative_semidefinite_tag
_SHAPES = {lx.diagonal_tag, lx.tridiagonal_tag, lx.lower_triangular_tag, lx.upper_triangular_tag}
_TRIANGULAR = _SHAPES - {lx.tridiagonal_tag}
_SYMMETRIES = {lx.symmetric_tag, hermitian_tag, PSD, NSD}

_CHECKS = {
    lx.symmetric_tag: lx.is_symmetric,
    lx.diagonal_tag: lx.is_diagonal,
    lx.tridiagonal_tag: lx.is_tridiagonal,
    lx.unit_diagonal_tag: lx.has_unit_diagonal,
    lx.lower_triangular_tag: lx.is_lower_triangular,
    lx.upper_triangular_tag: lx.is_upper_triangular,
    PSD: lx.is_positive_semidefinite,
    NSD: lx.is_negative_semidefinite,
}


def as_tags(tags: object | Iterable[object]) -> Tags:
    """One tag or several, as a frozen set."""
    try:
        return frozenset(tags)  # pyright: ignore[reportArgumentType]
    except TypeError:
        return frozenset([tags])


def is_complex(operator: lx.AbstractLinearOperator) -> bool:
    """Whether the operator acts on complex vectors."""
    return any(
        jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in jax.tree.leaves(operator.in_structure())
    )


def is_square(operator: lx.AbstractLinearOperator) -> bool:
    """Whether the operator maps a space to itself."""
    return operator.in_structure() == operator.out_structure()


def untagged(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    """The operator inside any number of `lx.TaggedLinearOperator`s."""
    while isinstance(operator, lx.TaggedLinearOperator):
        operator = operator.operator
    return operator


def tags_of(operator: lx.AbstractLinearOperator) -> Tags:
    """All that is known of an operator, by its tags, its class and the rules, as tags."""
    if isinstance(operator, lx.TaggedLinearOperator):
        return _closed(operator.tags | tags_of(operator.operator), operator)
    if isinstance(operator, lx.NegLinearOperator):
        return tags_of_multiple(tags_of(operator.operator), -1)
    if isinstance(operator, lx.MulLinearOperator | lx.DivLinearOperator):
        return tags_of_multiple(tags_of(operator.operator), operator.scalar)
    if isinstance(operator, lx.AddLinearOperator):
        return tags_of_sum(tags_of(operator.operator1), tags_of(operator.operator2))
    if isinstance(operator, lx.ComposedLinearOperator):
        scaling = as_scaling(operator)
        if scaling is not None:
            return tags_of_scaling(scaling)
        return tags_of_product(tags_of(operator.operator1), tags_of(operator.operator2))
    if isinstance(operator, lx.DiagonalLinearOperator):
        return tags_of_diagonal(operator.diagonal)
    found = {tag for tag in _CHECKS if _says(operator, tag)}
    return _closed(found | getattr(operator, "tags", frozenset()), operator)


def _says(operator: lx.AbstractLinearOperator, tag: object) -> bool:
    """Whether lineax knows a tag of an operator; users' classes need not answer all that lineax may ask."""
    try:
        return _CHECKS[tag](operator)
    except NotImplementedError:
        return False


def _closed(given: Iterable[object], operator: lx.AbstractLinearOperator) -> Tags:
    """With what the tags imply for each other."""
    tags = set(given)
    square, real = is_square(operator), not (is_complex(operator) or _has_complex_factor(operator))
    if lx.diagonal_tag in tags:
        tags |= _SHAPES | ({lx.symmetric_tag} if square else set())
    if tags & {PSD, NSD} or (real and lx.symmetric_tag in tags):
        tags.add(hermitian_tag)
    if real and hermitian_tag in tags:
        tags.add(lx.symmetric_tag)
    return frozenset(tags)


def _has_complex_factor(operator: lx.AbstractLinearOperator) -> bool:
    """Whether a part is multiplied by a complex number: lineax says that `1j * A` acts on real vectors."""
    if jnp.iscomplexobj(getattr(operator, "scalar", 0)):
        return True
    inner = [getattr(operator, name, None) for name in ("operator", "operator1", "operator2")]
    return any(_has_complex_factor(part) for part in inner if isinstance(part, lx.AbstractLinearOperator))


def tags_of_sum(first: Tags, second: Tags) -> Tags:
    """Of `A + B`, from what is known of `A` and of `B`."""
    return first & second & (_SHAPES | _SYMMETRIES)


def tags_of_multiple(tags: Tags, scalar: Any) -> Tags:
    """Of `s A` and of `A / s`."""
    kept = tags & (_SHAPES | {lx.symmetric_tag})
    if jnp.iscomplexobj(scalar):
        return kept
    kept |= tags & {hermitian_tag}
    if never_negative(scalar):
        return kept | tags & {PSD, NSD}
    if never_negative(scalar, -1):
        return kept | {opposite for tag, opposite in ((PSD, NSD), (NSD, PSD)) if tag in tags}
    return kept


def tags_of_diagonal(entries: Any) -> Tags:
    """Of `diag(d)`, `d` given as a number, an array or a list of arrays."""
    entries = jax.tree.leaves(entries)
    tags = {*_SHAPES, lx.symmetric_tag}
    if not any(map(jnp.iscomplexobj, entries)):
        tags.add(hermitian_tag)
        if all(map(never_negative, entries)):
            tags.add(PSD)
        elif all(never_negative(entry, -1) for entry in entries):
            tags.add(NSD)
    return frozenset(tags)


def tags_of_product(first: Tags, second: Tags) -> Tags:
    """Of `A B`; definiteness and symmetry do not survive products."""
    kept = first & second & _TRIANGULAR
    for one, other in ((first, second), (second, first)):
        if lx.diagonal_tag in one:
            kept |= other & _SHAPES
    return kept


def tags_of_compression(tags: Tags) -> Tags:
    """Of `P A P^T` where `P` selects rows."""
    return tags & _SYMMETRIES


class Scaling(NamedTuple):
    """`diag(left) A diag(right)` with `right` equal to `left` or to its conjugate.

    `keeps`: which symmetries of `A` survive, `"symmetric"`, `"hermitian"`, or both for a real diagonal."""

    left: Array
    operator: lx.AbstractLinearOperator
    right: Array
    keeps: set[Any]


def tags_of_scaling(scaling: Scaling) -> Tags:
    """Of `D A D` and `D A D^H`."""
    kept = set(_SHAPES)
    if "symmetric" in scaling.keeps:
        kept.add(lx.symmetric_tag)
    if "hermitian" in scaling.keeps:
        kept |= {hermitian_tag, PSD, NSD}
    return tags_of(scaling.operator) & kept


def as_scaling(operator: lx.ComposedLinearOperator) -> Scaling | None:
    """The parts of `D A D` or `D A D^H`, or None where the operator is not known to be one."""
    first, second = operator.operator1, operator.operator2
    if isinstance(first, lx.ComposedLinearOperator):
        left, inner, right = untagged(first.operator1), first.operator2, untagged(second)
    elif isinstance(second, lx.ComposedLinearOperator):
        left, inner, right = untagged(first), second.operator1, untagged(second.operator2)
    else:
        return None
    if not (isinstance(left, lx.DiagonalLinearOperator) and isinstance(right, lx.DiagonalLinearOperator)):
        return None
    d, e = left.diagonal, right.diagonal
    if isinstance(d, jax.Array) and isinstance(e, jax.Array):
        same = _equal(d, e)
        conjugate = _equal(d, e, conjugate=True) if jnp.iscomplexobj(d) else same
        keeps = {name for name, holds in (("symmetric", same), ("hermitian", conjugate)) if holds}
        return Scaling(d, inner, e, keeps) if keeps else None
    return None


def _equal(a: Array, b: Array, conjugate: bool = False) -> bool:
    if a is b and not conjugate:
        return True
    # Traced ones may have equal values and other derivatives.
    alike = a.shape == b.shape and a.dtype == b.dtype and not isinstance(a, Tracer) | isinstance(b, Tracer)
    return alike and _holds(lambda a, b: ((a.conj() if conjugate else a) == b).all(), a, b)


def never_negative(numbers: Any, sign: int = 1) -> bool:
    """Whether real numbers, times the sign, are known to be all `>= 0`."""
    return _holds(lambda x: ((x >= 0) if sign > 0 else (x <= 0)).all(), numbers)


def _holds(condition: Callable, *arrays: Any) -> bool:
    """Whether something is so; no, where tracing keeps it unknown."""
    if any(isinstance(array, Tracer) for array in arrays):
        try:
            return bool(condition(*arrays))  # differentiation alone knows the values
        except jax.errors.ConcretizationTypeError:
            return False
    if not any(isinstance(array, jax.Array) for array in arrays):
        return bool(condition(*map(np.asarray, arrays)))
    with jax.ensure_compile_time_eval():
        return bool(condition(*arrays))

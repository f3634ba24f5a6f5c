"""What every operator of this package has in common.

lineax asks each operator for thirteen single-dispatch registrations.  They are made here once, for the
abstract base, so that a concrete operator is just a class: fields, `mv`, `as_matrix`, `transpose`, `conj`.
"""

import abc
from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import scipy.sparse
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


class AbstractOperator(lx.AbstractLinearOperator):
    """A square or rectangular linear operator on single arrays, with honest tags.

    Subclasses have a static field `tags` and say what they know of their own structure through the
    methods below; everything lineax asks is answered from these.
    """

    tags: eqx.AbstractVar[frozenset[object]]

    @abc.abstractmethod
    def conj(self) -> "AbstractOperator":
        """The operator with every entry conjugated."""

    def diagonal(self) -> Array:
        """The main diagonal, flat."""
        return jnp.diagonal(self.as_matrix())

    def tridiagonal(self) -> tuple[Array, Array, Array]:
        """The main diagonal, the one below and the one above."""
        matrix = self.as_matrix()
        return jnp.diagonal(matrix), jnp.diagonal(matrix, -1), jnp.diagonal(matrix, 1)

    def is_structurally(self, tag: object) -> bool:
        """Whether the operator has a property (given as lineax's tag) by construction, tagged or not."""
        del tag
        return False


def as_tags(tags: object | Iterable[object]) -> frozenset[object]:
    """One tag or several, as a frozen set."""
    try:
        return frozenset(tags)  # pyright: ignore[reportArgumentType]
    except TypeError:
        return frozenset([tags])


def require_operator(operator: Any, who: str) -> None:
    """Raises where something else was handed in the place of an operator, and says what to write."""
    if isinstance(operator, lx.AbstractLinearOperator):
        return
    if isinstance(operator, type):
        hint = f"make an instance of `{operator.__name__}` first"
    elif scipy.sparse.issparse(operator):
        hint = "write `nsolve.SparseLinearOperator.from_scipy(A)`"
    elif eqx.is_array_like(operator):
        hint = "write `lineax.MatrixLinearOperator(A)`"
    else:
        hint = "see `nsolve.operators`, or `lineax.FunctionLinearOperator` for a function"
    raise TypeError(f"`{who}` needs a linear operator, but was given a {type(operator).__name__}: {hint}.")


def is_complex(operator: lx.AbstractLinearOperator) -> bool:
    """Whether the operator acts on complex vectors."""
    return any(
        jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in jax.tree.leaves(operator.in_structure())
    )


#: lineax's operators that store their entries.
EXPLICIT = lx.MatrixLinearOperator | lx.DiagonalLinearOperator | lx.TridiagonalLinearOperator


def knows_its_entries(operator: lx.AbstractLinearOperator) -> bool:
    """Whether entries can be read without products."""
    return isinstance(untagged(operator), AbstractOperator | EXPLICIT)


def untagged(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    """The operator inside any number of `lx.TaggedLinearOperator`s."""
    while isinstance(operator, lx.TaggedLinearOperator):
        operator = operator.operator
    return operator


def is_hermitian(operator: lx.AbstractLinearOperator) -> bool:
    """Whether the operator is known to equal its conjugate transpose."""
    if lx.is_positive_semidefinite(operator) or lx.is_negative_semidefinite(operator):
        return True
    if not is_complex(operator):
        return lx.is_symmetric(operator)
    while isinstance(operator, lx.TaggedLinearOperator):
        if hermitian_tag in operator.tags:
            return True
        operator = operator.operator
    return hermitian_tag in getattr(operator, "tags", ())


def require_definite(operator: lx.AbstractLinearOperator, name: str) -> None:
    """Raises unless the operator carries the promise that CG and its kin need."""
    if lx.is_positive_semidefinite(operator):
        return
    if lx.is_negative_semidefinite(operator):
        raise ValueError(
            f"`{name}` solves positive definite systems; this one is tagged negative semidefinite. Solve "
            "`-A x = -b` instead."
        )
    raise ValueError(
        f"`{name}` solves positive definite systems, and the operator is not tagged so. If it is positive "
        "definite, say so: `lx.TaggedLinearOperator(A, lx.positive_semidefinite_tag)`. If it is symmetric "
        "but indefinite use `MINRES`, otherwise `GMRES` or `BiCGStab`."
    )


@lx.is_symmetric.register(AbstractOperator)
def _(operator):
    if operator.tags & {lx.symmetric_tag, lx.diagonal_tag}:
        return True
    if operator.is_structurally(lx.diagonal_tag):
        return operator.in_size() == operator.out_size()
    hermitian = {hermitian_tag, lx.positive_semidefinite_tag, lx.negative_semidefinite_tag}
    return bool(operator.tags & hermitian) and not is_complex(operator)


def _register(check, tag):
    @check.register(AbstractOperator)
    def _(operator):
        return tag in operator.tags or operator.is_structurally(tag)


for _check, _tag in (
    (lx.is_diagonal, lx.diagonal_tag),
    (lx.is_tridiagonal, lx.tridiagonal_tag),
    (lx.has_unit_diagonal, lx.unit_diagonal_tag),
    (lx.is_lower_triangular, lx.lower_triangular_tag),
    (lx.is_upper_triangular, lx.upper_triangular_tag),
    (lx.is_positive_semidefinite, lx.positive_semidefinite_tag),
    (lx.is_negative_semidefinite, lx.negative_semidefinite_tag),
):
    _register(_check, _tag)


@lx.linearise.register(AbstractOperator)
def _(operator):
    return operator


@lx.materialise.register(AbstractOperator)
def _(operator):
    if len(operator.in_structure().shape) != 1 or len(operator.out_structure().shape) != 1:
        return operator  # lineax's matrices act on flat vectors only
    return lx.MatrixLinearOperator(operator.as_matrix(), operator.tags)


@lx.diagonal.register(AbstractOperator)
def _(operator):
    return operator.diagonal()


@lx.tridiagonal.register(AbstractOperator)
def _(operator):
    return operator.tridiagonal()


@lx.conj.register(AbstractOperator)
def _(operator):
    return operator.conj() if is_complex(operator) else operator

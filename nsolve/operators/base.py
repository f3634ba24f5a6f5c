"""What every operator of this package has in common.

lineax asks each operator for thirteen single-dispatch registrations.  They are made here once, for the
abstract base, so that a concrete operator is just a class: fields, `mv`, `as_matrix`, `transpose`, `conj`.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array

from .tags import NSD, PSD
from .tags import as_tags as as_tags
from .tags import hermitian_tag as hermitian_tag
from .tags import is_complex as is_complex
from .tags import tags_of as tags_of
from .tags import untagged as untagged


class AbstractOperator(lx.AbstractLinearOperator):
    """A square or rectangular linear operator on single arrays, with honest tags.

    Subclasses have a static field `tags` and say what they know of their own structure through the
    methods below; everything lineax asks is answered from these.

    Sums, multiples and products of sparse operators and of stencils, with lineax's identities and diagonals
    too, are such operators again; the rules for their tags are in `nsolve.operators.tags`.  Others are
    lineax's compositions.
    """

    tags: eqx.AbstractVar[frozenset[object]]

    __array_ufunc__ = None  # `number * A`, with a number of NumPy's, is for `A.__rmul__`

    # The arithmetic knows the classes that are derived from this one, and is imported when asked.

    def __add__(self, other: Any) -> lx.AbstractLinearOperator:
        from .algebra import add

        return add(self, other)

    def __sub__(self, other: Any) -> lx.AbstractLinearOperator:
        return self + (-other if isinstance(other, lx.AbstractLinearOperator) else other)

    def __mul__(self, other: Any) -> lx.AbstractLinearOperator:
        from .algebra import multiply

        return multiply(self, other)

    def __rmul__(self, other: Any) -> lx.AbstractLinearOperator:
        return self * other

    def __truediv__(self, other: Any) -> lx.AbstractLinearOperator:
        from .algebra import divide

        return divide(self, other)

    def __neg__(self) -> lx.AbstractLinearOperator:
        from .algebra import negate

        return negate(self)

    def __matmul__(self, other: Any) -> lx.AbstractLinearOperator:
        from .algebra import compose

        return compose(self, other)

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


#: lineax's operators that store their entries.
EXPLICIT = (
    lx.MatrixLinearOperator
    | lx.DiagonalLinearOperator
    | lx.TridiagonalLinearOperator
    | lx.PyTreeLinearOperator
)


def is_jax_sparse(x: object) -> bool:
    """Whether something is a sparse array of JAX's; that package is not imported just to ask."""
    return any(cls.__module__.startswith("jax.experimental.sparse") for cls in type(x).__mro__)


def require_operator(operator: object, name: str) -> None:
    """Raises, saying what to write, unless something is a linear operator."""
    if isinstance(operator, lx.AbstractLinearOperator):
        return
    import scipy.sparse as sp  # slow to import

    if isinstance(operator, type):
        hint = f"is the class {operator.__name__}; pass an instance"
    elif sp.issparse(operator):
        hint = "is a SciPy sparse matrix; write `ns.SparseLinearOperator.from_scipy(matrix)`"
    elif is_jax_sparse(operator):
        hint = "is a JAX sparse array; write `ns.SparseLinearOperator.from_bcoo(matrix)`"
    elif isinstance(operator, np.ndarray | jax.Array):
        hint = "is an array; write `lx.MatrixLinearOperator(jnp.asarray(matrix))`"
    else:
        hint = f"is a {type(operator).__name__}"
    raise TypeError(f"`{name}` must be a linear operator, but {hint}.")


def is_hermitian(operator: lx.AbstractLinearOperator) -> bool:
    """Whether the operator is known to equal its conjugate transpose."""
    require_operator(operator, "operator")
    return hermitian_tag in tags_of(operator)


def is_positive_semidefinite(operator: lx.AbstractLinearOperator) -> bool:
    """Whether the operator is known to be so, where it is composed of others by the rules of `tags`."""
    return PSD in tags_of(operator)


def is_negative_semidefinite(operator: lx.AbstractLinearOperator) -> bool:
    """Whether the operator is known to be so, where it is composed of others by the rules of `tags`."""
    return NSD in tags_of(operator)


def require_definite(operator: lx.AbstractLinearOperator, name: str) -> None:
    """Raises unless the operator carries the promise that CG and its kin need."""
    if is_positive_semidefinite(operator):
        return
    if is_negative_semidefinite(operator):
        raise ValueError(
            f"`{name}` solves positive definite systems; this one is tagged negative semidefinite. Solve "
            "`-A x = -b` instead."
        )
    composed = isinstance(
        untagged(operator),
        lx.AddLinearOperator | lx.MulLinearOperator | lx.DivLinearOperator | lx.ComposedLinearOperator,
    )
    hint = (
        " What lineax composes loses the tag where that depends on numbers which are traced, as all inside a "
        "solve are: `ns.as_sparse(A)`, or `ns.operators.as_stencil(A)` on a grid, called before, keeps it."
    )
    raise ValueError(
        f"`{name}` solves positive definite systems, and the operator is not tagged so. If it is positive "
        "definite, say so: `lx.TaggedLinearOperator(A, lx.positive_semidefinite_tag)`. If it is symmetric "
        f"but indefinite use `MINRES`, otherwise `GMRES` or `BiCGStab`.{hint * composed}"
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

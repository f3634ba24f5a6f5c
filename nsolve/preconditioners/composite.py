"""Preconditioners made of others."""

from typing import Literal

import equinox as eqx
import jax
import lineax as lx
from jaxtyping import Array

from ..operators.base import is_positive_semidefinite
from .base import AbstractApproximateInverse, AbstractPreconditioner, array_structure

_PSD = lx.positive_semidefinite_tag


class CompositeInverse(AbstractApproximateInverse):
    """The sum of the parts, or one after the other on the residual that is left."""

    parts: tuple[AbstractApproximateInverse, ...]
    operator: lx.AbstractLinearOperator
    constructor: "Composite"
    structure: jax.ShapeDtypeStruct = eqx.field(static=True)

    @property
    def tags(self) -> frozenset[object]:
        definite = all(is_positive_semidefinite(part) for part in self.parts)
        return frozenset([_PSD] if definite and self.constructor.kind == "additive" else [])

    def mv(self, vector: Array) -> Array:
        z = self.parts[0].mv(vector)
        for part in self.parts[1:]:
            left = vector if self.constructor.kind == "additive" else vector - self.operator.mv(z)
            z = z + part.mv(left)
        return z

    def refresh(self, operator: lx.AbstractLinearOperator) -> "CompositeInverse":
        parts = tuple(part.refresh(operator) for part in self.parts)
        return CompositeInverse(parts, lx.linearise(operator), self.constructor, self.structure)

    def transpose(self) -> "CompositeInverse":
        # (I - M A) = (I - M_k A) ... (I - M_1 A), so that the transpose begins with the last.
        parts = tuple(part.transpose() for part in reversed(self.parts))
        return CompositeInverse(parts, self.operator.transpose(), self.constructor, self.structure)

    def conj(self) -> "CompositeInverse":
        parts = tuple(lx.conj(part) for part in self.parts)
        return CompositeInverse(parts, lx.conj(self.operator), self.constructor, self.structure)

    def __repr__(self) -> str:
        return f"{self.constructor.kind} composite of {', '.join(map(repr, self.parts))}"


class Composite(AbstractPreconditioner):
    """Several preconditioners as one: what one cannot see, another may.

        Composite((IncompleteLU(), Multigrid()))                            # one after the other
        Composite((Jacobi(), SaddlePoint(split)), kind="additive")

    * `parts`: preconditioner constructors.
    * `kind`: `"multiplicative"`, each on the residual that those before it leave, which costs a product with
      `A` more for each after the first; or `"additive"`, the sum.

    The sum of positive semidefinite parts is tagged so.  A multiplicative one is Hermitian only where the
    parts read the same backwards, and definite where they converge: tag it yourself for `CG`,
    `lx.TaggedLinearOperator(M, lx.positive_semidefinite_tag)`, or use `FlexibleCG` or `GMRES`.

    **Cost:** that of the parts, and of the products.  Transposes are exact; what may be traced is what the
    parts allow.  **Raises** what the parts do.

    Saad, *Iterative Methods for Sparse Linear Systems*, 2nd ed. (2003), section 14.3,
    doi:10.1137/1.9780898718003.
    """

    parts: tuple[AbstractPreconditioner, ...] = eqx.field(converter=tuple)
    kind: Literal["multiplicative", "additive"] = eqx.field(static=True, default="multiplicative")

    def __check_init__(self):
        if not self.parts or not all(isinstance(part, AbstractPreconditioner) for part in self.parts):
            raise TypeError(
                "`Composite(parts=...)` must be one preconditioner constructor or more, such as `(Jacobi(), "
                f"Multigrid())`, but is {self.parts!r}."
            )
        if self.kind not in ("multiplicative", "additive"):
            raise ValueError(
                f'`Composite(kind=...)` must be "multiplicative" or "additive", but is {self.kind!r}.'
            )

    def build(self, operator: lx.AbstractLinearOperator) -> CompositeInverse:
        structure = array_structure(operator, "Composite")
        parts = tuple(part.build(operator) for part in self.parts)
        return CompositeInverse(parts, lx.linearise(operator), self, structure)

"""Deflation: directions in which the operator is known are taken out of the iteration."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.core import Tracer
from jaxtyping import Array

from .. import _basis
from .._dense import eigh
from ..operators.base import is_hermitian, is_positive_semidefinite
from .base import AbstractApproximateInverse, AbstractPreconditioner, array_structure

_PSD = lx.positive_semidefinite_tag


class DeflationInverse(AbstractApproximateInverse):
    """`Q + (I - Q A) M1 (I - A Q)` with `Q = W (W^H A W)^-1 W^H`; `inner` is `M1`, None for the identity."""

    vectors: Array  # the rows are `W`
    images: Array  # `A W`
    inverse: Array  # of `W^H A W`
    inner: AbstractApproximateInverse | None
    constructor: "Deflation"
    structure: jax.ShapeDtypeStruct = eqx.field(static=True)
    tags: frozenset[object] = eqx.field(static=True)

    def mv(self, vector: Array) -> Array:
        first = self.inverse @ _basis.overlaps(self.vectors, vector)
        left = vector - _basis.combine(first, self.images)
        z = left if self.inner is None else self.inner.mv(left)
        # W^H A z, since A is Hermitian
        second = first - self.inverse @ _basis.overlaps(self.images, z)
        return z + _basis.combine(second, self.vectors)

    def refresh(self, operator: lx.AbstractLinearOperator) -> "DeflationInverse":
        inner = None if self.inner is None else self.inner.refresh(operator)
        return self.constructor.made(operator, inner)

    def transpose(self) -> "DeflationInverse":
        return self if not jnp.iscomplexobj(self.vectors) else self.conj()

    def conj(self) -> "DeflationInverse":
        inner = None if self.inner is None else lx.conj(self.inner)
        arrays = (x.conj() for x in (self.vectors, self.images, self.inverse))
        return DeflationInverse(*arrays, inner, self.constructor, self.structure, self.tags)

    def __repr__(self) -> str:
        inner = "" if self.inner is None else f" around {self.inner!r}"
        return f"Deflation of {len(self.vectors)} vectors ({self.in_size()} unknowns){inner}"


class Deflation(AbstractPreconditioner):
    """Solves exactly on given vectors, and leaves the rest to another preconditioner (or to none).

    For Hermitian positive definite operators with a few directions that hold an iteration up and that one
    knows: constants on parts of high contrast, rigid motions, eigenvectors of a nearby operator, or what
    `CG(recycle=k)` found on an earlier system (`stats["recycled"].vectors`).  Eigenvectors given exactly
    leave the iteration the rest of the spectrum.

    * `vectors`: `(k, *shape)`, one in each row, independent; neither orthogonal nor of length one.
    * `inner`: the other preconditioner's constructor.

    With `Q = W (W^H A W)^-1 W^H` it is the balancing preconditioner `Q + (I - Q A) M (I - A Q)`: Hermitian,
    definite where `A` and `M` are, and robust to inexact vectors.

    **Cost:** set-up `k` products and the inner one's; an application is the inner one's and four passes over
    `k` vectors, no product, since `A W` is kept.  May be traced and batched, `vectors` too.  **Raises**
    `ValueError` for an operator that is not Hermitian by its tags, vectors of another shape, and, where
    concrete, dependent ones.  Traced, dependent directions are left out.

    Mandel (1993), doi:10.1002/cnm.1640090307; Tang, Nabben, Vuik and Erlangga (2009),
    doi:10.1007/s10915-009-9272-6.
    """

    vectors: Any
    inner: AbstractPreconditioner | None = None

    def __check_init__(self):
        if not (self.inner is None or isinstance(self.inner, AbstractPreconditioner)):
            raise TypeError(
                "`Deflation(inner=...)` must be a preconditioner constructor, such as `Jacobi()`, but is "
                f"{self.inner!r}."
            )
        if jnp.ndim(self.vectors) < 2 or jnp.shape(self.vectors)[0] == 0:
            raise ValueError(
                "`Deflation(vectors=...)` must have one vector in each row, `(k, *shape)`, but has the shape "
                f"{jnp.shape(self.vectors)}."
            )

    def build(self, operator: lx.AbstractLinearOperator) -> DeflationInverse:
        array_structure(operator, "Deflation")
        if not is_hermitian(operator):
            raise ValueError(
                "`Deflation` is for symmetric (Hermitian) positive definite operators, and this one is not "
                "tagged so. If it is, say so: `lx.TaggedLinearOperator(A, lx.positive_semidefinite_tag)`."
            )
        return self.made(operator, None if self.inner is None else self.inner.build(operator))

    def made(
        self, operator: lx.AbstractLinearOperator, inner: AbstractApproximateInverse | None
    ) -> DeflationInverse:
        """With the inner preconditioner that was made already."""
        structure = array_structure(operator, "Deflation")
        if jnp.shape(self.vectors)[1:] != structure.shape:
            wanted = ", ".join(map(str, structure.shape))
            raise ValueError(
                f"`Deflation(vectors=...)` must have the shape `(k, {wanted})`, but has "
                f"{jnp.shape(self.vectors)}."
            )
        vectors = jnp.asarray(self.vectors).astype(structure.dtype)
        lengths = _basis.norms(vectors)
        vectors = _basis.scaled(jnp.where(lengths > 0, 1 / lengths, 0), vectors)
        images = jax.vmap(operator.mv)(vectors)
        values, basis = eigh(_basis.gram(vectors, images))
        kept = values > len(values) * jnp.finfo(values.dtype).eps * values[-1]
        if not isinstance(kept, Tracer) and not kept.all():
            raise ValueError(
                f"`Deflation(vectors=...)`: the {len(values)} vectors are dependent, zero or not finite, or "
                f"the operator is not positive definite on them (only {int(kept.sum())} directions are left)."
            )
        weights = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0).astype(basis.dtype)
        inverse = (basis * weights[None, :]) @ basis.conj().T
        definite = is_positive_semidefinite(operator) and (inner is None or is_positive_semidefinite(inner))
        tags = frozenset([_PSD] if definite else [])
        return DeflationInverse(vectors, images, inverse, inner, self, structure, tags)

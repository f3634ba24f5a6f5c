"""Preconditioners in a lower precision than the solve."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array

from .._stopping import power_of_two_scale
from ..operators.precision import cast, cast_array, narrower, require_real
from .base import AbstractApproximateInverse, AbstractPreconditioner, array_structure, constant


class LowPrecisionInverse(AbstractApproximateInverse):
    """`inner`, made for the operator divided by `unit` and rounded, between two casts."""

    inner: AbstractApproximateInverse
    unit: Array
    constructor: "LowPrecision"
    structure: jax.ShapeDtypeStruct = eqx.field(static=True)

    @property
    def tags(self) -> frozenset[object]:
        return self.inner.tags

    def mv(self, vector: Array) -> Array:
        size = power_of_two_scale(vector)
        z = self.inner.mv(cast_array(vector / size.astype(vector.dtype), self.constructor.dtype))
        factor = size / self.unit.astype(size.dtype)
        return factor.astype(vector.dtype) * z.astype(vector.dtype)

    def refresh(self, operator: lx.AbstractLinearOperator) -> "LowPrecisionInverse":
        low, unit = self.constructor.rounded(constant(operator))
        return LowPrecisionInverse(self.inner.refresh(low), unit, self.constructor, self.structure)

    def transpose(self) -> "LowPrecisionInverse":
        return LowPrecisionInverse(self.inner.transpose(), self.unit, self.constructor, self.structure)

    def conj(self) -> "LowPrecisionInverse":
        return LowPrecisionInverse(lx.conj(self.inner), self.unit, self.constructor, self.structure)

    def __repr__(self) -> str:
        low = narrower(self.structure.dtype, self.constructor.dtype)
        return f"{self.inner!r} in {low}"


class LowPrecision(AbstractPreconditioner):
    """Another preconditioner, made and applied in a lower precision than the solve.

        ns.CG(rtol=1e-10, preconditioner=ns.preconditioners.LowPrecision(ns.preconditioners.Multigrid()))

    A preconditioner need not be accurate.  It pays where time goes to memory, of which half the digits need
    half, as for a multigrid cycle on a large grid.  The solve, its residuals and its stopping rule
    stay in the precision of the operator.  For all but very ill-conditioned operators (beyond one over the
    low precision's rounding, 1e7 for float32) it takes as many steps as in full precision, or one more.
    See `IterativeRefinement` for a whole solve in low precision.

    * `inner`: any preconditioner constructor.
    * `dtype`: the low precision, a real type; operators of this precision or below are left as they are.

    The operator, and every vector, is divided by a power of two near its largest entry before it is rounded,
    so that nothing overflows; what is smaller than that by the type's range (1e-38 in float32) becomes zero.
    Operators other than sparse ones, stencils and matrices are applied in their own precision, and their
    products rounded.

    **Cost:** the inner one's in its precision, and two casts of a vector an application.  **Raises** what the
    inner one does; `TypeError` where `dtype` is not a real floating-point type.

    Giraud, Haidar and Watson (2008), doi:10.1016/j.parco.2008.01.004.
    """

    inner: AbstractPreconditioner
    dtype: Any = eqx.field(static=True, default=jnp.float32, converter=jnp.dtype)

    def __check_init__(self):
        if not isinstance(self.inner, AbstractPreconditioner):
            raise TypeError(
                "`LowPrecision(inner=...)` must be a preconditioner constructor, such as `Multigrid()`, "
                f"but is {self.inner!r}."
            )
        require_real(self.dtype, "LowPrecision(dtype=...)")

    def build(self, operator: lx.AbstractLinearOperator) -> LowPrecisionInverse:
        structure = array_structure(operator, "LowPrecision")
        low, unit = self.rounded(operator)
        return LowPrecisionInverse(self.inner.build(low), unit, self, structure)

    def rounded(self, operator: lx.AbstractLinearOperator) -> tuple[lx.AbstractLinearOperator, Array]:
        """The operator divided by a power of two and rounded, and that power."""
        from ..linear.base import size_of  # here, since solvers import preconditioners

        unit = size_of(operator)
        return cast(operator, self.dtype, unit), unit

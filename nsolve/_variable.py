"""The contract of preconditioners that are no fixed linear operator."""

import abc

import equinox as eqx
import jax
import lineax as lx
from jaxtyping import Array, PyTree

from ._vectors import Vector, scale


class AbstractVariablePreconditioner(eqx.Module):
    """A map `r -> z ~ A^-1 r` that may be nonlinear, and differ from application to application.

    `FlexibleCG` and `FGMRES` take it, since they never suppose that two applications are of one operator; no
    other solver does.  Derivatives of `lx.linear_solve` are exact whatever the map does: they never
    differentiate or transpose it.  Tangent systems (`jax.jvp`) are preconditioned by the map itself, adjoint
    systems by the transpose of its `linear_part`.  `nsolve.unroll` differentiates through the map, its
    parameters included.

    `FlexibleCG` hands it residuals, in the units of the problem; `FGMRES` vectors of length one.  It is
    applied once a step; the state goes on from cycle to cycle, and begins anew with the next solve.

    Notay (2000), doi:10.1137/S1064827599362314; Saad (1993), doi:10.1137/0914028.
    """

    @abc.abstractmethod
    def init(self, structure: PyTree[jax.ShapeDtypeStruct]) -> PyTree[Array]:
        """What a solve begins with for vectors of this structure: any tree of arrays, `None` for nothing."""

    @abc.abstractmethod
    def apply(self, r: Vector, state: PyTree[Array]) -> tuple[Vector, PyTree[Array]]:
        """`z`, of the structure of `r`, and the state for the next application, of the state's structure."""

    @abc.abstractmethod
    def linear_part(self, operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator | None:
        """A fixed linear `M ~ A^-1`, whose transpose preconditions adjoint systems; None: nothing does."""


class InUnits(AbstractVariablePreconditioner):
    """Another one, handed vectors in other units: `z = unit inner(r / unit)`."""

    inner: AbstractVariablePreconditioner
    unit: Array

    def init(self, structure: PyTree[jax.ShapeDtypeStruct]) -> PyTree[Array]:
        return self.inner.init(structure)

    def apply(self, r: Vector, state: PyTree[Array]) -> tuple[Vector, PyTree[Array]]:
        z, state = self.inner.apply(scale(1 / self.unit, r), state)
        return scale(self.unit, z), state

    def linear_part(self, operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator | None:
        return self.inner.linear_part(operator)


AbstractVariablePreconditioner.__module__ = "nsolve.preconditioners"  # its public place

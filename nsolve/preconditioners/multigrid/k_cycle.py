"""Multigrid that accelerates its coarse grids by conjugate gradients."""

import equinox as eqx
import jax
import lineax as lx
from jaxtyping import Array, PyTree

from ..._variable import AbstractVariablePreconditioner
from ...operators.base import require_definite, require_operator
from ..base import constant
from .geometric import Multigrid, MultigridInverse


class KCycleMap(AbstractVariablePreconditioner):
    """One K-cycle from a zero guess; `print` it for the hierarchy."""

    inverse: MultigridInverse

    def init(self, structure: PyTree[jax.ShapeDtypeStruct]) -> None:
        del structure

    def apply(self, r: Array, state: None) -> tuple[Array, None]:
        return self.inverse.cycled(r, "K"), state

    def linear_part(self, operator: lx.AbstractLinearOperator) -> MultigridInverse:
        del operator
        return self.inverse

    def refresh(self, operator: lx.AbstractLinearOperator) -> "KCycleMap":
        """The same for an operator with the same pattern and other values."""
        return KCycleMap(self.inverse.refresh(operator))

    def __repr__(self) -> str:
        return repr(self.inverse).replace(f"one {self.inverse.cycle}-cycle", "one K-cycle", 1)


class KCycle(eqx.Module):
    """Multigrid by K-cycles: each coarser grid is solved by one or two steps of conjugate gradients, each
    preconditioned by a K-cycle from there.

        ns.FlexibleCG(preconditioner=ns.preconditioners.multigrid.KCycle(ns.preconditioners.Multigrid()))

    For positive definite operators where cycles of `multigrid` take many steps, since coarse grids hold some
    of the errors badly. What it does depends on the vector, so it is no linear operator: only `FlexibleCG`
    and `FGMRES` take it, and adjoint systems are preconditioned by the cycle of `multigrid` itself.

    * `multigrid`: what makes the levels, with their smoother.

    **Cost:** set-up that of `multigrid`. A step is at most that of its W-cycle and two products on each
    coarser grid a visit; where one step leaves less than a quarter of a residual the second is left out.
    **Raises** what `multigrid` does, and `ValueError` for operators that are not tagged positive
    semidefinite.

    Notay and Vassilevski (2008), doi:10.1002/nla.542.
    """

    multigrid: Multigrid = Multigrid()

    def __check_init__(self):
        if not isinstance(self.multigrid, Multigrid):
            raise TypeError(
                f"`KCycle(multigrid=...)` must be a `preconditioners.Multigrid`, but is {self.multigrid!r}."
            )

    def __call__(self, operator: lx.AbstractLinearOperator) -> KCycleMap:
        require_operator(operator, "operator of KCycle")
        require_definite(operator, "KCycle")
        return KCycleMap(self.multigrid.hierarchy(constant(operator), may_share=False))

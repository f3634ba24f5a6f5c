"""An operator together with its preconditioner."""

import equinox as eqx
import lineax as lx
from jaxtyping import PyTree

from ._vectors import Vector


class System(eqx.Module):
    """A solver's state: the operator, the preconditioner built for it, and what else the method computed
    (`extra`) or was handed (`recycled`)."""

    operator: lx.AbstractLinearOperator
    preconditioner: lx.AbstractLinearOperator | None
    extra: PyTree = None
    recycled: PyTree = None

    def product(self, x: Vector) -> Vector:
        """`A x`."""
        return self.operator.mv(x)

    def precondition(self, x: Vector) -> Vector:
        """`M x`; `x` itself without preconditioner."""
        return x if self.preconditioner is None else self.preconditioner.mv(x)

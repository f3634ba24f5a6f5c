"""An operator together with its preconditioner."""

import equinox as eqx
import lineax as lx
from jaxtyping import Array, PyTree

from ._vectors import Vector, scale


class System(eqx.Module):
    """A solver's state: the operator, the preconditioner built for it, and what else the method computed
    (`extra`) or was handed (`recycled`).

    A method that forms squares of products works on `A / unit`, with `unit` a power of two near the size of
    `A`; the preconditioner is multiplied by it.
    """

    operator: lx.AbstractLinearOperator
    preconditioner: lx.AbstractLinearOperator | None
    extra: PyTree = None
    recycled: PyTree = None
    unit: Array | None = None

    def product(self, x: Vector) -> Vector:
        """`A x / unit`."""
        y = self.operator.mv(x)
        return y if self.unit is None else scale(1 / self.unit, y)

    def precondition(self, x: Vector) -> Vector:
        """`unit M x`; `x` itself without preconditioner."""
        if self.preconditioner is None:
            return x
        z = self.preconditioner.mv(x)
        return z if self.unit is None else scale(self.unit, z)

"""An operator together with its preconditioner."""

from typing import Any

import equinox as eqx
import lineax as lx
from jaxtyping import Array, PyTree

from ._frozen import Frozen, freeze
from ._vectors import Vector, scale


class System(eqx.Module):
    """A solver's state: the operator, the preconditioner built for it, and what else the method computed
    (`extra`) or was handed (`recycled`).

    A method that forms squares of products works on `A / unit`, with `unit` a power of two near the size of
    `A`; the preconditioner is multiplied by it.

    Only arrays are leaves: whoever stops the gradients of a state or carries it through a loop (optimistix's
    `Chord`, diffrax's `VeryChord`) asks for that.
    """

    arrays: tuple[Array, ...]
    rest: Frozen = eqx.field(static=True)

    def __init__(
        self,
        operator: lx.AbstractLinearOperator,
        preconditioner: lx.AbstractLinearOperator | None,
        extra: PyTree = None,
        recycled: PyTree = None,
        unit: Array | None = None,
    ):
        self.arrays, self.rest = freeze((operator, preconditioner, extra, recycled, unit))

    def _part(self, index: int) -> Any:
        return self.rest.thaw(self.arrays)[index]

    @property
    def operator(self) -> lx.AbstractLinearOperator:
        return self._part(0)

    @property
    def preconditioner(self) -> lx.AbstractLinearOperator | None:
        return self._part(1)

    @property
    def extra(self) -> PyTree:
        return self._part(2)

    @property
    def recycled(self) -> PyTree:
        return self._part(3)

    @property
    def unit(self) -> Array | None:
        return self._part(4)

    def product(self, x: Vector) -> Vector:
        """`A x / unit`."""
        # Vectors are scaled before the product: after it XLA would evaluate it anew wherever it is used.
        unit = self.unit
        return self.operator.mv(x if unit is None else scale(1 / unit, x))

    def precondition(self, x: Vector) -> Vector:
        """`unit M x`; `x` itself without preconditioner."""
        preconditioner, unit = self.preconditioner, self.unit
        if preconditioner is None:
            return x
        return preconditioner.mv(x if unit is None else scale(unit, x))

"""An operator together with its preconditioner."""

from typing import Any

import equinox as eqx
import lineax as lx
from jaxtyping import Array, PyTree

from ._frozen import Frozen, freeze
from ._vectors import Vector


class System(eqx.Module):
    """A solver's state: the operator, the preconditioner built for it, and what else the method computed
    (`extra`) or was handed (`recycled`).

    Only arrays are leaves, as those ask who stop the gradients of a state or carry it through a loop
    (optimistix's `Chord`, diffrax's `VeryChord`); see `nsolve._frozen`.
    """

    arrays: tuple[Array, ...]
    rest: Frozen = eqx.field(static=True)

    def __init__(
        self,
        operator: lx.AbstractLinearOperator,
        preconditioner: lx.AbstractLinearOperator | None,
        extra: PyTree = None,
        recycled: PyTree = None,
    ):
        self.arrays, self.rest = freeze((operator, preconditioner, extra, recycled))

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

    def product(self, x: Vector) -> Vector:
        """`A x`."""
        return self.operator.mv(x)

    def precondition(self, x: Vector) -> Vector:
        """`M x`; `x` itself without preconditioner."""
        return x if self.preconditioner is None else self.preconditioner.mv(x)

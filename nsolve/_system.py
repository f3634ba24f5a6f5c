"""An operator together with its preconditioner."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PyTree

from ._frozen import Frozen, freeze
from ._results import described
from ._variable import AbstractVariablePreconditioner, InUnits
from ._vectors import Vector, scale


class System(eqx.Module):
    """A solver's state: the operator, the preconditioner built for it, and what else the method computed
    (`extra`) or was handed (`recycled`).  `given`: whether the preconditioner came from the options.

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
        preconditioner: lx.AbstractLinearOperator | AbstractVariablePreconditioner | None,
        extra: PyTree = None,
        recycled: PyTree = None,
        unit: Array | None = None,
        given: bool = False,
    ):
        self.arrays, self.rest = freeze((operator, preconditioner, extra, recycled, unit, given))

    def __pdoc__(self, **kwargs: Any) -> Any:
        parts = [type(part).__name__ for part in (self.operator, self.preconditioner) if part is not None]
        return described(f"System({', '.join(parts)})")

    def _part(self, index: int) -> Any:
        return self.rest.thaw(self.arrays)[index]

    @property
    def operator(self) -> lx.AbstractLinearOperator:
        return self._part(0)

    @property
    def preconditioner(self) -> lx.AbstractLinearOperator | AbstractVariablePreconditioner | None:
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

    @property
    def given(self) -> bool:
        return self._part(5)

    def in_units_of(self, unit: Array) -> "System":
        """The system for vectors divided by `unit`, of which a variable preconditioner is to know nothing."""
        preconditioner = self.preconditioner
        if not isinstance(preconditioner, AbstractVariablePreconditioner):
            return self
        preconditioner = InUnits(preconditioner, 1 / unit)
        return System(self.operator, preconditioner, self.extra, self.recycled, self.unit, self.given)

    def product(self, x: Vector) -> Vector:
        """`A x / unit`."""
        # Vectors are scaled before the product: after it XLA would evaluate it anew wherever it is used.
        unit = self.unit
        return self.operator.mv(x if unit is None else scale(1 / unit, x))

    def precondition(self, x: Vector) -> Vector:
        """`unit M x` for a fixed preconditioner `M`; `x` itself without."""
        preconditioner, unit = self.preconditioner, self.unit
        if preconditioner is None:
            return x
        assert not isinstance(preconditioner, AbstractVariablePreconditioner)
        return preconditioner.mv(x if unit is None else scale(unit, x))

    def memory(self) -> PyTree[Array]:
        """What the first of a row of applications begins with; None for a fixed preconditioner."""
        if not isinstance(self.preconditioner, AbstractVariablePreconditioner):
            return None
        return jax.tree.map(jnp.asarray, self.preconditioner.init(self.operator.in_structure()))

    def apply(self, x: Vector, memory: PyTree[Array]) -> tuple[Vector, PyTree[Array]]:
        """`unit M x` for any preconditioner, and the memory for the next application."""
        preconditioner, unit = self.preconditioner, self.unit
        if not isinstance(preconditioner, AbstractVariablePreconditioner):
            return self.precondition(x), None
        z, memory = preconditioner.apply(x, memory)
        return z if unit is None else scale(unit, z), memory

"""What a cycle asks of smoothing, and how it is named."""

import abc
from typing import Literal, NamedTuple

import equinox as eqx
from jaxtyping import Array

from ...operators.stencil import StencilLinearOperator

SmootherName = Literal[
    "chebyshev", "fourth_kind", "jacobi", "l1_jacobi", "multicolour", "line", "incomplete_cholesky"
]
#: Of these the ones that do more in one sweep than others in two.
_SWEEPS = {"incomplete_cholesky": 1, "multicolour": 1, "line": 1}

#: Chebyshev's polynomials and Jacobi's steps converge up to a sixth beyond their interval, polynomials of
#: the fourth kind hardly beyond it.
_MARGINS = {"chebyshev": 1.0, "jacobi": 1.0, "fourth_kind": 1.1}


class Smoothing(NamedTuple):
    """How all levels are smoothed; hashable."""

    name: SmootherName = "chebyshev"
    #: Before the coarser grid, and after it.
    sweeps: int = 2
    #: Whether incomplete factors take the first axis in the other order.
    flipped: bool = False

    @property
    def margin(self) -> float | None:
        """What an estimate of the largest eigenvalue of `D^-1 A` is raised by, for polynomials that grow
        beyond it; None where none is needed."""
        return _MARGINS.get(self.name)


def smoothing_of(name: SmootherName, sweeps: int | None, flipped: bool) -> Smoothing:
    """With the smoother's own number of sweeps by default."""
    return Smoothing(name, _SWEEPS.get(name, 2) if sweeps is None else sweeps, flipped)


class AbstractSmoother(eqx.Module):
    """Sweeps `x <- x + S (b - A x)` on one level: before the coarser grid from zero, after it their adjoints,
    so that the cycle is symmetric where `A` is."""

    inverse_diagonal: eqx.AbstractVar[Array]

    @abc.abstractmethod
    def from_zero(self, operator: StencilLinearOperator, b: Array) -> Array:
        """The sweeps before the coarser grid."""

    @abc.abstractmethod
    def improve(self, operator: StencilLinearOperator, x: Array, b: Array) -> Array:
        """The sweeps after it, from `x`."""

    @abc.abstractmethod
    def transpose(self) -> "AbstractSmoother":
        """That of the transposed operator: its sweeps before are the transposes of these after, and the other
        way round."""

"""Which axes each coarsening step halves, and where a direct solver takes over."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..._arrays import is_traced
from ...operators.stencil import StencilLinearOperator
from .smoothing import SmootherName, Smoothing, smoothing_of
from .transfer import coarser, kept_size

#: Points at which coarsening stops: fast diagonalisation takes more than a dense inverse, whose
#: elimination stays within one thread at 64.
_COARSEST = {True: 4096, False: 64}
#: Longest axis of a coarsest grid.
_LONGEST = {True: 128, False: 64}
#: Axes of so few points are never halved; 64 points are always few enough for a direct solver.
_SHORTEST = 4
#: Points up to which grids are padded to a common size.
_SHARED = 64**2
#: Axes coupled less than this, relative to the strongest, are not coarsened yet.
_STRONG = 0.3
#: Where coupling is so many times stronger in one direction than across, point smoothing fails; so little
#: correlated, axes are those of the coupling.
_TURNED, _ALIGNED = 15, 0.3


class Coarsening(NamedTuple):
    """For each coarsening step the axes that are halved; hashable.

    The last `shared` grids are padded to the size of the first of them, so that one program, run
    again and again, serves them all: it is the many small grids that take long to compile.
    """

    constant: bool
    steps: tuple[tuple[int, ...], ...]
    coarsest: tuple[int, ...]
    shared: int
    #: Whether algebraic multigrid takes over on the coarsest grid.
    algebraic: bool = False
    smoothing: Smoothing = Smoothing()
    #: Whether interpolation is that of least energy.
    energy: bool = False

    @property
    def incomplete(self) -> bool:
        """Whether smoothing is by incomplete factorisation."""
        return self.smoothing.name == "incomplete_cholesky"

    def suits(self, operator: StencilLinearOperator) -> bool:
        """Whether the steps end where they should."""
        shape = operator.shape
        if len(shape) != len(self.coarsest):
            return False
        for axes in self.steps:
            shape = coarser(shape, axes, operator.periodic)
        return shape == self.coarsest

    def cut(self, count: int, operator: StencilLinearOperator) -> "Coarsening":
        """The first steps alone; algebraic multigrid takes over the grid below."""
        steps, shape = self.steps[:count], operator.shape
        for axes in steps:
            shape = coarser(shape, axes, operator.periodic)
        return self._replace(constant=False, steps=steps, coarsest=shape, shared=0, algebraic=True)


def plan_coarsening(
    operator: StencilLinearOperator,
    constant: bool,
    smoother: Literal["auto", SmootherName],
    sweeps: int | None,
    may_share: bool,
    decide: bool,
) -> Coarsening:
    """Halves all axes that are strongly coupled, until a direct solver can take over; `may_share` says
    whether small grids may be padded, and `decide` whether the smoother may be chosen by the coefficients,
    and algebraic levels."""
    shape, periodic = list(operator.shape), operator.periodic
    tensor = _second_moment(operator)
    incomplete = smoother == "incomplete_cholesky"
    strength = _strength(tensor)
    if decide and not constant:
        incomplete = incomplete or (smoother == "auto" and _ratio_off_axes(tensor) > _TURNED)
    flipped = incomplete and len(shape) == 2 and bool(tensor[0, 1] < 0)
    if smoother == "auto":
        smoother = "incomplete_cholesky" if incomplete else "chebyshev"
    smoothing = smoothing_of(smoother, sweeps, flipped)
    if incomplete or smoother == "line":  # which ask for no semicoarsening
        strength = [1.0] * len(shape)
    steps, sizes = [], []
    while np.prod(shape) > _COARSEST[constant] or max(shape) > _LONGEST[constant]:
        long = [axis for axis, n in enumerate(shape) if n > _SHORTEST]
        strongest = max(strength[axis] for axis in long)
        axes = tuple(axis for axis in long if strength[axis] >= _STRONG * strongest)
        sizes.append(int(np.prod(shape)))
        for axis in axes:
            shape[axis] = kept_size(shape[axis], periodic[axis])
            strength[axis] /= 4
        steps.append(axes)
    may_share = may_share and not (constant or incomplete or any(periodic))
    same = [k for k, size in enumerate(sizes) if k and size <= _SHARED and set(steps[k:]) == {steps[-1]}]
    shared = len(same) if may_share and len(same) > 1 else 0
    return Coarsening(constant, tuple(steps), tuple(shape), shared, False, smoothing)


def _second_moment(operator: StencilLinearOperator) -> np.ndarray:
    """`-1/2 sum_o a_o o o^T`, in the mean over the grid: of a diffusion its tensor, in units of the spacings;
    the identity where coefficients are traced."""
    dim = len(operator.shape)
    if any(map(is_traced, operator.coefficients)):
        return np.eye(dim)
    means = np.asarray(_means(operator.coefficients), float)
    return -0.5 * np.einsum("k,ki,kj", means, operator.offsets, operator.offsets)


@jax.jit
def _means(coefficients: tuple[Array, ...]) -> Array:
    return jnp.stack([jnp.mean(jnp.real(c)) for c in coefficients])


def _strength(tensor: np.ndarray) -> list[float]:
    """Of the coupling along each axis; equal where there is none, or coefficients are not finite."""
    along = np.diag(tensor) * np.sign(np.trace(tensor))  # of negative operators as of positive ones
    if not np.isfinite(along).all() or not along.max() > 0:
        return [1.0] * len(along)
    return np.maximum(along, 0).tolist()


def _ratio_off_axes(tensor: np.ndarray) -> float:
    """How much stronger coupling is in one direction than across it, where that is no direction of the grid;
    else 1."""
    scale = np.sqrt(np.abs(np.diag(tensor)))
    if tensor.shape != (2, 2) or not (scale > 0).all():
        return 1.0
    if abs(tensor[0, 1]) < _ALIGNED * scale[0] * scale[1]:
        return 1.0
    low, high = np.linalg.eigvalsh(tensor)
    return float(high / low) if low > 0 else np.inf

"""Smoothing: sweeps that damp what a coarser grid cannot see."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..._arrays import namespace
from ..._lanczos import extreme_eigenvalues
from ..._system import System
from ...operators.stencil import StencilLinearOperator
from ..base import AbstractApproximateInverse
from ..incomplete import IncompleteCholesky
from .smoothing import AbstractSmoother, Smoothing
from .stencils import Kind, Stencil, as_operator, diagonal_of, product

#: The smoother works on eigenvalues of D^-1 A from the largest down to this fraction of it.
_SMOOTHED = 0.2
#: Steps of the power method, and what its bound is raised by.
_POWER_STEPS, _MARGIN = 10, 1.05
#: As good as twice as many of the power method: of factors, which are dear.
_LANCZOS_STEPS = 5
#: To so much the eigenvalues of a damped incomplete factorisation go: up to 2 it converges.
_CONVERGENT = 1.9
#: Polynomials in D^-1 A, as they are shown.
POLYNOMIALS = {
    "chebyshev": "Chebyshev-Jacobi",
    "fourth_kind": "fourth-kind Chebyshev",
    "jacobi": "Jacobi",
    "l1_jacobi": "l1-Jacobi",
}


class PolynomialSmoother(AbstractSmoother):
    """Sweeps of Jacobi's method whose step lengths make up a polynomial in `D^-1 A`."""

    inverse_diagonal: Array
    weights: Array
    name: str = eqx.field(static=True)

    def from_zero(self, operator: StencilLinearOperator, b: Array) -> Array:
        """The sweeps from zero, of which the first needs no product."""
        x, count = self.weights[0] * self.inverse_diagonal * b, self.weights.size
        if count <= 2:
            return self._sweep(operator, 1, x, b) if count == 2 else x
        return jax.lax.fori_loop(1, count, lambda k, x: self._sweep(operator, k, x, b), x)

    def improve(self, operator: StencilLinearOperator, x: Array, b: Array) -> Array:
        """The sweeps from `x`."""
        # Sweeps are polynomials in D^-1 A and commute: the cycle is symmetric in either order.  A loop is
        # compiled once for all, and is a wall to fusion as well.
        last = self.weights.size - 1
        return jax.lax.fori_loop(0, last + 1, lambda k, x: self._sweep(operator, last - k, x, b), x)

    def transpose(self) -> "PolynomialSmoother":
        return self

    def __repr__(self) -> str:
        count = self.weights.shape[-1]
        return f"{count} + {count} {POLYNOMIALS[self.name]} sweeps"

    def _sweep(self, operator: StencilLinearOperator, number: Any, x: Array, b: Array) -> Array:
        return x + self.weights[number] * self.inverse_diagonal * (b - operator.mv(x))


class IncompleteSmoother(AbstractSmoother):
    """Steps with an incomplete Cholesky factorisation `M ~ A^-1`, which follows couplings in all
    directions, damped by `weight` so that they converge.

    Without fill it sees couplings to the neighbours ahead on both axes, or behind on both, better than those
    across: `flipped` takes the first axis in the other order."""

    inverse: AbstractApproximateInverse
    inverse_diagonal: Array
    weight: Array
    steps: int = eqx.field(static=True)
    flipped: bool = eqx.field(static=True)

    def from_zero(self, operator: StencilLinearOperator, b: Array) -> Array:
        """The steps from zero."""
        return self._stepped(operator, self._step(b), b, self.steps - 1)

    def improve(self, operator: StencilLinearOperator, x: Array, b: Array) -> Array:
        """The steps from `x`."""
        return self._stepped(operator, x, b, self.steps)

    def transpose(self) -> "IncompleteSmoother":
        return self

    def __repr__(self) -> str:
        return f"{self.steps} + {self.steps} steps with IC(0)"

    def _stepped(self, operator: StencilLinearOperator, x: Array, b: Array, count: int) -> Array:
        for _ in range(count):
            x = x + self._step(b - operator.mv(x))
        return x

    def _step(self, r: Array) -> Array:
        if self.flipped:
            return self.weight * jnp.flip(self.inverse.mv(jnp.flip(r, 0)), 0)
        return self.weight * self.inverse.mv(r)


def incomplete_smoother(stencil: Stencil, kind: Kind, smoothing: Smoothing) -> IncompleteSmoother:
    """The smoother of a symmetric positive operator; points that nothing holds stay alone."""
    flipped = smoothing.flipped
    if flipped:
        xp = namespace(*stencil.values())
        stencil = {(-first, *rest): xp.flip(c, 0) for (first, *rest), c in stencil.items()}
    diagonal = diagonal_of(stencil, kind.periodic)
    centre, xp = (0,) * diagonal.ndim, namespace(diagonal)
    held = xp.where(diagonal == 0, 1, diagonal)
    operator = as_operator({**stencil, centre: held}, kind)
    inverse = IncompleteCholesky().build(operator)
    inverse_diagonal = jnp.asarray(1 / (xp.flip(held, 0) if flipped else held))
    damping = _damping(operator, inverse)
    return IncompleteSmoother(inverse, inverse_diagonal, damping, smoothing.sweeps, flipped)


@eqx.filter_jit
def _damping(operator: StencilLinearOperator, inverse: AbstractApproximateInverse) -> Array:
    """1, or less where steps of `M` would not converge."""
    largest = extreme_eigenvalues(System(operator, inverse), _LANCZOS_STEPS)[1]
    return jnp.minimum(1, _CONVERGENT / (_MARGIN * largest))


def polynomial_smoother(
    smoothing: Smoothing, inverse_diagonal: Any, largest: Any, dim: int, dtype: Any, row_sums: Any = None
) -> PolynomialSmoother:
    """The smoother of an operator whose `D^-1 A` has no eigenvalue above `largest`, and whose rows sum to
    `row_sums`, in sizes and units of the diagonal."""
    if smoothing.name == "l1_jacobi":
        xp = namespace(row_sums)
        inverse_diagonal, largest = inverse_diagonal / xp.where(row_sums == 0, 1, row_sums), 1.0
    roots = _roots(smoothing, dim).astype(jnp.finfo(dtype).dtype)
    weights = jnp.asarray(1 / (roots * largest), dtype)
    return PolynomialSmoother(jnp.asarray(inverse_diagonal, dtype), weights, smoothing.name)


def _roots(smoothing: Smoothing, dim: int) -> np.ndarray:
    """Of the polynomial that the sweeps apply to an error, as shares of the largest eigenvalue."""
    count = smoothing.sweeps
    number = np.arange(count)
    match smoothing.name:
        case "chebyshev":  # smallest on the upper part of the spectrum
            centre, radius = (1 + _SMOOTHED) / 2, (1 - _SMOOTHED) / 2
            mirrored = np.minimum(number, number[::-1])  # exact opposites
            cosines = np.sqrt((1 + np.cos(np.pi * (2 * mirrored + 1) / count)) / 2)
            roots = centre + radius * np.sign(count - 1 - 2 * number) * cosines
        case "fourth_kind":
            roots = np.sin(np.pi * (count - number) / (2 * count + 1)) ** 2
        case "jacobi":  # smallest on what a grid of half the points along each axis cannot see of Laplace's
            roots = np.full(count, (1 + 1 / (2 * dim)) / 2)
        case _:  # l1: what is divided by is bound enough
            roots = np.ones(count)
    # Leja's order: what lies between the first sweep and the last grows no more than it must.
    ordered = [0]
    while len(ordered) < count:
        rest = np.setdiff1d(number, ordered)
        away = np.prod(abs(roots[rest, None] - roots[ordered]), 1)
        ordered.append(int(rest[np.argmax(away)]))
    return roots[ordered]


def power_bound(stencil: Stencil, inverse_diagonal: Any, weight: Any, periodic: tuple[bool, ...]) -> Any:
    """Nearly a bound of the eigenvalues of `D^-1 A`, `A` symmetric: a Rayleigh quotient, and a margin that
    with the smoother's own is a quarter.

    The start is scattered, and largest where a local mode could have a large eigenvalue: where `weight`, the
    share of a row's sum in the largest, is."""
    xp = namespace(weight)

    def step(carry):
        x, _ = carry
        y = product(stencil, x, periodic)
        z = inverse_diagonal * y
        size = xp.sum(z * y)  # of z in the norm of D
        quotient = size / xp.where(size == 0, 1, xp.sum(x * y))
        return z / xp.sqrt(xp.where(size == 0, 1, size)), quotient

    carry = _scattered(weight.shape, weight.dtype, xp) * weight**4, xp.zeros((), weight.dtype)
    if xp is np:
        for _ in range(_POWER_STEPS):
            carry = step(carry)
    else:
        carry = jax.lax.fori_loop(0, _POWER_STEPS, lambda _, carry: step(carry), carry)
    return _MARGIN * carry[1]


def _scattered(shape: tuple[int, ...], dtype: Any, xp: Any) -> Any:
    """Numbers between -1/2 and 1/2 as by chance, and the same in NumPy and JAX."""
    number = xp.arange(math.prod(shape), dtype=np.uint32) * xp.asarray(2654435761, np.uint32)
    number = (number ^ (number >> xp.asarray(15, np.uint32))) * xp.asarray(2246822519, np.uint32)
    number = number ^ (number >> xp.asarray(13, np.uint32))
    return number.astype(dtype).reshape(shape) / 2**32 - 0.5

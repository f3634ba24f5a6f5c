"""Chebyshev polynomial preconditioning."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array

from .._lanczos import check_bounds, extreme_eigenvalues
from .._system import System
from ..operators.base import require_definite
from ..operators.convert import as_one, knows_its_entries
from .base import AbstractApproximateInverse, AbstractPreconditioner, array_structure
from .jacobi import Jacobi, JacobiInverse


class ChebyshevInverse(AbstractApproximateInverse):
    """`degree` steps of Chebyshev iteration from zero, a polynomial in `D^-1 A` times `D^-1`."""

    system: System
    low: Array
    high: Array
    constructor: "Chebyshev"
    structure: jax.ShapeDtypeStruct = eqx.field(static=True)
    tags: frozenset[object] = eqx.field(static=True)

    def mv(self, vector: Array) -> Array:
        center, radius = (self.high + self.low) / 2, (self.high - self.low) / 2
        sigma = center / radius
        rho = 1 / sigma
        d = (1 / center).astype(vector.dtype) * self.system.precondition(vector)
        x, r = d, vector
        for _ in range(self.constructor.degree - 1):
            r = r - self.system.product(d)
            rho_next = 1 / (2 * sigma - rho)
            momentum, gain = (a.astype(vector.dtype) for a in (rho_next * rho, 2 * rho_next / radius))
            d = momentum * d + gain * self.system.precondition(r)
            x, rho = x + d, rho_next
        return x

    def refresh(self, operator: lx.AbstractLinearOperator) -> "ChebyshevInverse":
        return self.constructor(operator)

    def transpose(self) -> "ChebyshevInverse":
        return self._mapped(lambda a: a.transpose())

    def conj(self) -> "ChebyshevInverse":
        return self._mapped(lx.conj)

    def _mapped(self, function) -> "ChebyshevInverse":
        inner = self.system.preconditioner
        system = System(function(self.system.operator), None if inner is None else function(inner))
        return ChebyshevInverse(system, self.low, self.high, self.constructor, self.structure, self.tags)

    def __repr__(self) -> str:
        scaled = "" if self.system.preconditioner is None else ", Jacobi-scaled"
        degree = self.constructor.degree
        return f"Chebyshev preconditioner (degree {degree}{scaled}; {degree - 1} products an application)"


class Chebyshev(AbstractPreconditioner):
    """Chebyshev polynomial preconditioner for Hermitian positive definite operators.

    Needs products only, no triangular solves and no inner products: the choice for accelerators, for
    matrix-free operators, and as a smoother.  The polynomial makes `M A` close to one on `[low, high]`, where
    `high` is 1.1 times the largest Ritz value of ten Lanczos steps on `D^-1 A` and `low = high / ratio`;
    `bounds = (low, high)` sets them by hand.  Operators whose entries are known (all of nsolve's, lineax's
    explicit ones) are scaled by their diagonal `D` first.

    Set-up: ten products, none with `bounds`.  Applying it: `degree - 1` products.  The larger `ratio`, the
    more low modes are reached and the higher the degree that is worth it.

    The result is positive definite as long as `high` bounds the spectrum; if it does not, CG reports
    `RESULTS.breakdown`.

    Saad, *Iterative Methods for Sparse Linear Systems* (2003), section 12.3.2; Adams, Brezina, Hu and
    Tuminaro (2003) for the interval, doi:10.1016/S0021-9991(03)00194-3.
    """

    degree: int = 4
    ratio: Any = 30.0
    bounds: tuple[Any, Any] | None = None

    def __check_init__(self):
        if not isinstance(self.degree, int) or self.degree < 1:
            raise ValueError(f"`Chebyshev(degree=...)` must be an integer >= 1, but is {self.degree!r}.")
        check_bounds("preconditioners.Chebyshev", self.bounds)
        if isinstance(self.ratio, int | float) and not self.ratio > 1:
            raise ValueError(f"`Chebyshev(ratio=...)` must be above 1, but is {self.ratio}.")

    def build(self, operator: lx.AbstractLinearOperator) -> ChebyshevInverse:
        structure = array_structure(operator, "Chebyshev")
        require_definite(operator, "preconditioners.Chebyshev")
        operator = as_one(operator)
        inner: JacobiInverse | None = Jacobi().build(operator) if knows_its_entries(operator) else None
        system = System(lx.linearise(operator), inner)
        if self.bounds is None:
            _, largest = extreme_eigenvalues(system, num_steps=10)
            high = 1.1 * largest
            low = high / jnp.asarray(self.ratio, high.dtype)
        else:
            real = jnp.finfo(structure.dtype).dtype
            low, high = (jnp.asarray(bound, real) for bound in self.bounds)
        tags = frozenset({lx.positive_semidefinite_tag})
        return ChebyshevInverse(system, low, high, self, structure, tags)

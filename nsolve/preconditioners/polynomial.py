"""Polynomials of the operator that are positive on its spectrum: symmetric ones of its eigenvalues, and those
of least squares.

A polynomial of the first kind is `e_k(A) I - A P_(k-1)(A)`, where `e_k` is the sum of all products of `k`
different eigenvalues: at the eigenvalue `l` it is the sum of the products of `k` others, so positive.  With
the sums `p_j` of the powers of the eigenvalues, traces of powers of the matrix, Newton's identities read
`k e_k = e_(k-1) p_1 - e_(k-2) p_2 + ...`.

One of the second kind is `s(l) = (1 - R(l)) / l`, where `R` is a Jacobi polynomial on `[0, high]`, one at
zero and smaller everywhere else.
"""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from .._lanczos import extreme_eigenvalues
from .._system import System
from ..operators import sparse_algebra
from ..operators.base import require_definite
from ..operators.convert import as_one, as_sparse, has_few_entries, knows_its_entries, what_lacks_entries
from ..operators.sparse import SparseLinearOperator
from .base import AbstractApproximateInverse, AbstractPreconditioner, array_structure
from .jacobi import Jacobi, JacobiInverse
from .local import is_count
from .sparse_inverse import Lookup

_WHO = "Polynomial"
#: What is left of a sum of products after cancellation must be so many rounding errors.
_CAUTION = 100
#: The parameters of the Jacobi polynomials.
_A, _B = 0.5, -0.5


class PolynomialInverse(AbstractApproximateInverse):
    """A polynomial of the operator, of which `coefficients` and `scale` tell."""

    system: System
    coefficients: Array
    scale: Array
    constructor: "Polynomial"
    structure: jax.ShapeDtypeStruct = eqx.field(static=True)
    tags: frozenset[object] = eqx.field(static=True)

    def mv(self, vector: Array) -> Array:
        if self.constructor.kind == "symmetric":
            return self._symmetric(vector)
        return self._least_squares(vector)

    # Loops, since a chain of products written out takes a compiler long: it repeats each in the next.

    def _symmetric(self, vector: Array) -> Array:
        """Horner's rule for `P_k = e_k I - (A / scale) P_(k-1)`."""
        inverse = (1 / self.scale).astype(vector.dtype)
        sums = self.coefficients.astype(vector.dtype)

        def step(z: Array, e: Array) -> tuple[Array, None]:
            return e * vector - inverse * self.system.product(z), None

        z, _ = jax.lax.scan(step, vector, sums)
        return inverse / sums[-1] * z

    def _least_squares(self, vector: Array) -> Array:
        """The iteration from zero whose residuals are `R(A) vector`."""
        momenta = self.coefficients[:, 0].astype(vector.dtype)
        gains = (self.coefficients[:, 1] / self.scale).astype(vector.dtype)

        def step(
            carry: tuple[Array, Array], numbers: tuple[Array, Array]
        ) -> tuple[tuple[Array, Array], None]:
            (x, d), (momentum, gain) = carry, numbers
            d = momentum * d + gain * self.system.precondition(vector - self.system.product(x))
            return (x + d, d), None

        first = gains[0] * self.system.precondition(vector)
        (x, _), _ = jax.lax.scan(step, (first, first), (momenta[1:], gains[1:]))
        return x

    def refresh(self, operator: lx.AbstractLinearOperator) -> Any:
        return self.constructor(operator)

    def transpose(self) -> "PolynomialInverse":
        return self._mapped(lambda a: a.transpose())

    def conj(self) -> "PolynomialInverse":
        return self._mapped(lx.conj)

    def _mapped(self, function) -> "PolynomialInverse":
        inner = self.system.preconditioner
        system = System(function(self.system.operator), None if inner is None else function(inner))
        return eqx.tree_at(lambda inverse: inverse.system, self, system)

    def __repr__(self) -> str:
        degree = self.constructor.degree
        scaled = "" if self.system.preconditioner is None else ", Jacobi-scaled"
        kind = self.constructor.kind.replace("_", " ")
        return f"{_WHO} preconditioner ({kind}, degree {degree}{scaled}; {degree} products an application)"


class Polynomial(AbstractPreconditioner):
    """Polynomial of the operator, for Hermitian positive definite ones: products only, no inner products.

    * `kind="symmetric"`: the polynomial that has, where `A` has an eigenvalue, the sum of all products of
      `degree` others.  Where up to `degree` eigenvalues are huge and a gap parts them from the rest, the
      condition becomes about that of the rest, without knowing where they are.  `CG` finds them by itself, a
      step or more for each: it is for many of them, for low accuracy, and for methods without a memory, such
      as `Richardson`.  (The paper's adaptive form, the best polynomial for each step of a gradient method, is
      for linear systems `CG` that starts anew every `degree + 1` steps.)  Needs the traces of powers up to
      `A^degree`, so operators that know their entries.
    * `kind="least_squares"`: `1 - l s(l)` is smallest in the least-squares sense on `[0, high]`, with the
      weight of Chebyshev's polynomials.  For any spectrum, and operators that only have products.
      `Chebyshev` needs the lower end of an interval, too, and is better where that is known.  Operators
      that know their entries are scaled by their diagonal first.
    * `degree`: products an application; 1 or 2 for the first kind, more for the second.
    * `bound`: the largest eigenvalue, for the second kind (after scaling); otherwise 1.1 times the largest
      Ritz value of ten Lanczos steps.

    **Cost:** set-up of the first kind one pass over the entries for the degrees 1 and 2, and for higher ones
    the products `A^2` (degrees 3 and 4), `A^3`, … as matrices; of the second ten products, or none with
    `bound`.  An application `degree` products.  Set-up, application and `refresh` may be traced and batched.

    `M` is positive definite: the first kind always, apart from rounding, to which it loses digits where its
    degree is high and eigenvalues differ much; the second for even degrees always, for odd ones as long as
    `high` is not far below the largest eigenvalue.

    **Raises** `ValueError` for a degree below 1 or, of the first kind, not below the number of unknowns,
    operators that are not tagged positive semidefinite or, first kind, do not know their entries, and
    concrete ones of which fewer than `degree + 1` eigenvalues are above rounding errors; traced, `M` is NaN
    there and the solve reports failure.

    Doikov and Rodomanov (2023), arXiv:2301.13194; Johnson, Micchelli and Paul (1983), doi:10.1137/0720025,
    and Saad (1985), doi:10.1137/0906059.
    """

    degree: int = eqx.field(static=True, default=2)
    kind: Literal["symmetric", "least_squares"] = eqx.field(static=True, default="symmetric")
    bound: Any = None

    def __check_init__(self):
        if not is_count(self.degree, 1):
            raise ValueError(f"`{_WHO}(degree=...)` must be an integer >= 1, but is {self.degree!r}.")
        if self.kind not in ("symmetric", "least_squares"):
            raise ValueError(
                f'`{_WHO}(kind=...)` must be "symmetric" or "least_squares", but is {self.kind!r}.'
            )
        if self.bound is not None and self.kind == "symmetric":
            raise ValueError(f'`{_WHO}(bound=...)` is for `kind="least_squares"`; leave it out.')
        if isinstance(self.bound, int | float) and not 0 < self.bound < np.inf:
            raise ValueError(f"`{_WHO}(bound=...)` must be positive and finite, but is {self.bound!r}.")

    def build(self, operator: lx.AbstractLinearOperator) -> PolynomialInverse:
        structure = array_structure(operator, _WHO)
        require_definite(operator, f"preconditioners.{_WHO}")
        operator = as_one(operator)
        build = self._symmetric if self.kind == "symmetric" else self._least_squares
        system, coefficients, scale = build(operator)
        tags = frozenset({lx.positive_semidefinite_tag})
        return PolynomialInverse(system, coefficients, scale, self, structure, tags)

    def _symmetric(self, operator: lx.AbstractLinearOperator) -> tuple[System, Array, Array]:
        size = operator.in_size()
        if self.degree >= size:
            raise ValueError(
                f"`{_WHO}(degree={self.degree})` must be below the number of unknowns, {size}: the "
                "polynomial of that degree is zero."
            )
        if not knows_its_entries(operator):
            raise ValueError(
                f'`{_WHO}(kind="symmetric")` needs traces of powers of the matrix, but '
                f'{what_lacks_entries(operator)} Or use `kind="least_squares"`.'
            )
        scale, coefficients = _symmetric_sums(operator, int(self.degree))
        if not isinstance(coefficients, Tracer) and not bool(jnp.isfinite(coefficients).all()):
            raise ValueError(
                f"`{_WHO}(degree={self.degree})`: {self.degree} eigenvalues or fewer hold all of the trace "
                "up to rounding, or the matrix is not positive definite, or holds NaN or Inf. "
                "Lower the degree."
            )
        return System(lx.linearise(operator), None), coefficients, scale

    def _least_squares(self, operator: lx.AbstractLinearOperator) -> tuple[System, Array, Array]:
        inner: JacobiInverse | None = Jacobi().build(operator) if knows_its_entries(operator) else None
        system = System(lx.linearise(operator), inner)
        real = jnp.finfo(operator.in_structure().dtype).dtype
        if self.bound is None:
            high = 1.1 * extreme_eigenvalues(system, num_steps=10)[1]
        else:
            high = jnp.asarray(self.bound, real)
        return system, jnp.asarray(_recurrence(int(self.degree) + 1), real), high


def _recurrence(steps: int) -> list[tuple[float, float]]:
    """Momentum and gain of each step, `R_(k+1) = R_k + momentum (R_k - R_(k-1)) - gain l / high R_k`, of the
    Jacobi polynomials on `[0, high]` that are one at zero."""
    a, s = _A, _A + _B
    numbers = [(0.0, (s + 2) / (1 + a))]
    for k in range(1, steps):
        slope = (2 * k + s + 1) * (2 * k + s + 2) / (2 * (k + 1) * (k + s + 1))
        last = (k + a) * (k + _B) * (2 * k + s + 2) / ((k + 1) * (k + s + 1) * (2 * k + s))
        growth = (k + 1) / (k + 1 + a)  # of the values at zero
        numbers.append((last * growth * k / (k + a), 2 * slope * growth))
    return numbers


def _symmetric_sums(operator: lx.AbstractLinearOperator, degree: int) -> tuple[Array, Array]:
    """The trace, and `e_1, …, e_degree` of the eigenvalues divided by it; NaN where cancellation left
    nothing."""
    if has_few_entries(operator) or operator.in_structure().ndim != 1:
        trace, sums = _sparse_sums(as_sparse(operator).written_out(), degree)
    else:
        trace, sums = _dense_sums(operator.as_matrix(), degree)
    # The square root of the second sum is nearly the largest share where little is left.
    caution = float(_CAUTION * jnp.finfo(trace.dtype).eps)
    sound = (trace > 0) & jnp.isfinite(trace) & (1 - jnp.sqrt(sums[2]) > caution)
    products = [jnp.ones_like(trace)]
    for k in range(1, degree + 1):
        terms = jnp.stack([(-1) ** (j - 1) * products[k - j] * sums[j] for j in range(1, k + 1)])
        sound &= jnp.sum(terms) > caution * jnp.max(jnp.abs(terms))
        products.append(jnp.sum(terms) / k)
    return trace, jnp.where(sound, jnp.stack(products[1:]), jnp.nan)


def _dense_sums(matrix: Array, degree: int) -> tuple[Array, dict[int, Array]]:
    """The trace `t`, and those of `(A / t)^j` for `j = 1, 2, …`."""
    trace = jnp.trace(matrix).real
    power = first = matrix / trace.astype(matrix.dtype)
    sums = {1: jnp.ones_like(trace), 2: jnp.sum(jnp.abs(first) ** 2)}
    for j in range(3, degree + 1):
        if j % 2:
            before, power = power, jnp.matmul(power, first, precision="highest")
            sums[j] = jnp.sum(before.conj() * power).real
        else:
            sums[j] = jnp.sum(jnp.abs(power) ** 2)
    return trace, sums


def _sparse_sums(matrix: SparseLinearOperator, degree: int) -> tuple[Array, dict[int, Array]]:
    """The same."""
    trace = jnp.sum(matrix.diagonal()).real
    power = first = matrix.with_values(matrix.values / trace.astype(matrix.dtype))
    sums = {1: jnp.ones_like(trace), 2: jnp.sum(jnp.abs(first.values) ** 2)}
    for j in range(3, degree + 1):
        if j % 2:
            before, power = power, sparse_algebra.compose(power, first)
            there = Lookup.of(power).at(jnp.asarray(before.pattern.rows), jnp.asarray(before.pattern.indices))
            sums[j] = jnp.sum(before.values.conj() * there).real
        else:
            sums[j] = jnp.sum(jnp.abs(power.values) ** 2)
    return trace, sums

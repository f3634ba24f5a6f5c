"""Sequences of related systems whose best relaxation parameter changes as they go.

Both are from Khodak, Chow, Balcan & Talwalkar (2024), *Learning to relax*, arXiv:2310.02246.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array

from ..operators import SparseLinearOperator
from ._checks import choice, positive_integer, static_positive
from ._draw import Key, generator, on_host

Law = Literal["low", "high"]


class ShiftedLaplacian:
    """`(A + c_t I) x = b_t` with the 5-point Laplacian `A` on `size` x `size` points, not scaled.

    `c = -0.15 + 0.6 Beta`, with `Beta(2, 6)` for `law=low`, whose variance is low, and `Beta(1/2, 3/2)` for
    `law=high`, which puts many systems close to the least eigenvalue; on more than 10 x 10 points they would
    be indefinite.  The entries of `b` are normal, truncated at three deviations.  Everything is drawn anew
    with each seed.
    """

    LAWS: Mapping[Law, tuple[float, float]] = {"low": (2.0, 6.0), "high": (0.5, 1.5)}
    bounds = (-0.15, 0.45)

    def __init__(self, size: int, law: Law = "low"):
        choice(law, "law", self.LAWS)
        size = positive_integer(size, "size", least=2)
        if size > 10:
            raise ValueError(
                f"`size` must be at most 10 points an axis, or systems are indefinite, but is {size}."
            )
        self.law: Law = law
        self.laplacian = _laplacian(size)
        self.operator = _shifted(self.laplacian, self.weights)

    def weights(self, context: Any) -> tuple[Any, Any]:
        """`alpha, beta` of a system's matrix `alpha A + beta I`."""
        return 1.0, context

    def draw(self, key: Key, count: int) -> tuple[Any, Any]:
        """Shifts `(count,)`, of which `operator` makes the matrices, and right-hand sides `(count, size^2)`.

        In NumPy and float64 for a seed of NumPy's."""
        (low, high), (a, b) = self.bounds, self.LAWS[self.law]
        shape = (positive_integer(count, "count"), self.laplacian.shape[0])
        if on_host(key):
            from scipy.stats import truncnorm  # slow to import

            rng = generator(key)
            shifts = low + (high - low) * rng.beta(a, b, count)
            return shifts, truncnorm.rvs(-3, 3, size=shape, random_state=rng)
        first, second = jax.random.split(key)  # pyright: ignore[reportArgumentType]
        shifts = low + (high - low) * jax.random.beta(first, a, b, (count,))
        return shifts, jax.random.truncated_normal(second, -3.0, 3.0, shape)


class HeatTrajectory:
    """`u_t = kappa(t) lap(u) + f(t)` on the unit square, zero on the walls, by Crank and Nicolson's method.

    `size` intervals along an axis.  `kappa = max(0.01 sin 2 pi t, -10 sin 2 pi t)`: next to nothing happens
    for half a period, then heat spreads fast.  `f` is 32 times a bump of radius 1/8 that circles the centre,
    the start a bump of radius 1/4.  Each right-hand side needs the last solution.  `kappa` at the middle of
    the step is the context.
    """

    bounds = (0.0, 10.0)

    def __init__(self, size: int, dt: float = 1e-3):
        size = positive_integer(size, "size", least=4)
        self.dt = static_positive(dt, "dt")
        if self.dt >= 1:
            raise ValueError(f"`dt` must be below 1, the period, but is {dt}.")
        self.laplacian = _laplacian(size - 1) * float(size**2)
        self.operator = _shifted(self.laplacian, self.weights)
        x = np.arange(1, size) / size
        self.x, self.y = (grid.ravel() for grid in np.meshgrid(x, x, indexing="ij"))

    def weights(self, context: Any) -> tuple[Any, Any]:
        """`alpha, beta` of a system's matrix `alpha A + beta I`."""
        return self.dt / 2 * context, 1.0

    def start(self) -> Array:
        """The first field, flat, `((size - 1)^2,)`."""
        return self.bump(0.5, 0.5, 0.25)

    def conditions(self, step: Array) -> tuple[Array, Array]:
        """`kappa` and `f` at the middle of a step, an integer array that counts from 0."""
        turn = 2 * jnp.pi * (step.astype(jnp.result_type(float)) + 0.5) * self.dt
        kappa = jnp.maximum(0.01 * jnp.sin(turn), -10 * jnp.sin(turn))
        return kappa, 32 * self.bump(0.5 + 0.25 * jnp.cos(turn), 0.5 + 0.25 * jnp.sin(turn), 0.125)

    def vector(self, operator: lx.AbstractLinearOperator, previous: Array, force: Array) -> Array:
        """The right-hand side of the step whose matrix is `operator`, behind the solution `previous`."""
        # (I - dt/2 kappa A) u = 2 u - (I + dt/2 kappa A) u
        return 2 * previous - operator.mv(previous) + self.dt * force

    def bump(self, x: Any, y: Any, radius: float) -> Array:
        """Smooth, 1 in its centre (x, y), 0 from the radius on."""
        q = ((self.x - x) ** 2 + (self.y - y) ** 2) / radius**2
        return jnp.where(q < 1, jnp.exp(1 - 1 / jnp.maximum(1 - q, 1e-12)), 0.0)


def _laplacian(points: int) -> sp.csr_array:
    """The 5-point stencil (4, -1) on a square of so many points an axis."""
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(points, points))
    one = sp.eye_array(points)
    return sp.csr_array(sp.kron(line, one) + sp.kron(one, line))


def _shifted(
    laplacian: sp.csr_array, weights: Callable[[Array], tuple[Any, Any]]
) -> Callable[[Array], SparseLinearOperator]:
    """`context -> alpha A + beta I` with `alpha, beta = weights(context)`."""
    unit = sp.csr_array(laplacian, copy=True)
    unit.data[:] = unit.indices == np.repeat(np.arange(unit.shape[0]), np.diff(unit.indptr))
    matrix, identity = (
        SparseLinearOperator.from_scipy(each, lx.positive_semidefinite_tag) for each in (laplacian, unit)
    )

    def operator(context: Array) -> SparseLinearOperator:
        alpha, beta = weights(context)

        # On one pattern, entries combine where they are stored, without a detour through CSR order.
        def combine(a, b):
            return alpha * a + beta * b if eqx.is_inexact_array(a) else a

        return jax.tree.map(combine, matrix, identity)

    return operator

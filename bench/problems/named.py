"""The gallery's problems with the benchmark's sizes, seeds and right-hand sides.

Sizes are points along an axis.  Seeds draw in NumPy, so that a record's system is the same everywhere;
right-hand sides are `random_rhs`.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from nsolve import gallery
from nsolve.operators import StencilLinearOperator

from .base import Problem, csr, random_rhs

SPD = frozenset({"spd", "symmetric"})


def poisson1d(size: int, seed: int) -> Problem:
    """-u'' on the unit interval, Dirichlet, `size` interior points."""
    return _problem("poisson1d", size, gallery.poisson(seed, (size,), dtype=float), SPD, stencil=True)


def poisson2d(size: int, seed: int) -> Problem:
    """The 5-point Laplacian on the unit square, Dirichlet, `size`^2 interior points."""
    return _problem("poisson2d", size, gallery.poisson(seed, (size,) * 2, dtype=float), SPD, stencil=True)


def poisson3d(size: int, seed: int) -> Problem:
    """The 7-point Laplacian on the unit cube, Dirichlet, `size`^3 interior points."""
    return _problem("poisson3d", size, gallery.poisson(seed, (size,) * 3, dtype=float), SPD, stencil=True)


def anisotropic2d(size: int, seed: int, epsilon: float = 1e-2) -> Problem:
    """-epsilon u_xx - u_yy, 5-point: strong coupling along the last axis only."""
    system = gallery.anisotropic(seed, (size,) * 2, epsilon, float)
    return _problem("anisotropic2d", size, system, SPD, stencil=True)


def anisotropic3d(size: int, seed: int, epsilon: float = 1e-2) -> Problem:
    """-epsilon u_xx - u_yy - u_zz, 7-point."""
    system = gallery.anisotropic(seed, (size,) * 3, epsilon, float)
    return _problem("anisotropic3d", size, system, SPD, stencil=True)


def lognormal2d(size: int, seed: int, contrast: float = 1e4, correlation: float = 0.1) -> Problem:
    """-div(a grad u) with a lognormal field a, finite volumes, Dirichlet; largest a / smallest a is
    `contrast`, and the logarithm's covariance has the length `correlation`."""
    return _lognormal("lognormal2d", (size,) * 2, seed, contrast, correlation)


def lognormal3d(size: int, seed: int, contrast: float = 1e4, correlation: float = 0.2) -> Problem:
    """-div(a grad u) with a lognormal field a on the unit cube, as `lognormal2d`."""
    return _lognormal("lognormal3d", (size,) * 3, seed, contrast, correlation)


def convection_diffusion2d(size: int, seed: int, peclet: float = 100.0) -> Problem:
    """-laplace(u) + peclet w . grad u with the recirculating wind w = (2y(1-x^2), -2x(1-y^2)) on
    (-1, 1)^2, first-order upwind, Dirichlet: an M-matrix that is not symmetric."""
    system = gallery.convection_diffusion(seed, (size,) * 2, peclet, float)
    return _problem("convection_diffusion2d", size, system, frozenset())


def helmholtz2d(size: int, seed: int, waves: float = 4.3) -> Problem:
    """-laplace(u) - k^2 u with k = 2 pi `waves`, Dirichlet: symmetric and indefinite."""
    system = gallery.helmholtz(seed, (size,) * 2, waves, dtype=float)
    return _problem("helmholtz2d", size, system, frozenset({"symmetric"}))


def heat2d(size: int, seed: int, dt: float = 1e-3) -> Problem:
    """One backward Euler step of the heat equation: I + dt A with the 5-point Laplacian A."""
    return _problem("heat2d", size, gallery.heat(seed, (size,) * 2, dt, float), SPD)


def fem2d(size: int, seed: int, jitter: float = 0.25) -> Problem:
    """The Laplacian with P1 elements on the unit square, Dirichlet: a Delaunay mesh of `size`^2
    randomly displaced interior points (by up to `jitter` of the spacing), numbered at random.
    So rows are of uneven length and their order carries no geometry."""
    try:
        operator = gallery.finite_elements.poisson([seed, 2], size, jitter=jitter, dtype=float).operator
    except ImportError:
        from ..peers.base import Missing

        raise Missing("scikit-fem is not installed (pip install 'nsolve[peers]')") from None
    matrix = csr(operator.as_scipy())
    return Problem("fem2d", size, matrix, random_rhs(matrix.shape[0], seed), SPD)


def _problem(
    name: str, size: int, system: gallery.LinearProblem, tags: frozenset[str], stencil: bool = False
) -> Problem:
    """`stencil`: whether columns may have the matrix-free operator."""
    operator: Any = system.operator
    # Drawn from a seed, the gallery's right-hand side is `random_rhs`.
    rhs = np.asarray(system.vector).ravel()
    if not stencil:
        return Problem(name, size, csr(operator.as_scipy()), rhs, tags)

    def cast(dtype: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, operator)

    return Problem(name, size, csr(operator.as_scipy()), rhs, tags, operator.shape, cast)


def _lognormal(name: str, shape: tuple[int, ...], seed: int, contrast: float, correlation: float) -> Problem:
    coefficient = gallery.lognormal_contrast([seed, 1], shape, contrast, correlation, float)
    spacing = 1 / shape[0]
    system = gallery.diffusion(seed, coefficient, spacing)

    def stencil(dtype: Any) -> Any:
        return StencilLinearOperator.diffusion(jnp.asarray(coefficient, dtype), spacing, "dirichlet")

    matrix, rhs = csr(system.operator.as_scipy()), random_rhs(math.prod(shape), seed)
    return Problem(name, shape[0], matrix, rhs, SPD, shape, stencil)

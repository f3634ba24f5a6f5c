"""Finite differences and finite volumes on regular grids, as SciPy CSR matrices.

Written without the library that is measured, so that its stencils can be judged against them.
Unknowns are in C order (the last axis fastest). Dirichlet problems keep interior points only.
"""

import math

import numpy as np
import scipy.sparse as sp

from .base import Problem, csr, random_rhs

SPD = frozenset({"spd", "symmetric"})


def poisson1d(size: int, seed: int) -> Problem:
    """-u'' on the unit interval, Dirichlet, `size` interior points."""
    return _poisson("poisson1d", (size,), (1 / (size + 1),), seed)


def poisson2d(size: int, seed: int) -> Problem:
    """The 5-point Laplacian on the unit square, Dirichlet, `size`^2 interior points."""
    return _poisson("poisson2d", (size,) * 2, (1 / (size + 1),) * 2, seed)


def poisson3d(size: int, seed: int) -> Problem:
    """The 7-point Laplacian on the unit cube, Dirichlet, `size`^3 interior points."""
    return _poisson("poisson3d", (size,) * 3, (1 / (size + 1),) * 3, seed)


def anisotropic2d(size: int, seed: int, epsilon: float = 1e-2) -> Problem:
    """-epsilon u_xx - u_yy, 5-point: strong coupling along the last axis only."""
    return _poisson("anisotropic2d", (size,) * 2, _stretched(size, 2, epsilon), seed)


def anisotropic3d(size: int, seed: int, epsilon: float = 1e-2) -> Problem:
    """-epsilon u_xx - u_yy - u_zz, 7-point."""
    return _poisson("anisotropic3d", (size,) * 3, _stretched(size, 3, epsilon), seed)


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
    h = 2 / (size + 1)
    points = -1 + h * np.arange(1, size + 1)
    x, y = np.meshgrid(points, points, indexing="ij")
    wind_x = (peclet * 2 * y * (1 - x**2)).ravel()
    wind_y = (peclet * -2 * x * (1 - y**2)).ravel()
    backward = sp.diags_array([1.0, -1.0], offsets=[0, -1], shape=(size, size)) / h
    one = sp.eye_array(size)
    matrix = laplacian((size, size), (h, h))
    for wind, difference in (
        (wind_x, sp.kron(backward, one)),
        (wind_y, sp.kron(one, backward)),
    ):
        # Against the wind: backward differences where it blows forward, and the reverse.
        matrix = matrix + sp.diags_array(np.maximum(wind, 0)) @ difference
        matrix = matrix + sp.diags_array(np.maximum(-wind, 0)) @ difference.T
    return Problem("convection_diffusion2d", size, csr(matrix), random_rhs(size**2, seed))


def helmholtz2d(size: int, seed: int, waves: float = 4.3) -> Problem:
    """-laplace(u) - k^2 u with k = 2 pi `waves`, Dirichlet: symmetric and indefinite."""
    h = 1 / (size + 1)
    shift = (2 * math.pi * waves) ** 2
    matrix = laplacian((size, size), (h, h)) - shift * sp.eye_array(size**2)
    return Problem("helmholtz2d", size, csr(matrix), random_rhs(size**2, seed), frozenset({"symmetric"}))


def heat2d(size: int, seed: int, dt: float = 1e-3) -> Problem:
    """One backward Euler step of the heat equation: I + dt A with the 5-point Laplacian A."""
    h = 1 / (size + 1)
    matrix = sp.eye_array(size**2) + dt * laplacian((size, size), (h, h))
    return Problem("heat2d", size, csr(matrix), random_rhs(size**2, seed), SPD)


def laplacian(shape: tuple[int, ...], spacing: tuple[float, ...]) -> sp.csr_array:
    """The (2d+1)-point Laplacian with Dirichlet walls, interior points only."""
    total = sp.csr_array((math.prod(shape), math.prod(shape)))
    for axis, (n, h) in enumerate(zip(shape, spacing, strict=True)):
        second = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)) / h**2
        before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        total = total + sp.kron(sp.kron(sp.eye_array(before), second), sp.eye_array(after))
    return csr(total)


def diffusion(coefficient: np.ndarray, spacing: float) -> sp.csr_array:
    """Finite volumes for -div(a grad u): `a` per cell, harmonic means at faces, Dirichlet walls
    half a cell away from the centres (so a wall face carries 2 a / h^2)."""
    shape = coefficient.shape
    index = np.arange(coefficient.size).reshape(shape)
    diagonal = np.zeros(shape)
    rows, columns, values = [], [], []
    for axis in range(coefficient.ndim):
        low = tuple(slice(None, -1) if d == axis else slice(None) for d in range(len(shape)))
        high = tuple(slice(1, None) if d == axis else slice(None) for d in range(len(shape)))
        first = tuple(slice(None, 1) if d == axis else slice(None) for d in range(len(shape)))
        last = tuple(slice(-1, None) if d == axis else slice(None) for d in range(len(shape)))
        a, c = coefficient[low], coefficient[high]
        face = 2 * a * c / (a + c) / spacing**2
        diagonal[low] += face
        diagonal[high] += face
        diagonal[first] += 2 * coefficient[first] / spacing**2
        diagonal[last] += 2 * coefficient[last] / spacing**2
        rows += [index[low].ravel(), index[high].ravel()]
        columns += [index[high].ravel(), index[low].ravel()]
        values += [-face.ravel(), -face.ravel()]
    rows, columns, values = (
        np.concatenate([*parts, extra])
        for parts, extra in (
            (rows, index.ravel()),
            (columns, index.ravel()),
            (values, diagonal.ravel()),
        )
    )
    return csr(sp.coo_array((values, (rows, columns)), shape=(coefficient.size,) * 2))


def lognormal_field(shape: tuple[int, ...], seed: int, contrast: float, correlation: float) -> np.ndarray:
    """exp(g), g a periodic Gaussian field with covariance exp(-|x|^2 / (2 correlation^2)) made by
    FFT, scaled so that the largest value is `contrast` times the smallest and their product 1."""
    if contrast < 1:
        raise ValueError(f"contrast must be at least 1 (largest over smallest), got {contrast}")
    noise = np.random.default_rng([seed, 1]).standard_normal(shape)
    square = 0.0
    for axis, n in enumerate(shape):
        k = 2 * np.pi * np.fft.fftfreq(n, d=1 / n)
        square = square + (k**2).reshape([-1 if d == axis else 1 for d in range(len(shape))])
    filtered = np.fft.ifftn(np.fft.fftn(noise) * np.exp(-(correlation**2) * square / 4)).real
    low, high = filtered.min(), filtered.max()
    return np.exp(np.log(contrast) * ((filtered - low) / (high - low) - 0.5))


def _poisson(name: str, shape: tuple[int, ...], spacing: tuple[float, ...], seed: int) -> Problem:
    def stencil(dtype):
        import nsolve as ns

        return _cast(ns.StencilLinearOperator.poisson(shape, spacing), dtype)

    rhs = random_rhs(math.prod(shape), seed)
    return Problem(name, shape[0], laplacian(shape, spacing), rhs, SPD, shape, stencil)


def _lognormal(name: str, shape: tuple[int, ...], seed: int, contrast: float, correlation: float) -> Problem:
    coefficient = lognormal_field(shape, seed, contrast, correlation)
    spacing = 1 / shape[0]

    def stencil(dtype):
        import jax.numpy as jnp

        import nsolve as ns

        values = jnp.asarray(coefficient, dtype)
        return ns.StencilLinearOperator.diffusion(values, spacing, "dirichlet")

    rhs = random_rhs(coefficient.size, seed)
    return Problem(name, shape[0], diffusion(coefficient, spacing), rhs, SPD, shape, stencil)


def _stretched(size: int, dimensions: int, epsilon: float) -> tuple[float, ...]:
    # epsilon u_xx with spacing h is u_xx with spacing h / sqrt(epsilon).
    h = 1 / (size + 1)
    return (h / math.sqrt(epsilon),) + (h,) * (dimensions - 1)


def _cast(operator, dtype):
    import equinox as eqx
    import jax

    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, operator)

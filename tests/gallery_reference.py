"""Finite differences and volumes assembled with SciPy alone, which the gallery's stencils are judged
against."""

import itertools
import math

import numpy as np
import scipy.sparse as sp


def laplacian(shape: tuple[int, ...], spacing: tuple[float, ...]) -> sp.csr_array:
    """The (2d+1)-point Laplacian with Dirichlet walls, interior points only."""
    total = sp.csr_array((math.prod(shape), math.prod(shape)))
    for axis, (n, h) in enumerate(zip(shape, spacing, strict=True)):
        second = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)) / h**2
        before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        total = total + sp.kron(sp.kron(sp.eye_array(before), second), sp.eye_array(after))
    return sp.csr_array(total)


def diffusion(coefficient: np.ndarray, spacing: float) -> sp.csr_array:
    """Finite volumes for -div(a grad u): `a` per cell, harmonic means at faces, Dirichlet walls half a cell
    away from the centres (so a wall face carries 2 a / h^2). Cell by cell, face by face."""
    index = np.arange(coefficient.size).reshape(coefficient.shape)
    matrix = sp.lil_array((coefficient.size,) * 2)
    for cell in np.ndindex(coefficient.shape):
        for axis, step in itertools.product(range(coefficient.ndim), (-1, 1)):
            other = tuple(k + step * (d == axis) for d, k in enumerate(cell))
            a = coefficient[cell]
            if 0 <= other[axis] < coefficient.shape[axis]:
                face = 2 / (1 / a + 1 / coefficient[other]) / spacing**2
                matrix[index[cell], index[other]] = -face
            else:
                face = 2 * a / spacing**2
            matrix[index[cell], index[cell]] += face
    return sp.csr_array(matrix)


def convection_diffusion(size: int, peclet: float) -> sp.csr_array:
    """Upwind differences for the recirculating wind on (-1, 1)^2, as Kronecker products."""
    h = 2 / (size + 1)
    points = -1 + h * np.arange(1, size + 1)
    x, y = np.meshgrid(points, points, indexing="ij")
    winds = (peclet * 2 * y * (1 - x**2)).ravel(), (peclet * -2 * x * (1 - y**2)).ravel()
    backward, one = sp.diags_array([1.0, -1.0], offsets=[0, -1], shape=(size, size)) / h, sp.eye_array(size)
    matrix = laplacian((size, size), (h, h))
    for wind, difference in zip(winds, (sp.kron(backward, one), sp.kron(one, backward)), strict=True):
        matrix = matrix + sp.diags_array(np.maximum(wind, 0)) @ difference
        matrix = matrix + sp.diags_array(np.maximum(-wind, 0)) @ difference.T
    return sp.csr_array(matrix)


def pressure(solid: np.ndarray, air: np.ndarray, h: float) -> tuple[sp.csr_array, np.ndarray]:
    """-laplace(p) in the fluid's cells alone, face by face, and the mask of these cells."""
    fluid = ~solid & ~air
    index = np.cumsum(fluid).reshape(fluid.shape) - 1
    matrix = sp.lil_array((fluid.sum(),) * 2)
    for cell in zip(*np.nonzero(fluid), strict=True):
        for axis, step in itertools.product(range(fluid.ndim), (-1, 1)):
            other = tuple(k + step * (d == axis) for d, k in enumerate(cell))
            if not 0 <= other[axis] < fluid.shape[axis] or solid[other]:
                continue
            matrix[index[cell], index[cell]] += 1 / h**2
            if fluid[other]:
                matrix[index[cell], index[other]] = -1 / h**2
    return sp.csr_array(matrix), fluid

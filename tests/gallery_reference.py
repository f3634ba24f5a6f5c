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


def elements(points: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of linear elements on simplices: volumes `(C,)` and the corner functions' gradients `(C, corners,
    dim)`."""
    corners = points[:, cells].transpose(2, 1, 0)
    edges = corners[:, 1:] - corners[:, :1]
    gradients = np.linalg.inv(edges).transpose(0, 2, 1)
    gradients = np.concatenate([-gradients.sum(axis=1, keepdims=True), gradients], axis=1)
    return np.abs(np.linalg.det(edges)) / math.factorial(len(points)), gradients


def stiffness(points: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Of `-laplace(u)`, dense, no walls."""
    volumes, gradients = elements(points, cells)
    return _gathered(volumes[:, None, None] * gradients @ gradients.transpose(0, 2, 1), cells)


def mass(points: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Dense, no walls."""
    volumes, _ = elements(points, cells)
    n = len(cells)
    return _gathered(volumes[:, None, None] * (np.ones((n, n)) + np.eye(n)) / (n * (n + 1)), cells)


def elasticity(points: np.ndarray, cells: np.ndarray, ratio: float) -> np.ndarray:
    """Young's modulus 1, dense, no walls; displacements in turn for each point."""
    first, shear = ratio / ((1 + ratio) * (1 - 2 * ratio)), 1 / (2 * (1 + ratio))
    volumes, g = elements(points, cells)
    dim, identity = len(points), np.eye(len(points))
    # The stress of the displacement phi_b e_j, tested with phi_a e_i.
    blocks = (
        first * np.einsum("cai,cbj->caibj", g, g)
        + shear * np.einsum("caj,cbi->caibj", g, g)
        + shear * np.einsum("cak,cbk,ij->caibj", g, g, identity)
    )
    size = dim * len(cells)
    numbers = (dim * cells[:, None, :] + np.arange(dim)[None, :, None]).reshape(size, -1)
    return _gathered(volumes[:, None, None] * blocks.reshape(len(volumes), size, size), numbers)


def _gathered(blocks: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    total = np.zeros((numbers.max() + 1,) * 2)
    for block, places in zip(blocks, numbers.T, strict=True):
        total[np.ix_(places, places)] += block
    return total

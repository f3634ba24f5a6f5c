"""Finite elements on unstructured triangles (needs scikit-fem)."""

import numpy as np

from .base import Problem, csr, random_rhs


def fem2d(size: int, seed: int, jitter: float = 0.25) -> Problem:
    """The Laplacian with P1 elements on the unit square, Dirichlet: a Delaunay mesh of `size`^2
    randomly displaced interior points (by up to `jitter` of the spacing), numbered at random.
    So rows are of uneven length and their order carries no geometry."""
    try:
        from skfem import Basis, BilinearForm, ElementTriP1, MeshTri, condense
        from skfem.helpers import dot, grad
    except ImportError:
        from ..peers.base import Missing

        raise Missing("scikit-fem is not installed (pip install 'nsolve[peers]')") from None
    from scipy.spatial import Delaunay

    rng = np.random.default_rng([seed, 2])
    ticks = np.linspace(0, 1, size + 2)
    x, y = np.meshgrid(ticks, ticks, indexing="ij")
    points = np.stack([x.ravel(), y.ravel()])
    inside = np.all((points > 0) & (points < 1), axis=0)
    points[:, inside] += jitter * ticks[1] * rng.uniform(-1, 1, (2, inside.sum()))
    points = points[:, rng.permutation(points.shape[1])]
    triangles = Delaunay(points.T).simplices.T
    corners = points[:, triangles]
    edge, other = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = np.abs(edge[0] * other[1] - edge[1] * other[0]) / 2
    # Collinear points of the boundary may be triangulated into slivers without area.
    keep = np.ascontiguousarray(triangles[:, area > 1e-12])
    mesh = MeshTri(np.ascontiguousarray(points), keep)

    @BilinearForm
    def stiffness(u, v, _):
        return dot(grad(u), grad(v))

    basis = Basis(mesh, ElementTriP1())
    matrix = stiffness.assemble(basis)
    walls = np.flatnonzero(np.any((mesh.p <= 0) | (mesh.p >= 1), axis=0))
    matrix = csr(condense(matrix, D=walls, expand=False))
    # The assembled matrix is symmetric up to the order of summation only.
    matrix = csr((matrix + matrix.T) / 2)
    rhs = random_rhs(matrix.shape[0], seed)
    return Problem("fem2d", size, matrix, rhs, frozenset({"spd", "symmetric"}))

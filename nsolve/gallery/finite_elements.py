"""Linear finite elements on random meshes of triangles and tetrahedra: rows of uneven length in no order.

Assembled by scikit-fem (Gustafsson & McBain 2020, doi:10.21105/joss.02369), which is imported when a function
is called: `pip install 'nsolve[peers]'`.  Meshes are made on the host, so a JAX key must not be traced.
"""

import itertools
from typing import Any, NamedTuple

import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp

from ..operators import SparseLinearOperator
from ._checks import positive_integer, real_dtype, static_positive
from ._draw import Key, generator, normal
from .problem import LinearProblem


class Mesh(NamedTuple):
    """Triangles or tetrahedra: `points` `(dim, N)`, and in `cells` `(dim + 1, C)` the numbers of their
    corners."""

    points: np.ndarray
    cells: np.ndarray


def mesh(key: Key, size: int, dim: int = 2, jitter: float = 0.25) -> Mesh:
    """A Delaunay mesh of the unit square or cube: `size` interior points along each axis of a regular grid,
    each displaced along each axis by a uniform number of up to `jitter` times the spacing, numbered at
    random.

    Points of the walls stay where they are in the square, and are displaced within their wall in the cube.
    Needs SciPy alone.
    """
    from scipy.spatial import Delaunay  # slow to import

    size = positive_integer(size, "size")
    if dim not in (2, 3):
        raise ValueError(f"`dim` must be 2 (triangles) or 3 (tetrahedra), but is {dim!r}.")
    jitter = static_positive(jitter, "jitter")
    if jitter >= 0.5:
        raise ValueError(f"`jitter` must be below 0.5, or points could meet, but is {jitter}.")
    rng = generator(key)
    ticks = np.linspace(0, 1, size + 2)
    points = np.stack([axis.ravel() for axis in np.meshgrid(*[ticks] * dim, indexing="ij")])
    free = (points > 0) & (points < 1)
    if dim == 2:  # in three, corners that lie on one sphere would be joined in ways that do not match
        free &= np.all(free, axis=0)
    points[free] += jitter * ticks[1] * rng.uniform(-1, 1, free.sum())
    points = points[:, rng.permutation(points.shape[1])]
    cells = Delaunay(points.T).simplices.T
    corners = points[:, cells]
    volume = np.abs(np.linalg.det(np.moveaxis(corners[:, 1:] - corners[:, :1], -1, 0)))
    # Points of a wall may be joined to slivers without volume.
    return Mesh(np.ascontiguousarray(points), np.ascontiguousarray(cells[:, volume > 2e-12]))


def poisson(key: Key, size: int, dim: int = 2, jitter: float = 0.25, dtype: Any = None) -> LinearProblem:
    """The stiffness matrix of `-laplace(u)`, zero on the walls, on a random `mesh`: `size^dim` unknowns.

    Symmetric positive definite, not scaled by volumes; the right-hand side is N(0, 1).  `parts`: the `mesh`,
    and the numbers of its points that are unknowns, `nodes`.
    """
    return _assembled(key, size, dim, jitter, dtype, mass=0.0, stiffness=1.0)


def heat(
    key: Key, size: int, dim: int = 2, dt: float = 1e-3, jitter: float = 0.25, dtype: Any = None
) -> LinearProblem:
    """One step of the heat equation by the backward Euler method, `M + dt K` with the mass matrix `M` and the
    stiffness matrix `K` of `poisson`, which see."""
    return _assembled(key, size, dim, jitter, dtype, mass=1.0, stiffness=static_positive(dt, "dt"))


def elasticity(
    key: Key,
    size: int,
    dim: int = 2,
    poisson_ratio: float = 0.3,
    jitter: float = 0.25,
    dtype: Any = None,
) -> LinearProblem:
    """Linear elasticity of a block of Young's modulus 1, clamped at the wall `x = 0` and free elsewhere, on a
    random `mesh` (plane strain where `dim` is 2): `dim` unknowns, the displacements, in turn for each point.

    Symmetric positive definite; ill conditioned since a long way from the clamp rigid motions cost little,
    and the more so the closer `poisson_ratio`, in [0, 0.5), is to 0.5. The right-hand side is N(0, 1).
    `parts`: the `mesh`, the numbers of its points that may move, `nodes`, and the displacements of
    `rigid_motions`, which algebraic multigrid asks for, `(n, 3)` or `(n, 6)`.
    """
    if not 0 <= poisson_ratio < 0.5:
        raise ValueError(f"`poisson_ratio` must be at least 0 and below 0.5, but is {poisson_ratio!r}.")
    skfem, element, triangulation, made, rng = _prepared(key, size, dim, jitter)
    from skfem.models.elasticity import lame_parameters, linear_elasticity

    basis = skfem.Basis(triangulation, skfem.ElementVector(element))
    matrix = linear_elasticity(*lame_parameters(1.0, poisson_ratio)).assemble(basis)
    nodes = np.flatnonzero(made.points[0] > 0)
    unknowns = basis.nodal_dofs[:, nodes].T.ravel()
    problem = _problem(matrix, unknowns, made, nodes, rng, dtype)
    motions = jnp.asarray(rigid_motions(made.points[:, nodes].T), problem.vector.dtype)
    return problem._replace(parts={**problem.parts, "rigid_motions": motions})


def rigid_motions(points: np.ndarray) -> np.ndarray:
    """Displacements of `points`, `(n, dim)`, that change no distance: along each axis, and turning in each
    plane about the middle. `(n dim, dim (dim + 1) / 2)`, the coordinates in turn for each point."""
    n, dim = points.shape
    from_middle = points - points.mean(axis=0)
    motions = [np.tile(np.eye(dim)[axis], (n, 1)) for axis in range(dim)]
    for first, second in itertools.combinations(range(dim), 2):
        turning = np.zeros((n, dim))
        turning[:, first], turning[:, second] = -from_middle[:, second], from_middle[:, first]
        motions.append(turning)
    return np.stack([motion.ravel() for motion in motions], axis=1)


def _assembled(
    key: Key, size: int, dim: int, jitter: float, dtype: Any, mass: float, stiffness: float
) -> LinearProblem:
    skfem, element, triangulation, made, rng = _prepared(key, size, dim, jitter)
    from skfem.helpers import dot, grad

    @skfem.BilinearForm
    def form(u: Any, v: Any, _: Any) -> Any:
        return stiffness * dot(grad(u), grad(v)) + (mass * u * v if mass else 0)

    matrix = form.assemble(skfem.Basis(triangulation, element))
    nodes = np.flatnonzero(np.all((made.points > 0) & (made.points < 1), axis=0))
    return _problem(matrix, nodes, made, nodes, rng, dtype)


def _prepared(
    key: Key, size: int, dim: int, jitter: float
) -> tuple[Any, Any, Any, Mesh, np.random.Generator]:
    """scikit-fem, its linear element, its mesh, ours, and the rest of the random numbers."""
    try:
        import skfem
    except ImportError:
        raise ImportError(
            "`nsolve.gallery.finite_elements` needs scikit-fem, which is not installed: "
            "pip install 'nsolve[peers]' (or scikit-fem alone)."
        ) from None
    rng = generator(key)
    made = mesh(rng, size, dim, jitter)
    if dim == 2:
        return skfem, skfem.ElementTriP1(), skfem.MeshTri(*made), made, rng
    return skfem, skfem.ElementTetP1(), skfem.MeshTet(*made), made, rng


def _problem(
    matrix: Any, unknowns: np.ndarray, made: Mesh, nodes: np.ndarray, rng: np.random.Generator, dtype: Any
) -> LinearProblem:
    matrix = sp.csr_array(matrix)[unknowns][:, unknowns]
    # The assembled matrix is symmetric up to the order of summation only.
    matrix = sp.csr_array((matrix + matrix.T) / 2)
    dtype = real_dtype(dtype)
    operator = SparseLinearOperator.from_scipy(matrix.astype(dtype), lx.positive_semidefinite_tag)
    vector = jnp.asarray(normal(rng, (len(unknowns),), dtype))
    return LinearProblem(operator, vector, {"mesh": made, "nodes": nodes})

"""Linear systems `A x = b` by name: the gallery's with the benchmark's sizes, seeds and right-hand sides,
PyAMG's examples, and Matrix Market files.

Sizes are points along an axis.  Seeds draw in NumPy, so that a record's system is the same everywhere;
right-hand sides are `random_rhs`.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import nsolve as ns
from nsolve import gallery
from nsolve.operators import StencilLinearOperator

from ..engine.spec import check_name
from ..engine.work import Missing

SPD = frozenset({"spd", "symmetric"})
SYMMETRIC = frozenset({"symmetric"})


@dataclass(frozen=True)
class System:
    """A linear system with what is known about it.

    `matrix` is CSR, `rhs` has as many entries as it has rows. `tags` holds `symmetric` (Hermitian for complex
    matrices) and `spd`. `size` is the number the system was made with (points along an axis), or the number
    of unknowns where the system has one size only. `stencil`, where the system lives on a regular grid, makes
    the matrix-free operator for a dtype; it acts on arrays of shape `grid` in C order. `near_nullspace`: the
    rigid motions `(n, k)`, which aggregation needs; a node then has as many unknowns as there are axes.
    """

    name: str
    size: int
    matrix: sp.csr_array
    rhs: np.ndarray
    tags: frozenset[str] = frozenset()
    grid: tuple[int, ...] | None = None
    stencil: Callable[[Any], Any] | None = None
    near_nullspace: np.ndarray | None = field(default=None, repr=False)
    solution: np.ndarray | None = field(default=None, repr=False)

    @property
    def unknowns_a_node(self) -> int:
        """Axes, of which there are as many as make so many rigid motions."""
        return 1 if self.near_nullspace is None else {3: 2, 6: 3}[self.near_nullspace.shape[1]]

    @property
    def facts(self) -> dict[str, int]:
        return {"size": self.size, "unknowns": self.matrix.shape[1], "nnz": int(self.matrix.nnz)}


def random_rhs(num_unknowns: int, seed: int, complex_valued: bool = False) -> np.ndarray:
    """The default right-hand side: independent N(0, 1) entries (both parts of a complex one)."""
    rng = np.random.default_rng(seed)
    rhs = rng.standard_normal(num_unknowns)
    return rhs + 1j * rng.standard_normal(num_unknowns) if complex_valued else rhs


def csr(matrix: Any) -> sp.csr_array:
    """Any SciPy matrix as canonical CSR with 32-bit indices."""
    matrix = sp.csr_array(matrix)
    matrix.sum_duplicates()
    if matrix.nnz < np.iinfo(np.int32).max:
        matrix.indices = matrix.indices.astype(np.int32)
        matrix.indptr = matrix.indptr.astype(np.int32)
    return matrix


def poisson1d(size: int, seed: int) -> System:
    """-u'' on the unit interval, Dirichlet, `size` interior points."""
    return _system("poisson1d", size, gallery.poisson(seed, (size,), dtype=float), SPD, stencil=True)


def poisson2d(size: int, seed: int) -> System:
    """The 5-point Laplacian on the unit square, Dirichlet, `size`^2 interior points."""
    return _system("poisson2d", size, gallery.poisson(seed, (size,) * 2, dtype=float), SPD, stencil=True)


def poisson3d(size: int, seed: int) -> System:
    """The 7-point Laplacian on the unit cube, Dirichlet, `size`^3 interior points."""
    return _system("poisson3d", size, gallery.poisson(seed, (size,) * 3, dtype=float), SPD, stencil=True)


def anisotropic2d(size: int, seed: int, epsilon: float = 1e-2) -> System:
    """-epsilon u_xx - u_yy, 5-point: strong coupling along the last axis only."""
    system = gallery.anisotropic(seed, (size,) * 2, epsilon, float)
    return _system("anisotropic2d", size, system, SPD, stencil=True)


def anisotropic3d(size: int, seed: int, epsilon: float = 1e-2) -> System:
    """-epsilon u_xx - u_yy - u_zz, 7-point."""
    system = gallery.anisotropic(seed, (size,) * 3, epsilon, float)
    return _system("anisotropic3d", size, system, SPD, stencil=True)


def lognormal2d(size: int, seed: int, contrast: float = 1e4, correlation: float = 0.1) -> System:
    """-div(a grad u) with a lognormal field a, finite volumes, Dirichlet; largest a / smallest a is
    `contrast`, and the logarithm's covariance has the length `correlation`."""
    return _lognormal("lognormal2d", (size,) * 2, seed, contrast, correlation)


def lognormal3d(size: int, seed: int, contrast: float = 1e4, correlation: float = 0.2) -> System:
    """-div(a grad u) with a lognormal field a on the unit cube, as `lognormal2d`."""
    return _lognormal("lognormal3d", (size,) * 3, seed, contrast, correlation)


def media2d(size: int, seed: int, law: str = "blocks", cells: int = 3, contrast: float = 1e4) -> System:
    """-div(a grad u) on the unit square, finite volumes, Dirichlet, in a medium `a` drawn by a law of
    `MEDIA`."""
    return _medium("media2d", (size,) * 2, seed, law, cells, contrast)


def media3d(size: int, seed: int, law: str = "blocks", cells: int = 8, contrast: float = 1e4) -> System:
    """-div(a grad u) on the unit cube, as `media2d`."""
    return _medium("media3d", (size,) * 3, seed, law, cells, contrast)


def rotated2d(size: int, seed: int, angle: float = 30.0, epsilon: float = 1e-2) -> System:
    """Diffusion that is `epsilon` times as strong across an axis turned by `angle` degrees, bilinear elements
    on `size`^2 interior nodes."""
    system = gallery.rotated_anisotropy(seed, (size,) * 2, epsilon, np.deg2rad(angle), float)
    return _system("rotated2d", size, system, SPD, stencil=True)


def pressure3d(size: int, seed: int, balls: int = 12) -> System:
    """The pressure of a fluid between obstacles, under a free surface: 7 points, a fifth of the cells or so
    solid, a third air."""
    shape = (size,) * 3
    solid = gallery.balls([seed, 1], shape, balls, (0.08, 0.2))
    air = gallery.free_surface([seed, 2], shape)
    return _system("pressure3d", size, gallery.pressure(seed, solid, air, dtype=float), SPD, stencil=True)


def waves2d(size: int, seed: int, points: float = 12.0) -> System:
    """Waves in a smooth random medium whose speed varies by a factor of two, between layers that absorb them;
    `points` for the shortest wave: complex symmetric, indefinite."""
    shape = (size,) * 2
    slowness = gallery.lognormal_contrast([seed, 1], shape, 2.0, 0.2, float)
    waves = size / points / float(np.max(slowness))
    damping = gallery.sponge(shape, max(size // 7, 1), dtype=float)
    system = gallery.helmholtz(seed, shape, waves, slowness, damping, float)
    return _system("waves2d", size, system, frozenset(), stencil=True)


def convection_diffusion2d(size: int, seed: int, peclet: float = 100.0) -> System:
    """-laplace(u) + peclet w . grad u with the recirculating wind w = (2y(1-x^2), -2x(1-y^2)) on
    (-1, 1)^2, first-order upwind, Dirichlet: an M-matrix that is not symmetric."""
    system = gallery.convection_diffusion(seed, (size,) * 2, peclet, float)
    return _system("convection_diffusion2d", size, system, frozenset())


def helmholtz2d(size: int, seed: int, waves: float = 4.3) -> System:
    """-laplace(u) - k^2 u with k = 2 pi `waves`, Dirichlet: symmetric and indefinite."""
    system = gallery.helmholtz(seed, (size,) * 2, waves, dtype=float)
    return _system("helmholtz2d", size, system, SYMMETRIC)


def heat2d(size: int, seed: int, dt: float = 1e-3) -> System:
    """One backward Euler step of the heat equation: I + dt A with the 5-point Laplacian A."""
    return _system("heat2d", size, gallery.heat(seed, (size,) * 2, dt, float), SPD)


def fem2d(size: int, seed: int, jitter: float = 0.25) -> System:
    """The Laplacian with P1 elements on the unit square, Dirichlet: a Delaunay mesh of `size`^2
    randomly displaced interior points (by up to `jitter` of the spacing), numbered at random.
    So rows are of uneven length and their order carries no geometry."""
    return _meshed("fem2d", size, seed, gallery.finite_elements.poisson, jitter=jitter)


def elasticity2d(size: int, seed: int, poisson_ratio: float = 0.3) -> System:
    """Plane strain of a block that is clamped at one wall, P1 elements on a mesh as that of `fem2d`."""
    elastic = gallery.finite_elements.elasticity
    return _meshed("elasticity2d", size, seed, elastic, poisson_ratio=poisson_ratio)


def elasticity3d(size: int, seed: int, poisson_ratio: float = 0.3) -> System:
    """The same of a cube of tetrahedra."""
    elastic = partial(gallery.finite_elements.elasticity, dim=3)
    return _meshed("elasticity3d", size, seed, elastic, poisson_ratio=poisson_ratio)


def stokes2d(size: int, seed: int, viscosity: float = 1.0) -> System:
    """Slow flow in the unit square, `size`^2 cells, velocities on faces and pressures in cells: symmetric and
    indefinite, a saddle point."""
    return _system("stokes2d", size, gallery.stokes(seed, size, viscosity, float), SYMMETRIC)


def kkt(size: int, seed: int, decades: float = 6.0) -> System:
    """A step of an interior point method with `size` variables and half as many constraints, and a barrier
    over `decades` powers of ten: symmetric and indefinite, a saddle point."""
    return _system("kkt", size, gallery.kkt(seed, size, decades=decades, dtype=float), SYMMETRIC)


def circuit(size: int, seed: int, decades: float = 6.0) -> System:
    """Nodal analysis of `size` nodes, resistors over `decades` powers of ten, voltage sources, transistors:
    not symmetric, zeros on the diagonal."""
    return _system(
        "circuit", size, gallery.hard.circuit(seed, size, decades=decades, dtype=float), frozenset()
    )


def badly_scaled2d(size: int, seed: int, decades: float = 12.0) -> System:
    """`convection_diffusion2d` with equations and unknowns in random units over `decades` powers of ten."""
    plain = gallery.convection_diffusion(seed, (size,) * 2, dtype=float).operator
    return _system("badly_scaled2d", size, gallery.hard.badly_scaled(seed, plain, decades), frozenset())


def nearly_singular2d(size: int, seed: int, shift: float = 1e-8) -> System:
    """The 5-point Laplacian between closed walls, not scaled, plus `shift`, which is its least eigenvalue."""
    system = gallery.hard.nearly_singular(seed, (size,) * 2, shift, float)
    return _system("nearly_singular2d", size, system, SPD, stencil=True)


def real(seed: int, name: str = "west0479") -> System:
    """A matrix from practice, `name`.mtx of the folder that the variable NSOLVE_MATRICES names; the
    solution is drawn, `b = A x`."""
    path = Path(os.environ.get("NSOLVE_MATRICES", "")) / f"{name}.mtx"
    if not os.environ.get("NSOLVE_MATRICES") or not path.is_file():
        raise Missing(f"{name}.mtx is not here: let NSOLVE_MATRICES name the folder that has it")
    system = matrix_market(seed, str(path))
    return replace(system, name="real", rhs=system.matrix @ system.rhs, solution=system.rhs)


def pyamg_example(seed: int, example: str = "unit_square") -> System:
    """One of the example systems that PyAMG ships (pyamg.gallery.load_example)."""
    try:
        from pyamg.gallery import example as examples
    except ImportError:
        raise Missing("pyamg is not installed (pip install 'nsolve[peers]')") from None
    check_name("PyAMG example", example, examples.example_names)
    return _from_matrix("pyamg", csr(examples.load_example(example)["A"]), seed)


def matrix_market(seed: int, path: str = "") -> System:
    """A Matrix Market file. ValueError names the file, and what is wrong in it, when it cannot be read."""
    try:
        matrix = csr(ns.read_matrix_market(path)[0])
    except (ValueError, OSError) as error:
        raise ValueError(f"problem 'matrix_market': cannot read {error}") from None
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"problem 'matrix_market': {path} is not square, shape {matrix.shape}")
    return _from_matrix("matrix_market", matrix, seed)


def _system(
    name: str, size: int, system: gallery.LinearProblem, tags: frozenset[str], stencil: bool = False
) -> System:
    """`stencil`: whether columns may have the matrix-free operator."""
    operator: Any = system.operator
    # Drawn from a seed, the gallery's right-hand side is `random_rhs`.
    rhs = np.asarray(system.vector).ravel()
    if not stencil:
        return System(name, size, csr(operator.as_scipy()), rhs, tags)

    def cast(dtype: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, operator)

    return System(name, size, csr(operator.as_scipy()), rhs, tags, operator.shape, cast)


def _meshed(name: str, size: int, seed: int, make: Callable[..., Any], **options: Any) -> System:
    try:
        system = make([seed, 2], size, dtype=float, **options)
    except ImportError:
        raise Missing("scikit-fem is not installed (pip install 'nsolve[peers]')") from None
    matrix, motions = csr(system.operator.as_scipy()), system.parts.get("rigid_motions")
    motions = None if motions is None else np.asarray(motions)
    return System(name, size, matrix, random_rhs(matrix.shape[0], seed), SPD, near_nullspace=motions)


def _lognormal(name: str, shape: tuple[int, ...], seed: int, contrast: float, correlation: float) -> System:
    coefficient = gallery.lognormal_contrast([seed, 1], shape, contrast, correlation, float)
    spacing = 1 / shape[0]
    system = gallery.diffusion(seed, coefficient, spacing)

    def stencil(dtype: Any) -> Any:
        return StencilLinearOperator.diffusion(jnp.asarray(coefficient, dtype), spacing, "dirichlet")

    matrix, rhs = csr(system.operator.as_scipy()), random_rhs(math.prod(shape), seed)
    return System(name, shape[0], matrix, rhs, SPD, shape, stencil)


#: The media of `media2d` and `media3d`: a seed, the shape, cells along an axis of a block, contrast.
MEDIA: dict[str, Callable[..., Any]] = {
    "blocks": lambda seed, shape, cells, contrast: gallery.blocks(
        [seed, 1], shape, cells, contrast, 0.7 if cells == 2 else 0.5, float
    ),
    "checkerboard": lambda seed, shape, cells, contrast: gallery.checkerboard(shape, cells, contrast, float),
    "smooth": lambda seed, shape, cells, contrast: gallery.lognormal([seed, 1], shape, 2.0, dtype=float),
    "rough": lambda seed, shape, cells, contrast: gallery.lognormal(
        [seed, 1], shape, 2.0, "exponential", 0.02, float
    ),
    "white": lambda seed, shape, cells, contrast: gallery.lognormal(
        [seed, 1], shape, 2.0, "white", dtype=float
    ),
}


def _medium(name: str, shape: tuple[int, ...], seed: int, law: str, cells: int, contrast: float) -> System:
    check_name("medium", law, MEDIA)
    coefficient = MEDIA[law](seed, shape, cells, contrast)
    return _system(name, shape[0], gallery.diffusion(seed, coefficient), SPD, stencil=True)


def _from_matrix(name: str, matrix: sp.csr_array, seed: int) -> System:
    matrix = matrix.astype(np.complex128 if np.iscomplexobj(matrix.data) else np.float64)
    n = matrix.shape[0]
    rhs = random_rhs(n, seed, np.iscomplexobj(matrix.data))
    return System(name, n, matrix, rhs, tags(matrix))


def tags(matrix: sp.csr_array) -> frozenset[str]:
    """What the entries prove: `symmetric` (Hermitian), and `spd` by an LU of it."""
    difference = matrix - matrix.conj().T
    scale = abs(matrix).max() if matrix.nnz else 0.0
    if difference.nnz and abs(difference).max() > 1e-12 * scale:
        return frozenset()
    return frozenset({"symmetric", "spd"} if _is_positive_definite(matrix) else {"symmetric"})


def _is_positive_definite(matrix: sp.csr_array) -> bool:
    """Sylvester's law: LU without pivoting of a Hermitian matrix has the signs of its spectrum. Where nothing
    but rounding is left of a diagonal entry, the matrix is singular for all that can be said."""
    diagonal = matrix.diagonal().real
    if not np.all(diagonal > 0):
        return False
    try:
        lu = spla.splu(
            matrix.tocsc(),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
    except RuntimeError:  # exactly singular
        return False
    unpivoted = np.array_equal(lu.perm_r, lu.perm_c)
    rounding = len(diagonal) * np.finfo(float).eps * diagonal[np.argsort(lu.perm_c)]
    return bool(unpivoted and np.all(lu.U.diagonal().real > rounding))


PROBLEMS: dict[str, Callable[..., System]] = {
    "poisson1d": poisson1d,
    "poisson2d": poisson2d,
    "poisson3d": poisson3d,
    "anisotropic2d": anisotropic2d,
    "anisotropic3d": anisotropic3d,
    "lognormal2d": lognormal2d,
    "lognormal3d": lognormal3d,
    "media2d": media2d,
    "media3d": media3d,
    "rotated2d": rotated2d,
    "pressure3d": pressure3d,
    "convection_diffusion2d": convection_diffusion2d,
    "helmholtz2d": helmholtz2d,
    "waves2d": waves2d,
    "heat2d": heat2d,
    "fem2d": fem2d,
    "elasticity2d": elasticity2d,
    "elasticity3d": elasticity3d,
    "stokes2d": stokes2d,
    "kkt": kkt,
    "circuit": circuit,
    "badly_scaled2d": badly_scaled2d,
    "nearly_singular2d": nearly_singular2d,
    "real": real,
    "pyamg": pyamg_example,
    "matrix_market": matrix_market,
}

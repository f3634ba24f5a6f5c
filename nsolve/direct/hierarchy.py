"""Hierarchies of algebraic multigrid, set up by PyAMG, and the cycle that runs on them, on the host.

Bell, Olson, Schroder & Southworth, *PyAMG: Algebraic Multigrid Solvers in Python* (2023),
doi:10.21105/joss.05495; Ruge & Stüben (1987), doi:10.1137/1.9781611971057.ch4; Vaněk, Mandel & Brezina
(1996), doi:10.1007/BF02238511.
"""

import functools
import warnings
from typing import Any, NamedTuple

import numpy as np

from .._reasons import CODES
from ..kernels import gauss_seidel
from ..kernels._numba import INDEX
from .factors import Quality, Recipe, Side

#: A matrix is coarsened until so few unknowns are left.
COARSEST = 100
#: A coarsest level of so many unknowns is inverted; where a matrix cannot be coarsened, sweeps have to do.
_DENSE = 500
#: Eigenvalues of the coarsest level below so many units of rounding are taken for those of a null space.
_NULL = 1e3


class Level(NamedTuple):
    """A matrix, and what interpolates from the next level; None on the coarsest."""

    matrix: Any
    interpolation: Any


class Hierarchy:
    """One V-cycle from zero with a sweep of Gauss and Seidel on each level, forward before and backward after
    the coarser one: `M` is Hermitian where the matrix is."""

    def __init__(self, levels: list[Level], dtype: Any):
        self._dtype, self._given = np.dtype(dtype), levels
        #: Unknowns and entries of each level.
        self.table = [(level.matrix.shape[0], int(level.matrix.nnz)) for level in levels]
        self.nnz = sum(entries for _, entries in self.table)
        self.nnz += sum(int(level.interpolation.nnz) for level in levels[:-1])
        self._sizes = [size for size, _ in self.table]
        finest = levels[0].matrix
        self._hermitian = (finest != finest.conj().T).nnz == 0
        self._cycle = _Cycle(levels, self._dtype, self._hermitian)
        if self._hermitian:
            self._given = []

    @property
    def is_sound(self) -> bool:
        """Whether the sweeps divide by nothing that is zero or not finite."""
        return self._cycle.is_sound

    def solve(self, b: np.ndarray, side: Side) -> np.ndarray:
        if side in ("T", "C"):
            return self.solve(b.conj(), "H" if side == "T" else "N").conj()
        if side == "N" or self._hermitian:
            return self._cycle.apply(b)
        return self._adjoint.apply(b)

    @functools.cached_property
    def _adjoint(self) -> "_Cycle":
        """The same of the adjoint matrix: a forward sweep there is the adjoint of a backward one here."""
        levels = [Level(level.matrix.conj().T.tocsr(), level.interpolation) for level in self._given]
        return _Cycle(levels, self._dtype, False)


class _Cycle:
    def __init__(self, levels: list[Level], dtype: Any, hermitian: bool):
        coarsest = levels[-1].matrix
        self._inverse = None
        if coarsest.shape[0] <= _DENSE:
            self._inverse = _pseudo_inverse(coarsest.toarray(), hermitian, dtype)
            levels = levels[:-1]
        self._levels = [_arrays(level, dtype) for level in levels]
        self.is_sound = all(
            np.isfinite(level[4]).all() and np.isfinite(level[7]).all() for level in self._levels
        )
        if self._inverse is not None:
            self.is_sound = self.is_sound and bool(np.isfinite(self._inverse).all())

    def apply(self, b: np.ndarray) -> np.ndarray:
        return self._visit(0, np.ascontiguousarray(b))

    def _visit(self, k: int, b: np.ndarray) -> np.ndarray:
        if k == len(self._levels):
            return b if self._inverse is None else self._inverse @ b
        level, x = self._levels[k], np.empty_like(b)
        coarse = np.empty(self._width(k), b.dtype)
        gauss_seidel.down(level, b, x, coarse)
        gauss_seidel.up(level, b, x, self._visit(k + 1, coarse))
        return x

    def _width(self, k: int) -> int:
        if k + 1 < len(self._levels):
            return self._levels[k + 1][4].size
        return 0 if self._inverse is None else len(self._inverse)


def _arrays(level: Level, dtype: Any) -> tuple[np.ndarray, ...]:
    """What the sweeps read."""
    import scipy.sparse as sp  # slow to import

    matrix, n = level.matrix, level.matrix.shape[0]
    diagonal, rows = matrix.diagonal(), np.repeat(np.arange(n), np.diff(matrix.indptr))
    off = rows != matrix.indices
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows[off], minlength=n))])
    middle = indptr[:-1] + np.bincount(rows[matrix.indices < rows], minlength=n)
    # A coarse unknown that stands for nothing has an empty row.
    inverse = np.divide(1, diagonal, where=diagonal != 0, out=np.zeros_like(diagonal))
    inverse[(diagonal == 0) & (np.diff(indptr) > 0)] = np.nan
    across = level.interpolation if level.interpolation is not None else sp.csr_array((n, 0), dtype=dtype)
    return (
        *(part.astype(INDEX) for part in (indptr, middle, matrix.indices[off])),
        *(part.astype(dtype) for part in (matrix.data[off], inverse)),
        *(part.astype(INDEX) for part in (across.indptr, across.indices)),
        across.data.astype(dtype),
    )


def _pseudo_inverse(matrix: np.ndarray, hermitian: bool, dtype: Any) -> np.ndarray:
    """Of the coarsest matrix, small or scaled to a unit diagonal first, as coefficients may jump."""
    import scipy.linalg

    if not np.isfinite(matrix).all():
        return np.full(matrix.shape, np.nan, dtype)
    scale = np.sqrt(abs(np.diag(matrix)))
    scale[scale == 0] = 1
    invert = scipy.linalg.pinvh if hermitian else scipy.linalg.pinv
    part = matrix / scale[:, None] / scale
    if hermitian:
        part = (part + part.conj().T) / 2
    inverse = invert(part, rtol=_NULL * float(np.finfo(dtype).eps))
    return (inverse / scale[:, None] / scale).astype(dtype)


def hierarchy(matrix: Any, recipe: Recipe, candidates: np.ndarray | None) -> tuple[Hierarchy | None, Quality]:
    """Of a square `scipy.sparse.csr_array` in canonical format; `candidates` are the vectors of the near null
    space, one after the other, or none."""
    failed = Quality(CODES["preconditioner_failed"], 0.0, 0)
    diagonal = matrix.diagonal()
    vectors = None
    if candidates is not None and candidates.size:
        vectors = candidates.reshape(-1, matrix.shape[0]).T
    if not (diagonal.real > 0).all() or (vectors is not None and not np.isfinite(vectors).all()):
        return None, failed
    wide = matrix.astype(np.promote_types(matrix.dtype, np.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what comes out is judged below
        levels = [_as_level(level) for level in _levels(wide, recipe, vectors)]
    made = Hierarchy(levels, matrix.dtype)
    if not made.is_sound:
        return None, failed
    return made, Quality(CODES["converged"], 0.0, made.nnz)


def _levels(matrix: Any, recipe: Recipe, candidates: np.ndarray | None) -> list[Any]:
    import pyamg

    theta = round(recipe.theta, 6)  # it may have been rounded
    rest: dict[str, Any] = {"max_coarse": COARSEST, "presmoother": None, "postsmoother": None}
    if recipe.kind == "ruge_stuben":
        strength = "classical", {"theta": theta, "norm": "min"}
        splitting = "RS", {"second_pass": True}
        return pyamg.ruge_stuben_solver(matrix, strength, splitting, "direct", **rest).levels
    block = int(recipe.block_size)
    return pyamg.smoothed_aggregation_solver(
        matrix if block == 1 else matrix.tobsr((block, block)),
        candidates,
        strength=("symmetric", {"theta": theta}),
        smooth=("jacobi", {"omega": 4 / 3, "weighting": "local"}),  # the default draws random numbers
        **rest,
    ).levels


def _as_level(level: Any) -> Level:
    matrices = []
    for matrix in (level.A, getattr(level, "P", None)):
        if matrix is not None:
            matrix = matrix.tocsr()
            matrix.sum_duplicates()
        matrices.append(matrix)
    return Level(*matrices)

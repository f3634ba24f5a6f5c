"""Hierarchies of algebraic multigrid, and the cycle that runs on them, on the host.

Ruge and Stüben's are set up by compiled kernels, smoothed aggregation's by PyAMG.

Ruge & Stüben (1987), doi:10.1137/1.9781611971057.ch4; Vaněk, Mandel & Brezina (1996),
doi:10.1007/BF02238511; Bell, Olson, Schroder & Southworth, *PyAMG: Algebraic Multigrid Solvers in Python*
(2023), doi:10.21105/joss.05495.
"""

import functools
import warnings
from typing import Any, NamedTuple

import numpy as np

from .._reasons import CODES
from ..kernels import galerkin, gauss_seidel, numbering, ruge_stuben
from ..kernels._numba import INDEX
from ..kernels.levels import Interpolation, Matrix, is_hermitian, split
from .factors import Quality, Recipe, Side

#: A matrix is coarsened until so few unknowns are left.
COARSEST = 100
#: A coarsest level of so many unknowns is inverted; where a matrix cannot be coarsened, sweeps have to do.
_DENSE = 500
#: A hierarchy has at most so many levels.
_LEVELS = 30
#: Eigenvalues of the coarsest level below so many units of rounding are taken for those of a null space.
_NULL = 1e3


class Level(NamedTuple):
    """A matrix, and what interpolates from the next level; None on the coarsest."""

    matrix: Matrix
    interpolation: Interpolation | None


class Hierarchy:
    """One V-cycle from zero with a sweep of Gauss and Seidel on each level, forward before and backward after
    the coarser one: `M` is Hermitian where the matrix is.

    * `order`: in which the levels have the unknowns, None for that of the matrix.
    * `is_frozen`: whether the patterns are those of an earlier matrix.
    * `is_half`: whether the levels' matrices are but the lower triangles of Hermitian ones.
    """

    def __init__(
        self,
        levels: list[Level],
        dtype: Any,
        order: np.ndarray | None = None,
        is_frozen: bool = False,
        is_half: bool = False,
    ):
        self._dtype, self._given = np.dtype(dtype), levels
        self.order, self.is_frozen = order, is_frozen
        self.is_hermitian = is_half or is_hermitian(levels[0].matrix)
        #: The patterns of those of each level but the coarsest.
        self.interpolations = [
            across._replace(values=across.values[:0].copy()) for _, across in levels if across is not None
        ]
        #: Unknowns and entries of each level.
        self.table = [
            (matrix.size, matrix.nnz + (len(matrix.values) if is_half else 0)) for matrix, _ in levels
        ]
        self.nnz = sum(entries for _, entries in self.table)
        self.nnz += sum(len(across.values) for _, across in levels if across is not None)
        self._cycle = _Cycle(levels, self._dtype, self.is_hermitian, is_half)
        if self.is_hermitian:
            self._given = []

    @property
    def is_sound(self) -> bool:
        """Whether the sweeps divide by nothing that is zero or not finite."""
        return self._cycle.is_sound

    def solve(self, b: np.ndarray, side: Side) -> np.ndarray:
        if side in ("T", "C"):
            return self.solve(b.conj(), "H" if side == "T" else "N").conj()
        if side == "N" or self.is_hermitian:
            return self._cycle.apply(b)
        return self._adjoint.apply(b)

    @functools.cached_property
    def _adjoint(self) -> "_Cycle":
        """The same of the adjoint matrix: a forward sweep there is the adjoint of a backward one here."""
        levels = [Level(_split(level.matrix.scipy.conj().T), level.interpolation) for level in self._given]
        return _Cycle(levels, self._dtype, False)


class _Cycle:
    def __init__(self, levels: list[Level], dtype: Any, hermitian: bool, is_half: bool = False):
        coarsest = levels[-1].matrix
        self._inverse = None
        if coarsest.size <= _DENSE:
            dense = coarsest.scipy.toarray()
            if is_half:
                dense += np.tril(dense, -1).conj().T
            self._inverse = _pseudo_inverse(dense, hermitian, dtype)
            levels = levels[:-1]
        self._levels, self._by_half = [_arrays(level, dtype) for level in levels], hermitian
        self.is_sound = all(
            np.isfinite(level[4]).all() and np.isfinite(level[7]).all() for level in self._levels
        )
        if is_half:
            self._levels = [level[:1] + level[2:] for level in self._levels]  # whose rows end at the middle
        elif hermitian:
            self._levels = [gauss_seidel.lower(level) for level in self._levels]
        if self._inverse is not None:
            self.is_sound = self.is_sound and bool(np.isfinite(self._inverse).all())

    def apply(self, b: np.ndarray) -> np.ndarray:
        return self._visit(0, np.ascontiguousarray(b))

    def _visit(self, k: int, b: np.ndarray) -> np.ndarray:
        if k == len(self._levels):
            return b if self._inverse is None else self._inverse @ b
        level, x = self._levels[k], np.empty_like(b)
        coarse = np.empty(self._width(k), b.dtype)
        if self._by_half:
            gauss_seidel.down_by_half(level, b, x, coarse)
            gauss_seidel.up_by_half(level, x, self._visit(k + 1, coarse))
        else:
            gauss_seidel.down(level, b, x, coarse)
            gauss_seidel.up(level, b, x, self._visit(k + 1, coarse))
        return x

    def _width(self, k: int) -> int:
        if k + 1 < len(self._levels):
            return self._levels[k + 1][-4].size  # of the inverse diagonal
        return 0 if self._inverse is None else len(self._inverse)


def _arrays(level: Level, dtype: Any) -> tuple[np.ndarray, ...]:
    """What the sweeps read."""
    (indptr, middle, indices, values, diagonal), across = level
    # A coarse unknown that stands for nothing has an empty row.
    inverse = np.divide(1, diagonal, where=diagonal != 0, out=np.zeros_like(diagonal))
    inverse[(diagonal == 0) & (np.diff(indptr) > 0)] = np.nan
    if across is None:
        across = Interpolation(np.zeros_like(indptr), indices[:0], values[:0], 0)
    return (
        *(part.view(INDEX) for part in (indptr, middle, indices)),
        *(part.astype(dtype, copy=False) for part in (values, inverse)),
        *(part.view(INDEX) for part in across[:2]),
        across.values.astype(dtype, copy=False),
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
    wide, order = matrix.astype(np.promote_types(matrix.dtype, np.float64)), None  # a copy
    theta = round(recipe.theta, 6)  # it may have been rounded
    if recipe.kind == "ruge_stuben":
        order = numbering.nearby(wide)
        levels = _kept(wide if order is None else numbering.reordered(wide, order), theta)
    else:
        levels = _aggregated(wide, theta, int(recipe.block_size), vectors)
    made = Hierarchy(levels, matrix.dtype, order)
    if not made.is_sound:
        return None, failed
    return made, Quality(CODES["converged"], 0.0, made.nnz)


def _kept(matrix: Any, theta: float) -> list[Level]:
    """By keeping some of the unknowns of each level, as Ruge and Stüben do."""
    levels, matrix = [], split(matrix)
    while matrix.size > COARSEST and len(levels) + 1 < _LEVELS:
        across = ruge_stuben.coarsen(matrix, theta)
        if across.columns in (0, matrix.size):
            break
        levels.append(Level(matrix, across))
        matrix = galerkin.galerkin(matrix, across)
    return [*levels, Level(matrix, None)]


def _aggregated(matrix: Any, theta: float, block: int, candidates: np.ndarray | None) -> list[Level]:
    """By smoothed aggregation."""
    import pyamg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what comes out is judged by others
        levels = pyamg.smoothed_aggregation_solver(
            matrix if block == 1 else matrix.tobsr((block, block)),
            candidates,
            strength=("symmetric", {"theta": theta}),
            smooth=("jacobi", {"omega": 4 / 3, "weighting": "local"}),  # the default draws random numbers
            max_coarse=COARSEST,
            presmoother=None,
            postsmoother=None,
        ).levels
    return [
        Level(_split(level.A), _interpolation(level.P) if hasattr(level, "P") else None) for level in levels
    ]


def _split(matrix: Any) -> Matrix:
    return split(_canonical(matrix))


def _interpolation(matrix: Any) -> Interpolation:
    matrix = _canonical(matrix)
    return Interpolation(matrix.indptr, matrix.indices, matrix.data, matrix.shape[1])


def _canonical(matrix: Any) -> Any:
    """Of any format, as a `csr_array` with indices that the kernels know."""
    matrix = matrix.tocsr()
    matrix.sum_duplicates()
    matrix.indptr, matrix.indices = (part.astype(np.int32) for part in (matrix.indptr, matrix.indices))
    return matrix

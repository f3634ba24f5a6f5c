"""A hierarchy's patterns, kept for matrices that differ from its own in numbers alone.

Which unknowns are kept, which of them the others are interpolated from, and where coarser matrices have
entries stays; the numbers are computed anew. Where couplings have changed so much that the patterns do not
fit, nothing is made of them.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .._reasons import CODES
from ..kernels import frozen, numbering
from ..kernels.galerkin import threads
from ..kernels.frozen import Pattern, Places
from ..kernels.levels import Interpolation, Matrix, split
from .factors import Factors, Quality
from .hierarchy import Hierarchy, Level
from .structure import Structure

#: The share of a level's dropped unknowns that may be represented badly, beyond those that are so anyway.
#: Of blocks, checkers and lognormal media whose contrast changed, or whose islands moved.
_MISSED = 0.012


class FrozenHierarchy:
    """The patterns of a hierarchy of Ruge and Stüben."""

    def __init__(self, structure: Structure, values: np.ndarray, made: Hierarchy):
        numbered = structure.matrix(np.arange(structure.nnz, dtype=float))
        if made.order is not None:
            numbered = numbering.reordered(numbered, made.order)
        finest = split(numbered)
        #: Where the entries of the finest matrix stand among the given ones.
        self._sources = finest.values.astype(np.int32), finest.diagonal.astype(np.int32)
        self._order, self._dtype = made.order, values.dtype
        self.patterns, self.steps = [Pattern(*finest[:3])], list[Places]()
        self.structures, self.fits = (structure,), True
        for across in made.interpolations:
            found = frozen.places_of(self.patterns[-1], across)
            if found is None:  # rows are too long
                self.fits = False
                return
            self.steps.append(found[0])
            self.patterns.append(found[1])
        self._limits = [np.inf] * len(self.steps)
        _, missed = self._levels(values)
        self._limits = [share + _MISSED for share in missed]

    @property
    def nbytes(self) -> int:
        arrays = [*self._sources, *(part for pattern in self.patterns for part in pattern)]
        return sum(array.nbytes for array in arrays) + sum(step.nbytes for step in self.steps)

    def refreshed(self, values: np.ndarray) -> Hierarchy | None:
        """The hierarchy of the matrix with other entries; None where the patterns do not fit."""
        if not (self.fits and np.isfinite(values).all()):
            return None
        levels, _ = self._levels(values)
        if levels is None:
            return None
        made = Hierarchy(levels, self._dtype, self._order, is_frozen=True)
        return made if made.is_sound else None

    def _levels(self, values: np.ndarray) -> tuple[list[Level] | None, list[float]]:
        """The levels, and of each the share of unknowns that are represented badly; no levels where they are
        too many."""
        with ThreadPoolExecutor(threads(len(self.patterns[0].middle))) as pool:
            others, diagonal = (frozen.taken(source, values, pool.map) for source in self._sources)
            levels, shares = [], []
            if not (diagonal > 0).all():
                return None, shares
            matrix = Matrix(*self.patterns[0], others, diagonal)
            for step, limit, coarse in zip(self.steps, self._limits, self.patterns[1:], strict=True):
                pattern = Pattern(*matrix[:3])
                found = frozen.values_on(pattern, step, coarse, *matrix[3:], pool.map)
                shares.append(found.missed)
                if found.missed > limit:
                    return None, shares
                across = Interpolation(step.p_indptr, step.p_indices, found.interpolation, step.columns)
                levels.append(Level(matrix, across))
                matrix = Matrix(*coarse, found.others, found.diagonal)
            return [*levels, Level(matrix, None)], shares


def refreshed(kept: FrozenHierarchy | None, values: np.ndarray) -> tuple[Factors, Quality] | None:
    """Factors on the patterns of others; None where they do not fit."""
    made = None if kept is None else kept.refreshed(values)
    if kept is None or made is None:
        return None
    factors = Factors(made, None, made.order, made.order, values.dtype)
    factors.structures = kept.structures
    return factors, Quality(CODES["converged"], 0.0, made.nnz)

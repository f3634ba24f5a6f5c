"""A hierarchy's patterns, kept for matrices that differ from its own in numbers alone.

Which unknowns are kept, which of them the others are interpolated from, and where coarser matrices have
entries stays; the numbers are computed anew. Where couplings have changed so much that the patterns do not
fit, nothing is made of them.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..kernels import frozen, numbering
from ..kernels.frozen_places import Pattern, at_hand, places_of
from ..kernels.galerkin import threads
from ..kernels.levels import Interpolation, Matrix, is_hermitian, split
from .hierarchy import Hierarchy, Level
from .structure import Structure

#: Of each level's dropped unknowns, this share may be represented badly. By random blocks, channels and
#: lognormal media whose contrast changed, or whose islands moved.
_MISSED = 0.03


class FrozenHierarchy:
    """The patterns of a hierarchy of Ruge and Stüben, of the matrix with these values; if that is symmetric,
    for others that are."""

    @np.errstate(all="ignore")  # what leaves the range is seen in the end
    def __init__(self, structure: Structure, values: np.ndarray, made: Hierarchy):
        numbered = structure.matrix(np.arange(structure.nnz, dtype=float))
        if made.order is not None:
            numbered = numbering.reordered(numbered, made.order)
        sources, ones = split(numbered), split(structure.matrix(np.ones(structure.nnz)))
        # A zero may be stored on one side alone.
        self._half = made.is_hermitian and is_hermitian(ones)
        self._order, self._dtype = made.order, values.dtype
        #: Hierarchies on these patterns hold the structure.
        self.structures = ()
        pattern = Pattern(*sources[:3])
        some = at_hand(pattern, self._half)
        #: Where the entries at hand, their mirror images and the diagonal stand among the given ones.
        self._own, self._mirrored, self._diagonal = (
            part.astype(np.int32)
            for part in (sources.values[some.own], sources.values[some.mirrored], sources.diagonal)
        )
        self._patterns, self._steps = [some.pattern], []
        matrix = self._finest(values)
        with ThreadPoolExecutor(threads(matrix.size)) as pool:
            for across in made.interpolations:
                step, pattern, some = places_of(self._half, pattern, some, across, pool.map)
                step = frozen.with_least(self._half, matrix, step)
                found = frozen.values_on(self._half, matrix, step, some.pattern, pool.map)
                matrix = Matrix(*some.pattern, found.others, found.diagonal)
                self._steps.append(step)
                self._patterns.append(some.pattern)

    @property
    def nbytes(self) -> int:
        arrays = [
            self._own,
            self._mirrored,
            self._diagonal,
            *(part for each in self._patterns for part in each),
        ]
        return sum(array.nbytes for array in arrays) + sum(step.nbytes for step in self._steps)

    @np.errstate(all="ignore")
    def refreshed(self, values: np.ndarray) -> Hierarchy | None:
        """The hierarchy of the matrix with other entries; None where the patterns do not fit."""
        if not np.isfinite(values).all():
            return None
        levels = self._levels(values)
        if levels is None:
            return None
        made = Hierarchy(levels, self._dtype, self._order, is_frozen=True, is_half=self._half)
        return made if made.is_sound else None

    def _finest(self, values: np.ndarray) -> Matrix:
        return Matrix(
            *self._patterns[0], frozen.taken(self._own, values), frozen.taken(self._diagonal, values)
        )

    def _levels(self, values: np.ndarray) -> list[Level] | None:
        matrix, levels = self._finest(values), []
        if self._half and not frozen.are_equal(self._mirrored, values, matrix.values):
            return None
        with ThreadPoolExecutor(threads(matrix.size)) as pool:
            for step, coarse in zip(self._steps, self._patterns[1:], strict=True):
                # Where a diagonal entry is zero, it matters whether its row is empty.
                if not (matrix.diagonal > 0).all():
                    return None
                found = frozen.values_on(self._half, matrix, step, coarse, pool.map)
                if found.missed > _MISSED:
                    return None
                across = Interpolation(step.p_indptr, step.p_indices, found.interpolation, step.columns)
                levels.append(Level(matrix, across))
                matrix = Matrix(*coarse, found.others, found.diagonal)
        return [*levels, Level(matrix, None)]

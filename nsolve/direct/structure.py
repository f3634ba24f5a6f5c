"""What the zeros of a square matrix say about its factorisation: found once, for all values on a pattern."""

import collections
import copy
import functools
import hashlib
import weakref
from typing import Any, NamedTuple

import numpy as np

from .matching import rows_of, structural_rank

#: Patterns with this share of entries whose mirror image is stored are ordered as symmetric ones.
_SYMMETRIC = 0.7
#: From this share of entries on a matrix is factorised densely.
DENSE = 0.2
#: Up to so many rows nothing is compiled that can be done without.
FEW = 3000
#: Of a search for pivots without compiled code: looks at an entry, for each entry of the matrix.
_LOOKS = 100
#: Factors with fewer entries a row are computed column by column: in SuperLU's panels little is shared.
_NARROW = 100


class Order(NamedTuple):
    """An order of elimination that SuperLU has chosen: `B = A[rows][:, rows]` needs none."""

    rows: np.ndarray
    gather: np.ndarray
    template: Any
    panel_size: int | None

    def permuted(self, values: np.ndarray) -> Any:
        """`B` as a `csc_array`, from the entries of `A` by rows."""
        matrix = copy.copy(self.template)
        matrix.data = values[self.gather]
        return matrix


class Structure:
    """A square pattern by rows, columns ascending, and what follows from it; stored entries are no zeros.

    Made by `structure_of`, and kept for as long as someone holds it."""

    def __init__(self, indptr: np.ndarray, indices: np.ndarray):
        self.indptr, self.indices = indptr.copy(), indices.copy()  # they might be XLA's
        self.size, self.nnz = len(indptr) - 1, len(indices)
        #: What SuperLU has chosen so far: the rows in their order, and the entries of the factors; for
        #: patterns that are ordered as symmetric ones, and for others.
        self._chosen: dict[bool, tuple[np.ndarray, int]] = {}
        self._orders: dict[bool, Order] = {}

    @functools.cached_property
    def digest(self) -> bytes:
        """Bytes that stand for the pattern."""
        digest = hashlib.sha256(self.indptr.data)
        digest.update(self.indices.data)
        return digest.digest()

    def matrix(self, values: np.ndarray) -> Any:
        """The `csr_array` with these entries, without a copy."""
        matrix = copy.copy(self._template)
        matrix.data = values
        return matrix

    @functools.cached_property
    def _template(self) -> Any:
        return self._empty("csr_array", self.indptr, self.indices)

    def _empty(self, kind: str, indptr: np.ndarray, indices: np.ndarray) -> Any:
        """A SciPy array that waits for its entries; `copy.copy` of it takes less than a new one."""
        import scipy.sparse as sp  # slow to import

        made = getattr(sp, kind)((np.zeros(self.nnz, np.int8), indices, indptr), shape=(self.size, self.size))
        made.has_canonical_format = True
        return made

    @functools.cached_property
    def by_columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the entries stand, column by column, and where the columns begin among them."""
        numbered = self.matrix(np.arange(self.nnz)).tocsc()
        return numbered.data, numbered.indptr[:-1]

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """The row of each entry."""
        return rows_of(self._template)

    @functools.cached_property
    def diagonal(self) -> np.ndarray | None:
        """Where the entries of the diagonal stand; None where some are zero."""
        places = np.flatnonzero(self.rows == self.indices)
        return places if len(places) == self.size else None

    @functools.cached_property
    def is_singular(self) -> bool:
        """Whether the zeros make every matrix singular."""
        if self.diagonal is not None:
            return False
        matches = self._matches_soon()
        if matches is None:
            matches = structural_rank(self.matrix(np.ones(self.nnz))) == self.size
        return not matches

    @property
    def is_dense(self) -> bool:
        return self.nnz > DENSE * self.size**2

    @functools.cached_property
    def is_nearly_symmetric(self) -> bool:
        """Whether most entries have a mirror image."""
        rows, columns = self.rows.astype(np.int64), self.indices.astype(np.int64)
        there, mirrored = rows * self.size + columns, columns * self.size + rows
        return bool(np.isin(mirrored, there, assume_unique=True).sum() >= _SYMMETRIC * self.nnz)

    @functools.cached_property
    def looks_symmetric(self) -> bool:
        """Whether most entries have a mirror image and the diagonal has no zeros: then it can be pivoted
        on."""
        # SuperLU's minimum degree takes long where a row is dense.
        dense_row = np.diff(self.indptr).max() > 10 * np.sqrt(self.size) + 16
        return not dense_row and self.diagonal is not None and self.is_nearly_symmetric

    def order(self, symmetric: bool) -> Order | None:
        """The order that SuperLU has chosen for an earlier matrix, if there was one."""
        if symmetric not in self._orders and symmetric in self._chosen:
            rows, entries = self._chosen[symmetric]
            numbered = self.matrix(np.arange(self.nnz))[rows][:, rows].tocsc()
            numbered.sort_indices()
            template = self._empty("csc_array", numbered.indptr, numbered.indices)
            panel_size = 1 if entries < _NARROW * self.size else None
            self._orders[symmetric] = Order(rows, numbered.data, template, panel_size)
        return self._orders.get(symmetric)

    def remember(self, symmetric: bool, lu: Any) -> None:
        """Takes the order of SuperLU's factors for later matrices."""
        rows = np.empty(self.size, np.intp)
        rows[lu.perm_c] = np.arange(self.size)
        self._chosen[symmetric] = rows, int(lu.nnz)

    def _matches_soon(self) -> bool | None:
        """Whether each row finds a column of its own, None where that would take long to find out.

        numba, which is quick where there are many rows, takes a second to be imported, and some to compile.
        """
        if self.size > FEW:
            return None
        rarity = np.bincount(self.indices, minlength=self.size)
        columns = [row[np.argsort(rarity[row])].tolist() for row in np.split(self.indices, self.indptr[1:-1])]
        row_of: dict[int, int] = {}
        looks = _LOOKS * self.nnz
        for start in np.argsort(np.diff(self.indptr)).tolist():
            # A path from row to row, each by a column that the next one holds, to a column that none holds.
            came_by: dict[int, tuple[int, int]] = {}  # of a column, the row from which, and that row's own
            rows, own, free = collections.deque([start]), {start: -1}, -1
            while rows and free < 0:
                row = rows.popleft()
                looks -= len(columns[row])
                for column in columns[row]:
                    if column in came_by:
                        continue
                    came_by[column] = row, own[row]
                    if column not in row_of:
                        free = column
                        break
                    own[row_of[column]] = column
                    rows.append(row_of[column])
            if free < 0:
                return False
            if looks < 0:
                return None
            while free >= 0:
                row, before = came_by[free]
                row_of[free], free = row, before
        return True


_known: weakref.WeakValueDictionary[Any, Structure] = weakref.WeakValueDictionary()


def structure_of(indptr: np.ndarray, indices: np.ndarray) -> Structure:
    """What is known of a pattern, or will be: for equal ones the same, while someone holds it."""
    some = (len(indptr), len(indices), indices[:: 1 + len(indices) // 64].tobytes())
    found = _known.get(some)
    if found is None or not (np.array_equal(found.indptr, indptr) and np.array_equal(found.indices, indices)):
        found = _known[some] = Structure(indptr, indices)
    return found

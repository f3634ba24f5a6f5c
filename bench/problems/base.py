"""What a problem is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp


@dataclass(frozen=True)
class Problem:
    """A linear system with what is known about it.

    `matrix` is CSR in double precision, `rhs` has shape `(n,)`. `tags` holds `symmetric` (Hermitian
    for complex matrices) and `spd`. `size` is the number the system was made with (points along
    an axis), or the number of unknowns where the system has one size only. `stencil`, where the
    system lives on a regular grid, makes the matrix-free operator for a dtype; it acts on arrays
    of shape `grid` in C order.
    """

    name: str
    size: int
    matrix: sp.csr_array
    rhs: np.ndarray
    tags: frozenset[str] = frozenset()
    grid: tuple[int, ...] | None = None
    stencil: Callable[[Any], Any] | None = None
    solution: np.ndarray | None = field(default=None, repr=False)


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

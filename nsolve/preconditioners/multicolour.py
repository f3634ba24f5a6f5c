"""Multicolour orderings: unknowns of one colour do not couple, so a sweep treats them all at once.

A red-black sweep on a five-point stencil has two stages where the lexicographic one has as many as
the grid has diagonals.  The price is a somewhat slower convergence.

Saad, *Iterative Methods for Sparse Linear Systems*, 2nd ed. (2003), section 12.4,
doi:10.1137/1.9780898718003.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..operators.pattern import SparsityPattern, per_pattern
from ..operators.sparse import SparseLinearOperator


@per_pattern
def colouring(pattern: SparsityPattern) -> np.ndarray:
    """A colour for each row, `(n,)`, such that rows coupled by an entry, or by its mirror image,
    differ.

    Greedy in the order of the rows: the colours are at most one more than the most neighbours a row
    has.
    """
    import scipy.sparse as sp  # slow to import

    from ..kernels.greedy_colouring import greedy_colouring  # here, since it imports numba

    data = np.ones(pattern.nnz, bool)
    matrix = sp.csr_array((data, pattern.indices, pattern.indptr), shape=pattern.shape)
    both = sp.csr_array(matrix + matrix.T)
    return greedy_colouring(both.indptr, both.indices)


class Reordered(NamedTuple):
    """The matrix `P A P^T` whose rows are sorted by colour."""

    pattern: SparsityPattern
    positions: np.ndarray  # its values are those of A at these positions
    order: np.ndarray  # its row k is row order[k] of A
    inverse: np.ndarray  # row i of A is its row inverse[i]
    offsets: tuple[int, ...]  # where each colour begins; last, the number of rows


@per_pattern
def sorted_by_colour(pattern: SparsityPattern) -> Reordered:
    """Rows and columns sorted by colour, in their old order within each."""
    import scipy.sparse as sp  # slow to import

    colours = colouring(pattern)
    order = np.argsort(colours, kind="stable").astype(np.int32)
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order), dtype=np.int32)
    numbered = sp.csr_array(
        (np.arange(1, pattern.nnz + 1), pattern.indices, pattern.indptr), shape=pattern.shape
    )
    matrix = sp.csr_array(numbered[order][:, order])
    matrix.sort_indices()
    offsets = np.concatenate([[0], np.cumsum(np.bincount(colours))])
    return Reordered(
        SparsityPattern(matrix.indptr, matrix.indices, pattern.shape),
        (matrix.data - 1).astype(pattern.indptr.dtype),
        order,
        inverse,
        tuple(map(int, offsets)),
    )


class ColouredTriangular(eqx.Module):
    """`T = I + N` with `N` strictly triangular and without entries between rows of one colour.

    `solve(b)` takes one sparse product for each colour but the first; pure JAX, so that it runs
    everywhere and is differentiable in the values and in `b`.
    """

    blocks: tuple[SparseLinearOperator | None, ...]
    pattern: SparsityPattern = eqx.field(static=True)
    lower: bool = eqx.field(static=True)
    offsets: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, values: Array, pattern: SparsityPattern, lower: bool, offsets: tuple[int, ...]):
        """`values`: the entries of `N` in CSR order; `offsets`: where each colour begins, and
        `n`."""
        self.pattern, self.lower, self.offsets = pattern, lower, offsets
        blocks = []
        for start, stop in zip(offsets[:-1], offsets[1:], strict=True):
            first, last = int(pattern.indptr[start]), int(pattern.indptr[stop])
            # A lower block sees the colours before it, an upper one those after it.
            columns, shift = (start, 0) if lower else (offsets[-1] - stop, stop)
            block = SparsityPattern(
                pattern.indptr[start : stop + 1] - first,
                pattern.indices[first:last] - shift,
                (stop - start, columns),
            )
            empty = first == last
            blocks.append(None if empty else SparseLinearOperator(values[first:last], block))
        self.blocks = tuple(blocks)

    def solve(self, b: Array) -> Array:
        """`T^-1 @ b`."""
        colours = range(len(self.blocks))
        done: list[Array] = []
        for colour in colours if self.lower else reversed(colours):
            x = b[self.offsets[colour] : self.offsets[colour + 1]]
            block = self.blocks[colour]
            if block is not None:
                x = x - block.mv(jnp.concatenate(done))
            done = [*done, x] if self.lower else [x, *done]
        return jnp.concatenate(done)

    def transpose(self) -> "ColouredTriangular":
        pattern, order = self.pattern.transposed
        parts = [block.values for block in self.blocks if block is not None]
        values = jnp.concatenate(parts)[order] if parts else jnp.zeros(0)
        return ColouredTriangular(values, pattern, not self.lower, self.offsets)

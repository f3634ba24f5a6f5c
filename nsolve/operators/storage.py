"""How the values of a sparse matrix lie in memory: along diagonals, or in padded rows.

Both store each entry once in a slot of a dense array, and both leave slots empty; `positions` says which
entry (in CSR order) each slot holds, or `nnz` where it is empty.  Of a symmetric matrix one triangle may be
kept instead, from which these slots are filled when a solve begins.

* *Diagonals*, where the entries lie on few of them (grids, bands): a product is a sum of shifted vectors,
  without index arrays and gathers.
* *Padded rows* otherwise: rows of similar length are grouped (`SparsityPattern.buckets`), and each group
  stores values and columns as `(width, rows)` arrays, so that a product is `width` gathers with unit stride
  over the rows, summed in one fused loop.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Inexact, Int

from .._vectors import take
from .pattern import SparsityPattern, per_pattern

#: Groups of longer rows are summed by a loop over slots instead of unrolled code.
_UNROLLED_WIDTH = 16


def _cut(values: Array, stored: Array) -> Array:
    """The values with empty slots, which are zero, cut off from differentiation, so that their cotangents
    are zero, too.  XLA folds select(_, v, v) into v: the product itself pays nothing."""
    return jnp.where(stored, values, jax.lax.stop_gradient(values))


class Diagonals(eqx.Module):
    """`values[k, i]` stands at row `i` and column `i + offsets[k]`."""

    values: Inexact[Array, "diagonals rows"]
    stored: Bool[Array, "diagonals rows"]
    offsets: tuple[int, ...] = eqx.field(static=True)

    def mv(self, x: Array) -> Array:
        # What wraps around meets empty slots.
        values = _cut(self.values, self.stored)
        terms = [values[k] * jnp.roll(x, -offset) for k, offset in enumerate(self.offsets)]
        return sum(terms[1:], start=terms[0])


class PaddedRows(eqx.Module):
    """A group of rows: the `k`-th entry of its row `j` is `values[k, j]`, at column `columns[k, j]`."""

    values: Inexact[Array, "width rows"]
    columns: Int[Array, "width rows"]
    lengths: Int[Array, " rows"]

    def mv(self, x: Array) -> Array:
        width = self.values.shape[0]

        def slot(k, values, columns):
            # Negative columns are not asked for: a program that closes over a pattern holds the columns as
            # constants, and XLA would evaluate the comparison of all of them while it compiles.
            entries = x.at[columns].get(mode="promise_in_bounds", wrap_negative_indices=False)
            return _cut(values, k < self.lengths) * entries

        if width == 0:
            return jnp.zeros(self.values.shape[1], jnp.result_type(self.values, x))
        if width <= _UNROLLED_WIDTH:
            terms = [slot(k, self.values[k], self.columns[k]) for k in range(width)]
            return sum(terms[1:], start=terms[0])

        def add(total, k_values_columns):
            return total + slot(*k_values_columns), None

        zero = jnp.zeros(self.values.shape[1], jnp.result_type(self.values, x))
        slots = jnp.arange(width, dtype=jnp.int32)
        total, _ = jax.lax.scan(add, zero, (slots, self.values, self.columns), unroll=8)
        return total


class Entries(eqx.Module):
    """All entries: blocks of rows, in the order of the pattern's buckets, and how to undo that order."""

    blocks: tuple[Diagonals | PaddedRows, ...]
    restore_order: Int[Array, " rows"] | None

    @property
    def dtype(self):
        return self.blocks[0].values.dtype

    def mv(self, x: Array) -> Array:
        parts = [block.mv(x) for block in self.blocks]
        if self.restore_order is None:
            return parts[0]
        return take(jnp.concatenate(parts), self.restore_order)

    def written_out(self) -> "Entries":
        return self


class Mirrored(eqx.Module):
    """One triangle, `(entries of the lower triangle,)` in CSR order; the other is its mirror image, whatever
    the values become."""

    triangle: Inexact[Array, " entries"]
    on_diagonal: Bool[Array, " entries"]
    places: Entries
    hermitian: bool = eqx.field(static=True)

    @property
    def dtype(self):
        return self.triangle.dtype

    def written_out(self) -> Entries:
        """All entries, at the price of reading each once."""
        blocks = tuple(
            eqx.tree_at(lambda block: block.values, block, self._read(block.values))
            for block in self.places.blocks
        )
        return Entries(blocks, self.places.restore_order)

    def _read(self, place: Array) -> Array:
        """`place`: the entry's number in the triangle; plus their number where it is reflected; twice this
        where there is none.  Nothing is appended to the triangle: XLA would do so anew for each entry."""
        triangle, size = self.triangle, self.triangle.size
        if size == 0:
            return jnp.zeros(place.shape, triangle.dtype)
        if self.hermitian:
            triangle = jnp.where(self.on_diagonal, triangle.real.astype(triangle.dtype), triangle)
        values = take(triangle, jnp.minimum(jnp.where(place < size, place, place - size), size - 1))
        if self.hermitian:
            values = jnp.where(place < size, values, values.conj())
        return jnp.where(place < 2 * size, values, 0)


def mirror(triangle: Array | np.ndarray, pattern: SparsityPattern, hermitian: bool) -> Mirrored:
    """Storage of one triangle; the pattern is symmetric."""
    below = pattern.rows >= pattern.indices
    size = int(below.sum())
    place = np.cumsum(below, dtype=np.int32 if 2 * size < 2**31 - 1 else np.int64) - 1
    sources = np.where(below, place, size + place[pattern.transposed[1]])
    on_diagonal = (pattern.rows == pattern.indices)[below]
    places = store(sources, pattern, empty=2 * size)
    return Mirrored(jnp.asarray(triangle), jnp.asarray(on_diagonal), places, hermitian)


def store(values: Array | np.ndarray, pattern: SparsityPattern, empty: int = 0) -> Entries:
    """Storage of all entries, given in CSR order; slots that hold none are filled with `empty`."""
    if pattern.diagonal_offsets is not None:
        positions = diagonal_slots(pattern)
        stored = jnp.asarray(positions < pattern.nnz)
        return Entries((Diagonals(_fill(values, positions, empty), stored, pattern.diagonal_offsets),), None)
    blocks = []
    for rows in pattern.buckets:
        positions = row_slots(pattern, rows)
        # Empty slots point to the row's own number where that is a legal column: a cache line warm anyway.
        columns = np.broadcast_to(np.minimum(rows, pattern.shape[1] - 1), positions.shape).astype(np.int32)
        stored = positions < pattern.nnz
        columns[stored] = pattern.indices[positions[stored]]
        lengths = jnp.asarray(pattern.row_lengths[rows].astype(np.int32))
        blocks.append(PaddedRows(_fill(values, positions, empty), jnp.asarray(columns), lengths))
    if len(blocks) == 1:
        return Entries(tuple(blocks), None)
    order = np.empty(pattern.shape[0], np.int32)
    order[np.concatenate(pattern.buckets)] = np.arange(pattern.shape[0], dtype=np.int32)
    return Entries(tuple(blocks), jnp.asarray(order))


def read(entries: Entries, pattern: SparsityPattern) -> Array:
    """The values in CSR order: the inverse of `store`."""
    where = _slots_of_entries(pattern)
    values = [block.values for block in entries.blocks]
    if not any(isinstance(block, Tracer) for block in values):  # on the host: nothing to compile
        return jax.device_put(np.concatenate([np.asarray(block).reshape(-1) for block in values])[where])
    return take(jnp.concatenate([block.reshape(-1) for block in values]), where)


@per_pattern
def _slots_of_entries(pattern: SparsityPattern) -> np.ndarray:
    """Among all slots, block by block."""
    if pattern.diagonal_offsets is not None:
        slots = [diagonal_slots(pattern)]
    else:
        slots = [row_slots(pattern, rows) for rows in pattern.buckets]
    size = sum(positions.size for positions in slots)
    # The last place collects the empty slots.
    where = np.empty(pattern.nnz + 1, np.int32 if size < 2**31 else np.int64)
    start = 0
    for positions in slots:
        stop = start + positions.size
        where[positions.reshape(-1)] = np.arange(start, stop, dtype=where.dtype)
        start = stop
    return where[:-1]


def with_zero(values: Array) -> Array:
    """The values and, behind them, a zero for what is not stored."""
    return jnp.append(values, jnp.zeros((), values.dtype))


@per_pattern
def diagonal_slots(pattern: SparsityPattern) -> np.ndarray:
    """Positions of the entries in `(diagonals, rows)` slots."""
    assert pattern.diagonal_offsets is not None
    positions = np.full((len(pattern.diagonal_offsets), pattern.shape[0]), pattern.nnz, pattern.indptr.dtype)
    # The number of each diagonal; those below the main one are counted from the end.
    number = np.zeros(2 * pattern.shape[0], np.int8)
    number[np.asarray(pattern.diagonal_offsets)] = np.arange(len(pattern.diagonal_offsets))
    numbers = number[pattern.indices - pattern.rows]
    positions[numbers, pattern.rows] = np.arange(pattern.nnz, dtype=positions.dtype)
    return positions


def row_slots(pattern: SparsityPattern, rows: np.ndarray) -> np.ndarray:
    """Positions of the entries of the given rows in `(width, rows)` slots."""
    lengths = pattern.row_lengths[rows]
    slots = np.arange(int(lengths.max(initial=0)), dtype=pattern.indptr.dtype)[:, None]
    return np.where(slots < lengths, pattern.indptr[rows] + slots, pattern.nnz)


def _fill(values: Array | np.ndarray, positions: np.ndarray, empty: int = 0) -> Array:
    if isinstance(values, np.ndarray):  # on the host: nothing to compile
        return jnp.asarray(np.append(values, values.dtype.type(empty))[positions])
    return take(with_zero(values), positions)

"""Sparse approximate inverses: FSAI for Hermitian positive definite matrices, SPAI for others.

Both consist of small dense systems, one a row, with the matrix at the places that the row's pattern has: rows
of similar length lie side by side, padded at the front with rows of the identity.  SPAI's least-squares
problems are solved by their normal equations, whose matrices are parts of `A^H A`; they are small, and a
preconditioner needs few digits.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from .. import _dense
from .._vectors import largest_entry, take
from ..operators import sparse_algebra
from ..operators.base import is_hermitian
from ..operators.convert import entries_of
from ..operators.pattern import SparsityPattern, per_pattern
from ..operators.sparse import SparseLinearOperator
from .base import AbstractApproximateInverse, AbstractPreconditioner, array_structure, constant
from .incomplete import require_diagonal_entries, require_positive_diagonal
from .local import is_count

_WHO = "SparseApproximateInverse"
#: Entries of the small systems that are worked on at a time.
_AT_A_TIME = 2**18
#: Larger systems are LAPACK's.
_NARROW = 24
_SHARE = 1 / 4


class SparseInverse(AbstractApproximateInverse):
    """A product of sparse matrices, the last of which acts first: `G^H G`, or one matrix."""

    factors: tuple[SparseLinearOperator, ...]
    constructor: "SparseApproximateInverse"
    pattern: SparsityPattern = eqx.field(static=True)
    structure: jax.ShapeDtypeStruct = eqx.field(static=True)
    tags: frozenset[object] = eqx.field(static=True)

    def mv(self, vector: Array) -> Array:
        x = vector.reshape(-1)
        for factor in reversed(self.factors):
            x = factor.mv(x)
        return x.reshape(vector.shape)

    def refresh(self, operator: lx.AbstractLinearOperator) -> "SparseInverse":
        refreshed = self.constructor.on_rows(constant(operator), self.rows)
        if refreshed.pattern != self.pattern or refreshed.tags != self.tags:
            raise ValueError(
                "`refresh` needs an operator with the pattern and the symmetry that the preconditioner was "
                f"made for, {self.pattern}, but was given {refreshed.pattern}. Make a new preconditioner "
                "instead."
            )
        return refreshed

    @property
    def rows(self) -> SparsityPattern | None:
        """The pattern of `G`, where values had a say in it."""
        return None if self.constructor.entries is None else self.factors[-1].pattern

    def transpose(self) -> "SparseInverse":
        if self.tags:  # Hermitian
            return self.conj()
        return self._with(factor.transpose() for factor in reversed(self.factors))

    def conj(self) -> "SparseInverse":
        return self._with(lx.conj(factor) for factor in self.factors)

    def _with(self, factors: Any) -> "SparseInverse":
        return SparseInverse(tuple(factors), self.constructor, self.pattern, self.structure, self.tags)

    def __repr__(self) -> str:
        count, entries = len(self.factors), sum(factor.nnz for factor in self.factors)
        kind = "FSAI" if self.tags else "SPAI"
        return (
            f"{_WHO} preconditioner ({kind}, {self.in_size()} unknowns; {count} sparse "
            f"product{'s' * (count > 1)} with {entries} entries)"
        )


class SparseApproximateInverse(AbstractPreconditioner):
    """Sparse approximate inverse: applied by sparse products, which are parallel, as triangular solves are
    not.

    For accelerators, where `IncompleteCholesky` is slow to apply; on a CPU that takes fewer steps.

    * Operators that are Hermitian by their tags must be positive definite: FSAI, `M = G^H G`, `G` lower
      triangular on the pattern of `A^power`, nearest to the inverse of the Cholesky factor; the diagonal of
      `G A G^H` is one.  `M` is positive definite whatever the pattern.
    * Others: SPAI, `M` on the pattern of `A^power`, which minimises `||A M - I||` in the Frobenius norm.
    * `power`: 1, or 2 for fewer steps with several times as many entries.
    * `entries`: FSAI on a pattern of its own, with at most so many entries left of the diagonal in a row of
      `G`, those that reduce the Kaporin number of `G A G^H` most.  The pattern is found on the host, from
      values that must be concrete: set it up outside of `jit` and hand it over in the options; `M.refresh`
      keeps the pattern.

    **Cost:** set-up `w^3 / 3` multiplications for each row with `w` entries, and to look up the `w^2` entries
    of its small system, which takes longer on a CPU; SPAI's also a product `A^H A`.  Where `A` has 27 entries
    a row, `power=2` takes some twenty times as long as 1.  Rows are worked on in chunks, and one with all
    columns takes as much memory as the dense matrix.  To find a pattern takes, for each of
    the `entries`, a pass over the rows of `A` that the row of `G` meets.  An application is a product with
    `G` and one with `G^H`, or one with `M`.  Set-up (with `power`), application and `refresh` may be traced
    and batched; the set-up itself is not differentiable.

    **Raises** `ValueError` for operators that do not know their entries, diagonal entries that are missing
    or, where concrete and Hermitian, not positive, systems of a row that are not definite (all name the row),
    `entries` for an operator that is traced or not Hermitian by its tags, and where set-up would take more
    than a quarter of the memory.  Traced, the values become NaN and the solve reports failure.

    Kolotilina and Yeremin (1993), doi:10.1137/0614004; Janna and Ferronato (2011), doi:10.1137/100810368;
    Grote and Huckle (1997), doi:10.1137/S1064827594276552.
    """

    power: int = eqx.field(static=True, default=1)
    entries: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if isinstance(self.power, bool) or self.power not in (1, 2):
            raise ValueError(f"`{_WHO}(power=...)` must be 1 or 2, but is {self.power!r}.")
        if self.entries is not None and not is_count(self.entries, 1):
            raise ValueError(
                f"`{_WHO}(entries=...)` must be None or an integer >= 1, but is {self.entries!r}."
            )
        if self.entries is not None and self.power != 1:
            raise ValueError(f"`{_WHO}` takes its pattern from `power` or finds it with `entries`; give one.")

    def build(self, operator: lx.AbstractLinearOperator) -> SparseInverse:
        return self.on_rows(operator, None)

    def on_rows(self, operator: lx.AbstractLinearOperator, rows: SparsityPattern | None) -> SparseInverse:
        """The same, with the pattern of `G` where that is known."""
        structure = array_structure(operator, _WHO)
        hermitian = is_hermitian(operator)
        matrix = jax.lax.stop_gradient(entries_of(operator, _WHO))
        require_diagonal_entries(matrix.pattern, _WHO)
        if hermitian:
            require_positive_diagonal(matrix, _WHO, "IncompleteLU")
        if rows is None:
            rows = self._rows(matrix, hermitian)
        plan = _plan(rows)
        _require_memory(plan, matrix.dtype.itemsize, self)
        if hermitian:
            values = _solve_rows(Lookup.of(matrix), None, plan.blocks, plan.places)
            _require_solved(values, matrix, plan.pattern)
            lower = SparseLinearOperator(values, plan.pattern)
            factors = lower.conj().transpose(), lower
        else:
            scale = largest_entry(matrix.values)
            scale = jnp.where(scale > 0, scale, 1).astype(matrix.dtype)
            scaled = matrix.with_values(matrix.values / scale)
            normal = sparse_algebra.compose(scaled.conj().transpose(), scaled)
            values = _solve_rows(Lookup.of(normal), Lookup.of(scaled), plan.blocks, plan.places)
            _require_solved(values, matrix, plan.pattern)
            factors = (SparseLinearOperator(values / scale, plan.pattern).transpose(),)
        tags = frozenset([lx.positive_semidefinite_tag] if hermitian else [])
        return SparseInverse(factors, self, matrix.pattern, structure, tags)

    def _rows(self, matrix: SparseLinearOperator, hermitian: bool) -> SparsityPattern:
        """The pattern of `G`, or of `M^T`."""
        pattern = matrix.pattern
        if self.entries is None:
            _require_memory_before(matrix, self, hermitian)
            return _rows_of_power(pattern, self.power, hermitian)
        if not hermitian:
            raise ValueError(
                f"`{_WHO}(entries={self.entries})` is for operators that are Hermitian by their tags, and "
                "this one is not. Leave `entries` out for SPAI."
            )
        if isinstance(matrix.values, Tracer):
            raise ValueError(
                f"`{_WHO}(entries={self.entries})` finds its pattern by the values of the entries, but here "
                "they are traced. Set it up outside of `jit` and of the solver, hand it over as "
                '`options={"preconditioner": M}`, and use `M.refresh` for other values.'
            )
        from ..kernels.adaptive_pattern import adaptive_pattern  # here, since it imports numba

        values, diagonal = np.asarray(matrix.values), np.asarray(matrix.diagonal())
        entries = min(int(self.entries), pattern.shape[0])
        found = adaptive_pattern(pattern.indptr, pattern.indices, values, diagonal, entries)
        return SparsityPattern(*found, pattern.shape)


class Lookup(eqx.Module):
    """A sparse matrix whose entries are looked up by row and column."""

    values: Array
    indptr: Any
    indices: Any
    rounds: int = eqx.field(static=True)

    @staticmethod
    def of(matrix: SparseLinearOperator) -> "Lookup":
        pattern = matrix.pattern
        rounds = int(pattern.row_lengths.max(initial=1)).bit_length()
        return Lookup(matrix.values, pattern.indptr, pattern.indices, rounds)

    def at(self, rows: Array, columns: Array) -> Array:
        """Zero where nothing is stored; by bisection in the row."""
        rows, columns = jnp.broadcast_arrays(rows, columns)
        indptr, indices = jnp.asarray(self.indptr), jnp.asarray(self.indices)
        low, end = take(indptr, rows), take(indptr, rows + 1)
        last, high = len(indices) - 1, end
        for _ in range(self.rounds):
            middle = (low + high) // 2
            before = (low < high) & (take(indices, jnp.minimum(middle, last)) < columns)
            low, high = jnp.where(before, middle + 1, low), jnp.where(before, high, middle)
        place = jnp.minimum(low, last)
        found = (low < end) & (take(indices, place) == columns)
        return jnp.where(found, take(self.values, place), 0)


class _Plan(NamedTuple):
    """Rows in blocks: `columns` `(chunks, width, rows)`, -1 where there is none, and the rows' numbers
    `(chunks, rows)`; `places`: where the pattern's entries are found in all slots."""

    pattern: SparsityPattern
    blocks: tuple[tuple[np.ndarray, np.ndarray], ...]
    places: np.ndarray


@per_pattern
def _rows_of_power(pattern: SparsityPattern, power: int, hermitian: bool) -> SparsityPattern:
    """Where `G`, or `M^T`, has entries."""
    import scipy.sparse as sp  # slow to import

    ones = sp.csr_array((np.ones(pattern.nnz, bool), pattern.indices, pattern.indptr), shape=pattern.shape)
    ones = sp.csr_array(ones @ ones if power == 2 else ones)
    ones = sp.csr_array(sp.tril(ones) if hermitian else ones.T)
    ones.sort_indices()
    return SparsityPattern(ones.indptr, ones.indices, pattern.shape)


@per_pattern
def _plan(found: SparsityPattern) -> _Plan:
    blocks, places, start = [], np.empty(found.nnz, np.int64), 0
    for rows in found.buckets:
        if not len(rows):
            continue
        lengths = found.row_lengths[rows]
        width = int(lengths.max())
        each = _chunk(width, len(rows))
        chunks = -(-len(rows) // each)
        rows = np.concatenate([rows, np.full(chunks * each - len(rows), rows[-1])])
        lengths = found.row_lengths[rows]
        slots = np.arange(width)[:, None]
        entries = found.indptr[rows + 1] - width + slots
        columns = np.where(slots >= width - lengths, found.indices[np.maximum(entries, 0)], -1)
        columns = columns.reshape(width, chunks, each).transpose(1, 0, 2)
        entries = entries.reshape(width, chunks, each).transpose(1, 0, 2)
        (filled,) = np.nonzero(columns.reshape(-1) >= 0)
        places[entries.reshape(-1)[filled]] = start + filled
        start += columns.size
        blocks.append((np.ascontiguousarray(columns, np.int32), rows.reshape(chunks, each).astype(np.int32)))
    if start < 2**31 - 1:
        places = places.astype(np.int32)
    return _Plan(found, tuple(blocks), places)


def _chunk(width: int, rows: int) -> int:
    """How many rows at a time."""
    return min(max(_AT_A_TIME // width**2, 1), rows)


@jax.jit
def _solve_rows(matrix: Lookup, vectors: Lookup | None, blocks: Any, places: Array) -> Array:
    """The rows' values in CSR order."""

    def solve(chunk: tuple[Array, Array]) -> Array:
        columns, rows = chunk
        inside, safe = columns >= 0, jnp.maximum(columns, 0)
        system = matrix.at(safe[:, None], safe[None])
        unit = jnp.eye(len(columns), dtype=system.dtype)
        system = jnp.where(inside[:, None] & inside[None], system, unit[:, :, None])
        if vectors is None:
            return last_rows(system)
        return _solve_each(system, jnp.where(inside, vectors.at(rows[None], safe).conj(), 0))

    slots = [jax.lax.map(solve, block).reshape(-1) for block in blocks]
    return take(jnp.concatenate(slots) if slots else jnp.zeros(0, matrix.values.dtype), places)


def last_rows(systems: Array) -> Array:
    """The last row of the inverse of each Cholesky factor, for `(width, width, rows)`: with it as row of `G`,
    on these columns, `G^H G` is nearest to the inverse of the whole."""
    last = jnp.eye(len(systems), dtype=systems.dtype)[-1]
    x = _solve_each(systems, jnp.broadcast_to(last[:, None], systems.shape[1:]))
    return (x / jnp.sqrt(x[-1:].real).astype(x.dtype)).conj()


def _solve_each(systems: Array, vectors: Array) -> Array:
    """`A^-1 b` for definite `A` in `(width, width, rows)` and `b` in `(width, rows)`; NaN for others."""
    width = len(vectors)
    if width > _NARROW:
        factors = jax.vmap(_dense.cholesky)(systems.transpose(2, 0, 1))
        return jax.vmap(_dense.solve_factored)(factors, vectors.T).T
    number = jnp.arange(width)[:, None]

    def eliminate(k: Array, both: tuple[Array, Array]) -> tuple[Array, Array]:
        systems, vectors = both
        row = systems[k]
        factor = jnp.where(number > k, systems[:, k] / row[k][None], 0)
        return systems - factor[:, None] * row[None], vectors - factor * vectors[k][None]

    systems, vectors = jax.lax.fori_loop(0, width - 1, eliminate, (systems, vectors))

    def substitute(step: Array, x: Array) -> Array:
        k = width - 1 - step
        known = jnp.sum(jnp.where(number > k, systems[k] * x, 0), axis=0)
        return x.at[k].set((vectors[k] - known) / systems[k, k])

    x = jax.lax.fori_loop(0, width, substitute, jnp.zeros_like(vectors))
    pivots = jnp.stack([systems[k, k].real for k in range(width)])
    return jnp.where((pivots > 0).all(axis=0)[None], x, jnp.nan)


def _require_memory_before(
    matrix: SparseLinearOperator, constructor: SparseApproximateInverse, hermitian: bool
) -> None:
    """Refuses what would take too much memory before the pattern is known."""
    pattern, itemsize = matrix.pattern, matrix.dtype.itemsize
    if constructor.power == 2:  # what the power's pattern takes at most
        products = np.bincount(
            pattern.rows, pattern.row_lengths[pattern.indices].astype(float), pattern.shape[0]
        )
        _refuse(5.0 * float(np.minimum(products, pattern.shape[1]).sum()), constructor)
    if not hermitian:
        lengths = pattern.row_lengths.astype(float)
        _refuse((itemsize + 24.0) * float((lengths**2).sum()), constructor)


def _require_memory(plan: _Plan, itemsize: int, constructor: SparseApproximateInverse) -> None:
    """And after."""
    widths = [(columns.shape[1], rows.shape[1]) for columns, rows in plan.blocks]
    slots = sum(columns.size for columns, _ in plan.blocks)
    largest = max([w * w * rows for w, rows in widths] or [0])
    _refuse(slots * (12.0 + 2 * itemsize) + 4.0 * itemsize * largest, constructor)


def _refuse(needed: float, constructor: SparseApproximateInverse) -> None:
    from ..direct.memory import physical_memory  # here, since that package imports solvers

    limit = _SHARE * physical_memory()
    if needed > limit:
        option = "power" if constructor.entries is None else "entries"
        raise ValueError(
            f"`{_WHO}({option}={getattr(constructor, option)})` would take up to {needed / 1e9:.3g} GB for "
            "the small systems of its rows, more than a quarter of this machine's memory "
            f"({limit / 1e9:.3g} GB). Some rows are long: use a smaller `{option}`, or another "
            "preconditioner, such as `Chebyshev`."
        )


def _require_solved(values: Array, matrix: SparseLinearOperator, pattern: SparsityPattern) -> None:
    """Refuses a concrete matrix that has finite entries, and rows without solution."""
    if isinstance(values, Tracer) or isinstance(matrix.values, Tracer) or jnp.isfinite(values).all():
        return
    if jnp.isfinite(matrix.values).all():
        row = int(pattern.rows[int(np.argmin(np.isfinite(np.asarray(values))))])
        raise ValueError(
            f"`{_WHO}`: the small system of row {row} is not positive definite, so that the matrix is not "
            "either, or nearly singular. Shift its diagonal, or choose another preconditioner."
        )

"""ILU(0), row after row; in pure JAX column after column, all columns of a level at once; elsewhere by
sweeps, as IC(0) (see `incomplete_cholesky`)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import _ffi
from .._vectors import take
from ..operators.pattern import SparsityPattern, per_pattern
from ._layout import ARGUMENTS, RESULTS
from ._numba import INDEX, answers_metadata, array, compiled, handler, word
from ._schedule import by_target, common_columns, from_first, in_chunks, levels
from ._sweeps import settled


@compiled
def incomplete_lu(indptr, indices, on_diagonal, values, factor, inverse_pivots):
    n = inverse_pivots.size
    for k in range(factor.size):
        factor[k] = values[k]
    for i in range(n):
        start, stop = indptr[i], indptr[i + 1]
        for k in range(start, on_diagonal[i]):
            j = indices[k]
            multiplier = factor[k] * inverse_pivots[j]
            factor[k] = multiplier
            p = k + 1
            for q in range(on_diagonal[j] + 1, indptr[j + 1]):
                while p < stop and indices[p] < indices[q]:
                    p += 1
                if p < stop and indices[p] == indices[q]:
                    factor[p] -= multiplier * factor[q]
        pivot = factor[on_diagonal[i]]
        if pivot == 0 or pivot - pivot != 0:
            for k in range(start, factor.size):
                factor[k] = np.nan
            for k in range(i, n):
                inverse_pivots[k] = np.nan
            return
        inverse_pivots[i] = 1 / pivot


def _handler(dtype):
    @handler
    def run(frame):
        if not answers_metadata(frame):
            arguments, results = word(frame, ARGUMENTS), word(frame, RESULTS)
            incomplete_lu(
                array(word(arguments, 0), INDEX),
                array(word(arguments, 1), INDEX),
                array(word(arguments, 2), INDEX),
                array(word(arguments, 3), dtype),
                array(word(results, 0), dtype),
                array(word(results, 1), dtype),
            )
        return 0

    return run


def _portable(pattern, indptr, indices, on_diagonal, values):
    del indptr

    def eliminate(work, chunk):
        # Entries of the lower factor hold, until the end, those times their column's pivot.
        target, left, right = chunk
        pivots = take(work, take(on_diagonal, take(indices, left)))
        multiplier = take(work, left) * (1 / pivots)
        return work.at[target].add(-multiplier * take(work, right), mode="drop"), None

    work, schedule = values, _schedule(pattern)
    if schedule[0].size:
        work, _ = jax.lax.scan(eliminate, work, schedule)
    return _finished(pattern, work)


def _swept(pattern, indptr, indices, on_diagonal, values):
    del indptr
    target, left, right = _updates(pattern)

    def sweep(work):
        pivots = take(work, take(on_diagonal, take(indices, left)))
        return values.at[target].add(-take(work, left) / pivots * take(work, right), indices_are_sorted=True)

    def sizes(work):
        root = jnp.sqrt(jnp.abs(take(work, on_diagonal)))
        return take(root, pattern.rows) * take(root, indices)

    return _finished(pattern, settled(sweep, sizes, values, _levels(pattern)))


def _finished(pattern, work):
    pivots = take(work, pattern.diagonal_positions)
    lost = from_first((pivots == 0) | ~jnp.isfinite(pivots))
    inverse = jnp.where(lost, jnp.nan, 1 / pivots)
    factor = jnp.where(pattern.rows > pattern.indices, work * take(inverse, pattern.indices), work)
    return [jnp.where(take(lost, pattern.rows), jnp.nan, factor), inverse]


@per_pattern
def _updates(pattern: SparsityPattern) -> tuple[np.ndarray, ...]:
    """`entry (i, k) -= entry (i, j) / pivot j * entry (j, k)`: the positions of the three, sorted by the
    first."""
    (lower,) = np.nonzero(pattern.rows > pattern.indices)
    lower = lower.astype(pattern.indptr.dtype)
    rows, columns = pattern.rows[lower], pattern.indices[lower]
    beyond = lower + 1, pattern.indptr[rows + 1]
    above = pattern.diagonal_positions[columns] + 1, pattern.indptr[columns + 1]
    pair, target, right = common_columns(pattern, beyond, above)
    return by_target(target, lower[pair], right)


@per_pattern
def _schedule(pattern: SparsityPattern) -> tuple[np.ndarray, ...]:
    """The same, by the level of `j`."""
    target, left, right = _updates(pattern)
    stage = _levels(pattern)[pattern.indices[left]]
    return in_chunks(stage, (target, pattern.nnz), (left, 0), (right, 0))


@per_pattern
def _levels(pattern: SparsityPattern) -> np.ndarray:
    """In the pattern of `A + A^T`: all that changes the entries of column and row `j` stands in levels
    below."""
    import scipy.sparse as sp  # slow to import

    matrix = sp.csr_array((np.ones(pattern.nnz, bool), pattern.indices, pattern.indptr), shape=pattern.shape)
    both = sp.csr_array(sp.tril(matrix + matrix.T, -1))
    both.sort_indices()
    return levels(SparsityPattern(both.indptr, both.indices, both.shape))


_KERNEL = _ffi.Kernel("incomplete_lu", _handler, _portable, _swept)


def factorise(pattern: SparsityPattern, values: Array, swept: bool = False) -> tuple[Array, Array]:
    """ILU(0) on the pattern of `A`: unit lower and upper factor in one array, `(nnz,)` in CSR order, and the
    inverse pivots, `(n,)`.

    `swept`: by sweeps on every platform.  From the first pivot that is zero (or not a number) on, everything
    is NaN.
    """
    indptr, indices = jnp.asarray(pattern.indptr), jnp.asarray(pattern.indices)
    arrays = indptr, indices, jnp.asarray(pattern.diagonal_positions), values
    if swept:
        factor, inverse_pivots = _swept(pattern, *arrays)
    else:
        pivots = jax.ShapeDtypeStruct((pattern.shape[0],), values.dtype)
        factor, inverse_pivots = _ffi.call(_KERNEL, pattern, *arrays, like=[values, pivots])
    return factor, inverse_pivots

"""IC(0), row after row; in pure JAX column after column, all columns of a level at once; elsewhere by sweeps.

A sweep computes every entry from those before it.  Its fixed point is the factor.  Chow and Patel (2015),
doi:10.1137/140968896; unlike theirs these sweeps take no roots (entries are the factor's times their column's
pivot), so that a pivot may pass through negative numbers, and how they converge does not depend on how rows
and columns are scaled.
"""

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
def incomplete_cholesky(indptr, indices, lower, diagonal, factor, inverse_pivots):
    n = diagonal.size
    for i in range(n):
        start, stop = indptr[i], indptr[i + 1]
        pivot = diagonal[i].real
        for k in range(start, stop):  # factor[k] is first the entry times its column's pivot
            j = indices[k]
            total = lower[k]
            p, q, last = start, indptr[j], indptr[j + 1]
            while p < k and q < last:
                if indices[p] < indices[q]:
                    p += 1
                elif indices[p] > indices[q]:
                    q += 1
                else:
                    total -= factor[p] * factor[q].conjugate()
                    p += 1
                    q += 1
            factor[k] = total
        for k in range(start, stop):
            scaled = factor[k] * inverse_pivots[indices[k]]
            pivot -= (factor[k] * scaled.conjugate()).real
            factor[k] = scaled
        if not pivot > 0 or pivot - pivot != 0:
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
            incomplete_cholesky(
                array(word(arguments, 0), INDEX),
                array(word(arguments, 1), INDEX),
                array(word(arguments, 2), dtype),
                array(word(arguments, 3), dtype),
                array(word(results, 0), dtype),
                array(word(results, 1), dtype),
            )
        return 0

    return run


def _portable(pattern, indptr, indices, lower, diagonal):
    del indptr

    def eliminate(work, chunk):
        # Entries hold, until the end, the factor's times their column's pivot.
        target, left, right = chunk
        inverse_pivots = 1 / take(work, lower.size + take(indices, right)).real
        scaled = take(work, right) * inverse_pivots.astype(work.dtype)
        return work.at[target].add(-take(work, left) * scaled.conj(), mode="drop"), None

    work = jnp.concatenate([lower, diagonal.real.astype(lower.dtype)])
    if pattern.nnz > 0:
        work, _ = jax.lax.scan(eliminate, work, _schedule(pattern))
    return _finished(pattern, work)


def _swept(pattern, indptr, indices, lower, diagonal):
    del indptr
    target, left, right = _updates(pattern)
    start = jnp.concatenate([lower, diagonal.real.astype(lower.dtype)])

    def sweep(work):
        pivots = take(work, lower.size + take(indices, right)).real
        scaled = take(work, right) / pivots.astype(work.dtype)
        return start.at[target].add(-take(work, left) * scaled.conj(), indices_are_sorted=True)

    def sizes(work):
        size = jnp.abs(work[lower.size :])
        root = jnp.sqrt(size)
        return jnp.concatenate([take(root, pattern.rows) * take(root, indices), size])

    return _finished(pattern, settled(sweep, sizes, start, levels(pattern)))


def _finished(pattern, work):
    factor, pivots = work[: pattern.nnz], work[pattern.nnz :].real
    lost = from_first(~((pivots > 0) & jnp.isfinite(pivots)))
    inverse = jnp.where(lost, jnp.nan, 1 / pivots).astype(work.dtype)
    return [jnp.where(take(lost, pattern.rows), jnp.nan, factor * take(inverse, pattern.indices)), inverse]


@per_pattern
def _updates(pattern: SparsityPattern) -> tuple[np.ndarray, ...]:
    """`entry (i, k) -= entry (i, j) conj(entry (k, j)) / pivot j`: the positions of the three entries, sorted
    by the first; that of pivot `i` is `nnz + i`."""
    rows, entries = pattern.rows, np.arange(pattern.nnz, dtype=pattern.indptr.dtype)
    below = pattern.indices
    own, other = (pattern.indptr[rows], entries), (pattern.indptr[below], pattern.indptr[below + 1])
    target, left, right = common_columns(pattern, own, other)
    target, left, right = (
        np.concatenate(parts) for parts in ((target, pattern.nnz + rows), (left, entries), (right, entries))
    )
    return by_target(target, left, right)


@per_pattern
def _schedule(pattern: SparsityPattern) -> tuple[np.ndarray, ...]:
    """The same, by the level of `j`."""
    target, left, right = _updates(pattern)
    stage = levels(pattern)[pattern.indices[right]]
    return in_chunks(stage, (target, pattern.nnz + pattern.shape[0]), (left, 0), (right, 0))


_KERNEL = _ffi.Kernel("incomplete_cholesky", _handler, _portable, _swept)


def factorise(
    pattern: SparsityPattern, lower: Array, diagonal: Array, swept: bool = False
) -> tuple[Array, Array]:
    """IC(0), `A ~ (I + L) diag(1 / inverse_pivots) (I + L)^H` with `L` on the strictly lower pattern of `A`:
    `L`'s entries, `(nnz,)` in CSR order, and the inverse pivots, `(n,)`.

    `swept`: by sweeps on every platform.  From the first pivot that is not positive (or not a number) on,
    everything is NaN.
    """
    arrays = jnp.asarray(pattern.indptr), jnp.asarray(pattern.indices), lower, diagonal
    if swept:
        factor, inverse_pivots = _swept(pattern, *arrays)
    else:
        factor, inverse_pivots = _ffi.call(_KERNEL, pattern, *arrays, like=[lower, diagonal])
    return factor, inverse_pivots

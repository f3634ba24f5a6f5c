"""Solves with unit triangular matrices `I + N`: lower, upper, and one after the other.

Compiled, a kernel walks down the chain of rows.  In pure JAX the entries are sorted by *level* (the length of
the longest chain that leads to their column), and all entries of a level are treated at once.  Where a number
of sweeps is given, platforms other than the CPU sweep over all rows so often instead, unless levels are few.

Level scheduling: Saad, *Iterative Methods for Sparse Linear Systems*, 2nd ed. (2003), section 11.6,
doi:10.1137/1.9780898718003.
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
from ._schedule import in_chunks, levels
from ._sweeps import count_sweeps, solve_by_sweeps

#: So few levels take no more steps than sweeps would.
_FEW = 8

# Loops and methods of numbers instead of slices and NumPy's functions: numba compiles them sooner, which the
# first use of a process without its cache waits for.


@compiled
def solve_lower(indptr, indices, values, b, x):
    """`(I + N) x = b` for strictly lower `N`, rows compressed, columns ascending."""
    previous = x.dtype.type(0)
    for i in range(b.size):
        start, stop = indptr[i], indptr[i + 1]
        total = b[i]
        # The row before is often the last one read: held in a register, it spares a trip through memory.
        if stop > start and indices[stop - 1] == i - 1:
            stop -= 1
            for k in range(start, stop):
                total -= values[k] * x[indices[k]]
            total -= values[stop] * previous
        else:
            for k in range(start, stop):
                total -= values[k] * x[indices[k]]
        x[i] = total
        previous = total


@compiled
def solve_upper(indptr, indices, values, b, x):
    """`(I + N) x = b` for strictly upper `N`, rows compressed, columns ascending; `x` may be `b`."""
    previous = x.dtype.type(0)
    one = np.uint64(1)
    i = np.uint64(b.size)
    for _ in range(b.size):
        i -= one
        start, stop = indptr[i], indptr[i + one]
        total = b[i]
        if stop > start and indices[start] == i + 1:
            for k in range(start + 1, stop):
                total -= values[k] * x[indices[k]]
            total -= values[start] * previous
        else:
            for k in range(start, stop):
                total -= values[k] * x[indices[k]]
        x[i] = total
        previous = total


@compiled
def solve_both(indptr, indices, values, scale, upper_indptr, upper_indices, upper_values, b, x):
    """`(I + L) diag(1 / scale) (I + U) x = b`, one solve after the other in the same buffer."""
    solve_lower(indptr, indices, values, b, x)
    for i in range(b.size):
        x[i] *= scale[i]
    solve_upper(upper_indptr, upper_indices, upper_values, x, x)


# One function for each handler: a kernel held in a closure would defeat numba's cache on the disk.
def _lower_handler(dtype):
    @handler
    def run(frame):
        if not answers_metadata(frame):
            arguments, results = word(frame, ARGUMENTS), word(frame, RESULTS)
            solve_lower(
                array(word(arguments, 0), INDEX),
                array(word(arguments, 1), INDEX),
                array(word(arguments, 2), dtype),
                array(word(arguments, 3), dtype),
                array(word(results, 0), dtype),
            )
        return 0

    return run


def _upper_handler(dtype):
    @handler
    def run(frame):
        if not answers_metadata(frame):
            arguments, results = word(frame, ARGUMENTS), word(frame, RESULTS)
            solve_upper(
                array(word(arguments, 0), INDEX),
                array(word(arguments, 1), INDEX),
                array(word(arguments, 2), dtype),
                array(word(arguments, 3), dtype),
                array(word(results, 0), dtype),
            )
        return 0

    return run


def _both_handler(dtype):
    @handler
    def run(frame):
        if not answers_metadata(frame):
            arguments, results = word(frame, ARGUMENTS), word(frame, RESULTS)
            solve_both(
                array(word(arguments, 0), INDEX),
                array(word(arguments, 1), INDEX),
                array(word(arguments, 2), dtype),
                array(word(arguments, 3), dtype),
                array(word(arguments, 4), INDEX),
                array(word(arguments, 5), INDEX),
                array(word(arguments, 6), dtype),
                array(word(arguments, 7), dtype),
                array(word(results, 0), dtype),
            )
        return 0

    return run


def solve_by_levels(pattern: SparsityPattern, values: Array, b: Array) -> Array:
    """`(I + N)^-1 b` level by level, in pure JAX.

    Once all unknowns of a level are final, their contributions are subtracted from the rows that need them.
    """

    def subtract(x, chunk):
        rows, columns, positions = chunk
        entries = values.at[positions].get(mode="fill", fill_value=0)
        return x.at[rows].add(-entries * take(x, columns), mode="drop"), None

    if pattern.nnz == 0:
        return b
    x, _ = jax.lax.scan(subtract, b, schedule(pattern))
    return x


@per_pattern
def schedule(pattern: SparsityPattern) -> tuple[np.ndarray, ...]:
    """Rows, columns and CSR positions of the entries in the order of their columns' levels, `(chunks, size)`
    (see `in_chunks`); the padding is row `n` and position `nnz`, which do not exist."""
    positions = np.arange(pattern.nnz)
    entries = (pattern.rows, pattern.shape[0]), (pattern.indices, 0), (positions, pattern.nnz)
    return in_chunks(levels(pattern)[pattern.indices], *entries)


def _depth(pattern: SparsityPattern) -> int:
    """After so many sweeps a solve is exact."""
    return int(levels(pattern).max(initial=0))


def _swept(pattern: SparsityPattern, values: Array, b: Array, sweeps: Array) -> Array:
    depth = _depth(pattern)
    if depth < _FEW:
        return solve_by_levels(pattern, values, b)
    sweeps = jnp.where(sweeps < 0, depth, jnp.minimum(sweeps, depth))
    return solve_by_sweeps(pattern, values, b, sweeps)


# Compiled kernels leave the last argument, the number of sweeps, alone.


def _portable(pattern, indptr, indices, values, b, *sweeps):
    del indptr, indices, sweeps  # the first two are the pattern's
    return [solve_by_levels(pattern, values, b)]


def _swept_once(pattern, indptr, indices, values, b, sweeps):
    del indptr, indices
    return [_swept(pattern, values, b, sweeps)]


def _portable_both(
    patterns, indptr, indices, values, scale, upper_indptr, upper_indices, upper_values, b, *sweeps
):
    del indptr, indices, upper_indptr, upper_indices, sweeps
    below, above = patterns
    return [solve_by_levels(above, upper_values, scale * solve_by_levels(below, values, b))]


def _swept_both(
    patterns, indptr, indices, values, scale, upper_indptr, upper_indices, upper_values, b, sweeps
):
    del indptr, indices, upper_indptr, upper_indices
    below, above = patterns
    return [_swept(above, upper_values, scale * _swept(below, values, b, sweeps), sweeps)]


def _uncounted(patterns, values, scale, upper_values):
    return [jnp.asarray(-1, jnp.int32)]


def _counted(patterns, values, scale, upper_values):
    root, counts = jnp.sqrt(jnp.abs(scale)), _uncounted(patterns, values, scale, upper_values)
    for pattern, entries, unit in zip(patterns, (values, upper_values), (root, 1 / root), strict=True):
        if _depth(pattern) >= _FEW:
            counts.append(count_sweeps(pattern, entries, unit))
    return [jnp.max(jnp.stack(counts))]


_LOWER = _ffi.Kernel("solve_lower", _lower_handler, _portable)
_UPPER = _ffi.Kernel("solve_upper", _upper_handler, _portable)
_BOTH = _ffi.Kernel("solve_both", _both_handler, _portable_both)
_COUNT = _ffi.Kernel("count_sweeps", None, _uncounted, _counted)


def solve(
    pattern: SparsityPattern,
    lower: bool,
    values: Array,
    indptr: Array,
    indices: Array,
    b: Array,
    sweeps: Array | None = None,
) -> Array:
    """`(I + N)^-1 b`: `values` on a strictly lower or upper pattern, whose arrays are `indptr, indices`; all
    of `b`'s dtype.  `sweeps`: how many are enough (see `enough_sweeps`)."""
    kernel, arguments = _LOWER if lower else _UPPER, (indptr, indices, values, b)
    if sweeps is not None:
        kernel, arguments = kernel._replace(elsewhere=_swept_once), (*arguments, sweeps)
    (x,) = _ffi.call(kernel, pattern, *arguments, like=[b])
    return x


def solve_twice(
    patterns: tuple[SparsityPattern, SparsityPattern], *arguments: Array, sweeps: Array | None = None
) -> Array:
    """`(I + U)^-1 diag(scale) (I + L)^-1 b` on the patterns of `L` and `U`; the arguments are those of the
    kernel `solve_both`, all of `b`'s dtype.  In one call, it spares trips to memory."""
    kernel, b = _BOTH, arguments[-1]
    if sweeps is not None:
        kernel, arguments = kernel._replace(elsewhere=_swept_both), (*arguments, sweeps)
    (x,) = _ffi.call(kernel, patterns, *arguments, like=[b])
    return x


def enough_sweeps(
    patterns: tuple[SparsityPattern, SparsityPattern], lower: Array, scale: Array, upper: Array
) -> Array:
    """In how many sweeps platforms other than the CPU do both solves of `solve_twice`; -1 for exact ones."""
    like = jax.ShapeDtypeStruct((), jnp.int32)
    (count,) = _ffi.call(_COUNT, patterns, lower, scale, upper, like=[like])
    return count

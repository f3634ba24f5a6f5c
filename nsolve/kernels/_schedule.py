"""Static schedules: what can be done at once, as arrays that a loop reads chunk by chunk.

Made on the host from sparsity patterns, once for each.
"""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..operators.pattern import SparsityPattern, per_pattern

#: Candidates looked up at once: bounds the memory of `common_columns`.
_BLOCK = 1 << 22


@per_pattern
def levels(pattern: SparsityPattern) -> np.ndarray:
    """The level of each row: 0 where it needs no other, else one more than the highest that it needs."""
    needed_by, _ = pattern.transposed
    waiting_for = pattern.row_lengths.astype(np.int64)
    level = np.zeros(pattern.shape[0], np.int32)
    ready, number = np.flatnonzero(waiting_for == 0), 0
    while ready.size:
        level[ready] = number
        lengths = needed_by.row_lengths[ready]
        starts = np.repeat(needed_by.indptr[ready] - np.cumsum(lengths) + lengths, lengths)
        rows, counts = np.unique(needed_by.indices[starts + np.arange(lengths.sum())], return_counts=True)
        waiting_for[rows] -= counts
        ready, number = rows[waiting_for[rows] == 0], number + 1
    return level


def in_chunks(stage: np.ndarray, *entries: tuple[np.ndarray, int]) -> tuple[np.ndarray, ...]:
    """Arrays of one number an item, in the order of the items' stages, with what to pad them with.

    Shape `(chunks, size)`: a stage takes as many chunks as it needs and pads its last one.  The size is such
    that padding at most doubles or triples the work.
    """
    order = np.argsort(stage, kind="stable")
    counts = np.bincount(stage) if stage.size else np.zeros(0, np.int64)
    counts = counts[counts > 0]
    size = 1 << int(np.ceil(np.log2(max(1, stage.size / max(1, len(counts))))))
    chunks = -(-counts // size)
    slots = np.arange(stage.size) - np.repeat(np.cumsum(counts) - counts, counts)
    slots += np.repeat((np.cumsum(chunks) - chunks) * size, counts)
    arrays = []
    for numbers, padding in entries:
        array = np.full((int(chunks.sum()), size), padding, np.int32)
        array.reshape(-1)[slots] = numbers[order]
        arrays.append(array)
    return tuple(arrays)


def common_columns(
    pattern: SparsityPattern, first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For pairs of ranges of entries, each range within a row and given by `(starts, stops)`: which pair has
    a column in both ranges, and where that stands in the first and in the second."""
    length, other = first[1] - first[0], second[1] - second[0]
    swapped = other < length  # the entries of the shorter range are looked up in the longer
    found = []
    for here, there, chosen in ((first, second, ~swapped), (second, first, swapped)):
        (pairs,) = np.nonzero(chosen & (length > 0) & (other > 0))
        for part in _blocks(pairs, (here[1] - here[0])[pairs]):
            counts = (here[1] - here[0])[part]
            pair = np.repeat(part, counts)
            position = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - here[0][part], counts)
            place = _find(pattern, pattern.rows[there[0][pair]], pattern.indices[position])
            good = (place >= there[0][pair]) & (place < there[1][pair])
            hit = pair[good], position[good], place[good]
            found.append(hit if here is first else (hit[0], hit[2], hit[1]))
    nothing = np.zeros(0, np.int64)
    pair, position, place = (
        np.concatenate(parts) for parts in zip(*found, (nothing, nothing, nothing), strict=True)
    )
    return pair, position, place


def _blocks(pairs: np.ndarray, counts: np.ndarray) -> Iterator[np.ndarray]:
    """The pairs in runs of a bounded number of candidates."""
    block = np.cumsum(counts) // _BLOCK
    yield from np.split(pairs, np.flatnonzero(np.diff(block)) + 1) if len(pairs) else []


def _find(pattern: SparsityPattern, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Where these entries stand in CSR order; -1 where there is none."""
    keys, wanted = _keys(pattern), rows.astype(np.int64) * pattern.shape[1] + columns
    place = np.searchsorted(keys, wanted)
    return np.where(keys[np.minimum(place, len(keys) - 1)] == wanted, place, -1)


@per_pattern
def _keys(pattern: SparsityPattern) -> np.ndarray:
    return pattern.rows.astype(np.int64) * pattern.shape[1] + pattern.indices


def by_target(target: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    """All in the order of the first."""
    order = np.argsort(target, kind="stable")
    return tuple(numbers[order].astype(np.int32) for numbers in (target, *others))


def from_first(bad: Array) -> Array:
    """True from the first row that is bad on."""
    rows = jnp.arange(bad.size, dtype=jnp.int32)
    return rows >= jnp.min(jnp.where(bad, rows, bad.size))

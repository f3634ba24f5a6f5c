"""Dense inverses of the matrix on groups of unknowns, side by side or overlapping: what `BlockJacobi` and
`Schwarz` share.

Which entries stand in which group is found on the host, once for a pattern; all numbers are handled in array
operations, in batches of one size, padded.
"""

import functools
import hashlib
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from .._dense import cholesky, solve, solve_factored
from .._vectors import take
from ..operators.base import is_positive_semidefinite
from ..operators.pattern import SparsityPattern, per_pattern
from ..operators.sparse import SparseLinearOperator, concrete_indices
from .base import AbstractApproximateInverse

#: Dense inverses may take this share of the physical memory.
_SHARE = 0.25
#: A matrix counts as singular where rounding errors, times this, can change its inverse altogether.
_CAUTION = 8


class Partition:
    """To which part each unknown belongs, `0` to `count - 1`, none of which is empty; hashes by content."""

    def __init__(self, labels: Any, name: str):
        labels = np.ascontiguousarray(concrete_indices(labels, name))
        if labels.ndim != 1 or not labels.size:
            raise ValueError(
                f"`{name}` must be flat, one label for each unknown, but has shape {labels.shape}."
            )
        if labels.min() < 0:
            raise ValueError(f"`{name}` must not be negative, but label {labels.min()} occurs.")
        sizes = np.bincount(np.minimum(labels, labels.size))
        if (sizes == 0).any() or labels.max() >= labels.size:
            raise ValueError(
                f"`{name}` must be 0, 1, 2, … without gaps, but {int(np.argmin(sizes))} does not occur, and "
                f"{labels.max()} does. `numpy.unique(labels, return_inverse=True)[1]` numbers them anew."
            )
        labels.setflags(write=False)
        self.labels, self.sizes = labels, sizes
        self._digest = hashlib.blake2b(labels.tobytes(), digest_size=16).digest()

    @property
    def count(self) -> int:
        """How many parts there are."""
        return len(self.sizes)

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Partition) and self._digest == other._digest

    def __repr__(self) -> str:
        return f"<{self.count} parts of {self.labels.size} unknowns>"


def as_partition(labels: Any, name: str) -> Partition:
    """Of labels, or a partition as it is."""
    return labels if isinstance(labels, Partition) else Partition(labels, name)


def is_count(number: object, least: int) -> bool:
    """Whether something is an integer, and large enough."""
    return isinstance(number, int | np.integer) and not isinstance(number, bool) and bool(number >= least)


class Layout(NamedTuple):
    """Groups of unknowns, and where the matrix's entries stand in them."""

    members: np.ndarray  # (groups, width), ascending; padded with the number of unknowns
    own: np.ndarray  # (groups, width), whether the member is of this part and not of the overlap
    places: tuple[np.ndarray, ...]  # group, row and column of each entry inside
    entries: np.ndarray  # which entries these are, among the values


class LocalInverse(AbstractApproximateInverse):
    """`sum R_i^T A_i^-1 Q_i`, and `R_0^T A_0^-1 R_0` where there is a coarse space.

    `Q_i` reads the unknowns `inside[i]`, `R_i^T` adds to the unknowns `outside[i]`; what is out of range is
    not there, and without both the groups stand one after the other. `R_0` sums over those of a `label`."""

    inverses: Array
    inside: Array | None
    outside: Array | None
    coarse: Array | None
    labels: Array | None
    constructor: Any
    pattern: SparsityPattern = eqx.field(static=True)
    structure: jax.ShapeDtypeStruct = eqx.field(static=True)
    tags: frozenset[object] = eqx.field(static=True)

    def mv(self, vector: Array) -> Array:
        x, (groups, width, _) = vector.reshape(-1), self.inverses.shape
        if self.inside is None or self.outside is None:
            padded = jnp.pad(x, (0, groups * width - x.size)).reshape(groups, width)
            result = self._local(padded).reshape(-1)[: x.size]
        else:
            found = self._local(x.at[self.inside].get(mode="fill", fill_value=0))
            result = jnp.zeros_like(x).at[self.outside].add(found, mode="drop")
        if self.coarse is not None and self.labels is not None:
            sums = jnp.zeros(len(self.coarse), x.dtype).at[self.labels].add(x)
            result += take(jnp.matmul(self.coarse, sums, precision="highest"), self.labels)
        return result.reshape(vector.shape)

    def _local(self, vectors: Array) -> Array:
        return jnp.matmul(self.inverses, vectors[:, :, None], precision="highest")[:, :, 0]

    def refresh(self, operator: lx.AbstractLinearOperator) -> "LocalInverse":
        refreshed = self.constructor(operator)
        if refreshed.pattern != self.pattern:
            raise ValueError(
                "`refresh` needs an operator with the pattern that the preconditioner was made for, "
                f"{self.pattern}, but was given {refreshed.pattern}. Make a new preconditioner instead."
            )
        return refreshed

    def transpose(self) -> "LocalInverse":
        coarse = None if self.coarse is None else self.coarse.T
        return LocalInverse(
            self.inverses.swapaxes(1, 2),
            self.outside,
            self.inside,
            coarse,
            self.labels,
            self.constructor,
            self.pattern.transposed[0],
            self.structure,
            lx.transpose_tags(self.tags),
        )

    def conj(self) -> "LocalInverse":
        def numbers(inverse):
            return [array for array in (inverse.inverses, inverse.coarse) if array is not None]

        return eqx.tree_at(numbers, self, [array.conj() for array in numbers(self)])

    def __repr__(self) -> str:
        groups, width, _ = self.inverses.shape
        coarse = "" if self.coarse is None else f"; a coarse space of {len(self.coarse)}"
        megabytes = self.inverses.size * self.inverses.dtype.itemsize / 1e6
        return (
            f"{type(self.constructor).__name__} preconditioner ({self.in_size()} unknowns; {groups} dense "
            f"inverses of up to {width} unknowns, {megabytes:.3g} MB{coarse})"
        )


def local_inverses(
    matrix: SparseLinearOperator, operator: lx.AbstractLinearOperator, groups: Layout, who: str
) -> Array:
    """`(groups, width, width)`: the inverses, the identity where they are padded; NaN where there is none,
    which is refused where the numbers are known."""
    members, entries = jnp.asarray(groups.members), jnp.asarray(groups.entries)
    places = tuple(jnp.asarray(place) for place in groups.places)
    definite = is_positive_semidefinite(operator)
    inverses = _invert_all(matrix.values, members, places, entries, matrix.pattern.shape[0], definite)
    if not isinstance(inverses, Tracer):
        wrong = ~np.asarray(jnp.isfinite(inverses).all((1, 2)))
        if wrong.any() and jnp.isfinite(matrix.values).all():
            which = int(np.argmax(wrong))
            rows = groups.members[which][groups.members[which] < matrix.pattern.shape[0]]
            shown = ", ".join(map(str, rows[:8])) + (", …" if rows.size > 8 else "")
            kind = "not positive definite" if definite else "singular"
            raise ValueError(
                f"`{who}`: the block of rows {shown} is {kind} to working precision ({int(wrong.sum())} of "
                f"{wrong.size} blocks are). Choose larger or other blocks, shift the matrix, or take another "
                "preconditioner."
            )
    return inverses


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def inverse(matrix: Array, definite: bool) -> Array:
    """The inverse of a matrix, Hermitian where `definite`; NaN where it is singular to working precision."""
    identity = jnp.eye(len(matrix), dtype=matrix.dtype)
    if definite:
        found = solve_factored(cholesky(matrix), identity)
        found = (found + found.conj().T) / 2
    else:
        found = solve(matrix, identity)
    # the diagonal of |A^-1| |A| does not depend on how rows and columns are scaled
    condition = jnp.max(jnp.sum(jnp.abs(found) * jnp.abs(matrix.T), axis=1))
    sound = condition * float(_CAUTION * jnp.finfo(matrix.dtype).eps) < 1  # not where it is NaN
    return jnp.where(sound, found, jnp.nan)


@inverse.defjvp
def _(definite: bool, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    found, change = inverse(*primals, definite), tangents[0]
    multiply = functools.partial(jnp.matmul, precision="highest")
    return found, -multiply(multiply(found, change), found)


@eqx.filter_jit
def _invert_all(
    values: Array, members: Array, places: tuple, entries: Array, unknowns: int, definite: bool
) -> Array:
    width = members.shape[1]
    padding = (members == unknowns)[:, :, None] & jnp.eye(width, dtype=bool)[None]
    blocks = padding.astype(values.dtype)
    blocks = blocks.at[places].set(
        take(values, entries), unique_indices=True, mode="promise_in_bounds", wrap_negative_indices=False
    )
    return jax.vmap(functools.partial(inverse, definite=definite))(blocks)


@per_pattern
def layout(pattern: SparsityPattern, partition: Partition, overlap: int, itemsize: int, who: str) -> Layout:
    """The parts, each with all unknowns that `overlap` steps along the matrix's graph lead to."""
    n, parts = pattern.shape[0], partition.count
    require_labels(partition, n, who)
    group, unknown = _with_neighbours(pattern, partition, overlap)
    sizes = np.bincount(group, minlength=parts)
    width, starts = int(sizes.max()), np.concatenate([[0], np.cumsum(sizes)[:-1]])
    require_memory(parts, width, itemsize, who)
    slot = np.arange(group.size) - starts[group]
    members = np.full((parts, width), n)
    members[group, slot] = unknown
    own = np.zeros((parts, width), bool)
    own[group, slot] = partition.labels[unknown] == group

    # every entry of every member's row, and whether its column is a member, too
    lengths = pattern.row_lengths.astype(np.int64)[unknown]
    ends = np.cumsum(lengths)
    member = np.repeat(np.arange(group.size), lengths)
    entry = np.arange(member.size) + np.repeat(pattern.indptr[unknown] - (ends - lengths), lengths)
    keys = group * n + unknown
    wanted = group[member] * n + pattern.indices[entry]
    column = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
    inside = keys[column] == wanted
    member, entry, column = member[inside], entry[inside], column[inside]
    empty = np.bincount(member, minlength=group.size) == 0
    if empty.any():
        first = int(np.argmax(empty))
        raise ValueError(
            f"`{who}`: row {unknown[first]} of the matrix has no entries in block {group[first]}, which is "
            f"singular therefore ({int(empty.sum())} such rows). Choose other blocks, or another "
            "preconditioner."
        )
    small = np.int32 if max(n, pattern.nnz, parts) < 2**31 - 1 else np.int64
    places = group[member], slot[member], slot[column]
    return Layout(members.astype(small), own, tuple(p.astype(small) for p in places), entry.astype(small))


def _with_neighbours(
    pattern: SparsityPattern, partition: Partition, overlap: int
) -> tuple[np.ndarray, np.ndarray]:
    """Parts and unknowns that belong together, by parts, unknowns ascending."""
    import scipy.sparse as sp  # slow to import

    from ..direct.ordering import adjacency  # here, since solvers import preconditioners

    n = pattern.shape[0]
    ones = np.ones(n, np.int32)
    within = sp.csr_array((ones, (partition.labels, np.arange(n))), shape=(partition.count, n))
    if overlap:
        indptr, indices = adjacency(pattern)
        graph = sp.csr_array((np.ones(indices.size, np.int32), indices, indptr), shape=(n, n))
        for _ in range(overlap):
            within = (within + within @ graph).tocsr()
            within.data[:] = 1
    within.sort_indices()
    group = np.repeat(np.arange(partition.count), np.diff(within.indptr))
    return group, within.indices.astype(np.int64)


def require_labels(partition: Partition, unknowns: int, who: str) -> None:
    """Refuses labels of others."""
    if partition.labels.size != unknowns:
        raise ValueError(
            f"`{who}` was given labels of {partition.labels.size} unknowns, but the operator has {unknowns}."
        )


def require_memory(groups: int, width: int, itemsize: int, who: str) -> None:
    """Refuses what would take too much of it."""
    from ..direct.memory import physical_memory  # here, since solvers import preconditioners

    needed, there = float(groups) * width**2 * itemsize, physical_memory()
    if needed > _SHARE * there:
        raise ValueError(
            f"`{who}`: {groups} dense inverses of up to {width} unknowns take {needed / 1e9:.3g} GB, "
            f"which is more than {_SHARE:.0%} of the memory of {there / 1e9:.3g} GB. Choose smaller blocks, "
            "of more equal sizes, or less overlap."
        )

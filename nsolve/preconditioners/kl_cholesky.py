"""Sparse Cholesky factors of inverse kernel matrices, by conditioning each point on its neighbours.

The points are ordered from coarse to fine.  Row `i` of `G` is what is left of point `i` where the nearest
points before it are known, in units of its standard deviation: the last row of the inverse of the Cholesky
factor of the matrix among these.  Of all `G` with these entries it is the one for which the normal
distributions with covariances `(G^T G)^-1` and `A` are nearest to each other, in the measure of Kullback and
Leibler.
"""

import hashlib
import heapq
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from .._upstream import bounded_cache
from .._vectors import take
from ..operators.base import require_definite
from ..operators.convert import entries_of
from ..operators.kernel import KernelLinearOperator
from ..operators.pattern import SparsityPattern
from ..operators.sparse import SparseLinearOperator
from ..operators.tags import untagged
from .base import AbstractApproximateInverse, AbstractPreconditioner, array_structure
from .local import is_count
from .sparse_inverse import last_rows

_WHO = "KLCholesky"
#: Entries of the small systems that are worked on at a time.
_AT_A_TIME = 2**18
#: Points whose neighbours are looked up at a time.
_BATCH = 2**15
#: Diagonals are raised by so many rounding errors of the small systems' traces.
_CAUTION = 4


class Points:
    """Concrete positions `(n, d)`; hashes by content."""

    def __init__(self, points: Any):
        if isinstance(points, Tracer):
            raise TypeError(
                f"`{_WHO}(points=...)` must be concrete: neighbours are found on the host. Pass them "
                "from outside of `jit`; those of the operator may be traced."
            )
        positions = np.array(points, dtype=float, order="C")
        if positions.ndim != 2 or not positions.size:
            raise ValueError(
                f"`{_WHO}(points=...)` must have shape (n, d), one row for each unknown, but has shape "
                f"{positions.shape}; write `points[:, None]` for points on a line."
            )
        if not np.isfinite(positions).all():
            row = int(np.argmin(np.isfinite(positions).all(1)))
            raise ValueError(f"`{_WHO}(points=...)` must be finite, but point {row} is {positions[row]}.")
        positions.setflags(write=False)
        self.positions = positions
        digest = hashlib.blake2b(repr(positions.shape).encode(), digest_size=16)
        digest.update(positions.tobytes())
        self._digest = digest.digest()

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Points) and self._digest == other._digest

    def __repr__(self) -> str:
        n, d = self.positions.shape
        return f"<{n} points in {d} dimensions>"


class KLInverse(AbstractApproximateInverse):
    """`G^H G`."""

    factor: SparseLinearOperator
    adjoint: SparseLinearOperator
    constructor: "KLCholesky"
    structure: jax.ShapeDtypeStruct = eqx.field(static=True)
    tags: frozenset[object] = eqx.field(static=True)

    def mv(self, vector: Array) -> Array:
        return self.adjoint.mv(self.factor.mv(vector.reshape(-1))).reshape(vector.shape)

    def refresh(self, operator: lx.AbstractLinearOperator) -> Any:
        return self.constructor(operator)

    def transpose(self) -> "KLInverse":
        return self.conj()

    def conj(self) -> "KLInverse":
        factor, adjoint = lx.conj(self.factor), lx.conj(self.adjoint)
        return KLInverse(factor, adjoint, self.constructor, self.structure, self.tags)

    def __repr__(self) -> str:
        return (
            f"{_WHO} preconditioner ({self.in_size()} unknowns, each given its {self.constructor.neighbours} "
            f"nearest before it; 2 sparse products with {self.factor.nnz} entries)"
        )


class KLCholesky(AbstractPreconditioner):
    """Sparse Cholesky factor of the inverse of a kernel matrix: `M = G^H G`, nearest to `A^-1` in the measure
    of Kullback and Leibler.

    For covariances of points that know little of those far away once they know their neighbours: Matérn's and
    other kernels of finite smoothness, at any length, in few dimensions.  Then `CG` takes some tens of steps
    whatever the number of points.

    The points are ordered from coarse to fine, each next one being the farthest from all before it, and every
    one has entries for the `neighbours` nearest before it.

    * `points`: `(n, d)`, concrete, where the unknowns are; scaled such that correlation is the same along all
      axes.
    * `neighbours`: more for fewer steps; 30 does well in two dimensions, 50 in three.

    Called with a `KernelLinearOperator` it evaluates the entries that it needs; of others that know their
    entries it forms the dense matrix.  A nugget (noise on the diagonal) is part of the matrix.
    Where it is above what neighbours leave unknown of a point, as with kernels as smooth as a Gaussian, they
    tell less: it takes more of them, or several times as many steps, and `Nystrom` is for eigenvalues that
    soon fall below the nugget.

    **Cost:** ordering and neighbours are found on the host in time that is nearly linear in `n`, once for
    given points; set-up `n (neighbours + 1)^2` entries and
    `(neighbours + 1)^3 / 3` multiplications for each; an application two sparse products with
    `n (neighbours + 1)` entries.  `refresh` evaluates and factors again.  Set-up, application and `refresh`
    may be traced and batched.

    `M` is positive definite.  Diagonals of the small systems are raised by a few rounding errors of their
    traces, so that they stay definite where the nugget is small; in single precision that is some `1e-5` of
    the variance.

    **Raises** `ValueError` for points that are not finite or not as many as the unknowns, operators that are
    not tagged positive semidefinite or do not know their entries, and a concrete matrix that is not
    definite among neighbours, naming the point; traced, `M` is NaN there and the solve reports failure.

    Schäfer, Katzfuss and Owhadi (2021), doi:10.1137/20M1336254, arXiv:2004.14455, with nearest neighbours
    in place of a radius, which takes too few among points that are spread unevenly.
    """

    points: Any = eqx.field(static=True)
    neighbours: int = eqx.field(static=True, default=30)

    def __init__(self, points: Any, neighbours: int = 30):
        if not is_count(neighbours, 0):
            raise ValueError(f"`{_WHO}(neighbours=...)` must be an integer >= 0, but is {neighbours!r}.")
        self.points = points if isinstance(points, Points) else Points(points)
        self.neighbours = int(neighbours)

    def build(self, operator: lx.AbstractLinearOperator) -> KLInverse:
        structure = array_structure(operator, _WHO)
        require_definite(operator, f"preconditioners.{_WHO}")
        size, count = operator.in_size(), len(self.points.positions)
        if count != size:
            raise ValueError(f"`{_WHO}` was given {count} points, but the operator has {size} unknowns.")
        plan = _plan(self.points, self.neighbours)
        values = _rows(_lookup(operator), plan.columns, plan.places, structure.dtype)
        wrong = None if isinstance(values, Tracer) else ~np.asarray(jnp.isfinite(values))
        if wrong is not None and wrong.any():
            point = int(plan.pattern.rows[int(np.argmax(wrong))])
            raise ValueError(
                f"`{_WHO}`: the matrix is not positive definite among point {point} and its neighbours "
                f"({int(wrong.sum())} of {wrong.size} entries), or holds NaN or Inf. Is the kernel positive "
                "definite? If so, add a nugget to the diagonal."
            )
        factor = SparseLinearOperator(values, plan.pattern)
        tags = frozenset([lx.positive_semidefinite_tag])
        return KLInverse(factor, factor.conj().transpose(), self, structure, tags)


class _Dense(eqx.Module):
    """Entries of a matrix that is there."""

    matrix: Array

    def entries(self, rows: Array, columns: Array) -> Array:
        size = len(self.matrix)
        return take(self.matrix.reshape(-1), rows * size + columns)


def _lookup(operator: lx.AbstractLinearOperator) -> Any:
    """Whatever has `entries(rows, columns)`; constant."""
    inner = untagged(operator)
    if not isinstance(inner, KernelLinearOperator):
        inner = _Dense(entries_of(operator, _WHO).as_matrix())
    arrays, rest = eqx.partition(inner, eqx.is_array)
    return eqx.combine(jax.lax.stop_gradient(arrays), rest)


@eqx.filter_jit
def _rows(matrix: Any, columns: Any, places: Any, dtype: Any) -> Array:
    """The values of `G` in CSR order."""

    def solve(columns: Array) -> Array:
        inside, safe = columns >= 0, jnp.maximum(columns, 0)
        system = matrix.entries(safe[:, None], safe[None]).astype(dtype)
        unit = jnp.eye(len(columns), dtype=dtype)
        system = jnp.where(inside[:, None] & inside[None], system, unit[:, :, None])
        return last_rows(system + unit[:, :, None] * _raise(system, inside)[None, None])

    return take(jax.lax.map(solve, columns).reshape(-1), places)


def _raise(systems: Array, inside: Array) -> Array:
    """What makes the systems definite in spite of rounding."""
    diagonal = jnp.where(inside, jnp.einsum("iik->ik", systems), 0)
    return float(_CAUTION * jnp.finfo(systems.dtype).eps) * jnp.sum(jnp.abs(diagonal), axis=0).astype(
        systems.dtype
    )


class _Plan(NamedTuple):
    """`columns`: `(chunks, width, rows)`, the neighbours of each row's point and itself at last, -1 where
    there is none; `places`: where the pattern's entries are found among them."""

    pattern: SparsityPattern
    columns: np.ndarray
    places: np.ndarray


@bounded_cache(8)
def _plan(points: Points, neighbours: int) -> _Plan:
    order = coarse_to_fine(points)
    n, width = len(order), min(neighbours, len(order) - 1) + 1
    before = nearest_before(points.positions[order], width)
    columns = np.empty((n, width), np.int64)
    columns[order] = np.where(before >= 0, order[before], -1)
    indptr = np.concatenate([[0], np.cumsum(np.sum(columns >= 0, axis=1))])
    slots = np.argsort(np.where(columns >= 0, columns, n), axis=1)
    ascending = np.take_along_axis(columns, slots, axis=1)
    ascending = np.where(ascending >= 0, ascending, n)
    kept = ascending < n
    each = min(max(_AT_A_TIME // width**2, 1), n)
    chunks = -(-n // each)
    row = np.arange(n)[:, None]
    places = ((row // each * width + slots) * each + row % each)[kept]
    pattern = SparsityPattern(indptr, ascending[kept], (n, n))
    columns = np.concatenate([columns, np.broadcast_to(columns[-1], (chunks * each - n, width))])
    columns = np.ascontiguousarray(columns.reshape(chunks, each, width).swapaxes(1, 2), np.int32)
    return _Plan(pattern, columns, places.astype(np.int32 if columns.size < 2**31 else np.int64))


@bounded_cache(8)
def coarse_to_fine(points: Points) -> np.ndarray:
    """The points' numbers, the one nearest to the middle first, then always the one that is farthest from all
    before it; of several the one with the smallest number."""
    from scipy.spatial import cKDTree  # slow to import

    at = points.positions
    first = int(np.argmin(np.sum((at - at.mean(axis=0)) ** 2, axis=1)))
    distance, tree = np.full(len(at), np.inf), cKDTree(at)
    order, heap, chosen, reach = [first], [], first, np.inf
    distance[first] = -1  # of those that are in the order
    while len(order) < len(at):
        # Only those nearer than the reach can have come nearer.
        near = np.arange(len(at)) if np.isinf(reach) else np.asarray(tree.query_ball_point(at[chosen], reach))
        found = np.sqrt(np.sum((at[near] - at[chosen]) ** 2, axis=1))
        nearer = found < distance[near]
        near, found = near[nearer], found[nearer]
        distance[near] = found
        for entry in zip((-found).tolist(), near.tolist(), strict=True):
            heapq.heappush(heap, entry)
        while True:  # entries of the past are left in the heap
            reach, chosen = heapq.heappop(heap)
            reach = -reach
            if distance[chosen] == reach:
                break
        order.append(chosen)
        distance[chosen] = -1
    return np.asarray(order)


def nearest_before(at: np.ndarray, count: int) -> np.ndarray:
    """`(n, count)`: for each point the number of the nearest among those up to it, itself at last, and -1 in
    front where there are not so many."""
    from scipy.spatial import cKDTree  # slow to import

    n = len(at)
    found = np.full((n, count), -1)
    start = min(n, count)
    for i in range(start):
        found[i, count - i - 1 :] = np.arange(i + 1)
    while start < n:  # half of the points in the tree are before the first of these, all before the last
        stop = min(2 * start, n)
        tree = cKDTree(at[:stop])
        for begin in range(start, stop, _BATCH):
            left, wanted = np.arange(begin, min(begin + _BATCH, stop)), min(2 * count + 8, stop)
            while left.size:
                near = tree.query(at[left], wanted)[1].reshape(left.size, -1)
                before = near < left[:, None]
                enough = (before.sum(axis=1) >= count - 1) | (wanted == stop)
                picked = np.argsort(~before[enough], axis=1, kind="stable")[:, : count - 1][:, ::-1]
                found[left[enough], : count - 1] = np.take_along_axis(near[enough], picked, axis=1)
                left, wanted = left[~enough], min(2 * wanted, stop)
        found[start:stop, -1] = np.arange(start, stop)
        start = stop
    return found

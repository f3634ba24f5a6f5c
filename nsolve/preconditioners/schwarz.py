"""Overlapping Schwarz methods with dense local inverses and a coarse space of constants."""

from typing import Any, Literal, get_args

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from ..operators.base import is_positive_semidefinite
from ..operators.convert import entries_of
from ..operators.pattern import SparsityPattern, per_pattern
from ..operators.sparse import SparseLinearOperator
from .base import AbstractPreconditioner, array_structure
from .local import (
    LocalInverse,
    Partition,
    as_partition,
    inverse,
    is_count,
    layout,
    local_inverses,
    require_memory,
)

Variant = Literal["additive", "restricted"]


class Schwarz(AbstractPreconditioner):
    """Overlapping Schwarz preconditioner: exact solves on overlapping subdomains, and on a coarse space,
    `M = sum R_i^T A_i^-1 R_i + R_0^T (R_0 A R_0^T)^-1 R_0`.

    For sparse matrices of meshes and other graphs with few neighbours: stronger than `BlockJacobi` by its
    overlap, and with the coarse space the steps level off as subdomains of one size become more.  All is
    batched products of dense matrices, so that it suits accelerators.

    * `subdomains`: how many, found by halving the matrix's graph again and again in reverse Cuthill-McKee
      order; or the number of each unknown's subdomain, `(unknowns,)`, concrete integers `0, 1, …` of which
      none is left out.
    * `overlap`: by how many layers of neighbours in the matrix's graph each subdomain is extended.
    * `variant`: `"additive"` is symmetric, and `M` tagged positive semidefinite, where `A` is; for `CG`.
      `"restricted"` keeps of each local solution what belongs to the subdomain itself: not symmetric, never
      tagged, fewer steps; for `GMRES` and `BiCGStab`.
    * `coarse`: whether to add the space of constants on each subdomain (one subdomain needs none).

    **Cost:** `subdomains * size^2` numbers, `size` the unknowns of the largest extended subdomain: refused
    above a quarter of the physical memory; with the coarse space `subdomains^2` more.  Set-up takes the cube
    of `size`, and an application as many multiply-adds as numbers.  Which unknowns belong to which subdomain
    is found on the host, once for a pattern; set-up, application and `refresh` may be traced and batched;
    `build` is differentiable.

    **Raises** `ValueError` for operators that do not know their entries, labels that do not fit, and a local
    or coarse matrix that is singular to working precision (not positive definite, where the tag says that it
    is), naming its rows; in a traced operator it makes `M` NaN, and the solve reports failure.

    Smith, Bjørstad and Gropp, *Domain Decomposition* (1996), chapters 1 and 2; Cai and Sarkis (1999),
    doi:10.1137/S106482759732678X; Nicolaides (1987), doi:10.1137/0724027.
    """

    subdomains: int | Partition = eqx.field(static=True)
    overlap: int = eqx.field(default=1, static=True)
    variant: Variant = eqx.field(default="additive", static=True)
    coarse: bool = eqx.field(default=True, static=True)

    def __init__(self, subdomains: Any, overlap: int = 1, variant: Variant = "additive", coarse: bool = True):
        if np.ndim(subdomains) == 0 and not isinstance(subdomains, Partition):
            if not is_count(subdomains, 1):
                raise ValueError(
                    "`Schwarz(subdomains=...)` must be a positive integer, or one label for each unknown, "
                    f"but is {subdomains!r}."
                )
            self.subdomains = int(subdomains)
        else:
            self.subdomains = as_partition(subdomains, "Schwarz(subdomains=...)")
        if not is_count(overlap, 0):
            raise ValueError(
                f"`Schwarz(overlap=...)` must be an integer, and not negative, but is {overlap!r}."
            )
        if variant not in get_args(Variant):
            raise ValueError(
                f'`Schwarz(variant=...)` must be "additive" or "restricted", but is {variant!r}.'
            )
        self.overlap, self.variant, self.coarse = int(overlap), variant, bool(coarse)

    def build(self, operator: lx.AbstractLinearOperator) -> LocalInverse:
        structure, who = array_structure(operator, "Schwarz"), "Schwarz"
        matrix = entries_of(operator, who)
        pattern, parts = matrix.pattern, self.subdomains
        if isinstance(parts, int):
            parts = _bisected(pattern, parts)
        groups = layout(pattern, parts, self.overlap, matrix.dtype.itemsize, who)
        definite = is_positive_semidefinite(operator)
        inside = outside = jnp.asarray(groups.members)
        if self.variant == "restricted":
            outside = jnp.asarray(
                np.where(groups.own, groups.members, groups.members.dtype.type(len(parts.labels)))
            )
        inverses, coarse, labels = local_inverses(matrix, operator, groups, who), None, None
        if self.coarse and parts.count > 1:
            require_memory(1, parts.count, matrix.dtype.itemsize, "Schwarz")
            labels = jnp.asarray(parts.labels.astype(groups.members.dtype))
            coarse = _coarse(matrix, labels, parts.count, definite)
        tags = {lx.positive_semidefinite_tag} if definite and self.variant == "additive" else ()
        return LocalInverse(
            inverses, inside, outside, coarse, labels, self, pattern, structure, frozenset(tags)
        )


@per_pattern
def _bisected(pattern: SparsityPattern, parts: int) -> Partition:
    """Parts of nearly equal sizes: halves in an order in which neighbours are near, halved again."""
    import scipy.sparse as sp  # slow to import

    from ..direct.ordering import reverse_cuthill_mckee  # here, since solvers import preconditioners

    n = pattern.shape[0]
    if parts > n:
        raise ValueError(
            f"`Schwarz(subdomains=...)` must not exceed the number of unknowns, {n}, but is {parts}."
        )
    graph = sp.csr_array((np.ones(pattern.nnz, np.int8), pattern.indices, pattern.indptr), shape=(n, n))
    labels, to_do = np.zeros(n, np.int64), [(graph, np.arange(n), 0, parts)]
    while to_do:
        graph, unknowns, first, count = to_do.pop()
        labels[unknowns] = first
        if count > 1:
            order, left = reverse_cuthill_mckee(graph), count // 2
            cut = unknowns.size * left // count
            for half, start, share in ((order[:cut], first, left), (order[cut:], first + left, count - left)):
                half.sort()
                to_do.append((graph[half][:, half], unknowns[half], start, share))
    return Partition(labels, "subdomains")


def _coarse(matrix: SparseLinearOperator, labels: Array, parts: int, definite: bool) -> Array:
    """The inverse of the matrix summed over pairs of subdomains."""
    rows, columns = jnp.asarray(matrix.pattern.rows), jnp.asarray(matrix.pattern.indices)
    found = _invert_coarse(matrix.values, rows, columns, labels, parts, definite)
    if not isinstance(found, Tracer) and not jnp.isfinite(found).all() and jnp.isfinite(matrix.values).all():
        kind = "not positive definite" if definite else "singular"
        raise ValueError(
            f"`Schwarz`: the coarse matrix, summed over rows and columns of {parts} subdomains, is {kind} to "
            "working precision, as it is where constants are null vectors. Set `coarse=False`."
        )
    return found


@eqx.filter_jit
def _invert_coarse(
    values: Array, rows: Array, columns: Array, labels: Array, parts: int, definite: bool
) -> Array:
    summed = jnp.zeros((parts, parts), values.dtype).at[labels[rows], labels[columns]].add(values)
    return inverse(summed, definite)

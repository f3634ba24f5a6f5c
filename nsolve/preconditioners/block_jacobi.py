"""Block Jacobi preconditioning by dense inverses."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
import numpy as np

from ..operators.base import is_positive_semidefinite
from ..operators.convert import entries_of
from ..operators.kernel import KernelLinearOperator
from ..operators.pattern import SparsityPattern, per_pattern
from ..operators.sparse import SparseLinearOperator
from ..operators.tags import untagged
from .base import AbstractPreconditioner, array_structure
from .local import (
    LocalInverse,
    Partition,
    as_partition,
    is_count,
    layout,
    local_inverses,
    require_labels,
    require_memory,
)

#: The size of blocks where none is given.
_SIZE = 16


class BlockJacobi(AbstractPreconditioner):
    """Block Jacobi preconditioner: `M = blkdiag(A_11, A_22, …)^-1`, with dense inverses of the blocks.

    Use it where few unknowns hang together strongly (several fields in each node, cells of a layer, lines of
    a grid), and on accelerators, since an application is one batched product.  Steps still grow with the
    size of the system.

    * `block_size`: blocks of so many consecutive unknowns, 16 by default; the last one may be smaller.
    * `blocks`: instead, the number of each unknown's block, `(unknowns,)`, concrete integers `0, 1, …` of
      which none is left out.  Blocks are padded to the largest one.

    `M` is tagged positive semidefinite where `A` is.  Of a `KernelLinearOperator` the entries inside the
    blocks are evaluated and no others; number its points' blocks such that neighbours are in one.

    **Cost:** `blocks * size^2` numbers, refused above a quarter of the physical memory; set-up `blocks *
    size^3` operations, by Cholesky factors where `A` is tagged positive semidefinite, otherwise with
    pivoting; an application as many multiply-adds as numbers.  Set-up, application and `refresh` may be
    traced and batched; `build` is differentiable.

    **Raises** `ValueError` for operators that do not know their entries, labels that do not fit, and a block
    that is singular to working precision (not positive definite, where the tag says that it is), naming its
    rows; in a traced operator it makes `M` NaN, and the solve reports failure.

    Saad, *Iterative Methods for Sparse Linear Systems*, 2nd ed. (2003), section 4.1.1,
    doi:10.1137/1.9780898718003.
    """

    block_size: int | None = eqx.field(default=None, static=True)
    blocks: Partition | None = eqx.field(default=None, static=True)

    def __init__(self, block_size: int | None = None, blocks: Any = None):
        if block_size is not None and blocks is not None:
            raise ValueError("`BlockJacobi` takes `block_size` or `blocks`, not both.")
        if block_size is not None and not is_count(block_size, 1):
            raise ValueError(
                f"`BlockJacobi(block_size=...)` must be a positive integer, but is {block_size!r}."
            )
        self.block_size = None if block_size is None else int(block_size)
        self.blocks = None if blocks is None else as_partition(blocks, "BlockJacobi(blocks=...)")

    def build(self, operator: lx.AbstractLinearOperator) -> LocalInverse:
        structure, who = array_structure(operator, "BlockJacobi"), "BlockJacobi"
        inner = untagged(operator)
        if isinstance(inner, KernelLinearOperator):
            blocks = self.blocks or _numbered(inner.in_size(), self.block_size or _SIZE)
            matrix = _inside(inner, blocks, structure.dtype.itemsize, who)
        else:
            matrix = entries_of(operator, who)
            blocks = self.blocks or _consecutive(matrix.pattern, self.block_size or _SIZE)
        groups = layout(matrix.pattern, blocks, 0, matrix.dtype.itemsize, who)
        members = None if self.blocks is None else jnp.asarray(groups.members)
        tags = {lx.positive_semidefinite_tag} if is_positive_semidefinite(operator) else ()
        inverses = local_inverses(matrix, operator, groups, who)
        return LocalInverse(
            inverses, members, members, None, None, self, matrix.pattern, structure, frozenset(tags)
        )


@per_pattern
def _consecutive(pattern: SparsityPattern, size: int) -> Partition:
    return _numbered(pattern.shape[0], size)


def _numbered(unknowns: int, size: int) -> Partition:
    return Partition(np.arange(unknowns) // size, "blocks")


def _inside(
    operator: KernelLinearOperator, blocks: Partition, itemsize: int, who: str
) -> SparseLinearOperator:
    """The matrix with zeros outside of the blocks."""
    n = operator.in_size()
    require_labels(blocks, n, who)
    require_memory(blocks.count, int(blocks.sizes.max()), itemsize, who)
    members = np.argsort(blocks.labels, kind="stable")
    starts = np.concatenate([[0], np.cumsum(blocks.sizes)[:-1]])
    lengths = blocks.sizes[blocks.labels]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    place = np.arange(indptr[-1]) - np.repeat(indptr[:-1] - starts[blocks.labels], lengths)
    pattern = SparsityPattern(indptr, members[place], (n, n))
    values = operator.entries(jnp.asarray(pattern.rows), jnp.asarray(pattern.indices))
    return SparseLinearOperator(values, pattern)

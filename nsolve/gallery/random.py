"""Random symmetric positive definite matrices, without any geometry."""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from .._upstream import bounded_cache
from ..operators import SparseLinearOperator, SparsityPattern
from ._checks import positive, positive_integer, real_dtype
from ._draw import Key, normal, split
from .problem import LinearProblem


def random_spd(
    key: Key, size: int, entries: int = 5, shift: float = 1e-3, pattern: int = 0, dtype: Any = None
) -> LinearProblem:
    """`M M^T + shift I`, sparse, where `M` has `entries` N(0, 1) numbers in each of its `size` columns, in
    rows drawn at random.

    Some `entries^2` numbers a row, eigenvalues from `shift` to a few times `entries`, and no order to be
    found: what learned factorisations are commonly tried on (Häusner, Öktem & Sjölund 2023, arXiv:2305.16368,
    with 1e-3). The positions are a function of the integer `pattern` alone, and are made on the host, so that
    all keys share one sparsity pattern: legal under `jit` and `vmap` in a JAX `key`; `shift` may be traced.

    The right-hand side is N(0, 1).  `parts`: `rows` and `values`, both `(size, entries)`, the columns of `M`.
    """
    size = positive_integer(size, "size")
    entries = positive_integer(entries, "entries")
    if entries > size:
        raise ValueError(f"`entries` must be at most `size`, {size}, but is {entries}.")
    positive(shift, "shift")
    dtype = real_dtype(dtype)
    rows, first, second, slots, count, mirror, diagonal, sparsity = _product(
        size, entries, positive_integer(pattern, "pattern", least=0)
    )
    of_factor, of_vector = split(key, 2)
    factor = jnp.asarray(normal(of_factor, (size, entries), dtype))
    flat = factor.ravel()
    lower = jax.ops.segment_sum(flat[first] * flat[second], slots, count, indices_are_sorted=True)
    lower = lower.at[diagonal].add(jnp.asarray(shift, dtype))
    operator = SparseLinearOperator(lower[mirror], sparsity, lx.positive_semidefinite_tag)
    vector = jnp.asarray(normal(of_vector, (size,), dtype))
    return LinearProblem(operator, vector, {"rows": rows, "values": factor})


@bounded_cache(8)
def _product(size: int, entries: int, seed: int) -> tuple[Any, ...]:
    """What the product's lower triangle is summed of, and where its sums stand in the whole."""
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.choice(size, entries, replace=False) for _ in range(size)])
    number = np.arange(size * entries).reshape(size, entries)
    first, second = (
        np.broadcast_to(n, (size, entries, entries)) for n in (number[:, :, None], number[:, None])
    )
    i, j = rows.ravel()[first], rows.ravel()[second]
    below = i >= j
    places = np.concatenate([i[below] * size + j[below], np.arange(size) * (size + 1)])
    lower, slots = np.unique(places, return_inverse=True)
    slots = slots[: below.sum()]
    order = np.argsort(slots, kind="stable")
    i, j = lower // size, lower % size
    diagonal = np.flatnonzero(i == j)
    whole = np.concatenate([lower, (j * size + i)[i != j]])
    mirror = np.concatenate([np.arange(len(lower)), np.flatnonzero(i != j)])
    in_place = np.argsort(whole)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(whole // size, minlength=size))])
    sparsity = SparsityPattern(indptr, whole[in_place] % size, (size, size))
    pairs = first[below][order], second[below][order]
    return rows, *pairs, slots[order], len(lower), mirror[in_place], diagonal, sparsity

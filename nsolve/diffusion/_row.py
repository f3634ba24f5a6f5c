"""One row of a plan, for those who walk through a plan otherwise than `sample` does."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from .denoiser import Denoiser, combine, evaluate, transformed
from .sample import _Rows


def look(denoiser: Denoiser, rows: _Rows, k: Any, x: PyTree[Array]) -> PyTree[Array]:
    """What row k keeps of the network's output at the point x."""
    model_time, t = (value[k] for value in rows.times)
    output = evaluate(denoiser, x, model_time)
    if denoiser.transform is not None:
        a, b = (value[k] for value in rows.clean)
        output = transformed(denoiser, combine(a, x, b, output), t)
    reads = rows.reads[k]
    return combine(reads[0], x, reads[1], output)


def form_point(rows: _Rows, k: Any, x: PyTree[Array], registers: PyTree[Array]) -> PyTree[Array]:
    """The point that row k (0 ... K) of the weights makes from the last point and the registers; no noise."""
    weights, shift = rows.weights[k], None if rows.shifts is None else rows.shifts[k]

    def sum_up(leaf: Any, kept: Any) -> Any:
        total = weights[0] * leaf
        for j in range(rows.weights.shape[1] - 2):
            total = total + weights[1 + j] * kept[j]
        return (total if shift is None else total + shift).astype(leaf.dtype)

    return jax.tree.map(sum_up, x, registers)


def advance(
    denoiser: Denoiser, rows: _Rows, k: Any, x: PyTree[Array], registers: PyTree[Array]
) -> tuple[PyTree[Array], PyTree[Array]]:
    """(next point, registers) after the k-th evaluation."""
    kept = look(denoiser, rows, k, x)
    registers = jax.tree.map(
        lambda store, leaf: jax.lax.dynamic_update_index_in_dim(
            store, leaf.astype(store.dtype), rows.registers[k], 0
        ),
        registers,
        kept,
    )
    return form_point(rows, k + 1, x, registers), registers


def empty_registers(rows: _Rows, like: PyTree[Array]) -> PyTree[Array]:
    number = rows.weights.shape[1] - 2
    return jax.tree.map(lambda leaf: jnp.zeros((number, *leaf.shape), leaf.dtype), like)


def is_finite(x: PyTree[Array]) -> Bool[Array, ""]:
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(x)]).all()


def as_arrays(rows: _Rows) -> _Rows:
    """`rows` on the device, so that a traced number can index it."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf) if eqx.is_array_like(leaf) else leaf, rows)

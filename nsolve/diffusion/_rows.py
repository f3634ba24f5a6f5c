"""A plan in the precision of a state, row by row: what every loop over a plan is made of."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ._arrays import accumulation_dtype, beside, is_traced, namespace, weighted
from .denoiser import Denoiser, affine, combine, evaluate, transformed
from .plan import Plan

# As many states as the plan has registers. Arrays of their own, all written anew by a fused loop: faster than
# one array of them with a slice replaced.
Registers = tuple[PyTree[Array], ...]


class Row(eqx.Module):
    """One evaluation, and how the point after it is made; or all of them, along a leading axis."""

    model_time: Any
    t: Any
    reads: Any
    clean: Any  # x0 = clean[0] x + clean[1] output
    slot: Any  # the register that keeps the output
    weights: Any
    shift: Any
    clock: Any  # of the noise, before and after


class Rows(eqx.Module):
    """All rows (K, ...), and the weights and shift that make the first point.

    The network's kind of prediction has been worked into the reads."""

    first: tuple[Any, Any]
    row: Row

    @staticmethod
    def of(plan: Plan, denoiser: Denoiser, like: PyTree[Array]) -> "Rows":
        alpha, sigma = plan.alpha[:-1], plan.sigma[:-1]
        if denoiser.prediction in ("eps", "score") and not is_traced(alpha) and not np.all(alpha > 0):
            where = int(np.flatnonzero(~(np.asarray(alpha) > 0))[0])
            raise ValueError(
                f"at evaluation {where} (t = {plan.t[where]}) there is no signal, and prediction="
                f"{denoiser.prediction!r} says nothing of the clean state there. Begin the grid at a "
                "smaller time, or use an `x0`, `v` or `flow` prediction."
            )
        a, b = affine(denoiser.prediction, alpha, sigma)
        reads = plan.reads
        if denoiser.transform is None:
            inner = (...,) + (None,) * (reads.ndim - 2)
            reads = namespace(reads, a).stack(
                [reads[:, 0] + reads[:, 1] * a[inner], reads[:, 1] * b[inner]], axis=1
            )
        dtype = accumulation_dtype(*jax.tree.leaves(like))

        def cast(value: Any) -> Any:
            return None if value is None else value.astype(dtype)

        weights, shifts = cast(plan.weights), cast(plan.shifts)
        clock = np.zeros(len(plan.t), dtype) if plan.clock is None else cast(plan.clock)
        return Rows(
            (weights[0], None if shifts is None else shifts[0]),
            Row(
                model_time=cast(plan.model_time),
                t=cast(plan.t[:-1]),
                reads=cast(reads),
                clean=(cast(a), cast(b)),
                slot=plan.registers,
                weights=weights[1:],
                shift=None if shifts is None else shifts[1:],
                clock=(clock[:-1], clock[1:]),
            ),
        )

    def __len__(self) -> int:
        return self.row.slot.shape[0]

    def at(self, k: Any) -> Row:
        """The row of the k-th evaluation; k may be traced."""
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[k], self.row)

    def begin(self, x_T: PyTree[Array], xi: PyTree[Array] | None = None) -> tuple[PyTree, Registers]:
        """(first point, empty registers)."""
        registers = (jax.tree.map(jnp.zeros_like, x_T),) * (self.first[0].shape[0] - 2)
        return form_point(*self.first, x_T, registers, xi), registers


def look(denoiser: Denoiser, row: Row, x: PyTree[Array], clean: bool = False) -> tuple[PyTree, PyTree]:
    """(what the row keeps of the network's output at x, the clean state if wanted or transformed)."""
    output = evaluate(denoiser, x, row.model_time)
    if denoiser.transform is None:
        kept = combine(row.reads[0], x, row.reads[1], output)
        return kept, combine(row.clean[0], x, row.clean[1], output) if clean else None
    x0 = transformed(denoiser, combine(row.clean[0], x, row.clean[1], output), row.t)
    return combine(row.reads[0], x, row.reads[1], x0), x0


def store(row: Row, registers: Registers, kept: PyTree[Array]) -> Registers:
    """The registers with one more output."""

    def write(number: int, old: Array, new: Array) -> Array:
        return jnp.where(row.slot == number, new.astype(old.dtype), old)

    return tuple(jax.tree.map(partial(write, j), register, kept) for j, register in enumerate(registers))


def form_point(
    weights: Any, shift: Any, x: PyTree[Array], registers: Registers, xi: PyTree[Array] | None = None
) -> PyTree[Array]:
    """The point that a row's weights make from the last point, the registers and the noise."""

    def sum_up(leaf: Array, *others: Array) -> Array:
        leaves = (leaf, *others)
        total = weighted([weights[j] for j in range(len(leaves))], leaves)
        if shift is not None:
            total = total + beside(shift, total)
        return total.astype(leaf.dtype)

    return jax.tree.map(sum_up, x, *registers, *(() if xi is None else (xi,)))


def advance(
    denoiser: Denoiser, row: Row, x: PyTree[Array], registers: Registers
) -> tuple[PyTree[Array], Registers]:
    """(next point, registers) after a row's evaluation; no noise."""
    registers = store(row, registers, look(denoiser, row, x)[0])
    return form_point(row.weights, row.shift, x, registers), registers

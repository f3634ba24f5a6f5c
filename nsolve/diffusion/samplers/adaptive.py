"""Samplers that choose their steps: what one step computes, and how long the next should be."""

import math
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._arrays import accumulation_dtype
from ..phi import phis
from ..points import Points, stack
from ._multistep import Step
from .base import AbstractAdaptiveSampler, Attempt, Output, check_choice
from .dpm_solver import stages

Form = Literal["x0", "eps"]


class AdaptiveMultistep(AbstractAdaptiveSampler):
    """Exponential multistep method of variable step whose error estimate is free: corrector minus predictor.

    Each step predicts with UniP of `order` outputs, lets the network see the point, and corrects it with UniC
    and that new output. The output is needed by the next step in any case, so an accepted step costs one
    evaluation, a rejected one too, and the start one more. The corrected point goes on (order `order` + 1,
    the estimate is of order `order`). It begins with one output and short steps, and takes in more as they
    come. The choice where evaluations are dear and an error is prescribed.

    - `order`: 1 to 6 outputs. 3 suits tolerances of pictures, 4 or 5 fine ones.
    - `form`: interpolate the clean state (`"x0"`, robust with guidance) or the noise (`"eps"`).
    - `first_step`: in lam.

    Predictor and corrector: Zhao et al., arXiv:2302.04867. The control of steps (PI): Gustafsson,
    doi:10.1145/210232.210242.
    """

    order: int = eqx.field(static=True, default=3)
    form: Form = eqx.field(static=True, default="x0")
    first_step: float = 0.05
    initial_evaluations: int = eqx.field(static=True, default=1, init=False, repr=False)
    evaluations: int = eqx.field(static=True, default=1, init=False, repr=False)

    def __check_init__(self):
        check_choice("order", self.order, (1, 2, 3, 4, 5, 6))
        check_choice("form", self.form, ("x0", "eps"))

    def init(self, output: Output, x: PyTree[Array], start: Points) -> Any:
        newest = output(self.form, x, start)
        outputs = jax.tree.map(
            lambda leaf: jnp.zeros((self.order, *leaf.shape), leaf.dtype).at[0].set(leaf), newest
        )
        return _History(outputs, jnp.full(self.order, start.lam), jnp.asarray(1))

    def step(self, output: Output, x: PyTree[Array], memory: Any, start: Points, end: Points) -> Attempt:
        step = Step(self.form, stack([start[None], end[None]])[0], 0.0)
        decay, gain, h, z = step.decay[0], step.gain[0], step.h[0], step.z[0]
        factorials = np.array([float(math.factorial(k)) for k in range(self.order + 1)])
        moments = factorials.astype(z.dtype) * phis(self.order + 1, z)
        nodes = (memory.lam - start.lam) / h
        used = jnp.arange(self.order) < memory.count
        predictor = gain * _interpolation(nodes, used) @ moments[:-1]
        corrector = gain * _interpolation(jnp.append(1.0, nodes), jnp.append(True, used)) @ moments
        predicted = _combine(decay, x, predictor, memory.outputs)
        newest = output(self.form, predicted, end)
        outputs = jax.tree.map(lambda new, old: jnp.concatenate([new[None], old]), newest, memory.outputs)
        corrected = _combine(decay, x, corrector, outputs)
        history = _History(
            jax.tree.map(lambda leaf: leaf[:-1], outputs),
            jnp.append(end.lam, memory.lam)[:-1],
            jnp.minimum(memory.count + 1, self.order),
        )
        error = _combine(0.0, x, corrector - jnp.append(0.0, predictor), outputs)
        return Attempt(corrected, error, (x, corrected), history)

    def growth(self, ratio: Array, previous: Array, memory: Any) -> Array:
        # The estimate falls like h to the power of the predictor's order plus one.
        previous, ratio = jnp.maximum(previous, _EXACT), jnp.maximum(ratio, _EXACT)
        control = (previous**_BEFORE / ratio**_NOW) ** (1.0 / (memory.count + 1).astype(ratio.dtype))
        return jnp.clip(_SAFETY * control, _SHRINK, _GROW)


class AdaptiveDPMSolver(AbstractAdaptiveSampler):
    """DPM-Solver-12 (`order=2`) and DPM-Solver-23 (`order=3`): a single step and an embedded one of one order
    less.

    `order` evaluations a step, rejected or not; no history. The published choices: `first_step` in lam, and
    in `sample_adaptive` rtol=0.05, atol=0.0078 for images in [-1, 1]. `form="eps"` is DPM-Solver, `"x0"`
    DPM-Solver++. Lu et al., arXiv:2206.00927, appendix C.
    """

    order: int = eqx.field(static=True, default=3)
    form: Form = eqx.field(static=True, default="eps")
    first_step: float = 0.05
    initial_evaluations: int = eqx.field(static=True, default=0, init=False, repr=False)
    evaluations: int = eqx.field(static=True, init=False, repr=False)

    def __init__(self, order: int = 3, form: Form = "eps", first_step: float = 0.05):
        check_choice("order", order, (2, 3))
        check_choice("form", form, ("x0", "eps"))
        self.order, self.form, self.first_step, self.evaluations = order, form, first_step, order

    def init(self, output: Output, x: PyTree[Array], start: Points) -> Any:
        del output, start
        return x

    def step(self, output: Output, x: PyTree[Array], memory: Any, start: Points, end: Points) -> Attempt:
        start, end = start[None], end[None]
        inner = [
            start.at_lam(start.lam + (end.lam - start.lam) * i / self.order) for i in range(1, self.order)
        ]
        _, a, b = stages(self.form, start, inner, end, "midpoint")
        _, lower_a, lower_b = stages(self.form, start, inner[:-1], end, "midpoint")
        outputs = []
        for i, at in enumerate([start, *inner]):
            visited = _combine(a[0, i], x, b[0, i, :i], _stack(outputs, x))
            outputs.append(output(self.form, visited, at[0]))
        kept = _stack(outputs, x)
        higher = _combine(a[0, -1], x, b[0, -1], kept)
        lower = _combine(lower_a[0, -1], x, jnp.append(lower_b[0, -1], 0.0), kept)
        error = jax.tree.map(jnp.subtract, higher, lower)
        return Attempt(higher, error, (lower, memory), lower)

    def growth(self, ratio: Array, previous: Array, memory: Any) -> Array:
        del previous, memory
        return _SAFETY * ratio ** (-1.0 / self.order)


# Exponents of the present and of the last error in the step's growth (a PI controller), and its bounds.
_SAFETY, _NOW, _BEFORE, _SHRINK, _GROW = 0.9, 0.7, 0.4, 0.2, 5.0
# An error ratio below this counts as this.
_EXACT = 1e-8


class _History(NamedTuple):
    """Outputs (order, ...) at lam (order,), newest first, of which `count` are filled."""

    outputs: PyTree[Array]
    lam: Array
    count: Array


def _interpolation(nodes: Array, used: Array) -> Array:
    """Coefficients (n, n) of the Lagrange polynomials through the used nodes: [j, k] belongs to node j, power
    k; zero where j is not used."""
    n = nodes.shape[0]
    polynomials = jnp.zeros((n, n), nodes.dtype).at[:, 0].set(used.astype(nodes.dtype))
    for i in range(n):
        takes_part = used & used[i] & (jnp.arange(n) != i)
        scale = 1.0 / jnp.where(takes_part, nodes - nodes[i], 1.0)  # unused nodes may coincide
        raised = jnp.pad(polynomials, ((0, 0), (1, 0)))[:, :-1]
        product = scale[:, None] * (raised - nodes[i] * polynomials)
        polynomials = jnp.where(takes_part[:, None], product, polynomials)
    return polynomials


def _combine(decay: Any, x: PyTree[Array], weights: Array, outputs: PyTree[Array]) -> PyTree[Array]:
    """decay x + sum_j weights_j outputs_j in the dtype of x, summed in float32 at least."""

    def sum_up(leaf: Array, kept: Array) -> Array:
        dtype = accumulation_dtype(leaf.dtype)
        total = jnp.asarray(decay, dtype) * leaf + jnp.tensordot(
            weights.astype(dtype), kept.astype(dtype), axes=1
        )
        return total.astype(leaf.dtype)

    return jax.tree.map(sum_up, x, outputs)


def _stack(outputs: list[PyTree[Array]], like: PyTree[Array]) -> PyTree[Array]:
    if not outputs:
        return jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape), leaf.dtype), like)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)

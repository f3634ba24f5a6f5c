"""A small network for diffusion models of small arrays: a residual perceptron."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from nsolve import diffusion
from nsolve.diffusion.denoiser import Prediction
from nsolve.diffusion.schedules import AbstractSchedule

#: width of the embedding of time and label, and octaves of the time in it
EMBEDDING, OCTAVES = 64, 8


def unit(prediction: Prediction, alpha: Any, sigma: Any) -> Any:
    """The size of what is predicted, for clean states of size 1."""
    if prediction == "v":
        return jnp.hypot(alpha, sigma)
    return 1 / sigma if prediction == "score" else 1.0


class ScoreNet(eqx.Module):
    """A network for a diffusion model of arrays of `size` numbers, of size 1 or so each.

    Called as `net(x, t)` or `net(x, t, label)` with states x (B, ...) of `size` numbers each, of any real
    dtype, times t () or (B,), and labels () or (B,) from 0 to `num_classes` - 1, or -1 for none.  Returns
    what `prediction` says, in the shape and dtype of x; NaN for a label that is none of these.

    What it computes within, in float32, has size 1 at every time of any schedule: it is told x over its own
    size sqrt(alpha^2 + sigma^2), and lam in place of t.  For `"v"` that is the preconditioning of Karras et
    al. (arXiv:2206.00364, table 1, with sigma_data = 1).

    `depth` residual blocks of one matrix (width, width), whose input the time and the label scale and shift.
    Cost per state: about depth (3 width^2 + 128 width) + 128 width real multiplications.
    """

    enter: eqx.nn.Linear
    blocks: tuple["_Block", ...]
    leave: eqx.nn.Linear
    clock: eqx.nn.Linear
    labels: eqx.nn.Embedding
    schedule: AbstractSchedule
    prediction: Prediction = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        schedule: AbstractSchedule,
        prediction: Prediction = "v",
        num_classes: int = 0,
        width: int = 256,
        depth: int = 3,
        *,
        key: PRNGKeyArray,
    ):
        """`schedule` is that whose times the network is told (of `Flow`, the one without a shift)."""
        for name, value, least in (
            ("size", size, 1),
            ("num_classes", num_classes, 0),
            ("width", width, 1),
            ("depth", depth, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"`{name}` must be an int of {least} or more, not {value!r}.")
        keys = jax.random.split(key, depth + 4)
        single = jnp.float32
        self.enter = eqx.nn.Linear(size, width, dtype=single, key=keys[0])
        self.leave = _blank(eqx.nn.Linear(width, size, dtype=single, key=keys[1]))
        self.clock = eqx.nn.Linear(2 * OCTAVES, EMBEDDING, dtype=single, key=keys[2])
        self.labels = eqx.nn.Embedding(num_classes + 1, EMBEDDING, dtype=single, key=keys[3])
        self.blocks = tuple(_Block(width, key=k) for k in keys[4:])
        # Checks prediction and schedule, once for all.
        diffusion.Denoiser(lambda x, t: x, prediction, schedule)
        self.schedule, self.prediction = schedule, prediction

    def __call__(
        self, x: Float[Array, "B ..."], t: Float[Array, "..."], label: Int[Array, "..."] | int | None = None
    ) -> Float[Array, "B ..."]:
        size, num_classes = self.enter.in_features, self.labels.num_embeddings - 1
        if x.ndim < 2 or np.prod(x.shape[1:]) != size:
            raise ValueError(f"`x` must have shape (B, ...) with {size} numbers a state, not {x.shape}.")
        t, label = jnp.asarray(t), jnp.asarray(-1 if label is None else label)
        for name, value in (("t", t), ("label", label)):
            if value.shape not in ((), x.shape[:1]):
                raise ValueError(f"`{name}` must have shape () or {x.shape[:1]}, not {value.shape}.")
        if not jnp.issubdtype(label.dtype, jnp.integer):
            raise TypeError(f"`label` must hold integers, not {label.dtype}.")

        lam = self.schedule.lam(t).astype(jnp.float32)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        # No label has the last row; a label that there is not gets NaN, by way of a row that there is not.
        known = (label >= 0) & (label < num_classes)
        rows = jnp.where(label == -1, num_classes, jnp.where(known, label, num_classes + 1))
        labels = self.labels.weight.at[rows].get(mode="fill", fill_value=jnp.nan)
        shape = x.shape[0], EMBEDDING
        clock = jnp.broadcast_to(_per_state(self.clock, _waves(lam)), shape)
        embedding = jax.nn.silu(clock + jnp.broadcast_to(labels, shape))
        hidden = _scaled(1 / jnp.hypot(alpha, sigma), x).reshape(x.shape[0], size).astype(jnp.float32)
        hidden = jax.vmap(self.enter)(hidden)
        for block in self.blocks:
            hidden = jax.vmap(block)(hidden, embedding)
        output = jax.vmap(self.leave)(hidden).reshape(x.shape)
        return _scaled(unit(self.prediction, alpha, sigma), output).astype(x.dtype)


class _Block(eqx.Module):
    """x plus a linear map of silu(normalised x, scaled and shifted)."""

    normalise: eqx.nn.LayerNorm
    modulate: eqx.nn.Linear
    linear: eqx.nn.Linear

    def __init__(self, width: int, *, key: PRNGKeyArray):
        first, second = jax.random.split(key)
        self.normalise = eqx.nn.LayerNorm(width, use_weight=False, use_bias=False)
        self.modulate = eqx.nn.Linear(EMBEDDING, 2 * width, dtype=jnp.float32, key=first)
        self.linear = _blank(eqx.nn.Linear(width, width, dtype=jnp.float32, key=second))

    def __call__(self, x: Float[Array, " width"], embedding: Float[Array, " embedding"]) -> Array:
        scale, shift = jnp.split(self.modulate(embedding), 2)
        return x + self.linear(jax.nn.silu(self.normalise(x) * (1 + scale) + shift))


def _blank(linear: eqx.nn.Linear) -> eqx.nn.Linear:
    """All zeros: the network starts as one without the layer."""
    return jax.tree.map(jnp.zeros_like, linear)


def _waves(lam: Float[Array, "..."]) -> Float[Array, "... waves"]:
    """Waves in the noise level; tanh has all levels, infinite ones too, between -1 and 1."""
    octaves = 2.0 ** jnp.arange(OCTAVES, dtype=jnp.float32)
    angles = jnp.tanh(lam / 4)[..., None] * octaves.reshape((1,) * lam.ndim + (OCTAVES,))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


def _per_state(linear: eqx.nn.Linear, x: Float[Array, "... n"]) -> Float[Array, "... m"]:
    return linear(x) if x.ndim == 1 else jax.vmap(linear)(x)


def _scaled(factor: Any, x: Array) -> Array:
    """A factor () or (B,) times states (B, ...), in the dtype that JAX promotes to by default."""
    factor = jnp.asarray(factor)
    with jax.numpy_dtype_promotion("standard"):
        return factor.reshape(factor.shape + (1,) * (x.ndim - 1) if factor.ndim else ()) * x

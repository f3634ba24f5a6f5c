"""Classifier-free guidance, and the thresholding that it often needs."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ._arrays import accumulation_dtype, is_traced, root, together


class ClassifierFree(eqx.Module):
    """A conditional network, guided away from what it says without its condition.

    Its output is null + scale (cond - null), where cond and null are the network's outputs with and without
    the condition: `scale = 1` is the conditional network, 0 the unconditional one. (The paper's w is `scale
    - 1`.) All kinds of prediction are affine in the clean state, so that the formula is the same in each.
    The guided output is not the denoiser of scale-weighted data, p(x) p(c|x)^scale: `sample_feynman_kac`
    corrects that.

    **Arguments:**

    - `model`: called as `model(x, t, condition)`.
    - `condition`, `null`: any pytrees of arrays. Where both have the same structure, shapes and dtypes the
      network is called once, on a pair of conditions (by `vmap`); else twice.
    - `scale`: a number or array, of shape () or one a sample (B,), or a function of the model's time that
      returns one (1 outside an interval guides within it only). Differentiable.
    - `rescale`: pulls the standard deviation of each sample's output back to that of the conditional
      output, 0 not at all, 1 fully (arXiv:2305.08891, section 3.4; there 0.7). Samples lie along the
      leading axis.

    Goes into `Denoiser(ClassifierFree(...), prediction, schedule)`. Cost: two evaluations of the network
    for one. Ho & Salimans, arXiv:2207.12598.
    """

    model: Callable[..., Any]
    condition: PyTree
    null: PyTree
    scale: Any
    rescale: Any = 0.0

    def __check_init__(self):
        if not callable(self.model):
            raise TypeError(
                f"`model` must be callable as model(x, t, condition), got {type(self.model).__name__}."
            )
        if not (callable(self.scale) or isinstance(self.scale, jax.Array | np.ndarray | float | int)):
            raise TypeError(
                "`scale` must be a real number, an array or a function of the time, "
                f"got {type(self.scale).__name__}."
            )
        if not is_traced(self.rescale) and not 0 <= self.rescale <= 1:
            raise ValueError(f"`rescale` must lie in [0, 1], got {self.rescale}.")

    def __call__(self, x: PyTree[Array], t: Array) -> PyTree[Array]:
        cond, null = self._pair(x, t)
        scale = jnp.asarray(self.scale(t) if callable(self.scale) else self.scale)

        def guide(c: Array, u: Array) -> Array:
            share, wide, null = together(_per_sample(scale, c), c, u)
            guided = null + share * (wide - null)
            if not (isinstance(self.rescale, float | int) and self.rescale == 0):
                rescale, ratio, guided = together(self.rescale, _ratio_of_deviations(c, guided), guided)
                guided = guided * (1.0 + rescale * (ratio - 1.0))
            return guided.astype(c.dtype)

        return jax.tree.map(guide, cond, null)

    def _pair(self, x: PyTree[Array], t: Array) -> tuple[PyTree[Array], PyTree[Array]]:
        condition, null = jax.tree.map(jnp.asarray, (self.condition, self.null))
        if _shapes(condition) != _shapes(null):
            return self.model(x, t, condition), self.model(x, t, null)
        pair = jax.tree.map(lambda c, u: jnp.stack([c, u]), condition, null)
        outputs = jax.vmap(lambda c: self.model(x, t, c))(pair)
        return jax.tree.map(lambda leaf: leaf[0], outputs), jax.tree.map(lambda leaf: leaf[1], outputs)


class DynamicThreshold(eqx.Module):
    """Keeps guided clean states in the range of the data, as a `transform` of a `Denoiser`.

    For each sample (leading axis) of each leaf, s = max(minimum, quantile of |x0|), and x0 is clipped to
    [-s, s] and scaled to [-minimum, minimum], the range of the data. Samples within the range stay as they
    are. Not smooth, so that samplers lose their order where it acts. Saharia et al. (Imagen),
    arXiv:2205.11487, section 2.3.
    """

    quantile: Any = 0.995
    minimum: Any = 1.0

    def __check_init__(self):
        if not is_traced(self.quantile) and not 0 < self.quantile <= 1:
            raise ValueError(f"`quantile` must lie in (0, 1], got {self.quantile}.")
        if not is_traced(self.minimum) and not self.minimum > 0:
            raise ValueError(f"`minimum` must be positive, got {self.minimum}.")

    def __call__(self, x0: PyTree[Array], t: Any) -> PyTree[Array]:
        del t

        def threshold(leaf: Array) -> Array:
            if leaf.ndim == 0:
                raise ValueError(
                    "`x0` must have the samples along its leading axis, got an array of shape ()."
                )
            value = leaf.astype(accumulation_dtype(leaf.dtype))
            sizes = (value * jnp.sign(value)).reshape(len(leaf), -1)  # |value|, with slope zero at zero
            s, minimum, value = together(_quantiles(sizes, self.quantile), self.minimum, value)
            s = _per_sample(jnp.maximum(s, minimum), leaf)
            return (jnp.clip(value, -s, s) * (minimum / s)).astype(leaf.dtype)

        return jax.tree.map(threshold, x0)


def _quantiles(sizes: Array, share: Any) -> Array:
    """The quantile of each row (B, n), linear between two entries. Entries that tie share its derivative."""
    last = sizes.shape[1] - 1
    position = jnp.asarray(share, sizes.dtype) * last
    below = jnp.clip(jnp.floor(jax.lax.stop_gradient(position)).astype(jnp.int32), 0, max(last - 1, 0))
    ranked = jnp.sort(jax.lax.stop_gradient(sizes), axis=1)

    def entry(number: Array) -> Array:
        value = ranked[:, number, None]
        ties = sizes == value
        return (value + jnp.mean(jnp.where(ties, sizes - value, 0.0), axis=1, where=ties, keepdims=True))[
            :, 0
        ]

    low, high = entry(below), entry(jnp.minimum(below + 1, last))
    return low + (position - below.astype(sizes.dtype)) * (high - low)


def _per_sample(value: Array, like: Array) -> Array:
    """A number, or one a sample, ready to multiply `like`."""
    if value.ndim == 0:
        return value
    if value.ndim != 1 or value.shape[0] != like.shape[0]:
        raise ValueError(
            f"`scale` must be a number or one a sample, ({like.shape[0]},), got shape {value.shape}."
        )
    return value.reshape(-1, *(1,) * (like.ndim - 1))


def _ratio_of_deviations(one: Array, other: Array) -> Array:
    """std(one) / std(other) of each sample; 1 where the other does not vary."""
    axes = tuple(range(1, one.ndim))
    if not axes:
        return jnp.ones_like(one)
    dtype = accumulation_dtype(one, other)
    above, below = (jnp.var(value, axis=axes, keepdims=True, dtype=dtype) for value in (one, other))
    varies = below > 0
    return jnp.where(varies, root(above / jnp.where(varies, below, 1.0)), 1.0)


def _shapes(tree: PyTree[Array]) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]

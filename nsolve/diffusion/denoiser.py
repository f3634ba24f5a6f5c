"""A network together with what it predicts and the schedule that it was trained on."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._arrays import weighted
from .schedules import AbstractSchedule

Prediction = Literal["eps", "x0", "v", "score", "flow"]


class Denoiser(eqx.Module):
    """A network in the role of a denoiser.

    **Arguments:**

    - `model`: called as `model(x, t)` with the state (any pytree of real arrays, by convention with the batch
      as leading axis) and the time, an array of shape () as `schedule.model_time` gives it. Returns what it
      predicts, with the structure, shapes and dtypes of the state.
    - `prediction`: `"eps"` (the noise), `"x0"` (the clean state, also an EDM denoiser), `"v"` (alpha eps -
      sigma x0), `"score"` (gradient of the log-density of x) or `"flow"` (eps - x0).
    - `schedule`: one of `ns.diffusion.VPLinear, VPCosine, VE, EDM, Flow, Discrete, FromFunctions`.
    - `transform`: called as `transform(x0, t)` on every predicted clean state: thresholding, data
      consistency, any function. Samplers lose their order where it is not smooth.

    Methods `x0(x, t)`, `eps(x, t)` and `score(x, t)` give the three faces of one evaluation at a time t of
    shape ().
    """

    model: Callable[..., Any]
    prediction: Prediction = eqx.field(static=True)
    schedule: AbstractSchedule
    transform: Callable[[Any, Any], Any] | None = None

    def __check_init__(self):
        if self.prediction not in get_args(Prediction):
            raise ValueError(f"`prediction` must be one of {get_args(Prediction)}, got {self.prediction!r}.")
        if not isinstance(self.schedule, AbstractSchedule):
            raise TypeError(
                f"`schedule` must be a schedule of ns.diffusion, got {type(self.schedule).__name__}."
            )
        if not callable(self.model):
            raise TypeError(f"`model` must be callable as model(x, t), got {type(self.model).__name__}.")

    def x0(self, x: PyTree[Array], t: Any) -> PyTree[Array]:
        """The clean state that the network sees in x at time t."""
        t = jnp.asarray(t)
        return clean(self, x, t, self.schedule.alpha(t), self.schedule.sigma(t))

    def eps(self, x: PyTree[Array], t: Any) -> PyTree[Array]:
        """The noise that the network sees in x at time t."""
        t = jnp.asarray(t)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        x0 = clean(self, x, t, alpha, sigma)
        return combine(1.0 / sigma, x, -alpha / sigma, x0)

    def score(self, x: PyTree[Array], t: Any) -> PyTree[Array]:
        """The gradient of the log-density of x at time t."""
        sigma = self.schedule.sigma(jnp.asarray(t))
        return jax.tree.map(lambda e: weighted((-1.0 / sigma,), (e,)).astype(e.dtype), self.eps(x, t))


def affine(prediction: Prediction, alpha: Any, sigma: Any) -> tuple[Any, Any]:
    """(a, b) with x0 = a x + b m, where m is the network's prediction."""
    if prediction == "eps":
        return 1.0 / alpha, -sigma / alpha
    if prediction == "x0":
        return 0.0 * alpha, 1.0 + 0.0 * alpha
    if prediction == "v":
        norm = alpha**2 + sigma**2
        return alpha / norm, -sigma / norm
    if prediction == "score":
        return 1.0 / alpha, sigma**2 / alpha
    return 1.0 / (alpha + sigma), -sigma / (alpha + sigma)


def combine(a: Any, x: PyTree[Array], b: Any, y: PyTree[Array]) -> PyTree[Array]:
    """a x + b y, leaf by leaf, in the dtype of x."""
    return jax.tree.map(lambda u, v: weighted((a, b), (u, jnp.asarray(v))).astype(u.dtype), x, y)


def evaluate(denoiser: Denoiser, x: PyTree[Array], model_time: Any) -> PyTree[Array]:
    """The network's own output, checked against the state at trace time."""
    output = denoiser.model(x, model_time)
    _check_like("`model`", output, x)
    return output


def clean(denoiser: Denoiser, x: PyTree[Array], t: Any, alpha: Any, sigma: Any) -> PyTree[Array]:
    """x0 from one evaluation, transformed."""
    output = evaluate(denoiser, x, denoiser.schedule.model_time(t))
    a, b = affine(denoiser.prediction, alpha, sigma)
    return transformed(denoiser, combine(a, x, b, output), t)


def transformed(denoiser: Denoiser, x0: PyTree[Array], t: Any) -> PyTree[Array]:
    if denoiser.transform is None:
        return x0
    changed = denoiser.transform(x0, t)
    _check_like("`transform`", changed, x0)
    return changed


def _check_like(name: str, value: Any, like: Any) -> None:
    structure, expected = jax.tree.structure(value), jax.tree.structure(like)
    if structure != expected:
        raise ValueError(f"{name} must return the structure of the state, {expected}, got {structure}.")
    for leaf, expected in zip(jax.tree.leaves(value), jax.tree.leaves(like), strict=True):
        if jnp.shape(leaf) != jnp.shape(expected):
            raise ValueError(
                f"{name} must return the shape of the state, {jnp.shape(expected)}, got {jnp.shape(leaf)}."
            )


__all__ = ["Denoiser", "Prediction", "affine", "clean", "combine", "evaluate", "transformed"]

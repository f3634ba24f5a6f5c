"""Weights averaged over the end of training: better than the last ones, at a constant learning rate."""

from typing import Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

Model = TypeVar("Model", bound=PyTree)


class Averaged(eqx.Module, Generic[Model]):
    """The model that is trained, beside the average of what it was.

    Begin with `Averaged(model, model)`, train `.model` with the optimiser `averaging(...)`, use `.average`.
    """

    model: Model
    average: Model


def averaging(optimiser: optax.GradientTransformation, sharpness: int = 8) -> optax.GradientTransformation:
    """`optimiser` for the model of an `Averaged`, which also moves the average along.

    After n steps the weights of step i count with (i/n)^(sharpness - 1), so the average is over about the
    last 1/sharpness of the steps, however many there are: a run may be extended.  Karras et al.,
    arXiv:2312.02696, section 3.1."""

    def init(params: Averaged) -> tuple:
        return optimiser.init(params.model), jnp.zeros((), jnp.int32)

    def update(updates: Averaged, state: tuple, params: Averaged | None = None) -> tuple[Averaged, tuple]:
        if params is None:
            raise ValueError("`averaging` needs the parameters: call update(updates, state, params).")
        kept, count = state
        moves, kept = optimiser.update(updates.model, kept, params.model)
        count = count + 1
        share = 1 - (1 - 1 / count.astype(float)) ** sharpness

        def towards(average, param, move):
            return (share * (param + move - average)).astype(average.dtype)

        drift = jax.tree.map(towards, params.average, params.model, moves)
        return Averaged(moves, drift), (kept, count)

    return optax.GradientTransformation(init, update)

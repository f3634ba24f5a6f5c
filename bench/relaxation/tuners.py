"""The tuners that columns name, and the grid of `omega` that they choose from."""

import jax.numpy as jnp

import nsolve as ns
from nsolve.sequence.base import AbstractTuner
from nsolve.sequence.steps import Start

from ..specs import Part

#: Modes that say where a system starts, with the library's word for each.
STARTS: dict[str, Start] = {"warm": "previous", "extrapolated": "extrapolate"}
BEST_FIXED = "best_fixed"
#: By name, what each takes.
OPTIONS: dict[str, tuple[str, ...]] = {
    "tsallis_inf": ("estimator", "bins"),
    "cheb_cb": ("degree",),
    "thompson_sampling": ("bins",),
    "epsilon_greedy": ("epsilon",),
    BEST_FIXED: (),
}


def grid() -> jnp.ndarray:
    """The paper's 20 values, 1 to 1.95."""
    return jnp.linspace(1.0, 1.95, 20)


def make(part: Part, bounds: tuple[float, float]) -> AbstractTuner:
    """The tuner of that name; `bounds` are those of the context."""
    given = {**part.options}
    if part.name == "cheb_cb":
        return ns.ChebCB(grid(), bounds, **given)  # pyright: ignore[reportArgumentType]
    if "bins" in given:
        given["bounds"] = bounds  # pyright: ignore[reportArgumentType]
    make = {
        "tsallis_inf": ns.TsallisINF,
        "thompson_sampling": ns.ThompsonSampling,
        "epsilon_greedy": ns.EpsilonGreedy,
    }[part.name]
    return make(grid(), **given)

"""The picture of a trained bridge: where its samples end, and how they get there."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.figure import Figure

from nsolve.transport.light_bridge import LightBridge

# Okabe-Ito: told apart by colour-blind readers.
SOURCE, TARGET, MAPPED = "#0072B2", "#999999", "#D55E00"
STARTS, PATHS_EACH = 8, 3


@eqx.filter_jit
def paths(
    bridge: LightBridge, x: Float[Array, "n d"], key: PRNGKeyArray, num_steps: int = 200
) -> Float[Array, "{num_steps}+1 n d"]:
    """Paths of the bridge from `x` by the method of Euler and Maruyama."""
    dt = 1 / num_steps

    def step(x, inputs):
        t, key = inputs
        noise = jax.random.normal(key, x.shape, x.dtype)
        x = x + dt * bridge.drift(t, x) + (bridge.epsilon * dt) ** 0.5 * noise
        return x, x

    times = jnp.arange(num_steps, dtype=x.dtype) * dt
    _, xs = jax.lax.scan(step, x, (times, jax.random.split(key, num_steps)))
    return jnp.concatenate([x[None], xs])


def draw_bridge(
    bridge: LightBridge, x: Float[Array, "n d"], y: Float[Array, "m d"], file: Path, key: PRNGKeyArray
) -> None:
    """Draw source and target, mapped samples over the target, and some paths, as a PNG.

    Of points in more than two dimensions the first two; in one dimension, over time."""
    mapping, moving = jax.random.split(key)
    mapped = bridge.sample(x, mapping)
    xs = paths(bridge, jnp.repeat(x[:STARTS], PATHS_EACH, 0), moving)
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    plane = figure.subplots(1, 3, sharex=True, sharey=True)
    flat = x.shape[1] == 1

    def points(axes, values, t, colour, label, size=3):
        # In one dimension the horizontal axis is time: samples are spread a little to be seen.
        spread = t + 0.06 * (np.arange(len(values)) / len(values) - 0.5)
        across, up = (spread, values[:, 0]) if flat else (values[:, 0], values[:, 1])
        axes.scatter(
            across, up, s=size, color=colour, alpha=0.5 if size == 3 else 1, linewidths=0, label=label
        )

    points(plane[0], x, 0, SOURCE, "source")
    points(plane[0], y, 1, TARGET, "target")
    points(plane[1], y, 1, TARGET, "target")
    points(plane[1], mapped, 1, MAPPED, "mapped")
    points(plane[2], y, 1, TARGET, "target")
    times = np.linspace(0, 1, len(xs))
    for i in range(xs.shape[1]):
        across, up = (times, xs[:, i, 0]) if flat else (xs[:, i, 0], xs[:, i, 1])
        plane[2].plot(across, up, color=SOURCE, lw=0.5, alpha=0.6)
    points(plane[2], xs[0], 0, SOURCE, "start", 30)
    points(plane[2], xs[-1], 1, MAPPED, "end", 12)
    for axes, title in zip(plane, ("samples", "mapped in one shot", "paths of the bridge"), strict=True):
        axes.set_title(title)
        axes.set_aspect("auto" if flat else "equal")
        axes.legend(markerscale=2, loc="upper right", fontsize="small", frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        if flat:
            axes.set_xlabel("t")
    figure.savefig(file, dpi=110)

"""Train a `LightBridge` between two sets of samples, measure it, and draw it: `nsolve-train bridge`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray

from nsolve.transport.light_bridge import LightBridge

from .checkpoint import claim, save
from .distances import energy_distance
from .fit import fit
from .samples import FixedPoints, Sampler, sampler

#: a bridge is measured on so many draws of each distribution, so many times
TEST_SIZE, REPEATS = 2000, 10


@dataclass(frozen=True)
class Request:
    """What to train: the options of the command."""

    source: str
    target: str
    out: Path
    epsilon: float
    components: int
    batch_size: int
    steps: int
    learning_rate: float
    seed: int


class Draws(eqx.Module):
    """Minibatches of both distributions, not paired."""

    source: Sampler
    target: Sampler
    size: int

    @eqx.filter_jit
    def __call__(self, key: PRNGKeyArray) -> tuple[Array, Array]:
        first, second = jax.random.split(key)
        return self.source(first, self.size), self.target(second, self.size)


def blank_bridge(components: int, dimension: int, epsilon: float, dtype: str) -> LightBridge:
    """A bridge of that size with nothing in it, for `learned.load(path, blank_bridge)`."""
    zeros = jnp.zeros((components, dimension), dtype)
    return LightBridge(zeros[:, 0], zeros, zeros + 1, epsilon)


def train(request: Request, fresh: bool = False) -> dict[str, float]:
    """Train as requested, or go on with the training that `request.out` holds, unless `fresh`; return the
    measures.

    Writes `model.eqx`, `picture.png` and `metrics.json`, beside the checkpoints and the log of `fit`.
    Raises ValueError before any work for samples or a folder that cannot be used."""
    draws = Draws(sampler(request.source), sampler(request.target), request.batch_size)
    start, training, testing, drawing, moving = jax.random.split(jax.random.key(request.seed), 5)
    bridge = _initial(request, draws, start)
    _claim(request, draws, fresh)
    bridge = fit(
        bridge,
        lambda bridge, batch, key: bridge.loss(*batch),
        draws,
        request.steps,
        optimiser=optax.adam(request.learning_rate),
        checkpoint=request.out,
        key=training,
    )
    components, dimension = bridge.means.shape
    save(
        request.out / "model.eqx",
        bridge,
        components=components,
        dimension=dimension,
        epsilon=bridge.epsilon,
        dtype=str(bridge.means.dtype),
    )
    test = Draws(draws.source, draws.target, TEST_SIZE)
    metrics = {"step": request.steps, **measure(bridge, test, testing)}
    (request.out / "metrics.json").write_text(json.dumps(metrics) + "\n")

    from .picture import draw_bridge  # matplotlib is slow to import

    x, y = test(drawing)
    draw_bridge(bridge, x, y, request.out / "picture.png", moving)
    return metrics


def measure(bridge: LightBridge, draws: Draws, key: PRNGKeyArray) -> dict[str, float]:
    """The loss, and how far mapped samples are from the target, means over fresh draws.

    `energy_distance` is that from samples of the bridge to draws of the target; `energy_distance_of_draws`,
    from other draws of the target to the same ones, is what chance alone gives.  Where the two are alike, so
    many draws cannot tell the end of the bridge from the target."""
    rows = []
    for repeat in jax.random.split(key, REPEATS):
        first, second, noise = jax.random.split(repeat, 3)
        x, y = draws(first)
        _, other = draws(second)
        mapped = bridge.sample(x, noise)
        rows.append((bridge.loss(x, y), energy_distance(mapped, y), energy_distance(other, y)))
    names = ("loss", "energy_distance", "energy_distance_of_draws")
    return dict(zip(names, np.mean(rows, 0).tolist(), strict=True))


def _initial(request: Request, draws: Draws, key: PRNGKeyArray) -> LightBridge:
    """The bridge that training starts from; says what does not fit together."""
    for name in ("epsilon", "learning_rate"):
        value = getattr(request, name)
        if not 0 < value < float("inf"):
            raise ValueError(f"--{name.replace('_', '-')} must be positive and finite, not {value}")
    drawing, choosing = jax.random.split(key)
    x, y = draws(drawing)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{request.source} has dimension {x.shape[1]} and {request.target} "
            f"{y.shape[1]}: a bridge needs the same"
        )
    if isinstance(draws.target, FixedPoints):
        y = draws.target.points
        if len(y) < request.components:
            raise ValueError(
                f"{request.target} has {len(y)} samples: too few for {request.components} components, which "
                "start at one each; lower --components"
            )
    else:
        y = draws.target(drawing, request.components)
    return LightBridge.from_samples(y, request.components, request.epsilon, key=choosing)


def _claim(request: Request, draws: Draws, fresh: bool) -> None:
    """Make the folder this run's.  A run may be made longer, so the number of steps is no part of it."""
    settings: dict[str, Any] = {k: v for k, v in asdict(request).items() if k not in ("out", "steps")}
    for name in ("source", "target"):
        points = getattr(draws, name)
        if isinstance(points, FixedPoints):
            settings[f"{name}_digest"] = points.digest
    claim(request.out, settings, fresh)

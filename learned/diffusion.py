"""Train a diffusion model of small images, measure it, and draw its samples: `nsolve-train diffusion`."""

import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from nsolve.diffusion import (
    EDM,
    VE,
    AbstractSchedule,
    Denoiser,
    DPMSolverPP,
    Flow,
    TimeGrid,
    VPCosine,
    VPLinear,
    log_snr_grid,
    sample,
)
from nsolve.diffusion.denoiser import Prediction

from .averaging import Averaged, averaging
from .checkpoint import claim, save
from .data.arrays import split_array
from .data.images import KINDS, read_images
from .distances import energy_distance, nearest_distance
from .fit import fit
from .score_net import ScoreNet, unit

SCHEDULES: dict[str, AbstractSchedule] = {
    "vp-linear": VPLinear(),
    "vp-cosine": VPCosine(),
    "flow": Flow(),
    "ve": VE(),
    "edm": EDM(),
}
#: a model is measured on so many divisions of its data in halves
REPEATS = 5
#: and on no more images than these
MEASURED = 2000
#: its picture has so many samples for each label, and so many rows where there are none
COLUMNS, ROWS = 12, 8
#: share of the images that are shown without their label, so that the model learns to do without
UNLABELLED = 0.5


@dataclass(frozen=True)
class Request:
    """What to train: the options of the command."""

    data: str
    out: Path
    prediction: str
    schedule: str
    batch_size: int
    steps: int
    learning_rate: float
    seed: int


class Images(eqx.Module):
    """Images with labels (-1 for none), drawn with repetition; `size` of them in a minibatch."""

    images: Float[Array, "n height width channels"]
    labels: Int[Array, " n"]
    size: int

    @eqx.filter_jit
    def __call__(self, key: PRNGKeyArray) -> tuple[Array, Array]:
        rows = jax.random.randint(key, (self.size,), 0, len(self.images))
        return self.images[rows], self.labels[rows]

    @property
    def digest(self) -> str:
        """A short hash of the numbers."""
        return hashlib.sha256(np.asarray(self.images).tobytes()).hexdigest()[:16]


def digits(batch_size: int) -> Images:
    """The 1797 handwritten digits of scikit-learn, 8 by 8 pixels from -1 (black) to 1, in float32.

    Raises ValueError where scikit-learn is missing."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError("--data digits comes with scikit-learn: pip install 'nsolve[peers]'") from None
    images, labels = load_digits(return_X_y=True)
    images = np.asarray(images, np.float32).reshape(-1, 8, 8, 1) / 8 - 1
    return Images(jnp.asarray(images), jnp.asarray(labels, jnp.int32), batch_size)


DATA = {"digits": digits}


def load_images(name: str, batch_size: int) -> Images:
    """Data by name, or a user's own, without labels: see `learned.data.images.read_images`."""
    if name in DATA:
        return DATA[name](batch_size)
    if not Path(split_array(name)[0]).exists():
        raise ValueError(f"unknown --data {name!r}: give {', '.join(DATA)}, {KINDS}")
    found, words = read_images(name)
    print(f"data: {words}", file=sys.stderr)
    return Images(jnp.asarray(found), jnp.full(len(found), -1, jnp.int32), batch_size)


def loss(
    denoiser: Denoiser,
    x0: Float[Array, "B ..."],
    key: PRNGKeyArray,
    labels: Int[Array, " B"] | None = None,
    spacing: Literal["time", "lam"] = "time",
) -> Float[Array, ""]:
    """The mean squared error of what the model predicts of noisy states, in units of its size.

    One time for each of the clean states `x0`, drawn evenly in the schedule's time or in lam, and spread over
    the range more evenly than chance would.  The model is called with times (B,), as `model(x, t)` or, given
    `labels`, `model(x, t, labels)`.  Over all functions, the conditional expectation that
    `denoiser.prediction` stands for has the least loss.  The units weigh the times: errors of the noise
    for `"eps"` and `"score"`, as in EDM (arXiv:2206.00364) for `"v"`.  The schedule is not trained.

    Cost: one evaluation of the model on B states."""
    schedule = jax.tree.map(
        lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf, denoiser.schedule
    )
    timing, noising = jax.random.split(key)
    number = len(x0)
    share = (jax.random.uniform(timing, dtype=x0.dtype) + jnp.arange(number, dtype=x0.dtype) / number) % 1
    first, last = schedule.t_min, schedule.t_max
    if spacing == "time":
        t = first + share * (last - first)
    else:
        first, last = (schedule.lam(jnp.asarray(end, x0.dtype)) for end in (first, last))
        t = schedule.t_of_lam(first + share * (last - first))
    eps = jax.random.normal(noising, x0.shape, x0.dtype)
    shape = (number,) + (1,) * (x0.ndim - 1)
    alpha, sigma = schedule.alpha(t).reshape(shape), schedule.sigma(t).reshape(shape)
    x = alpha * x0 + sigma * eps
    goal = {
        "eps": eps,
        "x0": x0,
        "v": alpha * eps - sigma * x0,
        "score": -eps / sigma,
        "flow": eps - x0,
    }[denoiser.prediction]
    told = schedule.model_time(t)
    output = denoiser.model(x, told) if labels is None else denoiser.model(x, told, labels)
    if output.shape != x.shape:
        raise ValueError(f"the model must return the shape of the state, {x.shape}, not {output.shape}.")
    return jnp.mean(((output - goal) / unit(denoiser.prediction, alpha, sigma)) ** 2)


def blank_denoiser(
    size: int, num_classes: int, width: int, depth: int, prediction: Prediction, schedule: str
) -> Denoiser:
    """A denoiser of that size with nothing in it, for `learned.load(path, blank_denoiser)`."""
    net = ScoreNet(size, SCHEDULES[schedule], prediction, num_classes, width, depth, key=jax.random.key(0))
    return Denoiser(net, prediction, SCHEDULES[schedule])


def train(request: Request, fresh: bool = False) -> dict[str, float]:
    """Train as requested, or go on with the training that `request.out` holds, unless `fresh`; return the
    measures.

    Writes `model.eqx`, `picture.png` and `metrics.json`, beside the checkpoints and the log of `fit`.
    Raises ValueError before any work for data, options or a folder that cannot be used."""
    _check(request)
    data = load_images(request.data, request.batch_size)
    starting, training, drawing = jax.random.split(jax.random.key(request.seed), 3)
    schedule = SCHEDULES[request.schedule]
    sizes = {"size": data.images[0].size, "num_classes": int(data.labels.max()) + 1}
    net = ScoreNet(schedule=schedule, prediction=request.prediction, key=starting, **sizes)  # pyright: ignore
    denoiser = Denoiser(net, net.prediction, schedule)
    # A run may be made longer, so the number of steps is no part of its settings.
    settings = {k: v for k, v in asdict(request).items() if k not in ("out", "steps")}
    claim(request.out, {**settings, "digest": data.digest}, fresh)
    # EDM's time is the noise itself, nearly all of which drowns the image.
    spacing = "lam" if isinstance(schedule, EDM) else "time"

    def partly_labelled(pair: Averaged[Denoiser], batch: tuple[Array, Array], key: PRNGKeyArray) -> Array:
        images, labels = batch
        hiding, noising = jax.random.split(key)
        hidden = jax.random.bernoulli(hiding, UNLABELLED, labels.shape)
        return loss(pair.model, images, noising, jnp.where(hidden, -1, labels), spacing)

    pair = fit(
        Averaged(denoiser, denoiser),
        partly_labelled,
        data,
        request.steps,
        optimiser=averaging(optax.adam(request.learning_rate)),
        checkpoint=request.out,
        key=training,
    )
    denoiser = pair.average
    sizes |= {"width": net.enter.out_features, "depth": len(net.blocks)}
    names = {"prediction": request.prediction, "schedule": request.schedule}
    save(request.out / "model.eqx", denoiser, **sizes, **names)
    # The picture has for each label a row of samples, and beside them as many without a label.
    shown = np.full((1, ROWS, COLUMNS), -1)
    if sizes["num_classes"]:
        shown = np.stack([np.repeat(np.arange(sizes["num_classes"])[:, None], COLUMNS, 1)] * 2)
        shown[1] = -1
    measured = data.images
    if len(measured) > MEASURED:
        rows = np.random.default_rng(request.seed).choice(len(measured), MEASURED, replace=False)
        measured = measured[np.sort(rows)]
    labels = jnp.asarray(np.append(shown, np.full(len(measured), -1)))
    samples = np.asarray(generate(denoiser, labels, drawing, measured.shape[1:]))
    metrics = {"step": request.steps, **measure(samples[shown.size :], measured, request.seed)}
    (request.out / "metrics.json").write_text(json.dumps(metrics) + "\n")
    _draw(samples[: shown.size].reshape(*shown.shape, *measured.shape[1:]), request.out)
    return metrics


def grid(schedule: AbstractSchedule, num_steps: int) -> TimeGrid:
    """Even steps in lam, from where there is no image to see to where there is no noise to see.

    Within these bounds `flow` has both signal and noise at its ends."""
    ends = np.asarray([schedule.t_max, schedule.t_min])
    start, end = schedule.t_of_lam(np.clip(schedule.lam(ends), -5.0, 4.0))
    return log_snr_grid(num_steps, float(start), float(end))


def generate(
    denoiser: Denoiser,
    labels: Int[Array, " n"],
    key: PRNGKeyArray,
    shape: tuple[int, ...],
    num_steps: int = 20,
) -> Float[Array, "n ..."]:
    """Images in float32, one for each label (-1 for any), by DPM-Solver++(2M): one evaluation a step."""
    schedule = denoiser.schedule
    times = grid(schedule, num_steps)
    labelled = eqx.tree_at(lambda d: d.model, denoiser, _Labelled(denoiser.model, labels))
    noise = jax.random.normal(key, (len(labels), *shape), jnp.float32)
    sigma = float(schedule.sigma(np.asarray(times.start)))
    return sample(labelled, DPMSolverPP(order=2), sigma * noise, times).value


class _Labelled(eqx.Module):
    """A model that is told the labels."""

    model: Any
    labels: Int[Array, " n"]

    def __call__(self, x: Array, t: Array) -> Array:
        return self.model(x, t, self.labels)


def measure(
    samples: Float[np.ndarray, "n ..."], images: Float[Array, "n ..."], seed: int
) -> dict[str, float]:
    """How as many samples compare with the data; means over divisions of the data in halves.

    `energy_distance` is that from samples to one half, `nearest_distance` the mean distance from a sample to
    the image of that half next to it.  `..._of_data` are those of the other half in place of the samples,
    what a perfect model would have; `..._of_gaussian` those of a normal distribution with the mean and
    covariance of the data.  A nearest distance below that of the data is a sign of copies."""
    number, rng = len(images), np.random.default_rng(seed)
    data = np.asarray(images, float).reshape(number, -1)
    samples = samples.reshape(number, -1)
    if data.shape[1] < number:
        gaussian = rng.multivariate_normal(data.mean(0), np.cov(data.T), number)
    else:  # the same, without the covariance
        centred = data - data.mean(0)
        gaussian = data.mean(0) + rng.standard_normal((number, number)) @ centred / (number - 1) ** 0.5
    rows = []
    for _ in range(REPEATS):
        first, second = np.array_split(rng.permutation(number), 2)
        sets = (samples[first], gaussian[first], data[first])
        rows.append(
            [far(points, data[second]) for far in (energy_distance, nearest_distance) for points in sets]
        )
    names = [
        name + of
        for name in ("energy_distance", "nearest_distance")
        for of in ("", "_of_gaussian", "_of_data")
    ]
    return dict(zip(names, np.mean(rows, 0).tolist(), strict=True))


def _draw(images: Float[np.ndarray, "blocks rows columns height width channels"], out: Path) -> None:
    """A PNG of blocks beside each other, of images in rows and columns: three channels are colours, of others
    the first is drawn."""
    from matplotlib.image import imsave  # matplotlib is slow to import

    images = images if images.shape[-1] == 3 else np.repeat(images[..., :1], 3, -1)
    framed = np.pad(images, ((0, 0),) * 3 + ((1, 1), (1, 1), (0, 0)), constant_values=1)
    blocks, rows, columns, height, width, _ = framed.shape
    framed = framed.transpose(0, 1, 3, 2, 4, 5).reshape(blocks, rows * height, columns * width, 3)
    page = np.concatenate(np.pad(framed, ((0, 0), (0, 0), (4, 4), (0, 0)), constant_values=1), 1)
    zoom = max(1, 40 // max(height, width))
    page = page.repeat(zoom, 0).repeat(zoom, 1)
    imsave(out / "picture.png", np.clip((page + 1) / 2, 0, 1))


def _check(request: Request) -> None:
    for name, known in (("schedule", SCHEDULES), ("prediction", get_args(Prediction))):
        value = getattr(request, name)
        if value not in known:
            raise ValueError(f"unknown --{name} {value!r}: give {', '.join(known)}")
    if not 0 < request.learning_rate < float("inf"):
        raise ValueError(f"--learning-rate must be positive and finite, not {request.learning_rate}")

"""Diffusion samplers by what they are run on, and what their answers are worth.

What is asked follows from the problem and from what stands after `@` in the column (`question`); a cell's
size is

- data whose flow is known (`mixture1d`, `ring`, ...): network evaluations, and the error that they leave;
- the same `@order`: steps, and the power of the step with which the error falls as they are doubled;
- `images`: steps, and the seconds that a sampler takes beside a network that takes none;
- the same `@gradient`: steps, and the memory and seconds of reverse mode through all of them;
- `trained_digits`: evaluations of a network trained on scikit-learn's digits, and the pictures that they
give.

There is no tolerance to meet: a record's `rtol` is None, and `true_residual` the error that is left.
"""

import base64
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from nsolve import diffusion
from nsolve.gallery import flows, mixtures
from nsolve.gallery.mixtures import Gaussian, Mixture

from ..engine.spec import Part, Spec
from ..engine.work import Answer, Cell, Missing, Task, Work
from ..report import diffusion as report

# How many states errors are measured with, and orders.
SAMPLES, ORDER_SAMPLES = 256, 32
# Of orders: from noise to data in lam, short of both ends, as what is asked is the order, not how steep a
# problem gets; how far a slope may lie below the order that is stated; errors of this size are rounding.
ORDER_SCHEDULE = diffusion.VPLinear()
SPAN = (-3.0, 2.5)
DOUBLINGS = 4
ORDER_SLACK = 0.15
FLOOR = 1e-13
# Of digits: how many, how many a record keeps, and the steps of the solution that they are compared with.
DIGITS, SHOWN, REFERENCE_STEPS = 512, 12, 200
DIGIT_SHAPE = (8, 8, 1)
Network = Literal["trivial", "convolutions"]


# --- problems ---


def clusters(dimension: int = 64, modes: int = 40, std: float = 0.4) -> Mixture:
    """Gaussians of unlike weights whose means are normal numbers times `std`."""
    return mixtures.clusters(0, dimension, modes, std)


def gaussian(dimension: int = 16, low: float = 1e-4, high: float = 1e2) -> Gaussian:
    """One Gaussian along turned axes, with variances from `low` to `high`: stiff, as images are."""
    return mixtures.gaussian(0, dimension, low, high)


@dataclass(frozen=True)
class Images:
    """Square images and a network that sees noise in them: `trivial` (a factor) or two `convolutions`."""

    batch: int = 16
    side: int = 64
    channels: int = 3
    network: Network = "trivial"

    def start(self, dtype: str) -> np.ndarray:
        shape = (self.batch, self.side, self.side, self.channels)
        return np.random.default_rng(0).standard_normal(shape).astype(dtype)

    def model(self, dtype: str) -> Callable[[Any, Any], Any]:
        return Trivial() if self.network == "trivial" else Convolutions(self.channels, dtype)


class Trivial(eqx.Module):
    """Calls a tenth of the state noise."""

    def __call__(self, x: jax.Array, t: jax.Array) -> jax.Array:
        del t
        return 0.1 * x


class Convolutions(eqx.Module):
    """Two convolutions with 16 features between them, whose values reverse mode has to keep or to find
    again."""

    kernels: tuple[jax.Array, jax.Array]

    def __init__(self, channels: int, dtype: str):
        first, second = jr.split(jr.key(0))
        self.kernels = (
            0.1 * jr.normal(first, (3, 3, channels, 16), dtype),
            0.1 * jr.normal(second, (3, 3, 16, channels), dtype),
        )

    def __call__(self, x: jax.Array, t: jax.Array) -> jax.Array:
        def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )

        inner = jax.nn.silu(convolve(x, self.kernels[0]) + t.astype(x.dtype) / 1000)
        return convolve(inner, self.kernels[1])


@dataclass(frozen=True)
class Digits:
    """Handwritten digits by a network: one that comes with `learned`, or a file of `nsolve-train
    diffusion`"""

    model: str = "diffusion-digits"

    @property
    def denoiser(self) -> diffusion.Denoiser:
        return _network(self.model)

    @property
    def ends(self) -> tuple[float, float]:
        """The first and last time: where nothing can be seen of an image, and of noise."""
        from learned.diffusion import grid

        found = grid(self.denoiser.schedule, 1)
        return found.start, found.end

    def start(self) -> jax.Array:
        """The noise (DIGITS, 8, 8, 1) in float32 that all samplers begin with."""
        sigma = float(self.denoiser.schedule.sigma(np.asarray(self.ends[0])))
        noise = np.random.default_rng(0).standard_normal((DIGITS, *DIGIT_SHAPE))
        return jnp.asarray(sigma * noise, jnp.float32)


@functools.lru_cache(maxsize=2)
def _network(name: str) -> diffusion.Denoiser:
    """The trained denoiser; `Missing`, with the command that makes one, where there is no such file."""
    import learned
    from learned.diffusion import blank_denoiser

    if name in learned.pretrained():
        return learned.load_pretrained(name)
    if not Path(name).exists():
        make = f"nsolve-train diffusion --data digits --out {Path(name).parent}"
        raise Missing(f"there is no {name}: make one with `{make}`")
    return learned.load(name, blank_denoiser)


MIXTURES: Mapping[str, Callable[..., Mixture]] = {
    "mixture1d": mixtures.mixture1d,
    "ring": mixtures.ring,
    "lattice": mixtures.lattice,
    "clusters": clusters,
    "near_singular": mixtures.near_singular,
    "gaussian": gaussian,
}
PROBLEMS: Mapping[str, Callable[..., Any]] = {**MIXTURES, "images": Images, "trained_digits": Digits}


# What can be asked of problems other than mixtures: first what is asked where nothing stands after `@`.
QUESTIONS: Mapping[str, tuple[str, ...]] = {"images": ("overhead", "gradient"), "trained_digits": ("digits",)}


def size_of(cell: Cell) -> int:
    """How many evaluations or steps a cell asks for."""
    assert cell.size is not None, "cells of this work have sizes"
    return cell.size


def question(spec: Spec, part: Part) -> str:
    """What is asked of a column: `error`, `order`, `overhead`, `gradient` or `digits`.

    ValueError where that cannot be asked of the problem."""
    allowed = QUESTIONS.get(part.name, ("error", "order"))
    mode = ",".join(spec.mode) or allowed[0]
    if mode not in allowed:
        others = ", ".join(f"@{name}" for name in allowed[1:]) or "nothing else"
        raise ValueError(f"{spec}: of {part.name} can be asked {others}, not @{mode}")
    return mode


def _build(work: Work, cell: Cell) -> Any:
    return made(cell.problem)


@functools.lru_cache(maxsize=16)
def made(text: str) -> Any:
    """The problem of that text."""
    return WORK.call(text)


# --- what is known of the answers ---


def alphas_cumprod() -> np.ndarray:
    """Of the 1000 times of DDPM, with which most networks were trained (arXiv:2006.11239)."""
    return np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


@functools.cache
def schedule() -> diffusion.Discrete:
    """The one that errors are measured with."""
    return diffusion.Discrete(alphas_cumprod())


def starts(problem: Mixture, schedule: diffusion.AbstractSchedule, count: int, seed: int = 0) -> np.ndarray:
    """What a user begins with: normal numbers (count, D) times the largest noise."""
    rng = np.random.default_rng(seed)
    sigma = float(schedule.sigma(np.asarray(schedule.t_max, np.float64)))
    return sigma * rng.standard_normal((count, problem.dimension))


@functools.lru_cache(maxsize=16)
def exact(text: str) -> np.ndarray:
    """Where the flow carries the starting states (SAMPLES, D)."""
    problem = made(text)
    x_T = starts(problem, schedule(), SAMPLES)
    return flows.exact_flow(problem, schedule(), x_T, schedule().t_max, schedule().t_min)


@functools.lru_cache(maxsize=64)
def path(text: str, times: tuple[float, ...]) -> np.ndarray:
    """The exact states (m, ORDER_SAMPLES, D) at m times, the last of which is the end."""
    problem = made(text)
    states = [starts(problem, ORDER_SCHEDULE, ORDER_SAMPLES)]
    for before, after in zip(times[:-1], times[1:], strict=True):
        states.append(flows.exact_flow(problem, ORDER_SCHEDULE, states[-1], before, after))
    return np.stack(states)


@functools.lru_cache(maxsize=2)
def reference_digits(digits: Digits) -> np.ndarray:
    """The network's own solution."""
    grid = diffusion.log_snr_grid(REFERENCE_STEPS, *digits.ends)
    found = diffusion.sample(digits.denoiser, diffusion.UniPC(3), digits.start(), grid, checkpoints="none")
    return np.asarray(found.value)


# --- what answers are worth ---


@dataclass(frozen=True)
class Samples:
    """States (B, ...) that a sampler ends with; `noisy` where it added noise on the way; of an order, the
    `times` at which it was handed exact states, and the last."""

    x: Any
    noisy: bool = False
    times: tuple[float, ...] = ()


def judge(problem: Any, answer: Answer, task: Task) -> dict[str, Any]:
    """The fields of a record; `kind` says which question they answer.

    A value is `Samples`, or on a Gaussian the plan itself, whose law is known; of an order one for each
    number of steps; of seconds and memory there is nothing to judge."""
    kind = question(task.spec, WORK.parse(task.cell.problem))
    asked = {"error": _error, "order": _order, "digits": _digits}
    found = asked[kind](problem, answer, task.cell) if kind in asked else {}
    return {"kind": kind, "rtol": None, **found}


def _error(problem: Any, answer: Answer, cell: Cell) -> dict[str, Any]:
    """`true_residual` is the root of the mean squared distance from the exact flow, or of laws on a Gaussian
    their 2-Wasserstein distance."""
    if isinstance(answer.value, diffusion.Plan):
        return {"true_residual": flows.wasserstein(answer.value, problem), "error_kind": "w2"}
    return {"true_residual": rms(answer.value.x, exact(cell.problem)), "error_kind": "rms"}


def _order(problem: Any, answer: Answer, cell: Cell) -> dict[str, Any]:
    """`order` is measured, `stated_order` promised, `constant` the error divided by the step in lam to that
    power, at the end.

    On a mixture the error is that of the state at the end, from exact starting values, so that a method's
    start-up steps do not hide its order; on a Gaussian it is the distance of the distribution, noise and
    all."""
    counts, of_law = doublings(size_of(cell)), isinstance(problem, Gaussian)
    errors = [
        flows.wasserstein(one, problem) if of_law else rms(one.x, path(cell.problem, one.times)[-1])
        for one in answer.value
    ]
    order, stated = slope(counts, errors), answer.metrics["stated_order"]
    if of_law and stated is not None:
        stated = min(stated, 2)  # start-up steps of first order are part of it
    missed = stated is not None and not order >= stated - ORDER_SLACK
    power = stated or (round(order) if np.isfinite(order) else 0)
    return {
        "result": "order_missed" if missed else answer.result,
        "steps": counts,
        "errors": errors,
        "true_residual": errors[-1],
        "order": order,
        "stated_order": stated,
        "constant": errors[-1] * (counts[-1] / (SPAN[1] - SPAN[0])) ** power,
    }


def doublings(size: int) -> list[int]:
    """The numbers of steps that an order is measured with."""
    return [size * 2**k for k in range(DOUBLINGS + 1)]


def slope(counts: list[int], errors: list[float]) -> float:
    """Of the errors on a logarithmic scale, by least squares over those above rounding; NaN of less than
    three."""
    kept = [(np.log2(n), np.log2(e)) for n, e in zip(counts, errors, strict=True) if e > FLOOR]
    if len(kept) < 3:
        return float("nan")
    x, y = np.transpose(kept)
    return float(-np.polyfit(x, y, 1)[0])


def _digits(problem: Digits, answer: Answer, cell: Cell) -> dict[str, Any]:
    """`true_residual` is the RMS distance from 200 steps with the same start (None of samplers that add
    noise), `energy_distance` that of the samples to the data; `pictures` the first of them."""
    from learned.diffusion import digits
    from learned.distances import energy_distance

    x, reference = answer.value.x, reference_digits(problem)
    flat, data, ideal = (v.reshape(len(v), -1) for v in (x, np.asarray(digits(1).images), reference))
    return {
        "true_residual": None if answer.value.noisy else rms(x, reference),
        "energy_distance": energy_distance(flat, data),
        "reference_energy": energy_distance(ideal, data),
        "pictures": encode(x[:SHOWN]),
        "reference_pictures": encode(reference[:SHOWN]),
    }


def rms(x: Any, y: np.ndarray) -> float:
    return float(np.sqrt(np.mean((np.asarray(x) - y) ** 2)))


def encode(images: np.ndarray) -> str:
    """Images (n, 8, 8, 1) from -1 to 1 as bytes from 0 to 255, in base64."""
    levels = np.clip(np.round((images + 1) * 127.5), 0, 255).astype(np.uint8)
    return base64.b64encode(levels.tobytes()).decode()


WORK = Work(
    "diffusion",
    PROBLEMS,
    judge,
    columns=("nsolve", "diffusers"),
    settings=(),
    dtypes=("float32", "float64"),
    sized=True,
    build=_build,
    tables=report.TABLES,
    charts=report.CHARTS,
    remarks=report.remarks,
)

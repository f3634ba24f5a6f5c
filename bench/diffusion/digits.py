"""A real network: samplers on a model of handwritten digits, by the pictures that they draw."""

import base64
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from nsolve import diffusion

from ..peers.base import Missing
from ..specs import OWN
from . import own

SAMPLES = 512
#: Pictures that a record keeps, and the steps of the solution that they are compared with.
SHOWN, REFERENCE_STEPS = 12, 200
SHAPE = (8, 8, 1)


@dataclass(frozen=True)
class Digits:
    """Handwritten digits by a network: one that comes with `learned`, or a file of `nsolve-train
    diffusion`"""

    model: str = "diffusion-digits"


def measure(cell: Any, digits: Digits) -> dict[str, Any]:
    """The fields of a record: `true_residual` is the RMS distance from 200 steps with the same start (None of
    samplers that add noise), `energy_distance` that of the samples to the data; `pictures` the first of
    them."""
    if cell.spec.peer != OWN or cell.spec.solver.name in own.FITTED:
        raise ValueError(f"{cell.spec}: digits are for nsolve's samplers that learn nothing of them")
    from learned.distances import energy_distance

    denoiser = network(digits.model)
    plan = own.plan_of(cell.spec.solver, denoiser.schedule, cell.size, ends(denoiser))
    x = np.asarray(diffusion.sample(denoiser, plan, start(denoiser), key=jr.key(0), checkpoints="none").value)
    reference = _reference(digits.model)
    return {
        "result": "successful",
        "num_evaluations": plan.num_evaluations,
        "true_residual": None if plan.stochastic else float(np.sqrt(np.mean((x - reference) ** 2))),
        "energy_distance": energy_distance(_flat(x), _flat(data())),
        "reference_energy": energy_distance(_flat(reference), _flat(data())),
        "pictures": encode(x[:SHOWN]),
        "reference_pictures": encode(reference[:SHOWN]),
    }


@functools.lru_cache(maxsize=2)
def network(name: str) -> diffusion.Denoiser:
    """The trained denoiser; `Missing`, with the command that makes one, where there is no such file."""
    import learned
    from learned.diffusion import blank_denoiser

    if name in learned.pretrained():
        return learned.load_pretrained(name)
    if not Path(name).exists():
        make = f"nsolve-train diffusion --data digits --out {Path(name).parent}"
        raise Missing(f"there is no {name}: make one with `{make}`")
    return learned.load(name, blank_denoiser)


def data() -> np.ndarray:
    """The images (1797, 8, 8, 1) of scikit-learn."""
    from learned.diffusion import digits

    return np.asarray(digits(1).images)


def ends(denoiser: diffusion.Denoiser) -> tuple[float, float]:
    """The first and last time: where nothing can be seen of an image, and of noise."""
    from learned.diffusion import grid

    found = grid(denoiser.schedule, 1)
    return found.start, found.end


def start(denoiser: diffusion.Denoiser) -> Any:
    """The noise (SAMPLES, 8, 8, 1) in float32 that all samplers begin with."""
    sigma = float(denoiser.schedule.sigma(np.asarray(ends(denoiser)[0])))
    return jnp.asarray(sigma * np.random.default_rng(0).standard_normal((SAMPLES, *SHAPE)), jnp.float32)


@functools.lru_cache(maxsize=2)
def _reference(name: str) -> np.ndarray:
    denoiser = network(name)
    grid = diffusion.log_snr_grid(REFERENCE_STEPS, *ends(denoiser))
    x = diffusion.sample(denoiser, diffusion.UniPC(3), start(denoiser), grid, checkpoints="none").value
    return np.asarray(x)


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)


def encode(images: np.ndarray) -> str:
    """Images from -1 to 1 as bytes from 0 to 255, in base64."""
    levels = np.clip(np.round((images + 1) * 127.5), 0, 255).astype(np.uint8)
    return base64.b64encode(levels.tobytes()).decode()


def decode(text: str) -> np.ndarray:
    """The images (n, 8, 8) that `encode` wrote, from 0 to 255."""
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(-1, *SHAPE[:2])


def strip(text: str) -> np.ndarray:
    """Encoded images side by side (10, 9 n + 1), framed in white."""
    images = np.pad(decode(text), ((0, 0), (1, 1), (1, 0)), constant_values=255)
    row = images.transpose(1, 0, 2).reshape(images.shape[1], -1)
    return np.pad(row, ((0, 0), (0, 1)), constant_values=255)

"""The schedulers of Hugging Face's diffusers, on the CPU: `pip install 'nsolve[peers-torch]'`.

Each is given its common options, and the end of the grid is time 0 (not sigma = 0, its default), so that its
result can be compared with the exact flow there. Its own grid is kept, timesteps even in t, which for all but
DDIM and PNDM runs through `np.linspace(0, T - 1, num_steps + 1).round()`.
"""

import importlib
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..environment import version as _version
from ..peers.base import Missing
from ..timing import clock, wants_more

_TO_TIME_0 = {"set_alpha_to_one": False, "timestep_spacing": "trailing"}
_SIGMA_MIN = {"final_sigmas_type": "sigma_min"}
#: Class and options; `order` is the solver's where it has one.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False} | _TO_TIME_0),
    "dpm_solver": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver"} | _SIGMA_MIN),
    "dpm_solver_pp": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"} | _SIGMA_MIN),
    "deis": ("DEISMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", _SIGMA_MIN),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True} | _TO_TIME_0),
}
WITHOUT_ORDER = ("ddim", "pndm")


def version() -> str | None:
    """The installed version of diffusers."""
    return _version("diffusers")


def run_diffusers(
    name: str,
    order: int | None,
    eps_model: Callable[[np.ndarray, float], np.ndarray],
    alphas_cumprod: np.ndarray,
    num_steps: int,
    x_T: np.ndarray,
) -> tuple[np.ndarray, int]:
    """(x, number of network evaluations) of one run in float64 from time T - 1 to time 0.

    `eps_model(x, t)` predicts the noise in x (B, D, ...) at the integer time t. The library would round its
    tables and states to float32 wherever it stands; here they are float64 throughout. Raises `Missing` where
    diffusers is not installed."""
    torch, scheduler = _make(name, order, alphas_cumprod, "float64")
    evaluations = 0

    def network(x: Any, t: Any) -> Any:
        nonlocal evaluations
        evaluations += 1
        return torch.as_tensor(np.asarray(eps_model(x.numpy(), float(t)), np.float64))

    x = _sample(torch, scheduler, network, num_steps, torch.as_tensor(np.array(x_T, np.float64)))
    return x.numpy(), evaluations


def solver_seconds(
    name: str,
    order: int | None,
    alphas_cumprod: np.ndarray,
    num_steps: int,
    x_T: np.ndarray,
    repeats: int | None = None,
) -> list[float]:
    """Seconds of runs beside a network that is one multiplication, in the precision of `x_T` (float32 as the
    library comes), after a first run that does not count.

    A run is what a pipeline does for each call: choose the timesteps, then ask the network and step. On one
    thread or on all cores, whichever is faster: on a busy machine many threads wait for each other."""
    torch, scheduler = _make(name, order, alphas_cumprod, str(x_T.dtype))
    x = torch.as_tensor(x_T)

    def solve() -> Any:
        return _sample(torch, scheduler, lambda x, t: 0.1 * x, num_steps, x)

    def seconds(threads: int) -> list[float]:
        torch.set_num_threads(threads)
        solve()
        times: list[float] = []
        while wants_more(times, repeats):
            times.append(clock(solve)[1])
        return times

    before = torch.get_num_threads()
    try:
        return min((seconds(threads) for threads in {1, os.cpu_count() or 1}), key=np.median)
    finally:
        torch.set_num_threads(before)


def _sample(torch: Any, scheduler: Any, network: Any, num_steps: int, x: Any) -> Any:
    with torch.no_grad():
        scheduler.set_timesteps(num_steps)
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t), t, x, return_dict=False)[0]
    return x


class _Double:
    """A module that answers `float64` when it is asked for `float32`."""

    def __init__(self, module: Any):
        self.module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, "float64" if name == "float32" else name)


def _make(name: str, order: int | None, alphas_cumprod: np.ndarray, dtype: str) -> tuple[Any, Any]:
    """(torch, the scheduler with its tables in that precision)."""
    if name not in SCHEDULERS:
        raise ValueError(f"`name` must be one of {tuple(SCHEDULERS)}, got {name!r}.")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"`x_T` must be of float32 or float64, got {dtype}.")
    try:
        torch, diffusers = importlib.import_module("torch"), importlib.import_module("diffusers")
    except ImportError as error:
        raise Missing(
            f"diffusers and PyTorch are not installed here: pip install 'nsolve[peers-torch]' ({error})"
        ) from error
    cls, options = SCHEDULERS[name]
    if name not in WITHOUT_ORDER:
        options = options | {"solver_order": 2 if order is None else order}
    products = np.asarray(alphas_cumprod, np.float64)
    betas = 1.0 - products / np.concatenate([[1.0], products[:-1]])
    source = importlib.import_module(getattr(diffusers, cls).__module__)
    # The library writes `torch.float32` into its tables and steps; the name is all that is changed.
    for attribute, module in {"torch": torch, "np": np}.items():
        if hasattr(source, attribute):
            setattr(source, attribute, _Double(module) if dtype == "float64" else module)
    default = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # DPM-Solver without ++ is deprecated there
            scheduler = getattr(diffusers, cls)(
                num_train_timesteps=len(products), trained_betas=betas.tolist(), **options
            )
    finally:
        torch.set_default_dtype(default)
    return torch, scheduler

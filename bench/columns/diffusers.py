"""The schedulers of Hugging Face's diffusers by their short names, on the CPU, on their own grids.

Each is given its common options, `order` where it has one, and the end of the grid is time 0 (not sigma = 0,
its default), so that its result can be compared with the exact flow there.  Its own grid is kept, timesteps
even in t, which for all but DDIM and PNDM runs through `np.linspace(0, T - 1, num_steps + 1).round()`.
Errors are measured in float64 throughout, where the library would round its tables and states to float32;
seconds as it comes.
"""

import importlib
import os
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from nsolve.gallery.mixtures import denoiser

from ..engine.measure import clock, wants_more
from ..engine.options import Option
from ..engine.spec import Part, Spec
from ..engine.work import Answer, Library, Missing, Offer, Run, Task, Timings
from ..work import diffusion as work
from ..work.diffusion import Samples

_TO_TIME_0 = {"set_alpha_to_one": False, "timestep_spacing": "trailing"}
_SIGMA_MIN = {"final_sigmas_type": "sigma_min"}
# Class and options; `order` is the solver's where it has one.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False} | _TO_TIME_0),
    "dpm_solver": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver"} | _SIGMA_MIN),
    "dpm_solver_pp": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"} | _SIGMA_MIN),
    "deis": ("DEISMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", _SIGMA_MIN),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True} | _TO_TIME_0),
}
WITHOUT_ORDER = ("ddim", "pndm")
ORDER = Option(2, (1, 2, 3))
SOLVERS = {name: {} if name in WITHOUT_ORDER else {"order": ORDER} for name in SCHEDULERS}


class DiffusersRun(Run):
    """A scheduler; `torch` is PyTorch."""

    dtype = "float64"

    def __init__(self, task: Task):
        super().__init__(task)
        self.torch, self.scheduler = make(self.spec.solver, work.alphas_cumprod(), self.dtype)

    def sample(self, network: Callable[[Any, Any], Any], num_steps: int, x: Any) -> Any:
        """What a pipeline does for each call: choose the timesteps, then ask the network and step."""
        with self.torch.no_grad():
            self.scheduler.set_timesteps(num_steps)
            for t in self.scheduler.timesteps:
                x = self.scheduler.step(network(x, t), t, x, return_dict=False)[0]
        return x


class ErrorRun(DiffusersRun):
    """The error after at most so many evaluations, from time T - 1 to time 0."""

    timed = False

    def solve(self, program: Any) -> Samples:
        torch, problem, size = self.torch, self.task.problem, work.size_of(self.task.cell)
        model = eqx.filter_jit(denoiser(problem, work.schedule()).model)

        def network(x: Any, t: Any) -> Any:
            self.evaluations += 1
            # Writable, as PyTorch wants it.
            return torch.as_tensor(np.array(model(x.numpy(), jnp.asarray(float(t))), np.float64))

        x_T = work.starts(problem, work.schedule(), work.SAMPLES)
        # Some schedulers ask the network once more than they take steps.
        for num_steps in (size, size - 1):
            self.evaluations = 0
            x = self.sample(network, num_steps, torch.as_tensor(x_T.copy()))
            if self.evaluations <= size:
                break
        return Samples(x.numpy())

    def answer(self, raw: Samples) -> Answer:
        return Answer("successful", raw, {"num_evaluations": self.evaluations})


class OverheadRun(DiffusersRun):
    """Seconds beside a network that is one multiplication, after a first run that does not count.

    On one thread or on all cores, whichever is faster: on a busy machine many threads wait for each other."""

    def __init__(self, task: Task):
        self.dtype = task.cell.dtype
        super().__init__(task)
        self.x = self.torch.as_tensor(task.problem.start(self.dtype))

    def solve(self, program: Any) -> Any:
        return self.sample(lambda x, t: 0.1 * x, work.size_of(self.task.cell), self.x)

    def timings(self, raw: Any) -> Timings:
        def seconds(threads: int) -> list[float]:
            self.torch.set_num_threads(threads)
            self.solve(None)
            times: list[float] = []
            while wants_more(times, self.task.settings.repeats):
                times.append(clock(lambda: self.solve(None))[1])
            return times

        before = self.torch.get_num_threads()
        try:
            self.times = min((seconds(threads) for threads in {1, os.cpu_count() or 1}), key=np.median)
        finally:
            self.torch.set_num_threads(before)
        return Timings(0.0, 0.0, self.times)

    def answer(self, raw: Any) -> Answer:
        size = work.size_of(self.task.cell)
        metrics = {"seconds_per_step": float(np.median(self.times)) / size}
        return Answer("successful", counts={"num_steps": size}, metrics=metrics)


class _Double:
    """A module that answers `float64` when it is asked for `float32`."""

    def __init__(self, module: Any):
        self.module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, "float64" if name == "float32" else name)


def make(part: Part, alphas_cumprod: np.ndarray, dtype: str) -> tuple[Any, Any]:
    """(PyTorch, the scheduler with its tables in that precision); `Missing` where one is not installed."""
    try:
        torch, diffusers = importlib.import_module("torch"), importlib.import_module("diffusers")
    except ImportError as error:
        raise Missing(f"diffusers and PyTorch are not both installed: {LIBRARY.install} ({error})") from error
    cls, options = SCHEDULERS[part.name]
    if part.name not in WITHOUT_ORDER:
        options = options | {"solver_order": part.options.get("order", ORDER.default)}
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


def _prepare(task: Task) -> Run:
    return (OverheadRun if task.cell.problem.startswith("images") else ErrorRun)(task)


def _check(spec: Spec, part: Part) -> None:
    if spec.mode:
        raise ValueError(f"{spec}: only nsolve's samplers are measured @{','.join(spec.mode)}")
    if part.name == "trained_digits":
        raise ValueError(f"{spec}: digits are drawn by nsolve's samplers alone")


OFFER = Offer(_prepare, SOLVERS, modes=("order", "gradient"), check=_check)
LIBRARY = Library("diffusers", "diffusers", {"diffusion": OFFER}, install="pip install 'nsolve[peers-torch]'")

"""Make `diffusers.npz`: the states that the schedulers of the library diffusers pass through.

Run with a Python that has torch and diffusers (no test needs either):

    python tests/golden/make_diffusers.py

`README.md` beside this file says what the records hold and what a reader must know of each scheduler.
"""

import importlib
import json
import pathlib
import warnings

import diffusers
import numpy as np
import torch
from model import model

HERE = pathlib.Path(__file__).parent
STEPS = 8
SHAPE = (2, 3)
rng = np.random.default_rng(20231)
X_T = rng.standard_normal(SHAPE)
NOISE = rng.standard_normal((17, *SHAPE))  # every scheduler draws these, in this order


class Double:
    """A module that answers `float64` when a scheduler asks it for `float32`."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        return getattr(self.module, "float64" if name == "float32" else name)


class Draws:
    """Stands in for `randn_tensor`: hands out `NOISE` and counts."""

    def __init__(self):
        self.num_draws = 0

    def __call__(self, shape, generator=None, device=None, dtype=None, layout=None):
        self.num_draws += 1
        return torch.as_tensor(NOISE[self.num_draws - 1], dtype=dtype)


def make_scheduler(name, config, dtype):
    """The scheduler and its source of noise; in float64 all of its tables are computed in float64."""
    cls = getattr(diffusers, name)
    source = importlib.import_module(cls.__module__)
    draws = Draws()
    double = dtype == "float64"
    torch.set_default_dtype(getattr(torch, dtype))
    for attribute, module in {"torch": torch, "np": np}.items():
        if hasattr(source, attribute):
            setattr(source, attribute, Double(module) if double else module)
    if hasattr(source, "randn_tensor"):
        source.randn_tensor = draws
    return cls(**config), draws


# --- the noise level (alpha, sigma) at which each evaluation stands, and that of the result ---


def by_index(scheduler):
    """Integer timesteps name entries of `alphas_cumprod`; the result has `final_alpha_cumprod`, or 1."""
    final = getattr(scheduler, "final_alpha_cumprod", torch.tensor(1.0))
    products = torch.cat([scheduler.alphas_cumprod[scheduler.timesteps.long()], final.reshape(1)])
    return products.sqrt(), (1 - products).sqrt()


def by_sigma(scheduler):
    """VP state; `sigmas` holds sigma / alpha."""
    return torch.stack([torch.stack(scheduler._sigma_to_alpha_sigma_t(s)) for s in scheduler.sigmas]).T


def variance_exploding(scheduler):
    """State x0 + sigma noise; the scheduler scales the network's input."""
    return torch.ones_like(scheduler.sigmas), scheduler.sigmas


def log_midpoint(scheduler):
    """As `variance_exploding`; every second evaluation is at the geometric mean of its neighbours."""
    sigmas = torch.cat([scheduler.sigmas[: len(scheduler.timesteps)], torch.zeros(1)])
    sigmas[1:-1:2] = scheduler.sigmas_interpol[1 : len(sigmas) - 1 : 2]
    return torch.ones_like(sigmas), sigmas


def flow(scheduler):
    """State (1 - sigma) x0 + sigma noise."""
    return 1 - scheduler.sigmas, scheduler.sigmas


def cosine(scheduler):
    """IPNDM's own tables."""
    return scheduler.alphas, scheduler.betas


def run(name, scheduler, level, config=None, step=None, steps=STEPS, dtype="float64", timesteps=None):
    """One record: the state before each evaluation and the result, and the levels where they stand."""
    engine, draws = make_scheduler(scheduler, config or {}, dtype)
    engine.set_timesteps(steps) if timesteps is None else engine.set_timesteps(timesteps=timesteps)
    alphas, sigmas = level(engine)
    size = torch.hypot(alphas, sigmas)
    x = torch.as_tensor(X_T, dtype=getattr(torch, dtype)) * size[0]
    states = [x]
    for k, t in enumerate(engine.timesteps):
        seen = engine.scale_model_input(x, t) if hasattr(engine, "scale_model_input") else x
        out = model(torch, seen, sigmas[k] / size[k])
        x = engine.step(out, t, x, **(step or {})).prev_sample
        states.append(x)
    x = torch.stack(states).numpy()
    assert x.dtype == dtype and np.all(np.isfinite(x)), name
    entry = {
        "name": name,
        "scheduler": scheduler,
        "config": {k: v for k, v in (config or {}).items() if not callable(v)},
        "step": step or {},
        "steps": steps,
        "level": level.__name__,
        "dtype": dtype,
        "num_draws": draws.num_draws,
        "num_evaluations": len(states) - 1,
    }
    arrays = {
        f"{name}/states": x,
        f"{name}/levels": torch.stack([alphas, sigmas]).numpy().astype(dtype),
        f"{name}/timesteps": engine.timesteps.numpy(),
    }
    return entry, arrays


def dpm_multistep():
    """DPM-Solver and DPM-Solver++, multistep, ODE and SDE."""
    name = "DPMSolverMultistepScheduler"
    end = {"final_sigmas_type": "sigma_min"}
    full = end | {"lower_order_final": False}
    kinds = [(1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint")]
    for algorithm in ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"):
        for order, kind in kinds:
            if (algorithm, order) == ("sde-dpmsolver", 3):
                continue  # the library has no such update
            base = {"algorithm_type": algorithm, "solver_order": order, "solver_type": kind}
            label = f"{algorithm}-{order}" + ("-heun" if kind == "heun" else "")
            yield f"{label}-full", name, by_sigma, base | full
            if algorithm.endswith("++"):
                yield f"{label}-zero", name, by_sigma, base
            if order > 1:
                yield f"{label}-min", name, by_sigma, base | end
    second = {"algorithm_type": "dpmsolver++", "solver_order": 2}
    yield "dpmsolver++-2-euler-at-final", name, by_sigma, second | full | {"euler_at_final": True}
    yield "dpmsolver++-2-karras", name, by_sigma, second | {"use_karras_sigmas": True}
    yield "dpmsolver++-2-sample", name, by_sigma, second | full | {"prediction_type": "sample"}
    yield "dpmsolver++-2-v", name, by_sigma, second | full | {"prediction_type": "v_prediction"}
    flow_config = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    yield "dpmsolver++-2-flow", name, by_sigma, second | flow_config
    noise_form = {"algorithm_type": "dpmsolver", "solver_order": 2}
    yield "dpmsolver-2-sample", name, by_sigma, noise_form | full | {"prediction_type": "sample"}


def constant(tau):
    """SA-Solver's amount of noise, the same at every time."""
    return lambda t: tau


def table():
    """(name, scheduler, level, config, and what else `run` takes)."""
    plain = {"clip_sample": False}
    for spacing in ("leading", "trailing"):
        yield f"ddim-{spacing}", "DDIMScheduler", by_index, plain | {"timestep_spacing": spacing}
    ddim = plain | {"timestep_spacing": "trailing"}
    yield "ddim-v", "DDIMScheduler", by_index, ddim | {"prediction_type": "v_prediction"}
    yield "ddim-sample", "DDIMScheduler", by_index, ddim | {"prediction_type": "sample"}
    for eta in (0.5, 1.0):
        yield f"ddim-eta-{eta}", "DDIMScheduler", by_index, ddim, {"step": {"eta": eta}}
    yield "ddpm", "DDPMScheduler", by_index, plain
    yield "ddpm-large", "DDPMScheduler", by_index, plain | {"variance_type": "fixed_large"}
    yield from dpm_multistep()
    long = {"algorithm_type": "dpmsolver++", "solver_order": 2}
    yield "dpmsolver++-2-16-steps", "DPMSolverMultistepScheduler", by_sigma, long, {"steps": 16}
    for algorithm in ("dpmsolver++", "dpmsolver"):
        for order, kind in ((2, "midpoint"), (2, "heun"), (3, "midpoint"), (3, "heun")):
            config = {"algorithm_type": algorithm, "solver_order": order, "solver_type": kind}
            config |= {"final_sigmas_type": "sigma_min", "lower_order_final": order == 3}
            label = f"{algorithm}-{order}-single" + ("-heun" if kind == "heun" else "")
            steps = {"steps": 9 if order == 3 else 8}
            yield label, "DPMSolverSinglestepScheduler", by_sigma, config, steps
    for order in (1, 2, 3):
        for final in (True, False):
            label = f"deis-{order}" + ("" if final else "-full")
            config = {"solver_order": order, "lower_order_final": final}
            yield label, "DEISMultistepScheduler", by_sigma, config
    unipc, end = "UniPCMultistepScheduler", {"final_sigmas_type": "sigma_min"}
    full = end | {"lower_order_final": False}
    for order in (1, 2, 3):
        for kind in ("bh1", "bh2"):
            for data in (True, False):
                config = {"solver_order": order, "solver_type": kind, "predict_x0": data}
                label = f"unipc-{order}-{kind}" + ("" if data else "-noise")
                yield f"{label}-min", unipc, by_sigma, config | end
                if data:
                    yield f"{label}-full", unipc, by_sigma, config | full
        config = {"solver_order": order, "disable_corrector": list(range(20))}
        yield f"unip-{order}-full", unipc, by_sigma, config | full
    yield "unipc-3-zero", unipc, by_sigma, {"solver_order": 3}
    yield "unipc-2-first-steps-uncorrected", unipc, by_sigma, full | {"disable_corrector": [0, 1]}
    sa = "SASolverScheduler"
    for predictor, corrector in ((1, 1), (2, 2), (3, 3), (3, 4)):
        for tau in (0, 1):
            config = {"predictor_order": predictor, "corrector_order": corrector}
            yield f"sa-{predictor}-{corrector}-tau-{tau}", sa, by_sigma, config | {"tau_func": constant(tau)}
    config = {"predictor_order": 3, "corrector_order": 3, "tau_func": constant(0.6)}
    yield "sa-3-3-tau-0.6-full", sa, by_sigma, config | {"lower_order_final": False}
    config = {"predictor_order": 2, "corrector_order": 3, "tau_func": constant(1)}
    yield "sa-2-3-noise", sa, by_sigma, config | {"algorithm_type": "noise_prediction"}
    pndm = {"steps_offset": 1}
    yield "pndm-prk", "PNDMScheduler", by_index, pndm, {"steps": 10}
    yield "pndm-plms", "PNDMScheduler", by_index, pndm | {"skip_prk_steps": True}, {"steps": 10}
    noises = np.sin(np.linspace(0.99, 0.0, STEPS + 1) * np.pi / 2)
    yield "ipndm", "IPNDMScheduler", cosine, {"trained_betas": noises.tolist()}
    yield "euler", "EulerDiscreteScheduler", variance_exploding, {}
    yield "euler-ancestral", "EulerAncestralDiscreteScheduler", variance_exploding, {}
    yield "heun", "HeunDiscreteScheduler", variance_exploding, {}
    yield "heun-karras", "HeunDiscreteScheduler", variance_exploding, {"use_karras_sigmas": True}
    yield "lms", "LMSDiscreteScheduler", variance_exploding, {}, {"step": {"order": 4}}
    yield "kdpm2", "KDPM2DiscreteScheduler", log_midpoint, {}
    yield "edm-euler", "EDMEulerScheduler", variance_exploding, {}
    edm = "EDMDPMSolverMultistepScheduler"
    for order in (1, 2, 3):
        yield f"edm-dpmsolver++-{order}", edm, variance_exploding, {"solver_order": order}
        if order < 3:  # the third-order update of this scheduler drops the noise
            config = {"solver_order": order, "algorithm_type": "sde-dpmsolver++"}
            yield f"edm-sde-dpmsolver++-{order}", edm, variance_exploding, config
    yield "flow-euler", "FlowMatchEulerDiscreteScheduler", flow, {}
    yield "flow-euler-shift", "FlowMatchEulerDiscreteScheduler", flow, {"shift": 3.0}
    yield "flow-heun-shift", "FlowMatchHeunDiscreteScheduler", flow, {"shift": 3.0}
    single = {"dtype": "float32"}
    yield "ddim-float32", "DDIMScheduler", by_index, ddim, single
    base = {"solver_order": 2, "final_sigmas_type": "sigma_min"}
    yield "dpmsolver++-2-float32", "DPMSolverMultistepScheduler", by_sigma, base, single
    yield "unipc-3-float32", unipc, by_sigma, base | {"solver_order": 3}, single
    yield "edm-dpmsolver++-2-float32", edm, variance_exploding, {"solver_order": 2}, single
    yield "flow-euler-float32", "FlowMatchEulerDiscreteScheduler", flow, {"shift": 3.0}, single


def main():
    warnings.simplefilter("ignore")
    records = [run(*row[:4], **(row[4] if len(row) > 4 else {})) for row in table()]
    scheduler, _ = make_scheduler("DPMSolverMultistepScheduler", {}, "float64")
    index = [entry for entry, _ in records]
    assert len({entry["name"] for entry in index}) == len(index)
    arrays = {key: value for _, part in records for key, value in part.items()}
    header = {"diffusers": diffusers.__version__, "torch": torch.__version__, "records": index}
    path = HERE / "diffusers.npz"
    np.savez_compressed(
        path,
        header=json.dumps(header),
        alphas_cumprod=scheduler.alphas_cumprod.numpy(),
        x_T=X_T,
        noise=NOISE,
        **arrays,
    )
    print(f"{len(index)} records, {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()

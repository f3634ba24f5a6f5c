"""Make `originals.npz`: what the authors' own code computes for the samplers that they published.

    python tests/golden/make_originals.py CHECKOUTS

`CHECKOUTS` is a folder with the authors' repositories (`README.md` names them and their commits); nothing of
them is kept here. Needs torch and, for DEIS, jax.
"""

import functools
import importlib
import json
import math
import pathlib
import sys
import types
import warnings

import jax
import numpy as np
import scipy.integrate
import torch
from model import model
from recording import NOISE, X_T, Draws, Recorder, images, only, ve_share, vp_share, with_draws

HERE = pathlib.Path(__file__).parent
T_END = 1e-3
fraction = np.linspace(0.0, 1.0, 128001)[:, None, None, None] + 0.1 * np.arange(3)[:, None, None]
V3_STATISTICS = {
    "l": 0.8 + 0.2 * np.sin(3 * fraction),
    "s": -0.3 * np.cos(2 * fraction),
    "b": 0.2 * fraction**2,
}
torch.set_default_dtype(torch.float64)
jax.config.update("jax_enable_x64", True)


def dpm_solver():
    """github.com/LuChengTHU/dpm-solver: `dpm_solver_pytorch.py`."""
    source = importlib.import_module("dpm_solver_pytorch")
    schedule = source.NoiseScheduleVP("linear")
    cases = {}
    for algorithm in ("dpmsolver++", "dpmsolver"):
        fixed = {"algorithm_type": algorithm, "skip_type": "logSNR"}
        for order in (1, 2, 3):
            for final in (True, False):
                key = f"{algorithm}-{order}-multi" + ("" if final else "-full")
                cases[key] = fixed | {
                    "method": "multistep",
                    "order": order,
                    "steps": 8,
                    "lower_order_final": final,
                }
        cases[f"{algorithm}-2-multi-taylor"] = cases[f"{algorithm}-2-multi-full"] | {"solver_type": "taylor"}
        for order in (2, 3):
            for kind in ("dpmsolver", "taylor"):
                key = f"{algorithm}-{order}-single" + ("" if kind == "dpmsolver" else "-taylor")
                single = {
                    "method": "singlestep_fixed",
                    "order": order,
                    "steps": 4 * order,
                    "solver_type": kind,
                }
                cases[key] = fixed | single
            uneven = {"method": "singlestep", "skip_type": "time_uniform", "order": order, "steps": 10}
            cases[f"{algorithm}-{order}-single-time"] = fixed | uneven
            cases[f"{algorithm}-{order}-adaptive"] = fixed | {
                "method": "adaptive",
                "order": order,
                "rtol": 1e-3,
                "atol": 1e-4,
            }
        for steps in (9, 10, 11):
            cases[f"{algorithm}-fast-{steps}"] = fixed | {"method": "singlestep", "order": 3, "steps": steps}
    for name, case in cases.items():
        options = dict(case)
        network = Recorder(vp_share)
        solver = source.DPM_Solver(network, schedule, algorithm_type=options.pop("algorithm_type"))
        x = solver.sample(images(X_T), t_start=1.0, t_end=T_END, **options)
        yield f"dpm-solver/{name}", case, network.record(x, T_END), 0


def uni_pc():
    """github.com/wl-zhao/UniPC: `uni_pc.py`."""
    source = importlib.import_module("uni_pc")
    source.print = lambda *_: None
    schedule = source.NoiseScheduleVP("linear")
    for variant in ("bh1", "bh2", "vary_coeff"):
        for algorithm in ("data_prediction", "noise_prediction"):
            for order in (1, 2, 3):
                for final in (True, False):
                    case = {
                        "variant": variant,
                        "algorithm_type": algorithm,
                        "order": order,
                        "lower_order_final": final,
                    }
                    network = Recorder(vp_share)
                    solver = source.UniPC(network, schedule, algorithm_type=algorithm, variant=variant)
                    x = solver.sample(
                        images(X_T),
                        steps=8,
                        t_start=1.0,
                        t_end=T_END,
                        order=order,
                        skip_type="logSNR",
                        lower_order_final=final,
                    )
                    name = f"uni-pc/{variant}-{order}-{algorithm.split('_')[0]}" + ("" if final else "-full")
                    yield name, case, network.record(x, T_END), 0


def deis():
    """github.com/qsh-zh/deis: `th_deis`."""
    lax_numpy = importlib.import_module("jax._src.numpy.lax_numpy")
    if not hasattr(lax_numpy, "_promote_dtypes_inexact"):  # moved since; only its discrete schedule uses it
        lax_numpy._promote_dtypes_inexact = None
    source = importlib.import_module("th_deis")
    sde = source.VPSDE(*source.get_linear_alpha_fns(0.1, 20.0), T_END, 1.0)
    cases = {f"t_ab-{k}": {"method": "t_ab", "ab_order": k} for k in range(4)}
    cases |= {f"rho_ab-{k}": {"method": "rho_ab", "ab_order": k} for k in range(4)}
    names = ("1euler", "2heun", "3kutta", "3ral", "3heun", "3vdh", "3ssprk", "4rk")
    cases |= {f"rho_rk-{k}": {"method": "rho_rk", "rk_method": k} for k in names}
    cases["ipndm"] = {"method": "ipndm"}
    for name, case in cases.items():
        network = Recorder(vp_share)
        sampler = source.get_sampler(sde, network, ts_phase="t", ts_order=2, num_step=8, **case)
        x = sampler(torch.as_tensor(X_T))
        yield f"deis/{name}", case | {"ts_phase": "t", "ts_order": 2}, network.record(x, T_END), 0


def er_sde():
    """github.com/QinpengCui/ER-SDE-Solver: `er_sde_solver.py`."""
    source = importlib.import_module("er_sde_solver")
    source.np = types.SimpleNamespace(exp=np.exp, log10=np.log10, sqrt=torch.sqrt, sum=torch.sum)
    sigmas = torch.as_tensor(np.geomspace(40.0, 0.02, 9))
    for order in (1, 2, 3):
        for kind in (1, 2, 4, 5, 6, 7):
            draws = Draws()
            source.torch = with_draws(draws)
            network = Recorder(ve_share)
            solver = source.ER_SDE_Solver("ve", "x_start")
            run = {1: solver.ve_1_order, 2: solver.ve_2_order_taylor, 3: solver.ve_3_order_taylor}[order]
            scale = functools.partial(source.customized_func, func_type=kind)
            x = run(network, torch.as_tensor(X_T) * sigmas[0], sigmas, sigmas, fn_sigma=scale)
            case = {"order": order, "noise_scale": kind, "schedule": "VE"}
            yield f"er-sde/{order}-{kind}", case, network.record(x, float(sigmas[-1])), draws.num_draws


def edm(folder):
    """github.com/NVlabs/edm: the function `edm_sampler` of `generate.py`, alone."""
    source = only(folder / "edm" / "generate.py", "edm_sampler", torch=torch, np=np)
    window = {"S_churn": 6.0, "S_min": 0.05, "S_max": 50.0, "S_noise": 1.003}
    for name, case in {"heun": {}, "churn": {"S_churn": 4.0}, "churn-window": window}.items():
        network = Recorder(ve_share)
        network.sigma_min, network.sigma_max, network.round_sigma = 0.0, float("inf"), torch.as_tensor
        draws = Draws()
        x = source.edm_sampler(network, torch.as_tensor(X_T), randn_like=draws, num_steps=8, **case)
        yield f"edm/{name}", case | {"schedule": "EDM"}, network.record(x, 0.0), draws.num_draws


def k_diffusion(folder):
    """github.com/crowsonkb/k-diffusion: functions of `k_diffusion/sampling.py`."""
    path = folder / "k-diffusion" / "k_diffusion" / "sampling.py"
    cases = {"dpmpp_2m": {}, "dpm_2": {}}
    cases |= {f"lms-{order}": {"order": order} for order in (1, 2, 3, 4)}
    for eta in (0.0, 0.5, 1.0):
        cases[f"dpmpp_3m_sde-{eta}"] = {"eta": eta}
        cases[f"dpmpp_2m_sde-{eta}"] = {"eta": eta, "solver_type": "midpoint"}
        cases[f"dpmpp_2m_sde-heun-{eta}"] = {"eta": eta, "solver_type": "heun"}
    for name, case in cases.items():
        draws = Draws()
        x = torch.as_tensor(X_T) * 80.0
        modules = {"torch": with_draws(draws), "math": math, "integrate": scipy.integrate}
        source = only(path, trange=trange, utils=UTILS, **modules)
        options = case | ({"noise_sampler": lambda *_: draws(x)} if "eta" in case else {})  # noqa: B023
        network = Recorder(ve_share)
        sampler = getattr(source, "sample_" + name.split("-")[0])
        result = sampler(network, x, source.get_sigmas_karras(8, 0.02, 80.0), **options)
        yield f"k-diffusion/{name}", case | {"schedule": "EDM"}, network.record(result, 0.0), draws.num_draws


def trange(n, disable=None):
    return range(n)


UTILS = types.SimpleNamespace(append_dims=lambda x, dims: x.reshape(*x.shape, *[1] * (dims - x.ndim)))


def sa_solver():
    """github.com/scxue/SA-Solver: `sa_solver.py`."""
    source = importlib.import_module("sa_solver")
    source.tqdm = lambda steps: steps
    schedule = source.NoiseScheduleVP("linear")
    for predictor, corrector in ((1, 0), (1, 1), (2, 0), (2, 2), (3, 3), (3, 4)):
        for algorithm in ("data_prediction", "noise_prediction"):
            for tau in (0.0, 0.6, 1.0):
                network = Recorder(vp_share)
                draws = Draws(unused=1)
                source.torch = with_draws(draws)
                solver = source.SASolver(network, schedule, algorithm_type=algorithm)
                orders = {"predictor_order": predictor, "corrector_order": corrector}
                x = solver.sample_few_steps(
                    images(X_T), lambda t, tau=tau: tau, 8, 1.0, T_END, skip_type="logSNR", **orders
                )
                name = f"sa-solver/{predictor}-{corrector}-{algorithm.split('_')[0]}-{tau}"
                case = orders | {"tau": tau, "algorithm_type": algorithm}
                yield name, case, network.record(x, T_END), draws.num_draws


def pndm(folder):
    """github.com/luping-liu/PNDM: `runner/method.py`; times count from the clean state, here 0."""
    source = only(folder / "PNDM" / "runner" / "method.py", th=torch)
    products = torch.cat([torch.ones(1), torch.cumprod(1 - torch.linspace(1e-4, 2e-2, 800), 0)])
    for name, method in {"s": "S-PNDM", "f": "F-PNDM", "ddim": "DDIM"}.items():
        network = Recorder(lambda t: math.sqrt(1 - float(products[int(t)])))
        x, outputs = images(X_T) * 1.0, []
        step, ask = source.choose_method(method), functools.partial(one_later, network)
        for t in range(799, 0, -100):
            x = step(x, torch.tensor([t]), torch.tensor([t - 100]), ask, products, outputs)
        states, times = network.record(x, 0.0)
        case = {"method": method, "alphas_cumprod": products[times.astype(int)].tolist()}
        yield f"pndm/{name}", case, (states, times), 0


def one_later(network, x, t):
    return network(x, t + 1)


def dpm_solver_v3():
    """github.com/thu-ml/DPM-Solver-v3: `codebases/edm/samplers/dpm_solver_v3.py`; smooth statistics."""
    source = importlib.import_module("dpm_solver_v3")
    schedule = importlib.import_module("dpm_solver_pytorch").NoiseScheduleVP("linear")
    source.np = types.SimpleNamespace(**{name: getattr(np, name) for name in dir(np)})
    source.np.load = lambda path: V3_STATISTICS
    source.print = lambda *_: None
    torch.Tensor.cuda = lambda self: self
    kinds = {"": (False, False), "-pseudo": (True, False), "-corrected": (False, True), "-both": (True, True)}
    for order in (1, 2, 3):
        for kind, (pseudo, corrector) in kinds.items():
            for degenerated in (False, True):
                solver = source.DPM_Solver_v3(
                    "", schedule, 8, 1.0, T_END, degenerated=degenerated, device="cpu"
                )
                network = Recorder(vp_share)
                case = {"order": order, "p_pseudo": pseudo, "use_corrector": corrector, "c_pseudo": True}
                x = solver.sample(network, images(X_T), lower_order_final=True, **case)
                name = f"dpm-solver-v3/{order}{kind}" + ("-degenerated" if degenerated else "")
                yield name, case | {"degenerated": degenerated}, network.record(x, T_END), 0


def score_sde():
    """github.com/yang-song/score_sde_pytorch: the predictor-corrector sampler of `sampling.py`."""
    for name in ("models", "models.utils"):  # only asked for the function that makes a score of a model
        sys.modules[name] = types.ModuleType(name)
    tools = sys.modules["models"].utils = sys.modules["models.utils"]
    tools.from_flattened_numpy = tools.to_flattened_numpy = None
    tools.get_score_fn = lambda sde, score, train, continuous: score
    source, library = importlib.import_module("sampling"), importlib.import_module("sde_lib")
    sde = library.VESDE(0.02, 40.0, N=5)
    sde.prior_sampling = lambda shape: images(X_T[:1]) * sde.sigma_max
    for steps in (1, 2):
        network, draws = Recorder(ve_share), Draws()
        source.torch = with_draws(draws)
        score = functools.partial(score_of, network, sde)
        sampler = source.get_pc_sampler(
            sde, (1, 3, 1, 1), source.AncestralSamplingPredictor, source.LangevinCorrector,
            lambda x: x, 0.16, steps, denoise=False, device="cpu",
        )  # fmt: skip
        x, _ = sampler(score)
        case = {"snr": 0.16, "corrector_steps": steps, "schedule": "VE", "input": "scaled"}
        yield f"score-sde/pc-{steps}", case, network.record(x, 0.0), draws.num_draws


def score_of(network, sde, x, t):
    sigma = sde.discrete_sigmas[(t * (sde.N - 1)).long()]
    network.states.append(x[:, :, 0, 0].numpy())
    network.times.append(float(sigma))
    return -model(torch, x / torch.sqrt(1 + sigma**2), torch.as_tensor(ve_share(float(sigma)))) / sigma


def main():
    warnings.simplefilter("ignore")
    folder = pathlib.Path(sys.argv[1])
    parts = (
        "dpm-solver",
        "UniPC",
        "deis",
        "ER-SDE-Solver",
        "SA-Solver",
        "score_sde_pytorch",
        "DPM-Solver-v3/codebases/edm/samplers",
    )
    sys.path[:0] = [str(folder / part) for part in parts]
    torch.FloatTensor = torch.DoubleTensor
    torch.Tensor.float = torch.Tensor.double  # the adaptive solver rounds its steps to float32 by this name
    index, arrays = [], {f"v3/{name}": value[::1000, :, 0, 0] for name, value in V3_STATISTICS.items()}
    runs = [run() for run in (dpm_solver, uni_pc, deis, er_sde, sa_solver, dpm_solver_v3, score_sde)]
    runs += [run(folder) for run in (edm, k_diffusion, pndm)]
    for part in runs:
        for name, case, (states, times), num_draws in part:
            assert states.dtype == np.float64 and np.all(np.isfinite(states)), name
            index.append(
                {"name": name, "config": case, "num_draws": num_draws, "num_evaluations": len(states) - 1}
            )
            arrays |= {f"{name}/states": states, f"{name}/times": times}
    path = HERE / "originals.npz"
    header = {"torch": torch.__version__, "jax": jax.__version__, "records": index}
    np.savez_compressed(path, header=json.dumps(header), x_T=X_T, noise=NOISE, **arrays)
    print(f"{len(index)} records, {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()

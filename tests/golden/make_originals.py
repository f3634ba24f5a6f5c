"""Make `originals.npz`: what the authors' own code computes for the samplers that they published.

    python tests/golden/make_originals.py CHECKOUTS

`CHECKOUTS` is a folder with the authors' repositories (`README.md` names them and their commits); nothing of
them is kept here. Needs torch and, for DEIS, jax.
"""

import ast
import functools
import importlib
import json
import pathlib
import sys
import types
import warnings

import jax
import numpy as np
import torch
from model import model

HERE = pathlib.Path(__file__).parent
SHAPE = (2, 3)
T_END = 1e-3
rng = np.random.default_rng(20232)
X_T = rng.standard_normal(SHAPE)
NOISE = rng.standard_normal((17, *SHAPE))
torch.set_default_dtype(torch.float64)
jax.config.update("jax_enable_x64", True)


class Recorder:
    """The network, which remembers where it was asked."""

    def __init__(self, share):
        self.share = share
        self.states, self.times = [], []

    def __call__(self, x, t, *_):
        t = float(torch.as_tensor(t).reshape(-1)[0])
        self.states.append(np.reshape(x.numpy(), SHAPE))
        self.times.append(t)
        return model(torch, x, torch.as_tensor(self.share(t)))

    def record(self, result, end):
        """Points of evaluation and their times, the result last."""
        return np.stack([*self.states, np.reshape(result.numpy(), SHAPE)]), np.asarray([*self.times, end])


def noise_source():
    """`randn_like` that hands out `NOISE` and counts."""
    count = [0]

    def randn_like(x):
        count[0] += 1
        return torch.as_tensor(NOISE[count[0] - 1]).reshape(x.shape)

    return randn_like, count


def images(x):
    return torch.as_tensor(x).reshape(*SHAPE, 1, 1)


def vp_share(t, b0=0.1, b1=20.0):
    """sigma of the linear VP schedule."""
    return np.sqrt(-np.expm1(2 * (-0.25 * t**2 * (b1 - b0) - 0.5 * t * b0)))


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
            cases[f"{algorithm}-{order}-single-time"] = cases[f"{algorithm}-{order}-single"] | {
                "skip_type": "time_uniform"
            }
            cases[f"{algorithm}-{order}-adaptive"] = fixed | {
                "method": "adaptive",
                "order": order,
                "rtol": 0.02,
                "atol": 0.002,
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
    sigmas = torch.as_tensor(np.geomspace(40.0, 0.02, 9))
    for order in (1, 2, 3):
        for kind in (1, 2, 4, 5, 6, 7):
            randn_like, count = noise_source()
            torch_seen = types.SimpleNamespace(**{k: getattr(torch, k) for k in dir(torch)})
            torch_seen.randn_like = randn_like
            source.torch = torch_seen
            source.np = types.SimpleNamespace(
                **{k: getattr(np, k) for k in ("float64", "arange", "exp", "log10")},
                sqrt=torch.sqrt,
                sum=torch.sum,
            )
            network = Recorder(lambda t: t / np.hypot(1.0, t))
            solver = source.ER_SDE_Solver("ve", "x_start")
            step = {1: solver.ve_1_order, 2: solver.ve_2_order_taylor, 3: solver.ve_3_order_taylor}[order]
            scale = functools.partial(source.customized_func, func_type=kind)
            x = step(network, torch.as_tensor(X_T) * sigmas[0], sigmas, sigmas, fn_sigma=scale)
            case = {"order": order, "noise_scale": kind, "prediction": "x0", "schedule": "VE"}
            yield f"er-sde/{order}-{kind}", case, network.record(x, float(sigmas[-1])), count[0]


def edm(folder):
    """github.com/NVlabs/edm: the function `edm_sampler` of `generate.py`, alone."""
    tree = ast.parse((folder / "edm" / "generate.py").read_text())
    body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "edm_sampler"]
    namespace = {"torch": torch, "np": np}
    exec(compile(ast.Module(body, type_ignores=[]), "generate.py", "exec"), namespace)
    churns = {
        "heun": {},
        "churn": {"S_churn": 4.0},
        "churn-window": {"S_churn": 6.0, "S_min": 0.05, "S_max": 50.0, "S_noise": 1.003},
    }
    for name, case in churns.items():
        network = Recorder(lambda t: t / np.hypot(1.0, t))
        network.sigma_min, network.sigma_max, network.round_sigma = 0.0, float("inf"), torch.as_tensor
        randn_like, count = noise_source()
        x = namespace["edm_sampler"](
            network, torch.as_tensor(X_T), randn_like=randn_like, num_steps=8, **case
        )
        yield f"edm/{name}", case | {"prediction": "x0", "schedule": "EDM"}, network.record(x, 0.0), count[0]


def main():
    warnings.simplefilter("ignore")
    folder = pathlib.Path(sys.argv[1])
    sys.path[:0] = [str(folder / part) for part in ("dpm-solver", "UniPC", "deis", "ER-SDE-Solver")]
    torch.Tensor.float = torch.Tensor.double  # the adaptive solver rounds its steps to float32 by this name
    index, arrays = [], {}
    for part in (dpm_solver(), uni_pc(), deis(), er_sde(), edm(folder)):
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

"""The golden records as tests see them: each with our schedule, the network, and the points of the grid."""

import json
import pathlib

import numpy as np

import nsolve.diffusion as nd

from .model import model

HERE = pathlib.Path(__file__).parent


class Record:
    """One run of another library: its states, where they stand on a schedule of ours, what its network is."""

    def __init__(self, file, entry):
        self.entry, self.config = entry, entry["config"]
        self.states = file[f"{entry['name']}/states"]
        self.start, self.noise = self.states[0].astype(float), file["noise"]
        self.churned = "S_churn" in self.config
        if self.churned:  # the noise stands before the first point of a step, that is before every other row
            self.start, self.noise = 80.0 * file["x_T"], np.repeat(self.noise, 2, axis=0)
        else:
            self.noise = np.concatenate([np.zeros_like(self.noise[:1]), self.noise])
        if "level" in entry:
            self._from_levels(*np.asarray(file[f"{entry['name']}/levels"], float), entry["level"])
        else:
            self._from_times(file[f"{entry['name']}/times"])

    def _from_levels(self, alpha, sigma, level):
        self.network, self.prediction = "plain", PREDICTIONS[self.config.get("prediction_type", "epsilon")]
        if level in ("variance_exploding", "log_midpoint"):
            self.schedule, self.times = nd.EDM(t_max=float(sigma.max())), sigma
            self.network = "scaled"
            if self.entry["scheduler"].startswith("EDM"):
                self.network, self.prediction = "preconditioned", "x0"
        elif level == "flow" or self.config.get("use_flow_sigmas"):
            self.schedule, self.times, self.prediction = nd.Flow(), sigma, "flow"
        else:
            self._from_products(alpha**2)
            self.prediction = "v" if level == "cosine" else self.prediction

    def _from_times(self, times):
        self.network, self.times = "plain", times
        if "alphas_cumprod" in self.config:
            self._from_products(self.config["alphas_cumprod"])
            self.prediction = "eps"
            return
        exploding = self.config.get("schedule") in ("VE", "EDM")
        self.schedule = nd.EDM() if exploding else nd.VPLinear()
        self.prediction = "x0" if exploding else "eps"
        if "input" in self.config:
            self.network, self.prediction = self.config["input"], "eps"

    def _from_products(self, products):
        """The discrete schedule of these alpha^2 alone, whatever integers other codes give them."""
        levels, where = np.unique(products, return_inverse=True)
        self.schedule, self.times = nd.Discrete(levels[::-1]), len(levels) - 1.0 - where


PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "flow"}


def _read(name):
    with np.load(HERE / name) as file:
        arrays = dict(file)
    entries = json.loads(str(arrays["header"]))["records"]
    return {entry["name"]: Record(arrays, entry) for entry in entries}


def v3_statistics():
    """(l, s, b) of DPM-Solver-v3's records, each (129, 3), at even steps of lam."""
    with np.load(HERE / "originals.npz") as file:
        return tuple(file[f"v3/{name}"] for name in "lsb")


RECORDS = _read("diffusers.npz") | _read("originals.npz")


def network(xp, kind, x, alpha, sigma):
    """What the network of a record answers, with the scheduler's scalings around it."""
    share = sigma / xp.sqrt(alpha**2 + sigma**2)
    if kind == "plain":
        return model(xp, x, share)
    if kind == "scaled":
        return model(xp, x / xp.sqrt(1 + sigma**2), share)
    norm = xp.sqrt(sigma**2 + 0.25)
    return 0.25 / norm**2 * x + 0.5 * sigma / norm * model(xp, x / norm, share)


def carry_out(plan, record):
    """All points of a plan on a record's network and noise: its docstring, in NumPy."""
    x, xi = record.start, record.noise
    registers = np.zeros((plan.num_registers, *x.shape))

    def row(i):
        w, shift = plan.weights[i], 0.0 if plan.shifts is None else plan.shifts[i]
        mean = w[0] * x + sum(weight * kept for weight, kept in zip(w[1:-1], registers, strict=True)) + shift
        return mean + w[-1] * xi[i] if plan.stochastic else mean

    points = [x := row(0)]
    for k in range(plan.num_evaluations):
        alpha, sigma = plan.alpha[k], plan.sigma[k]
        m = network(np, record.network, x, alpha, sigma)
        if record.prediction == "eps":
            x0 = (x - sigma * m) / alpha
        else:
            x0 = {"x0": m, "flow": x - sigma * m, "v": alpha * x - sigma * m}[record.prediction]
        registers[plan.registers[k]] = plan.reads[k, 0] * x + plan.reads[k, 1] * x0
        points.append(x := row(k + 1))
    return np.stack(points)


def grid_of(record, layout):
    """The grid's times, by where they are among the record's points; and how many points they account for.

    `layout`: the evaluations in each step, where all have as many; "heun": two, but for a last one with one;
    "S", "F": PNDM's start by Heun's method (whose second point is asked twice) or by three steps of four."""
    last = len(record.times) - 1
    if layout == "heun":
        where = [0, *range(1, last, 2), last]
    elif layout == "S":
        where = [0, *range(2, last + 1)]
    elif layout == "F":
        where = [0, 4, 8, *range(12, last + 1)]
    else:
        where = list(range(0, last + 1, layout))
    times = record.times[where]
    if record.churned:  # what the network saw first in a step is not the grid's
        times[0] = 80.0
    return times, where[-1] + 1

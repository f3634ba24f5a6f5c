"""Parity: our samplers pass through the same states as diffusers' schedulers and the authors' own code.

The records and how they were made: `tests/golden/README.md`. Every plan is carried out in NumPy, row by row
as its docstring says, and compared with the record at every point; `sample` itself on a few of each kind.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nsolve.diffusion as nd
from nsolve.diffusion import AbstractNoise, predictor_corrector

from .golden.records import RECORDS, carry_out, grid_of, network, v3_statistics


def _rows():
    """(name of a record, our sampler, layout of the record: see `grid_of`)."""
    pp, noise_form = nd.DPMSolverPP, nd.DPMSolver
    for name in ("leading", "trailing", "v", "sample"):
        yield f"ddim-{name}", nd.DDIM()
    for eta in (0.5, 1.0):
        yield f"ddim-eta-{eta}", nd.DDIM(eta=eta)
    yield "ddpm", nd.DDPM()
    yield "ddpm-large", nd.DDPM(variance="large")
    for prefix, make in (
        ("dpmsolver++", pp),
        ("dpmsolver", noise_form),
        ("sde-dpmsolver++", lambda **options: pp(sde=True, **options)),
    ):
        for order in (1, 2, 3):
            for kind in ("midpoint", "heun"):
                for end in ("full", "zero", "min"):
                    name = f"{prefix}-{order}" + ("-heun" if kind == "heun" else "") + f"-{end}"
                    if name in RECORDS:
                        yield (
                            name,
                            make(order=order, variant=kind, lower_order_final=end != "full", legacy=True),
                        )
    yield "dpmsolver++-2-euler-at-final", pp(order=2, lower_order_final=True)
    noise_sde = functools.partial(nd.SASolver, corrector_order=0, prediction="eps", tau=1.0)
    yield "sde-dpmsolver-1-full", noise_sde(1)
    yield "sde-dpmsolver-2-heun-full", noise_sde(2, lower_order_final=False)
    yield "sde-dpmsolver-2-heun-min", noise_sde(2)
    for name in ("karras", "flow"):
        yield f"dpmsolver++-2-{name}", pp(order=2)
    yield "dpmsolver++-2-16-steps", pp(order=2)
    for name in ("sample", "v"):
        yield f"dpmsolver++-2-{name}", pp(order=2, lower_order_final=False)
    yield "dpmsolver-2-sample", noise_form(order=2, lower_order_final=False)
    for order in (2, 3):
        yield f"dpmsolver++-{order}-single-heun", pp(order=order, mode="fast", variant="heun")
        yield f"dpmsolver-{order}-single-heun", noise_form(order=order, mode="fast", variant="heun")
    yield "dpmsolver++-2-single", pp(order=2, mode="fast")
    yield "dpmsolver-2-single", noise_form(order=2, mode="fast")
    for order in (1, 2, 3):
        for variant in ("bh1", "bh2"):
            for form in ("x0", "eps"):
                options = {"order": order, "variant": variant, "prediction": form}
                label = f"unipc-{order}-{variant}" + ("" if form == "x0" else "-noise")
                yield f"{label}-min", nd.UniPC(lower_order_final=True, **options)
                if form == "x0":
                    yield f"{label}-full", nd.UniPC(lower_order_final=False, **options)
        options = {"order": order, "corrector": False, "variant": "bh2"}
        yield f"unip-{order}-full", nd.UniPC(lower_order_final=False, **options)
    yield "unipc-3-zero", nd.UniPC(order=3, variant="bh2", lower_order_final=True)
    for order in (1, 2, 3):
        for final in (True, False):
            options = {"order": order, "variable": "log_rho", "lower_order_final": final}
            yield f"deis-{order}" + ("" if final else "-full"), nd.DEIS(**options)
    for predictor, corrector in ((2, 2), (3, 3), (3, 4)):
        for tau in (0, 1):
            orders = {"predictor_order": predictor, "corrector_order": corrector, "legacy": True}
            yield f"sa-{predictor}-{corrector}-tau-{tau}", nd.SASolver(tau=tau, **orders)
    yield "sa-3-3-tau-0.6-full", nd.SASolver(3, 3, tau=0.6, lower_order_final=False, legacy=True)
    yield "sa-2-3-noise", nd.SASolver(2, 3, prediction="eps", legacy=True)
    yield "pndm-prk", nd.PNDM("F", legacy=True), "F"
    yield "pndm-plms", nd.PNDM("PLMS", legacy=True), "S"
    yield "ipndm", nd.IPNDM(legacy=True)
    yield "heun", nd.EDMHeun(), "heun"
    yield "heun-karras", nd.RhoRK("heun"), "heun"
    yield "lms", nd.DEIS(order=4, variable="rho")
    yield "euler", nd.DDIM()
    yield "euler-ancestral", nd.DDIM(eta=1.0)
    yield "kdpm2", noise_form(order=2, mode="single"), 2
    yield "edm-euler", nd.DDIM()
    for order in (1, 2, 3):
        yield f"edm-dpmsolver++-{order}", pp(order=order, legacy=True)
        if order < 3:
            yield f"edm-sde-dpmsolver++-{order}", pp(order=order, sde=True, legacy=True)
    yield "flow-euler", nd.DDIM()
    yield "flow-euler-shift", nd.FlowRK("euler")
    yield "flow-heun-shift", nd.FlowRK("heun"), "heun"
    # the authors' own code
    for prefix, make in (("dpmsolver++", pp), ("dpmsolver", noise_form)):
        for order in (1, 2, 3):
            name = f"dpm-solver/{prefix}-{order}-multi"
            yield name, make(order=order, lower_order_final=True, legacy=True)
            yield f"{name}-full", make(order=order, lower_order_final=False, legacy=True)
            if order > 1:
                single = f"dpm-solver/{prefix}-{order}-single"
                yield single, make(order=order, mode="single"), order
                yield f"{single}-taylor", make(order=order, mode="single", variant="heun"), order
                yield f"{single}-time", make(order=order, mode="fast")
        yield f"dpm-solver/{prefix}-2-multi-taylor", make(order=2, variant="heun", lower_order_final=False)
        for budget in (9, 10, 11):
            yield f"dpm-solver/{prefix}-fast-{budget}", make(order=3, mode="fast")
    for eta in (0.0, 0.5, 1.0):
        yield f"k-diffusion/dpmpp_2m_sde-{eta}", pp(order=2, sde=eta)
        yield f"k-diffusion/dpmpp_2m_sde-heun-{eta}", pp(order=2, sde=eta, variant="heun")
    third = pp(order=3, variant="heun", lower_order_final=False, legacy=True)
    yield "k-diffusion/dpmpp_3m_sde-0.0", third
    yield "k-diffusion/dpmpp_2m", pp(order=2, lower_order_final=False)
    yield "k-diffusion/dpm_2", noise_form(order=2, mode="single"), 2
    for order in (1, 2, 3, 4):
        yield f"k-diffusion/lms-{order}", nd.DEIS(order=order, variable="rho")
        yield f"deis/t_ab-{order - 1}", nd.DEIS(order=order, variable="t", legacy=True)
        yield f"deis/rho_ab-{order - 1}", nd.DEIS(order=order, variable="rho", legacy=True)
    for name, (tableau, stages) in TABLEAUX.items():
        yield f"deis/rho_rk-{name}", nd.RhoRK(tableau), stages
    yield "deis/ipndm", nd.IPNDM(legacy=True)
    yield "pndm/ddim", nd.DDIM()
    yield "pndm/s", nd.PNDM("S", legacy=True), "S"
    yield "pndm/f", nd.PNDM("F", legacy=True), "F"
    yield "edm/heun", nd.EDMHeun(), "heun"
    yield "edm/churn", nd.EDMHeun(churn=4.0), "heun"
    window = {"churn_min": 0.05, "churn_max": 50.0, "noise_scale": 1.003}
    yield "edm/churn-window", nd.EDMHeun(churn=6.0, **window), "heun"
    for order in (1, 2, 3):
        for number, noise in NOISE_SCALES.items():
            yield f"er-sde/{order}-{number}", nd.ERSDE(order, noise, legacy=True)
    for predictor, corrector in ((1, 0), (2, 0), (2, 2), (3, 3), (3, 4)):
        for form, label in (("x0", "data"), ("eps", "noise")):
            for tau in (0.0, 0.6, 1.0):
                orders = {"predictor_order": predictor, "corrector_order": corrector, "prediction": form}
                name = f"sa-solver/{predictor}-{corrector}-{label}-{tau}"
                yield name, nd.SASolver(tau=functools.partial(but_last, tau), legacy=True, **orders)
    for order in (1, 2, 3):
        for variant in ("bh1", "bh2"):
            for form, label in (("x0", "data"), ("eps", "noise")):
                for final in (True, False):
                    options = {"order": order, "variant": variant, "prediction": form}
                    name = f"uni-pc/{variant}-{order}-{label}" + ("" if final else "-full")
                    yield name, nd.UniPC(lower_order_final=final, **options)


TABLEAUX = {"1euler": ("euler", 1), "2heun": ("heun", 2), "3kutta": ("kutta3", 3), "3ral": ("ralston3", 3)}
TABLEAUX |= {"3heun": ("heun3", 3), "3vdh": ("vdh3", 3), "3ssprk": ("ssprk3", 3), "4rk": ("rk4", 4)}
NOISE_SCALES = {1: "ode", 2: "sde", 4: "sde2", 5: "sde3", 6: "sde4", 7: "sde5"}


def but_last(tau, starts):
    """The authors' SA-Solver adds no noise in its last step."""
    return np.where(np.arange(len(starts)) < len(starts) - 1, tau, 0.0)


def _rows_of_v3():
    """DPM-Solver-v3's records hold trapezoidal sums, good to 1e-9."""
    exact = v3_statistics()
    plain = np.ones_like(exact[0]), np.zeros_like(exact[0]), np.zeros_like(exact[0])
    lam = np.linspace(*nd.VPLinear().lam(np.array([1.0, 1e-3])), len(exact[0]))
    pseudo = {"": None, "-pseudo": "predictor", "-corrected": "corrector", "-both": "both"}
    for order in (1, 2, 3):
        for kind, estimate in pseudo.items():
            for suffix, values in (("", exact), ("-degenerated", plain)):
                options = {"order": order, "pseudo": estimate, "corrector": kind in ("-corrected", "-both")}
                name = f"dpm-solver-v3/{order}{kind}{suffix}"
                yield name, nd.DPMSolverV3(nd.Statistics(lam, *values), lower_order_final=True, **options)


ROWS = [(row[0], row[1], row[2] if len(row) > 2 else 1) for row in (*_rows(), *_rows_of_v3())]


@pytest.mark.parametrize("name, sampler, layout", ROWS, ids=[row[0] for row in ROWS])
def test_plan_passes_through_recorded_states(name, sampler, layout):
    record = RECORDS[name]
    times, length = grid_of(record, layout)
    points = carry_out(sampler.plan(times, record.schedule), record)
    assert len(points) == length
    digits = 1e-8 if name.startswith("dpm-solver-v3") else 1e-11
    np.testing.assert_allclose(
        points, record.states[:length], rtol=0, atol=digits * np.abs(record.states).max()
    )


def test_every_record_is_used():
    """But for these, which have no counterpart here."""
    without = {
        "dpmsolver++-3-single": "reaches its third point by another update than the published one",
        "dpmsolver-3-single": "likewise",
        "sde-dpmsolver-2-full": "no midpoint form of the noise's SDE",
        "sde-dpmsolver-2-min": "likewise",
        "unipc-2-first-steps-uncorrected": "correctors are on or off",
        "sa-1-1": "a corrector of one output, the new one",
        "sa-solver/1-1": "likewise",
        "k-diffusion/dpmpp_3m_sde-0.5": "`legacy` has the sign that diffusers has",
        "k-diffusion/dpmpp_3m_sde-1.0": "likewise",
        "uni-pc/vary_coeff": "a corrector of first order, for any order",
        "adaptive": "below",
        "score-sde/pc": "below",
    }
    used = {row[0] for row in ROWS} | set(SAMPLED)
    unused = [name for name in RECORDS if name not in used]
    unknown = [name for name in unused if not any(key in name for key in without)]
    assert not unknown
    assert all(any(key in name for name in unused) for key in without)


class Network(eqx.Module):
    """The network of a record for `sample`."""

    kind: str = eqx.field(static=True)
    schedule: nd.AbstractSchedule

    def __call__(self, x, t):
        return network(jnp, self.kind, x, self.schedule.alpha(t), self.schedule.sigma(t)).astype(x.dtype)


class RecordedNoise(AbstractNoise):
    """The normal numbers of a record, one array for each row of a plan."""

    numbers: jnp.ndarray

    def check(self, plan):
        assert plan.num_evaluations < len(self.numbers)

    def init(self, like, clock):
        return None

    def draw(self, state, row, clock, next_clock, like):
        return self.numbers[row], state


SAMPLED = {
    "dpmsolver++-3-full": nd.DPMSolverPP(order=3, lower_order_final=False, legacy=True),
    "ddim-eta-1.0": nd.DDIM(eta=1.0),
    "unipc-3-bh2-min": nd.UniPC(order=3, variant="bh2", lower_order_final=True),
    "ddim-float32": nd.DDIM(),
    "dpmsolver++-2-float32": nd.DPMSolverPP(order=2, lower_order_final=True),
    "unipc-3-float32": nd.UniPC(order=3, variant="bh2", lower_order_final=True),
    "edm-dpmsolver++-2-float32": nd.DPMSolverPP(order=2),
    "flow-euler-float32": nd.DDIM(),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_sample_passes_through_recorded_states(name):
    record = RECORDS[name]
    single = record.states.dtype == np.float32
    denoiser = nd.Denoiser(Network(record.network, record.schedule), record.prediction, record.schedule)
    noise = RecordedNoise(jnp.asarray(record.noise))
    x_T = jnp.asarray(record.states[0])
    found = nd.sample(denoiser, SAMPLED[name], x_T, record.times, noise, trajectory=True)
    x, trajectory = found.value, found.trajectory
    assert x.dtype == record.states.dtype
    scale = np.abs(record.states).max()
    np.testing.assert_array_equal(x, trajectory.x[-1])
    np.testing.assert_allclose(trajectory.x, record.states, rtol=0, atol=(1e-5 if single else 1e-10) * scale)


ADAPTIVE = {"dpmsolver++-3": (3, "x0"), "dpmsolver-2": (2, "eps")}


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_steps_are_the_authors(name):
    """Ours divides what is left evenly into the last two steps: all before them are theirs."""
    record, (order, form) = RECORDS[f"dpm-solver/{name}-adaptive"], ADAPTIVE[name]
    options = {key: record.config[key] for key in ("rtol", "atol")}
    sampler = nd.AdaptiveDPMSolver(order, form)
    x_T = jnp.asarray(record.states[0])
    denoiser = nd.Denoiser(Network("plain", record.schedule), "eps", record.schedule)
    run = nd.sample_adaptive(denoiser, sampler, x_T, 1.0, 1e-3, max_steps=150, shared_steps=True, **options)
    starts = record.times[:-1:order]
    accepted = np.append(
        starts[:1], starts[1:][np.diff(starts) != 0]
    )  # a rejected step is tried again from there
    assert run.stats["num_steps"] == len(accepted)
    assert run.stats["num_evaluations"] == len(record.times) - 1
    # Each step depends on the errors of those before it: up to 85 of them pass on their rounding.
    np.testing.assert_allclose(run.t[: len(accepted) - 1], accepted[:-1], rtol=1e-9)
    np.testing.assert_allclose(run.value, record.states[-1], atol=1e-4)


@pytest.mark.parametrize("corrector_steps", (1, 2))
def test_predictor_corrector_is_the_authors(corrector_steps, monkeypatch):
    record = RECORDS[f"score-sde/pc-{corrector_steps}"]
    numbers = jnp.asarray(record.noise[1:, :1])
    monkeypatch.setattr(predictor_corrector, "normal_like", lambda key, number, like: numbers[number])
    grid = np.unique(record.times)[::-1]
    denoiser = nd.Denoiser(Network(record.network, record.schedule), record.prediction, record.schedule)
    x_T = jnp.asarray(record.states[0])
    x = nd.sample_predictor_corrector(
        denoiser, x_T, grid, jax.random.key(0), corrector_steps=corrector_steps
    ).value
    np.testing.assert_allclose(x, record.states[-1], rtol=0, atol=1e-10)

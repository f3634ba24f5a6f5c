"""Diffusion samplers on data whose flow is known, and on a network of digits: orders, errors after few
network evaluations, seconds, memory. Every sampler is on its usual grid, even steps in lam where none is
named. Some seven minutes on two cores, a third of them for tuning."""

import re
from collections.abc import Iterator

import polars as pl

from ..engine.suite import Group, Suite
from ..report.diffusion import DIFFUSERS, GROUP, MISSING, PROMISES_NONE, asking, prepared
from ..report.format import scientific, seconds
from ..report.tables import Promises, Row, Table, Value, matching, told
from ..work import diffusion

# Up to so many evaluations are few.
FEW = 10
# What tuned plans are measured against.
RIVAL = "unipc[order=3]"
IS_TUNED = pl.col("solver_name") == "tuned"


# --- what tuning is worth ---


def _beside_tuned(rows: pl.DataFrame) -> pl.DataFrame:
    """Errors of problems and evaluations with a plan tuned to them."""
    rows = asking("error")(rows).filter("ok")
    return rows.filter(IS_TUNED.any().over("problem", "size"))


_RIVALS = pl.col("true_residual").filter(pl.col("column") == RIVAL).first()
_BEST_TUNED = pl.col("true_residual").filter(IS_TUNED).min()


def _worth_of_tuning(rows: pl.DataFrame) -> str:
    few = (
        rows.filter(pl.col("size") <= FEW)
        .group_by(*GROUP, "size")
        .agg((_RIVALS / _BEST_TUNED).alias("ratio"))
    )
    ratios = few["ratio"].drop_nulls()
    if ratios.is_empty():
        return ""
    return (
        f"Up to {FEW} evaluations the best tuned plan leaves an error {ratios.min():.2g} to"
        f" {ratios.max():.2g} times smaller than {RIVAL}."
    )


def _from_to(theirs: float | None, ours: float | None) -> str:
    return "" if theirs is None or ours is None else f"{scientific(theirs)} → {scientific(ours)}"


TUNED = Table(
    "",
    name="diffusion-tuned",
    derive=_beside_tuned,
    group=(),
    rows=("problem",),
    headings={"problem": "mixture"},
    across="size",
    across_heading=lambda size: f"{size} evaluations",
    values=(Value("", _from_to, _RIVALS, _BEST_TUNED),),
    note=_worth_of_tuning,
    verdict=False,
)


# --- what the suite is for ---


def promises(rows: pl.DataFrame) -> Iterator[Row]:
    """Our figures beside others; lines whose records are missing are left out."""
    rows = prepared(rows)
    for part in (_kept_orders, _errors_beside, _seconds_beside, _memory_growth):
        yield from part(rows)


def _kept_orders(rows: pl.DataFrame) -> Iterator[Row]:
    stated = rows.filter((pl.col("asks") == "order") & ~PROMISES_NONE & ~MISSING)
    met = stated.filter("ok")
    if not met.is_empty():
        farthest = (met["stated_order"] - met["order"]).max()
        work = f"samplers of their stated order (the farthest below it: {farthest:.2f})"
        yield told(work, f"{len(met)} of {len(stated)}")


def _errors_beside(rows: pl.DataFrame) -> Iterator[Row]:
    """Tuned plans beside UniPC-3 of ours and the best of diffusers."""
    for found in _beside_tuned(rows).partition_by(*GROUP, "size", maintain_order=True):
        tuned = min(found.filter(IS_TUNED)["true_residual"])
        theirs = found.filter(pl.col("library") == DIFFUSERS).sort("true_residual").head(1)
        beside = pl.concat([found.filter(pl.col("column") == RIVAL), theirs])
        for name, error in beside.select("column", "true_residual").iter_rows():
            work = f"{found['problem'][0]}, error after {found['size'][0]} evaluations, tuned plan"
            yield told(work, scientific(tuned), f"`{name}`: {scientific(error)}", error / tuned)


def _seconds_beside(rows: pl.DataFrame) -> Iterator[Row]:
    rows = rows.filter((pl.col("asks") == "overhead") & pl.col("ok"))
    for row in rows.filter(pl.col("library") != DIFFUSERS).iter_rows(named=True):
        # How often a loop is unrolled is nothing to them.
        same = f"{DIFFUSERS}:" + re.sub(r",?unroll=\d+", "", row["solver"])
        theirs = rows.filter(matching({name: row[name] for name in GROUP} | {"solver": same}))["seconds"]
        beside = ()
        if not theirs.is_empty():
            beside = f"diffusers: {seconds(theirs[0])}", theirs[0] / row["seconds"]
        work = f"{row['problem']}, {row['size']} steps of `{row['solver']}`, the sampler itself"
        yield told(work, seconds(row["seconds"]), *beside)
        programs = 1 + len({*row["compiled"]} - {row["solver"]})
        work = f"the same, compiling; programs of {len(row['of_order'])} samplers of that order"
        yield told(work, f"{seconds(row['compile_s'])}; {programs}")


def _memory_growth(rows: pl.DataFrame) -> Iterator[Row]:
    for line in asking("gradient")(rows).filter("ok").partition_by("column", maintain_order=True):
        first, last = line.row(0, named=True), line.row(-1, named=True)
        if first["size"] == last["size"]:
            continue
        small, large = first["temporary_bytes"] / 2**20, last["temporary_bytes"] / 2**20
        work = f"`{first['column']}`: memory of a gradient, {first['size']} and {last['size']} steps"
        steps = f"steps: {last['size'] / first['size']:g}"
        yield told(work, f"{small:.1f} and {large:.1f} MiB", steps, large / small)


# --- cells ---

_MANY = [5, 6, 8, 10, 15, 20, 40]
_DIFFUSERS = ["diffusers:ddim", "diffusers:dpm_solver_pp[order=2]", "diffusers:dpm_solver_pp[order=3]",
              "diffusers:deis[order=3]", "diffusers:unipc[order=3]"]  # fmt: skip

SUITE = Suite(
    "Diffusion: samplers, their orders and their errors",
    diffusion.WORK,
    (
        # The order of every deterministic sampler, from exact starting values; the steps are doubled four
        # times.
        Group(
            "mixture1d",
            ["ddim@order", "dpm_solver[order=2]@order", "dpm_solver[order=3]@order",
             "dpm_solver[mode=single,order=2]@order", "dpm_solver[mode=single,order=3]@order",
             "dpm_solver_pp[order=2]@order", "dpm_solver_pp[order=2,variant=heun]@order",
             "dpm_solver_pp[order=3]@order", "dpm_solver_pp[mode=single,order=2]@order",
             "dpm_solver_pp[mode=single,order=3]@order", "unipc[order=1]@order", "unipc[order=2]@order",
             "unipc[order=3]@order", "unipc[corrector=false,order=3]@order", "sa_solver[tau=0.0]@order",
             "dpm_solver_v3[order=2]@order", "dpm_solver_v3[order=3]@order", "deis[order=2]@order",
             "deis[order=3]@order", "deis[order=3,variable=rho]@order", "pndm[kind=S]@order",
             "rho_rk[tableau=heun]@order", "rho_rk[tableau=kutta3]@order", "rho_rk[tableau=rk4]@order",
             "edm_heun@order", "flow_rk[tableau=heun]@order", "rf_solver@order", "accelerated_ddim@order",
             "er_sde[noise=ode,order=2]@order", "er_sde[noise=ode,order=3]@order"],
            size=40,
        ),
        # Of high orders, and as they were published.
        Group(
            "mixture1d",
            ["unipc[order=4]@order", "deis[order=4]@order", "ipndm@order", "pndm[kind=PLMS]@order",
             "pndm[kind=F]@order", "dpm_solver_pp[legacy=true,order=3]@order",
             "er_sde[legacy=true,noise=ode,order=3]@order", "ipndm[legacy=true]@order",
             "pndm[kind=F,legacy=true]@order"],
            size=80,
        ),
        # Samplers that add noise: the distance between distributions, from the mean and covariance of the
        # plan.
        Group(
            "gaussian",
            ["ddim[eta=1.0]@order", "ddpm@order", "ddpm[variance=large]@order",
             "dpm_solver_pp[order=1,sde=true]@order", "dpm_solver_pp[order=2,sde=true]@order",
             "sa_solver@order", "er_sde@order", "accelerated_ddpm@order"],
            size=40,
        ),
        # The error after so many evaluations. diffusers keeps its own grid, even in t; so do grid=uniform
        # here.
        Group(
            "ring",
            ["ddim", "dpm_solver_pp[order=2]", "dpm_solver_pp[order=3]",
             "dpm_solver_pp[mode=single,order=2]", "deis[grid=quadratic,order=3]", "unipc[order=2]",
             "unipc[order=3]", "dpm_solver_v3[order=3]", "edm_heun[grid=karras]",
             "dpm_solver_pp[grid=uniform,order=2]", "unipc[grid=uniform,order=3]",
             "diffusers:dpm_solver_pp[order=2]", "diffusers:unipc[order=3]"],
            size=_MANY,
        ),
        Group(
            "clusters",
            ["ddim", "dpm_solver[order=3]", "dpm_solver_pp[order=2]", "dpm_solver_pp[order=3]",
             "dpm_solver_pp[mode=single,order=2]", "deis[grid=quadratic,order=3]", "ipndm[grid=quadratic]",
             "unipc[order=2]", "unipc[order=3]", "dpm_solver_v3[order=3]", "edm_heun[grid=karras]",
             "er_sde[noise=ode,order=3]", "flow_rk[grid=karras,tableau=heun]", "ddim[grid=uniform]",
             "dpm_solver_pp[grid=uniform,order=2]", "dpm_solver_pp[grid=uniform,order=3]",
             "deis[grid=uniform,order=3,variable=log_rho]", "unipc[grid=uniform,order=3]", *_DIFFUSERS],
            size=_MANY,
        ),
        Group(
            ["mixture1d", "lattice", "near_singular"],
            ["ddim", "dpm_solver[order=3]", "dpm_solver_pp[order=2]", "dpm_solver_pp[order=3]",
             "dpm_solver_pp[mode=single,order=2]", "deis[grid=quadratic,order=3]", "ipndm[grid=quadratic]",
             "unipc[order=2]", "unipc[order=3]", "dpm_solver_v3[order=3]", "edm_heun[grid=karras]",
             "er_sde[noise=ode,order=3]", "flow_rk[grid=karras,tableau=heun]", *_DIFFUSERS],
            size=[5, 10, 20],
        ),
        # Plans tuned to a problem, judged by other starting values than they were tuned on.
        Group(["ring", "clusters"], "tuned[num_steps=400,order=2]", size=[5, 6, 8, 10]),
        Group(["mixture1d", "lattice", "near_singular"], "tuned[num_steps=400,order=2]", size=[5, 10]),
        # Distributions again, after few evaluations.
        Group(
            "gaussian",
            ["ddim", "dpm_solver_pp[order=2]", "unipc[order=3]", "ddim[eta=1.0]", "ddpm",
             "dpm_solver_pp[order=2,sde=true]", "sa_solver", "er_sde", "edm_heun[churn=10.0,grid=karras]",
             "accelerated_ddpm"],
            size=_MANY,
        ),
        # What the sampler itself takes, beside a network that takes nothing: many images, and a single small
        # one.
        Group(
            ["images", "images[batch=1,side=8]"],
            ["dpm_solver_pp[order=2]", "dpm_solver_pp[order=2,unroll=20]", "dpm_solver_pp[order=3]",
             "unipc[order=3]", "deis[order=3]", "diffusers:dpm_solver_pp[order=2]",
             "diffusers:dpm_solver_pp[order=3]", "diffusers:unipc[order=3]"],
            size=20,
            dtype="float32",
        ),
        # Reverse mode through all steps.
        Group(
            "images[batch=4,network=convolutions,side=32]",
            [f"dpm_solver_pp[checkpoints={kept},order=2]@gradient" for kept in ("none", "step", "sqrt", 4)],
            size=[8, 16, 32, 64, 128],
            dtype="float32",
            repeats=3,
        ),
        # A network that was trained on the digits of scikit-learn.
        Group(
            "trained_digits",
            ["ddim", "ddpm", "dpm_solver[order=3]", "dpm_solver_pp[order=2]", "dpm_solver_pp[order=3]",
             "dpm_solver_pp[mode=single,order=2]", "dpm_solver_pp[order=2,sde=true]",
             "deis[grid=quadratic,order=3]", "ipndm[grid=quadratic]", "unipc[order=2]", "unipc[order=3]",
             "sa_solver", "edm_heun[grid=karras]", "er_sde", "flow_rk[grid=karras,tableau=heun]"],
            size=[5, 10, 20],
            dtype="float32",
        ),
    ),
    tables=(Promises(promises, name="diffusion-promises"), TUNED),
)  # fmt: skip

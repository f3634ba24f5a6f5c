"""Media: diffusion through coefficients that jump, in the plane and in space, multigrid beside multigrid.

Set-up and solve together, to a true relative residual of 1e-8; every column of a system in one run. The
judge is the true residual. Libraries that are not here are left out.
"""

from functools import partial

import polars as pl

from ..engine.suite import Group, Suite
from ..report.format import number, seconds
from ..report.tables import Table, Value
from ..work import linear

_OWN = ("cg+multigrid", "cg+amg")
_BY_FACTORS = "cg+multigrid[smoother=incomplete_cholesky]"
#: Other cycles and smoothers of `cg+multigrid`.
_CYCLES = [
    f"cg+multigrid[{options}]"
    for options in ("cycle=W", "cycle=F", "sweeps=1", "sweeps=4", "smoother=fourth_kind",
                    "smoother=fourth_kind,sweeps=4", "smoother=jacobi", "smoother=l1_jacobi",
                    "smoother=multicolour", "smoother=line", "interpolation=energy")
]  # fmt: skip
_PEERS = (
    "amgcl:ruge_stuben+cg", "amgcl:smoothed_aggregation+cg",
    "pyamg:ruge_stuben+cg", "pyamg:smoothed_aggregation+cg",
)  # fmt: skip
_NAMES = {
    "media2d[law=smooth]": "smooth, sigma 2",
    "media2d[law=rough]": "exponential covariance, sigma 2",
    "media2d[law=white]": "white noise a cell, sigma 2",
    "media2d": "3x3-cell blocks, half at 1e4",
    "media2d[cells=2]": "2x2-cell blocks, 70 % at 1e4",
    "media2d[cells=5,law=checkerboard]": "checkers of 5 cells, 1e4",
    "media2d[cells=11,law=checkerboard]": "checkers of 11 cells, 1e4",
    "media2d[cells=16,law=checkerboard]": "checkers of 16 cells, 1e4",
    "rotated2d[angle=0]": "anisotropy 1:100, 0 degrees",
    "rotated2d[angle=15]": "anisotropy 1:100, 15 degrees",
    "rotated2d[angle=30]": "anisotropy 1:100, 30 degrees",
    "rotated2d[angle=45]": "anisotropy 1:100, 45 degrees",
    "rotated2d[angle=15,epsilon=0.001]": "anisotropy 1:1000, 15 degrees",
    "media3d[law=smooth]": "3-D, smooth, sigma 2",
    "media3d": "3-D, 8-cell blocks at 1e4",
    "pressure3d": "3-D, obstacles, free surface",
}
_PLANE = [name for name in _NAMES if "3d" not in name]
_TURNED = [name for name in _PLANE if "rotated" in name]
_STRAIGHT = [name for name in _PLANE if name not in _TURNED]
_SPACE = [name for name in _NAMES if "3d" in name]
_group = partial(Group, repeats=3, kill_s=300.0, max_steps=500)


def _named(rows: pl.DataFrame) -> pl.DataFrame:
    names = pl.col("problem").replace_strict(_NAMES, default=pl.col("problem"))
    return rows.with_columns(names.alias("medium"))


def _table(name: str, title: str, value: Value, where: pl.Expr) -> Table:
    return Table(
        name=name,
        title=title,
        group=(),
        rows=("medium", "size"),
        where=where & (pl.col("result") != "missing"),
        derive=_named,
        across="solver",
        values=(value,),
        verdict=False,
    )


_STEPS = Value("", number, pl.when("ok").then("num_steps"))
_SECONDS = Value("", seconds, pl.when("ok").then("total"))
_IN_PLANE = ~pl.col("problem").str.contains("3d")
_CYCLED = ["media2d[law=smooth]", "media3d[law=smooth]"]
_IS_CYCLE = pl.col("solver").is_in(_CYCLES)

SUITE = Suite(
    "Media: diffusion through coefficients that jump, to a true relative residual of 1e-8",
    linear.WORK,
    (
        _group(_PLANE, [*_OWN, *_PEERS], size=512),
        _group("media2d", [*_OWN, *_PEERS[:3]], size=1024),
        _group(_STRAIGHT, ["cg+multigrid", *_PEERS[:2]], size=[128, 256]),
        # AMGCL's other coarsening may end the process on bilinear elements.
        _group(_TURNED, ["cg+multigrid", _PEERS[1]], size=[128, 256]),
        _group(_SPACE, [*_OWN, _BY_FACTORS, *_PEERS], size=64),
        _group(_SPACE, ["cg+multigrid", *_PEERS[:2]], size=128),
        _group(_CYCLED[1], ["cg+multigrid", _PEERS[1]], size=192),
        _group(_CYCLED[0], _CYCLES, size=512),
        _group(_CYCLED[1], _CYCLES, size=64),
    ),
    tables=(
        _table("plane-seconds", "Set-up and solve, in the plane", _SECONDS, _IN_PLANE & ~_IS_CYCLE),
        _table("plane-steps", "Steps, in the plane", _STEPS, _IN_PLANE & ~_IS_CYCLE),
        _table("space-seconds", "Set-up and solve, in space", _SECONDS, ~_IN_PLANE & ~_IS_CYCLE),
        _table("space-steps", "Steps, in space", _STEPS, ~_IN_PLANE & ~_IS_CYCLE),
        Table(
            name="cycles",
            title="Cycles and smoothers of multigrid",
            group=(),
            where=(pl.col("solver").is_in(["cg+multigrid", *_CYCLES]) & pl.col("problem").is_in(_CYCLED))
            & pl.col("size").is_in([64, 512]),
            derive=_named,
            across="medium",
            values=(Value("steps", number, "num_steps"), Value("both", seconds, "total")),
        ),
    ),
)

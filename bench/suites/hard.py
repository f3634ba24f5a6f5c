"""Systems on which solvers fail: saddle points, circuits, strong wind, bad units, all but singular matrices,
and matrices from practice.

The judge is the true relative residual, 1e-8; times are those of set-up and solve, and
of a first call in a process of its own for some.
Libraries and matrices that are not here are left out of what is told of all systems.
"""

from functools import partial

import polars as pl

from ..engine.suite import Group, Suite
from ..report.charts import Axis, Chart, Panel
from ..report.format import number, seconds
from ..report.frame import SYSTEM
from ..report.tables import Table, Value
from ..work import linear

_group = partial(Group, max_steps=2000, repeats=3, kill_s=300.0)
# SciPy's own order; the column's default is for symmetric pivots, which these have not.
_SPLU = "scipy:splu[ordering=COLAMD]"
_GENERAL = (
    "auto", "sparse_lu", "gmres[restart=50]+ilu", "bicgstab+ilu",
    _SPLU, "scipy:gmres[restart=50]+ilu", "klujax:klu", "splineax:auto",
)  # fmt: skip
_REAL = (*_GENERAL, "gmres[restart=50]+ilut", "petsc:gmres[restart=50]+ilu")
_SADDLE = (
    "auto", "sparse_lu", "minres", "gmres[restart=50]+ilu",
    _SPLU, "scipy:minres[stop=norm]", "scipy:gmres[restart=50]+ilu", "klujax:klu", "splineax:auto",
    "petsc:minres",
)  # fmt: skip


def _blocks(split: int) -> str:
    """The leading block, of the velocities or the variables, apart from the rest."""
    return f"minres+saddle_point[split={split}]"


_HERMITIAN = (
    "auto", "sparse_cholesky", "sparse_lu", "cg+ic", "scipy:splu", "klujax:klu", "splineax:auto",
)  # fmt: skip
_DEFINITE = (
    *_HERMITIAN, "cg+ict", "sparsax:cholmod", "petsc:cg+icc", "petsc:cg+cholesky",
    "pyamg:ruge_stuben+cg", "pyamg:smoothed_aggregation+cg",
)  # fmt: skip
_HERE = pl.col("result") != "missing"


def _by_short_names(rows: pl.DataFrame) -> pl.DataFrame:
    """One name for columns whose options differ only since the systems do."""
    return rows.with_columns(pl.col("solver").str.replace(r"\[(split=\d+|ordering=COLAMD)\]", ""))


def _beside_fastest(rows: pl.DataFrame) -> pl.DataFrame:
    """Seconds over those of the fastest success on the same system."""
    rows = _by_short_names(rows)
    for name in {"total", "first_call_s"} & {*rows.columns}:
        least = pl.when("ok").then(name).min().over(SYSTEM)
        rows = rows.with_columns(pl.when("ok").then(pl.col(name) / least).alias(f"{name}_ratio"))
    return rows


def _profile(rows: pl.DataFrame) -> pl.DataFrame:
    """Of each solver, the share of all systems that it solves in so many times the seconds of the fastest."""
    systems = rows.select(SYSTEM).n_unique()
    solved = _beside_fastest(rows).filter("ok").sort("total_ratio")
    share = pl.int_range(1, pl.len() + 1).over("solver") / systems
    return solved.select(
        "solver", "work", "problem", pl.col("total_ratio").alias("ratio"), share.alias("share")
    )


def _mean(name: str) -> pl.Expr:
    return pl.col(name).log().mean().exp()


SUITE = Suite(
    "Hard: saddle points, circuits, bad units, matrices from practice, to a true relative residual of 1e-8",
    linear.WORK,
    (
        _group("stokes2d", _SADDLE, size=[16, 32, 64]),
        *(_group("stokes2d", _blocks(2 * n * (n - 1)), size=n) for n in (16, 32, 64)),
        _group("kkt", _SADDLE, size=[1000, 10000]),
        *(_group("kkt", _blocks(n), size=n) for n in (1000, 10000)),
        _group("circuit", _REAL, size=[1000, 10000]),
        _group("badly_scaled2d", _REAL, size=[32, 128]),
        _group("convection_diffusion2d[peclet=1e5]", _REAL, size=[64, 128]),
        _group("nearly_singular2d", (*_DEFINITE, "cg+multigrid"), size=[64, 256]),
        _group([f"real[name={name}]" for name in ("494_bus", "bcsstk16")], _DEFINITE),
        _group("real[name=mhd1280b]", _HERMITIAN),
        _group(
            [f"real[name={name}]" for name in ("olm1000", "watt_2", "west0479", "rajat19")],
            _REAL,
            first_call=1,
        ),
        _group("real[name=young1c]", _GENERAL),
    ),
    tables=(
        Table(
            name="solved",
            title="Systems solved, and seconds over those of the fastest",
            group=(),
            where=_HERE,
            derive=_beside_fastest,
            values=(
                Value("solved", lambda ok, of: f"{ok} of {of}", pl.col("ok").sum(), pl.len(), stay=True),
                Value("set-up and solve", lambda x: f"{number(x)}x", _mean("total_ratio")),
                Value("first call", lambda x: f"{number(x)}x", _mean("first_call_s_ratio")),
            ),
            verdict=False,
        ),
        Table(
            name="sizes",
            title="{problem}",
            group=("problem",),
            where=(pl.col("problem_name") != "real") & _HERE,
            derive=_by_short_names,
            across="size",
            across_heading="{:,}".format,
            values=(Value("set-up and solve", seconds, "total", ok=True),),
            verdict=False,
        ),
        Table(
            name="real",
            title="Matrices from practice: set-up and solve",
            group=(),
            where=(pl.col("problem_name") == "real") & _HERE,
            derive=_by_short_names,
            across="problem.name",
            values=(Value("", seconds, "total", ok=True),),
            verdict=False,
        ),
    ),
    charts=(
        Chart(
            "profile",
            "Share of all systems solved in so many times the seconds of the fastest",
            needs="cells that succeeded",
            group=(),
            where=_HERE,
            derive=_profile,
            panels=(
                Panel(
                    "points",
                    Axis("ratio", "set-up and solve, times the fastest", log=True),
                    Axis("share", "share of systems solved"),
                    width=560,
                    domain=lambda rows: (0.0, 1.02),
                ),
            ),
        ),
    ),
)

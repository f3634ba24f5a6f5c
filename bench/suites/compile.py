"""What compiling costs: each solver's value and gradient from traced coefficients, beside lineax's own.

Times are those of a quiet machine; it takes about four minutes there.
"""

from functools import partial

import polars as pl

from ..engine.process import STAGES
from ..engine.suite import Group, Suite
from ..report.format import NONE, seconds
from ..report.tables import Table, Value, has
from ..work import linear

_group = partial(Group, "lognormal2d[contrast=100.0]", stages=2, repeats=1)
_KINDS = ("value", "gradient")


def _beside_lineax(rows: pl.DataFrame) -> pl.DataFrame:
    """All stages together, and their ratio to lineax's solver of the same name, of its CG where it has
    none."""
    names = [f"stages.{kind}.{stage}" for kind in _KINDS for stage in STAGES]
    if not has(rows, *names):
        return rows.clear()
    theirs = pl.col("library") == "lineax"
    for kind in _KINDS:
        whole = pl.sum_horizontal(*(pl.col(f"stages.{kind}.{stage}") for stage in STAGES), ignore_nulls=False)
        rows = rows.with_columns(whole.alias(kind))
        same = pl.col(kind).filter(theirs).first().over("problem", "size", "solver_name")
        any_cg = pl.col(kind).filter(theirs & (pl.col("solver_name") == "cg")).first().over("problem", "size")
        rows = rows.with_columns((pl.col(kind) / pl.coalesce(same, any_cg)).alias(f"{kind}_ratio"))
    return rows


def _ratio(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}"


SUITE = Suite(
    "Compile: tracing, lowering and compiling a solve and its gradient",
    linear.WORK,
    (
        _group(
            ["lineax:cg[form=stencil]", "cg[form=stencil]", "flexible_cg[form=stencil]",
             "minres[form=stencil]",
             "lineax:bicgstab[form=stencil]", "bicgstab[form=stencil]",
             "lineax:gmres[form=stencil]", "gmres[form=stencil]", "fgmres[form=stencil]"],
            size=64,
        ),
        _group(
            ["lineax:cg[form=stencil]", "cg[form=stencil]", "cg+multigrid", "cg[form=stencil]+ic"],
            size=512,
            first_call=1,
        ),
    ),
    tables=(
        Table(
            name="compile",
            title="",
            group=(),
            rows=("system", "solver"),
            derive=_beside_lineax,
            values=(
                Value("value", seconds, "value", stay=True),
                Value("× lineax", _ratio, "value_ratio", stay=True),
                Value("with gradient", seconds, "gradient", stay=True),
                Value("× lineax", _ratio, "gradient_ratio", stay=True),
                Value("of it traced", seconds, "stages.gradient.trace_s", stay=True),
                Value("first call", seconds, "first_call_s"),
            ),
            verdict=False,
        ),
    ),
)  # fmt: skip

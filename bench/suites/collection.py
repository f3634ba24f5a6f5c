"""Collection: square matrices of at most 20 000 rows from the SuiteSparse collection, by kind.

`auto`, which is told nothing but the matrix, beside SuperLU with its default order; the judge is the true
relative residual, 1e-8.  The variable NSOLVE_MATRICES names the folder with the files; those that are not
there are left out of the tables.

Davis and Hu (2011), doi:10.1145/2049662.2049663.
"""

import polars as pl

from ..engine.suite import Group, Suite
from ..report.format import number, seconds
from ..report.tables import Table, Value
from ..work import linear

KINDS = {
    "acoustics, waveguides": "young1c young3c dw2048 dw8192 dwg961b",
    "chemistry": "west0067 west0156 west0479 west0497 bayer10 fs_183_1 fs_183_6 olm500 olm1000 cryg2500",
    "circuits": "rajat01 rajat19 add20 add32 adder_dcop_05 memplus jpwh_991",
    "convection, reaction": "pde225 pde900 pde2961 rdb1250 rdb1250l rdb2048 rdb2048l epb0",
    "economics": "mbeacxc c_mbeacxc mahindas",
    "fluid flow": "fidapm05 fidap007 cavity14 lns_3937 bcsstk13",
    "meshes, statistics": "jagmesh7 Chem97ZtZ Trefethen_500 gr_30_30",
    "oil reservoirs": "sherman1 sherman2 sherman3 sherman4 sherman5 orsirr_1 watt_2",
    "optimisation": (
        "bp_200 bp_1200 zenios tumorAntiAngiogenesis_2 reorientation_1 hangGlider_2 ACTIVSg200_AC"
    ),
    "physics": "arc130 qc324 utm300 mhd1280b nnc1374",
    "power networks": "494_bus 662_bus 1138_bus ScaleMicrogrid_N1000",
    "structures": "bcsstk02 bcsstk15 bcsstk16 lund_a nos5",
}
_KIND = {name: kind for kind, names in KINDS.items() for name in names.split()}
# SciPy's own order; the column's default is for symmetric pivots, which these have not.
_SPLU = "scipy:splu[ordering=COLAMD]"
_HERE = pl.col("result") != "missing"


def _by_kind(rows: pl.DataFrame) -> pl.DataFrame:
    """The kind, and of each system the seconds over SuperLU's."""
    theirs = pl.when((pl.col("solver") == _SPLU) & pl.col("ok")).then("total").max().over("problem")
    ours = pl.when((pl.col("solver") == "auto") & pl.col("ok")).then("total")
    kind = pl.col("problem.name").replace_strict(_KIND, default="other")
    return rows.with_columns(kind.alias("kind"), theirs.alias("theirs"), (ours / theirs).alias("ratio"))


def _solved(solver: str) -> pl.Expr:
    return (pl.col("ok") & (pl.col("solver") == solver)).sum()


def _in_short(text: str) -> str:
    return text if len(text) < 80 else f"{text[:76].rstrip()} ..."


_VALUES = (
    Value("systems", "{:,}".format, pl.col("problem").n_unique()),
    Value("auto", "{}".format, _solved("auto"), stay=True),
    Value("splu", "{}".format, _solved(_SPLU), stay=True),
    Value(
        "slowest of auto", seconds, pl.when((pl.col("solver") == "auto") & pl.col("ok")).then("total").max()
    ),
    Value("auto over splu, median", number, pl.col("ratio").median()),
)

SUITE = Suite(
    "Collection: matrices from practice by kind, to a true relative residual of 1e-8",
    linear.WORK,
    (
        Group(
            [f"real[name={name}]" for name in _KIND],
            ["auto", _SPLU],
            repeats=3,
            kill_s=300.0,
        ),
    ),
    tables=(
        Table(
            name="kinds",
            title="Systems solved, by kind; set-up and solve",
            group=(),
            rows=("kind",),
            where=_HERE,
            derive=_by_kind,
            values=_VALUES,
            verdict=False,
        ),
        Table(
            name="unsolved",
            title="Systems that one of both does not solve",
            group=(),
            rows=("problem.name",),
            headings={"problem.name": "matrix"},
            where=_HERE,
            derive=lambda rows: rows.filter(~pl.col("ok").all().over("problem")),
            across="solver",
            values=(Value("", _in_short, pl.when("ok").then(pl.lit("solved")).otherwise("reason")),),
            verdict=False,
        ),
    ),
)

"""Tables and charts of linear systems, which several works and suites share."""

import polars as pl

from .charts import Axis, Chart, Panel
from .format import count, mebibytes, number, scientific, seconds, solves, text
from .frame import SYSTEM
from .tables import Table, Value, has

SOLVE = Value("solve", seconds, "seconds", stay=True)
SETUP = Value("set-up", lambda s: seconds(s or None), "setup", wide=84)
COMPILE = Value("compile", lambda s: seconds(s or None), "compile_s", wide=96)
RESIDUAL = Value("residual", scientific, "true_residual", stay=True)


def system_title(rows: pl.DataFrame) -> str:
    """`poisson2d 64, 4,096 unknowns`; a precision that is not double."""
    first = rows.row(0, named=True)
    unknowns = rows["unknowns"].drop_nulls() if has(rows, "unknowns") else []
    text = first["system"] + (f", {unknowns[0]:,} unknowns" if len(unknowns) else "")
    dtype = first.get("dtype", "float64")
    return text if dtype == "float64" else f"{text}, {dtype}"


EVERY_SOLVE = Table(
    title=system_title,
    group=SYSTEM,
    rows=("solver", "rtol"),
    values=(
        Value("steps", count, "num_steps", stay=True),
        Value("products", count, "num_matvecs", wide=120),
        SETUP,
        COMPILE,
        Value("± iqr", lambda s: seconds(s or None), "iqr", wide=132),
        Value("first call", seconds, "first_call_s", wide=150),
        Value("training", seconds, "train_s"),
        Value("break-even", solves, "break_even"),
        Value("memory", mebibytes, "peak_bytes", wide=150),
        SOLVE,
        RESIDUAL,
    ),
)
EVERY_RUN = Table(
    title="",
    name="every run",
    group=(),
    rows=("index", "system", "solver"),
    headings={"index": "#", "system": "problem"},
    values=(
        # What is usual is not said.
        Value("dtype", text, pl.col("dtype").filter(pl.col("dtype") != "float64").first()),
        Value("seed", text, pl.col("seed").filter(pl.col("seed") != 0).first()),
        Value("rtol", scientific, "rtol"),
        Value("steps", count, "num_steps"),
        SOLVE,
        Value("spread", lambda s: seconds(s or None), "iqr"),
        SETUP,
        COMPILE,
        Value("true error", scientific, "true_residual", stay=True),
    ),
)


def _breakdown(rows: pl.DataFrame) -> pl.DataFrame:
    """The text beside the bars: steps, and what is paid once."""

    def told(row: dict) -> str:
        parts = [seconds(row["seconds"])]
        if row["steps"]:
            parts.append(f"{number(row['steps'])} step{'s' * (row['steps'] != 1)}")
        return ", ".join(parts) + ("" if row["ok"] else f"  × {row['reason']}")

    def once(row: dict) -> str:
        return " + ".join(seconds(part) for part in (row["setup"], row["compile_s"]) if part and part > 1e-5)

    rows = rows.sort(~pl.col("ok"), "seconds", maintain_order=True)
    return rows.with_columns(
        pl.Series("told", [told(row) for row in rows.to_dicts()], dtype=pl.String),
        pl.Series("once", [once(row) for row in rows.to_dicts()], dtype=pl.String),
        pl.when(pl.col("seconds").is_not_null())
        .then(pl.col("setup").fill_null(0) + pl.col("compile_s").fill_null(0))
        .alias("once_s"),
    )


def _histories(rows: pl.DataFrame) -> pl.DataFrame:
    """Residuals up to the first that is no positive number, where a logarithmic axis ends; of one solver at
    several tolerances the tightest, which shows the most."""
    rows = rows.filter(pl.col("rtol") == pl.col("rtol").min().over("solver", *SYSTEM))
    if not isinstance(rows.schema.get("residual_norms"), pl.List):
        return rows
    norms, norm = pl.col("residual_norms"), pl.element()
    good = norms.list.eval((norm.is_finite() & (norm > 0)).fill_null(False).cast(pl.Int64).cum_min())
    rows = rows.with_columns(norms.list.head(good.list.sum()))
    return rows.with_columns(pl.when(norms.list.len() > 1).then(norms))


def _uneven(rows: pl.DataFrame) -> bool:
    """Whether some lines are so long that others would be lost beside them."""
    longest = rows.group_by("index").agg(pl.col("place").max())["place"]
    return longest.max() > 20 * max(1, longest.min())  # pyright: ignore


CONVERGENCE = Chart(
    "convergence",
    "{system}: convergence",
    needs="cells with residual_norms (run them with their history)",
    group=SYSTEM,
    derive=_histories,
    panels=(
        Panel(
            "line",
            Axis("place", "iterations", log=_uneven, zero=True),
            Axis("residual_norms", "relative residual", log=True),
            explode=("residual_norms",),
            level="rtol",
            width=560,
        ),
    ),
)
_UNKNOWNS = Axis("unknowns", "unknowns", log=True)
SIZES = Chart(
    "size",
    "{problem}: iterations against size (rtol {tolerance})",
    needs="iteration counts at two sizes of a problem or more",
    group=("problem", "rtol", "dtype", "device", "seed"),
    panels=(
        Panel("points", _UNKNOWNS, Axis("steps", "iterations", log=True), width=400),
        Panel("points", _UNKNOWNS, Axis("total", "set-up and solve, seconds", log=True), width=400),
    ),
)
WORK_PRECISION = Chart(
    "work-precision",
    "{system}: work against precision",
    needs="timed cells at two tolerances or more",
    group=SYSTEM,
    enough=lambda rows: rows["rtol"].n_unique() > 1,
    panels=(
        Panel(
            "points",
            Axis("true_residual", "true relative residual reached", log=True, reverse=True),
            Axis("seconds", "solve, seconds", log=True),
            width=560,
        ),
    ),
)
_SOLVERS = Axis("solver", "", nominal=True)
TIME = Chart(
    "time",
    "{system}: time to a relative residual of {tolerance}",
    needs="timed cells",
    group=(*SYSTEM, "rtol"),
    derive=_breakdown,
    panels=(
        Panel("bar", Axis("seconds", "solve, seconds (median)"), _SOLVERS, text="told", width=380),
        Panel("bar", Axis("once_s", "once: set-up and compile, seconds"), _SOLVERS, text="once", width=260),
    ),
)
CHARTS = (TIME, CONVERGENCE, SIZES, WORK_PRECISION)

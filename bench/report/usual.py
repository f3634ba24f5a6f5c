"""Tables and charts of linear systems, which several works and suites share."""

import polars as pl

from .charts import Axis, Chart, Panel
from .format import count, mebibytes, number, scientific, seconds
from .tables import Table, Value, has

SOLVE = Value("solve", seconds, "seconds", stay=True)
SETUP = Value("set-up", lambda s: seconds(s or None), "setup", wide=84)
COMPILE = Value("compile", lambda s: seconds(s or None), "compile_s", wide=96)
RESIDUAL = Value("residual", scientific, "true_residual", stay=True)
SYSTEM = ("problem", "size", "dtype", "device", "seed")


def system_title(rows: pl.DataFrame) -> str:
    """`poisson2d 64, 4,096 unknowns`; a precision that is not double."""
    first = rows.row(0, named=True)
    unknowns = rows["unknowns"].drop_nulls() if has(rows, "unknowns") else []
    text = first["system"] + (f", {unknowns[0]:,} unknowns" if len(unknowns) else "")
    return text if first["dtype"] == "float64" else f"{text}, {first['dtype']}"


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
        Value("memory", mebibytes, "peak_bytes", wide=150),
        SOLVE,
        RESIDUAL,
    ),
)


def _breakdown(rows: pl.DataFrame) -> pl.DataFrame:
    """The text beside the bars: steps, and what is paid once."""

    def told(row: dict) -> str:
        parts = [seconds(row["seconds"])]
        if row["steps"]:
            parts.append(f"{number(row['steps'])} steps")
        return ", ".join(parts) + ("" if row["ok"] else f"  ✗ {row['reason']}")

    def once(row: dict) -> str:
        return " + ".join(seconds(part) for part in (row["setup"], row["compile_s"]) if part and part > 1e-5)

    timed = rows.filter(pl.col("seconds").is_not_null()).sort(~pl.col("ok"), "seconds")
    return timed.with_columns(
        pl.Series("told", [told(row) for row in timed.to_dicts()]),
        pl.Series("once", [once(row) for row in timed.to_dicts()]),
        (pl.col("setup").fill_null(0) + pl.col("compile_s").fill_null(0)).alias("once_s"),
    )


CONVERGENCE = Chart(
    "convergence",
    "{system}: convergence",
    needs="cells with residual_norms (run them with their history)",
    group=SYSTEM,
    # Of one solver at several tolerances the tightest shows the most.
    derive=lambda rows: rows.filter(pl.col("rtol") == pl.col("rtol").min().over("solver")),
    panels=(
        Panel(
            "line",
            Axis("place", "iterations"),
            Axis("residual_norms", "relative residual", log=True, format=".0e"),
            explode=("residual_norms",),
            level="rtol",
            width=560,
        ),
    ),
)
SIZES = Chart(
    "size",
    "{problem}: iterations against size (rtol {rtol:g})",
    needs="iteration counts at two sizes of a problem or more",
    group=("problem", "rtol", "dtype", "device", "seed"),
    panels=(
        Panel("points", Axis("unknowns", "unknowns", log=True), Axis("steps", "iterations", log=True), width=400),
        Panel("points", Axis("unknowns", "unknowns", log=True), Axis("total", "set-up and solve, seconds", log=True), width=400),
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
            Axis("true_residual", "true relative residual reached", log=True, reverse=True, format=".0e"),
            Axis("seconds", "solve, seconds", log=True),
            width=560,
        ),
    ),
)
TIME = Chart(
    "time",
    "{system}: time to a relative residual of {rtol:g}",
    needs="timed cells",
    group=(*SYSTEM, "rtol"),
    derive=_breakdown,
    panels=(
        Panel("bar", Axis("seconds", "solve, seconds (median)"), Axis("solver", "", nominal=True), text="told", width=380),
        Panel("bar", Axis("once_s", "once: set-up and compile, seconds"), Axis("solver", "", nominal=True), text="once", width=260),
    ),
)
CHARTS = (TIME, CONVERGENCE, SIZES, WORK_PRECISION)

"""Tables and charts of transport problems: time to each tolerance, derivatives, memory, batches."""

import polars as pl

from .charts import Axis, Chart, Panel
from .format import mebibytes, number, scientific, seconds, times
from .frame import SYSTEM, common_rtol
from .tables import Table, Value

# Without regularisation: the reference, not a rival.
EXACT = pl.col("solver") == "pot:emd"
_OPTIONAL = ("num_sweeps", "num_newton_steps", "memory_bytes", "potential_gradient_s", "count_of_batch")


def prepared(rows: pl.DataFrame) -> pl.DataFrame:
    """With `plain`, the problem without its `eta`; `epsilon` also where the problem could not be made;
    `told`, the iterations in words; `asks`, which of the tables a record belongs to; and failures told with
    their tolerance and how far they got."""
    rows = rows.with_columns(pl.lit(None).alias(name) for name in _OPTIONAL if name not in rows.columns)
    # Also of a record that failed, in whose group memory was measured.
    is_memory = pl.col("memory_bytes").is_not_null().any().over(SYSTEM)
    sweeps_and_newton = pl.concat_str("num_sweeps", "num_newton_steps", separator=" + ", ignore_nulls=True)
    reached = pl.when(~pl.col("claims") & pl.col("true_residual").is_not_null()).then(
        ", got to " + pl.col("true_residual").map_elements(scientific, pl.String)
    )
    at = " at " + pl.col("rtol").map_elements(scientific, pl.String) + reached.otherwise(pl.lit(""))
    return rows.with_columns(
        pl.col("problem")
        .str.replace(r",?eta=[^,\]]+", "")
        .str.replace("[]", "", literal=True)
        .alias("plain"),
        (1 / pl.col("problem.eta")).alias("epsilon"),
        pl.when(sweeps_and_newton != "")
        .then(sweeps_and_newton)
        .otherwise(pl.col("num_steps").cast(pl.String))
        .alias("told"),
        pl.when(is_memory)
        .then(pl.lit("memory"))
        .when(pl.col("mode") == "gradient")
        .then(pl.lit("gradient"))
        .when(pl.col("problem_name") == "batch")
        .then(pl.lit("batch"))
        .otherwise(pl.lit("solve"))
        .alias("asks"),
        pl.when(pl.col("ok")).then("reason").otherwise(pl.col("reason") + at).alias("reason"),
    )


def _asking(kind: str):
    return lambda rows: prepared(rows).filter(pl.col("asks") == kind)


def _with_the_plainest_reason(rows: pl.DataFrame) -> pl.DataFrame:
    """Solves; a column that failed at several tolerances fails for what it lied about, or for the loosest."""
    rows = _asking("solve")(rows)
    failed = pl.col("reason").sort_by(pl.col("ok"), ~pl.col("claims"), -pl.col("rtol")).first()
    reason = pl.when("ok").then("reason").otherwise(failed.over(*SYSTEM, "solver"))
    return rows.with_columns(reason.alias("reason"))


def title(rows: pl.DataFrame) -> str:
    """`digits[cost=l1], 784 points, epsilon 8.3e-4 of the largest cost`."""
    size = rows["size"].drop_nulls().first()
    square = "²" if "2d" in rows["plain"][0] else ""
    points = "" if size is None else f", {size}{square} points"
    return f"{rows['plain'][0]}{points}, epsilon {scientific(rows['epsilon'][0])} of the largest cost"


def fastest(rows: pl.DataFrame) -> str:
    """Which column is fastest to each tolerance, and how much slower the next library's best one is."""
    remarks = []
    for rtol in rows["rtol"].unique().sort(descending=True):
        timed = rows.filter(pl.col("ok") & ~EXACT & (pl.col("rtol") == rtol)).sort("seconds")
        if timed.is_empty():
            remarks.append(f"to {scientific(rtol)} none")
            continue
        best, others = timed.row(0, named=True), timed.filter(pl.col("library") != pl.col("library").first())
        text = f"to {scientific(rtol)} {best['solver']}"
        if not others.is_empty():
            text += f" ({others['seconds'][0] / best['seconds']:.1f}x faster than {others['solver'][0]})"
        remarks.append(text)
    return f"Fastest: {'; '.join(remarks)}."


def _at_best(name: str) -> pl.Expr:
    """Of the tightest tolerance that was reached."""
    return pl.col(name).sort_by(~pl.col("ok"), "rtol").first()


TIMES = Table(
    title,
    name="transport",
    derive=_with_the_plainest_reason,
    group=SYSTEM,
    across="rtol",
    across_heading=scientific,
    values=(
        Value("", lambda s, told: f"{seconds(s)} ({told})" if told not in (None, "0") else seconds(s),
              "seconds", "told", ok=True),
        Value("a step", seconds, _at_best("seconds_per_step"), once=True),
        Value("compile", lambda s: seconds(s or None), _at_best("compile_s"), once=True),
        Value("cost gap", scientific, _at_best("cost_gap"), once=True),
    ),
    note=fastest,
)  # fmt: skip
_OF_SLOWEST = pl.col("fastest") / pl.col("count_of_batch") / pl.col("slowest_s")
BATCHES = Table(
    lambda rows: f"{title(rows)}, solved at once",
    name="transport",
    derive=_asking("batch"),
    group=SYSTEM,
    rows=("solver", "rtol"),
    values=(
        Value("solved", lambda part, whole: f"{part} of {whole}", "solved", "count_of_batch"),
        Value("all at once", seconds, "seconds"),
        Value("one by one", seconds, "one_by_one_s"),
        Value("slowest one", seconds, "slowest_s"),
        Value("of slowest", times, _OF_SLOWEST.first()),
    ),
    note="`of slowest`: seconds per problem of the batch, of those of the slowest one when solved alone.",
)
GRADIENTS = Table(
    lambda rows: f"{title(rows)}: gradients",
    name="transport",
    derive=_asking("gradient"),
    group=SYSTEM,
    rows=("solver", "rtol"),
    values=(
        Value("forward", seconds, "forward_s"),
        Value("cost gradient", seconds, "cost_gradient_s"),
        Value("error", scientific, "cost_gradient_error"),
        Value("potential gradient", seconds, "potential_gradient_s"),
        Value("error", scientific, "potential_gradient_error"),
        Value("of forward", times, (pl.col("potential_gradient_s") / pl.col("forward_s")).first()),
    ),
    note="Value and gradient together, in costs (or points) and weights: of the regularised cost, and of"
    " <f, v> with a random v; errors against dense Newton in NumPy. `of forward`: seconds of the second, of"
    " those of a solve alone.",
)
MEMORY = Table(
    lambda rows: f"{title(rows)}: memory",
    name="transport",
    derive=_asking("memory"),
    group=SYSTEM,
    rows=("solver", "rtol"),
    values=(
        Value("solving", mebibytes, "memory_bytes"),
        Value("compiling", mebibytes, "compile_memory_bytes"),
        Value("seconds", seconds, "seconds"),
        Value("steps", number, "num_steps"),
        Value("marginal error", scientific, "true_residual"),
    ),
    note="The largest resident set while a program runs, above what a fresh process with the points holds.",
)
TABLES = (TIMES, BATCHES, GRADIENTS, MEMORY)


# --- pictures ---


def _usual_rtol(rows: pl.DataFrame) -> pl.DataFrame:
    """Of each problem, solved at the tolerance that most columns reach at most values of `epsilon`."""
    rows = prepared(rows).filter(pl.col("ok") & (pl.col("num_steps") > 0))
    if rows.is_empty():
        return rows
    parts = rows.partition_by("plain", "size", maintain_order=True)
    return pl.concat(part.filter(pl.col("rtol") == common_rtol(part["rtol"])) for part in parts)


def _cloud_of(rows: pl.DataFrame) -> str:
    return f"{rows['plain'][0]}, {max(rows['unknowns'].drop_nulls()) // 2} points"


_ERROR = Axis("true_residual", "true marginal error (L1)", log=True)
_SECONDS = Axis("seconds", "seconds (median)", log=True)
_STEPS = Axis("num_steps", "steps", log=True)
_EPSILON = Axis("epsilon", "epsilon, of the largest cost", log=True, reverse=True)
ERRORS = Chart(
    "transport",
    lambda rows: f"{_cloud_of(rows)}, epsilon {scientific(rows['epsilon'][0])}",
    needs="transport problems at two tolerances or more",
    group=SYSTEM,
    derive=_asking("solve"),
    enough=lambda rows: rows["rtol"].n_unique() > 1,
    panels=tuple(Panel("points", x, _ERROR, width=400, order="rtol") for x in (_SECONDS, _STEPS)),
)
EPSILONS = Chart(
    "epsilon",
    lambda rows: f"{_cloud_of(rows)}, to a marginal error of {scientific(rows['rtol'][0])}",
    needs="transport problems at two values of epsilon or more",
    group=("plain", "size", "dtype", "device", "seed"),
    where=pl.col("ok") & (pl.col("mode") == ""),
    derive=_usual_rtol,
    panels=tuple(Panel("points", _EPSILON, y, width=400) for y in (_SECONDS, _STEPS)),
)
CHARTS = (ERRORS, EPSILONS)

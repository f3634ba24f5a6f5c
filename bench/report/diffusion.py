"""Tables and charts of diffusion samplers: orders, errors, seconds, memory, pictures."""

import base64
import struct
import zlib

import numpy as np
import polars as pl

from .charts import Axis, Chart, Panel
from .format import count, fixed, number, scientific, seconds
from .tables import Table, Value

DIFFUSERS = "diffusers"
GROUP = ("problem", "dtype", "seed")
_NUMBERS = (
    "num_evaluations",
    "stated_order",
    "order",
    "temporary_bytes",
    "energy_distance",
    "reference_energy",
)
_LISTS = {"errors": pl.Float64, "of_order": pl.String, "compiled": pl.String}
MISSING = pl.col("result") == "missing"
# Promised nothing, as the published forms of samplers do; one that failed may have promised something.
PROMISES_NONE = pl.col("ok") & pl.col("stated_order").is_null()


def prepared(rows: pl.DataFrame) -> pl.DataFrame:
    """With `asks`, which question a record answers, also of one that failed; and every column that may be
    missing."""
    numbers = [pl.lit(None, pl.Float64).alias(name) for name in _NUMBERS if name not in rows.columns]
    lists = [
        pl.lit(None, pl.List(kind)).alias(name) for name, kind in _LISTS.items() if name not in rows.columns
    ]
    is_gradient, is_order = (pl.col("mode") == mode for mode in ("gradient", "order"))
    return rows.with_columns(
        *numbers,
        *lists,
        pl.when(pl.col("problem_name") == "trained_digits")
        .then(pl.lit("digits"))
        .when(pl.col("problem_name") == "images")
        .then(pl.when(is_gradient).then(pl.lit("gradient")).otherwise(pl.lit("overhead")))
        .otherwise(pl.when(is_order).then(pl.lit("order")).otherwise(pl.lit("error")))
        .alias("asks"),
    )


def asking(kind: str):
    """Records of one question, from few to many evaluations or steps."""
    return lambda rows: prepared(rows).filter(pl.col("asks") == kind).sort("size", maintain_order=True)


# --- orders ---


def _orders(rows: pl.DataFrame) -> pl.DataFrame:
    """With the numbers of steps that errors were measured with."""
    rows = prepared(rows).filter(pl.col("asks") == "order")
    counts = [
        None if errors is None else [size * 2.0**k for k in range(len(errors))]
        for size, errors in zip(rows["size"], rows["errors"], strict=True)
    ]
    return rows.with_columns(pl.Series("counts", counts, pl.List(pl.Float64)))


def _about_orders(rows: pl.DataFrame) -> str:
    what = "from exact starting values"
    if rows["problem_name"][0] == "gaussian":
        what = "of the distribution, noise and start-up steps and all, which limit a multistep method to 2"
    doublings = max(map(len, rows["errors"].drop_nulls()), default=1) - 1
    return (
        f"Slope of the error over {doublings} doublings of the steps in float64, {what}; `constant` is the"
        f" error over the step in lam to the power of the order. {keep_their_word(rows)}"
    )


def keep_their_word(rows: pl.DataFrame) -> str:
    """How many samplers show the order that they state; those that state none are left out."""
    stated = rows.filter(~PROMISES_NONE & ~MISSING)
    return f"{stated['ok'].sum()} of {len(stated)} samplers show the order that they state."


ORDERS = Table(
    "{problem}: order",
    name="diffusion-orders",
    derive=_orders,
    group=GROUP,
    rows=("column",),
    headings={"column": "solver"},
    values=(
        Value("stated order", number, "stated_order", stay=True),
        Value("measured", fixed(2), "order", stay=True),
        Value("constant", scientific, "constant"),
        Value("steps", count, pl.col("counts").list.last().first()),
        Value("error", scientific, "true_residual", stay=True),
    ),
    note=_about_orders,
)

# --- errors ---


def _error(error: float | None, used: float | None, size: int) -> str:
    return scientific(error) + ("" if used in (None, size) else f" ({count(used)})")


def leaders(rows: pl.DataFrame) -> str:
    """Who leaves the smallest error after how many evaluations."""
    parts: dict[str, list[str]] = {}
    good = rows.filter("ok").filter(pl.len().over("size") > 1).sort("size", "true_residual")
    for best in good.unique("size", keep="first", maintain_order=True).iter_rows(named=True):
        parts.setdefault(best["column"], []).append(str(best["size"]))
    return "Smallest: " + "; ".join(f"{name} at {', '.join(at)}" for name, at in parts.items()) + "."


def _distance(rows: pl.DataFrame) -> str:
    of_law = "error_kind" in rows.columns and (rows["error_kind"] == "w2").any()
    return "2-Wasserstein distance of the distributions" if of_law else "RMS distance from the exact flow"


ERRORS = Table(
    lambda rows: f"{rows['problem'][0]}: {_distance(rows)} after so many evaluations",
    name="diffusion",
    derive=asking("error"),
    group=GROUP,
    rows=("column",),
    headings={"column": "solver"},
    across="size",
    values=(Value("", _error, "true_residual", "num_evaluations", "size", ok=True),),
    note=leaders,
)


#: Up to so many evaluations are few; what tuned plans are measured against.
FEW, RIVAL = 10, "unipc[order=3]"


def remarks(rows: pl.DataFrame) -> list[str]:
    """What all records say, a sentence each: of orders, of tuned plans, of seconds beside diffusers."""
    said, orders = [], asking("order")(rows)
    if len(orders):
        said.append(keep_their_word(orders))
    few = asking("error")(rows).filter(pl.col("ok") & (pl.col("size") <= FEW))
    tuned = pl.col("column").str.starts_with("tuned")
    ratios = few.group_by("problem", "size").agg(
        (pl.col("true_residual").filter(pl.col("column") == RIVAL).first()
         / pl.col("true_residual").filter(tuned).min()).alias("ratio")
    )["ratio"].drop_nulls()  # fmt: skip
    if len(ratios):
        said.append(
            f"Up to {FEW} evaluations the best tuned plan leaves an error {ratios.min():.2g} to "
            f"{ratios.max():.2g} times smaller than {RIVAL}."
        )
    for part in asking("overhead")(rows).partition_by("problem", maintain_order=True):
        if ratios := _beside_diffusers(part):
            said.append(f"{part['problem'][0]}: diffusers takes times as long: {', '.join(ratios)}.")
    return said


# --- seconds, memory, pictures ---


def _beside_diffusers(rows: pl.DataFrame) -> list[str]:
    """Ratios of the seconds of each of their columns to ours of the same name."""
    found = {row["solver"]: row["seconds"] for row in rows.filter("ok").to_dicts()}
    pairs = [(name, name.removeprefix(f"{DIFFUSERS}:")) for name in found if DIFFUSERS in name]
    return [f"{found[theirs] / found[ours]:.1f} for {ours}" for theirs, ours in pairs if found.get(ours)]


def _against_diffusers(rows: pl.DataFrame) -> str:
    ratios = _beside_diffusers(rows)
    words = f" diffusers takes times as long: {', '.join(ratios)}." if ratios else ""
    return (
        "`compiled anew`: of all samplers of that order and so many evaluations, those with a program of"
        f" their own.{words}"
    )


SECONDS = Table(
    "{problem}, {dtype}: what the sampler itself takes",
    name="diffusion",
    derive=lambda rows: prepared(rows).filter(pl.col("asks") == "overhead"),
    group=GROUP,
    rows=("column",),
    headings={"column": "solver"},
    values=(
        Value("steps", number, "size"),
        Value("seconds", seconds, "seconds"),
        Value("a step", seconds, "seconds_per_step"),
        Value("compile", seconds, "compile_s"),
        Value("compiled anew", lambda part, whole: "–" if whole is None else f"{part} of {whole}",
              pl.col("compiled").list.len().first(), pl.col("of_order").list.len().first()),
    ),
    note=_against_diffusers,
)  # fmt: skip
MEMORY = Table(
    "{problem}: reverse mode",
    name="diffusion",
    derive=asking("gradient"),
    group=GROUP,
    rows=("column",),
    headings={"column": "solver"},
    across="size",
    across_heading=lambda size: f"{size} steps",
    values=(
        Value(
            "",
            lambda size, time: f"{size / 2**20:.1f} MiB ({seconds(time)})",
            "temporary_bytes",
            "seconds",
            ok=True,
        ),
    ),
    note="What the compiled program allocates beside arguments and results, and the seconds of a gradient.",
)
PICTURES = Table(
    "{problem}: distance from the network's own solution",
    name="diffusion",
    derive=asking("digits"),
    group=GROUP,
    rows=("column",),
    headings={"column": "solver"},
    across="size",
    values=(
        Value("", _error, "true_residual", "num_evaluations", "size", ok=True),
        Value("energy", scientific, "energy_distance"),
    ),
    note=lambda rows: (
        "RMS distance from 200 steps with the same start after so many evaluations, and the energy"
        " distance of the samples to the data; that of the 200 steps is"
        f" {scientific(next(iter(rows['reference_energy'].drop_nulls()), None))}."
    ),
)
TABLES = (ORDERS, ERRORS, SECONDS, MEMORY, PICTURES)


# --- pictures ---


def _from_largest_at_ten(rows: pl.DataFrame) -> pl.DataFrame:
    """Columns from the largest error at ten evaluations to the smallest."""
    rows = asking("error")(rows).filter("ok")
    at_ten = pl.col("true_residual").sort_by((pl.col("size") - 10).abs()).first().over(*GROUP, "column")
    return rows.with_columns(at_ten.alias("at_ten")).sort("at_ten", descending=True, maintain_order=True)


def _named_orders(rows: pl.DataFrame) -> pl.DataFrame:
    rows = (
        _orders(rows)
        .filter(pl.col("order").is_not_null())
        .sort("order", descending=True, maintain_order=True)
    )
    measured = pl.col("order").map_elements(lambda order: f"{order:.2f}", pl.String)
    return rows.with_columns((pl.col("column") + "  " + measured).alias("named"))


def _kept(rows: pl.DataFrame) -> pl.DataFrame:
    kept = pl.col("solver").str.extract(r"(checkpoints=[^,\]]+)").fill_null("checkpoints=step")
    mebibyte = pl.col("temporary_bytes") / 2**20
    return asking("gradient")(rows).filter("ok").with_columns(kept.alias("kept"), mebibyte.alias("mebibytes"))


def _strips(rows: pl.DataFrame) -> pl.DataFrame:
    """A picture for each sampler and number of evaluations, and above them the network's own solution."""
    rows = asking("digits")(rows)
    if "pictures" not in rows.columns:
        return rows.clear()
    rows = rows.filter(pl.col("pictures").is_not_null())
    ideal = rows.unique("size", keep="first", maintain_order=True)
    ideal = ideal.with_columns(
        pl.lit("200 steps").alias("column"), pl.col("reference_pictures").alias("pictures")
    )
    return pl.concat([ideal, rows]).with_columns(
        pl.col("pictures").map_elements(picture, pl.String).alias("picture")
    )


def picture(text: str) -> str:
    """Encoded pictures side by side, framed in white, as an address that holds a PNG."""
    images = np.frombuffer(base64.b64decode(text), np.uint8).reshape(-1, 8, 8)
    images = np.pad(images, ((0, 0), (1, 1), (1, 0)), constant_values=255)
    strip = images.transpose(1, 0, 2).reshape(images.shape[1], -1)
    strip = np.kron(np.pad(strip, ((0, 0), (0, 1)), constant_values=255), np.ones((2, 2), np.uint8))
    return f"data:image/png;base64,{base64.b64encode(png(strip)).decode()}"


def png(grey: np.ndarray) -> bytes:
    """Levels (height, width) of uint8 as a PNG: signature, header, one block of data, end."""
    height, width = grey.shape

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    lines = np.pad(grey, ((0, 0), (1, 0))).tobytes()  # each begins with its filter: none
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(name, data)
        for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    )


EVALUATIONS = Chart(
    "evaluations",
    "{problem}: error left by so many network evaluations",
    needs="diffusion problems at two numbers of evaluations or more",
    group=GROUP,
    derive=_from_largest_at_ten,
    colour="column",
    enough=lambda rows: rows["size"].n_unique() > 1,
    panels=(
        Panel(
            "points",
            Axis("num_evaluations", "network evaluations", log=True),
            Axis("true_residual", "error", log=True),
            width=560,
            height=440,
        ),
    ),
)
SLOPES = Chart(
    "order",
    "{problem}: every sampler and its order",
    needs="columns @order of diffusion problems",
    group=GROUP,
    derive=_named_orders,
    colour="named",
    panels=(
        Panel(
            "points",
            Axis("counts", "steps", log=True),
            Axis("errors", "error", log=True),
            explode=("counts", "errors"),
            width=560,
            height=560,
        ),
    ),
)
_SIZES = Axis("size", "steps", log=True)
REVERSE = Chart(
    "reverse",
    "Reverse mode through a sampler",
    needs="columns @gradient of diffusion problems at two numbers of steps or more",
    group=GROUP,
    derive=_kept,
    colour="kept",
    panels=(
        Panel("points", _SIZES, Axis("mebibytes", "MiB beside arguments and results", log=True), width=400),
        Panel("points", _SIZES, Axis("seconds", "seconds of a gradient", log=True), width=400),
    ),
)
DRAWN = Chart(
    "digits",
    "{problem}: what samplers draw with the same noise",
    needs="the diffusion problem trained_digits",
    group=GROUP,
    derive=_strips,
    colour="column",
    panels=(
        Panel(
            "image",
            Axis("size", "evaluations", nominal=True),
            Axis("column", "", nominal=True),
            url="picture",
            width=720,
        ),
    ),
)
CHARTS = (EVALUATIONS, SLOPES, REVERSE, DRAWN)

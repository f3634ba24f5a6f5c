"""Whether our columns have become slower beside others: a suite now, and its records of another day.

Seconds of two machines, or of one machine on two days, say nothing about each other.  So the time of each of
our columns is taken as its ratio to a peer's on the same system, measured in the same run: what makes a
machine slow makes both slow.
"""

from pathlib import Path

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..engine.run import execute
from ..engine.spec import OWN
from ..engine.suite import load, replace_settings
from . import compare
from .format import NONE, count, times
from .frame import CELL

_FIRST_CHOICE = "scipy"


def regress(
    suite_name: str, base: str | Path, console: Console, repeats: int | None = None, threshold: float = 1.25
) -> int:
    """Run a suite and print how each of our columns stands beside a peer, now and in the records `base`.

    The peer of a system is, of SciPy's columns that succeeded there then and now, the slowest, whose time is
    the steadiest; where there is none of SciPy's, of any library's.  A column regresses as in `compare`: when
    it fails now, when it takes more steps, or when its time over the peer's grew by more than `threshold` and
    by more than the noise, the interquartile ranges of all four times together.

    Returns 1 if any of our columns regressed, 2 if there is none in common, else 0."""
    compare.check_threshold(threshold)
    befores = compare.read(base)
    suite = replace_settings(load(suite_name), repeats=repeats)
    afters = execute(suite, None, console)
    both = compare.joined(befores, afters)
    ours = pl.col("library").fill_null(pl.col("library_new")) == OWN
    compare.list_one_sided(console, f"only in {base}", both.filter(ours & pl.col("ok_new").is_null()))
    compare.list_one_sided(console, "only now", both.filter(ours & pl.col("ok").is_null()))
    changes = beside_peers(both.drop_nulls(["ok", "ok_new"]), threshold)
    if changes.is_empty():
        console.print(f"[red]Nothing to compare:[/] none of our columns of {suite.name} is in {base}.")
        return 2
    compare.warn_if_machines_differ(console, changes, befores, afters, ("threads", "versions", "xla_flags"))
    console.print(_table(changes, threshold))
    alone = changes.filter(pl.col("peer").is_null() & pl.col("ok") & pl.col("ok_new"))
    if len(alone):
        console.print(
            f"{len(alone)} columns have no peer there: their times are not compared", style="yellow"
        )
    return compare.concluded(console, changes, "columns")


def beside_peers(both: pl.DataFrame, threshold: float) -> pl.DataFrame:
    """Our cells of those that `compare.joined` gives, with their `peer`, `beside` and `beside_new` (our time
    over the peer's, then and now), `ratio` (the new one over the old one), and judged by that."""
    timed = both.drop_nulls(["seconds", "seconds_new"]).filter(
        pl.all_horizontal("ok", "ok_new", pl.col("library") != OWN, pl.col("seconds", "seconds_new") > 0)
    )
    peers = timed.sort(pl.col("library") != _FIRST_CHOICE, -pl.col("seconds"), "solver").unique(
        CELL, keep="first", maintain_order=True
    )
    figures = ("seconds", "seconds_new", "iqr", "iqr_new")
    peers = peers.select(
        *CELL, pl.col("solver").alias("peer"), *(pl.col(f).name.prefix("peer_") for f in figures)
    )
    rows = both.filter(pl.col("library") == OWN).join(
        peers, on=CELL, how="left", nulls_equal=True, maintain_order="left"
    )
    shares = [
        (pl.col(f"{who}iqr{when}").fill_null(0.0) / pl.col(f"{who}seconds{when}")) ** 2
        for who in ("", "peer_")
        for when in ("", "_new")
    ]
    rows = rows.with_columns(
        (pl.col("seconds") / pl.col("peer_seconds")).alias("beside"),
        (pl.col("seconds_new") / pl.col("peer_seconds_new")).alias("beside_new"),
        pl.sum_horizontal(shares, ignore_nulls=False).sqrt().alias("noise"),
    )
    return compare.judged(
        rows.with_columns((pl.col("beside_new") / pl.col("beside")).alias("ratio")), threshold
    )


def _table(changes: pl.DataFrame, threshold: float) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in ("system", "column", "beside"):
        table.add_column(name, overflow="fold")
    for name in ("steps", "time over its", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for row in changes.to_dicts():
        table.add_row(
            Text(row["system"]),
            Text(compare.column_label(row)),
            Text(row["peer"] or NONE),
            compare.arrow(count(row["num_steps"]), count(row["num_steps_new"])),
            compare.arrow(times(row["beside"]), times(row["beside_new"])),
            compare.ratio_text(row, threshold),
            compare.verdict_text(row),
        )
    table.caption = "ratio: now over then, ± noise; ~ marks what drowns in it"
    table.caption_justify = "left"
    return table

"""Compare two files of records and say whether the new one is worse."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..engine import record
from ..engine.work import SLACK
from .format import NONE, count, scientific, seconds
from .frame import CELL, SYSTEM, frame

# A cell is a record's system, request and column.
KEYS = (*CELL, "solver")
# More steps than this, both absolutely and relatively, is a regression: a change in the order of summation
# moves a count by one or two.
_STEPS_SLACK = 2
_STEPS_RATIO = 1.05
_MOST_LISTED = 20
_NUMBERS = ("num_steps", "true_residual", "seconds", "iqr")
_WORDS = ("system", "library", "ok", "reason")
_ENVIRONMENT = ("cpu", "threads", "versions", "xla_flags")


def compare(base: str | Path, new: str | Path, threshold: float, console: Console) -> int:
    """Print how the cells of `new` changed from `base`; each is a file, or `COMMIT:path` of this git
    repository.

    A cell regresses when a success became a failure, when it takes over 2 and over 5 % more steps, when its
    true residual no longer meets its tolerance, or when its median solve time grew by more than `threshold`
    and by more than its noise: the larger interquartile range of the two, as a share of the base's time.
    Where a cell was measured several times in turn with the other file's, the times are compared pair by
    pair, so that what slows the whole machine down cancels: the ratio is then the median of the pairs', its
    noise their interquartile range.

    Returns 1 if any cell regressed, 2 if there is no cell in common, else 0.  Raises ValueError naming the
    file and line of a record that cannot be read."""
    check_threshold(threshold)
    befores, afters = read(base), read(new)
    both = joined(befores, afters)
    changes = judged(both.drop_nulls(["ok", "ok_new"]), threshold)
    warn_if_machines_differ(console, changes, befores, afters)
    if len(changes):
        console.print(_table(changes, threshold))
    list_one_sided(console, f"only in {base}", both.filter(pl.col("ok_new").is_null()))
    list_one_sided(console, f"only in {new}", both.filter(pl.col("ok").is_null()))
    if changes.is_empty():
        console.print("[red]Nothing to compare:[/] the two files have no cell in common.")
        return 2
    return concluded(console, changes, "cells")


def concluded(console: Console, changes: pl.DataFrame, what: str) -> int:
    """Say how many of what `judged` gives regressed; the exit code."""
    worse = changes.filter(pl.col("problems").list.len() > 0)
    if len(worse):
        console.print(f"[red]{len(worse)} of {len(changes)} {what} regressed.[/]")
        return 1
    console.print(f"[green]No regression in {len(changes)} {what}.[/]")
    return 0


def check_threshold(threshold: float) -> None:
    if not threshold >= 1:
        raise ValueError(f"threshold is {threshold}: give a ratio of at least 1, such as 1.25")


def read(source: str | Path) -> list[record.Record]:
    """All records of a file, or of `COMMIT:path`, the file as it was at that commit."""
    commit, colon, path = str(source).partition(":")
    if colon and not Path(source).exists():
        done = subprocess.run(["git", "show", f"{commit}:{path}"], capture_output=True)
        if done.returncode:
            why = (done.stderr.decode(errors="replace").strip().splitlines() or ["git failed"])[-1]
            raise ValueError(f"cannot read {source}: there is no such file, and as COMMIT:path {why}")
        records = record.parse(Path(source), done.stdout)
    else:
        records = record.read(Path(source))
    if not records:
        raise ValueError(f"{source}: holds no records")
    return records


def joined(befores: Sequence[record.Record], afters: Sequence[record.Record]) -> pl.DataFrame:
    """A row for each cell of either side, with fields of the new side as `seconds_new`.

    A cell measured again counts as it came out last; `ratio` is the new time over the old one and `noise` how
    much of it the spread of the times explains, paired where they can be."""
    old, new = _cells(befores), _cells(afters)
    both = old.join(
        new, on=KEYS, how="full", coalesce=True, nulls_equal=True, suffix="_new", maintain_order="left_right"
    )
    pairs = [_paired(row) for row in both.select("times", "times_new").to_dicts()]
    spread = pl.max_horizontal("iqr", "iqr_new").fill_null(0.0)
    return both.with_columns(
        pl.Series("paired_ratio", [pair and pair[0] for pair in pairs], dtype=pl.Float64),
        pl.Series("paired_noise", [pair and pair[1] for pair in pairs], dtype=pl.Float64),
        pl.when(pl.col("seconds") > 0).then(pl.col("seconds_new") / pl.col("seconds")).alias("single_ratio"),
        pl.when(pl.col("seconds") > 0).then(spread / pl.col("seconds")).alias("single_noise"),
    ).with_columns(
        pl.coalesce("paired_ratio", "single_ratio").alias("ratio"),
        pl.coalesce("paired_noise", "single_noise").alias("noise"),
    )


def _cells(records: Sequence[record.Record]) -> pl.DataFrame:
    """A row for each cell: its last record, and the times of all of its records."""
    rows = frame(records)
    stamps = pl.Series("when", [r.get("time") for r in records], dtype=pl.String)
    rows = rows.with_columns(
        *(pl.col(key).cast(pl.String) for key in KEYS),
        pl.col("rtol").cast(pl.Float64).alias("wanted"),
        *(pl.col(name).cast(pl.Float64) for name in _NUMBERS),
    )
    return rows.group_by(KEYS, maintain_order=True).agg(
        pl.col("wanted", "index", *_NUMBERS, *_WORDS).last(), pl.struct(stamps, "seconds").alias("times")
    )


def _paired(row: dict[str, Any]) -> tuple[float, float] | None:
    """The median ratio of pairs and their interquartile range, where two cells were measured in turn."""
    old, new = row["times"] or [], row["times_new"] or []
    pairs = list(zip(old, new, strict=False))
    if len(old) != len(new) or len(old) < 2 or not all(t["when"] and t["seconds"] for t in (*old, *new)):
        return None
    stamps = [sorted((one["when"], other["when"])) for one, other in pairs]
    if any(before[1] > after[0] for before, after in zip(stamps[:-1], stamps[1:], strict=True)):
        return None
    ratios = pl.Series([other["seconds"] / one["seconds"] for one, other in pairs])
    low, high = (ratios.quantile(share, "linear") for share in (0.25, 0.75))
    return ratios.median(), high - low  # pyright: ignore


def judged(both: pl.DataFrame, threshold: float) -> pl.DataFrame:
    """The cells with `noisy`, whether the change of time drowns, and `problems`, the reasons to call it
    worse."""
    limit = pl.col("wanted") * (1 + SLACK)
    misses, missed = (
        (pl.col(name) > limit).fill_null(False) for name in ("true_residual_new", "true_residual")
    )
    fails = pl.col("ok") & ~pl.col("ok_new")
    more = pl.col("num_steps_new") - pl.col("num_steps")
    noisy = (pl.col("ratio") - 1).abs() <= pl.col("noise")
    # A run that stopped early or broke down is not comparable in time.
    slower = pl.col("ok") & pl.col("ok_new") & (pl.col("ratio") > threshold) & ~noisy
    reasons = (
        (fails, pl.format("now fails: {}", "reason_new")),
        (
            misses & ~missed & ~fails,
            pl.format("true residual {} misses rtol", _worded("true_residual_new", scientific)),
        ),
        (pl.col("ok") & more_steps(), pl.format("{} more steps", more.cast(pl.Int64))),
        (slower, pl.format("{}x slower", _worded("ratio", "{:.2f}".format))),
    )
    said = [pl.when(test).then(words) for test, words in reasons]
    return both.with_columns(noisy.alias("noisy"), pl.concat_list(said).list.drop_nulls().alias("problems"))


def more_steps() -> pl.Expr:
    """Whether a cell takes more steps than a change in the order of summation explains."""
    old, new = pl.col("num_steps"), pl.col("num_steps_new")
    return (new > old + _STEPS_SLACK) & (new > old * _STEPS_RATIO)


def _worded(name: str, show: Callable[[float], str]) -> pl.Expr:
    return pl.col(name).map_elements(show, return_dtype=pl.String)


def _table(changes: pl.DataFrame, threshold: float) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("solver", overflow="fold")
    for name in ("steps", "solve", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for group in changes.partition_by(SYSTEM, maintain_order=True):
        table.add_section()
        table.add_row(Text(group["system"][0], style="bold cyan"))
        for row in group.sort(pl.col("problems").list.len() == 0, maintain_order=True).to_dicts():
            table.add_row(
                Text(column_label(row)),
                arrow(count(row["num_steps"]), count(row["num_steps_new"])),
                arrow(seconds(row["seconds"]), seconds(row["seconds_new"])),
                ratio_text(row, threshold),
                verdict_text(row),
            )
    table.caption = "ratio: new over base, ± noise; ~ marks what drowns in it"
    table.caption_justify = "left"
    return table


def column_label(row: Mapping[str, Any]) -> str:
    return row["solver"] if row["wanted"] is None else f"{row['solver']} ({scientific(row['wanted'])})"


def arrow(old: str, new: str) -> str:
    return old if old == new else f"{old} → {new}"


def ratio_text(row: Mapping[str, Any], threshold: float) -> Text:
    if row["ratio"] is None:
        return Text(NONE)
    style = (
        "" if 1 / threshold <= row["ratio"] <= threshold else "red" if row["ratio"] > threshold else "green"
    )
    text = f"{'~' * row['noisy']}{row['ratio']:.2f} ± {row['noise']:.2f}"
    return Text(text, style="dim" if row["noisy"] else style)


def verdict_text(row: Mapping[str, Any]) -> Text:
    if row["problems"]:
        return Text("; ".join(row["problems"]), style="red")
    if not row["ok_new"]:
        return Text(f"still fails: {row['reason_new']}", style="yellow")
    return Text("ok") if row["ok"] else Text("now succeeds", style="green")


def list_one_sided(console: Console, title: str, cells: pl.DataFrame) -> None:
    """Name the cells that only one side has."""
    if cells.is_empty():
        return
    console.print(f"{title} ({len(cells)}):", markup=False, soft_wrap=True)
    for row in cells.head(_MOST_LISTED).to_dicts():
        wanted = row["wanted"] if row["ok"] is not None else row["wanted_new"]
        label = column_label({**row, "wanted": wanted})
        console.print(
            f"  {row['system'] or row['system_new']}  {label}", markup=False, highlight=False, soft_wrap=True
        )
    if len(cells) > _MOST_LISTED:
        console.print(f"  and {len(cells) - _MOST_LISTED} more")


def warn_if_machines_differ(
    console: Console,
    changes: pl.DataFrame,
    befores: Sequence[record.Record],
    afters: Sequence[record.Record],
    names: Sequence[str] = _ENVIRONMENT,
) -> None:
    """Say what differs between the machines that the cells were measured on."""
    pairs = [(befores[row["index"]], afters[row["index_new"]]) for row in changes.to_dicts()]
    for name in names:
        for pair in pairs:
            old, new = ((row.get("env") or {}).get(name) for row in pair)
            if old != new:
                text = f"{name} differ: {_difference(old, new)}. Compare times with care."
                console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
                break


def _difference(old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        return ", ".join(f"{name} {old.get(name)} → {new.get(name)}" for name in names)
    return f"{old} → {new}"

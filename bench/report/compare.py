"""Compare two files of records and say whether the new one is worse."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.record import Record, read
from bench.table import (
    RESIDUAL_SLACK,
    is_number,
    key,
    median_seconds,
    reason,
    scientific,
    seconds,
    spread_seconds,
    succeeded,
    system_key,
    system_label,
)

# More steps than this, both absolutely and relatively, is a regression: a change in the order of
# summation moves a count by one or two.
_STEPS_SLACK = 2
_STEPS_RATIO = 1.05
_MOST_LISTED = 20


@dataclass(frozen=True)
class Change:
    """One cell before and after; `problems` holds the reasons for calling it a regression."""

    base: Record
    new: Record
    ratio: float | None
    noisy: bool
    problems: tuple[str, ...]


def compare(base: Path, new: Path, threshold: float = 1.25) -> int:
    """Print how the cells of `new` changed from `base`.

    A cell regresses when a success became a failure, when it takes over 2 and over 5 % more steps,
    when its true residual no longer meets its tolerance, or when its median solve time grew by
    more than `threshold` and by more than the interquartile range of either run.

    Returns 1 if any cell regressed, 2 if the files have no cell in common, else 0. Raises
    `ValueError` naming the file and line of a record that cannot be read.
    """
    if not threshold >= 1:
        raise ValueError(f"threshold is {threshold}: give a ratio of at least 1, such as 1.25")
    before, after = _by_key(base), _by_key(new)
    console = Console()
    changes = [change_of(before[k], after[k], threshold) for k in before if k in after]
    _warn_if_machines_differ(console, changes)
    if changes:
        console.print(_table(changes, threshold))
    _list_one_sided(console, f"only in {base}", [before[k] for k in before if k not in after])
    _list_one_sided(console, f"only in {new}", [after[k] for k in after if k not in before])
    if not changes:
        console.print("[red]Nothing to compare:[/] the two files have no cell in common.")
        return 2
    worse = [change for change in changes if change.problems]
    if worse:
        console.print(f"[red]{len(worse)} of {len(changes)} cells regressed.[/]")
        return 1
    console.print(f"[green]No regression in {len(changes)} cells.[/]")
    return 0


def change_of(base: Record, new: Record, threshold: float) -> Change:
    """Judge one cell."""
    problems = []
    if succeeded(base) and not succeeded(new):
        problems.append(f"now fails: {reason(new)}")
    elif _misses_tolerance(new) and not _misses_tolerance(base):
        problems.append(f"true residual {scientific(new['true_residual'])} misses rtol")
    steps, new_steps = base.get("num_steps"), new.get("num_steps")
    if succeeded(base) and is_number(steps) and is_number(new_steps):
        assert steps is not None and new_steps is not None
        if new_steps > steps + _STEPS_SLACK and new_steps > steps * _STEPS_RATIO:
            problems.append(f"{new_steps - steps} more steps")
    ratio, noisy = _time_ratio(base, new)
    # A run that stopped early or broke down is not comparable in time.
    if ratio is not None and ratio > threshold and not noisy and succeeded(base) and succeeded(new):
        problems.append(f"{ratio:.2f}x slower")
    return Change(base, new, ratio, noisy, tuple(problems))


def _misses_tolerance(record: Record) -> bool:
    residual, rtol = record.get("true_residual"), record.get("rtol")
    return residual is not None and rtol is not None and not residual <= rtol * (1 + RESIDUAL_SLACK)


def _time_ratio(base: Record, new: Record) -> tuple[float | None, bool]:
    """Ratio of the medians, and whether the difference drowns in either run's spread."""
    old_time, new_time = median_seconds(base), median_seconds(new)
    if not old_time or not new_time:
        return None, False
    spread = max(_interquartile_range(base), _interquartile_range(new))
    return new_time / old_time, abs(new_time - old_time) <= spread


def _interquartile_range(record: Record) -> float:
    return spread_seconds(record) or 0.0


def _by_key(path: Path) -> dict[tuple[str, ...], Record]:
    records = read(Path(path))
    if not records:
        raise ValueError(f"{path}: holds no records")
    for number, record in enumerate(records, start=1):
        missing = [name for name in ("problem", "solver") if not record.get(name)]
        if missing:
            raise ValueError(f"{path}, record {number}: lacks {' and '.join(missing)}")
    # A cell that was run again replaces its older record.
    return {key(record): record for record in records}


def _table(changes: list[Change], threshold: float) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("solver", overflow="fold")
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("solve", justify="right", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    by_system: dict[tuple[str, ...], list[Change]] = {}
    for change in changes:
        by_system.setdefault(system_key(change.base), []).append(change)
    for group in by_system.values():
        table.add_section()
        table.add_row(f"[bold cyan]{escape(system_label(group[0].base))}[/]")
        for change in sorted(group, key=lambda c: not c.problems):
            table.add_row(
                escape(_solver_label(change.base)),
                _arrow(change.base.get("num_steps"), change.new.get("num_steps")),
                f"{seconds(median_seconds(change.base))} → {seconds(median_seconds(change.new))}",
                _ratio_text(change, threshold),
                _verdict(change),
            )
    table.caption = "ratio: new over base; ~ marks a difference within either run's spread"
    table.caption_justify = "left"
    return table


def _solver_label(record: Record) -> str:
    rtol = record.get("rtol")
    return record["solver"] if rtol is None else f"{record['solver']} ({scientific(rtol)})"


def _arrow(old: int | None, new: int | None) -> str:
    if old == new:
        return "–" if old is None else str(old)
    return f"{'–' if old is None else old} → {'–' if new is None else new}"


def _ratio_text(change: Change, threshold: float) -> str:
    if change.ratio is None:
        return "–"
    text = f"{change.ratio:.2f}"
    if change.noisy:
        return f"[dim]~{text}[/]"
    if change.ratio > threshold:
        return f"[red]{text}[/]"
    return f"[green]{text}[/]" if change.ratio < 1 / threshold else text


def _verdict(change: Change) -> str:
    if change.problems:
        return "[red]" + escape("; ".join(change.problems)) + "[/]"
    if not succeeded(change.new):
        return "[yellow]" + escape(f"still fails: {reason(change.new)}") + "[/]"
    if not succeeded(change.base):
        return "[green]now succeeds[/]"
    return "ok"


def _list_one_sided(console: Console, title: str, records: list[Record]) -> None:
    if not records:
        return
    console.print(f"{escape(title)} ({len(records)}):")
    for record in records[:_MOST_LISTED]:
        console.print(f"  {escape(system_label(record))}  {escape(_solver_label(record))}")
    if len(records) > _MOST_LISTED:
        console.print(f"  and {len(records) - _MOST_LISTED} more")


def _warn_if_machines_differ(console: Console, changes: list[Change]) -> None:
    for name in ("cpu", "threads", "versions", "xla_flags"):
        for change in changes:
            old = (change.base.get("env") or {}).get(name)
            new = (change.new.get("env") or {}).get(name)
            if old != new:
                text = escape(_difference(old, new))
                console.print(f"[yellow]{name} differ: {text}. Compare times with care.[/]")
                break


def _difference(old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        return ", ".join(f"{name} {old.get(name)} → {new.get(name)}" for name in names)
    return f"{old} → {new}"

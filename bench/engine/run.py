"""Run a suite: cell by cell, resuming where a file left off, with a progress bar on stderr."""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import measure, process, record
from .environment import device, environment
from .suite import Suite
from .work import Cell, Settings


class Interrupted(Exception):
    """Ctrl-C came; `records` holds what was finished."""

    def __init__(self, records: list[record.Record]):
        super().__init__("interrupted")
        self.records = records


def execute(
    suite: Suite, out: Path | None, console: Console, fresh: bool = False, keep_old: bool = False
) -> list[record.Record]:
    """Measure the suite's cells and return their records in the suite's order.

    Cells whose records `out` already holds are not measured again, if those were made by this code with these
    versions and settings; with `keep_old` whatever made them.  Without `out` nothing is kept.  Raises
    ValueError before any work when `out` cannot be used, `Interrupted` on Ctrl-C."""
    with contextlib.ExitStack() as stack:
        file = None if out is None else stack.enter_context(record.RecordFile(out))
        earlier = _earlier(suite, file, fresh)
        keys = {cell: record.key(cell, device()) for cell in suite.cells}
        done, stale = _kept(suite, {row["key"]: row for row in earlier}, keys, keep_old)
        if done:
            console.print(f"resuming: {len(done)} of {len(keys)} cells are in {out}", soft_wrap=True)
        for why, count in stale.items():
            words = f"measuring {count} cells again: {why} (--keep-old keeps them)"
            console.print(words, style="yellow", markup=False, soft_wrap=True)
        _warn_if_busy(console)
        try:
            _measure_all(suite, file, keys, done, console)
        except KeyboardInterrupt:
            raise Interrupted([done[key] for key in keys.values() if key in done]) from None
        # What was measured again replaces its record at the end of a run; until then the old one stays.
        if file is not None and len(written := file.read()) > len(once := record.latest(written)):
            file.replace(once)
        return [done[key] for key in keys.values()]


def progress_of(console: Console) -> Progress:
    """A bar of what is done of how many, which disappears at the end."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


def _measure_all(
    suite: Suite,
    file: record.RecordFile | None,
    keys: Mapping[Cell, str],
    done: dict[str, record.Record],
    console: Console,
) -> None:
    reported: set[str] = set()
    with progress_of(console) as progress:
        bar = progress.add_task(suite.name, total=len(keys), completed=len(done))
        for cell, settings in suite.cells.items():
            if keys[cell] in done:
                continue
            progress.update(bar, description=escape(f"{cell.problem} {cell.size or ''} {cell.solver}"))
            slower = _gave_up(cell, keys, done) if settings.limit_s else None
            if slower is None:
                row = process.measured(cell, settings, suite.work, suite.name, suite.source)
            else:
                row = measure.stamped(
                    measure.blank(cell, settings, suite.work.name, suite.name)
                    | getattr(suite.work.make(cell), "facts", {})
                    | {"result": "time_limit", "not_tried_after": slower["rtol"], "limit_s": settings.limit_s}
                )
            if suite.source is not None:
                row["source"] = suite.source
            if file is not None:
                file.append(row)
            done[keys[cell]] = row
            progress.advance(bar)
            message = row.get("message")
            if message and message not in reported:
                reported.add(message)
                progress.console.print(f"{row['result']}: {message}", markup=False, soft_wrap=True)


def _gave_up(cell: Cell, keys: Mapping[Cell, str], done: Mapping[str, record.Record]) -> record.Record | None:
    """The record of the same cell at a looser tolerance, where that ran out of time."""
    for other, key in keys.items():
        if other.problem == cell.problem and other.solver == cell.solver and other.rtol > cell.rtol:
            row = done.get(key)
            if row and row["result"] == "time_limit" and dataclasses.replace(other, rtol=cell.rtol) == cell:
                return row
    return None


def _earlier(suite: Suite, file: record.RecordFile | None, fresh: bool) -> list[record.Record]:
    if file is None:
        return []
    if fresh:
        file.replace([])
        return []
    records = record.latest(file.read())
    others = {str(row.get("suite")) for row in records} - {suite.name}
    if others:
        raise ValueError(
            f"{file.path} holds records of suite {', '.join(sorted(others))}; choose another --out, "
            "or --fresh to start over"
        )
    return records


def _kept(
    suite: Suite, rows: Mapping[str, record.Record], keys: Mapping[Cell, str], keep_old: bool
) -> tuple[dict[str, record.Record], dict[str, int]]:
    """Records by key that still hold, and reasons why others do not, with their number."""
    now, done, stale = environment(), {}, {}
    for cell, key in keys.items():
        row = rows.get(key)
        if row is None or row["result"] == "missing":  # a library that was missing may be there now
            continue
        why = None if keep_old else _stale(row, suite.cells[cell], now)
        if why is None:
            done[key] = row
        else:
            stale[why] = stale.get(why, 0) + 1
    return done, stale


def _stale(row: record.Record, settings: Settings, now: dict) -> str | None:
    """Why a record would not come out the same today; None where nothing is known against it."""
    env = row.get("env") or {}
    if "settings" in row and row["settings"] != record.finite(record.changed(settings)):
        names = {*row["settings"], *record.changed(settings)}
        default = dataclasses.asdict(Settings())
        differ = [
            f"{name} {row['settings'].get(name, default.get(name))} -> {getattr(settings, name, None)}"
            for name in sorted(names)
            if row["settings"].get(name, default.get(name)) != getattr(settings, name, None)
        ]
        return f"other settings ({', '.join(differ)})"
    versions, current = env.get("versions") or {}, now["versions"]
    changed = [
        f"{name} {versions.get(name)} -> {current.get(name)}"
        for name in sorted({*versions, *current})
        if versions.get(name) != current.get(name)
    ]
    if changed:
        return f"other versions ({', '.join(changed)})"
    for name, words in (
        ("python", "another Python"),
        ("cpu", "another processor"),
        ("code", "nsolve's code changed"),
    ):
        if env.get(name) != now[name]:
            return words
    return None


def _warn_if_busy(console: Console) -> None:
    """Say so when other work is running: threads then wait for each other, SciPy's most of all."""
    load, cpus = environment()["load"], environment()["threads"]["cpus"]
    if load and cpus and load[0] > cpus:
        console.print(
            f"the machine is busy (load {load[0]:.1f} on {cpus} CPUs): trust counts, not times",
            style="yellow",
        )

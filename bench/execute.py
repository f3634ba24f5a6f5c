"""Run a suite: cell by cell, resuming where a file left off, with a progress bar on stderr."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import record
from .cells import device, run_cell
from .environment import environment
from .suite import Suite


class Interrupted(Exception):
    """Ctrl-C came; `records` holds what was finished."""

    def __init__(self, records: list[record.Record]):
        super().__init__("interrupted")
        self.records = records


def execute(suite: Suite, out: Path | None, fresh: bool, console: Console) -> list[record.Record]:
    """Measure the suite's cells and return their records in the suite's order.

    Cells whose records `out` already holds are not measured again. Without `out` nothing is kept.
    Raises ValueError before any work when `out` cannot be used, `Interrupted` on Ctrl-C."""
    earlier = [] if out is None else record.open_for_resume(out, suite.config, fresh)
    done = {row["key"]: row for row in earlier}
    # A library that was missing may be there now.
    done = {key: row for key, row in done.items() if row["result"] != "missing"}
    keys = [cell.key(device()) for cell in suite.cells]
    skipped = sum(key in done for key in keys)
    if skipped:
        console.print(f"resuming: {skipped} of {len(keys)} cells are in {out}", soft_wrap=True)
    _warn_if_busy(console)
    reported: set[str] = set()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as progress:
        bar = progress.add_task(suite.name, total=len(keys), completed=skipped)
        try:
            for (cell, settings), key in zip(suite.cells.items(), keys, strict=True):
                if key in done:
                    continue
                progress.update(bar, description=escape(f"{cell.problem} {cell.size or ''} {cell.spec}"))
                row = run_cell(cell, settings, suite.name, suite.config)
                if out is not None:
                    record.append(out, row)
                done[key] = row
                progress.advance(bar)
                message = row.get("message")
                if message and message not in reported:
                    reported.add(message)
                    progress.console.print(f"missing: {message}", markup=False, soft_wrap=True)
        except KeyboardInterrupt:
            raise Interrupted([done[key] for key in keys if key in done]) from None
    return [done[key] for key in keys]


def _warn_if_busy(console: Console) -> None:
    """Say so when other work is running: threads then wait for each other, SciPy's most of all."""
    load, cpus = environment()["load"], environment()["threads"]["cpus"]
    if load and cpus and load[0] > cpus:
        console.print(
            f"the machine is busy (load {load[0]:.1f} on {cpus} CPUs): trust counts, not times",
            style="yellow",
        )

"""The progress bar of whatever takes longer than a few seconds."""

from contextlib import nullcontext
from typing import Any

from ._extras import needed


class _NoBar:
    def add_task(self, *args: Any, **kwargs: Any) -> int:
        return 0

    def update(self, *args: Any, **kwargs: Any) -> None: ...

    def advance(self, *args: Any, **kwargs: Any) -> None: ...


def progress_bar(shown: bool) -> Any:
    """A context with a bar on the standard error stream, or with none."""
    if not shown:
        return nullcontext(_NoBar())
    progress, console = (
        needed(f"rich.{name}", "learned", "`progress=True`") for name in ("progress", "console")
    )
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        console=console.Console(stderr=True),
    )

"""A line on the terminal about a solve that takes longer than a few seconds."""

import contextlib
import math
import threading
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import nsolve as ns

from .report.format import scientific

#: Seconds for which nothing is shown.
PATIENCE = 3.0
#: Between two looks so many entries are multiplied, in tens of milliseconds; at most so many steps are taken.
_ENTRIES, _STEPS = 10_000_000, 1000


class Live:
    """What a solve is doing, on a stream that is a terminal; on others nothing.

    * `solving(words)`: while it lasts there is a line with these words, wiped away at the end.
    * `monitor`: for the solver, so that the line tells how far it is; None where nothing is shown.  The bar
      grows with the logarithm of the residual, from the right-hand side's norm to the tolerance; or tells
      nothing where the residual `stays`, as in least squares.
    """

    def __init__(self, stream: Any, entries: int, stays: bool = False):
        console, self.stays = Console(file=stream), stays
        self.bar: Progress | None = None
        if stream.isatty() and console.is_interactive:
            self.bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=12),
                TextColumn("{task.fields[reached]}", markup=False),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )
        every = max(1, min(_STEPS, _ENTRIES // entries))
        self.monitor = None if self.bar is None else ns.Monitor(self._look, every)

    @contextlib.contextmanager
    def solving(self, words: str) -> Iterator[None]:
        if self.bar is None:
            yield
            return
        task = self.bar.add_task(words, total=None, reached="")
        timer = threading.Timer(PATIENCE, self.bar.start)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            self.bar.stop()
            self.bar.remove_task(task)

    def _look(self, progress: ns.Progress) -> None:
        assert self.bar is not None
        scale = progress.vector_norm or 1.0
        residual, tolerance = progress.residual_norm / scale, progress.tolerance / scale
        reached = f"step {progress.num_steps}, residual {scientific(residual)}"
        total, share = None, 0.0
        if not self.stays:
            reached += f" / {scientific(tolerance)}"
            total, share = 1.0, 1.0
            if residual > tolerance > 0 and math.isfinite(residual):
                share = max(0.0, math.log(residual) / math.log(tolerance))
        for task in self.bar.task_ids:
            self.bar.update(task, total=total, completed=share, reached=reached)

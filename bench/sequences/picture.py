"""Sequences as a picture: iterations of each system in turn, and products per system."""

from collections.abc import Sequence
from itertools import cycle

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from ..figures import FAILURE, INK, PALETTE, cross, name_the_rest, new_figure
from ..record import Record
from ..table import number, per_system, reason, scientific, succeeded, system_label
from .report import preconditioner


def draw_sequence(records: Sequence[Record]) -> Figure | None:
    """Columns of one sequence, one tolerance and one preconditioner; a colour is a column."""
    drawn = [record for record in records if record.get("steps")]
    if not drawn:
        return None
    title = f"{system_label(drawn[0])}: steps of each system (rtol {scientific(drawn[0]['rtol'])}"
    title += f", {preconditioner(drawn[0]) or 'no preconditioner'})"
    figure, (lines, bars) = new_figure(title, height=1.6 + 0.42 * max(6, len(drawn)), columns=2)
    names, products = [], []
    for row, (record, colour) in enumerate(zip(drawn, cycle(PALETTE), strict=False)):
        steps = np.maximum(record["steps"], 1)
        # Systems picked from a sequence stand where they belong in it.
        places = np.linspace(1, record["length"], len(steps))
        marker = "o" if len(steps) < record["length"] else None
        lines.semilogy(places, steps, color=colour, marker=marker, markersize=4, linewidth=1.3)
        mean = per_system(record, record["num_matvecs"]) or 0.0
        bars.barh(row, mean, color=colour, height=0.62, alpha=1.0 if succeeded(record) else 0.35)
        text, ink = f" {number(mean)}", INK
        for place in record.get("unsolved", ()):
            cross(lines, places[place], steps[place])
        if not succeeded(record):
            text, ink = f"{text}  ✗ {reason(record)}", FAILURE
        bars.text(mean, row, text, va="center", fontsize=8, color=ink)
        names.append(record["solver"])
        products.append(mean)
    lines.set(xlabel="system, in the order of solution", ylabel="iterations")
    low, high = lines.get_ylim()
    if high < 100 * low:  # hardly a decade has a name
        lines.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        lines.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        lines.yaxis.set_minor_locator(NullLocator())
    lines.xaxis.set_major_locator(MaxNLocator(integer=True))
    bars.set_yticks(range(len(names)), names, fontsize=7.5)
    bars.invert_yaxis()
    bars.set_xlim(0, 1.7 * max(products))
    bars.xaxis.set_major_locator(MaxNLocator(4))
    bars.set_xlabel("products per system")
    bars.grid(axis="y", visible=False)
    name_the_rest(figure, [r for r in records if not r.get("steps")], "no figures")
    return figure

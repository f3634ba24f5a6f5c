"""What all pictures share: the palette, the frame, names at the ends of lines, crosses."""

from collections.abc import Iterable
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox

from bench.record import Record
from bench.table import library, reason, succeeded

# The Okabe-Ito colours, darkened where they also write text on white.
COLOURS = {
    "nsolve": "#0072B2",
    "scipy": "#D98E00",
    "pyamg": "#009E73",
    "jax.scipy": "#CC79A7",
    "lineax": "#D55E00",
    "solvax": "#56B4E9",
    "petsc": "#5B4A9E",
    "amgcl": "#8C6D31",
}
OTHER = "#6E6E6E"
# Where a colour is a column, not a library.
PALETTE = tuple(COLOURS.values()) + (OTHER, "#B8336A", "#2F4F4F")
FAILURE = "#C00000"
INK = "#333333"
_GAP = 9  # points between the end of a line and its name
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (9, 3)))


def new_figure(title: str, height: float = 4.4, columns: int = 1):
    """A titled figure and its axes (an array of them for two columns)."""
    # One plot leaves a right margin for the names of its lines.
    figure = Figure(figsize=(8.4 if columns == 1 else 10.0, height))
    FigureCanvasAgg(figure)
    if columns == 1:
        figure.subplots_adjust(left=0.09, right=0.74, bottom=0.17, top=0.9)
    else:
        figure.set_layout_engine("constrained")
    axes = figure.subplots(1, columns, width_ratios=None if columns == 1 else (1.5, 1))
    figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, color=INK, fontweight="bold")
    for panel in np.atleast_1d(axes):
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color("#999999")
        panel.tick_params(colors=INK, labelsize=8.5)
        panel.grid(color="#E6E6E6", linewidth=0.7)
        panel.set_axisbelow(True)
    return figure, axes


def line_styles(records: Iterable[Record]) -> list[dict]:
    """Line styles: colour by library, dashes within a library, ours drawn on top."""
    dashes: dict[str, cycle] = {}
    styles = []
    for record in records:
        name = library(record)
        ours = name == "nsolve"
        styles.append(
            {
                "color": COLOURS.get(name, OTHER),
                "linestyle": next(dashes.setdefault(name, cycle(_DASHES))),
                "linewidth": 2.0 if ours else 1.4,
                "zorder": 3 if ours else 2,
            }
        )
    return styles


def cross(axes: Axes, x: float, y: float) -> None:
    """Mark a failed cell."""
    axes.plot(x, y, marker="x", markersize=8, markeredgewidth=2, color=FAILURE, zorder=5)


def label_ends(figure: Figure, axes: Axes, ends: list[tuple]) -> None:
    """Write each line's name beside its end, moved up or down until no two names overlap."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    frame = axes.get_window_extent(renderer)
    points = [axes.transData.transform((x, y)) for x, y, _, _ in ends]
    taken = [Bbox([point - 5, point + 5]) for point in points]
    pixels = figure.dpi / 72
    for x, y, record, count in sorted(ends, key=lambda end: end[1]):
        text = record["solver"] + (f"  {count}" if count else "")
        colour = COLOURS.get(library(record), OTHER)
        if not succeeded(record):
            cross(axes, x, y)
            text, colour = f"{text}\n{reason(record)}", FAILURE
        label = axes.annotate(
            text,
            (x, y),
            xytext=(_GAP, 0),
            textcoords="offset points",
            fontsize=8,
            color=colour,
            fontweight="bold" if library(record) == "nsolve" else "normal",
            va="center",
            zorder=6,
            linespacing=1.0,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "relpos": (0, 0.5)},
            bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.5},
        )
        size = Text.get_window_extent(label, renderer)
        corner = axes.transData.transform((x, y)) + (_GAP * pixels, -size.height / 2)
        # From the bottom up, so names keep the order of their lines; down only where up is full.
        for shift in (0, -3, -6, *range(3, 300, 3), *range(-9, -300, -3)):
            low = corner + (0, shift * pixels)
            box = Bbox([low, low + (size.width, size.height)])
            inside = frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                break
        else:  # no room left: better over another name than nowhere
            shift, box = 0, size
        label.set_position((_GAP, shift))
        taken.append(box)
        if abs(shift) < 8 and label.arrow_patch is not None:
            label.arrow_patch.set_visible(False)


def whole_decades(axes: Axes) -> None:
    """Name the decades of a logarithmic axis; where there are fewer than two, name more ticks."""
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        if abs(np.log10(high / low)) >= 2:
            axis.set_minor_formatter(NullFormatter())
        else:
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_locator(NullLocator())


def name_the_rest(figure: Figure, records: list[Record], why: str) -> None:
    """Under the axes, the cells that could not be drawn and the reason."""
    if not records:
        return
    named = sorted({f"{r['solver']} ({reason(r) or why})" for r in records})
    figure.supxlabel(
        "not drawn: " + ", ".join(named),
        x=0.01,
        ha="left",
        fontsize=7.5,
        color="#777777",
        wrap=True,
    )


def save(figure: Figure, out: Path, name: str) -> list[Path]:
    """Write `name.png` and `name.svg` into the folder `out`."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        paths = [out / f"{name}.png", out / f"{name}.svg"]
        figure.savefig(paths[0], dpi=160)
        # No date and no random ids: the same records give the same picture, byte for byte.
        with rc_context({"svg.hashsalt": name}):
            figure.savefig(paths[1], metadata={"Date": None})
    except OSError as error:
        raise ValueError(f"out: cannot write into {out} ({error.strerror})") from None
    return paths

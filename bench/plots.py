"""Pictures of benchmark records: convergence, iterations against size, work-precision, time.

Colour says which library, so that one library keeps its colour from picture to picture (the
Okabe-Ito palette, told apart by colour-blind readers); every line carries its own label. A failed
cell is drawn with a cross, and a cell that cannot be drawn at all is named under the axes.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox

from bench.record import Record
from bench.table import (
    is_number,
    library,
    median_seconds,
    reason,
    scientific,
    seconds,
    succeeded,
    system_key,
    system_label,
)

KINDS = ("convergence", "size", "work-precision", "time")

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
_OTHER = "#6E6E6E"
_FAILURE = "#C00000"
_INK = "#333333"
_GAP = 9  # points between the end of a line and its name
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (9, 3)))


def plot(records: Sequence[Record], kind: str, out: Path) -> list[Path]:
    """Draw one picture per problem into the folder `out`, as PNG and as SVG; return the paths.

    `kind` is `convergence` (relative residual against iterations; cells run with their residual
    history), `size` (iterations against unknowns), `work-precision` (solve seconds against the
    true residual reached, over the tolerances) or `time` (set-up, compile and solve bars).
    """
    draw = {
        "convergence": _draw_convergence,
        "size": _draw_size,
        "work-precision": _draw_work_precision,
        "time": _draw_time,
    }.get(kind)
    if draw is None:
        raise ValueError(f"kind is {kind!r}: choose from {', '.join(KINDS)}")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out is the file {out}: give a folder for the pictures")
    paths = []
    for name, group in _groups(records, kind).items():
        figure = draw(group)
        if figure is not None:
            paths += _save(figure, out, f"{kind}-{name}")
    if not paths:
        raise ValueError(f"no record can be drawn as {kind!r}: {_NEEDS[kind]}")
    return paths


_NEEDS = {
    "convergence": "it needs cells with residual_norms (run them with their history)",
    "size": "it needs iteration counts at two sizes of a problem or more",
    "work-precision": "it needs timed cells at two tolerances or more",
    "time": "it needs timed cells",
}


def _groups(records: Sequence[Record], kind: str) -> dict[str, list[Record]]:
    """Records that share a picture, by the picture's file name."""
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        if kind == "size":
            fields = ("problem", "rtol", "dtype", "device", "seed")
            group_key = tuple(repr(record.get(name)) for name in fields)
        elif kind == "time":
            group_key = (*system_key(record), repr(record.get("rtol")))
        else:
            group_key = system_key(record)
        groups.setdefault(group_key, []).append(record)
    named: dict[str, list[Record]] = {}
    for group in groups.values():
        first = group[0]
        name = first["problem"] if kind == "size" else system_label(first)
        if kind in ("size", "time") and first.get("rtol") is not None:
            name += f"-{first['rtol']:g}"
        name = unique = re.sub(r"[^\w.-]+", "-", name)
        number = 1
        while unique in named:  # the same problem in another dtype, on another device, ...
            number += 1
            unique = f"{name}-{number}"
        named[unique] = group
    return named


def _draw_convergence(records: list[Record]) -> Figure | None:
    # Of one solver at several tolerances the tightest shows the most.
    best: dict[str, Record] = {}
    for record in records:
        old = best.get(record["solver"])
        if old is None or (record.get("rtol") or 1) < (old.get("rtol") or 1):
            best[record["solver"]] = record
    curves = [(record, residual_history(record)) for record in best.values()]
    drawn = [(record, history) for record, history in curves if len(history) > 1]
    if not drawn:
        return None
    lengths = [len(history) - 1 for _, history in drawn]
    figure, axes = _figure(f"{system_label(records[0])}: convergence")
    logarithmic = max(lengths) > 20 * min(lengths)
    first = 1 if logarithmic else 0  # a logarithmic axis has no zero
    ends = []
    for (record, history), style in zip(drawn, _styles([r for r, _ in drawn]), strict=True):
        axes.semilogy(np.arange(first, len(history)), history[first:], **style)
        ends.append((len(history) - 1, history[-1], record, f"{len(history) - 1}"))
    if logarithmic:
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    tolerance = min((r["rtol"] for r, _ in drawn if r.get("rtol")), default=None)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, (tolerance or low) / 30), min(high, 1e6))
    if tolerance:
        axes.axhline(tolerance, color=_INK, linewidth=0.6, linestyle=":")
    axes.set(xlabel="iterations", ylabel="relative residual")
    _label_ends(figure, axes, ends)
    _name_the_rest(figure, [r for r, history in curves if len(history) <= 1], "no history")
    return figure


def residual_history(record: Record) -> np.ndarray:
    """Relative residuals of a record by iteration, without the padding.

    Starts with the residual before the first step; cut at the first entry that is not a positive
    number, since a logarithmic axis can show nothing from there on.
    """
    history = np.asarray([np.nan if x is None else x for x in record.get("residual_norms") or []])
    bad = ~(np.isfinite(history) & (history > 0)) if history.size else history
    return history[: int(np.argmax(bad))] if bad.any() else history


def _draw_size(records: list[Record]) -> Figure | None:
    return _draw_lines(
        records,
        x=unknowns,
        y=lambda r: r.get("num_steps"),
        axis_names=("unknowns", "iterations"),
        title=f"{records[0]['problem']}: iterations against size"
        + (f" (rtol {scientific(records[0]['rtol'])})" if records[0].get("rtol") else ""),
    )


def _draw_work_precision(records: list[Record]) -> Figure | None:
    return _draw_lines(
        records,
        x=lambda r: r.get("true_residual") or None,
        y=median_seconds,
        axis_names=("true relative residual reached", "solve seconds"),
        title=f"{system_label(records[0])}: work against precision",
        reverse=True,
    )


def unknowns(record: Record) -> int | None:
    """Unknowns of a problem; of one that says only its side, `poisson2d 512` has 512^2."""
    if is_number(record.get("num_unknowns")):
        return record["num_unknowns"]
    size: Any = record.get("size")
    dimension = re.search(r"([123])d", record["problem"])
    return int(size) ** int(dimension[1] if dimension else 1) if is_number(size) else None


def _draw_lines(
    records: list[Record],
    x: Callable[[Record], float | None],
    y: Callable[[Record], float | None],
    axis_names: tuple[str, str],
    title: str,
    reverse: bool = False,
) -> Figure | None:
    lines: dict[str, list[Record]] = {}
    undrawn = []
    for record in records:
        if is_number(x(record)) and is_number(y(record)) and y(record):
            lines.setdefault(record["solver"], []).append(record)
        else:
            undrawn.append(record)
    if len({x(record) for line in lines.values() for record in line}) < 2:
        return None
    figure, axes = _figure(title)
    axes.set(xlabel=axis_names[0], ylabel=axis_names[1], xscale="log", yscale="log")
    ends = []
    for line, style in zip(
        lines.values(), _styles([line[0] for line in lines.values()]), strict=True
    ):
        line.sort(key=lambda r: (unknowns(r) or 0, -(r.get("rtol") or 0)))
        xs, ys = [x(r) for r in line], [y(r) for r in line]
        axes.plot(xs, ys, marker="o", markersize=4, **style)  # type: ignore[arg-type]
        for record, a, b in zip(line, xs, ys, strict=True):
            if not succeeded(record):
                _cross(axes, a, b)
        ends.append((xs[-1], ys[-1], line[-1], ""))
    axes.margins(x=0.04, y=0.12)
    if reverse:
        axes.invert_xaxis()
    _whole_decades(axes)
    _label_ends(figure, axes, ends)
    _name_the_rest(figure, undrawn, "no figures")
    return figure


def _draw_time(records: list[Record]) -> Figure | None:
    timed = [r for r in records if median_seconds(r) is not None]
    if not timed:
        return None
    timed.sort(key=lambda r: (not succeeded(r), median_seconds(r)), reverse=True)
    title = system_label(records[0])
    if records[0].get("rtol"):
        title += f": time to a relative residual of {scientific(records[0]['rtol'])}"
    figure, axes = _figure(title, height=1.2 + 0.32 * len(timed), columns=2)
    solve, once = axes
    rows = np.arange(len(timed))
    colours = [COLOURS.get(library(r), _OTHER) for r in timed]
    bars = solve.barh(rows, [median_seconds(r) for r in timed], color=colours, height=0.62)
    for bar, record in zip(bars, timed, strict=True):
        bar.set_alpha(1.0 if succeeded(record) else 0.35)
    setup = np.array([r.get("setup_s") or 0.0 for r in timed])
    compiling = np.array([r.get("compile_s") or 0.0 for r in timed])
    once.barh(rows, setup, color=colours, alpha=0.6, height=0.62)
    once.barh(rows, compiling, left=setup, color=colours, alpha=0.28, height=0.62)
    for row, record in enumerate(timed):
        text = f" {seconds(median_seconds(record))}"
        if is_number(record.get("num_steps")):
            text += f", {record['num_steps']} steps"
        if not succeeded(record):
            text += f"  ✗ {reason(record)}"
        colour = _INK if succeeded(record) else _FAILURE
        solve.text(median_seconds(record), row, text, va="center", fontsize=8, color=colour)
        total = setup[row] + compiling[row]
        parts = [seconds(part) for part in (setup[row], compiling[row]) if part > 1e-5]
        once.text(total, row, " " + " + ".join(parts), va="center", fontsize=8, color=_INK)
    solve.set_yticks(rows, [r["solver"] for r in timed])
    once.set_yticks(rows, [""] * len(timed))
    solve.set_xlabel("solve, seconds (median)")
    once.set_xlabel("once: set-up (darker) + compile, seconds")
    for panel, room in ((solve, 1.75), (once, 1.6)):
        panel.tick_params(axis="y", length=0)
        panel.spines["left"].set_visible(False)
        panel.set_xlim(0, (panel.dataLim.x1 or 1e-3) * room)
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.grid(axis="y", visible=False)
    _name_the_rest(figure, [r for r in records if median_seconds(r) is None], "not timed")
    return figure


def _figure(title: str, height: float = 4.4, columns: int = 1):
    # One plot leaves a right margin for the names of its lines.
    figure = Figure(figsize=(8.4 if columns == 1 else 10.0, height))
    FigureCanvasAgg(figure)
    if columns == 1:
        figure.subplots_adjust(left=0.09, right=0.74, bottom=0.17, top=0.9)
    else:
        figure.set_layout_engine("constrained")
    axes = figure.subplots(1, columns, width_ratios=None if columns == 1 else (1.5, 1))
    figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, color=_INK, fontweight="bold")
    for panel in np.atleast_1d(axes):
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color("#999999")
        panel.tick_params(colors=_INK, labelsize=8.5)
        panel.grid(color="#E6E6E6", linewidth=0.7)
        panel.set_axisbelow(True)
    return figure, axes


def _styles(records: Iterable[Record]) -> list[dict]:
    """Line styles: colour by library, dashes within a library, ours drawn on top."""
    dashes: dict[str, cycle] = {}
    styles = []
    for record in records:
        name = library(record)
        ours = name == "nsolve"
        styles.append(
            {
                "color": COLOURS.get(name, _OTHER),
                "linestyle": next(dashes.setdefault(name, cycle(_DASHES))),
                "linewidth": 2.0 if ours else 1.4,
                "zorder": 3 if ours else 2,
            }
        )
    return styles


def _cross(axes: Axes, x, y) -> None:
    axes.plot(x, y, marker="x", markersize=8, markeredgewidth=2, color=_FAILURE, zorder=5)


def _label_ends(figure: Figure, axes: Axes, ends: list[tuple]) -> None:
    """Write each line's name beside its end, moved up or down until no two names overlap."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    frame = axes.get_window_extent(renderer)
    points = [axes.transData.transform((x, y)) for x, y, _, _ in ends]
    taken = [Bbox([point - 5, point + 5]) for point in points]
    pixels = figure.dpi / 72
    for x, y, record, count in sorted(ends, key=lambda end: end[1]):
        text = record["solver"] + (f"  {count}" if count else "")
        colour = COLOURS.get(library(record), _OTHER)
        if not succeeded(record):
            _cross(axes, x, y)
            text, colour = f"{text}\n{reason(record)}", _FAILURE
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


def _whole_decades(axes: Axes) -> None:
    """Name the decades of a logarithmic axis; where there are fewer than two, name more ticks."""
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        if abs(np.log10(high / low)) >= 2:
            axis.set_minor_formatter(NullFormatter())
        else:
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_locator(NullLocator())


def _name_the_rest(figure: Figure, records: list[Record], why: str) -> None:
    if not records:
        return
    named = sorted({f"{r['solver']} ({reason(r) or why})" for r in records})
    figure.supxlabel(
        "not drawn: " + ", ".join(named), x=0.01, ha="left", fontsize=7.5, color=_FAILURE, wrap=True
    )


def _save(figure: Figure, out: Path, name: str) -> list[Path]:
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

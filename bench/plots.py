"""Pictures of benchmark records: convergence, iterations against size, work-precision, time.

Colour says which library, so that one library keeps its colour from picture to picture (the
Okabe-Ito palette, told apart by colour-blind readers); every line carries its own label. A failed
cell is drawn with a cross, and a cell that cannot be drawn at all is named under the axes.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.cells import wing
from bench.diffusion import report as diffusion_report
from bench.diffusion.picture import draw_digits, draw_evaluations, draw_memory, draw_orders
from bench.figures import (
    COLOURS,
    FAILURE,
    INK,
    OTHER,
    cross,
    label_ends,
    line_styles,
    name_the_rest,
    new_figure,
    save,
    whole_decades,
)
from bench.record import Record
from bench.relaxation import report as relaxation_report
from bench.relaxation.picture import draw_regret, draw_tuning
from bench.sequences.picture import draw_sequence
from bench.sequences.report import preconditioner
from bench.table import (
    is_number,
    library,
    median_seconds,
    num_steps,
    number,
    reason,
    scientific,
    seconds,
    setup_seconds,
    succeeded,
    system_key,
    system_label,
)
from bench.transport import report as transport_report
from bench.transport.picture import draw_epsilons, draw_errors
from bench.transport.problems import without_eta

KINDS = (
    "convergence", "size", "work-precision", "time", "sequence", "regret", "tuning", "transport", "epsilon",
    "evaluations", "order", "reverse", "digits",
)  # fmt: skip


def plot(records: Sequence[Record], kind: str, out: Path) -> list[Path]:
    """Draw one picture per problem into the folder `out`, as PNG and as SVG; return the paths.

    `kind` is `convergence` (relative residual against iterations; cells run with their residual history),
    `size` (iterations against unknowns), `work-precision` (solve seconds against the true residual reached,
    over the tolerances), `time` (set-up, compile and solve bars), `sequence` (iterations of each system of a
    sequence, and products of all), `regret` (of a sequence whose solver is tuned, the steps beyond those of
    the best fixed parameter), `tuning` (its steps and choices over time), `transport` (marginal errors of
    transport problems against seconds and steps), `epsilon` (their seconds and steps against the
    regularisation), `evaluations` (errors of diffusion samplers against network evaluations), `order` (their
    errors as steps are doubled), `reverse` (memory and seconds of their gradients) or `digits` (pictures).
    """
    draw = {
        "convergence": _draw_convergence,
        "size": _draw_size,
        "work-precision": _draw_work_precision,
        "time": _draw_time,
        "sequence": draw_sequence,
        "regret": draw_regret,
        "tuning": draw_tuning,
        "transport": draw_errors,
        "epsilon": draw_epsilons,
        "evaluations": draw_evaluations,
        "order": draw_orders,
        "reverse": draw_memory,
        "digits": draw_digits,
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
            paths += save(figure, out, f"{kind}-{name}")
    if not paths:
        raise ValueError(f"no record can be drawn as {kind!r}: {_NEEDS[kind]}")
    return paths


#: Which question of the suite diffusion a kind draws.
_DIFFUSION = {"evaluations": "error", "order": "order", "reverse": "gradient", "digits": "digits"}
_NEEDS = {
    "convergence": "it needs cells with residual_norms (run them with their history)",
    "size": "it needs iteration counts at two sizes of a problem or more",
    "work-precision": "it needs timed cells at two tolerances or more",
    "time": "it needs timed cells",
    "sequence": "it needs cells that are sequences (a suite's groups with a `count`)",
    "regret": "it needs tuned sequences, and among the columns best_fixed",
    "tuning": "it needs tuned sequences, as in the suite relax",
    "transport": "it needs transport problems at two tolerances or more",
    "epsilon": "it needs transport problems at two values of epsilon or more",
    "evaluations": "it needs diffusion problems at two numbers of evaluations or more",
    "order": "it needs columns @order of diffusion problems",
    "reverse": "it needs columns @gradient of diffusion problems at two numbers of steps or more",
    "digits": "it needs the diffusion problem digits",
}


def _groups(records: Sequence[Record], kind: str) -> dict[str, list[Record]]:
    """Records that share a picture, by the picture's file name."""
    groups: dict[tuple, list[Record]] = {}
    if kind in ("regret", "tuning"):  # all seeds together
        found = relaxation_report.groups([record for record in records if "window" in record])
        groups = {(number,): group for number, group in enumerate(found)}
        records = ()
    if kind in _DIFFUSION:
        found = [r for r in records if diffusion_report.is_diffusion(r)]
        found = [r for r in found if diffusion_report.kind(r) == _DIFFUSION[kind]]
        groups = {(number,): group for number, group in enumerate(diffusion_report.groups(found))}
        records = ()
    elif kind in ("transport", "epsilon"):
        found = [record for record in records if transport_report.is_transport(record)]
        found = transport_report.groups(found, all_epsilons=kind == "epsilon")
        groups = {(number,): group for number, group in enumerate(found)}
        records = ()
    else:
        records = [record for record in records if wing(record["problem"]) is None]
    for record in records:
        if kind == "size":
            fields = ("problem", "rtol", "dtype", "device", "seed")
            group_key = tuple(repr(record.get(name)) for name in fields)
        elif kind == "time":
            group_key = (*system_key(record), repr(record.get("rtol")))
        elif kind == "sequence":
            group_key = (*system_key(record), repr(record.get("rtol")), preconditioner(record))
        else:
            group_key = system_key(record)
        groups.setdefault(group_key, []).append(record)
    named: dict[str, list[Record]] = {}
    for group in groups.values():
        first = group[0]
        name = first["problem"] if kind == "size" or kind in _DIFFUSION else system_label(first)
        if kind == "epsilon":
            name = f"{without_eta(first['problem'])} {first['size']}"
        if kind in ("size", "time", "sequence", "regret", "tuning") and first.get("rtol") is not None:
            name += f"-{first['rtol']:g}"
        if kind == "sequence":
            name += f"-{preconditioner(first) or 'none'}"
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
    figure, axes = new_figure(f"{system_label(records[0])}: convergence")
    logarithmic = max(lengths) > 20 * min(lengths)
    first = 1 if logarithmic else 0  # a logarithmic axis has no zero
    ends = []
    for (record, history), style in zip(drawn, line_styles([r for r, _ in drawn]), strict=True):
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
        axes.axhline(tolerance, color=INK, linewidth=0.6, linestyle=":")
    axes.set(xlabel="iterations", ylabel="relative residual")
    label_ends(figure, axes, ends)
    name_the_rest(figure, [r for r, history in curves if len(history) <= 1], "no history")
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
        y=num_steps,
        axis_names=("unknowns", "iterations"),
        title=f"{records[0]['problem']}: iterations against size"
        + (f" (rtol {scientific(records[0]['rtol'])})" if records[0].get("rtol") else ""),
    )


def _draw_work_precision(records: list[Record]) -> Figure | None:
    if len({r.get("rtol") for r in records}) < 2:
        return None
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
    for name in ("num_unknowns", "unknowns"):
        if is_number(record.get(name)):
            return record[name]
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
    figure, axes = new_figure(title)
    axes.set(xlabel=axis_names[0], ylabel=axis_names[1], xscale="log", yscale="log")
    ends = []
    for line, style in zip(lines.values(), line_styles([line[0] for line in lines.values()]), strict=True):
        line.sort(key=lambda r: (unknowns(r) or 0, -(r.get("rtol") or 0)))
        xs, ys = ([float(number(r) or 0) for r in line] for number in (x, y))
        axes.plot(xs, ys, marker="o", markersize=4, **style)
        for record, a, b in zip(line, xs, ys, strict=True):
            if not succeeded(record):
                cross(axes, a, b)
        ends.append((xs[-1], ys[-1], line[-1], ""))
    axes.margins(x=0.04, y=0.12)
    if reverse:
        axes.invert_xaxis()
    whole_decades(axes)
    label_ends(figure, axes, ends)
    name_the_rest(figure, undrawn, "no figures")
    return figure


def _draw_time(records: list[Record]) -> Figure | None:
    timed = [r for r in records if median_seconds(r) is not None]
    if not timed:
        return None
    timed.sort(key=lambda r: (not succeeded(r), median_seconds(r)), reverse=True)
    title = system_label(records[0])
    if records[0].get("rtol"):
        title += f": time to a relative residual of {scientific(records[0]['rtol'])}"
    figure, axes = new_figure(title, height=1.2 + 0.32 * len(timed), columns=2)
    solve, once = axes
    rows = np.arange(len(timed))
    colours = [COLOURS.get(library(r), OTHER) for r in timed]
    bars = solve.barh(rows, [median_seconds(r) for r in timed], color=colours, height=0.62)
    for bar, record in zip(bars, timed, strict=True):
        bar.set_alpha(1.0 if succeeded(record) else 0.35)
    setup = np.array([setup_seconds(r) or 0.0 for r in timed])
    compiling = np.array([r.get("compile_s") or 0.0 for r in timed])
    once.barh(rows, setup, color=colours, alpha=0.6, height=0.62)
    once.barh(rows, compiling, left=setup, color=colours, alpha=0.28, height=0.62)
    for row, record in enumerate(timed):
        text = f" {seconds(median_seconds(record))}"
        if record.get("num_steps"):  # a direct solver has none
            text += f", {number(num_steps(record))} steps"
        if not succeeded(record):
            text += f"  ✗ {reason(record)}"
        colour = INK if succeeded(record) else FAILURE
        solve.text(median_seconds(record), row, text, va="center", fontsize=8, color=colour)
        total = setup[row] + compiling[row]
        parts = [seconds(part) for part in (setup[row], compiling[row]) if part > 1e-5]
        once.text(total, row, " " + " + ".join(parts), va="center", fontsize=8, color=INK)
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
    name_the_rest(figure, [r for r in records if median_seconds(r) is None], "not timed")
    return figure

"""The suite as pictures: errors after few evaluations and as steps are doubled, memory of reverse mode."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from .. import specs
from ..figures import COLOURS, INK, OTHER, PALETTE, name_the_rest, new_figure, whole_decades
from ..record import Record
from ..table import library, succeeded
from .digits import strip
from .report import by_solver, column, kind

_MANY = (*PALETTE, "#7A9E00", "#B07AA1", "#A0522D")
#: Colours of orders 1, 2, 3, ...
_ORDERS = (OTHER, *(COLOURS[name] for name in ("scipy", "pyamg", "nsolve", "lineax", "petsc")))


def draw_evaluations(records: Sequence[Record]) -> Figure | None:
    """The error against network evaluations, a line a sampler, named from the largest error at ten to the
    smallest; another library's in the colour of ours, dashed; tuned plans thick."""
    drawn = [r for r in records if kind(r) == "error" and succeeded(r)]
    if len({r["size"] for r in drawn}) < 2:
        return None
    of_law = drawn[0].get("error_kind") == "w2"
    figure, axes = new_figure(f"{drawn[0]['problem']}: error left by so many network evaluations")
    lines, colours = by_solver(drawn), {}
    for solver, line in lines.items():
        if library(line[0]) == "nsolve" and not solver.startswith("tuned"):
            colours.setdefault(_method(solver), _MANY[len(colours) % len(_MANY)])
    for solver, line in sorted(lines.items(), key=lambda item: -_at_ten(item[1])):
        tuned, ours = solver.startswith("tuned"), library(line[0]) == "nsolve"
        axes.loglog(
            [r["num_evaluations"] for r in line],
            [r["true_residual"] for r in line],
            color=INK if tuned else colours.get(_method(solver), OTHER),
            marker="o",
            markersize=5 if tuned else 3.5,
            linewidth=2.6 if tuned else 1.4,
            linestyle="-" if ours else (0, (4, 1.5)),
            zorder=4 if tuned else 3,
            label=solver,
        )
    axes.set_xlabel("network evaluations")
    axes.set_ylabel("2-Wasserstein distance" if of_law else "RMS distance from the exact flow")
    _name_sizes(axes, drawn)
    _legend(figure, axes)
    name_the_rest(figure, [r for r in records if not succeeded(r)], "failed")
    return figure


def _method(solver: str) -> tuple[str, object]:
    """Name and order of a column, the same for all libraries and grids."""
    part = specs.parse(solver).solver
    return part.name + str(part.options.get("mode", "")), part.options.get("order")


def _at_ten(line: Sequence[Record]) -> float:
    return min(line, key=lambda r: abs(r["size"] - 10))["true_residual"]


def draw_orders(records: Sequence[Record]) -> Figure | None:
    """Errors as the steps are doubled, coloured by the order that is stated; dotted lines have the slopes."""
    drawn = [r for r in records if kind(r) == "order" and r.get("errors")]
    if not drawn:
        return None
    figure, axes = new_figure(f"{drawn[0]['problem']}: every sampler and its order")
    drawn.sort(key=lambda r: -r["order"])
    for r in drawn:
        stated = r["stated_order"]
        colour = INK if stated is None else _ORDERS[min(stated, len(_ORDERS)) - 1]
        axes.loglog(
            r["steps"],
            r["errors"],
            color=colour,
            marker="." if succeeded(r) else "x",
            linewidth=1.1,
            linestyle=(0, (2, 2)) if stated is None else "-",
            label=f"{column(r)}  {r['order']:.2f}",
        )
    axes.set_xlabel("steps")
    axes.set_ylabel("error")
    _name_sizes(axes, drawn, [steps for r in drawn for steps in r["steps"]])
    _legend(figure, axes, title="sampler and measured order")
    return figure


def draw_memory(records: Sequence[Record]) -> Figure | None:
    """Working memory and seconds of a gradient against the steps it goes through."""
    drawn = [r for r in records if kind(r) == "gradient" and succeeded(r)]
    if len({r["size"] for r in drawn}) < 2:
        return None
    figure, (memory, seconds) = new_figure("Reverse mode through a sampler", height=4.2, columns=2)
    for number, (solver, line) in enumerate(by_solver(drawn).items()):
        style = {"color": PALETTE[number], "marker": "o", "markersize": 4}
        steps = [r["size"] for r in line]
        memory.loglog(steps, [r["temporary_bytes"] / 2**20 for r in line], label=_choice(solver), **style)
        seconds.loglog(steps, [r["solve_s"]["median"] for r in line], **style)
    memory.set(xlabel="steps", ylabel="MiB beside arguments and results")
    seconds.set(xlabel="steps", ylabel="seconds of a gradient")
    for axes in (memory, seconds):
        _name_sizes(axes, drawn)
    memory.legend(fontsize=8, frameon=False)
    return figure


def draw_digits(records: Sequence[Record]) -> Figure | None:
    """The pictures that each sampler drew with the same noise, from few evaluations to many."""
    drawn = [r for r in records if "pictures" in r]
    if not drawn:
        return None
    sizes, lines = sorted({r["size"] for r in drawn}), by_solver(drawn)
    height = 0.35 + 0.3 * (len(lines) + 1)
    figure = Figure(figsize=(2.5 + 3.2 * len(sizes), height))
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(lines) + 1, len(sizes), squeeze=False)
    left, top = 2.5 / figure.get_figwidth(), 1 - 0.3 / height
    figure.subplots_adjust(left=left, right=0.995, top=top, bottom=0.01, wspace=0.03, hspace=0.08)
    for row, (solver, line) in zip(panels, {**lines, "200 steps": drawn[:1]}.items(), strict=True):
        for axes, size in zip(row, sizes, strict=True):
            axes.set_axis_off()
            found = [r for r in line if r["size"] == size]
            name = "reference_pictures" if solver == "200 steps" else "pictures"
            if found:
                axes.imshow(strip(found[0][name]), cmap="gray", vmin=0, vmax=255)
        row[0].text(-0.02, 0.5, solver, transform=row[0].transAxes, ha="right", va="center", fontsize=8)
    for axes, size in zip(panels[0], sizes, strict=True):
        axes.set_title(f"{size} evaluations", fontsize=9, color=INK)
    return figure


def _choice(solver: str) -> str:
    """`dpm_solver_pp[checkpoints=sqrt,order=2] -> checkpoints=sqrt`."""
    inside = solver.partition("[")[2].rstrip("]").split(",")
    return next((part for part in inside if part.startswith("checkpoints")), "checkpoints=step")


def _name_sizes(axes: Axes, records: Sequence[Record], sizes: Sequence[int] | None = None) -> None:
    """The sizes themselves as the ticks of the horizontal axis."""
    whole_decades(axes)
    found = sorted(set(sizes or [r["size"] for r in records]))
    ticks: list[int] = []
    for size in found:  # names of ticks closer than this would overlap
        if not ticks or np.log(size / ticks[-1]) > 0.12:
            ticks.append(size)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _legend(figure: Figure, axes: Axes, title: str | None = None) -> None:
    """Names beside the frame, which gives way to them."""
    figure.set_size_inches(9.6, max(4.8, 1.4 + 0.17 * len(axes.lines)))
    figure.subplots_adjust(left=0.08, right=0.62, bottom=0.12)
    axes.legend(fontsize=7.5, title=title, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)

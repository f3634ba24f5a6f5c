"""Tuned sequences as pictures: regret, and iterations over time with what was chosen and why."""

from collections.abc import Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from ..figures import INK, PALETTE, name_the_rest
from ..record import Record
from ..table import scientific, succeeded, system_label
from .report import best_fixed


def draw_regret(records: Sequence[Record]) -> Figure | None:
    """Steps beyond those of the best fixed `omega`, summed up system by system, the mean over the seeds.

    The frame is the learners'; columns that keep their `omega` may leave it."""
    drawn = [r for r in records if succeeded(r) and best_fixed(r, records) not in (None, r)]
    if not drawn:
        return None
    title = f"{system_label(drawn[0])}: steps beyond the best fixed omega's"
    seeds = len({r["seed"] for r in drawn})
    figure, (axes,) = _frame(f"{title} (means of {seeds} seeds)" if seeds > 1 else title, (1.0,))
    limits = [0.0]
    for solver, colour in _colours(drawn):
        curves = [_regret(r, records) for r in drawn if r["solver"] == solver]
        curve = np.mean(curves, axis=0)
        window = next(r["window"] for r in drawn if r["solver"] == solver)
        axes.plot(window * np.arange(len(curve)), curve, color=colour, label=solver, linewidth=1.6)
        if any("tuner_s" in r for r in drawn if r["solver"] == solver):
            limits += [curve.min(), curve.max()]
    axes.axhline(0, color=INK, linewidth=0.8)
    low, high = min(limits), max(limits)
    if high > low:
        axes.set_ylim(low - 0.08 * (high - low), high + 0.15 * (high - low))
    axes.set(xlabel="system", ylabel="steps, summed up")
    _legend(axes)
    name_the_rest(figure, [r for r in records if not succeeded(r)], "no figures")
    return figure


def draw_tuning(records: Sequence[Record]) -> Figure | None:
    """Iterations, chosen `omega` and context along the sequence; of several seeds the first."""
    solved = [r for r in records if succeeded(r)]
    if not solved:
        return None
    seed = min(r["seed"] for r in solved)
    drawn = [r for r in solved if r["seed"] == seed]
    title = f"{system_label(drawn[0])}: steps of each system (rtol {scientific(drawn[0]['rtol'])}"
    title += f", means of {drawn[0]['window']})" if drawn[0]["window"] > 1 else ")"
    figure, (steps, omega, context) = _frame(title, (2.2, 1.2, 0.8))
    for record, (_, colour) in zip(drawn, _colours(drawn), strict=True):
        x = record["window"] * (np.arange(len(record["window_steps"])) + 0.5)
        steps.plot(
            x, np.maximum(record["window_steps"], 0.1), color=colour, linewidth=1.3, label=record["solver"]
        )
        if record.get("window_omega"):
            omega.plot(x, record["window_omega"], color=colour, linewidth=1.3)
    first = drawn[0]
    x = first["window"] * (np.arange(len(first["window_context"])) + 0.5)
    context.plot(x, first["window_context"], color=INK, linewidth=1.0)
    steps.set_yscale("log")
    steps.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    steps.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    steps.yaxis.set_minor_locator(NullLocator())
    steps.set_ylabel("iterations")
    omega.set_ylabel("omega")
    heat = first["problem"].startswith("heat_trajectory")
    context.set(xlabel="system", ylabel="kappa" if heat else "shift")
    _legend(steps)
    name_the_rest(figure, [r for r in records if not succeeded(r)], "no figures")
    return figure


def _regret(record: Record, records: Sequence[Record]) -> np.ndarray:
    base = best_fixed(record, records)
    assert base is not None
    beyond = np.asarray(record["window_steps"]) - np.asarray(base["window_steps"])
    return np.concatenate([[0.0], np.cumsum(record["window"] * beyond)])


def _colours(records: Sequence[Record]) -> list[tuple[str, str]]:
    return list(zip(dict.fromkeys(r["solver"] for r in records), cycle(PALETTE), strict=False))


def _frame(title: str, heights: tuple[float, ...]) -> tuple[Figure, list[Axes]]:
    """A titled figure with panels one above the other, and a margin for the legend."""
    figure = Figure(figsize=(9.6, 3.0 + 1.2 * len(heights)))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.09, right=0.66, bottom=0.13, top=0.92, hspace=0.12)
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, color=INK, fontweight="bold")
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color("#999999")
        panel.tick_params(colors=INK, labelsize=8.5)
        panel.grid(color="#E6E6E6", linewidth=0.7)
        panel.set_axisbelow(True)
    return figure, list(panels)


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False, labelcolor=INK)

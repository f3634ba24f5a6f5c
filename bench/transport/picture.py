"""Transport problems as pictures: marginal error against seconds and steps, and seconds against epsilon."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..figures import PALETTE, name_the_rest, new_figure, whole_decades
from ..record import Record
from ..table import median_seconds, scientific, succeeded
from .problems import without_eta
from .report import is_transport


def draw_errors(records: Sequence[Record]) -> Figure | None:
    """The true marginal error against seconds and steps, a point per tolerance; a cross: not reached."""
    drawn = [r for r in records if r.get("true_residual") and median_seconds(r) and r["num_steps"]]
    if len({r["rtol"] for r in drawn}) < 2:
        return None
    first = drawn[0]
    title = f"{_name(first)}, epsilon {scientific(first['epsilon'])}"
    figure, (by_time, by_steps) = new_figure(title, height=4.6, columns=2)
    for solver, colour in _colours(drawn).items():
        line = sorted((r for r in drawn if r["solver"] == solver), key=lambda r: -r["rtol"])
        _line(by_time, line, [median_seconds(r) or 0.0 for r in line], colour)
        _line(by_steps, line, [r["num_steps"] for r in line], colour)
    by_time.set(xlabel="seconds (median)", ylabel="true marginal error (L1)")
    by_steps.set(xlabel="steps")
    _finish(figure, by_time, by_steps)
    name_the_rest(figure, [r for r in records if r["solver"] not in _colours(drawn)], "not timed")
    return figure


def draw_epsilons(records: Sequence[Record]) -> Figure | None:
    """Seconds and steps to the tolerance that most columns reach at most values of `epsilon`, against it."""
    solved = [r for r in records if is_transport(r) and succeeded(r) and r.get("num_steps")]
    if not solved:
        return None
    rtol = min({r["rtol"] for r in solved}, key=lambda rtol: (-sum(r["rtol"] == rtol for r in solved), rtol))
    drawn = [r for r in solved if r["rtol"] == rtol]
    if len({r["epsilon"] for r in drawn}) < 2:
        return None
    first = drawn[0]
    title = f"{_name(first)}, to a marginal error of {scientific(rtol)}"
    figure, (time, steps) = new_figure(title, height=4.6, columns=2)
    for solver, colour in _colours(drawn).items():
        line = sorted((r for r in drawn if r["solver"] == solver), key=lambda r: -r["epsilon"])
        epsilons = [r["epsilon"] for r in line]
        style = {"color": colour, "marker": "o", "markersize": 4, "label": solver}
        time.loglog(epsilons, [median_seconds(r) for r in line], **style)
        steps.loglog(epsilons, [r["num_steps"] for r in line], **style)
    time.set(xlabel="epsilon, of the largest cost", ylabel="seconds (median)")
    steps.set(xlabel="epsilon, of the largest cost", ylabel="steps")
    for axes in (time, steps):
        axes.invert_xaxis()
    _finish(figure, time, steps)
    missing = [r for r in records if r["rtol"] == rtol and not succeeded(r)]
    named = [{**r, "solver": f"{r['solver']} at {scientific(r.get('epsilon'))}"} for r in missing]
    name_the_rest(figure, named, "")
    return figure


def _name(record: Record) -> str:
    return f"{without_eta(record['problem'])}, {record['unknowns'] // 2} points"


def _line(axes: Axes, line: Sequence[Record], xs: Sequence[float], colour: str) -> None:
    axes.loglog(xs, [r["true_residual"] for r in line], color=colour, marker="o", markersize=4,
                label=line[0]["solver"])  # fmt: skip
    for record, x in zip(line, xs, strict=True):
        if not succeeded(record):
            # In the line's colour, or nobody could tell who failed.
            axes.plot(x, record["true_residual"], marker="x", markersize=9, markeredgewidth=2, color=colour)


def _colours(records: Sequence[Record]) -> dict[str, str]:
    solvers = dict.fromkeys(record["solver"] for record in records)
    return {solver: PALETTE[i % len(PALETTE)] for i, solver in enumerate(solvers)}


def _finish(figure: Figure, left: Axes, right: Axes) -> None:
    for axes in (left, right):
        whole_decades(axes)
    handles, labels = left.get_legend_handles_labels()
    right.legend(handles, labels, fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)

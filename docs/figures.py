"""What the pictures drawn by the scripts beside share: the palette and the frame."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# The Okabe-Ito colours, darkened where they also write text on white.
PALETTE = (
    "#0072B2", "#D98E00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#5B4A9E", "#8C6D31", "#6E6E6E",
    "#B8336A", "#2F4F4F",
)  # fmt: skip
INK = "#333333"


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
        frame(panel)
    return figure, axes


def frame(panel) -> None:
    """A plot with two axes and a grid."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color("#999999")
    panel.tick_params(colors=INK, labelsize=8.5)
    panel.grid(color="#E6E6E6", linewidth=0.7)
    panel.set_axisbelow(True)

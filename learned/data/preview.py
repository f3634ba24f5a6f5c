"""A picture of a file's first samples: what goes in, and what comes out."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nsolve.gallery.families import AbstractFamily

from .sample_file import SampleFile

SAMPLES = 3
INK = "#333333"


def draw(file: SampleFile, family: AbstractFamily, out: Path) -> Path:
    """One row for each sample: the input's channels, then the solution; PNG.

    Panels of one column share their colours, so that samples can be compared."""
    inputs, solutions = file.read("input")[:SAMPLES], file.read("solution")[:SAMPLES]
    columns = [*(inputs[:, k] for k in range(len(family.channels))), solutions]
    figure = Figure(figsize=(2.1 * len(columns), 1.9 * len(inputs)), layout="compressed")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(inputs), len(columns), squeeze=False)
    for k, (name, fields) in enumerate(zip((*family.channels, "solution"), columns, strict=True)):
        limits = np.min(fields), np.max(fields)
        for row, field in enumerate(fields):
            panel = axes[row, k]
            colours = "viridis" if k < len(family.channels) else "inferno"
            image = panel.imshow(field, cmap=colours, vmin=limits[0], vmax=limits[1])
            panel.set_xticks([])
            panel.set_yticks([])
            panel.spines[:].set_visible(False)
        axes[0, k].set_title(name, fontsize=10, color=INK)
        bar = figure.colorbar(image, ax=axes[:, k], location="bottom", shrink=0.9, aspect=25)
        bar.ax.tick_params(labelsize=7, colors=INK)
        bar.outline.set_visible(False)  # pyright: ignore
        bar.ax.locator_params(nbins=3)
    for row in range(len(inputs)):
        axes[row, 0].set_ylabel(str(row), rotation=0, labelpad=8, va="center", color=INK)
    try:
        figure.savefig(out, dpi=120)
    except OSError as error:
        raise ValueError(f"cannot write {out}: {error.strerror or error}") from None
    return out

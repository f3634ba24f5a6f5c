"""Draws the pictures of `docs/media.md`, a minute.

python docs/draw_multigrid.py
"""

from pathlib import Path

import jax
import lineax as lx
import numpy as np
from figures import INK, PALETTE, frame
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

import nsolve as ns
from nsolve.preconditioners.multigrid.compatible import relaxed
from nsolve.preconditioners.multigrid.galerkin import coarsen, masked_stencil
from nsolve.preconditioners.multigrid.stencils import Kind, diagonal_of

jax.config.update("jax_enable_x64", True)

IMAGES = Path(__file__).parent / "images"
AXES = (0, 1)


def islands() -> None:
    """A medium, what relaxation leaves of an error on its second grid, and how CG converges."""
    coefficient = np.asarray(ns.gallery.blocks(0, (255, 255), size=3, contrast=1e4))
    problem = ns.gallery.diffusion(1, coefficient)
    kind = Kind.of(problem.operator)
    _, coarse, _ = coarsen(masked_stencil(problem.operator), AXES, kind)
    coarse = {offset: np.asarray(c) for offset, c in coarse.items()}
    error, _ = relaxed(coarse, 1 / diagonal_of(coarse, kind.periodic), AXES, kind.periodic)
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    medium, left, steps = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
    window = slice(60, 108)
    medium.imshow(coefficient[window, window], norm=LogNorm(), cmap="Greys", interpolation="nearest")
    medium.set_title("coefficient, 48 x 48 of the cells", fontsize=9, color=INK)
    half = slice(30, 54)
    left.imshow(error[half, half], vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    left.set_title("second grid: error that relaxation leaves", fontsize=9, color=INK)
    for axis in (medium, left):
        axis.set(xticks=[], yticks=[])
    for name, options, colour in (
        ("geometric", {"algebraic": None}, PALETTE[1]),
        ("algebraic from the second grid on", {}, PALETTE[0]),
    ):
        preconditioner = ns.preconditioners.Multigrid(**options)(problem.operator)
        solution = lx.linear_solve(
            problem.operator,
            problem.vector,
            ns.CG(rtol=1e-8, max_steps=300, history=True),
            options={"preconditioner": preconditioner},
            throw=False,
        )
        norms = np.asarray(solution.stats["residual_norms"])
        norms = norms[np.isfinite(norms)]
        steps.semilogy(norms / norms[0], label=name, color=colour)
    steps.set(xlabel="step of CG", ylabel="relative residual", xlim=(0, None))
    steps.legend(frameon=False, fontsize=8)
    frame(steps)
    figure.savefig(IMAGES / "multigrid-islands.png", dpi=100)


if __name__ == "__main__":
    islands()

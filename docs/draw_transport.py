"""Draws the pictures of `docs/transport.md` from solves that it runs, a minute or two.

python docs/draw_transport.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from figures import INK, PALETTE, new_figure
from matplotlib.figure import Figure

import nsolve as ns

jax.config.update("jax_enable_x64", True)

IMAGES = Path(__file__).parent / "images"
PASSES = 10_000


def newton() -> None:
    """Marginal errors against the passes over the costs that they take, on a random assignment problem."""
    n, epsilon = 500, 1 / 1200
    costs = np.random.default_rng(0).random((n, n))
    geometry = ns.transport.CostMatrix(costs, epsilon=epsilon)
    steps = {"max_steps": PASSES}
    solvers = {
        "Sinkhorn": (ns.transport.Sinkhorn, steps),
        "Sinkhorn, decay=2": (ns.transport.Sinkhorn, {**steps, "decay": 2.0}),
        "Sinkhorn, adaptive\nrelaxation": (ns.transport.Sinkhorn, {**steps, "relaxation": "adaptive"}),
        "Sinkhorn, anderson=5": (ns.transport.Sinkhorn, {**steps, "anderson": 5}),
        "SinkhornNewton": (ns.transport.SinkhornNewton, {}),
    }
    figure, axes = new_figure(f"Random assignment, {n} x {n}, epsilon = 1/1200 of the largest cost")
    colours = [PALETTE[6], PALETTE[1], PALETTE[2], PALETTE[4], PALETTE[0]]
    places = {"Sinkhorn": (9, 7), "Sinkhorn, decay=2": (9, -7), "Sinkhorn, adaptive\nrelaxation": (-128, 12)}
    for (name, (solver, options)), colour in zip(solvers.items(), colours, strict=True):
        line = []
        for digits in np.arange(1, 13, 0.5):
            sol = ns.transport.solve(
                geometry,
                solver=solver(rtol=jnp.asarray(10.0**-digits), **options),
                certificate=False,
                throw=False,
            )
            line.append((passes(sol.stats), float(sol.marginal_error)))
            if line[-1][1] > 10.0**-digits:
                break  # out of steps: tighter tolerances would end at the same point
        print(name.replace("\n", " "), *(f"{count}: {error:.1e}" for count, error in line), sep="  ")
        ours = name == "SinkhornNewton"
        xs, ys = zip(*line, strict=True)
        axes.loglog(
            xs, ys, color=colour, marker="o", markersize=4.5 if ours else 3, linewidth=2.2 if ours else 1.4
        )
        axes.annotate(
            name,
            line[-1],
            xytext=places.get(name, (9, 0)),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            color=colour,
            fontweight="bold" if ours else "normal",
            annotation_clip=False,
        )
    axes.set(xlim=(4, 1.2 * PASSES), ylim=(1e-14, 1))
    axes.set_xlabel("passes over the cost matrix or the plan", fontsize=10)
    axes.set_ylabel("marginal error (L1)", fontsize=10)
    figure.savefig(IMAGES / "transport-newton.png", dpi=130)


def passes(stats: dict) -> int:
    """A sweep is one pass; a Newton step evaluates two points, a diagonal and the model; a CG step is one."""
    if "num_newton_steps" not in stats:
        return int(stats["num_steps"])
    return int(4 * stats["num_newton_steps"] + stats["num_cg_steps"])


def flow() -> None:
    """A cloud that descends the Sinkhorn divergence to another one: four moments."""
    n, epsilon, rate = 600, 0.01, 0.1
    rng = np.random.default_rng(0)
    start = jnp.asarray([-0.9, 0.75] + 0.12 * rng.standard_normal((n, 2)))
    turn = np.sqrt(rng.uniform(0.04, 1, n)) * 3 * np.pi
    target = np.stack([np.cos(turn), np.sin(turn)], axis=1) * (turn / (3 * np.pi))[:, None]
    target = jnp.asarray(target + 0.025 * rng.standard_normal((n, 2)))

    @jax.jit
    def divergence_and_slope(x):
        def loss(x):
            return ns.transport.sinkhorn_divergence(x, target, epsilon=epsilon).value

        return jax.value_and_grad(loss)(x)

    moments = (0, 4, 12, 60)
    figure = Figure(figsize=(10, 3.15))
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=0.8, wspace=0.04)
    title = f"{n} points descend the Sinkhorn divergence (above) to the grey ones, epsilon = {epsilon}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, color=INK, fontweight="bold")
    panels = dict(zip(moments, figure.subplots(1, len(moments)), strict=True))
    colour = jnp.argsort(jnp.argsort(start @ jnp.array([0.8, 0.6])))  # who came from where
    x = start
    for step in range(max(moments) + 1):
        value, slope = divergence_and_slope(x)
        if step in panels:
            print(f"step {step}: divergence {value:.2e}")
            panel = panels[step]
            panel.scatter(*target.T, s=9, color="#C4C4C4", linewidths=0)
            panel.scatter(*x.T, s=7, c=colour, cmap="viridis", vmax=1.1 * n, linewidths=0)
            panel.set_title(
                f"step {step}:  {value:.2g}" if step else f"start:  {value:.2g}", fontsize=13, color=INK
            )
            panel.set(aspect="equal", xticks=[], yticks=[], xlim=(-1.4, 1.1), ylim=(-0.95, 1.2))
            panel.spines[:].set_color("#999999")
        x = x - rate * n * slope  # each point has the mass 1/n
    figure.savefig(IMAGES / "transport-flow.png", dpi=130)


if __name__ == "__main__":
    newton()
    flow()

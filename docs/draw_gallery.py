"""Draws the pictures of `docs/gallery.md`, half a minute.

python docs/draw_gallery.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse.linalg as spla
from figures import INK, PALETTE
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

import nsolve as ns
from nsolve import gallery

jax.config.update("jax_enable_x64", True)

IMAGES = Path(__file__).parent / "images"
KEY = jax.random.key(4)
GREY = "#C4C4C4"


def panels(count: int, columns: int = 6, height: float = 2.0, **options):
    """A figure and its bare panels, row by row."""
    rows = -(-count // columns)
    figure = Figure(figsize=(10, height * rows), layout="constrained")
    axes = np.ravel(figure.subplots(rows, columns, **options))
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_color(GREY)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


def save(figure: Figure, name: str) -> None:
    figure.savefig(IMAGES / f"gallery-{name}.png", dpi=100)


def title(axis, text: str) -> None:
    axis.set_title(text, fontsize=9, color=INK)


def image(axis, field, text: str, **options) -> None:
    """A field, its first axis to the right and its second one up."""
    matrix(axis, np.asarray(field).T[::-1], text, **options)


def matrix(axis, rows, text: str, **options) -> None:
    axis.imshow(np.asarray(rows), interpolation="nearest", **options)
    title(axis, text)


def signed(axis, field, text: str) -> None:
    largest = np.nanmax(np.abs(field))
    image(axis, field, text, cmap="RdBu_r", vmin=-largest, vmax=largest)


def coefficients() -> None:
    shape = (96, 96)
    shown = {
        "lognormal, gaussian": gallery.lognormal(KEY, shape),
        "lognormal, exponential": gallery.lognormal(KEY, shape, covariance="exponential"),
        "lognormal, white": gallery.lognormal(KEY, shape, covariance="white"),
        "lognormal_contrast": gallery.lognormal_contrast(KEY, shape, contrast=1e4),
        "blocks": gallery.blocks(KEY, shape, size=8, contrast=1e3, probability=0.3),
        "checkerboard": gallery.checkerboard(shape, size=16),
    }
    figure, axes = panels(len(shown), height=1.85)
    for axis, (name, field) in zip(axes, shown.items(), strict=True):
        image(axis, field, name, norm=LogNorm())
    save(figure, "coefficients")


def response(operator) -> np.ndarray:
    """The solution for a source in a point off the centre."""
    system, (n, m) = operator.as_scipy(), operator.shape
    b = np.zeros((n, m), system.dtype)
    b[n // 3, m // 2] = 1
    return spla.spsolve(system.tocsc(), b.ravel()).reshape(n, m)


def grids() -> None:
    shape = (95, 95)
    turning = jnp.pi * (0.5 + gallery.gaussian_field(KEY, (96, 96), length=0.3))
    ticks = np.linspace(-1, 1, 95)
    walls = np.maximum(0, np.maximum(abs(ticks[:, None]), abs(ticks)) - 0.7) / 0.3
    smooth = {
        "poisson": gallery.poisson(KEY, shape),
        "anisotropic": gallery.anisotropic(KEY, shape, 1e-2),
        "rotated_anisotropy": gallery.rotated_anisotropy(KEY, shape, 1e-2, np.pi / 6),
        "rotated, varying": gallery.rotated_anisotropy(KEY, shape, 1e-2, turning),
        "diffusion": gallery.diffusion(KEY, gallery.blocks(KEY, shape, 8, 1e-3)),
        "convection_diffusion": gallery.convection_diffusion(KEY, shape, 200.0),
    }
    waves = {
        "helmholtz": gallery.helmholtz(KEY, shape, 6.3),
        "damped": gallery.helmholtz(KEY, shape, 6.3, damping=0.1),
        "a sponge at the walls": gallery.helmholtz(KEY, shape, 6.3, damping=walls**2),
        "an uneven medium": gallery.helmholtz(
            KEY, shape, 6.3, jnp.exp(0.3 * gallery.gaussian_field(KEY, shape, length=0.15)), walls**2
        ),
    }
    figure, axes = panels(6 + len(waves))
    for axis, (name, problem) in zip(axes, smooth.items(), strict=False):
        u = response(problem.operator)
        image(axis, u / u.max(), name, norm=LogNorm(1e-4, 1, clip=True), cmap="inferno")
    for axis, (name, problem) in zip(axes[6:], waves.items(), strict=True):
        u = np.real(response(problem.operator))
        u = np.clip(u, *np.quantile(u, (0.005, 0.995)))
        signed(axis, u, name)
    save(figure, "grids")


def obstacles() -> None:
    shape = (96, 96)
    first, second = jax.random.split(KEY)
    masks = {
        "balls": gallery.balls(first, shape),
        "boxes": gallery.boxes(first, shape),
        "balls | boxes": gallery.balls(first, shape, 5) | gallery.boxes(second, shape, 3),
    }
    figure, axes = panels(6, height=1.85)
    for axis, (name, mask) in zip(axes, masks.items(), strict=False):
        image(axis, mask, name, cmap="Greys", vmax=1.6)
    solid = gallery.balls(second, shape, 5)
    air = gallery.free_surface(first, shape, ripple=0.08)
    x, y = np.meshgrid(*[np.linspace(0, 1, 96)] * 2, indexing="ij")
    for axis, surface, name in ((axes[3], None, "pressure, closed"), (axes[4], air, "with a free surface")):
        operator, _, parts = gallery.pressure(KEY, solid, surface)
        fluid = np.asarray(parts["fluid"])
        # A random right-hand side is noise to the eye: smooth ones, in the operator's range, say more.
        wave = jnp.asarray(np.where(fluid, np.sin(2 * np.pi * x) * np.cos(np.pi * y), 0))
        b = operator.mv(wave) if surface is None else wave
        p = np.array(lx.linear_solve(operator, b, ns.CG(rtol=1e-8)).value)
        p[~fluid] = np.nan
        axis.set_facecolor("#737373")
        if surface is not None:
            sky = np.where(np.asarray(air & ~solid), 1.0, np.nan)
            image(axis, sky, "", cmap="Blues", vmin=0, vmax=4)
        signed(axis, p, name)
    axes[5].remove()
    volume = figure.add_subplot(1, 6, 6, projection="3d")
    cells = np.asarray(gallery.balls(second, (20, 20, 20), 5, (0.12, 0.25)))
    volume.voxels(cells, facecolors=PALETTE[5], edgecolor="#33333322", linewidth=0.3)
    volume.set(xticks=[], yticks=[], zticks=[])
    title(volume, "balls, 3-D")
    save(figure, "obstacles")


def finite_elements() -> None:
    figure, axes = panels(4, columns=4, height=2.6)
    points, cells = gallery.finite_elements.mesh(0, 10)
    axes[0].triplot(*points, cells.T, color=INK, linewidth=0.5)
    title(axes[0], "mesh")
    operator, _, parts = gallery.finite_elements.poisson(0, 10)
    u = np.zeros(points.shape[1])
    u[parts["nodes"]] = spla.spsolve(operator.as_scipy().tocsc(), np.ones(operator.in_size()))
    axes[1].tripcolor(*points, cells.T, u, cmap="inferno")
    title(axes[1], "poisson")
    operator, _, parts = gallery.finite_elements.elasticity(0, 10)
    pull = np.tile([0.0, -1.0], len(parts["nodes"]))
    moved = points.copy()
    shift = spla.spsolve(operator.as_scipy().tocsc(), pull).reshape(-1, 2)
    moved[:, parts["nodes"]] += 0.35 * shift.T / np.abs(shift).max()
    axes[2].triplot(*moved, cells.T, color=PALETTE[0], linewidth=0.5)
    axes[2].axvline(0, color=INK, linewidth=2)
    title(axes[2], "elasticity, its own weight")
    for axis in axes[:3]:
        axis.set_aspect("equal")
    axes[3].remove()
    volume = figure.add_subplot(1, 4, 4, projection="3d")
    points, cells = gallery.finite_elements.mesh(0, 3, dim=3)
    front = points[:, cells].mean(axis=1).sum(axis=0) < 1.7
    faces = np.concatenate([np.delete(cells[:, front], k, axis=0) for k in range(4)], axis=1)
    faces, count = np.unique(np.sort(faces, axis=0), axis=1, return_counts=True)
    volume.plot_trisurf(
        *points[:2],
        points[2],
        triangles=faces[:, count == 1].T,
        color=PALETTE[5],
        edgecolor=INK,
        linewidth=0.4,
    )
    volume.set(xticks=[], yticks=[], zticks=[])
    volume.view_init(25, 40)
    title(volume, "tetrahedra, cut open")
    save(figure, "finite-elements")


def matrices() -> None:
    figure, axes = panels(4, columns=4, height=2.6)
    axes[0].spy(gallery.random_spd(0, 120, entries=3).operator.as_scipy(), markersize=0.8, color=INK)
    axes[0].set(xticks=[], yticks=[])
    title(axes[0], "random_spd")
    problem = gallery.kernel_matrix(0, 120, dim=1, kernel="matern32", length=0.1)
    order = np.argsort(problem.parts["points"][:, 0])
    image(
        axes[1], np.asarray(problem.operator.as_matrix())[order][:, order][::-1].T, "kernel_matrix, in order"
    )
    axes[1].set(xticks=[], yticks=[])
    for colour, kernel in zip(PALETTE, ("gaussian", "matern52", "matern32", "exponential"), strict=False):
        values = np.linalg.eigvalsh(
            gallery.kernel_matrix(0, 200, kernel=kernel, nugget=0.0).operator.as_matrix()
        )
        axes[2].semilogy(np.maximum(values[::-1], 1e-14), color=colour, linewidth=1.5, label=kernel)
    axes[2].set_ylim(1e-12, 1e3)
    axes[2].legend(fontsize=6.5, frameon=False)
    title(axes[2], "spectra of kernel matrices")
    for colour, kind in zip(PALETTE, ("outliers", "laplacian1d", "wellconditioned"), strict=False):
        values = np.linalg.eigvals(gallery.Drifting(60, kind).draw(0, 1)[0][0])
        axes[3].plot(values.real, values.imag, ".", markersize=4, color=colour, label=kind)
    axes[3].set_xscale("log")
    axes[3].legend(fontsize=6.5, frameon=False)
    title(axes[3], "eigenvalues of Drifting")
    for axis in axes[2:]:
        axis.tick_params(labelsize=7, colors=INK)
    save(figure, "matrices")


def families() -> None:
    size = 64
    made = [
        gallery.families.Darcy(size),
        gallery.families.Thermal(size),
        gallery.families.Poisson(size),
        gallery.families.Helmholtz(size),
        gallery.families.Heat(size),  # pyright: ignore[reportCallIssue]
    ]
    figure, axes = panels(2 * len(made), columns=len(made))
    for column, family in enumerate(made):
        parameter = family.sample(KEY)
        name = next(iter(parameter))
        matrix(axes[column], family.input_field(parameter)[0], f"{type(family).__name__}: {name}")
        x, system = None, family.operator(parameter).as_scipy().tocsc()
        for _ in range(family.num_solves):
            b = family.vector(parameter, None if x is None else jnp.asarray(x))
            x = spla.spsolve(system, np.asarray(b))
        solution = family.solution_field(parameter, jnp.asarray(x))
        matrix(axes[len(made) + column], solution, "solution", cmap="inferno")
    save(figure, "families")


def clouds() -> None:
    c, m = gallery.clouds, gallery.mixtures
    figure, axes = panels(7, columns=7, height=1.75)
    drawn = {
        "ring": m.ring().draw(KEY, 1500),
        "lattice": m.lattice().draw(KEY, 1500),
        "eight_gaussians": c.eight_gaussians(KEY, 1500),
        "moons": c.moons(KEY, 1500),
        "swiss_roll": c.swiss_roll(KEY, 1500),
    }
    for axis, (name, points) in zip(axes, drawn.items(), strict=False):
        axis.scatter(*np.asarray(points).T, s=1, color=PALETTE[0], linewidths=0)
        axis.set_aspect("equal")
        title(axis, name)
    x, y, *_ = c.cube_and_normal(KEY, 800, 2)
    axes[5].scatter(*x.T, s=1.5, color=GREY, linewidths=0)
    axes[5].scatter(*y.T, s=1.5, color=PALETTE[1], linewidths=0)
    axes[5].set_aspect("equal")
    title(axes[5], "cube_and_normal")
    digits = [weights.reshape(28, 28) for weights in c.digits(0)]
    matrix(axes[6], np.concatenate(digits, axis=1), "digits", cmap="gray")
    save(figure, "clouds")


def main() -> None:
    for draw in (coefficients, grids, obstacles, finite_elements, matrices, families, clouds):
        draw()


if __name__ == "__main__":
    main()

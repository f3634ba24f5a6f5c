"""Finite differences, volumes and bilinear elements on regular grids: one operator a function.

All act on arrays of the grid's shape, with the first axis along x.  Right-hand sides are independent N(0, 1)
numbers of the `key`; a JAX key may be traced, so that `jit` and `vmap` draw fresh problems of one structure.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, ArrayLike

from ..operators import StencilLinearOperator
from ..operators.finite_volumes import Boundary, unit_offset
from ._checks import broadcasts, grid_shape, positive, real_dtype, widths
from ._draw import Key
from .problem import LinearProblem, with_normal_vector


def poisson(
    key: Key, shape: Sequence[int], spacing: ArrayLike | Sequence[ArrayLike] | None = None, dtype: Any = None
) -> LinearProblem:
    """The negative Laplacian, `2d + 1` points, zero on the walls, on the interior points of one to three
    axes.

    `spacing`: one or one for each axis; by default the unit cube's, `1 / (n + 1)`.  Symmetric positive
    definite, with the eigenvalues `sum_axes 4 / h^2 sin^2(pi k h / 2)`, `k` from 1 to `n`, on the unit cube.
    """
    shape = grid_shape(shape)
    operator = StencilLinearOperator.poisson(shape, widths(spacing, shape), real_dtype(dtype))
    return with_normal_vector(operator, key)


def anisotropic(
    key: Key, shape: Sequence[int], epsilon: ArrayLike = 1e-2, dtype: Any = None
) -> LinearProblem:
    """`-epsilon u_xx - u_yy (- u_zz)` on the unit cube, `2d + 1` points, zero on the walls: coupled strongly
    along all axes but the first.

    The standard trial of smoothers (Trottenberg, Oosterlee & Schueller 2001, *Multigrid*, chapter 5).
    `epsilon` may be traced.
    """
    shape = grid_shape(shape, axes=(2, 3))
    positive(epsilon, "epsilon")
    first, *others = widths(None, shape)
    # epsilon u_xx with spacing h is u_xx with spacing h / sqrt(epsilon).
    return poisson(key, shape, (first / epsilon**0.5, *others), dtype)


def rotated_anisotropy(
    key: Key,
    shape: Sequence[int],
    epsilon: ArrayLike = 1e-2,
    angle: ArrayLike = np.pi / 6,
    dtype: Any = None,
) -> LinearProblem:
    """`-div(Q diag(1, epsilon) Q^T grad u)` in the unit square, zero on the walls; `Q` turns the x axis by
    `angle` (radians): u is coupled strongly along the turned axis, and weakly across.

    Bilinear finite elements over the product of the spacings: 9 points, symmetric positive definite. Unknowns
    are the `(n, m)` interior nodes.  `epsilon` and `angle` are numbers, which make a constant stencil, or
    have a value in each of the `(n + 1, m + 1)` cells, for axes that turn from place to place; both may be
    traced. The constant one is PyAMG's `diffusion_stencil_2d(type="FE")`: unlike `anisotropic`, no smoother
    of lines along the grid's axes helps it.
    """
    shape, dtype = grid_shape(shape, axes=(2,)), real_dtype(dtype)
    cells = (shape[0] + 1, shape[1] + 1)
    positive(epsilon, "epsilon", single=False)
    broadcasts(epsilon, cells, "epsilon")
    broadcasts(angle, cells, "angle")
    h, k = widths(None, shape)
    epsilon, angle = jnp.asarray(epsilon, dtype), jnp.asarray(angle, dtype)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    along_x, along_y = cos**2 + epsilon * sin**2, sin**2 + epsilon * cos**2
    across = (1 - epsilon) * cos * sin
    stencil: dict[tuple[int, int], Any] = {}
    corners = list(itertools.product((0, 1), repeat=2))
    # The centre first, as other stencils have it.
    for a, b in sorted(itertools.product(corners, corners), key=lambda pair: pair[0] != pair[1]):
        offset = (b[0] - a[0], b[1] - a[1])
        slope = [2 * i - 1 for i in (*a, *b)]  # of the corner functions, along x and y
        mass = [1 / 3 if step == 0 else 1 / 6 for step in offset]
        element = (
            along_x * (slope[0] * slope[2] * mass[1] / h**2)
            + along_y * (slope[1] * slope[3] * mass[0] / k**2)
            + across * ((slope[0] * slope[3] + slope[1] * slope[2]) / (4 * h * k))
        )
        if element.ndim:  # of the cell that has the node as its corner a
            element = element[1 - a[0] : cells[0] - a[0], 1 - a[1] : cells[1] - a[1]]
        stencil[offset] = stencil[offset] + element if offset in stencil else element
    operator = _definite(stencil, shape)
    return with_normal_vector(operator, key, {"angle": angle, "epsilon": epsilon})


def diffusion(
    key: Key,
    coefficient: Any,
    spacing: float | Sequence[float] | None = None,
    boundary: Boundary | Sequence[Boundary] = "dirichlet",
) -> LinearProblem:
    """`-div(coefficient grad u)` by finite volumes on the unit cube, in cells of any coefficient of the
    gallery.

    As `ns.StencilLinearOperator.diffusion` (an array of the grid's shape, or one for each axis), with
    `spacing` by default `1 / n` along each axis: harmonic means at faces; cells whose coefficient is zero are
    obstacles, where the right-hand side is zero.  The coefficient may be traced.

    Symmetric positive definite with a Dirichlet axis.  Without one the constants are in the null space, and
    the right-hand side is made to sum to zero, so that there is a solution. Where obstacles cut cells off
    from all Dirichlet walls, there may be none: `pressure` draws right-hand sides for such domains.
    """
    fields = coefficient if isinstance(coefficient, list | tuple) else (coefficient,)
    shape = grid_shape(jnp.shape(fields[0]), "coefficient.shape")
    given = [1 / n for n in shape] if spacing is None else spacing
    operator = StencilLinearOperator.diffusion(coefficient, given, boundary)
    vector = with_normal_vector(operator, key, {}).vector
    active = functools.reduce(jnp.logical_or, [jnp.asarray(field) != 0 for field in fields])
    if "dirichlet" not in ((boundary,) if isinstance(boundary, str) else boundary):
        vector = vector - jnp.mean(vector, where=active)
    return LinearProblem(operator, jnp.where(active, vector, 0), {"coefficient": coefficient})


def convection_diffusion(
    key: Key, shape: Sequence[int], peclet: ArrayLike = 100.0, dtype: Any = None
) -> LinearProblem:
    """`-laplace(u) + peclet w . grad u` on (-1, 1)^2 with the recirculating wind `w = (2 y (1 - x^2),
    -2 x (1 - y^2))`, zero on the walls.

    First-order upwind differences, 5 points: an M-matrix, not symmetric, and far from normal where `peclet`
    is large; the double-glazing problem (Elman, Silvester & Wathen 2014,
    doi:10.1093/acprof:oso/9780199678792.001.0001, chapter 6). `peclet`, at least zero, may be traced.
    """
    shape, dtype = grid_shape(shape, axes=(2,)), real_dtype(dtype)
    positive(peclet, "peclet", or_zero=True)
    spacings = [2 / (n + 1) for n in shape]
    x, y = np.meshgrid(
        *(-1 + h * np.arange(1, n + 1) for n, h in zip(shape, spacings, strict=True)), indexing="ij"
    )
    xp: Any = np
    if isinstance(peclet, jax.Array):
        xp, peclet, x, y = jnp, peclet.astype(dtype), jnp.asarray(x, dtype), jnp.asarray(y, dtype)
    winds = (peclet * 2 * y * (1 - x**2), peclet * -2 * x * (1 - y**2))
    centre, stencil = sum(2 / h**2 for h in spacings), {}
    for axis, (wind, h) in enumerate(zip(winds, spacings, strict=True)):
        # Against the wind: backward differences where it blows forward, and the reverse.
        forward, backward = xp.maximum(wind, 0) * (1 / h), xp.maximum(-wind, 0) * (1 / h)
        centre = centre + forward + backward
        stencil[unit_offset(2, axis, -1)] = -1 / h**2 - forward
        stencil[unit_offset(2, axis, 1)] = -1 / h**2 - backward
    coefficients = {(0, 0): centre, **stencil}
    operator = StencilLinearOperator(
        tuple(jnp.asarray(c, dtype) for c in coefficients.values()), tuple(coefficients), shape, (False,) * 2
    )
    return with_normal_vector(operator, key, {"wind": tuple(jnp.asarray(wind, dtype) for wind in winds)})


def heat(key: Key, shape: Sequence[int], dt: ArrayLike = 1e-3, dtype: Any = None) -> LinearProblem:
    """One step of the heat equation by the backward Euler method: `I + dt A` with the Laplacian `A` of
    `poisson`.

    Symmetric positive definite: close to the identity for small `dt`, to `poisson` for large.  `dt` may be
    traced.
    """
    shape, dtype = grid_shape(shape), real_dtype(dtype)
    positive(dt, "dt")
    laplacian = StencilLinearOperator.poisson(shape, widths(None, shape), dtype)
    operator = combined(laplacian, jnp.asarray(dt, dtype), 1.0, lx.positive_semidefinite_tag)
    return with_normal_vector(operator, key)


def combined(
    stencil: StencilLinearOperator, scale: Any, shift: Array | float, tag: object
) -> StencilLinearOperator:
    """`scale * A + diag(shift)`, with `tag` as its only promise: the signs of traced numbers show none."""
    return dataclasses.replace((stencil * scale).add_diagonal(shift), tags=frozenset({tag}))


def _definite(stencil: dict[Any, Any], shape: tuple[int, ...]) -> StencilLinearOperator:
    return StencilLinearOperator(
        tuple(stencil.values()),
        tuple(stencil),
        shape,
        (False,) * len(shape),
        frozenset({lx.positive_semidefinite_tag}),
    )

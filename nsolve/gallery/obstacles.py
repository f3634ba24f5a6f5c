"""Domains with holes: masks of obstacles on a grid, and the pressure equation of a fluid that flows around
them.

A mask is a boolean array, one value a cell; masks are united by `|`.  All is legal under `jit` and `vmap` in
a JAX key: the grid is the structure, the obstacles are values.
"""

import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, ArrayLike, Bool

from .._arrays import is_traced
from ..operators import StencilLinearOperator
from ..operators.finite_volumes import unit_offset
from ..operators.stencil import shifted
from ._checks import grid_shape, positive, positive_integer, real_dtype
from ._draw import Key, normal, split, uniform
from .problem import LinearProblem

Mask: TypeAlias = Bool[Array, "..."]


def balls(key: Key, shape: Sequence[int], count: int = 6, radius: tuple[float, float] = (0.05, 0.15)) -> Mask:
    """The cells whose centre lies in one of `count` balls (discs): centres uniform in the unit cube, radii
    uniform in `radius`, in units of the cube's side; they may overlap, and reach through walls.

    Of two or three axes; `True` is inside.  All but the key is static.
    """
    places, low, high, points = _placed(key, shape, count, radius, "radius")
    distance = sum((p[None] - c) ** 2 for p, c in zip(points, places[:-1], strict=True))
    size = low + (high - low) * places[-1]
    return jnp.any(distance < size**2, axis=0)


def boxes(key: Key, shape: Sequence[int], count: int = 6, width: tuple[float, float] = (0.1, 0.3)) -> Mask:
    """The cells whose centre lies in one of `count` boxes along the axes: centres uniform in the unit cube,
    the width along each axis uniform in `width`, in units of the cube's side; they may overlap, and reach
    through walls.

    Of two or three axes; `True` is inside.  All but the key is static.
    """
    first, second = split(key, 2)
    places, low, high, points = _placed(first, shape, count, width, "width")
    widths = low + (high - low) * _column(uniform(second, (len(points), count), np.float32), len(points))
    inside = [abs(p[None] - c) < w / 2 for p, c, w in zip(points, places[:-1], widths, strict=True)]
    return jnp.any(functools.reduce(jnp.logical_and, inside), axis=0)


def free_surface(
    key: Key, shape: Sequence[int], level: float = 0.6, ripple: float = 0.05, count: int = 4
) -> Mask:
    """The cells above a rippled surface: air. The last axis points up.

    Its height is `level` plus `count` standing waves along each other axis, whose amplitudes are N(0,
    `ripple^2`) over the wave's number, in units of the unit cube's side.
    """
    shape = grid_shape(shape, axes=(2, 3))
    count = positive_integer(count, "count")
    positive(level, "level", or_zero=True)
    positive(ripple, "ripple", or_zero=True)
    amplitudes = jnp.asarray(normal(key, (len(shape) - 1, count), np.float32))
    height = jnp.full((1,) * len(shape), level, jnp.float32)
    number = np.arange(1, count + 1)
    for axis, waves in enumerate(amplitudes):
        cosines = np.cos(np.pi * np.outer(number, _centres(shape[axis]))).astype(np.float32)
        line = jnp.sum(jnp.float32(ripple) * (waves / number.astype(np.float32))[:, None] * cosines, axis=0)
        height = height + jnp.expand_dims(line, [k for k in range(len(shape)) if k != axis])
    up = jnp.expand_dims(jnp.asarray(_centres(shape[-1]), jnp.float32), list(range(len(shape) - 1)))
    return jnp.broadcast_to(up > height, shape)


def pressure(
    key: Key,
    solid: Bool[ArrayLike, "..."],
    air: Bool[ArrayLike, "..."] | None = None,
    spacing: float | None = None,
    dtype: Any = None,
) -> LinearProblem:
    """`-laplace(p) = -div(v)` in the fluid's cells: what makes the velocity `v` free of divergence in a
    simulation of fluids (Bridson 2015, doi:10.1201/9781315266008, chapter 5).

    * `solid`: cells of obstacles. No flow goes through their faces, nor through the walls of the grid.
    * `air`: cells above a free surface, at whose centres `p = 0`; where a cell is both, it is solid.
    * `spacing`: the cells' width, by default 1 over the first axis' length.

    Finite volumes, `2d + 1` points, on grids of two or three axes; solid cells, air, and fluid cells without
    a neighbour are inactive: their rows are a multiple of the identity's, their entries of the right-hand
    side zero, and so is their solution. Symmetric positive semidefinite.  Without air, or where obstacles cut
    a pocket off from it, constants on the pocket are in the null space.  `v` on faces between fluid cells,
    and between fluid and air, are independent N(0, 1) numbers, so that the right-hand side sums to zero over
    every pocket: the system has a solution.

    The masks may be traced.  `parts`: `fluid`, the mask of the cells that are unknowns.
    """
    dtype, solid = real_dtype(dtype), _mask(solid, "solid")
    shape = grid_shape(solid.shape, "solid.shape", axes=(2, 3))
    air = jnp.zeros(shape, bool) if air is None else _mask(air, "air")
    if air.shape != shape:
        raise ValueError(f"`air` must have the shape of `solid`, {shape}, but has {air.shape}.")
    air = air & ~solid
    fluid = ~solid & ~air
    if not is_traced(fluid) and not fluid.any():
        raise ValueError("`solid` and `air` leave no cell to the fluid.")
    positive(1.0 if spacing is None else spacing, "spacing")
    h = 1 / shape[0] if spacing is None else spacing
    walls = (False,) * len(shape)
    stencil: dict[tuple[int, ...], Array] = {}
    centre, divergence = jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)
    for axis, key_of_axis in enumerate(split(key, len(shape))):
        velocity = jnp.asarray(normal(key_of_axis, shape, dtype))  # on each cell's upper face
        for step in (1, -1):
            offset = unit_offset(len(shape), axis, step)
            to_fluid, to_air = fluid & shifted(fluid, offset, walls), fluid & shifted(air, offset, walls)
            stencil[offset] = jnp.where(to_fluid, jnp.asarray(-1 / h**2, dtype), 0)
            centre = centre + jnp.where(to_fluid | to_air, jnp.asarray(1 / h**2, dtype), 0)
            through = velocity if step > 0 else shifted(velocity, offset, walls)
            divergence = divergence + jnp.where(to_fluid | to_air, step * through / h, 0)
    largest = jnp.max(centre)
    centre = jnp.where(centre > 0, centre, jnp.where(largest == 0, 1, largest))
    coefficients = {(0,) * len(shape): centre, **stencil}
    operator = StencilLinearOperator(
        tuple(coefficients.values()),
        tuple(coefficients),
        shape,
        walls,
        frozenset({lx.positive_semidefinite_tag}),
    )
    return LinearProblem(operator, -divergence, {"fluid": fluid})


def _placed(key: Key, shape: Sequence[int], count: int, sizes: Any, name: str) -> tuple[Any, Any, Any, list]:
    """Uniform numbers for centres and sizes, `(axes + 1, count, 1, ...)`; least and largest size;
    coordinates."""
    shape = grid_shape(shape, axes=(2, 3))
    count = positive_integer(count, "count")
    positive(sizes, name, single=False)
    if np.shape(sizes) != (2,) or not sizes[0] <= sizes[1]:
        raise ValueError(f"`{name}` must be the least and the largest, such as (0.05, 0.15), but is {sizes}.")
    places = _column(uniform(key, (len(shape) + 1, count), np.float32), len(shape))
    low, high = (np.float32(size) for size in sizes)
    axes = np.meshgrid(*map(_centres, shape), indexing="ij")
    return places, low, high, [axis.astype(np.float32) for axis in axes]


def _column(values: Any, axes: int) -> Array:
    """One trailing axis of length 1 for each axis of the grid."""
    return jnp.asarray(values).reshape(*values.shape, *(1,) * axes)


def _centres(n: int) -> np.ndarray:
    return (np.arange(n) + 0.5) / n


def _mask(mask: Any, name: str) -> Array:
    mask = jnp.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"`{name}` must be a boolean mask, but holds {mask.dtype}.")
    return mask

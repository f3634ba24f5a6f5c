"""Finite volumes for diffusion on grids: the stencil of `-div(k grad u)` with cell-centred `k`."""

import functools
import operator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from .._arrays import is_traced
from .values import as_coefficients, fit

Offset = tuple[int, ...]
Boundary = Literal["dirichlet", "neumann", "periodic"]


def finite_volumes(cells: list, spacings: tuple, boundaries: tuple) -> dict[Offset, Any]:
    """The stencil, `{offset: coefficient}`, centre first.

    `cells`, `spacings`, `boundaries`: one entry for each axis.  NumPy arrays give NumPy arrays:
    nothing is compiled unless values are traced.  Cells whose coefficients are zero are inactive:
    nothing flows through their faces, and their row is a multiple of the identity's.
    """
    for kind in boundaries:
        if kind not in ("dirichlet", "neumann", "periodic"):
            raise ValueError(f'`boundary` must be "dirichlet", "neumann" or "periodic", but is {kind!r}.')
    dim = len(cells)
    centre, arms = 0, {}
    for axis, (field, h, kind) in enumerate(zip(cells, spacings, boundaries, strict=True)):
        h = h if is_traced(h) else float(h)
        below, above, wall = _faces(field / h / h, axis, kind)
        arms[unit_offset(dim, axis, -1)] = -below
        arms[unit_offset(dim, axis, 1)] = -above
        centre = centre + below + above + wall
    xp = jnp if is_traced(centre) else np
    largest = xp.asarray(xp.max(abs(centre)), cells[0].dtype)
    if is_traced(centre):
        largest = jax.lax.stop_gradient(largest)
    inactive = functools.reduce(operator.and_, [field == 0 for field in cells])
    centre = xp.where(inactive, xp.where(largest == 0, 1, largest), centre)
    return {(0,) * dim: centre, **arms}


def as_cell_fields(coefficient: Any) -> list:
    """The coefficient for each axis, checked."""
    if not isinstance(coefficient, list | tuple):
        field = _as_field(coefficient, "coefficient")
        return [field] * field.ndim
    cells = [_as_field(c, f"coefficient[{axis}]") for axis, c in enumerate(coefficient)]
    if not cells or len(cells) != cells[0].ndim or len({field.shape for field in cells}) != 1:
        raise ValueError(
            "`coefficient` as a tuple needs one array of the grid's shape for each axis, but has "
            f"shapes {[field.shape for field in cells]}."
        )
    return cells


def unit_offset(dim: int, axis: int, step: int) -> Offset:
    """`step` along one axis, zero along the others."""
    return tuple(step if k == axis else 0 for k in range(dim))


def _faces(coefficient, axis: int, boundary: str):
    """Harmonic means on the cells' lower and upper faces; what walls add to the diagonal."""
    xp = jnp if is_traced(coefficient) else np
    n = coefficient.shape[axis]
    lower, upper = (xp.take(coefficient, xp.arange(n - 1) + k, axis) for k in (0, 1))
    inner = _harmonic_mean(lower, upper)
    first, last = (xp.take(coefficient, xp.asarray([k]), axis) for k in (0, n - 1))
    none = xp.zeros_like(first)
    if boundary == "periodic":
        seam = _harmonic_mean(first, last)
        return (
            xp.concatenate([seam, inner], axis),
            xp.concatenate([inner, seam], axis),
            xp.zeros_like(coefficient),
        )
    below, above = xp.concatenate([none, inner], axis), xp.concatenate([inner, none], axis)
    if boundary == "neumann":
        return below, above, xp.zeros_like(coefficient)
    middle = xp.zeros_like(inner)
    wall = xp.concatenate([2 * first, middle], axis) + xp.concatenate([middle, 2 * last], axis)
    return below, above, wall


def _harmonic_mean(a, b):
    """`2 a b / (a + b)` without overflow, with exact derivatives of every order; zero, and constant,
    where either is zero."""
    xp = jnp if is_traced(a) else np
    flows = (a != 0) & (b != 0)
    a, b = xp.where(flows, a, 1), xp.where(flows, b, 1)
    ordered = abs(a) <= abs(b)
    small, large = xp.where(ordered, a, b), xp.where(ordered, b, a)
    return xp.where(flows, small / (0.5 + 0.5 * (small / large)), 0)


def _as_field(coefficient: Any, name: str):
    """A checked cell field; on the host unless traced, so that nothing is compiled op by op."""
    coefficient = as_coefficients(coefficient, name)
    dtype = jnp.result_type(coefficient)
    if not jnp.issubdtype(dtype, jnp.inexact):
        dtype = jnp.result_type(float)
    if is_traced(coefficient):
        return coefficient.astype(dtype)
    field = fit(coefficient, dtype, name)
    if not np.all(np.isfinite(field)):
        raise ValueError(f"`{name}` must be finite, but contains NaN or infinity.")
    if not np.iscomplexobj(field) and field.size and not field.min() >= 0:
        raise ValueError(
            f"`{name}` must be positive, or zero where cells are inactive, but reaches {field.min():g}."
        )
    if field.size and not field.any():
        raise ValueError(f"`{name}` is zero everywhere: no cell is active.")
    return field

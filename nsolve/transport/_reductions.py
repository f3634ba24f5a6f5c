"""Sums over the rows of an entropic plan, given a tile of its cost matrix; nothing here overflows.

`P_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon)`.  `axis` is the axis of the tile that is summed: 1 where
the tile is laid out as `C`, 0 where it is the transpose, which is then read in place, never copied.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def softmin(cost: Array, epsilon: Array, g: Array, b: Array, axis: int = 1) -> Array:
    """`f_i = -epsilon log sum_j b_j exp((g_j - C_ij) / epsilon)`."""
    largest = shift(cost, epsilon, g, b, axis)
    exponent = (_summed(g, axis) - cost - _kept(largest, axis)) * (1 / epsilon)
    terms = jnp.exp(jnp.minimum(exponent, _summed(bound(b), axis)))
    return -epsilon * jnp.log(_contract(terms, b, axis)) - largest


def shift(cost: Array, epsilon: Array, g: Array, b: Array, axis: int = 1) -> Array:
    """`max_j g_j + epsilon log b_j - C_ij`: the largest term of row i's sum, a constant to derivatives.

    It is finite where row i has any weight.  The sums multiply by `b` instead of adding its logarithm to
    the exponent, so that they have derivatives where `b` is zero.
    """
    cost, epsilon, g, b = jax.lax.stop_gradient((cost, epsilon, g, b))
    return jnp.max(_summed(g + epsilon * jnp.log(b), axis) - cost, axis=axis)


def lowest(cost: Array, g: Array, axis: int = 1) -> Array:
    """`min_j C_ij - g_j`; `g_j = -inf` leaves a column out."""
    return jnp.min(cost - _summed(g, axis), axis=axis)


def largest(cost: Array, b: Array, axis: int = 1) -> Array:
    """`max_j |C_ij|` over columns with weight; infinite where one of these costs is not finite."""
    size = jnp.where(jnp.isfinite(cost), jnp.abs(cost), jnp.inf)
    return jnp.max(jnp.where(_summed(b > 0, axis), size, 0), axis=axis)


def bound(weights: Array, power: int = 1) -> Array:
    """The largest exponents that matter: above lie terms that overflow, or that get the weight zero.

    Potentials are arbitrary where there is no weight.  There the bound leaves room for sums of derivatives;
    `power`: and for powers.
    """
    largest = float(np.log(jnp.finfo(weights.dtype).max)) - 0.5
    return jnp.where(weights > 0, largest, largest / power - 20).astype(weights.dtype)


def plan(
    cost: Array, epsilon: Array, f: Array, g: Array, a: Array, b: Array, axis: int = 1, power: int = 1
) -> Array:
    """The tile of the plan, laid out as the cost; where a site has no weight its `power` is finite."""
    exponent = (_summed(g, axis) - cost + _kept(f, axis)) * (1 / epsilon)
    bounds = jnp.minimum(_kept(bound(a, power), axis), _summed(bound(b, power), axis))
    return jnp.exp(jnp.minimum(exponent, bounds)) * _summed(b, axis) * _kept(a, axis)


def apply(cost, epsilon, f, g, a, b, v: Array, axis: int = 1) -> Array:
    """`sum_j P_ij v_j` for `v` of shape `(m,)` or `(m, k)`."""
    return _contract(plan(cost, epsilon, f, g, a, b, axis), v, axis)


def squares(cost, epsilon, f, g, a, b, v: Array, axis: int = 1) -> Array:
    """`sum_j P_ij^2 v_j`."""
    return _contract(plan(cost, epsilon, f, g, a, b, axis, power=2) ** 2, v, axis)


def transport_costs(cost, epsilon, f, g, a, b, axis: int = 1) -> Array:
    """`sum_j P_ij C_ij`, what each row pays."""
    return jnp.sum(plan(cost, epsilon, f, g, a, b, axis) * cost, axis=axis)


def map_rows(reduce: Callable, tile_rows: int, *rows: Array) -> Any:
    """`reduce(*rows)` a tile of rows at a time; derivatives recompute a tile, they never store one.

    The last tile is filled up with copies of the last row.
    """
    count = rows[0].shape[0]
    tiles = -(-count // tile_rows)

    def tiled(array: Array) -> Array:
        filling = jnp.broadcast_to(array[-1:], (tiles * tile_rows - count, *array.shape[1:]))
        return jnp.concatenate([array, filling]).reshape(tiles, tile_rows, *array.shape[1:])

    body = jax.checkpoint(lambda tile: reduce(*tile), prevent_cse=False)
    results = jax.lax.map(body, tuple(map(tiled, rows)))
    return jax.tree.map(lambda r: r.reshape(tiles * tile_rows, *r.shape[2:])[:count], results)


def _summed(vector: Array, axis: int) -> Array:
    """A vector along the axis that is summed, ready to broadcast."""
    return vector[None, :] if axis == 1 else vector[:, None]


def _kept(vector: Array, axis: int) -> Array:
    return _summed(vector, 1 - axis)


def _contract(matrix: Array, v: Array, axis: int) -> Array:
    """`matrix @ v`, or `matrix.T @ v` for axis 0, without a transposed copy."""
    # A sum fuses with the exponentials and stores none of them.  On CPUs that code is 50 times slower
    # than a product for columns of float32.
    if v.ndim == 1 and (axis == 1 or matrix.dtype.itemsize == 8):
        return jnp.sum(matrix * _summed(v, axis), axis=axis)
    # HIGHEST: the TF32 of GPUs has three digits, with which no marginal converges.
    dimensions = (((axis,), (0,)), ((), ()))
    return jax.lax.dot_general(matrix, v, dimensions, precision=jax.lax.Precision.HIGHEST)

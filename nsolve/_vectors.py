"""Vector algebra on pytrees of arrays; for a single array each function is one jax.numpy call."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

Vector = PyTree[Array]


def dot(x: Vector, y: Vector) -> Array:
    """`x^H y`."""
    products = jax.tree.map(lambda a, b: jnp.vdot(a, b, precision=jax.lax.Precision.HIGHEST), x, y)
    zero = jnp.zeros((), dtype(x))
    return sum((product.astype(zero.dtype) for product in jax.tree.leaves(products)), start=zero)


def norm(x: Vector) -> Array:
    """Euclidean norm, real; its derivative at zero is taken to be zero."""
    return root(dot(x, x).real)


def root(square: Array) -> Array:
    """Square root with derivative zero at zero."""
    zero = square == 0  # false for NaN, which stays NaN
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))


def hypot(a: Array, b: Array) -> Array:
    """`sqrt(a^2 + b^2)` for real numbers of moderate size, with derivative zero at zero."""
    return root(a * a + b * b)


def largest_entry(x: Vector) -> Array:
    """The largest absolute value."""
    real = real_dtype(x)
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf), initial=0).astype(real) for leaf in jax.tree.leaves(x)]))


def axpy(alpha: Any, x: Vector, y: Vector) -> Vector:
    """`alpha x + y`."""
    return jax.tree.map(lambda a, b: _in_dtype_of(a, alpha) * a + b, x, y)


def scale(alpha: Any, x: Vector) -> Vector:
    """`alpha x`."""
    return jax.tree.map(lambda a: _in_dtype_of(a, alpha) * a, x)


def _in_dtype_of(leaf: Array, alpha: Any) -> Array:
    """The scalar in the leaf's dtype; a complex one that meets a real leaf stays complex."""
    loses = jnp.iscomplexobj(alpha) and not jnp.iscomplexobj(leaf)
    return jnp.asarray(alpha, None if loses else leaf.dtype)


def subtract(x: Vector, y: Vector) -> Vector:
    """`x - y`."""
    return jax.tree.map(jnp.subtract, x, y)


def zeros_like(x: Vector) -> Vector:
    """The zero vector of the same structure; `x`: arrays, or their structures."""
    return jax.tree.map(jnp.zeros_like, x)


def where(condition: Array, x: Vector, y: Vector) -> Vector:
    """`x` where the scalar condition holds, else `y`."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), x, y)


def dtype(x: Vector) -> jnp.dtype:
    """The common dtype of the leaves."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*jax.tree.leaves(x))


def real_dtype(x: Vector) -> jnp.dtype:
    """The dtype of norms of `x`."""
    return jnp.finfo(dtype(x)).dtype


def size(x: Vector) -> int:
    """Number of unknowns."""
    return sum(leaf.size for leaf in jax.tree.leaves(x))


def all_finite(x: PyTree) -> Array:
    """Whether every floating-point leaf is free of NaN and Inf: times zero, these are NaN."""
    zeros: dict[Any, Array] = {}  # sums of leaves of a kind: a compiler takes long over each array by itself
    for leaf in jax.tree.leaves(x):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            kind, zero = (jnp.shape(leaf), jnp.result_type(leaf)), leaf * 0
            zeros[kind] = zeros[kind] + zero if kind in zeros else zero
    found = jnp.array(True)
    for zero in zeros.values():
        found &= jnp.sum(zero) == 0
    return found


def take(x: Array, positions: Any) -> Array:
    """`x[positions]` for positions that are known to exist: checking them takes longer than the reading."""
    return x.at[positions].get(mode="promise_in_bounds", wrap_negative_indices=False)


def safe_divide(numerator: Array, denominator: Array) -> Array:
    """`numerator / denominator`, and zero, with zero derivative, where the denominator is zero."""
    nonzero = denominator != 0
    return jnp.where(nonzero, numerator / jnp.where(nonzero, denominator, 1), 0)


def real(x: Array) -> Array:
    """The real part, for inner products that are real in exact arithmetic."""
    return x.real if jnp.issubdtype(x.dtype, jnp.complexfloating) else x


def absolute(x: Array) -> Array:
    """The absolute value, with derivative zero at zero; JAX's own is one there for real numbers."""
    return jnp.where(x == 0, 0, jnp.abs(x))

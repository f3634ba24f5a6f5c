"""Kernel matrices without the matrix: products are formed of a few rows at a time."""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from .._vectors import take
from .base import AbstractOperator, as_tags
from .values import as_values

RadialName = Literal["gaussian", "exponential", "matern32", "matern52"]
KERNELS: tuple[str, ...] = get_args(RadialName)
#: Entries of the matrix that stand in memory at a time.
_AT_A_TIME = 2**19
#: Sums over so few axes are written out: of pairs of points they take a fifth of the time.
_UNROLLED = 8


class RadialKernel(eqx.Module):
    """The covariance `k(x, y)` of two points `(d,)`, by their distance in units of `length`.

    With `s = |(x - y) / length|`: `"gaussian"`, `exp(-s^2 / 2)`; `"exponential"`, `exp(-s)`; `"matern32"`,
    `(1 + sqrt(3) s) exp(-sqrt(3) s)`; `"matern52"`, `(1 + sqrt(5) s + 5/3 s^2) exp(-sqrt(5) s)`.

    `length`: a positive number, or `(d,)`, one for each axis; it may be traced, and is differentiable, as the
    points are, also where two are the same.

    Rasmussen and Williams (2006), doi:10.7551/mitpress/3206.001.0001, chapter 4.
    """

    name: RadialName = eqx.field(static=True)
    length: Any = 1.0

    def __check_init__(self):
        if self.name not in KERNELS:
            words = ", ".join(f'"{name}"' for name in KERNELS)
            raise ValueError(f"`RadialKernel(name=...)` must be one of {words}, but is {self.name!r}.")
        if not isinstance(self.length, Tracer) and not bool(
            np.all((np.asarray(self.length) > 0) & np.isfinite(self.length))
        ):
            raise ValueError(
                f"`RadialKernel(length=...)` must be positive and finite, but is {self.length!r}."
            )

    def __call__(self, x: Array, y: Array) -> Array:
        inverse = jnp.broadcast_to(1 / jnp.asarray(self.length, x.dtype), x.shape)
        if x.size > _UNROLLED:
            return radial(self.name, jnp.sum(((x - y) * inverse) ** 2))
        squares = [((x[i] - y[i]) * inverse[i]) ** 2 for i in range(x.size)]
        return radial(self.name, sum(squares, jnp.zeros((), x.dtype)))


def radial(name: str, square: Array) -> Array:
    """A kernel's values, of squared distances in units of its length."""
    if name == "gaussian":
        return jnp.exp(-square / 2)
    # A root without a derivative at zero, where all of these have the slope zero or a kink.
    s = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    if name == "exponential":
        return jnp.exp(-s)
    if name == "matern32":
        return (1 + math.sqrt(3) * s) * jnp.exp(-math.sqrt(3) * s)
    return (1 + math.sqrt(5) * s + 5 / 3 * square) * jnp.exp(-math.sqrt(5) * s)


class KernelLinearOperator(AbstractOperator):
    """`k(x_i, x_j) + nugget_i [i = j]`, the kernel matrix of points, which is never formed.

    Regression by Gaussian processes, radial basis functions, kernel ridge regression: dense matrices of more
    points than memory has room for.  Solve with `CG`, and `preconditioners.KLCholesky(points)` or
    `preconditioners.Nystrom`.

    * `points`: `(n, d)`.
    * `kernel`: `k(x, y)` of two points `(d,)` gives a real number; symmetric and positive semidefinite, such
      as a `RadialKernel`, a function or an Equinox module.
    * `nugget`: what is added to the diagonal, the variance of the noise; a number, or `(n,)`.
    * `tags`: positive semidefinite, as kernels are; `()` for one that is not.

    Acts on flat arrays `(n,)`, and is differentiable in the points, the kernel's arrays and the nugget.
    **Cost:** a product evaluates the kernel `n^2` times and takes memory for `2^19` entries, at least for one
    row, its derivatives also.  `entries(rows, columns)` are evaluated for themselves.

    **Raises** `ValueError` for points that are not `(n, d)`, a nugget of another shape or below zero, and a
    kernel that does not give one real number.
    """

    points: Array
    kernel: Callable[[Array, Array], Array]
    nugget: Array
    tags: frozenset[object] = eqx.field(static=True)

    def __init__(
        self,
        points: Any,
        kernel: Callable[[Array, Array], Array],
        nugget: Any = 0.0,
        tags: Any = lx.positive_semidefinite_tag,
    ):
        points = jnp.asarray(as_values(points, "points"))
        if points.ndim != 2 or not points.shape[0] or jnp.iscomplexobj(points):
            raise ValueError(
                "`points` must be real, of shape (n, d), one row for each point, but are "
                f"{points.dtype} of shape {points.shape}; write `points[:, None]` for points on a line."
            )
        if not callable(kernel):
            raise TypeError(f"`kernel` must be a function of two points, but is a {type(kernel).__name__}.")
        point = jax.ShapeDtypeStruct(points.shape[1:], points.dtype)
        value = eqx.filter_eval_shape(kernel, point, point)
        wrong = not isinstance(value, jax.ShapeDtypeStruct) or value.shape != ()
        if wrong or not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(
                f"`kernel(x, y)` of two points {points.shape[1:]} must be one real number, but is {value}."
            )
        nugget = jnp.asarray(nugget, value.dtype)
        if nugget.shape not in ((), points.shape[:1]):
            raise ValueError(
                f"`nugget` must be a number, or one for each of the {len(points)} points, but has shape "
                f"{nugget.shape}."
            )
        if not isinstance(nugget, Tracer) and not bool(jnp.all((nugget >= 0) & jnp.isfinite(nugget))):
            raise ValueError(f"`nugget` must be finite and not negative, but the least is {nugget.min()}.")
        self.points, self.kernel, self.nugget = points, kernel, nugget
        self.tags = as_tags(tags) | {lx.symmetric_tag}

    def entries(self, rows: Array, columns: Array) -> Array:
        """The entries at these rows and columns, which are broadcast against each other; both in `[0, n)`."""
        evaluate = jnp.vectorize(self.kernel, signature="(d),(d)->()")
        values = evaluate(take(self.points, rows), take(self.points, columns))
        return values + jnp.where(rows == columns, self._nuggets(rows), 0)

    def _nuggets(self, rows: Array) -> Array:
        return take(self.nugget, rows) if self.nugget.ndim else self.nugget

    def mv(self, vector: Array) -> Array:
        @jax.checkpoint  # derivatives evaluate the kernel again, and keep no matrix
        def product(point: Array) -> Array:
            row = jax.vmap(lambda other: self.kernel(point, other))(self.points)
            return jnp.matmul(row.astype(vector.dtype), vector, precision="highest")

        at_once = max(_AT_A_TIME // len(self.points), 1)
        return jax.lax.map(product, self.points, batch_size=at_once) + self.nugget * vector

    def as_matrix(self) -> Array:
        index = jnp.arange(len(self.points))
        return self.entries(index[:, None], index[None])

    def diagonal(self) -> Array:
        index = jnp.arange(len(self.points))
        return self.entries(index, index)

    def transpose(self) -> "KernelLinearOperator":
        return self

    def conj(self) -> "KernelLinearOperator":
        return self

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.points.shape[:1], self.nugget.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return self.in_structure()

    def __repr__(self) -> str:
        n, d = self.points.shape
        kernel = self.kernel.name if isinstance(self.kernel, RadialKernel) else "a function"
        dtype = self.nugget.dtype
        return f"KernelLinearOperator({n} x {n}, kernel {kernel} of points in {d} dimensions, {dtype})"

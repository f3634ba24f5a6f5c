"""Kernel matrices: dense, symmetric, the worse conditioned, the smoother the kernel."""

from typing import Any

import jax.numpy as jnp
import lineax as lx
from jaxtyping import ArrayLike

from ..operators.kernel import KERNELS, radial
from ._checks import choice, positive, positive_integer, real_dtype
from ._draw import Key, split, uniform
from .problem import LinearProblem, with_normal_vector


def kernel_matrix(
    key: Key,
    size: int,
    dim: int = 2,
    kernel: str = "gaussian",
    length: ArrayLike = 0.2,
    nugget: ArrayLike = 1e-4,
    dtype: Any = None,
) -> LinearProblem:
    """`k(|x_i - x_j|) + nugget I` for `size` points `x`, uniform in the unit cube of `dim` dimensions: what
    regression by a Gaussian process solves, with noise of the variance `nugget`.

    With `s = r / length` the kernels are `"gaussian"`, `exp(-s^2 / 2)`; `"exponential"`, `exp(-s)`;
    `"matern32"`, `(1 + sqrt(3) s) exp(-sqrt(3) s)`; `"matern52"`, `(1 + sqrt(5) s + 5/3 s^2) exp(-sqrt(5) s)`
    (Rasmussen & Williams 2006, doi:10.7551/mitpress/3206.001.0001, chapter 4).  Symmetric positive definite
    as long as `nugget` is above rounding.

    Legal under `jit` and `vmap` in a JAX `key`; `length` and `nugget` may be traced, and are differentiable.
    The right-hand side is N(0, 1).  `parts`: the `points`, `(size, dim)`.
    """
    size, dim = positive_integer(size, "size"), positive_integer(dim, "dim")
    choice(kernel, "kernel", KERNELS)
    positive(length, "length")
    positive(nugget, "nugget", or_zero=True)
    dtype = real_dtype(dtype)
    of_points, of_vector = split(key, 2)
    points = jnp.asarray(uniform(of_points, (size, dim), dtype))
    square = jnp.sum((points[:, None] - points[None]) ** 2, axis=-1) / jnp.asarray(length, dtype) ** 2
    matrix = radial(kernel, square) + jnp.asarray(nugget, dtype) * jnp.eye(size, dtype=dtype)
    operator = lx.MatrixLinearOperator(matrix, lx.positive_semidefinite_tag)
    return with_normal_vector(operator, of_vector, {"points": points})

"""Small dense linear algebra in plain array operations, which may be batched and inside loops.

jaxlib 0.10.0 to 0.11.0 cuts a batched call of LAPACK (triangular solves, factorisations, eigenproblems) on a
CPU into tasks for XLA's threads as soon as it is worth 2e5 operations, and waits for them *on one of these
threads*.  Where as many calls wait as there are threads, nobody is left to do the tasks, and the program
stands still for good: two triangular solves that do not depend on each other are enough on two cores.
Nothing in this package therefore hands a batch to LAPACK: what is here is made of XLA's own operations, or
calls LAPACK for one matrix at a time, which is never cut.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jax.scipy.linalg import solve_triangular as solve_by_lapack
from jaxtyping import Array

from ._vectors import safe_divide


def _one_at_a_time(function: Callable) -> Callable:
    """The function of arrays, whose batches (`vmap`) become loops on a CPU; without reverse derivatives."""
    single = jax.custom_batching.custom_vmap(function)

    @single.def_vmap
    def _(size: int, batched: list[bool], *arguments: Array) -> tuple[Any, Any]:
        pairs = zip(arguments, batched, strict=True)
        arguments = tuple(a if own else jnp.broadcast_to(a, (size, *a.shape)) for a, own in pairs)
        results = jax.lax.platform_dependent(
            *arguments,
            cpu=lambda *arrays: jax.lax.map(lambda one: single(*one), arrays),
            default=jax.vmap(function),
        )
        return results, jax.tree.map(lambda _: True, results)

    return single


_eigh = _one_at_a_time(lambda matrix: tuple(jnp.linalg.eigh(matrix)))
_solve = _one_at_a_time(jnp.linalg.solve)
#: The lower factor of a definite matrix, NaN where it is not; not differentiable in reverse mode.
cholesky = _one_at_a_time(jnp.linalg.cholesky)
#: `(factor, b) -> (L L^H)^-1 b`; not differentiable in reverse mode.
solve_factored = _one_at_a_time(lambda factor, rhs: cho_solve((factor, True), rhs))
#: The first factor of a QR decomposition; not differentiable in reverse mode.
orthonormal_columns = _one_at_a_time(lambda columns: jnp.linalg.qr(columns)[0])

#: The second factor of a QR decomposition; not differentiable in reverse mode.
triangular_factor = _one_at_a_time(lambda columns: jnp.linalg.qr(columns, mode="r"))
_solve_upper = _one_at_a_time(lambda triangle, rhs: solve_by_lapack(triangle, rhs))
_solve_upper_transposed = _one_at_a_time(lambda triangle, rhs: solve_by_lapack(triangle, rhs, trans=1))


def fourier_of_columns(matrix: Array, size: int) -> Array:
    """The Fourier transform of the columns, padded with zeros to `size`; of real columns the half that
    tells all."""
    transform = jnp.fft.fft if jnp.iscomplexobj(matrix) else jnp.fft.rfft
    return _one_at_a_time(lambda matrix: transform(matrix, size, axis=0))(matrix)


def solve_triangular(triangle: Array, rhs: Array, transposed: bool = False) -> Array:
    """`R^-1 b`, or `R^-T b`, for a large upper triangle, by LAPACK; not differentiable in reverse mode."""
    return (_solve_upper_transposed if transposed else _solve_upper)(triangle, rhs)


@jax.custom_jvp
def eigh(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues, ascending, and eigenvectors of a Hermitian matrix.

    The derivative of the vectors leaves out what turns those of one eigenvalue into each other, which is not
    defined.
    """
    return _eigh(matrix)


@eigh.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    (change,) = tangents
    values, vectors = eigh(*primals)
    change = vectors.conj().T @ ((change + change.conj().T) / 2) @ vectors
    gaps = values[None, :] - values[:, None]
    turned = safe_divide(jnp.ones_like(gaps), gaps).astype(change.dtype) * change
    return (values, vectors), (diagonal(change).real.astype(values.dtype), vectors @ turned)


def solve(matrix: Array, rhs: Array) -> Array:
    """`A^-1 b` for any square matrix and a matrix or a vector `b`."""
    return jax.lax.custom_linear_solve(
        lambda x: jnp.matmul(matrix, x, precision="highest"),
        rhs,
        lambda _, b: _solve(matrix, b),
        lambda _, b: _solve(matrix.T, b),
    )


def diagonal(matrix: Array) -> Array:
    """The diagonal of a square matrix: for the compiler less work than `jnp.diagonal`, a gather."""
    return jax.lax.slice(matrix.ravel(), (0,), (matrix.size,), (len(matrix) + 1,))


def solve_upper(triangle: Array, rhs: Array) -> Array:
    """`R^-1 b` for an upper triangle without zeros on its diagonal and a vector, or a matrix, `b`."""
    pivots = diagonal(triangle)
    unit = jnp.where(jnp.tri(len(pivots), dtype=bool), 0, triangle / pivots[None, :])

    def eliminate(k: Array, rest: Array) -> Array:
        i = len(pivots) - 1 - k
        return rest - jnp.tensordot(unit[:, i], rest[i], axes=0)

    rest = jax.lax.fori_loop(0, len(pivots), eliminate, rhs)
    return rest / pivots.reshape(-1, *(1,) * (rhs.ndim - 1))

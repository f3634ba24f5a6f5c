"""The Arnoldi process with its least-squares problem, which GMRES and its kin share.

`A Z = W G`: the columns of `Z` are corrections, those of `W` are orthonormal, `G` is upper Hessenberg and
kept as `Q^H [R; 0]`, the Givens rotations `Q` multiplied out.  Stored by rows: what is not built yet is zero
and takes no part in inner products.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from .._system import System
from .._vectors import Vector, hypot, norm, safe_divide, zeros_like

# Some accelerators would multiply in lower precision and lose orthogonality.
multiply = functools.partial(jnp.matmul, precision="highest")


class Arnoldi(NamedTuple):
    """The state of the process after `count` columns."""

    x: Vector
    basis: Array  # (m + 1, n): W
    corrections: Array | None  # (m, n): Z where it is kept; None: Z = M W
    rotations: Array  # (m + 1, m + 1): Q
    triangle: Array  # (m, m): R, ones on the diagonal where not built
    rhs: Array  # (m + 1,): Q W^H r; its last live entry is the residual
    count: Array
    residual_norm: Array
    broken: Array


def begin(x: Vector, r: Vector, m: int, keeps_corrections: bool) -> Arnoldi:
    """An empty process whose first basis vector is the residual."""
    flat, _ = ravel_pytree(r)
    r_norm = norm(flat)
    basis = jnp.zeros((m + 1, flat.size), flat.dtype)
    corrections = basis[1:] if keeps_corrections else None
    return Arnoldi(
        x=x,
        basis=basis.at[0].set(flat * _inverse(r_norm, flat.dtype)),
        corrections=corrections,
        rotations=jnp.eye(m + 1, dtype=flat.dtype),
        triangle=jnp.eye(m, dtype=flat.dtype),
        rhs=jnp.zeros(m + 1, flat.dtype).at[0].set(r_norm.astype(flat.dtype)),
        count=jnp.zeros((), jnp.int32),
        residual_norm=r_norm,
        broken=jnp.array(False),
    )


def advance(s: Arnoldi, system: System) -> Arnoldi:
    """One more column: a product, orthogonalisation, a rotation."""
    j, m = s.count, s.triangle.shape[0]
    _, unravel = ravel_pytree(s.x)
    z, corrections = unravel(s.basis[j]), s.corrections
    if corrections is None:
        z = system.precondition(z)
    else:
        # Never broken here: the branch keeps XLA from fusing a cheap preconditioner into the update below,
        # which would then read the basis late and cost a copy of it.
        z = jax.lax.cond(s.broken, zeros_like, lambda v: system.precondition(v), z)
        corrections = corrections.at[j].set(ravel_pytree(z)[0])
    w, _ = ravel_pytree(system.product(z))
    # Classical Gram-Schmidt twice: as orthogonal as Householder, in four matrix-vector products.
    w_norm = norm(w)
    h = multiply(s.basis.conj(), w)
    w = w - multiply(h, s.basis)
    again = multiply(s.basis.conj(), w)
    w = w - multiply(again, s.basis)
    h = h + again
    height = norm(w)
    # An invariant subspace: what is left is rounding, and must not become a basis vector.
    invariant = height <= 10 * jnp.finfo(height.dtype).eps * w_norm
    height = jnp.where(invariant, 0, height)
    basis = s.basis.at[j + 1].set(w * _inverse(height, w.dtype))
    # One more column of the Hessenberg matrix, rotated to triangular form.
    column = multiply(s.rotations, h)
    a = column[j]
    length = hypot(jnp.abs(a), height)
    phase = jnp.where(a == 0, jnp.ones_like(a), safe_divide(a, jnp.abs(a).astype(a.dtype)))
    cosine = safe_divide(jnp.abs(a), length).astype(a.dtype)
    sine = phase * safe_divide(height, length).astype(a.dtype)
    column = jnp.where(jnp.arange(m + 1, dtype=j.dtype) < j, column, 0)[:m]
    column = column.at[j].set(phase * length.astype(a.dtype))
    # Row j + 1 of the rotations is still that of the identity.
    upper, lower = s.rotations[j], s.rotations[j + 1]
    rotations = s.rotations.at[j].set(cosine * upper + sine * lower)
    rotations = rotations.at[j + 1].set(-sine.conj() * upper + cosine * lower)
    g = s.rhs[j]
    rhs = s.rhs.at[j].set(cosine * g).at[j + 1].set(-sine.conj() * g)
    return Arnoldi(
        x=s.x,
        basis=basis,
        corrections=corrections,
        rotations=rotations,
        triangle=s.triangle.at[:, j].set(column),
        rhs=rhs,
        count=j + 1,
        residual_norm=jnp.abs(rhs[j + 1]),
        broken=invariant | ~jnp.isfinite(height),
    )


def _inverse(length: Array, dtype: Any) -> Array:
    """One over the length, in the dtype of the vector that it scales; zero for zero."""
    return safe_divide(jnp.ones_like(length), length).astype(dtype)


def live_triangle(s: Arnoldi) -> tuple[Array, Array]:
    """`R` with the identity where it is not built or singular, and which columns count."""
    m = s.triangle.shape[0]
    live = jnp.arange(m, dtype=s.count.dtype) < s.count
    # A zero on the diagonal belongs to a singular operator: no component in that direction.
    pivots = jnp.abs(jnp.diagonal(s.triangle))
    live &= pivots > jnp.finfo(s.residual_norm.dtype).eps * jnp.max(pivots, where=live, initial=0)
    return jnp.where(live[:, None] & live[None, :], s.triangle, jnp.eye(m, dtype=s.triangle.dtype)), live


def coefficients(s: Arnoldi) -> Array:
    """`y` that minimises `||W^H r - G y||`: the correction is `Z y`."""
    triangle, live = live_triangle(s)
    rhs = jnp.where(live, s.rhs[: live.size], 0)
    return jax.scipy.linalg.solve_triangular(triangle, rhs)


def residual(s: Arnoldi) -> tuple[Vector, Array]:
    """`r - A Z y` without a product, and how far rounding may have taken it from the truth."""
    y, triangle = coefficients(s), live_triangle(s)[0]
    left = s.rhs - jnp.append(multiply(triangle, y), 0)
    _, unravel = ravel_pytree(s.x)
    rounding = jnp.finfo(s.residual_norm.dtype).eps * jnp.linalg.norm(triangle) * jnp.linalg.norm(y)
    return unravel(multiply(multiply(s.rotations.conj().T, left), s.basis)), rounding

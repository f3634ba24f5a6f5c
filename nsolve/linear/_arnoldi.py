"""The Arnoldi process with its least-squares problem, which GMRES and its kin share.

`A Z = W G`: the columns of `Z` are corrections, those of `W` are orthonormal, `G` is upper Hessenberg and
kept as `Q^H [R; 0]`, the Givens rotations `Q` multiplied out.  `W` and `Z` are stacked trees
(`nsolve._basis`): what is not built yet is zero and takes no part in inner products.

No routine of LAPACK is called: see `nsolve._dense`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .. import _basis
from .._basis import Basis
from .._dense import diagonal
from .._system import System
from .._vectors import Vector, dtype, hypot, norm, safe_divide, scale, subtract, zeros_like

# Some accelerators would multiply in lower precision and lose orthogonality.
multiply = functools.partial(jnp.matmul, precision="highest")


class Arnoldi(NamedTuple):
    """The state of the process after `count` columns."""

    x: Vector
    basis: Basis  # m + 1 vectors: W
    corrections: Basis | None  # m vectors: Z where it is kept; None: Z = M W
    rotated: Array  # (m + 1, m + 2): Q [I, W^H r]; the last live entry of its last column is the residual
    triangle: Array  # (m, m): R, ones on the diagonal where not built
    count: Array
    residual_norm: Array
    broken: Array
    memory: PyTree[Array] = None  # of a variable preconditioner


def begin(x: Vector, r: Vector, m: int, keeps_corrections: bool, memory: PyTree[Array] = None) -> Arnoldi:
    """An empty process whose first basis vector is the residual."""
    r_norm, kind = norm(r), dtype(r)
    return Arnoldi(
        x=x,
        basis=_basis.put(_basis.zeros(m + 1, r), scale(_inverse(r_norm), r), 0),
        corrections=_basis.zeros(m, r) if keeps_corrections else None,
        rotated=not_rotated(jnp.zeros(m + 1, kind).at[0].set(r_norm.astype(kind))),
        triangle=jnp.eye(m, dtype=kind),
        count=jnp.zeros((), jnp.int32),
        residual_norm=r_norm,
        broken=jnp.array(False),
        memory=memory,
    )


def not_rotated(rhs: Array) -> Array:
    """`Q [I, rhs]` before the first rotation."""
    return jnp.concatenate([jnp.eye(rhs.size, dtype=rhs.dtype), rhs[:, None]], axis=1)


def advance(s: Arnoldi, system: System) -> Arnoldi:
    """One more column: a product, orthogonalisation, a rotation."""
    j, m = s.count, s.triangle.shape[0]
    z, corrections, memory = _basis.vector(s.basis, j), s.corrections, s.memory
    if corrections is None:
        z = system.precondition(z)
    else:
        # Never broken here: the branch keeps XLA from fusing a cheap preconditioner into the update below,
        # which would then read the basis late and cost a copy of it.
        z, memory = jax.lax.cond(
            s.broken, lambda v, memory: (zeros_like(v), memory), lambda *a: system.apply(*a), z, memory
        )
        corrections = _basis.put(corrections, z, j)
    w = system.product(z)
    # Classical Gram-Schmidt twice: as orthogonal as Householder, in four matrix-vector products.
    h = _basis.overlaps(s.basis, w)
    w = subtract(w, _basis.combine(h, s.basis))
    again = _basis.overlaps(s.basis, w)
    w = subtract(w, _basis.combine(again, s.basis))
    h = h + again
    height = norm(w)
    # An invariant subspace: what is left is rounding, and must not become a basis vector.
    invariant = height <= 10 * jnp.finfo(height.dtype).eps * norm(h)
    height = jnp.where(invariant, 0, height)
    basis = _basis.put(s.basis, scale(_inverse(height), w), j + 1)
    # One more column of the Hessenberg matrix, rotated; below row j it is zero.
    column = multiply(s.rotated, jnp.append(h, jnp.zeros_like(h[:1])))[:m]
    a = column[j]
    length = hypot(jnp.abs(a), height)
    inverse = _inverse(length).astype(a.dtype)
    # The rotation takes (a, height) to (length, 0); row j + 1 is still that of the identity.
    upper, lower = jax.lax.dynamic_slice_in_dim(s.rotated, j, 2)
    cosine, sine = a * inverse, height.astype(a.dtype) * inverse
    rows = jnp.stack([cosine.conj() * upper + sine * lower, cosine * lower - sine * upper])
    return Arnoldi(
        x=s.x,
        basis=basis,
        corrections=corrections,
        rotated=jax.lax.dynamic_update_slice_in_dim(s.rotated, rows, j, 0),
        triangle=jax.lax.dynamic_update_index_in_dim(
            s.triangle, column.at[j].set(length.astype(a.dtype)), j, 1
        ),
        count=j + 1,
        residual_norm=jnp.abs(sine) * s.residual_norm,
        broken=invariant | ~jnp.isfinite(height),
        memory=memory,
    )


def _inverse(length: Array) -> Array:
    """One over the length; zero for zero."""
    return safe_divide(jnp.ones_like(length), length)


def live_columns(s: Arnoldi) -> Array:
    """Which columns count: those built whose entry on `R`'s diagonal is not zero to rounding.

    A zero on the diagonal belongs to a singular operator: no component in that direction."""
    pivots = jnp.abs(diagonal(s.triangle))
    live = jnp.arange(pivots.size, dtype=s.count.dtype) < s.count
    return live & (pivots > jnp.finfo(pivots.dtype).eps * jnp.max(pivots, where=live, initial=0))


def live_triangle(s: Arnoldi) -> tuple[Array, Array]:
    """`R` with the identity in rows and columns that do not count, and which do."""
    live = live_columns(s)
    identity = jnp.eye(live.size, dtype=s.triangle.dtype)
    return jnp.where(live[:, None] & live[None, :], s.triangle, identity), live


def solution(s: Arnoldi) -> tuple[Array, Array, Array]:
    """`y` that minimises `||W^H r - G y||`, the correction being `Z y`; the coefficients of the residual
    `r - A Z y` in `W`, `(m + 1,)`; and how far rounding may have taken that from the truth."""
    rhs, live = s.rotated[:, -1], live_columns(s)

    def substitute(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        y, terms = carry
        i = jnp.asarray(live.size - 1, k.dtype) - k
        row = s.triangle[i]
        solved = jnp.where(live[i], (rhs[i] - jnp.sum(row * y)) / jnp.where(live[i], row[i], 1), 0)
        y = y.at[i].set(solved)
        return y, terms + jnp.where(live[i], jnp.abs(row), 0) * jnp.abs(y)

    start = jnp.zeros_like(rhs[:-1]), jnp.zeros_like(rhs[:-1].real)
    y, terms = jax.lax.fori_loop(0, live.size, substitute, start)
    left = jnp.where(jnp.append(live, False), 0, rhs)  # what `G y` does not reach
    rounding = jnp.finfo(terms.dtype).eps * jnp.sum(terms)
    return y, multiply(s.rotated[:, :-1].conj().T, left), rounding

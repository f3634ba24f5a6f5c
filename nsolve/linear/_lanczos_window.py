"""Approximate eigenvectors from the coefficients and residuals of conjugate gradients, without a product.

The preconditioned residuals of CG are Lanczos vectors: `v_j = M r_j / sqrt(gamma_j)` is orthonormal in the
inner product of `M^-1`, and `v_i^H A v_j` is tridiagonal in CG's coefficients.  A window of `3 k` is kept;
when it is full it shrinks to the `k` smallest Ritz pairs of this step and of the one before ("eigCG"), after
which the process goes on as if nothing had been thrown away: the pairs converge as they would in a full
basis.

Stathopoulos and Orginos (2010), doi:10.1137/080725532.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .. import _basis
from .._basis import Basis
from .._dense import eigh, orthonormal_columns
from .._vectors import Vector, real_dtype, scale


class Window(NamedTuple):
    """The first `count` vectors of `basis` are in use."""

    basis: Basis  # w vectors
    projected: Array  # (w, w), real: V^H A V
    link: Array  # (w,): how the row that the process last added enters the rows
    alpha: Array  # CG's last step length
    count: Array


def open_window(wanted: int, like: Vector) -> Window:
    """An empty window for such vectors, from which so many Ritz pairs are wanted."""
    rows = 3 * wanted
    real = real_dtype(like)
    zeros = jnp.zeros(rows, real)
    return Window(
        _basis.zeros(rows, like),
        jnp.zeros((rows, rows), real),
        zeros,
        jnp.ones((), real),
        jnp.zeros((), jnp.int32),
    )


def record(window: Window, z: Vector, gamma: Array, beta: Array, alpha: Array) -> Window:
    """Adds a step of CG: `z = M r`, `gamma = r^H z`, `beta` and `alpha` its coefficients."""
    # No iterate depends on what is recorded, so that derivatives through the iterations need not see it.
    window, z, gamma, beta, alpha = jax.lax.stop_gradient((window, z, gamma, beta, alpha))
    window = jax.lax.cond(window.count == window.link.size, _shrink, lambda w: w, window)
    i = window.count
    coupling = -window.link * jnp.sqrt(beta) / window.alpha
    projected = window.projected.at[i].set(coupling).at[:, i].set(coupling)
    projected = projected.at[i, i].set(1 / alpha + beta / window.alpha)
    basis = _basis.put(window.basis, scale(jax.lax.rsqrt(gamma), z), i)
    return Window(basis, projected, jnp.zeros_like(window.link).at[i].set(1), alpha, i + 1)


def _shrink(window: Window) -> Window:
    wanted = window.link.size // 3
    keep = 2 * wanted
    _, now = eigh(window.projected)
    _, before = eigh(window.projected[:-1, :-1])
    both = jnp.concatenate([now[:, :wanted], jnp.pad(before[:, :wanted], ((0, 1), (0, 0)))], axis=1)
    q = orthonormal_columns(both)
    values, y = eigh(q.T @ window.projected @ q)
    y = q @ y
    vectors = _basis.combine(y.T, window.basis)
    return Window(
        jax.tree.map(lambda rows, new: jnp.zeros_like(rows).at[:keep].set(new), window.basis, vectors),
        jnp.zeros_like(window.projected).at[jnp.arange(keep), jnp.arange(keep)].set(values),
        jnp.zeros_like(window.link).at[:keep].set(window.link @ y),
        window.alpha,
        jnp.asarray(keep, jnp.int32),
    )


def ritz(window: Window) -> tuple[Basis, Array]:
    """Vectors of the `k` smallest Ritz values, and these, `(k,)`; zeros where the window holds fewer."""
    wanted = window.link.size // 3
    live = jnp.arange(window.link.size, dtype=jnp.int32) < window.count
    # What is not there goes to the end of the spectrum.
    beyond = 2 * jnp.max(jnp.sum(jnp.abs(window.projected), axis=1)) + 1
    missing = jnp.diag(jnp.full(live.size, beyond))
    values, y = eigh(jnp.where(live[:, None] & live[None, :], window.projected, missing))
    values, y = values[:wanted], y[:, :wanted]
    there = (jnp.arange(wanted, dtype=jnp.int32) < window.count) & (values > 0)
    values, y = jnp.where(there, values, 0), jnp.where(there[None, :] & live[:, None], y, 0)
    return _basis.combine(y.T, window.basis), values

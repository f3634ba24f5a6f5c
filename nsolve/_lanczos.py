"""Estimates of the extreme eigenvalues of `M A`, for methods that need an interval."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._dense import eigh
from ._system import System
from ._vectors import axpy, dot, real, root, safe_divide, scale, zeros_like


def check_bounds(name: str, bounds: tuple[Any, Any] | None) -> None:
    """Raises unless concrete bounds of a spectrum are positive and in order."""
    if bounds is None or not all(isinstance(bound, int | float) for bound in bounds):
        return
    low, high = bounds
    if not 0 < low < high:
        raise ValueError(
            f"`{name}(bounds=(smallest, largest))` must satisfy 0 < smallest < largest, but is {bounds}."
        )


def extreme_eigenvalues(system: System, num_steps: int = 20) -> tuple[Array, Array]:
    """Smallest and largest Ritz values of `M A` after `num_steps` Lanczos steps, for Hermitian positive
    definite `A` and `M`.

    They lie inside the spectrum: the largest usually within a few percent after 10 to 20 steps, the smallest
    far above the true one where the condition is bad.  Cost: `num_steps` products and applications of `M`.
    The start vector is pseudo-random and fixed.

    Golub and Van Loan, *Matrix Computations*, 4th ed. (2013), section 10.1.
    """

    def noise(k, leaf):
        return jax.random.normal(jax.random.fold_in(jax.random.key(0), k), leaf.shape, leaf.dtype)

    leaves, treedef = jax.tree.flatten(system.operator.in_structure())
    v = jax.tree.unflatten(treedef, [noise(k, leaf) for k, leaf in enumerate(leaves)])
    z = system.precondition(v)
    beta = root(real(dot(v, z)))

    def step(carry, _):
        v_old, v, z, beta = carry
        inverse = safe_divide(jnp.ones_like(beta), beta)
        v, z = scale(inverse, v), scale(inverse, z)
        q = system.product(z)
        alpha = real(dot(z, q))
        v_next = axpy(-beta, v_old, axpy(-alpha, v, q))
        z_next = system.precondition(v_next)
        beta_next = root(jnp.maximum(real(dot(v_next, z_next)), 0))
        return (v, v_next, z_next, beta_next), (alpha, beta_next)

    size = sum(leaf.size for leaf in leaves)
    num_steps = min(num_steps, size)
    _, (alphas, betas) = jax.lax.scan(step, (zeros_like(v), v, z, beta), length=num_steps)
    # An invariant subspace met early leaves zero rows behind; they would count as eigenvalue zero.
    alive = (
        jnp.cumprod(
            jnp.concatenate(
                [jnp.ones(1, bool), betas[:-1] > 10 * jnp.finfo(betas.dtype).eps * jnp.max(betas)]
            )
        )
        > 0
    )
    betas = jnp.where(alive[1:], betas[:-1], 0)
    alphas = jnp.where(alive, alphas, alphas[0])
    ritz, _ = eigh(jnp.diag(alphas) + jnp.diag(betas, 1) + jnp.diag(betas, -1))
    return ritz[0], ritz[-1]

"""The transport plan, given by its potentials; its matrix is formed on request only."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from .geometry import AbstractGeometry


class Coupling(eqx.Module):
    """The plan `P_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon)` of a pair of potentials.

    Sums over it are streamed, O(n m) work and no (n, m) array; they are differentiable in all that the
    potentials depend on.  `P.T` is the plan from target to source.

    `C` is `geometry`'s; where `offsets = (u, v)` are given, the costs are `C_ij + u_i + v_j` and their
    potentials `f + u` and `g + v`, which makes the same plan with fewer rounding errors.
    """

    geometry: AbstractGeometry
    f: Array
    g: Array
    a: Array
    b: Array
    offsets: tuple[Array, Array] | None = None

    def apply(self, v: ArrayLike) -> Array:
        """`P v`: `v` has one value, or k values along a last axis, for each target site.

        With the sites `y` (m, d) themselves and divided by `a`, it is where each source's mass goes on
        average (the barycentric projection).
        """
        target, source = self.geometry.target_shape, self.geometry.source_shape
        v = jnp.asarray(v)
        if v.shape[: len(target)] != target or v.ndim > len(target) + 1:
            raise ValueError(
                f"`v` must have shape {target}, one value for each target site, or {(*target, 'k')}, but has "
                f"shape {v.shape}."
            )
        extra = v.shape[len(target) :]
        return self.mv(v.reshape(-1, *extra)).reshape(*source, *extra)

    @property
    def T(self) -> "Coupling":
        """The plan from target to source."""
        offsets = None if self.offsets is None else (self.offsets[1], self.offsets[0])
        return Coupling(self.geometry.T, self.g, self.f, self.b, self.a, offsets)

    def as_matrix(self) -> Array:
        """The plan as an array (n, m), in memory."""
        exponents = self.f[:, None] + self.g[None, :] - self.geometry.cost_matrix()
        exponents = exponents / self.geometry.epsilon
        weights = self.a[:, None] * self.b[None, :]
        return jnp.where(weights > 0, weights * jnp.exp(jnp.where(weights > 0, exponents, 0)), 0)

    def mv(self, v: Array) -> Array:
        """`P v` for flat `v`, (m,) or (m, k)."""
        return self.geometry.apply(self.f, self.g, self.a, self.b, v)

    def rmv(self, u: Array) -> Array:
        """`P^T u` for flat `u`."""
        return self.geometry.T.apply(self.g, self.f, self.b, self.a, u)

    def squares(self, u: Array) -> Array:
        """`sum_i P_ij^2 u_i` for flat `u`."""
        return self.geometry.T.squares(self.g, self.f, self.b, self.a, u)

    def mean_cost(self) -> Array:
        """`sum_ij P_ij C_ij`, of the costs with their offsets."""
        paid = self.geometry.transport_cost(self.f, self.g, self.a, self.b)
        if self.offsets is None:
            return paid
        u, v = self.offsets
        return paid + jnp.sum(u * self.mv(jnp.ones_like(v))) + jnp.sum(v * self.rmv(jnp.ones_like(u)))

"""A transport problem and its dual.

With `P_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon)` the dual to be maximised is

    D(f, g) = V(f; a, rho_a) + V(g; b, rho_b) - epsilon (sum_ij P_ij - sum_i a_i sum_j b_j),

`V(f; a, rho) = sum a f` for a marginal that must hold and `sum a rho (1 - exp(-f / rho))` for one that costs
`rho KL(P 1 | a)` to violate.  Its gradient is what is missing in the marginals, `a exp(-f / rho) - P 1`.
Solvers eliminate `f`, the row that is best for given `g`: what remains is the semi-dual, concave in `g`
alone.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .geometry import AbstractGeometry
from .plan import Plan


class Problem(eqx.Module):
    """Geometry, flat weights, and the strengths of relaxed marginals (None: exact)."""

    geometry: AbstractGeometry
    a: Array
    b: Array
    rho_a: Array | None = None
    rho_b: Array | None = None

    @property
    def balanced(self) -> bool:
        """Whether both marginals must hold."""
        return self.rho_a is None and self.rho_b is None

    @property
    def mass(self) -> Array:
        """The larger of the two masses: the unit of marginal errors."""
        return jnp.maximum(jnp.sum(self.a), jnp.sum(self.b))

    @property
    def exchanged(self) -> "Problem":
        """The same problem with source and target exchanged."""
        return Problem(self.geometry.T, self.b, self.a, self.rho_b, self.rho_a)

    def at_epsilon(self, epsilon: Array) -> "Problem":
        """The same problem with another regularisation."""
        return eqx.tree_at(lambda problem: problem.geometry.epsilon, self, epsilon)

    def prepared(self) -> tuple["Problem", tuple[Array, Array]]:
        """The same problem with finite costs, less offsets of rows and columns, and these.

        Potentials of exact marginals move by the offsets, and the plan stays: so costs lose no digits to what
        all pairs of a site have in common, and sites without weight have no say.
        """
        rows, columns = self.rho_a is None, self.rho_b is None
        geometry, u, v = self.geometry.prepared(*jax.lax.stop_gradient((self.a, self.b)), rows, columns)
        return eqx.tree_at(lambda problem: problem.geometry, self, geometry), (u, v)

    def plan(self, f: Array, g: Array) -> Plan:
        """The plan of a pair of potentials."""
        return Plan(self.geometry, f, g, self.a, self.b)

    def best_row(self, g: Array) -> Array:
        """The `f` that maximises the dual for given `g`; zero-weight sites get theirs too."""
        return shrink(self.geometry.softmin(g, self.b), self.geometry.epsilon, self.rho_a)

    def missing(self, f: Array, g: Array) -> tuple[Array, Array]:
        """The gradient of the dual: what the plan lacks in either marginal."""
        plan = self.plan(f, g)
        rows, columns = plan.mv(jnp.ones_like(g)), plan.rmv(jnp.ones_like(f))
        return wanted(self.a, f, self.rho_a) - rows, wanted(self.b, g, self.rho_b) - columns

    def dual(self, f: Array, g: Array) -> Array:
        """`D(f, g)`."""
        total = jnp.sum(self.plan(f, g).mv(jnp.ones_like(g)))
        product = jnp.sum(self.a) * jnp.sum(self.b)
        values = value(self.a, f, self.rho_a) + value(self.b, g, self.rho_b)
        return values - self.geometry.epsilon * (total - product)


def shrink(softmin: Array, epsilon: Array, rho: Array | None) -> Array:
    """The best potential from the soft minimum: itself, or pulled towards zero where the marginal gives."""
    return softmin if rho is None else softmin * (rho / (rho + epsilon))


def wanted(weights: Array, potential: Array, rho: Array | None) -> Array:
    """The marginal that the dual asks for."""
    return weights if rho is None else weights * jnp.exp(-potential / rho)


def value(weights: Array, potential: Array, rho: Array | None) -> Array:
    """A marginal's term of the dual."""
    gains = potential if rho is None else -rho * jnp.expm1(-potential / rho)
    return jnp.sum(weights * gains)


def middle(values: Array, weights: Array) -> Array:
    """The median over sites with weight."""
    ordered = jnp.sort(jnp.where(weights > 0, values, jnp.inf))
    count = jnp.maximum(jnp.sum(weights > 0), 1)
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2


def balancing_constant(problem: Problem, f: Array, g: Array) -> Array:
    """The `c` for which `(f + c, g - c)` is best: relaxed marginals get the same mass; the plan stays."""
    rho_a, rho_b = problem.rho_a, problem.rho_b
    if rho_a is None or rho_b is None:
        return jnp.zeros((), g.dtype)
    masses = jnp.sum(wanted(problem.a, f, rho_a)) / jnp.sum(wanted(problem.b, g, rho_b))
    return rho_a * rho_b / (rho_a + rho_b) * jnp.log(masses)

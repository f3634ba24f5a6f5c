"""A transport problem and its dual.

With `P_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon)` the dual to be maximised is

    D(f, g) = V(f; a, tau_a) + V(g; b, tau_b) - epsilon (sum_ij P_ij - sum_i a_i sum_j b_j),

`V(f; a, tau) = sum a f` for a marginal that must hold and `sum a tau (1 - exp(-f / tau))` for one that costs
`tau KL(P 1 | a)` to violate.  Its gradient is what is missing in the marginals, `a exp(-f / tau) - P 1`.
Solvers eliminate `f`, the row that is best for given `g`: what remains is the semi-dual, concave in `g`
alone.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .coupling import Coupling
from .geometry import AbstractGeometry


class EntropicProblem(eqx.Module):
    """Geometry, flat weights, and the strengths of relaxed marginals (None: exact)."""

    geometry: AbstractGeometry
    a: Array
    b: Array
    tau_a: Array | None = None
    tau_b: Array | None = None

    @property
    def balanced(self) -> bool:
        """Whether both marginals must hold."""
        return self.tau_a is None and self.tau_b is None

    @property
    def mass(self) -> Array:
        """The larger of the two masses: the unit of marginal errors."""
        return jnp.maximum(jnp.sum(self.a), jnp.sum(self.b))

    @property
    def exchanged(self) -> "EntropicProblem":
        """The same problem with source and target exchanged."""
        return EntropicProblem(self.geometry.T, self.b, self.a, self.tau_b, self.tau_a)

    def at_epsilon(self, epsilon: Array) -> "EntropicProblem":
        """The same problem with another regularisation."""
        return eqx.tree_at(lambda problem: problem.geometry.epsilon, self, epsilon)

    def prepared(self) -> tuple["EntropicProblem", tuple[Array, Array]]:
        """The same problem with finite costs, less offsets of rows and columns, and these.

        Potentials of exact marginals move by the offsets, and the plan stays: so costs lose no digits to what
        all pairs of a site have in common, and sites without weight have no say.
        """
        rows, columns = self.tau_a is None, self.tau_b is None
        geometry, u, v = self.geometry.prepared(*jax.lax.stop_gradient((self.a, self.b)), rows, columns)
        return eqx.tree_at(lambda problem: problem.geometry, self, geometry), (u, v)

    def plan(self, f: Array, g: Array) -> Coupling:
        """The plan of a pair of potentials."""
        return Coupling(self.geometry, f, g, self.a, self.b)

    def best_row(self, g: Array) -> Array:
        """The `f` that maximises the dual for given `g`; zero-weight sites get theirs too."""
        return shrink(self.geometry.softmin(g, self.b), self.geometry.epsilon, self.tau_a)

    def missing(self, f: Array, g: Array) -> tuple[Array, Array]:
        """The gradient of the dual: what the plan lacks in either marginal."""
        plan = self.plan(f, g)
        rows, columns = plan.mv(jnp.ones_like(g)), plan.rmv(jnp.ones_like(f))
        return wanted(self.a, f, self.tau_a) - rows, wanted(self.b, g, self.tau_b) - columns

    def dual(self, f: Array, g: Array) -> Array:
        """`D(f, g)`."""
        total = jnp.sum(self.plan(f, g).mv(jnp.ones_like(g)))
        product = jnp.sum(self.a) * jnp.sum(self.b)
        values = value(self.a, f, self.tau_a) + value(self.b, g, self.tau_b)
        return values - self.geometry.epsilon * (total - product)


def shrink(softmin: Array, epsilon: Array, tau: Array | None) -> Array:
    """The best potential from the soft minimum: itself, or pulled towards zero where the marginal gives."""
    return softmin if tau is None else softmin * (tau / (tau + epsilon))


def wanted(weights: Array, potential: Array, tau: Array | None) -> Array:
    """The marginal that the dual asks for."""
    return weights if tau is None else weights * jnp.exp(-potential / tau)


def value(weights: Array, potential: Array, tau: Array | None) -> Array:
    """A marginal's term of the dual."""
    gains = potential if tau is None else -tau * jnp.expm1(-potential / tau)
    return jnp.sum(weights * gains)


def middle(values: Array, weights: Array) -> Array:
    """The median over sites with weight."""
    ordered = jnp.sort(jnp.where(weights > 0, values, jnp.inf))
    count = jnp.maximum(jnp.sum(weights > 0), 1)
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2


def balancing_constant(problem: EntropicProblem, f: Array, g: Array) -> Array:
    """The `c` for which `(f + c, g - c)` is best: relaxed marginals get the same mass; the plan stays."""
    tau_a, tau_b = problem.tau_a, problem.tau_b
    if tau_a is None or tau_b is None:
        return jnp.zeros((), g.dtype)
    masses = jnp.sum(wanted(problem.a, f, tau_a)) / jnp.sum(wanted(problem.b, g, tau_b))
    return tau_a * tau_b / (tau_a + tau_b) * jnp.log(masses)

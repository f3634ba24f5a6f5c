"""`nsolve.transport.solve`: potentials, costs and plan of a transport problem, differentiable."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, ArrayLike

from .._arrays import is_traced
from .._frozen import asynchronous_jit
from .._results import AbstractSolution, Stats, raised_in_words
from ._implicit import dual_value, potentials
from ._problem import EntropicProblem
from .base import AbstractTransportSolver, Iterate
from .certificate import certify
from .coupling import Coupling
from .geometry import AbstractGeometry, as_real
from .sinkhorn_newton import SinkhornNewton

#: How a failure is raised, by the member of `lx.RESULTS`.
FAILED = {
    "max_steps_reached": (
        "transport.solve: all of `max_steps` were taken. Allow more, ask for less (a larger `rtol`), or use "
        "a larger `epsilon`."
    ),
    "stagnation": (
        "transport.solve: the marginal error no longer falls, and is above the tolerance. Either that "
        "is below what rounding allows (about the dtype's eps times max|C| / epsilon), or the masses of `a` "
        "and `b` differ. Use a larger `rtol` or `epsilon`, or float64; divide `a` and `b` by their sums, or "
        "relax a marginal with `tau`."
    ),
    "nonfinite_input": "transport.solve: there is NaN or infinity among the costs or the weights.",
    "breakdown": "transport.solve: a weight in `a` or `b` is negative, or none is positive.",
}


class Transport(AbstractSolution):
    """What `nsolve.transport.solve` returns.

    * `value`: the potentials `(f, g)`, which `y0` of another solve takes.
    * `f`, `g`: the potentials, of the weights' shapes.  Where both marginals are exact they are unique up to
      a constant, which is chosen so that `sum a f = sum b g`.
    * `cost`: the regularised cost, `<P, C> + epsilon KL(P | a b^T)` plus the penalties of relaxed marginals.
    * `marginal_error`: `||P 1 - a'||_1 + ||P^T 1 - b'||_1`, computed from the potentials that are returned;
      `a'` is `a`, or `a exp(-f / tau)` where the marginal is relaxed.
    * `plan`: the plan `P_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon)`, not formed.
    * `result`: how the solve ended, a member of `lineax.RESULTS`.
    * `stats`: the solver's counts, and the certificate: `potential_error`, `cost_error`, `gradient_error`.
    """

    f: Array
    g: Array
    cost: Array
    marginal_error: Array
    plan: Coupling
    result: lx.RESULTS
    stats: dict[str, Array]

    @property
    def value(self) -> tuple[Array, Array]:
        """The potentials."""
        return self.f, self.g

    @property
    def transport_cost(self) -> Array:
        """The sharp cost, `<P, C>`."""
        return self.plan.mean_cost()


def solve(
    geometry: AbstractGeometry,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    solver: AbstractTransportSolver | None = None,
    *,
    tau: Any = None,
    y0: tuple[ArrayLike, ArrayLike] | None = None,
    certificate: bool | None = None,
    throw: bool = True,
) -> Transport:
    """Solves an entropic transport problem.

    The plan `P` (n, m) minimises

        <P, C> + epsilon KL(P | a b^T)    subject to    P 1 = a,  P^T 1 = b,

    `KL(p | q) = sum p log(p / q) - p + q`; with `tau` the marginals may be missed, at the price of
    `tau_a KL(P 1 | a) + tau_b KL(P^T 1 | b)`.

    * `geometry`: costs and `epsilon`: `PointCloud`, `CostMatrix` or `Grid`.
    * `a`, `b`: the weights, non-negative, of the geometry's `source_shape` and `target_shape`; their masses
      must agree unless a marginal is relaxed.  None: uniform, of mass one.  A weight of zero is the mask of a
      site that only fills up an array: where it lies, also at NaN, changes nothing, and it gets no gradient.
      Its potential is what it would get with a little weight (where its costs are not finite, the heaviest
      site's).
    * `solver`: `SinkhornNewton()` by default.
    * `tau`: None for exact marginals; a positive number, the penalty itself in units of cost; or a pair of
      these, for source and target.  (The `tau` of ott is `tau / (tau + epsilon)`: 1 means exact there.)
    * `y0`: potentials `(f, g)` to start from, e.g. of a problem nearby: then the target `epsilon` comes at
      once.
    * `certificate`: whether to estimate how far the potentials are from the solution (see below); by default
      where the costs fit in one tile.  It takes one more linear solve.
    * `throw`: raise an error where the solve fails, or where weights and costs that are known cannot be
      right. Else nothing waits for numbers on a device, and `result` tells.

    **Results.** `successful` only where the marginal error of the returned potentials is at most the solver's
    tolerance; `max_steps_reached`; `stagnation`: the tolerance is below what rounding allows (about the
    dtype's `eps * max|C| / epsilon`), or masses differ; `nonfinite_input`: NaN or infinity among costs and
    weights; `breakdown`: negative weights,
    or none that is positive.

    **Derivatives** of all outputs in points, costs, weights, `epsilon` and `tau`, forward and reverse, of any
    order, by the implicit function theorem: one solve with the symmetric Schur complement of the Hessian, the
    operator of `SinkhornNewton`'s own steps.  The derivative of `cost` needs none (it is the plan).  Where
    the plan falls into pieces that hardly see each other, rounding leaves no digits of the potentials'
    derivatives: they are NaN then, or an error is raised (above 1024 sites); the cost's are not affected.

    Derivatives are those of the exact solution, so their error is that of the potentials, which the
    certificate estimates to first order: `stats["potential_error"]`, the largest error of `f` and `g` (after
    removing constants); `stats["cost_error"]`, what the cost lacks; `stats["gradient_error"]`, the L1
    distance between the plan, that is the gradient of the cost in `C`, and the exact one, or an upper bound
    of it where costs are streamed.  Good where it is well below the mass; infinite where the linear solve
    failed.

    References: Cuturi (2013, arXiv:1306.0895); Peyre and Cuturi (2019, arXiv:1803.00567); relaxed marginals:
    Chizat, Peyre, Schmitzer, Vialard (2018, arXiv:1607.05816).
    """
    solver = SinkhornNewton() if solver is None else solver
    problem = as_problem(geometry, a, b, solver, tau, waits=throw)
    start = None if y0 is None else _as_start(y0, geometry)
    certificate = geometry.fits if certificate is None else certificate
    solution = _solve(problem, solver, start, certificate)
    return raising(solution, numbers) if throw else solution


class Solved(eqx.Module):
    """Potentials and cost of a problem without its offsets, differentiable, and constants."""

    f: Array
    g: Array
    cost: Array
    marginal_error: Array
    stats: dict[str, Array]
    result: lx.RESULTS


@asynchronous_jit
def _solve(
    problem: EntropicProblem, solver: AbstractTransportSolver, start: Array | None, certificate: bool
) -> Transport:
    reduced, offsets = problem.prepared()
    # Many sums follow: costs that fit are computed once.
    working = precomputed(reduced)
    start = None if start is None else start - offsets[1]
    outcome = solver.run(jax.lax.stop_gradient(working), start)
    return as_given(reduced, offsets, judged(working, solver, outcome, certificate))


def precomputed(problem: EntropicProblem) -> EntropicProblem:
    """The same problem, its costs stored where they fit."""
    return eqx.tree_at(lambda p: p.geometry, problem, problem.geometry.precomputed())


def judged(
    problem: EntropicProblem, solver: AbstractTransportSolver, outcome: Iterate, certificate: bool
) -> Solved:
    """What a solver found, how good it is, and its derivatives."""
    constant = jax.lax.stop_gradient(problem)
    f, g, stats = outcome.f, outcome.g, outcome.stats
    rows, columns = constant.missing(f, g)
    error = jnp.sum(jnp.abs(rows)) + jnp.sum(jnp.abs(columns))
    result = _verdict(constant, error, solver.tolerance(constant), outcome.out_of_steps)
    if certificate:
        stats = stats | certify(constant, f, g)
    f, g = potentials(problem, f, g)
    return Solved(f, g, dual_value(problem, f, g), error, stats, result)


def as_given(reduced: EntropicProblem, offsets: tuple[Array, Array], solved: Solved) -> Transport:
    """The solution of the problem that a user gave, from that of the same less its offsets."""
    a, b, geometry = reduced.a, reduced.b, reduced.geometry
    u, v = offsets
    f, g = _centred(reduced, solved.f + u, solved.g + v)
    return Transport(
        f=f.reshape(geometry.source_shape),
        g=g.reshape(geometry.target_shape),
        cost=solved.cost + jnp.sum(a * u) + jnp.sum(b * v),
        marginal_error=solved.marginal_error,
        plan=Coupling(geometry, solved.f, solved.g, a, b, offsets),
        result=solved.result,
        stats=Stats(solved.stats),
    )


def raising(solution: Any, where: Callable) -> Any:
    """The same, but for an error where its result is none that succeeded.

    All that is selected waits for the verdict; what is not may still be left out of a program.
    """
    return eqx.tree_at(where, solution, raised_in_words(where(solution), solution.result, FAILED))


def numbers(solution: Transport) -> tuple[Array, ...]:
    """What a failed solve must not hand out."""
    return solution.f, solution.g, solution.cost, solution.plan.f, solution.plan.g


def as_problem(
    geometry: AbstractGeometry,
    a: ArrayLike | None,
    b: ArrayLike | None,
    solver: AbstractTransportSolver,
    tau: Any,
    waits: bool,
) -> EntropicProblem:
    """The problem as users give it, once everything is checked that is known; `waits`: also numbers that may
    still be on their way from a device."""
    if not isinstance(geometry, AbstractGeometry):
        raise TypeError(
            f"`geometry` must be a `PointCloud`, `CostMatrix` or `Grid`, but is a {type(geometry).__name__}."
        )
    if not isinstance(solver, AbstractTransportSolver):
        raise TypeError(f"`solver` must be `Sinkhorn` or `SinkhornNewton`, but is a {type(solver).__name__}.")
    penalties = _as_penalties(tau, geometry.dtype)
    flat_a = _as_weights("a", a, geometry.source_shape, geometry.dtype, waits)
    flat_b = _as_weights("b", b, geometry.target_shape, geometry.dtype, waits)
    problem = EntropicProblem(geometry, flat_a, flat_b, *penalties)
    if waits:
        _check(problem, solver)
    return problem


def _centred(problem: EntropicProblem, f: Array, g: Array) -> tuple[Array, Array]:
    """Potentials of exact marginals, with the constant that makes `sum a f = sum b g`."""
    if not problem.balanced:
        return f, g
    a, b = problem.a, problem.b
    constant = (jnp.sum(a * f) / jnp.sum(a) - jnp.sum(b * g) / jnp.sum(b)) / 2
    return f - constant, g + constant


def _verdict(problem: EntropicProblem, error: Array, tol: Array, out_of_steps: Array) -> lx.RESULTS:
    """Why the solve ended; successful only by the error of what is returned."""
    result = lx.RESULTS.where(out_of_steps, lx.RESULTS.max_steps_reached, lx.RESULTS.stagnation)
    result = lx.RESULTS.where(error <= tol, lx.RESULTS.successful, result)
    result = lx.RESULTS.where(jnp.isfinite(error), result, lx.RESULTS.nonfinite_input)
    wrong = [jnp.any(weights < 0) | (jnp.sum(weights) == 0) for weights in (problem.a, problem.b)]
    return lx.RESULTS.where(wrong[0] | wrong[1], lx.RESULTS.breakdown, result)


def _as_weights(
    name: str, weights: ArrayLike | None, shape: tuple[int, ...], dtype: Any, waits: bool
) -> Array:
    size = int(np.prod(shape))
    if weights is None:
        return jnp.full(size, 1 / size, dtype)
    array = as_real(name, weights, waits=waits)
    if array.shape != shape:
        raise ValueError(f"`{name}` must have the geometry's shape {shape}, but has shape {array.shape}.")
    if not is_traced(weights) and (waits or not isinstance(weights, jax.Array)):
        values = np.asarray(weights)
        if np.any(values < 0):
            where = np.unravel_index(np.argmin(values), shape)
            position = ", ".join(map(str, where))
            raise ValueError(f"`{name}` must not be negative, but `{name}[{position}]` is {values.min()}.")
        if not np.sum(values) > 0:
            raise ValueError(f"`{name}` has no mass: all of its entries are zero.")
    return array.astype(dtype).reshape(-1)


def _check(problem: EntropicProblem, solver: AbstractTransportSolver) -> None:
    """Refuse what can be seen from numbers that are known."""
    if not any(map(is_traced, jax.tree.leaves(problem))):
        problem.geometry.check(problem.a, problem.b)
    if problem.balanced and not any(map(is_traced, (problem.a, problem.b, solver.rtol))):
        _check_masses(problem, solver)


def _check_masses(problem: EntropicProblem, solver: AbstractTransportSolver) -> None:
    a, b = problem.a, problem.b
    masses = [float(np.sum(np.asarray(w))) for w in (a, b)]
    rounding = 100 * float(jnp.finfo(a.dtype).eps) * max(masses)
    if abs(masses[0] - masses[1]) > max(0.5 * float(solver.tolerance(problem)), rounding):
        raise ValueError(
            f"`a` and `b` must have the same mass, but sum to {masses[0]:.17g} and {masses[1]:.17g}, which "
            "differ by more than the solver's tolerance.  Divide each by its sum, or relax a marginal with "
            "`tau`."
        )


def _as_penalties(tau: Any, dtype: Any) -> tuple[Array | None, Array | None]:
    pair = tau if isinstance(tau, tuple | list) else (tau, tau)
    if len(pair) != 2:
        raise ValueError(f"`tau` must be None, a number, or a pair of these, but has {len(pair)} entries.")
    penalties = []
    for value in pair:
        if value is not None and not is_traced(value):
            number = np.asarray(value, float)
            if number.shape != () or not number > 0:
                raise ValueError(
                    f"`tau` must be positive, the strength of the marginals' penalty, but is {value!r}; "
                    "None keeps a marginal exact."
                )
            value = None if np.isinf(number) else value
        penalties.append(None if value is None else jnp.asarray(value, dtype))
    return penalties[0], penalties[1]


def _as_start(y0: Any, geometry: AbstractGeometry) -> Array:
    if not isinstance(y0, tuple | list) or len(y0) != 2:
        raise ValueError("`y0` must be a pair of potentials (f, g).")
    f, g = (jnp.asarray(potential, geometry.dtype) for potential in y0)
    if f.shape != geometry.source_shape or g.shape != geometry.target_shape:
        raise ValueError(
            f"`y0` must have the shapes {geometry.source_shape} and {geometry.target_shape}, but has "
            f"{f.shape} and {g.shape}."
        )
    return jax.lax.stop_gradient(g.reshape(-1))

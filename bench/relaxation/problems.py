"""The sequences: systems that are given beforehand, and systems that depend on the last solution."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, PRNGKeyArray
from scipy.stats import truncnorm

import nsolve as ns
from nsolve.sequence import SequenceSolver, solve_sequence

from ..peers.lineax import result_code
from ..specs import check_name, parse_part


class Trace(NamedTuple):
    """Of each system in turn, arrays of shape `(count,)`: JAX's in the loop, NumPy's outside."""

    num_steps: Any
    num_matvecs: Any
    num_preconditioner_applications: Any
    code: Any  # a number in `RESULTS`
    residual: Any  # relative, as the solver computed it at exit
    arm: Any
    context: Any


class Samples(NamedTuple):
    """Some systems spread evenly over the sequence, leading axis theirs."""

    context: Any
    vector: Array
    start: Array  # the solution of the system before
    solution: Array


class ShiftedLaplacian:
    """`(A + c_t I) x = b_t` with the 5-point Laplacian `A` on `size` x `size` points, not scaled.

    `c = -0.15 + 0.6 Beta`, with `Beta(2, 6)` for `law=low`, whose variance is low, and `Beta(1/2, 3/2)` for
    `law=high`, which puts many systems close to the least eigenvalue; on more than 10 x 10 points they would
    be indefinite.  The entries of `b` are normal, truncated at three deviations.  Everything is drawn anew
    with each seed.
    """

    LAWS = {"low": (2.0, 6.0), "high": (0.5, 1.5)}
    bounds = (-0.15, 0.45)
    num_windows = 100

    def __init__(self, size: int, law: str = "low"):
        check_name("law", law, self.LAWS)
        if not 2 <= size <= 10:
            raise ValueError(f"shifted_laplacian needs a size of 2 to 10 points an axis, got {size}")
        self.law = law
        self.laplacian = laplacian(size)
        self.operator = _shifted(self.laplacian, self.weights)

    def weights(self, context: Any) -> tuple[Any, Any]:
        """`alpha, beta` of a system's matrix `alpha A + beta I`."""
        return 1.0, context

    def draw(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Shifts and right-hand sides."""
        rng = np.random.default_rng(seed)
        shifts = self.bounds[0] + (self.bounds[1] - self.bounds[0]) * rng.beta(*self.LAWS[self.law], count)
        shape = (count, self.laplacian.shape[0])
        return shifts, truncnorm.rvs(-3, 3, size=shape, random_state=rng)

    def run(
        self, sequence: SequenceSolver, given: Any, count: int, every: int, key: PRNGKeyArray
    ) -> tuple[Trace, Samples]:
        del count
        shifts, vectors = given
        found = solve_sequence(
            self.operator,
            shifts,
            vectors,
            sequence.solvers[0],
            tuner=sequence.tuner,
            tuned=sequence.tuned,
            context=shifts,
            y0=sequence.y0,
            key=key,
        )
        trace = _trace(found.stats, found.result, found.arms, shifts, vectors, axis=1)
        before = jnp.concatenate([jnp.zeros_like(vectors[:1]), found.value[:-1]])
        taken = (shifts, vectors, before, found.value)
        return trace, Samples(*(leaf[every - 1 :: every] for leaf in taken))


class HeatTrajectory:
    """`u_t = kappa(t) lap(u) + f(t)` on the unit square, zero on the walls, by Crank and Nicolson's method.

    `size` intervals along an axis.  `kappa = max(0.01 sin 2 pi t, -10 sin 2 pi t)`: next to nothing happens
    for half a period, then heat spreads fast.  `f` is 32 times a bump of radius 1/8 that circles the centre,
    the start a bump of radius 1/4.  Each right-hand side needs the last solution.  `kappa` at the middle of
    the step is the context.
    """

    bounds = (0.0, 10.0)
    num_windows = 250

    def __init__(self, size: int, dt: float = 1e-3):
        if size < 4 or isinstance(dt, str) or not 0 < dt < 1:
            raise ValueError(f"heat_trajectory needs a size of at least 4 and 0 < dt < 1, got {size}, {dt!r}")
        self.dt = dt
        self.laplacian = laplacian(size - 1) * float(size**2)
        self.operator = _shifted(self.laplacian, self.weights)
        x = np.arange(1, size) / size
        self.x, self.y = (grid.ravel() for grid in np.meshgrid(x, x, indexing="ij"))

    def weights(self, context: Any) -> tuple[Any, Any]:
        """`alpha, beta` of a system's matrix `alpha A + beta I`."""
        return self.dt / 2 * context, 1.0

    def draw(self, count: int, seed: int) -> tuple[()]:
        """Nothing is random."""
        del count, seed
        return ()

    def bump(self, x: Any, y: Any, radius: float) -> Array:
        """Smooth, 1 in its centre (x, y), 0 from the radius on."""
        q = ((self.x - x) ** 2 + (self.y - y) ** 2) / radius**2
        return jnp.where(q < 1, jnp.exp(1 - 1 / jnp.maximum(1 - q, 1e-12)), 0.0)

    def run(
        self, sequence: SequenceSolver, given: Any, count: int, every: int, key: PRNGKeyArray
    ) -> tuple[Trace, Samples]:
        del given

        def step(carry, i):
            u, state, _ = carry
            turn = 2 * jnp.pi * (i.astype(u.dtype) + 0.5) * self.dt
            kappa = jnp.maximum(0.01 * jnp.sin(turn), -10 * jnp.sin(turn))
            force = 32 * self.bump(0.5 + 0.25 * jnp.cos(turn), 0.5 + 0.25 * jnp.sin(turn), 0.125)
            operator = self.operator(kappa)
            # (I - dt/2 kappa A) u = 2 u - (I + dt/2 kappa A) u
            b = 2 * u - operator.mv(u) + self.dt * force
            v, result, stats, arm, state = sequence.advance(state, operator, b, kappa)
            return (v, state, Samples(kappa, b, u, v)), _trace(stats, result, arm, kappa, b, axis=0)

        def block(carry, numbers):
            carry, trace = jax.lax.scan(step, carry, numbers)
            return carry, (trace, carry[2])

        u = self.bump(0.5, 0.5, 0.25)
        state = sequence.init(self.operator(jnp.ones(())), key)
        numbers = jnp.arange(count).reshape(-1, every)
        _, (trace, samples) = jax.lax.scan(block, (u, state, Samples(jnp.zeros(()), u, u, u)), numbers)
        return jax.tree.map(jnp.ravel, trace), samples


PROBLEMS: dict[str, type[ShiftedLaplacian] | type[HeatTrajectory]] = {
    "shifted_laplacian": ShiftedLaplacian,
    "heat_trajectory": HeatTrajectory,
}


def options(name: str) -> dict[str, object]:
    """The options of a problem with their defaults."""
    parameters = list(inspect.signature(PROBLEMS[name]).parameters.values())
    return {p.name: p.default for p in parameters[1:]}


@functools.lru_cache(maxsize=4)
def draw(text: str, size: int, count: int, seed: int) -> Any:
    """What a problem's systems are made of; the same for every column."""
    return make(text, size).draw(count, seed)


@functools.lru_cache(maxsize=4)
def make(text: str, size: int) -> ShiftedLaplacian | HeatTrajectory:
    """A problem by its name and options, e.g. `shifted_laplacian[law=high]`."""
    part = parse_part(text)
    return PROBLEMS[part.name](size, **part.options)  # pyright: ignore[reportArgumentType]


def residuals(problem: ShiftedLaplacian | HeatTrajectory, samples: Samples) -> np.ndarray:
    """Relative residuals, in SciPy."""
    context, b, _, x = map(np.asarray, samples)
    alpha, beta = problem.weights(context[:, None])
    difference = b - alpha * (problem.laplacian @ x.T).T - beta * x
    return np.linalg.norm(difference, axis=1) / np.linalg.norm(b, axis=1)


def laplacian(points: int) -> sp.csr_array:
    """The 5-point stencil (4, -1) on a square of so many points an axis."""
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(points, points))
    one = sp.eye_array(points)
    return sp.csr_array(sp.kron(line, one) + sp.kron(one, line))


def _shifted(
    laplacian: sp.csr_array, weights: Callable[[Array], tuple[Any, Any]]
) -> Callable[[Array], ns.SparseLinearOperator]:
    """`context -> alpha A + beta I` with `alpha, beta = weights(context)`."""
    unit = sp.csr_array(laplacian, copy=True)
    unit.data[:] = unit.indices == np.repeat(np.arange(unit.shape[0]), np.diff(unit.indptr))
    matrix, identity = (
        ns.SparseLinearOperator.from_scipy(each, lx.positive_semidefinite_tag) for each in (laplacian, unit)
    )

    def operator(context: Array) -> ns.SparseLinearOperator:
        alpha, beta = weights(context)

        # On one pattern, entries combine where they are stored, without a detour through CSR order.
        def combine(a, b):
            return alpha * a + beta * b if eqx.is_inexact_array(a) else a

        return jax.tree.map(combine, matrix, identity)

    return operator


def _trace(stats: Any, result: Any, arm: Array, context: Array, vectors: Array, axis: int) -> Trace:
    return Trace(
        stats["num_steps"],
        stats["num_matvecs"],
        stats["num_preconditioner_applications"],
        result_code(result),
        stats["residual_norm"] / jnp.linalg.norm(vectors, axis=axis),
        arm,
        context,
    )

"""`solve_many`: one operator, many right-hand sides."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import PyTree

from .._results import AbstractSolution, Stats
from .._vectors import Vector, size
from ..operators.base import require_operator
from ..preconditioners.base import constant
from .base import as_vector

#: Unknowns that a block holds where the user does not say.  On a CPU a batched loop, which copies what has
#: stopped in every step, gains only while starting operations is what takes the time.  Other devices have to
#: be filled.
_UNKNOWNS_ON_CPU = 2**10
_UNKNOWNS_ELSEWHERE = 2**24


class ManySolution(AbstractSolution):
    """What `solve_many` returns; every leading axis is the right-hand sides', in the order in which they were
    given.

    * `value`: the solutions.
    * `result`: the exit reasons, `lx.RESULTS` in an array: `result == lx.RESULTS.successful` is a mask.
    * `stats`: the solver's statistics, an array each.
    * `state`: the solver's for this operator, for further calls.
    """

    value: Vector
    result: lx.RESULTS
    stats: dict[str, Any]
    state: PyTree


def solve_many(
    operator: lx.AbstractLinearOperator,
    vectors: Vector,
    solver: lx.AbstractLinearSolver,
    options: dict[str, Any] | None = None,
    *,
    state: PyTree = None,
    throw: bool = True,
    batch: int | None = None,
) -> ManySolution:
    """Solves `A x_j = vectors[j]` for `j = 0 ... k - 1`, one set-up and one compiled program for all.

    **Arguments:**

    * `operator`: one operator for all.
    * `vectors`: the right-hand sides, of the operator's structure with a leading axis of length `k` in front:
      `(k, n)` for a matrix, `(k, *grid)` for a stencil; *not* the `(n, k)` of dense linear algebra.
    * `solver`: any of this package's or of lineax's.
    * `options`: as for the solver; `y0` has the leading axis, too.
    * `state`: `solver.init(operator, options)`, or the `state` of an earlier call, instead of a new set-up.
    * `throw`: raise an error where one is not solved; else look at `result`.
    * `batch`: how many are solved together (static).  Blocks of that many follow one another in one compiled
      loop.  By default one by one on CPUs, but for systems of a few hundred unknowns, since batched loops are
      slower there; on other devices as many as hold 2^24 unknowns together.

    **Returns** a `ManySolution`: `value` as `vectors`, `result` and each of `stats` with `k` entries.

    Each right-hand side has its own stopping rule, count of steps and result, and one that fails leaves the
    others alone.  A block takes as long as its slowest member, and blocks do not wait for one another: with
    `batch=1` every one costs its own steps and no more.  Memory: `batch` times the solver's vectors, and the
    answers.

    Differentiable in operator and vectors, forward and reverse, as `lx.linear_solve` is; the adjoint systems
    are solved in the same blocks.  Works under `jit` and `vmap`; called outside of `jit` it compiles itself,
    once for each structure.  Where the *operator* differs from system to system, map over its values:
    `jax.vmap(lambda values, b: lx.linear_solve(A.with_values(values), b, solver).value)`, or use
    `nsolve.solve_sequence`.

    **Raises** `ValueError` for vectors that lack the leading axis, and a `batch` that is no positive integer.
    """
    require_operator(operator, "operator")
    if not isinstance(solver, lx.AbstractLinearSolver):
        raise TypeError(f"`solver` must be a linear solver such as `ns.CG(rtol=1e-8)`, but is {solver!r}.")
    if batch is not None and (not isinstance(batch, int) or batch < 1):
        raise ValueError(f"`batch` must be None or an integer >= 1, but is {batch!r}.")
    options = {} if options is None else options
    starts = options.get("y0")
    shared: dict[str, Any] = {key: value for key, value in options.items() if key != "y0"}
    count = _count(vectors)
    vectors = as_vector(vectors, _stacked(operator.out_structure(), count), "vectors")
    if starts is not None:
        starts = as_vector(starts, _stacked(operator.in_structure(), count), "options['y0']")
    if state is None:
        state = solver.init(constant(operator), shared)
    if batch is None:
        limit = _UNKNOWNS_ON_CPU if jax.default_backend() == "cpu" else _UNKNOWNS_ELSEWHERE
        batch = max(1, limit // size(operator.in_structure()))
    # How a system is solved is no part of its solution.
    arrays, rest = eqx.partition((state, shared, starts), eqx.is_array)
    state, shared, starts = eqx.combine(jax.lax.stop_gradient(arrays), rest)
    value, result, stats = _run(operator, vectors, starts, solver, shared, state, throw, min(batch, count))
    return ManySolution(value=value, result=result, stats=Stats(stats), state=state)


@eqx.filter_jit
def _run(
    operator: lx.AbstractLinearOperator,
    vectors: Vector,
    starts: Vector | None,
    solver: lx.AbstractLinearSolver,
    options: dict[str, Any],
    state: PyTree,
    throw: bool,
    batch: int,
) -> tuple[Vector, lx.RESULTS, dict[str, Any]]:
    def solve(pair: tuple[Vector, Vector | None]) -> tuple[Vector, lx.RESULTS, dict[str, Any]]:
        b, y0 = pair
        started = options if y0 is None else options | {"y0": y0}
        solution = lx.linear_solve(operator, b, solver, options=started, state=state, throw=throw)
        return solution.value, solution.result, solution.stats

    count = jax.tree.leaves(vectors)[0].shape[0]
    if batch == 1:  # conditionals stay such, where `vmap` would take both ways, and loops copy nothing
        return jax.lax.map(solve, (vectors, starts))
    num_blocks = -(-count // batch)
    batch = -(-count // num_blocks)  # as even as can be
    blocks = jax.tree.map(lambda leaf: _in_blocks(leaf, num_blocks, batch), (vectors, starts))
    solved = jax.lax.map(jax.vmap(solve), blocks)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], solved)


def _in_blocks(leaf: jax.Array, num_blocks: int, batch: int) -> jax.Array:
    """`(k, ...)` to `(num_blocks, batch, ...)`; the last is repeated to fill up."""
    missing = num_blocks * batch - leaf.shape[0]
    if missing:
        leaf = jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, axis=0)])
    return leaf.reshape(num_blocks, batch, *leaf.shape[1:])


def _count(vectors: Vector) -> int:
    """The number of right-hand sides: the leading axis that all arrays share."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(vectors)]
    lengths = {shape[:1] for shape in shapes}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise ValueError(
            "`vectors` must have a leading axis that numbers the right-hand sides (at least one), the same "
            f"for all arrays, but the shapes are {shapes}."
        )
    return lengths.pop()[0]


def _stacked(structure: PyTree, count: int) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), structure)

"""`solve_sequence`: many related systems in one compiled loop, differentiable.

The systems together are one block-diagonal operator, and the sequence is one lineax solver for it:
derivatives of every kind then come from lineax, and adjoint and tangent systems are solved as a sequence as
well, warm starts, recycled subspaces and tuned parameters of their own included.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, PRNGKeyArray, PyTree

from .._reasons import raise_in_words
from .._results import AbstractSolution, Stats, first_failure
from .._upstream import solve_throws
from .._vectors import Vector, norm
from ..linear.base import AbstractIterativeSolver, as_vector
from ..operators.base import AbstractOperator, require_operator
from .base import AbstractTuner
from .steps import Cost, SequenceSolver, SequenceState, Start


class SequenceSolution(AbstractSolution):
    """What `solve_sequence` returns; every leading axis is the systems', in the order in which they were
    given.

    * `value`: the solutions.
    * `result`: the exit reasons, `lx.RESULTS` in an array: `result == lx.RESULTS.successful` is a mask.
    * `stats`: the solver's statistics, an array each.
    * `arms`: indices into the tuner's arms, `(T,)`; zeros without a tuner.
    * `state`: what a further sequence, or `SequenceSolver.step`, can go on from: the tuner's state, the last
      solutions, the recycled subspace.
    """

    value: Vector
    result: lx.RESULTS
    stats: dict[str, Any]
    arms: Array
    state: SequenceState


def solve_sequence(
    make_operator: Callable[[PyTree], lx.AbstractLinearOperator],
    parameters: PyTree,
    vectors: Vector,
    solver: AbstractIterativeSolver | Sequence[AbstractIterativeSolver],
    *,
    tuner: AbstractTuner | None = None,
    tuned: str = "omega",
    cost: Cost = "steps",
    context: ArrayLike | None = None,
    recycle: bool = False,
    y0: Start | None = None,
    order: ArrayLike | None = None,
    key: PRNGKeyArray | None = None,
    state: SequenceState | None = None,
    throw: bool = True,
) -> SequenceSolution:
    """Solves `make_operator(parameters[t]) x_t = vectors[t]` for `t = 0 ... T - 1`, one after the other.

    **Arguments:**

    * `make_operator`: makes one system's operator from its parameters; runs inside the loop, so the operators
      differ in values only (for a `SparseLinearOperator`, in values on one pattern).
    * `parameters`: a pytree of arrays with a leading axis of length `T`.
    * `vectors`: right-hand sides, with the same leading axis.
    * `solver, tuner, tuned, cost, recycle, y0`: see `SequenceSolver`; `cost="seconds"` needs its `step`.
    * `context`: `(T,)`, what a contextual tuner sees of each system.
    * `order`: a permutation in which to solve them, e.g. from `nsolve.sort_systems(parameters)`.
    * `key`: for tuners that draw at random.
    * `state`: go on from an earlier sequence's `state`.
    * `throw`: raise an error where a system is not solved, once all were tried; else look at `result`.  It
      holds for the systems of derivatives as well, whose results nobody sees.  A tuner tries arms that may
      fail: there False is usual.

    **Returns** a `SequenceSolution`.

    Differentiable in `parameters`, `vectors` and whatever `make_operator` closes over, forward and reverse,
    to any order; `vmap` works.  Memory: the stacked solutions; operators are made and dropped one at a time.
    Call it under `jit` to compile it once.

    Khodak, Chow, Balcan and Talwalkar (2024), arXiv:2310.02246, for tuning; Wang et al. (2024),
    arXiv:2401.09516, for sorting and recycling.
    """
    sequence = SequenceSolver(solver, tuner=tuner, tuned=tuned, cost=cost, recycle=recycle, y0=y0)
    if cost == "seconds":
        raise ValueError("`cost='seconds'` cannot be measured in a compiled loop; use `SequenceSolver.step`.")
    count = _count(parameters, vectors)
    if context is not None:
        context = jax.lax.stop_gradient(
            jnp.asarray(context)
        )  # how a system is solved is no part of its solution
        if context.shape[:1] != (count,):
            raise ValueError(
                f"`context` must have one entry for each of the {count} systems, but has shape "
                f"{context.shape}."
            )
    if tuner is not None:
        tuner.check_context(context)
    first = jax.tree.map(lambda leaf: leaf[0], parameters)
    # What the function closes over becomes a leaf, and can be differentiated.
    make_operator = eqx.filter_closure_convert(make_operator, first)
    example = eqx.filter_eval_shape(make_operator, first)
    require_operator(example, "make_operator(parameters[0])")
    structure = example.in_structure()
    if state is None:
        state = sequence.init(example, key)
    operator = _BlockDiagonal(make_operator, parameters, structure, count)
    vectors = as_vector(vectors, operator.in_structure(), "vectors")
    loop = _Loop(
        sequence, jax.lax.stop_gradient(state), context, None if order is None else _permutation(order, count)
    )
    solution = lx.linear_solve(operator, vectors, loop, throw=throw)
    return SequenceSolution(value=solution.value, **solution.stats)


class _BlockDiagonal(AbstractOperator):
    """The operators of a sequence, side by side on the diagonal."""

    make_operator: Callable[[PyTree], lx.AbstractLinearOperator]
    parameters: PyTree
    structure: Any = eqx.field(static=True)
    count: int = eqx.field(static=True)
    transposed: bool = eqx.field(static=True, default=False)
    conjugated: bool = eqx.field(static=True, default=False)
    tags: frozenset[object] = eqx.field(static=True, default=frozenset())

    def block(self, parameters: PyTree) -> lx.AbstractLinearOperator:
        operator = self.make_operator(parameters)
        operator = operator.transpose() if self.transposed else operator
        return lx.conj(operator) if self.conjugated else operator

    def mv(self, vector: Vector) -> Vector:
        return jax.lax.map(lambda pair: self.block(pair[0]).mv(pair[1]), (self.parameters, vector))

    def as_matrix(self) -> Array:
        blocks = jax.lax.map(lambda parameters: self.block(parameters).as_matrix(), self.parameters)
        return jax.scipy.linalg.block_diag(*blocks)

    def transpose(self) -> "_BlockDiagonal":
        return dataclasses.replace(self, transposed=not self.transposed)

    def conj(self) -> "_BlockDiagonal":
        return dataclasses.replace(self, conjugated=not self.conjugated)

    def in_structure(self) -> PyTree:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((self.count, *leaf.shape), leaf.dtype), self.structure
        )

    def out_structure(self) -> PyTree:
        return self.in_structure()


class _Loop(lx.AbstractLinearSolver[_BlockDiagonal]):
    """The sequence as one lineax solver."""

    sequence: SequenceSolver
    begin: SequenceState
    context: Array | None
    order: Array | None

    def init(self, operator: _BlockDiagonal, options: dict[str, Any]) -> _BlockDiagonal:
        del options
        return operator

    def compute(
        self, state: _BlockDiagonal, vector: Vector, options: dict[str, Any]
    ) -> tuple[Vector, lx.RESULTS, dict[str, Any]]:
        del options
        throws = solve_throws()
        systems = (state.parameters, vector, self.context)
        if self.order is not None:
            systems = jax.tree.map(lambda leaf: leaf[self.order], systems)

        def change(solver, system):
            if state.transposed:
                system, _ = solver.transpose(system, {})
            if state.conjugated:
                system, _ = solver.conj(system, {})
            return system

        def step(carry, system):
            parameters, b, context = system
            operator = state.make_operator(parameters)
            value, result, stats, arm, carry = self.sequence.advance(carry, operator, b, context, change)
            return carry, (value, result, stats, arm)

        last, outputs = jax.lax.scan(step, self.begin, systems)
        if self.order is not None:
            inverse = jnp.argsort(self.order)
            outputs = jax.tree.map(lambda leaf: leaf[inverse], outputs)
        value, results, stats, arms = outputs
        first, overall = first_failure(results)
        if throws:
            reached = stats["residual_norm"][first] / norm(jax.tree.map(lambda leaf: leaf[first], vector))
            solvers = " or ".join(type(one).__name__ for one in self.sequence.solvers)
            who = f"solve_sequence: a system was not solved (`throw=False` returns the others). {solvers}"
            code = jax.tree.leaves(stats["reason"])[0][first]
            value = raise_in_words(who, value, code, reached)
        return value, overall, {"result": results, "stats": Stats(stats), "arms": arms, "state": last}

    def transpose(self, state: _BlockDiagonal, options: dict[str, Any]):
        return state.transpose(), options

    def conj(self, state: _BlockDiagonal, options: dict[str, Any]):
        return lx.conj(state), options

    def assume_full_rank(self) -> bool:
        return True


def _count(parameters: PyTree, vectors: Vector) -> int:
    """The number of systems: the leading axis that everything shares."""
    lengths = {}
    for name, tree in (("parameters", parameters), ("vectors", vectors)):
        leaves = jax.tree.leaves(tree)
        if not leaves or any(not eqx.is_array_like(leaf) or jnp.ndim(leaf) == 0 for leaf in leaves):
            raise ValueError(f"`{name}` must be a pytree of arrays whose leading axis numbers the systems.")
        lengths[name] = {jnp.shape(leaf)[0] for leaf in leaves}
    both = lengths["parameters"] | lengths["vectors"]
    if len(both) > 1 or 0 in both:
        raise ValueError(
            f"`parameters` and `vectors` must have one leading axis, the number of systems (at least 1), "
            f"but it is {sorted(lengths['parameters'])} and {sorted(lengths['vectors'])}."
        )
    return both.pop()


def _permutation(order: ArrayLike, count: int) -> Array:
    if not isinstance(order, Tracer) and sorted(np.asarray(order).tolist()) != list(range(count)):
        raise ValueError(
            f"`order` must be a permutation of the systems' indices 0 ... {count - 1}, but is {order!r}."
        )
    return jnp.asarray(order)

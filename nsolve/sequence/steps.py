"""`SequenceSolver`: solves systems one by one, and carries from each to the next what helps."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, PRNGKeyArray, PyTree

from .._results import Stats
from .._upstream import bounded_cache
from .._vectors import Vector, axpy, where, zeros_like
from ..linear._recycled import Recycled
from ..linear.base import AbstractIterativeSolver
from .base import AbstractTuner

Cost = Literal["steps", "products", "seconds"]
Start = Literal["previous", "extrapolate"]


class SequenceState(NamedTuple):
    """What one system hands on to the next."""

    tuner: PyTree
    previous: Vector  # the last solution that was found, zero at first
    before: Vector  # the one before it
    solved: Array  # how many systems were solved
    dearest: Array  # the largest cost among them
    recycled: Recycled | None


class SequenceSolver(eqx.Module):
    """Solves related systems that arrive one by one, each with what the ones before have taught.

        sequence = ns.SequenceSolver(ns.CG(rtol=1e-8, recycle=10), recycle=True, y0="previous")
        state = sequence.init(A0)
        for A, b in simulation:
            solution, state = sequence.step(state, A, b)

    Use it where the systems are not known beforehand, where the cost is wall-clock time, or where the choices
    compile to different programs; otherwise `nsolve.solve_sequence` does the same in one compiled loop.

    * `solver`: an iterative solver; or several, among which the tuner chooses (then `tuned` plays no part).
    * `tuner`: chooses an arm for each system, e.g. `nsolve.TsallisINF(jnp.linspace(1, 1.95, 20))`; with
      several solvers its arms must be as many.
    * `tuned`: the field that the arm's value replaces, a name or a path such as `"preconditioner.omega"`.
    * `cost`: what the tuner is told: `"steps"`, `"products"` or `"seconds"` (in `step` only; compiling does
      not count).  A solve that fails counts as twice the dearest that succeeded so far.
    * `recycle`: hand on the subspace of a solver that recycles (`GCRODR`, `CG(recycle=...)`).
    * `y0`: start from nothing, from the `"previous"` solution, or `"extrapolate"` linearly from the last two.

    A system that cannot be solved is reported in its `result`; it teaches the next ones nothing, but they are
    solved.
    """

    solvers: tuple[AbstractIterativeSolver, ...]
    tuner: AbstractTuner | None
    tuned: str = eqx.field(static=True)
    cost: Cost = eqx.field(static=True)
    recycle: bool = eqx.field(static=True)
    y0: Start | None = eqx.field(static=True)

    def __init__(
        self,
        solver: AbstractIterativeSolver | Sequence[AbstractIterativeSolver],
        *,
        tuner: AbstractTuner | None = None,
        tuned: str = "omega",
        cost: Cost = "steps",
        recycle: bool = False,
        y0: Start | None = None,
    ):
        if isinstance(solver, type):
            raise TypeError(
                f"`solver` is the class `{solver.__name__}`: write `{solver.__name__}(rtol=...)`."
            )
        solvers: tuple[Any, ...] = (solver,) if isinstance(solver, lx.AbstractLinearSolver) else tuple(solver)
        for one in solvers:
            if not isinstance(one, AbstractIterativeSolver):
                raise TypeError(
                    f"`solver` must be one of nsolve's iterative solvers, or several, but is "
                    f"{type(one).__name__}."
                )
            if recycle and not getattr(one, "recycle", 0):
                raise ValueError(
                    f"`recycle=True` needs a solver that recycles, `GCRODR` or `CG(recycle=...)`, not "
                    f"{type(one).__name__} as given."
                )
        if tuner is not None and not isinstance(tuner, AbstractTuner):
            raise TypeError(f"`tuner` must be a tuner such as `nsolve.TsallisINF`, but is {tuner!r}.")
        if len(solvers) > 1 and (tuner is None or tuner.num_arms != len(solvers)):
            arms = "None" if tuner is None else f"one with {tuner.num_arms} arms"
            raise ValueError(f"{len(solvers)} solvers need a `tuner` with as many arms, but it is {arms}.")
        for name, value, allowed in (
            ("cost", cost, get_args(Cost)),
            ("y0", y0, (None, *get_args(Start))),
        ):
            if value not in allowed:
                raise ValueError(f"`{name}` must be one of {allowed}, but is {value!r}.")
        if tuner is not None and len(solvers) == 1:
            _replace(solvers[0], tuned, tuner.arm(0))
        self.solvers = solvers
        self.tuner, self.tuned, self.cost, self.recycle, self.y0 = tuner, tuned, cost, recycle, y0

    def init(self, operator: lx.AbstractLinearOperator, key: PRNGKeyArray | None = None) -> SequenceState:
        """The state before the first system; any operator of the sequence shows the vectors' structure.

        `key` is for tuners that draw at random."""
        structure = operator.in_structure()
        zeros = zeros_like(structure)
        recycled = None
        if self.recycle:
            spaces = [one.nothing_recycled(structure) for one in self.solvers]  # pyright: ignore
            sizes = sorted({space.values.size for space in spaces})
            if len(sizes) > 1:
                raise ValueError(f"All solvers must recycle as many vectors, not {sizes}.")
            recycled = spaces[0]
        tuner = None if self.tuner is None else self.tuner.init(key)
        return SequenceState(tuner, zeros, zeros, jnp.zeros((), jnp.int32), jnp.zeros(()), recycled)

    def step(
        self,
        state: SequenceState,
        operator: lx.AbstractLinearOperator,
        vector: Vector,
        context: ArrayLike | None = None,
    ) -> tuple[lx.Solution, SequenceState]:
        """Solves one system, on the host: chooses, solves, measures, learns.

        Returns an `lx.Solution` whose `stats` also has `arm` and `seconds`, and the state for the next
        system. Programs are compiled once for each structure of operator and choice of solver."""
        arm = self._select(state, context)
        index = int(arm) if len(self.solvers) > 1 else 0
        arrays, static = eqx.partition((self.solvers, self.tuner, state, arm, operator, vector), eqx.is_array)
        program = _compiled(static, index, self.tuned, self.y0, *_shapes(arrays))
        start = time.perf_counter()
        value, result, stats = jax.block_until_ready(program(arrays))
        seconds = time.perf_counter() - start
        state = self._learn(state, arm, value, result, stats, context, jnp.asarray(seconds))
        stats = Stats({**stats, "arm": arm, "seconds": seconds})
        return lx.Solution(value=value, result=result, stats=stats, state=None), state

    def advance(
        self,
        state: SequenceState,
        operator: lx.AbstractLinearOperator,
        vector: Vector,
        context: ArrayLike | None = None,
        change: Callable[..., Any] = lambda solver, system: system,
    ) -> tuple[Vector, lx.RESULTS, dict[str, Any], Array, SequenceState]:
        """The same as a pure function, for compiled loops: value, result, statistics, arm, state.

        `change(solver, system)` may replace the system that the solver has set up, by its transpose say."""
        arm = self._select(state, context)
        branches = [
            functools.partial(self._solve, index, change, state, arm, operator, vector)
            for index in range(len(self.solvers))
        ]
        value, result, stats = branches[0]() if len(branches) == 1 else jax.lax.switch(arm, branches)
        state = self._learn(state, arm, value, result, stats, context, jnp.asarray(jnp.nan))
        return value, result, Stats({k: v for k, v in stats.items() if k != "recycled"}), arm, state

    def _select(self, state: SequenceState, context: ArrayLike | None) -> Array:
        if self.tuner is None:
            return jnp.zeros((), jnp.int32)
        return self.tuner.select(state.tuner, context)

    def _solve(self, index: int, change, state: SequenceState, arm, operator, vector):
        solver = self.solvers[index]
        if self.tuner is not None and len(self.solvers) == 1:
            solver = _replace(solver, self.tuned, self.tuner.arm(arm))
        options: dict[str, Any] = {}
        if self.y0 is not None:
            guess = state.previous
            if self.y0 == "extrapolate":
                line = axpy(2, state.previous, jax.tree.map(jnp.negative, state.before))
                guess = where(state.solved >= 2, line, guess)
            options["y0"] = guess
        if state.recycled is not None:
            options["recycled"] = state.recycled
        system = change(solver, solver.init(operator, {}))
        return solver.compute(system, vector, options)

    def _learn(self, state, arm, value, result, stats, context, seconds) -> SequenceState:
        good = result == lx.RESULTS.successful
        tuner, recycled, dearest = state.tuner, state.recycled, state.dearest
        # A system with NaN in it says nothing about the arm.
        sound = result != lx.RESULTS.nonfinite_input
        if self.tuner is not None:
            costs = {"steps": stats["num_steps"], "products": stats["num_matvecs"], "seconds": seconds}
            cost = costs[self.cost].astype(dearest.dtype)
            dearest = jnp.where(good, jnp.maximum(dearest, cost), dearest)
            failed = jnp.where(dearest > 0, 2 * dearest, jnp.inf)  # a tuner skips what it cannot compare
            tuner = where(sound, self.tuner.update(tuner, arm, jnp.where(good, cost, failed), context), tuner)
        if recycled is not None:
            recycled = where(sound, stats["recycled"], recycled)
        previous, before = where(good, value, state.previous), where(good, state.previous, state.before)
        solved = state.solved + good.astype(state.solved.dtype)
        return SequenceState(tuner, previous, before, solved, dearest, recycled)


def _replace(solver: AbstractIterativeSolver, path: str, value: PyTree) -> AbstractIterativeSolver:
    """The solver with another value in a field, given by its name or path."""

    def find(node):
        for name in path.split("."):
            node = getattr(node, name)
        return node

    try:
        return eqx.tree_at(find, solver, value, is_leaf=lambda x: x is None)
    except AttributeError as error:
        raise ValueError(
            f"`tuned={path!r}` names no field of {solver!r}: {error}. Give a field's name, or a path such as "
            "'preconditioner.omega'."
        ) from None


def _shapes(arrays: PyTree) -> tuple[Any, tuple[Any, ...]]:
    leaves, structure = jax.tree.flatten(arrays)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


@bounded_cache(64)
def _compiled(static, index: int, tuned: str, y0: Start | None, structure, shapes) -> Callable:
    """The solve of one system with one solver, compiled ahead so that its time can be taken."""

    def solve(arrays):
        solvers, tuner, state, arm, operator, vector = eqx.combine(arrays, static)
        sequence = SequenceSolver(
            solvers, tuner=tuner, tuned=tuned, recycle=state.recycled is not None, y0=y0
        )
        return sequence._solve(index, lambda _, system: system, state, arm, operator, vector)

    arrays = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*leaf) for leaf in shapes])
    return jax.jit(solve).lower(arrays).compile()

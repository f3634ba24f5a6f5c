"""Many samples of a family, drawn and solved: sorted, cut into chains, one chain for each device.

A sample is drawn in a loop, not in a batch, so that its numbers depend on the seed and on its own number
alone, bit for bit.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
import scipy.sparse as sp
from jax.extend.core import jaxpr_as_fun
from jax.sharding import AxisType, PartitionSpec

from nsolve._results import RESULTS, result_code
from nsolve.gallery.families import AbstractFamily, Parameter
from nsolve.linear.base import AbstractIterativeSolver
from nsolve.sequence import solve_sequence, sort_systems

FORMS = ("sparse", "stencil")
ORDERS = ("greedy", "grouped", "none")
#: Exit reasons: the solvers', and what only the recomputed residual tells.
REASONS = (*RESULTS, "residual_too_large")
#: Rounding in `||b - A x||` itself: the slack with which "meets the tolerance" is judged.
RESIDUAL_SLACK = 1e-6


class Samples(NamedTuple):
    """Solved samples, one for each entry of the leading axis, as NumPy arrays."""

    keys: np.ndarray  # (n, 2): the random keys
    parameters: dict[str, np.ndarray]
    inputs: np.ndarray  # (n, channels, *grid)
    solutions: np.ndarray  # (n, *grid)
    true_residuals: np.ndarray  # (n,): ||b - A x|| / ||b||, the largest of a sample's solves
    num_steps: np.ndarray  # (n,): summed over a sample's solves
    results: np.ndarray  # (n,): numbers of REASONS


class Chains:
    """Draws and solves samples of one family with one solver.

    * `solver`: with its tolerance, its steps and, where it has one, a preconditioner: an operator on vectors
      of the form, or a constructor such as `ns.preconditioners.Multigrid()`.
    * `form`: `"stencil"` for vectors of the grid's shape, `"sparse"` for flat ones.
    * `order`: how samples are sorted into chains, one of `ORDERS`.
    * `recycle`: hand what the solver recycles on along each chain.
    * `refresh`: whether each system gets a preconditioner of its own; otherwise one, made of the family's
      reference, serves all, at a few iterations more and without its set-up for each.

    ValueError for what is unknown.  All devices that JAX sees work, each on a chain of its own.
    """

    def __init__(
        self,
        family: AbstractFamily,
        solver: AbstractIterativeSolver,
        form: str = "stencil",
        order: str = "greedy",
        recycle: bool = False,
        refresh: bool = False,
    ):
        for name, value, known in (("form", form, FORMS), ("order", order, ORDERS)):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, not {value!r}.")
        self.family, self.rtol, self.order = family, float(solver.rtol), order
        self._on_grid, self._recycle = form == "stencil", recycle
        made = solver.preconditioner
        if callable(made) and not refresh:
            reference = family.reference()
            made = made(reference if self._on_grid else family.as_sparse(reference))
            solver = dataclasses.replace(solver, preconditioner=made)
        self._arrays, self._static = eqx.partition(solver, eqx.is_array)
        self._mesh = jax.make_mesh((jax.device_count(),), ("chain",), (AxisType.Auto,))
        self._prepare = jax.jit(partial(jax.lax.map, self._prepare_one))
        self._vectors = jax.jit(partial(jax.lax.map, lambda given: family.vector(*given)))
        self._chains = jax.jit(self._solve_chains)
        self._pattern = eqx.filter_eval_shape(
            lambda key: family.operator(family.sample(key)), jax.random.key(0)
        ).pattern

    @property
    def num_devices(self) -> int:
        return self._mesh.size

    def check(self) -> None:
        """Raises ValueError or TypeError where the solver does not suit the family; computes nothing."""
        keys = jax.random.split(jax.random.key(0), self.num_devices)
        parameters, *_ = jax.eval_shape(self._prepare, keys)
        vectors = jax.eval_shape(self._vectors, (parameters,))
        jax.eval_shape(self._chains, self._arrays, parameters, vectors)

    def draw_and_solve(self, seed: int, start: int, count: int) -> Samples:
        """`count` samples from number `start` on."""
        # Chains are of one length: the last ones are filled with samples that nobody asked for.
        numbers = np.arange(start, start + -(-count // self.num_devices) * self.num_devices)
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(numbers)
        parameters, inputs, features, matrices = jax.tree.map(np.asarray, self._prepare(keys))
        order = np.arange(len(numbers))
        if self.order != "none":
            features = np.where(np.isfinite(features), features, 0)  # a broken sample is reported later
            order = sort_systems(features, self.order)  # pyright: ignore[reportArgumentType]
        solved = self._solve({name: values[order] for name, values in parameters.items()}, matrices[order])
        back = np.argsort(order)
        every = Samples(np.asarray(jax.random.key_data(keys)), parameters, inputs, *(a[back] for a in solved))
        return jax.tree.map(lambda array: array[:count], every)

    def _prepare_one(self, key: jax.Array) -> Any:
        """A sample's parameter, input, features, and matrix entries."""
        family, parameter = self.family, self.family.sample(key)
        entries = family.operator(parameter).values
        return parameter, family.input_field(parameter), family.features(parameter), entries

    def _solve(self, parameters: dict[str, np.ndarray], matrices: np.ndarray) -> tuple[np.ndarray, ...]:
        """Solutions on the grid, true residuals, steps and exit reasons."""
        x = fields = None
        worst, total, reasons = np.zeros(len(matrices)), np.zeros(len(matrices), int), 0
        for _ in range(self.family.num_solves):
            vectors = np.asarray(self._vectors((parameters,) if x is None else (parameters, x)))
            x, fields, steps, result = map(np.asarray, self._chains(self._arrays, parameters, vectors))
            residuals = self._true_residuals(matrices, vectors, x)
            missed = ~(residuals <= self.rtol * (1 + RESIDUAL_SLACK))
            result = np.where((result == 0) & missed, len(REASONS) - 1, result)
            worst, total = np.maximum(worst, residuals), total + steps
            reasons = np.where(reasons == 0, result, reasons)  # the first that went wrong
        return np.asarray(fields), worst, total, np.asarray(reasons)

    def _solve_chains(self, *given: Any) -> Any:
        """`_solve_chain` on every device at once, each with its part of the systems."""
        replicated, split = PartitionSpec(), PartitionSpec("chain")
        arrays, *systems = given
        one_chain = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((len(x) // self.num_devices, *x.shape[1:]), x.dtype), systems
        )
        # Traced beforehand: inside of `shard_map` arrays know their mesh, and lineax finds that operators,
        # which do not, have another structure than their vectors.
        program, structure = jax.make_jaxpr(self._solve_chain, return_shape=True)(arrays, *one_chain)

        def run(*given):
            return jax.tree.unflatten(
                jax.tree.structure(structure), jaxpr_as_fun(program)(*jax.tree.leaves(given))
            )

        return jax.shard_map(
            run,
            mesh=self._mesh,
            in_specs=(replicated, split, split),
            out_specs=split,
            check_vma=False,  # chains do not talk to each other
        )(*given)

    def _solve_chain(self, arrays: Any, parameters: Parameter, vectors: jax.Array) -> Any:
        family, solver = self.family, eqx.combine(arrays, self._static)
        if self._on_grid:
            vectors = jax.vmap(family.solution_field)(parameters, vectors)
        make = family.stencil if self._on_grid else family.operator
        sequence = solve_sequence(make, parameters, vectors, solver, recycle=self._recycle, throw=False)
        x = jax.vmap(family.flatten)(sequence.value) if self._on_grid else sequence.value
        fields = jax.vmap(family.solution_field)(parameters, x)
        return x, fields, sequence.stats["num_steps"], result_code(sequence.result)

    def _true_residuals(self, matrices: np.ndarray, vectors: np.ndarray, x: np.ndarray) -> np.ndarray:
        """`||b - A x|| / ||b||` by SciPy in double precision, and infinite for what is not finite."""
        indices, indptr, shape = self._pattern.indices, self._pattern.indptr, self._pattern.shape
        found = []
        for values, b, solution in zip(matrices, vectors, x, strict=True):
            residual = b - sp.csr_array((values, indices, indptr), shape=shape) @ solution
            found.append(np.linalg.norm(residual) / (np.linalg.norm(b) or 1.0))
        return np.where(np.isfinite(found), found, np.inf)

"""What the direct solvers share: lineax's protocol, and their use as preconditioners.

A concrete solver gives its fields and says which operators it admits.
"""

import abc
import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .._reasons import CODES, as_reason, as_result, raise_in_words
from .._results import Stats
from .._upstream import solve_throws
from .._vectors import Vector
from ..linear.base import as_vector, check_options
from ..operators.base import is_positive_semidefinite, require_operator
from ..operators.convert import entries_of
from ..operators.pattern import SparsityPattern, per_pattern
from ..operators.sparse import SparseLinearOperator
from ..preconditioners.base import (
    AbstractApproximateInverse,
    AbstractPreconditioner,
    array_structure,
    constant,
)
from .factors import HIERARCHIES, INCOMPLETE, Recipe, Side
from .matching import deficiency
from .memory import physical_memory
from .ordering import Fill, minimum_degree, predicted_fill
from .structure import Structure, structure_of

#: Factors of so few unknowns fit anywhere.
_NEVER_LARGE = 5000
_TRANSPOSED: dict[Side, Side] = {"N": "T", "T": "N", "C": "H", "H": "C"}
_CONJUGATED: dict[Side, Side] = {"N": "C", "C": "N", "T": "H", "H": "T"}


class Origin(NamedTuple):
    """The matrix whose hierarchy has the patterns, and that one's key."""

    values: Array
    key: Array


class Factorisation(eqx.Module):
    """A direct solver's state: the matrix, and the key to its factors, which the host remembers.

    Behind the matrix's entries, `values` may hold vectors that the recipe wants; of a hierarchy that can be
    refreshed, `origin` says on which patterns it is.
    The factors are shared by all states of equal matrices.  Those that were used last are kept, up to an
    eighth of the machine's memory; a state whose factors are gone makes them anew.
    """

    values: Array
    indptr: Array
    indices: Array
    key: Array
    measures: Array
    counts: Array
    recipe: Recipe = eqx.field(static=True)
    side: Side = eqx.field(static=True)
    pattern: SparsityPattern = eqx.field(static=True)
    structure: PyTree[jax.ShapeDtypeStruct] = eqx.field(static=True)
    origin: Origin | None = None

    @property
    def reciprocal_condition(self) -> Array:
        """Of the scaled matrix in the 1-norm, estimated."""
        return self.measures[0]

    @property
    def num_entries(self) -> Array:
        """Entries of both factors."""
        return self.counts[1]

    def transpose(self) -> "Factorisation":
        return dataclasses.replace(self, side=_TRANSPOSED[self.side])

    def conj(self) -> "Factorisation":
        if not jnp.iscomplexobj(self.values):
            return self
        return dataclasses.replace(self, side=_CONJUGATED[self.side])

    def solve(self, b: Array, rtol: Any, atol: Any = 0.0) -> tuple[Array, Array, Array]:
        """For one flat vector: solution; residual norm, backward error, relative residual; reason, steps."""
        from ..kernels import factors

        # In double precision where there is one: float32 would round a tolerance.
        tolerances = jnp.stack([jnp.asarray(x, jnp.result_type(float)) for x in (rtol, atol)])
        return factors.solve(self.recipe, self.side, *self.arrays, self.key, tolerances, b)

    @property
    def arrays(self) -> tuple[Array, Array, Array, Array]:
        """What the host needs where it has forgotten the factors."""
        origin = self.values[:0] if self.origin is None else self.origin.values
        return self.indptr, self.indices, self.values, origin

    def refresh(self, values: Array) -> "Factorisation":
        """Of a hierarchy with an origin: that of other entries, on its patterns where they fit."""
        from ..kernels import factors

        assert self.origin is not None
        first = jax.lax.stop_gradient(self.origin)
        measures, counts, key, fits = factors.refresh(
            self.recipe, self.indptr, self.indices, values, first.key, first.values
        )
        fresh = Origin(values, key)
        if isinstance(fits, Tracer):
            origin = jax.tree.map(lambda old, new: jnp.where(fits, old, new), first, fresh)
        else:
            origin = first if fits else fresh
        return dataclasses.replace(
            self, values=values, key=key, measures=measures, counts=counts, origin=origin
        )


class AbstractDirectSolver(lx.AbstractLinearSolver[Factorisation], AbstractPreconditioner):
    """Base of the direct solvers: see `SparseLU`."""

    rtol: eqx.AbstractVar[Any]
    atol: eqx.AbstractVar[Any]

    recipe: eqx.AbstractClassVar[Recipe]
    known_options: ClassVar[tuple[str, ...]] = ()

    def __check_init__(self):
        for field in ("rtol", "atol"):
            value = getattr(self, field)
            if isinstance(value, int | float) and not 0 <= value < math.inf:
                none = "None, or " if field == "rtol" else ""
                raise ValueError(
                    f"`{type(self).__name__}({field}=...)` must be {none}finite and not negative, but is "
                    f"{value}."
                )

    @abc.abstractmethod
    def check(self, operator: lx.AbstractLinearOperator) -> None:
        """Raises where the factorisation does not apply to the (square) operator."""

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> Factorisation:
        name = type(self).__name__
        check_options(self, options)
        require_operator(operator, "operator")
        structure = operator.in_structure()
        if not eqx.tree_equal(structure, operator.out_structure()):
            raise ValueError(
                f"`{name}` solves square systems, but the operator maps {structure} to "
                f"{operator.out_structure()}. For least squares use `LSMR`."
            )
        self.check(operator)
        matrix = entries_of(constant(operator), name)
        return factorised(self.recipe, name, matrix.pattern, matrix.values, structure)

    def compute(
        self, state: Factorisation, vector: Vector, options: dict[str, Any]
    ) -> tuple[Vector, lx.RESULTS, dict[str, Any]]:
        name = type(self).__name__
        check_options(self, options)
        flat, unravel = ravel_pytree(as_vector(vector, state.structure, "vector"))
        value, measures, counts = state.solve(flat, -1.0 if self.rtol is None else self.rtol, self.atol)
        code, value = counts[0], unravel(value)
        if solve_throws():
            value = raise_in_words(name, value, code, measures[2])
        stats = {
            "num_steps": counts[1],
            "residual_norm": measures[0],
            "backward_error": measures[1],
            "reciprocal_condition": state.reciprocal_condition,
            "num_factor_entries": state.num_entries,
            "reason": as_reason(code),
        }
        return value, as_result(code), Stats(stats)

    def transpose(
        self, state: Factorisation, options: dict[str, Any]
    ) -> tuple[Factorisation, dict[str, Any]]:
        return state.transpose(), {}

    def conj(self, state: Factorisation, options: dict[str, Any]) -> tuple[Factorisation, dict[str, Any]]:
        return state.conj(), {}

    def assume_full_rank(self) -> bool:
        return True

    def build(self, operator: lx.AbstractLinearOperator) -> "DirectInverse":
        structure = array_structure(operator, type(self).__name__)
        state = self.init(operator, {})
        definite = (
            frozenset([lx.positive_semidefinite_tag]) if is_positive_semidefinite(operator) else frozenset()
        )
        return DirectInverse(state, self, structure, definite)


class DirectInverse(AbstractApproximateInverse):
    """`A^-1`, or nearly, by a factorisation, as a preconditioner: one pair of triangular solves.

    A matrix that is singular gives NaN, and the solve reports it."""

    state: Factorisation
    constructor: AbstractPreconditioner
    structure: jax.ShapeDtypeStruct = eqx.field(static=True)
    tags: frozenset[object] = eqx.field(static=True)

    def mv(self, vector: Array) -> Array:
        state = self.state
        matrix = SparseLinearOperator(state.values[: state.pattern.nnz], state.pattern)
        product = {"N": matrix, "T": matrix.T, "C": lx.conj(matrix), "H": lx.conj(matrix).T}[state.side]

        def solve(state: Factorisation, b: Array) -> Array:
            value, _, counts = state.solve(b, jnp.inf)
            return jnp.where(counts[0] == CODES["converged"], value, jnp.nan)

        flat = jax.lax.custom_linear_solve(
            product.mv,
            vector.reshape(-1).astype(state.values.dtype),
            solve=lambda _, b: solve(state, b),
            transpose_solve=lambda _, b: solve(state.transpose(), b),
        )
        return flat.reshape(vector.shape)

    def refresh(self, operator: lx.AbstractLinearOperator) -> "DirectInverse":
        return self.constructor.build(constant(operator))

    def transpose(self) -> "DirectInverse":
        return dataclasses.replace(self, state=self.state.transpose())

    def conj(self) -> "DirectInverse":
        return dataclasses.replace(self, state=self.state.conj())

    def __repr__(self) -> str:
        entries = self.state.num_entries
        known = "" if isinstance(entries, Tracer) else f"; factors with {int(entries)} entries"
        if known and self.state.recipe.kind in INCOMPLETE and self.state.measures[0] > 0:
            known += f"; shift {float(self.state.measures[0]):.3g}"
        return f"{type(self.constructor).__name__} preconditioner ({self.in_size()} unknowns{known})"


def factorised(
    recipe: Recipe, name: str, pattern: SparsityPattern, values: Array, structure: PyTree
) -> Factorisation:
    """The state of a solver or preconditioner `name` for the matrix with these values, behind which there may
    be vectors."""
    from ..kernels import factors

    if pattern.indptr.dtype != np.int32:
        raise ValueError(f"`{name}` can number at most 2^31 - 2 entries, but the matrix has {pattern.nnz}.")
    # What hierarchies are made of has a diagonal.
    deficient = "" if recipe.kind in HIERARCHIES else structural_deficiency(pattern)
    if deficient:
        raise ValueError(f"`{name}`: the matrix is singular whatever the values of its entries: {deficient}.")
    if pattern.shape[0] > _NEVER_LARGE and recipe.kind not in INCOMPLETE + HIERARCHIES:
        size, memory = factor_cost(pattern)[0], physical_memory()
        if size > memory:
            raise ValueError(
                f"`{name}`: the factors would take about {size / 2**30:.3g} GiB, and this machine has "
                f"{memory / 2**30:.3g} GiB. Use an iterative solver: `nsolve.auto(A)` chooses one."
            )
    indptr, indices = jnp.asarray(pattern.indptr), jnp.asarray(pattern.indices)
    measures, counts, key = factors.factorise(recipe, indptr, indices, values)
    origin = Origin(values, key) if recipe.kind == "ruge_stuben" else None
    return Factorisation(
        values, indptr, indices, key, measures, counts, recipe, "N", pattern, structure, origin
    )


@per_pattern
def structural_deficiency(pattern: SparsityPattern) -> str:
    """The rows and columns that make any matrix with this pattern singular, in words; else nothing."""
    return str(deficiency(_ones(pattern))) if _structure(pattern).is_singular else ""


@per_pattern
def factor_fill(pattern: SparsityPattern) -> Fill:
    """Entries of each factor of `SparseLU`, and operations, as they are predicted.

    Pivots of patterns that are far from symmetric are not looked for on the diagonal; then the factors are
    part of those of `A^T A`, whatever the pivots are (George and Ng 1985, doi:10.1137/0906059)."""
    n, structure = pattern.shape[0], _structure(pattern)
    if structure.is_dense:
        return Fill(n * n, n**3 / 3)
    graph: Any = pattern
    if not structure.is_nearly_symmetric:
        sparse = _ones(pattern)[pattern.row_lengths <= 10 * np.sqrt(n) + 16].astype(np.float32)
        graph = (sparse.T @ sparse).tocsr()
    return predicted_fill(graph, minimum_degree(graph))


def factor_cost(pattern: SparsityPattern) -> tuple[float, float]:
    """Bytes and seconds that factors are predicted to take, at the speed of SuperLU, or of LAPACK, on two
    cores."""
    entries, flops = factor_fill(pattern)
    if _structure(pattern).is_dense:
        return 16.0 * entries, 3e-10 * flops
    return 40.0 * entries, 4e-10 * flops + 1.2e-7 * entries


@per_pattern
def _structure(pattern: SparsityPattern) -> Structure:
    return structure_of(pattern.indptr, pattern.indices)


def _ones(pattern: SparsityPattern) -> Any:
    import scipy.sparse as sp  # slow to import

    return sp.csr_array((np.ones(pattern.nnz, np.int8), pattern.indices, pattern.indptr), shape=pattern.shape)

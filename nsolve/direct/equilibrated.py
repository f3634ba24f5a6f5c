"""A solver of systems whose rows and columns are in different units."""

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree

from .._reasons import CODES, as_reason, as_result, raise_in_words
from .._results import Stats
from .._stopping import norm_of_any_size
from .._upstream import solve_throws
from .._vectors import all_finite, real_dtype, safe_divide, take
from ..linear.base import AbstractIterativeSolver, as_vector, check_options
from ..operators import SparseLinearOperator
from ..operators.base import hermitian_tag, require_operator, tags_of
from ..operators.convert import entries_of
from ..operators.pattern import SparsityPattern, per_pattern
from ..preconditioners.base import constant
from .base import AbstractDirectSolver
from .matching import maximum_product

#: Scaling steps; solves of one system at most; what is left of the residual by a solve that gains.
_RUIZ_STEPS, _MOST_ROUNDS, _LEAST_PROGRESS = 10, 10, 0.5
_COUNTS = ("num_steps", "num_matvecs", "num_preconditioner_applications")


class EquilibratedSystem(eqx.Module):
    """A state of `Equilibrated`: `A = diag(1 / left) P^T B Q^T diag(1 / right)`.

    `left_order` and `right_order` are the permutations, None for none: `B y = (left * b)[left_order]`,
    `x = right * y[right_order]`.
    """

    operator: SparseLinearOperator
    inner: PyTree
    left: Array
    right: Array
    left_order: Array | None
    right_order: Array | None

    def into(self, b: Array) -> Array:
        """A right-hand side of `B`."""
        b = scale_by(self.left, b)
        return b if self.left_order is None else take(b, self.left_order)

    def out_of(self, y: Array) -> Array:
        """A solution of the user's system."""
        y = y if self.right_order is None else take(y, self.right_order)
        return scale_by(self.right, y)

    def transpose(self, inner: PyTree) -> "EquilibratedSystem":
        orders = [None if x is None else jnp.argsort(x) for x in (self.right_order, self.left_order)]
        return EquilibratedSystem(self.operator.T, inner, self.right, self.left, *orders)


class _Round(NamedTuple):
    x: Array
    r: Array
    residual_norm: Array
    code: Array
    counts: tuple[Array, ...]
    num_rounds: Array
    running: Array


class Equilibrated(lx.AbstractLinearSolver[EquilibratedSystem]):
    """Scales rows and columns, and moves large entries to the diagonal, before a solver sees the system.

        solver = ns.Equilibrated(ns.GMRES(rtol=1e-8, preconditioner=ns.preconditioners.IncompleteLU()))

    For systems whose rows and columns are in different units (chemical plants, circuits, coupled physics) or
    have zeros on the diagonal, on which incomplete factorisations and Krylov methods fail as they stand.

    * `solver`: a linear solver of this package, with the preconditioner that it is to have for the scaled
      matrix.
    * `matching`: whether rows are permuted by `nsolve.direct.maximum_product`.  `"auto"`: where the diagonal
      has zeros.  That compares values, so it needs a state made of concrete ones,
      `state = solver.init(A, {})`, to be passed as `state=`.  Where values are traced (within
      `lx.linear_solve` itself they always are) `"auto"` permutes by the pattern alone, and True raises.
    * `symmetric`: one factor for a row and its column, and no permutation, by which tags stay true.  None:
      where the operator is tagged symmetric, Hermitian or definite.

    Factors are powers of two, so that scaling rounds nothing: by Ruiz's iteration, which is compiled, or
    those that the matching brings.

    Sparse operators, and whatever `nsolve.as_sparse` makes one of flat vectors; float32 to complex128.
    Derivatives are exact.

    **Stopping rule.** The user's own: `||b - A x||_2 <= max(rtol ||b||_2, atol)`, with the inner solver's
    `rtol` and `atol`, of the unscaled system.  While the residual misses it, the inner solver is asked for a
    correction, for up to ten rounds of at most its `max_steps`, as long as each halves the residual.
    (`SparseLU` and `SparseCholesky` without `rtol` are asked once, and their own word is taken.)  A solve
    that fails returns the best it met and the inner solver's reason, or `REASONS.precision` where that one
    succeeded throughout.

    **Cost:** ten passes over the entries in `init`; a solve of the inner solver and a product each round.
    **Options:** `y0`.  **Statistics:** `num_steps`, `num_matvecs` and `num_preconditioner_applications` of
    all rounds, `num_rounds`, `residual_norm` (of the user's system), `reason`.

    Ruiz (2001), RAL-TR-2001-034; Duff and Koster (2001), doi:10.1137/S0895479899358443; Benzi, Haws and Tuma
    (2000), doi:10.1137/S1064827599361308.
    """

    solver: Any
    matching: bool | Literal["auto"] = "auto"
    symmetric: bool | None = None

    known_options: ClassVar[tuple[str, ...]] = ("y0",)

    def __check_init__(self):
        if not isinstance(self.solver, AbstractIterativeSolver | AbstractDirectSolver):
            raise TypeError(
                "`Equilibrated(solver=...)` must be a linear solver of this package, such as `GMRES` or "
                f"`SparseLU`, but is {self.solver!r}."
            )
        if self.matching not in (True, False, "auto"):
            raise ValueError(
                f'`Equilibrated(matching=...)` must be True, False or "auto", but is {self.matching!r}.'
            )
        if self.matching is True and self.symmetric:
            raise ValueError(
                "`Equilibrated(matching=True, symmetric=True)`: a row permutation does not keep symmetry. "
                "Leave one of them out."
            )
        if getattr(self.solver, "history", False):
            raise ValueError(
                "`Equilibrated` keeps no history: the inner residuals are those of the scaled system. Leave "
                "`history=True` out."
            )

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> EquilibratedSystem:
        check_options(self, options)
        require_operator(operator, "operator")
        structure = operator.in_structure()
        if structure != operator.out_structure():
            raise ValueError(
                f"`Equilibrated` solves square systems, but the operator maps {structure} to "
                f"{operator.out_structure()}. For least squares use `LSMR`."
            )
        if not isinstance(structure, jax.ShapeDtypeStruct) or len(structure.shape) != 1:
            raise ValueError(
                f"`Equilibrated` takes operators on flat vectors, but this one acts on {structure}. "
                "`nsolve.as_sparse` makes it one."
            )
        tags = tags_of(operator)
        matrix = entries_of(constant(operator), "Equilibrated")
        symmetric = self.symmetric
        if symmetric is None:
            symmetric = self.matching is not True and bool(tags & {lx.symmetric_tag, hermitian_tag})
        pattern, values = matrix.pattern, matrix.values
        rows, exponents = (None, None) if symmetric or self.matching is False else self._pivots(matrix)
        exponents = _limited(values, *(exponents or _ruiz(pattern, values, symmetric)))
        values = _scaled(pattern, values, *exponents)
        left, right = (_power_of_two(x, values) for x in exponents)
        if rows is None:
            scaled, orders = SparseLinearOperator(values, pattern, tags if symmetric else ()), (None, None)
        else:
            permuted, gather = with_rows(pattern, rows)
            scaled = SparseLinearOperator(take(values, gather), permuted)
            orders = jnp.asarray(rows), jnp.arange(rows.size)
        return EquilibratedSystem(matrix, self.solver.init(scaled, {}), left, right, *orders)

    def _pivots(self, matrix: SparseLinearOperator) -> tuple[np.ndarray | None, tuple[Array, Array] | None]:
        """The row that goes to each place, None for no change; exponents of factors, where values say."""
        pattern, values = matrix.pattern, matrix.values
        if isinstance(values, Tracer):
            if self.matching is True:
                raise ValueError(
                    "`Equilibrated(matching=True)` compares values, which are traced here. Make the state "
                    "outside of `jit`, `state = solver.init(A, {})`, and pass it: `lx.linear_solve(A, b, "
                    'solver, state=state)`. Or use `matching="auto"`, which then goes by the pattern.'
                )
            full = np.all(pattern.diagonal_positions < pattern.nnz)
            return (None if full else np.asarray(_structural_pivots(pattern))), None
        if self.matching == "auto" and np.all(np.asarray(matrix.diagonal()) != 0):
            return None, None
        found = maximum_product(matrix.as_scipy())
        return found.rows, (jnp.asarray(np.log2(found.row_scale)), jnp.asarray(np.log2(found.column_scale)))

    def compute(
        self, state: EquilibratedSystem, vector: Array, options: dict[str, Any]
    ) -> tuple[Array, lx.RESULTS, dict[str, Any]]:
        check_options(self, options)
        structure = state.operator.in_structure()
        vector = as_vector(vector, structure, "vector")
        y0 = options.get("y0")
        start = jnp.zeros_like(vector) if y0 is None else as_vector(y0, structure, "options['y0']")
        value, code, residual_norm, stats = _solve(self, state, vector, start)
        if solve_throws():
            relative = safe_divide(residual_norm, norm_of_any_size(vector))
            value = raise_in_words(f"Equilibrated {type(self.solver).__name__}", value, code, relative)
        stats = {**stats, "residual_norm": residual_norm, "reason": as_reason(code)}
        return value, as_result(code), Stats(stats)

    def transpose(
        self, state: EquilibratedSystem, options: dict[str, Any]
    ) -> tuple[EquilibratedSystem, dict[str, Any]]:
        return state.transpose(self.solver.transpose(state.inner, {})[0]), {}

    def conj(
        self, state: EquilibratedSystem, options: dict[str, Any]
    ) -> tuple[EquilibratedSystem, dict[str, Any]]:
        inner = self.solver.conj(state.inner, {})[0]
        return dataclasses.replace(state, operator=lx.conj(state.operator), inner=inner), {}

    def assume_full_rank(self) -> bool:
        return True


@eqx.filter_jit
def _solve(
    solver: Equilibrated, state: EquilibratedSystem, b: Array, start: Array
) -> tuple[Array, Array, Array, dict[str, Array]]:
    """One trace for the many times that lineax asks for the same solve while it is differentiated."""
    inner = solver.solver
    rtol = getattr(inner, "rtol", None)
    once, real = rtol is None, real_dtype(b)
    rtol = jnp.asarray(0 if rtol is None else rtol, real)
    target = jnp.maximum(rtol * norm_of_any_size(b), jnp.asarray(getattr(inner, "atol", 0.0), real))

    def met(residual_norm: Array) -> Array:
        return jnp.isfinite(residual_norm) & (residual_norm <= target)  # the target itself may be infinite

    def again(round: _Round) -> _Round:
        asked = inner
        if not once:  # the first solve by the user's tolerance, corrections by what is missing
            missing = jnp.clip(0.1 * target / round.residual_norm, rtol, 0.1)
            wanted = jnp.where(round.num_rounds == 0, rtol, missing)
            asked = eqx.tree_at(lambda inner: inner.rtol, inner, wanted, is_leaf=lambda x: x is None)
        y, _, stats = asked.compute(state.inner, state.into(round.r), {})
        x = round.x + state.out_of(y)
        r = b - state.operator.mv(x)
        residual_norm = norm_of_any_size(r)
        code = jax.tree.leaves(stats["reason"])[0]
        succeeded = code == CODES["converged"]
        if not once:
            code = jnp.where(succeeded, CODES["precision"], code)
            code = jnp.where(met(residual_norm), CODES["converged"], code)
        gained = residual_norm <= _LEAST_PROGRESS * round.residual_norm
        better = residual_norm < round.residual_norm if not once else succeeded
        x, r = (jnp.where(better, new, old) for new, old in ((x, round.x), (r, round.r)))
        counts = [
            count + jnp.asarray(stats.get(name, 0), jnp.int32)
            for name, count in zip(_COUNTS, round.counts, strict=True)
        ]
        counts[1] += 1
        num_rounds = round.num_rounds + 1
        running = gained & (num_rounds < _MOST_ROUNDS) & (not once)
        running &= (code != CODES["converged"]) & (code != CODES["max_steps"])
        best_norm = jnp.where(better, residual_norm, round.residual_norm)
        return _Round(x, r, best_norm, code, tuple(counts), num_rounds, running)

    zero = jnp.zeros((), jnp.int32)
    r = b - state.operator.mv(start)
    dropped = ~(norm_of_any_size(r) <= norm_of_any_size(b))  # a start worse than none
    x, r = jnp.where(dropped, 0, start), jnp.where(dropped, b, r)
    converged = jnp.full_like(zero, CODES["converged"])
    begin = _Round(x, r, norm_of_any_size(r), converged, (zero,) * 3, zero, once | ~met(norm_of_any_size(r)))
    done = jax.lax.while_loop(lambda round: round.running, again, begin)
    counts = dict(zip(_COUNTS, done.counts, strict=True))
    code = jnp.where(all_finite(start), done.code, CODES["nonfinite_start"])
    return done.x, code, done.residual_norm, {**counts, "num_rounds": done.num_rounds}


def scale_by(factors: Array, x: Array) -> Array:
    return factors.astype(x.dtype) * x


def _power_of_two(exponents: Array, like: Array) -> Array:
    """Exact, in the real precision of an array."""
    return jnp.ldexp(jnp.ones(exponents.shape, real_dtype(like)), exponents)


def _ruiz(pattern: SparsityPattern, values: Array, symmetric: bool) -> tuple[Array, Array]:
    """Binary logarithms of factors of rows and columns; what is not finite is left alone."""
    rows, columns = jnp.asarray(pattern.rows), jnp.asarray(pattern.indices)
    parts = (values.real, values.imag) if jnp.iscomplexobj(values) else (values,)
    size = jnp.log2(jnp.max(jnp.abs(jnp.stack(parts)), axis=0))

    def largest(size: Array, where: Array, number: int) -> Array:
        found = jax.ops.segment_max(size, where, number)
        return jnp.where(jnp.isfinite(found), found, 0)

    def step(_: Any, factors: tuple[Array, Array]) -> tuple[Array, Array]:
        scaled = size + factors[0][rows] + factors[1][columns]
        of_rows, of_columns = (
            largest(scaled, rows, pattern.shape[0]),
            largest(scaled, columns, pattern.shape[1]),
        )
        if symmetric:
            of_rows = of_columns = jnp.maximum(of_rows, of_columns)
        return factors[0] - of_rows / 2, factors[1] - of_columns / 2

    none = tuple(jnp.zeros(number, size.dtype) for number in pattern.shape)
    factors = jax.lax.fori_loop(0, _RUIZ_STEPS, step, none)
    return factors[0], factors[1]


def _limited(values: Array, *exponents: Array) -> list[Array]:
    """Integers, of which neither the power of two nor its inverse leaves the range of the values."""
    limit = -jnp.finfo(values.dtype).minexp
    return [jnp.clip(jnp.round(x), -limit, limit).astype(jnp.int32) for x in exponents]


def _scaled(pattern: SparsityPattern, values: Array, rows: Array, columns: Array) -> Array:
    """In two halves, between the value and the result, so that nothing overflows on the way."""
    exponents = rows[jnp.asarray(pattern.rows)] + columns[jnp.asarray(pattern.indices)]
    half = exponents // 2
    return scale_by(_power_of_two(exponents - half, values), scale_by(_power_of_two(half, values), values))


def with_rows(pattern: SparsityPattern, rows: np.ndarray) -> tuple[SparsityPattern, np.ndarray]:
    """The pattern of `A[rows]`, and where its values stand among those of `A`."""
    lengths = pattern.row_lengths[rows].astype(np.int64)
    ends = np.cumsum(lengths)
    gather = np.arange(pattern.nnz) + np.repeat(pattern.indptr[:-1][rows] - (ends - lengths), lengths)
    indptr = np.concatenate([[0], ends])
    return SparsityPattern(indptr, pattern.indices[gather], pattern.shape), gather.astype(np.int32)


@per_pattern
def _structural_pivots(pattern: SparsityPattern) -> tuple[int, ...]:
    """Rows with entries on the diagonal where they go, most of them where they stand."""
    import scipy.sparse as sp  # slow to import

    entries = np.where(pattern.rows == pattern.indices, 2.0, 1.0)
    matrix = sp.csr_array((entries, pattern.indices, pattern.indptr), shape=pattern.shape)
    return tuple(maximum_product(matrix).rows.tolist())

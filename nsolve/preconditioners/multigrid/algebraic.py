"""Algebraic multigrid: a hierarchy and a cycle that XLA compiles nothing for."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from ..._extras import needed
from ...operators.base import hermitian_tag, is_hermitian, tags_of
from ...operators.convert import entries_of
from ...operators.pattern import SparsityPattern
from ..base import AbstractApproximateInverse, AbstractPreconditioner, array_structure, constant
from ..incomplete import require_diagonal_entries, require_positive

#: What is true of the cycle where it is true of the operator.
TAGS = {lx.positive_semidefinite_tag, lx.symmetric_tag, hermitian_tag}
_METHODS = {"ruge_stuben": 0.3, "smoothed_aggregation": 0.08}


class AlgebraicMultigrid(AbstractPreconditioner):
    """Algebraic multigrid preconditioner: one symmetric V(1,1)-cycle, of the entries of a matrix alone.

    For diffusion without a grid: on meshes and graphs. On grids `Multigrid` is faster, and turns to this one
    by itself where coefficients jump from cell to cell.

    * `method`: `"ruge_stuben"` keeps some of the unknowns on the next level, by two passes, and interpolates
      the others from their strongly coupled neighbours; for real matrices that are close to M-matrices, also
      unsymmetric ones. `"smoothed_aggregation"` joins neighbours, for Hermitian matrices; the one for
      elasticity, with its `near_nullspace`. It needs PyAMG: `pip install 'nsolve[amg]'`.
    * `theta`: from which share of the largest coupling on one counts as strong, 0.3; for aggregation, of the
      geometric mean of both diagonal entries, 0.08.
    * `near_nullspace`: for aggregation, the vectors that the matrix maps to nearly zero, `(n,)` or `(n, k)`;
      constants by default. For elasticity the rigid motions.
    * `block_size`: for aggregation, so many unknowns in a row belong to one node.

    One sweep of Gauss and Seidel forward before the coarser level, one backward after it, a dense
    pseudo-inverse on the coarsest. `M` is positive definite where `A` is, and `M.transpose()` is exact. What
    cannot be coarsened, since no coupling is strong, gets the sweeps alone, which `print(M)` then tells.

    All work is done on the host, as for `SparseLU`: it may be traced and batched, and nothing is compiled for
    a new matrix. Where neighbours are numbered far apart, as mesh generators may do, the levels have the
    unknowns in another order. `M` is constant under differentiation. On accelerators vectors travel to the
    host and back.

    `M.refresh(A2)` keeps the patterns of Ruge and Stüben's levels (which unknowns are kept, and what the
    others are interpolated from), and computes their numbers anew, for contrasts that change. Patterns are
    always those of the last set-up. Where couplings have changed so much that these do not fit, as where
    inclusions move, it sets up anew by itself, also under `jit`: if on any level more than 3 % of the
    unknowns that are interpolated are so from less than a tenth of their negative couplings, and less than
    half of the share before; and where a symmetric matrix is no longer exactly symmetric. `M.is_frozen` and
    `print(M)` tell. Hierarchies of aggregates are always set up anew. **Raises** `ValueError` for another
    pattern.

    **Cost:** set-up that of some twenty applications, a part of it in threads; each application that of two
    or three products for each unit of operator complexity, which `print(M)` shows; a refresh a small part of
    a set-up, but the first one of a pattern more than a set-up, since it finds where each product is added
    to: four bytes for each, in all one to three times the memory of the hierarchy. `M` keeps the entries of
    the matrix that it was set up for. **Raises** `ValueError` for a diagonal entry that is missing from the
    pattern or, of a concrete operator, not positive, naming the row; `ModuleNotFoundError` for aggregation
    without PyAMG. In a traced operator, and for NaN or Inf anywhere, `M` holds NaN and the solve reports it.

    Ruge and Stüben (1987), doi:10.1137/1.9781611971057.ch4; Vaněk, Mandel and Brezina (1996),
    doi:10.1007/BF02238511; Bell, Olson, Schroder and Southworth (2023), doi:10.21105/joss.05495.
    """

    method: Literal["ruge_stuben", "smoothed_aggregation"] = eqx.field(default="ruge_stuben", static=True)
    theta: float | None = eqx.field(default=None, static=True)
    near_nullspace: Any = None
    block_size: int = eqx.field(default=1, static=True)

    def __check_init__(self):
        if self.method not in _METHODS:
            raise ValueError(
                f"`AlgebraicMultigrid(method=...)` must be one of {', '.join(map(repr, _METHODS))}, but is "
                f"{self.method!r}."
            )
        if self.theta is not None and not 0 <= self.theta < 1:
            raise ValueError(
                f"`AlgebraicMultigrid(theta=...)` must be None or lie in [0, 1), but is {self.theta}."
            )
        if not isinstance(self.block_size, int) or self.block_size < 1:
            raise ValueError(
                f"`AlgebraicMultigrid(block_size=...)` must be a positive integer, but is "
                f"{self.block_size!r}."
            )
        if self.method == "ruge_stuben" and (self.near_nullspace is not None or self.block_size != 1):
            raise ValueError(
                "`AlgebraicMultigrid`: `near_nullspace` and `block_size` are for "
                '`method="smoothed_aggregation"`.'
            )

    def build(self, operator: lx.AbstractLinearOperator) -> AbstractApproximateInverse:
        from ...direct.base import factorised  # here, since solvers import preconditioners
        from ...direct.factors import Recipe
        from ._algebraic_inverse import AlgebraicMultigridInverse

        who = "AlgebraicMultigrid"
        if self.method == "smoothed_aggregation":
            needed("pyamg", "amg", f'`{who}(method="smoothed_aggregation")`')
        structure, (values, pattern) = array_structure(operator, who), self.entries(operator)
        theta = _METHODS[self.method] if self.theta is None else self.theta
        recipe = Recipe(self.method, theta=theta, block_size=float(self.block_size))
        vectors = self._vectors(values, pattern.shape[0])
        values = jnp.concatenate([values, *vectors]) if vectors else values
        state = factorised(recipe, who, pattern, values, structure)
        return AlgebraicMultigridInverse(state, self, structure, tags_of(operator) & TAGS)

    def entries(self, operator: lx.AbstractLinearOperator) -> tuple[Array, SparsityPattern]:
        """Those of a matrix that the method applies to."""
        who = "AlgebraicMultigrid"
        self._require_method(operator, array_structure(operator, who).dtype)
        matrix = entries_of(constant(operator), who)
        require_diagonal_entries(matrix.pattern, who)
        values, places = matrix.values, matrix.pattern.diagonal_positions
        if not isinstance(values, Tracer):
            require_positive(np.asarray(values)[places], who, "ThresholdLU")
        return values, matrix.pattern

    def _require_method(self, operator: lx.AbstractLinearOperator, dtype: Any) -> None:
        """Refuses what the method does not apply to."""
        if self.method == "ruge_stuben" and jnp.issubdtype(dtype, jnp.complexfloating):
            raise ValueError(
                '`AlgebraicMultigrid(method="ruge_stuben")` takes real matrices, but this one is '
                f'{dtype}. For Hermitian ones use `method="smoothed_aggregation"`.'
            )
        if self.method == "smoothed_aggregation" and not is_hermitian(operator):
            raise ValueError(
                '`AlgebraicMultigrid(method="smoothed_aggregation")` takes Hermitian matrices, and the '
                "operator is not tagged so. If it is, say so: `lx.TaggedLinearOperator(A, "
                'lx.positive_semidefinite_tag)`; otherwise use `method="ruge_stuben"`.'
            )
        n = operator.in_size()
        if n % self.block_size:
            raise ValueError(
                f"`AlgebraicMultigrid(block_size={self.block_size})` does not divide the {n} unknowns."
            )

    def _vectors(self, values: Array, n: int) -> list[Array]:
        """What follows the entries of the matrix: the vectors of the near null space, one after the other."""
        if self.near_nullspace is None:
            return []
        vectors = jax.lax.stop_gradient(jnp.asarray(self.near_nullspace))
        if vectors.ndim not in (1, 2) or vectors.shape[0] != n or vectors.size == 0:
            raise ValueError(
                f"`AlgebraicMultigrid(near_nullspace=...)` must be of shape ({n},) or ({n}, k) for an "
                f"operator on {n} unknowns, but is of shape {vectors.shape}."
            )
        if jnp.iscomplexobj(vectors) and not jnp.iscomplexobj(values):
            raise ValueError(
                "`AlgebraicMultigrid(near_nullspace=...)` is complex, but the operator is real: give real "
                "and imaginary parts as vectors of their own."
            )
        return [vectors.reshape(n, -1).T.ravel().astype(values.dtype)]

"""Sparse LU factorisation."""

from typing import Any, ClassVar

import lineax as lx

from ..linear.base import constant_field
from .base import AbstractDirectSolver
from .factors import Recipe


class SparseLU(AbstractDirectSolver):
    """Direct solution of square sparse systems by `P R A C Q = L U`, for any nonsingular matrix.

    The first choice for matrices of a few thousand rows, for two-dimensional grids and meshes of up to some
    10^5 unknowns, for circuits, networks and whatever no preconditioner is known for; in three dimensions
    fill grows fast, and beyond some 10^4 unknowns `CG` with `Multigrid` wins where it applies.

    The operator must know its entries: sparse matrices, stencils, lineax's explicit matrices, and sums and
    products of these.  float32 to complex128, which is the precision of the factors; residuals are computed
    in double precision.

    * `rtol, atol`: a solve succeeds when `||b - A x||_2 <= max(rtol ||b||_2, atol)`.  By default, with
      `rtol=None`, when its backward error `||b - A x|| / (||A||_F ||x|| + ||b||)` is at rounding level and
      the matrix is not numerically singular: as good as any stable method, but the residual of an
      ill-conditioned system may be large beside `b`.

    Each solution is refined until it meets that, for as long as each step halves the residual (ten at most).
    With `state=solver.init(A, {})` further right-hand sides cost two triangular solves and a product each, as
    do transposed and conjugated systems, and so derivatives: one more solve each, never a factorisation.

    **Where it runs.**  SuperLU works on the host, called by XLA: eagerly, under `jit`, `vmap` and `scan`, at
    the values that come at run time; on a GPU the arrays travel there and back.  The state holds the matrix
    and a key to factors that are kept on the host, up to an eighth of its memory (`nsolve.direct.forget()`
    frees them; factors that are gone are made anew).  Equal matrices share factors.

    **How.**  Rows and columns are scaled by powers of two; nearly symmetric patterns are ordered by minimum
    degree and pivoted on the diagonal, others by COLAMD with partial pivoting; where that looks singular,
    once more with the largest product of entries permuted to the diagonal.  The order of a pattern is found
    once: later matrices with the same pattern, as in a `scan` over time steps, are eliminated in it.

    **Statistics:** `num_steps` (of refinement), `residual_norm`, `backward_error`, `reciprocal_condition` (of
    the scaled matrix in the 1-norm, estimated), `num_factor_entries`, `reason`.

    **Failures.**  A pattern that makes the matrix singular whatever its values are is a `ValueError` naming
    rows and columns.  A numerically singular matrix is `RESULTS.singular`, unless the solution meets a given
    `rtol` all the same; NaN and Inf are `nonfinite_input`.

    As a preconditioner, `preconditioner=SparseLU()`, it is one pair of triangular solves, without refinement.

    Li (2005), doi:10.1145/1089014.1089017; Demmel, Eisenstat, Gilbert, Li and Liu (1999),
    doi:10.1137/S0895479895291765; Skeel (1980), doi:10.1090/S0025-5718-1980-0572859-4 (refinement).
    """

    rtol: Any = constant_field(default=None)
    atol: Any = constant_field(default=0.0)

    recipe: ClassVar[Recipe] = Recipe("lu")

    def check(self, operator: lx.AbstractLinearOperator) -> None:
        pass

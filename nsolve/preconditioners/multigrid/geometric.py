"""Geometric multigrid on stencils, as a preconditioner."""

from collections.abc import Callable

import equinox as eqx
import jax
import lineax as lx
import numpy as np
from jaxtyping import Array

from ..._arrays import is_traced
from ...operators.base import require_operator, tags_of, untagged
from ...operators.convert import as_stencil
from ...operators.stencil import StencilLinearOperator
from ..base import AbstractApproximateInverse, AbstractPreconditioner
from .constant import constant_hierarchy, is_constant
from .cycle import Level, padded_v_cycle, v_cycle
from .galerkin import galerkin_hierarchy
from .plan import Coarsening, plan_coarsening
from .transfer import coarser

#: What is true of the cycle where it is true of the operator.
_TAGS = {lx.positive_semidefinite_tag, lx.negative_semidefinite_tag, lx.symmetric_tag}


class MultigridInverse(AbstractApproximateInverse):
    """One V-cycle from a zero guess; `print` it for the hierarchy."""

    levels: tuple[Level, ...]
    small: Level | None  # the last ones, stacked: see `Coarsening.shared`
    coarse: Callable[[Array], Array]
    plan: Coarsening = eqx.field(static=True)
    structure: jax.ShapeDtypeStruct = eqx.field(static=True)
    tags: frozenset[object] = eqx.field(static=True)

    def mv(self, vector: Array) -> Array:
        def solve_rest(r):
            if self.small is None:
                return self.coarse(r)
            return padded_v_cycle(self.small, self.plan.steps[-1], self.plan.coarsest, self.coarse, r)

        return v_cycle(self.levels, solve_rest, vector)

    def refresh(self, operator: lx.AbstractLinearOperator) -> "MultigridInverse":
        stencil = _as_stencil(operator)
        finest = self.levels[0].operator if self.levels else None
        other_stencil = finest is not None and (
            (stencil.offsets, stencil.periodic) != (finest.offsets, finest.periodic)
        )
        other_kind = self.plan.constant and not is_constant(stencil)
        if stencil.in_structure() != self.structure or other_stencil or other_kind:
            raise ValueError(
                f"`operator` must have the grid and the stencil that this multigrid was made for, "
                f"{self.structure}, but is {stencil}. Build a new one with `Multigrid()(operator)`."
            )
        return _build(jax.lax.stop_gradient(stencil), self.plan)

    def transpose(self) -> "MultigridInverse":
        if lx.is_symmetric(self):
            return self
        levels = tuple(level.transpose() for level in self.levels)
        small = self.small
        if small is not None:
            small = eqx.filter_vmap(lambda level: level.transpose())(small)
        coarse = self.coarse.transpose()  # pyright: ignore[reportFunctionMemberAccess]
        tags = frozenset(lx.transpose_tags(self.tags))
        return MultigridInverse(levels, small, coarse, self.plan, self.structure, tags)

    def conj(self) -> "MultigridInverse":
        return jax.tree.map(lambda x: x.conj() if eqx.is_inexact_array(x) else x, self)

    def __repr__(self) -> str:
        shared = [] if self.small is None else [self.small] * self.plan.shared
        shape, sizes, points = self.structure.shape, [], []
        rows = ["level  grid               unknowns  points  smoother, or solver"]
        for k, (level, axes) in enumerate(zip([*self.levels, *shared], self.plan.steps, strict=True)):
            sizes.append(int(np.prod(shape)))
            points.append(len(set(level.operator.offsets)))
            grid = " x ".join(map(str, shape))
            rows.append(f"{k:<7}{grid:<17}{sizes[-1]:>10}{points[-1]:>8}  2 + 2 Chebyshev-Jacobi sweeps")
            shape = coarser(shape, axes, level.operator.periodic)
        grid = " x ".join(map(str, self.plan.coarsest))
        rows.append(f"{len(sizes):<7}{grid:<17}{int(np.prod(self.plan.coarsest)):>10}{'':>8}  {self.coarse}")
        work = sum(s * p for s, p in zip(sizes, points, strict=True))
        complexity = work / (sizes[0] * points[0]) if sizes else 1.0
        return "\n".join([f"Multigrid preconditioner: V(2,2), operator complexity {complexity:.2f}", *rows])


class Multigrid(AbstractPreconditioner):
    """Geometric multigrid preconditioner: one symmetric V(2,2)-cycle.

    The method of choice for diffusion on grids: the number of steps does not grow with the grid.
    Takes any `StencilLinearOperator` whose offsets lie in {-1, 0, 1}, on grids of any size, with
    Dirichlet, Neumann or periodic boundaries.

    * Constant symmetric stencils of `2d + 1` points: linear interpolation, coarse operators in
      one-dimensional arrays, fast diagonalisation on the coarsest grid (at most 4096 points).
      Memory is that of a few vectors.
    * All others: interpolation by the operator itself, Galerkin coarse operators with `3^d` points,
      a dense inverse on the coarsest grid (at most 64 points).  Convection should be mild.
    * Set-up runs on the host, without compilation, where the coefficients are concrete; where they
      are traced (a solver that builds its preconditioner itself traces them) it is compiled.
    * Weakly coupled axes are left alone until the others are as coarse (semicoarsening).  Which
      ones is read off concrete coefficients; while tracing all axes are halved.  So on anisotropic
      problems call `Multigrid()(operator)` outside of `jit` and hand the result to the solver;
      `refresh` keeps the choice.

    Smoothing is a Chebyshev polynomial in `D^-1 A` of degree two before and after, with eigenvalue
    bounds by Gershgorin's theorem, so that the cycle is positive definite when `A` is.  Singular
    operators (Neumann, periodic) are solved up to the constants on the coarsest grid.  Inactive cells
    (see `StencilLinearOperator.diffusion`) are no matter, where obstacles are a few cells wide; with
    single cells strewn over the grid more steps are needed.

    One application costs about 5 products with `A` and the transfers, times 1.33 in 2-D and 1.14 in
    3-D; on varying coefficients coarse products are wider.  An operator that is not a stencil, or a
    wider one, is a `ValueError`.

    Dendy, *Black box multigrid*, J. Comput. Phys. 48 (1982), doi:10.1016/0021-9991(82)90057-2;
    Trottenberg, Oosterlee, Schueller, *Multigrid* (2001), chapters 2, 5 and 7.
    """

    def build(self, operator: lx.AbstractLinearOperator) -> MultigridInverse:
        stencil = _as_stencil(operator)
        return _build(stencil, plan_coarsening(stencil, is_constant(stencil)))


def _build(stencil: StencilLinearOperator, plan: Coarsening) -> MultigridInverse:
    hierarchy = constant_hierarchy if plan.constant else galerkin_hierarchy
    if any(map(is_traced, stencil.coefficients)):
        # One compilation, even where a transformation traces without `jit`.
        hierarchy = eqx.filter_jit(hierarchy)
    levels, small, coarse = hierarchy(stencil, plan)
    tags = tags_of(stencil) & _TAGS
    return MultigridInverse(levels, small, coarse, plan, stencil.in_structure(), tags)


def _as_stencil(operator: lx.AbstractLinearOperator) -> StencilLinearOperator:
    require_operator(operator, "operator of Multigrid")
    stencil = as_stencil(operator)
    if stencil is None:
        raise ValueError(
            "`Multigrid` is geometric: it needs a grid and takes a `StencilLinearOperator`, but "
            f"was given a {type(untagged(operator)).__name__}. For matrices without a grid choose an "
            "algebraic preconditioner, such as `preconditioners.IncompleteCholesky`."
        )
    if any(abs(step) > 1 for offset in stencil.offsets for step in offset):
        raise ValueError(
            "`Multigrid` takes compact stencils, whose offsets lie in {-1, 0, 1}, but this one has "
            f"the offsets {stencil.offsets}."
        )
    return stencil

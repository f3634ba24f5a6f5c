"""Multigrid on stencils, as a preconditioner."""

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array

from ..._arrays import is_traced
from ...operators.base import tags_of
from ...operators.stencil import StencilLinearOperator
from ..base import AbstractApproximateInverse, AbstractPreconditioner
from .constant import constant_hierarchy, is_constant
from .cycle import CycleName, Level, cycle, padded_v_cycle
from .galerkin import galerkin_hierarchy
from .hybrid import AlgebraicTail, may_decide
from .plan import Coarsening, plan_coarsening
from .sample import algebraic_level
from .smoothing import SmootherName
from .stencils import on_grid
from .transfer import coarser

_INCOMPLETE = "incomplete_cholesky"
_HIERARCHIES = constant_hierarchy, galerkin_hierarchy
_COMPILED = eqx.filter_jit(constant_hierarchy), eqx.filter_jit(galerkin_hierarchy)
#: What is true of the cycle where it is true of the operator.
_TAGS = {lx.positive_semidefinite_tag, lx.negative_semidefinite_tag, lx.symmetric_tag}


class MultigridInverse(AbstractApproximateInverse):
    """One cycle from a zero guess; `print` it for the hierarchy."""

    levels: tuple[Level, ...]
    small: Level | None  # the last ones, stacked: see `Coarsening.shared`
    coarse: Callable[[Array], Array]
    plan: Coarsening = eqx.field(static=True)
    cycle: CycleName = eqx.field(static=True)
    structure: jax.ShapeDtypeStruct = eqx.field(static=True)
    tags: frozenset[object] = eqx.field(static=True)

    def mv(self, vector: Array) -> Array:
        return self.cycled(vector, self.cycle)

    def cycled(self, vector: Array, kind: CycleName | Literal["K"]) -> Array:
        """A cycle of any kind; those other than `"V"` are for levels that are not stacked."""

        def solve_rest(r):
            if self.small is None:
                return self.coarse(r)
            return padded_v_cycle(self.small, self.plan.steps[-1], self.plan.coarsest, self.coarse, r)

        # One visit is enough for an exact solver.
        rest = self.coarse.operator if isinstance(self.coarse, AlgebraicTail) else None
        return cycle(self.levels, solve_rest, vector, kind, rest)

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
        tail = self.coarse if isinstance(self.coarse, AlgebraicTail) else None
        return _build(jax.lax.stop_gradient(stencil), self.plan, self.cycle, tail=tail)

    def transpose(self) -> "MultigridInverse":
        if lx.is_symmetric(self):
            return self
        levels = tuple(level.transpose() for level in self.levels)
        small = self.small
        if small is not None:
            small = eqx.filter_vmap(lambda level: level.transpose())(small)
        coarse = self.coarse.transpose()  # pyright: ignore[reportFunctionMemberAccess]
        tags = frozenset(lx.transpose_tags(self.tags))
        return MultigridInverse(levels, small, coarse, self.plan, self.cycle, self.structure, tags)

    def conj(self) -> "MultigridInverse":
        return jax.tree.map(lambda x: x.conj() if eqx.is_inexact_array(x) else x, self)

    def __repr__(self) -> str:
        shared = [] if self.small is None else [self.small] * self.plan.shared
        shape, sizes, entries = self.structure.shape, [], []
        rows = ["level  grid               unknowns  points  smoother, or solver"]
        for k, (level, axes) in enumerate(zip([*self.levels, *shared], self.plan.steps, strict=True)):
            sizes.append(int(np.prod(shape)))
            points = len(set(level.operator.offsets))
            entries.append(points * sizes[-1])
            grid = " x ".join(map(str, shape))
            rows.append(f"{k:<7}{grid:<17}{sizes[-1]:>10}{points:>8}  {level.smoother}")
            shape = coarser(shape, axes, level.operator.periodic)
        if isinstance(self.coarse, AlgebraicTail):
            for k, (unknowns, nonzeros) in enumerate(self.coarse.table, len(rows) - 1):
                entries.append(nonzeros)
                what = "of the matrix" if k > len(sizes) else " x ".join(map(str, self.plan.coarsest))
                points = nonzeros / unknowns
                rows.append(f"{k:<7}{what:<17}{unknowns:>10}{points:>8.1f}  1 + 1 Gauss-Seidel sweeps")
        else:
            grid = " x ".join(map(str, self.plan.coarsest))
            size = int(np.prod(self.plan.coarsest))
            rows.append(f"{len(sizes):<7}{grid:<17}{size:>10}{'':>8}  {self.coarse}")
        complexity = sum(entries) / entries[0] if entries else 1.0
        head = f"Multigrid preconditioner: one {self.cycle}-cycle, operator complexity {complexity:.2f}"
        return "\n".join([head, *rows])


class Multigrid(AbstractPreconditioner):
    """Multigrid preconditioner on grids: one symmetric cycle, geometric as far as the coefficients allow,
    algebraic below.

    The method of choice for diffusion on grids: the number of steps does not grow with the grid.
    Takes any `StencilLinearOperator` whose offsets lie in {-1, 0, 1}, on grids of any size, with
    Dirichlet, Neumann or periodic boundaries.

    * Constant symmetric stencils of `2d + 1` points: linear interpolation, coarse operators in
      one-dimensional arrays, fast diagonalisation on the coarsest grid (at most 4096 points).
      Memory is that of a few vectors.
    * All others: interpolation by the operator itself (Dendy's, in the plane of both axes at once),
      Galerkin coarse operators with `3^d` points, a dense inverse on the coarsest grid (at most 64
      points).  Convection should be mild.

    What is concrete is looked at, where the operator is tagged positive semidefinite and runs on a CPU:

    * Weakly coupled axes are left alone until the others are as coarse (semicoarsening).
    * A grid whose points cannot stand for all of the finer one's (islands of large coefficients that no
      point lies on, as compatible relaxation finds) is coarsened by its matrix instead, and so are all below
      it: `AlgebraicMultigrid`.
    * In the plane, coupling that is strong in a direction between the axes is smoothed by IC(0).

    While tracing, nothing can be looked at: all axes are halved, all levels are geometric, and smoothing is
    pointwise. A solver that builds its preconditioner itself traces it. So on such problems call
    `Multigrid()(operator)` outside of `jit` and hand the result to the solver; `print` shows what was
    chosen, and `refresh` keeps it.  Or give the solver `Multigrid().planned(operator)`; `nsolve.auto` does.
    Or say it:

    * `algebraic`: the number of the first algebraic level, 0 for the finest, or None for no such; `"auto"`.
    * `smoother`: `"auto"` is `"chebyshev"`, unless the third of these points says `"incomplete_cholesky"`.

      - `"chebyshev"`: a polynomial in `D^-1 A` that is small on the upper four fifths of the spectrum.
      - `"fourth_kind"`: one that leaves small eigenvalues to the coarser grid, the more sweeps the more.
      - `"jacobi"`: damped for a grid that is halved along each axis. These three bound eigenvalues by
        Gershgorin or, if that is lower, by the power method.
      - `"l1_jacobi"`: divides by the sums of sizes in a row, and needs no bound.
      - `"multicolour"`: Gauss and Seidel's sweeps over two colours of points, or `2^d` where they are coupled
        across; after the coarser grid in the reverse order.
      - `"line"`: the same with lines of points, tridiagonal systems, along all axes in turn. For coupling
        that is strong along an axis, here this one and there that one; what is so everywhere is met by
        semicoarsening, which this one does without.
      - `"incomplete_cholesky"`: steps with IC(0), damped until they converge, on CPUs.

    * `sweeps`: so many before the coarser grid, and as many after it: of polynomials the degree. By default
      2 for the first four, and 1 for the others.
    * `cycle`: `"V"` visits each coarser grid once, `"W"` twice from each visit of the finer one, `"F"` once
      by an F-cycle and once by a V-cycle. The others save steps where coarse grids hold some errors badly, as
      of jumping coefficients; where the V-cycle takes few steps, next to none. Algebraic levels count as one
      grid, gone through by a V-cycle. For the K-cycle see `KCycle`.
    * `interpolation`: `"black_box"` by the operator's own rows; `"energy"` improves that by three steps of
      conjugate gradients towards the least trace of the coarse operator, sums of rows kept, where all axes
      are halved: a step fewer on media as rough as noise, more of them where coefficients jump, for a dearer
      set-up. In space it takes all axes at once, too.
    * `plan`: what was chosen for another operator, by `planned`, for all on grids that are halved alike.

    The cycle is positive definite when `A` is.  Singular operators (Neumann, periodic) are solved up to the
    constants on the coarsest grid.  Inactive cells (see `StencilLinearOperator.diffusion`) are no matter,
    where obstacles are a few cells wide; with single cells strewn over the grid more steps are needed.

    Set-up of grids of more than 64^2 points is compiled, once for each size.  One application costs about
    5 products with `A` and the transfers, times 1.33 in 2-D and 1.14 in 3-D, and times 2 and 1.33 for a
    W-cycle; on varying coefficients coarse products are wider; algebraic levels are as dear as a few times so
    many unknowns of a grid.  A sweep of a polynomial is a product, one by colours as many as there are
    colours, and for lines this and their solution along each axis, which goes from point to point.

    **Raises** `ValueError` for an operator that is not a stencil, or a wider one; for incomplete factors and
    algebraic levels and `"energy"` of operators that are not real and tagged positive semidefinite; for a
    `plan` of another grid; and for W- and F-cycles with `algebraic=0`, which leaves them nothing to do.

    Dendy, *Black box multigrid*, J. Comput. Phys. 48 (1982), doi:10.1016/0021-9991(82)90057-2;
    Trottenberg, Oosterlee, Schueller, *Multigrid* (2001), chapters 2, 4, 5 and 7; Lottes (2022),
    arXiv:2202.08830 (the fourth kind); Baker, Falgout, Kolev and Yang (2011), doi:10.1137/100798806 (l1);
    Mandel, Brezina and Vaněk (1999), doi:10.1007/s006070050022 (energy); Brandt, *General highly accurate
    algebraic coarsening*, Electron. Trans. Numer. Anal. 10 (2000), 1-20 (compatible relaxation).
    """

    algebraic: Literal["auto"] | int | None = eqx.field(default="auto", static=True)
    smoother: Literal["auto", SmootherName] = eqx.field(default="auto", static=True)
    sweeps: int | None = eqx.field(default=None, static=True)
    cycle: CycleName = eqx.field(default="V", static=True)
    interpolation: Literal["black_box", "energy"] = eqx.field(default="black_box", static=True)
    plan: Coarsening | None = eqx.field(default=None, static=True, repr=False)

    def __check_init__(self):
        level, sweeps, smoothers = self.algebraic, self.sweeps, ("auto", *get_args(SmootherName))
        number = isinstance(level, int) and not isinstance(level, bool) and level >= 0
        if not number and level not in ("auto", None):
            raise ValueError(
                "`Multigrid(algebraic=...)` must be 'auto', None, or the number of the first algebraic "
                f"level, but is {level!r}."
            )
        if self.smoother not in smoothers:
            raise ValueError(
                f"`Multigrid(smoother=...)` must be one of {', '.join(map(repr, smoothers))}, but is "
                f"{self.smoother!r}."
            )
        if sweeps is not None and (not isinstance(sweeps, int) or isinstance(sweeps, bool) or sweeps < 1):
            raise ValueError(f"`Multigrid(sweeps=...)` must be None or at least 1, but is {sweeps!r}.")
        if self.interpolation not in ("black_box", "energy"):
            raise ValueError(
                "`Multigrid(interpolation=...)` must be 'black_box' or 'energy', but is "
                f"{self.interpolation!r}."
            )
        if self.plan is not None and not isinstance(self.plan, Coarsening):
            raise TypeError(
                f"`Multigrid(plan=...)` must be made by `Multigrid().planned(A)`, but is {self.plan!r}."
            )
        if self.cycle not in get_args(CycleName):
            raise ValueError(
                f"`Multigrid(cycle=...)` must be 'V', 'W' or 'F', but is {self.cycle!r}. For the K-cycle, "
                "which is no linear operator, see `preconditioners.multigrid.KCycle`."
            )
        if self.cycle != "V" and level == 0:
            raise ValueError(
                f"`Multigrid(cycle={self.cycle!r}, algebraic=0)`: algebraic levels are gone through by a "
                "V-cycle, and there are none above them."
            )

    def build(self, operator: lx.AbstractLinearOperator) -> MultigridInverse:
        return self.hierarchy(operator, self.cycle == "V")

    def planned(self, operator: lx.AbstractLinearOperator) -> "Multigrid":
        """This constructor with the `plan` that suits a concrete operator, for it and others like it on the
        same grid, which may be traced then: `ns.CG(preconditioner=Multigrid().planned(A))`.

        Where grids turn algebraic is found on the part of the finest where the diagonal varies most, of at
        most 128^2 or 32^3 points, on the host; nothing is compiled. What would not be looked at while
        building is not looked at here.  Raises what building does.
        """
        stencil, plan, decide = self._looked(operator, self.cycle == "V")
        if decide and not (plan.constant or plan.incomplete):
            level = algebraic_level(stencil, plan)
            plan = plan if level is None else plan.cut(level, stencil)
        return dataclasses.replace(self, plan=plan)

    def hierarchy(self, operator: lx.AbstractLinearOperator, may_share: bool) -> MultigridInverse:
        """What `build` makes; `may_share` says whether small levels may be stacked, see `Coarsening`."""
        stencil, plan, decide = self._looked(operator, may_share)
        return _build(stencil, plan, self.cycle, decide)

    def _looked(
        self, operator: lx.AbstractLinearOperator, may_share: bool
    ) -> tuple[StencilLinearOperator, Coarsening, bool]:
        """The operator's stencil, the plan, and whether algebraic levels are to be looked for."""
        stencil = _as_stencil(operator)
        if self.plan is not None:
            if not self.plan.suits(stencil) or (self.plan.constant and not is_constant(stencil)):
                raise ValueError(
                    f"`Multigrid(plan=...)` was planned for another operator, on a grid that ends as "
                    f"{self.plan.coarsest}, and does not suit {stencil}. Plan anew: `Multigrid().planned(A)`."
                )
            return stencil, self.plan if may_share else self.plan._replace(shared=0), False
        energy = self.interpolation == "energy"
        asked = {
            "algebraic": isinstance(self.algebraic, int),
            "smoother": self.smoother == _INCOMPLETE,
            "interpolation": energy,
        }
        real = not jnp.issubdtype(stencil.dtype, jnp.complexfloating)
        for name in (name for name, is_asked in asked.items() if is_asked):
            if not (real and lx.is_positive_semidefinite(operator)):
                raise ValueError(
                    f"`Multigrid({name}={getattr(self, name)!r})` takes real operators that are tagged "
                    f"positive semidefinite, but was given {stencil}. If it is, say so: "
                    "`lx.TaggedLinearOperator(A, lx.positive_semidefinite_tag)`."
                )
        decide = self.algebraic == "auto" and may_decide(stencil)
        constant = is_constant(stencil) and self.smoother not in (_INCOMPLETE, "line") and not energy
        plan = plan_coarsening(stencil, constant, self.smoother, self.sweeps, may_share, decide)
        if isinstance(self.algebraic, int):
            plan = plan.cut(self.algebraic, stencil)
        return stencil, plan._replace(energy=energy), decide


def _build(
    stencil: StencilLinearOperator,
    plan: Coarsening,
    kind: CycleName,
    decide: bool = False,
    tail: AlgebraicTail | None = None,
) -> MultigridInverse:
    traced = any(map(is_traced, stencil.coefficients))
    # One compilation, even where a transformation traces without `jit`.
    constant, galerkin = _COMPILED if traced else _HIERARCHIES
    if plan.constant:
        levels, small, coarse = constant(stencil, plan)
    else:
        levels, small, coarse, plan = galerkin(stencil, plan, decide and not traced, tail)
    tags = tags_of(stencil) & _TAGS
    return MultigridInverse(levels, small, coarse, plan, kind, stencil.in_structure(), tags)


def _as_stencil(operator: lx.AbstractLinearOperator) -> StencilLinearOperator:
    stencil = on_grid(
        operator,
        "Multigrid",
        "For matrices without a grid choose `preconditioners.AlgebraicMultigrid` or "
        "`preconditioners.IncompleteCholesky`.",
    )
    if any(abs(step) > 1 for offset in stencil.offsets for step in offset):
        raise ValueError(
            "`Multigrid` takes compact stencils, whose offsets lie in {-1, 0, 1}, but this one has "
            f"the offsets {stencil.offsets}."
        )
    return stencil

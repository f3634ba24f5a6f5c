"""GMRES with deflated restarting that hands its subspace on to the next system.

Two departures from Parks et al. (2006), both for accelerators and for real arithmetic.

* The vectors kept are those on which `A M` is smallest, `min ||A M y|| / ||y||` over the search space (right
  singular vectors of the projected operator), instead of harmonic Ritz vectors: a Hermitian eigenvalue
  problem in place of a general one.  For normal operators the two nearly agree.
* They are kept in the space of the solution, `u = M y`, beside `y`: a changed preconditioner does not spoil
  them, and to take them over costs products with `A` but no application of `M`.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PyTree

from .. import _basis
from .._basis import Basis
from .._dense import eigh, solve_upper
from .._stopping import Method
from .._system import System
from .._vectors import Vector, all_finite, axpy, dtype, safe_divide, size, subtract, where, zeros_like
from ..monitor import AbstractMonitor
from ._arnoldi import Arnoldi, advance, begin, live_triangle, multiply, not_rotated, solution
from ._recycled import Recycled, as_recycled, nothing_recycled, orthonormalise
from .base import (
    AbstractIterativeSolver,
    Preconditioner,
    Work,
    constant_field,
)


class _Memory(NamedTuple):
    """`A u_i = c_i`; the `c_i` are orthonormal, or zero where the rank is lower."""

    vectors: Basis  # u
    sources: Basis  # M^-1 u
    images: Basis  # c
    values: Array  # (k,)


class _State(NamedTuple):
    arnoldi: Arnoldi  # the recycled vectors are its first k columns
    sources: Basis

    @property
    def residual_norm(self) -> Array:
        return self.arnoldi.residual_norm

    @property
    def broken(self) -> Array:
        return self.arnoldi.broken


class GCRODR(AbstractIterativeSolver):
    """GCRO with deflated restarting: GMRES that recycles a subspace, within a solve and between solves.

    For any square operator.  A restart of `GMRES` forgets what it learnt about the directions that converge
    slowly; this method keeps `recycle` of them, so that it rarely stalls, and `stats["recycled"]` hands them
    on:

        first = lx.linear_solve(A1, b1, solver)
        second = lx.linear_solve(A2, b2, solver, options={"recycled": first.stats["recycled"]})

    Use it for sequences of related systems that are not symmetric (see `nsolve.solve_sequence`), and in place
    of `GMRES` where that stagnates.  For symmetric positive definite systems `CG(recycle=...)` is cheaper.

    * `restart`: Arnoldi steps in a cycle, as in `GMRES`; the search space has `restart + recycle` dimensions
      (GCRO-DR(m, k) of the literature has `restart = m - k`, `recycle = k`).
    * `recycle`: how many vectors are kept.

    Taking a subspace over costs `recycle` products, counted in `num_matvecs`.  Where a recycled solve took no
    fewer products than the last one without, the next ones go without, for a while that doubles each time
    (`Recycled`); where a solve takes fewer than `3 recycle` products the subspace is not used at all.

    Cost of a step: one product, one application of `M`, four
    passes over `restart + recycle + 1` vectors; of a cycle besides: three dense products with those vectors
    and an eigenvalue problem of size `restart + recycle`.  Kept: `restart + 5 recycle` vectors, and `restart`
    more with a preconditioner.  `num_steps` counts Arnoldi steps.  Ten cycles in a row that gain less than
    0.01 % each end the solve with `RESULTS.stagnation`.

    A recycled space of the wrong shape is a `ValueError`; vectors in it that are not finite or depend on each
    other are dropped.

    Stopping rule, common fields, options and statistics: see `nsolve.linear.AbstractIterativeSolver`.

    Parks, de Sturler, Mackey, Johnson and Maiti (2006), doi:10.1137/040607277; flexible: Carvalho, Gratton,
    Lago and Vasseur (2011), doi:10.1137/10082439X.
    """

    rtol: Any = constant_field()
    atol: Any = constant_field(default=0.0)
    max_steps: int | None = None
    preconditioner: Preconditioner | None = None
    history: bool = False
    monitor: AbstractMonitor | None = None
    restart: int = 30
    recycle: int = 10

    known_options: ClassVar[tuple[str, ...]] = ("preconditioner", "y0", "recycled")
    squares_products: ClassVar[bool] = True

    def __check_init__(self):
        for name in ("restart", "recycle"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"`GCRODR({name}=...)` must be an integer >= 1, but is {value!r}.")

    def check(self, operator: lx.AbstractLinearOperator) -> None:
        del operator

    def prepare(self, system: System) -> System:
        return system

    def cost(self) -> Work:
        return Work(products_per_step=1, applications_per_step=1, applications_per_cycle=0)

    def nothing_recycled(self, structure: PyTree) -> Recycled:
        """The subspace to start a sequence with, for vectors of this structure: an empty one."""
        return nothing_recycled(structure, min(self.recycle, size(structure)))

    def method(self, system: System) -> Method:
        structure = system.operator.in_structure()
        given = as_recycled(system.recycled, self.nothing_recycled(structure), structure, "GCRODR")
        k = given.values.size
        m = min(self.restart, size(structure))
        preconditioned = system.preconditioner is not None

        def take_over(recycled: Recycled) -> _Memory:
            images, change = orthonormalise(jax.vmap(system.product)(recycled.vectors))
            vectors, sources = (_basis.combine(change, u) for u in (recycled.vectors, recycled.sources))
            return _Memory(vectors, sources, images, recycled.values)

        def start_cold(recycled: Recycled) -> _Memory:
            nothing = zeros_like(recycled.vectors)
            return _Memory(nothing, nothing, nothing, recycled.values)

        warm = given.wanted
        memory = jax.lax.cond(warm, take_over, start_cold, given)

        def start(x: Vector, r: Vector, memory: _Memory) -> _State:
            overlap = _basis.overlaps(memory.images, r)
            begun = begin(x, subtract(r, _basis.combine(overlap, memory.images)), m, preconditioned)
            # Scaled to ||M^-1 u|| = 1, so that their columns of G are as large as the others.
            lengths, kind = _basis.norms(memory.sources), dtype(r)
            scaling = safe_divide(jnp.ones_like(lengths), lengths).astype(kind)
            sources, vectors = (_basis.scaled(scaling, u) for u in (memory.sources, memory.vectors))
            corrections = begun.corrections
            arnoldi = begun._replace(
                basis=_basis.joined(memory.images, begun.basis),
                corrections=None if corrections is None else _basis.joined(vectors, corrections),
                rotated=not_rotated(jnp.concatenate([overlap, begun.rotated[:, -1]])),
                triangle=jnp.eye(k + m, dtype=kind).at[jnp.arange(k), jnp.arange(k)].set(scaling),
                count=begun.count + k,
            )
            return _State(arnoldi, sources)

        def search_space(s: _State) -> Basis:
            """`M^-1 z`, `k + m` of them."""
            return _basis.joined(s.sources, jax.tree.map(lambda rows: rows[k:-1], s.arnoldi.basis))

        def directions(s: _State) -> Basis:
            """`z`, `k + m` of them."""
            return search_space(s) if s.arnoldi.corrections is None else s.arnoldi.corrections

        def finish_with_residual(s: _State) -> tuple[Vector, Vector, Array]:
            y, left, rounding = solution(s.arnoldi)
            x = axpy(1, _basis.combine(y, directions(s)), s.arnoldi.x)
            return x, _basis.combine(left, s.arnoldi.basis), rounding

        def remember(s: _State) -> _Memory:
            triangle, live = live_triangle(s.arnoldi)
            space = _basis.kept(live, search_space(s))
            # ||y|| where ||A M y|| = 1 is largest: with G = Q^H [R; 0] and w = R z an eigenvalue problem
            # R^-H (Y^H Y) R^-1 w = w / value^2, whose orthonormal w make the new images orthonormal.
            overlaps = _basis.gram(jax.tree.map(lambda rows: rows[:k], space), space)
            gram = jnp.diag(live.astype(overlaps.dtype)).at[:k].set(overlaps).at[:, :k].set(overlaps.conj().T)
            inverse = solve_upper(triangle, jnp.eye(len(triangle), dtype=triangle.dtype))
            squares, w = eigh(multiply(multiply(inverse.conj().T, gram), inverse))
            squares, w = squares[-k:], w[:, -k:]
            good = squares > 100 * jnp.finfo(squares.dtype).eps * jnp.max(squares, initial=0)
            w = jnp.where(good[None, :], w, 0)
            z = multiply(inverse, w).T
            sources = _basis.combine(z, space)
            vectors = _basis.combine(z, directions(s)) if preconditioned else sources
            images = _basis.combine(multiply(s.arnoldi.rotated[:-1, :-1].conj().T, w).T, s.arnoldi.basis)
            values = jnp.where(good, jax.lax.rsqrt(jnp.where(good, squares, 1)), 0)
            memory = _Memory(vectors, sources, images, values)
            return where(all_finite((vectors, images)), memory, zeros_like(memory))

        def report(memory: _Memory, stats: dict[str, Any]) -> dict[str, Any]:
            total = stats["num_matvecs"] + jnp.where(warm, k, 0)
            handed_on = given.after(warm, total, memory.vectors, memory.sources, memory.values, setup=k)
            return {"num_matvecs": total, "recycled": given.unless_idle(stats["num_steps"], handed_on)}

        return Method(
            start,
            lambda s: s._replace(arnoldi=advance(s.arnoldi, system)),
            lambda s: finish_with_residual(s)[0],
            cycle_length=m,
            least_progress=0.9999,
            # The subspace changes from cycle to cycle: a flat one is not yet the end.
            patience=10,
            restarts_when_broken=True,
            broken_means="singular",
            flat_means="flat_cycle",
            memory=memory,
            remember=remember,
            finish_with_residual=finish_with_residual,
            report=report,
        )

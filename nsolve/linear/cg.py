"""Conjugate gradients."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PyTree

from .. import _basis
from .._stopping import Method
from .._system import System
from .._vectors import Vector, axpy, dot, norm, real, real_dtype, safe_divide, size, where, zeros_like
from ..monitor import AbstractMonitor
from ..operators.base import require_definite
from ._lanczos_window import Window, open_window, record, ritz
from ._recycled import Recycled, as_recycled, nothing_recycled
from ._ritz import Coefficients
from .base import (
    AbstractIterativeSolver,
    Preconditioner,
    Work,
    constant_field,
    require_definite_preconditioner,
)


class _State(NamedTuple):
    x: Vector
    r: Vector
    p: Vector
    gamma: Array  # r^H M r of the step before; zero before the first
    residual_norm: Array
    broken: Array
    window: Window | None = None
    coefficients: Coefficients | None = None


class CG(AbstractIterativeSolver):
    """Preconditioned conjugate gradients, for Hermitian positive (semi)definite operators.

    The first choice for symmetric positive definite systems; with a good preconditioner (incomplete Cholesky,
    multigrid) usually the last, too.  The operator must be tagged `lx.positive_semidefinite_tag`, the
    preconditioner likewise.

    Cost of a step: one product, one application of `M`, two inner products (three with `M`), three vector
    updates; four vectors are kept.  Non-positive curvature `p^H A p <= 0`, or `r^H M r <= 0`, ends the solve
    with `RESULTS.breakdown`: the operator or the preconditioner is not positive definite.  Singular
    consistent systems are solved; inconsistent ones end in `breakdown`, `stagnation` or `max_steps_reached`.

    **Recycling.**  With `recycle=k` the `k` slowest directions, found on the way at no product, are handed on
    as `stats["recycled"]`; given back in `options["recycled"]` they are added to the preconditioner of the
    next system, `M + s W diag(values)^-1 W^H`, which takes no product either.  Neither the operator nor `M`
    need stay the same.  A step costs two passes over `k` vectors more, so it pays where products or
    applications are dear; a solve that learns keeps `3 k` vectors, which it combines in a dense product every
    `k` steps.  The directions age with the systems: once that has cost as
    many products as a solve without them, the next solve goes without and finds new ones.  Where they do not
    help, solves go without for a while that doubles each time (`Recycled`).  See `nsolve.solve_sequence`.

    **Condition.**  With `condition=True`, `stats["condition"]` is the largest Ritz value over the smallest:
    an estimate from below of the condition number of `M A`, usually close to it once the solve has
    converged.  It keeps two scalars for each of `max_steps`, and costs no product.

    Stopping rule, common fields, options and statistics: see `nsolve.linear.AbstractIterativeSolver`.

    Hestenes and Stiefel (1952), doi:10.6028/jres.049.044; in the form of Saad, *Iterative Methods for Sparse
    Linear Systems* (2003), algorithm 9.1; recycling: Giraud and Gratton (2006), doi:10.1137/040617546, and
    Stathopoulos and Orginos (2010), doi:10.1137/080725532.
    """

    rtol: Any = constant_field()
    atol: Any = constant_field(default=0.0)
    max_steps: int | None = None
    preconditioner: Preconditioner | None = None
    history: bool = False
    monitor: AbstractMonitor | None = None
    recycle: int = 0
    condition: bool = False

    known_options: ClassVar[tuple[str, ...]] = ("preconditioner", "y0", "recycled")

    def __check_init__(self):
        if not isinstance(self.recycle, int) or self.recycle < 0:
            raise ValueError(f"`CG(recycle=...)` must be an integer >= 0, but is {self.recycle!r}.")
        if self.condition and self.recycle:
            raise ValueError(
                "`CG(condition=True)` tells the condition of `M A`, which `recycle` changes from system to "
                "system: leave one of them out."
            )

    def check(self, operator: lx.AbstractLinearOperator) -> None:
        require_definite(operator, "CG")

    def prepare(self, system: System) -> System:
        require_definite_preconditioner(system, "CG")
        return system

    def cost(self) -> Work:
        return Work(products_per_step=1, applications_per_step=1, applications_per_cycle=0)

    def nothing_recycled(self, structure: PyTree) -> Recycled:
        """The subspace to start a sequence with, for vectors of this structure: an empty one."""
        return nothing_recycled(structure, min(self.recycle, size(structure)))

    def method(self, system: System) -> Method:
        if self.recycle == 0:
            if system.recycled is not None:
                raise ValueError(
                    "`CG` was given `options['recycled']`, but has `recycle=0`: say how many vectors to "
                    "recycle, `CG(recycle=...)`."
                )
            plain = system.preconditioner is None
            method = _conjugate_gradients(system, plain, system.precondition)
            return self._with_condition(method, system) if self.condition else method
        if not isinstance(system.recycled, Recycled | None):
            raise TypeError(
                "`options['recycled']` of `CG` must be the `stats['recycled']` of an earlier solve: vectors "
                "alone lack the values that go with them."
            )
        structure = system.operator.in_structure()
        given = as_recycled(system.recycled, self.nothing_recycled(structure), structure, "CG")
        keep = given.values.size
        warm = given.wanted

        def precondition(r: Vector) -> Vector:
            """`M r + s W diag(values)^-1 W^H r`: moves the values by `s`, the largest of them."""
            there = given.values > 0
            gains = jnp.where(there, jnp.max(given.values) / jnp.where(there, given.values, 1), 0)

            def correct(z: Vector) -> Vector:
                overlaps = _basis.overlaps(given.vectors, r)
                correction = _basis.combine(gains.astype(overlaps.dtype) * overlaps, given.vectors)
                return axpy(1, correction, z)

            return jax.lax.cond(warm, correct, lambda z: z, system.precondition(r))

        method = _conjugate_gradients(system, False, precondition, keep, ~warm)

        def remember(state: _State) -> Recycled:
            assert state.window is not None
            vectors, values = ritz(state.window)
            vectors = where(warm, given.vectors, vectors)
            return dataclasses.replace(
                given, vectors=vectors, sources=vectors, values=jnp.where(warm, given.values, values)
            )

        def report(memory: Recycled, stats: dict[str, Any]) -> dict[str, Any]:
            total = stats["num_matvecs"]
            handed_on = given.after(warm, total, memory.vectors, memory.sources, memory.values, setup=0)
            return {"recycled": given.unless_idle(stats["num_steps"], handed_on.renewed_when_stale())}

        return method._replace(
            start=lambda x, r, memory: method.start(x, r), memory=given, remember=remember, report=report
        )

    def _with_condition(self, method: Method, system: System) -> Method:
        structure = system.operator.in_structure()
        none = Coefficients.none(self.step_limit(structure), jnp.zeros((), real_dtype(structure)))
        return method._replace(
            start=lambda x, r, memory: method.start(x, r)._replace(coefficients=memory),
            memory=none,
            remember=lambda state: state.coefficients,
            report=lambda memory, stats: {"condition": memory.condition()},
        )


def _conjugate_gradients(
    system: System, plain: bool, precondition: Any, keep: int = 0, recording: Any = False
) -> Method:
    def start(x: Vector, r: Vector) -> _State:
        r_norm = norm(r)
        window = open_window(keep, r) if keep else None
        return _State(x, r, zeros_like(r), jnp.zeros_like(r_norm), r_norm, jnp.array(False), window)

    # M is applied at the head of a step: at one place in the program, which a multigrid cycle fills with
    # code, and never to the last residual, which needs no direction.
    def step(state: _State) -> _State:
        x, r, p, gamma, r_norm, _, window, coefficients = state
        z = precondition(r)
        gamma_next = r_norm**2 if plain else real(dot(r, z))
        beta = safe_divide(gamma_next, gamma)
        p = axpy(beta, p, z)
        q = system.product(p)
        curvature = real(dot(p, q))
        definite = (curvature > 0) & (gamma_next > 0)
        alpha = jnp.where(definite, safe_divide(gamma_next, curvature), 0)
        if window is not None:
            window = jax.lax.cond(
                recording & definite,
                lambda w: record(w, z, gamma_next, beta, alpha),
                lambda w: w,
                window,
            )
        if coefficients is not None:
            coefficients = coefficients.recorded(alpha, beta, definite)
        x = axpy(alpha, p, x)
        r = axpy(-alpha, q, r)
        return _State(x, r, p, gamma_next, norm(r), ~definite, window, coefficients)

    return Method(
        start,
        step,
        finish=lambda state: state.x,
        cycle_length=None,
        least_progress=0.5,
        restarts_when_broken=False,
        broken_means="indefinite",
    )

"""Restarted generalised minimal residuals, with a fixed or a varying preconditioner."""

import abc
import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from .._stopping import Method
from .._system import System
from .._vectors import Vector, axpy, hypot, norm, safe_divide, size
from .base import AbstractIterativeSolver, Cost, Preconditioner

# Some accelerators would multiply in lower precision and lose orthogonality.
_multiply = functools.partial(jnp.matmul, precision="highest")


class _State(NamedTuple):
    x: Vector
    basis: Array  # (m + 1, n): orthonormal Krylov vectors, zero where not built yet
    corrections: Array | None  # (m, n): M_j v_j, kept by FGMRES only
    rotations: Array  # (m + 1, m + 1): the Givens rotations so far, multiplied out
    triangle: Array  # (m, m): R of the Hessenberg matrix's QR factorisation
    rhs: Array  # (m + 1,): rotated right-hand side; its last live entry is the residual
    count: Array
    residual_norm: Array
    broken: Array


class _AbstractGMRES(AbstractIterativeSolver):
    restart: eqx.AbstractVar[int]

    def __check_init__(self):
        if not isinstance(self.restart, int) or self.restart < 1:
            raise ValueError(
                f"`{type(self).__name__}(restart=...)` must be an integer >= 1, but is {self.restart!r}."
            )

    @abc.abstractmethod
    def keeps_corrections(self) -> bool:
        """Whether the preconditioned vectors are stored."""

    def check(self, operator: lx.AbstractLinearOperator) -> None:
        del operator

    def prepare(self, system: System) -> System:
        return system

    def cost(self) -> Cost:
        return Cost(
            products_per_step=1,
            applications_per_step=1,
            applications_per_cycle=0 if self.keeps_corrections() else 1,
        )

    def method(self, system: System) -> Method:
        m = min(self.restart, size(system.operator.in_structure()))

        def start(x: Vector, r: Vector) -> _State:
            flat, _ = ravel_pytree(r)
            r_norm = norm(flat)
            basis = jnp.zeros((m + 1, flat.size), flat.dtype)
            corrections = basis[1:] if self.keeps_corrections() else None
            basis = basis.at[0].set(flat * safe_divide(jnp.ones_like(r_norm), r_norm))
            return _State(
                x=x,
                basis=basis,
                corrections=corrections,
                rotations=jnp.eye(m + 1, dtype=flat.dtype),
                triangle=jnp.eye(m, dtype=flat.dtype),
                rhs=jnp.zeros(m + 1, flat.dtype).at[0].set(r_norm.astype(flat.dtype)),
                count=jnp.zeros((), jnp.int32),
                residual_norm=r_norm,
                broken=jnp.array(False),
            )

        def step(s: _State) -> _State:
            j = s.count
            _, unravel = ravel_pytree(s.x)
            z = system.precondition(unravel(s.basis[j]))
            w, _ = ravel_pytree(system.product(z))
            corrections = s.corrections
            if corrections is not None:
                corrections = corrections.at[j].set(ravel_pytree(z)[0])
            # Classical Gram-Schmidt twice: as orthogonal as Householder, in four matrix-vector products.
            # Rows of the basis that are not built yet are zero and take no part.
            w_norm = norm(w)
            h = _multiply(s.basis.conj(), w)
            w = w - _multiply(h, s.basis)
            again = _multiply(s.basis.conj(), w)
            w = w - _multiply(again, s.basis)
            h = h + again
            height = norm(w)
            # An invariant subspace: what is left is rounding, and must not become a basis vector.
            invariant = height <= 10 * jnp.finfo(height.dtype).eps * w_norm
            height = jnp.where(invariant, 0, height)
            v = w * safe_divide(jnp.ones_like(height), height)
            basis = s.basis.at[j + 1].set(v)
            # One more column of the Hessenberg matrix, rotated to triangular form.
            column = _multiply(s.rotations, h)
            a = column[j]
            length = hypot(jnp.abs(a), height)
            phase = jnp.where(a == 0, jnp.ones_like(a), safe_divide(a, jnp.abs(a).astype(a.dtype)))
            cosine = safe_divide(jnp.abs(a), length).astype(a.dtype)
            sine = phase * safe_divide(height, length)
            column = jnp.where(jnp.arange(m + 1) < j, column, 0)[:m].at[j].set(phase * length)
            # Row j + 1 of the rotations is still that of the identity.
            upper, lower = s.rotations[j], s.rotations[j + 1]
            rotations = s.rotations.at[j].set(cosine * upper + sine * lower)
            rotations = rotations.at[j + 1].set(-sine.conj() * upper + cosine * lower)
            g = s.rhs[j]
            rhs = s.rhs.at[j].set(cosine * g).at[j + 1].set(-sine.conj() * g)
            return _State(
                x=s.x,
                basis=basis,
                corrections=corrections,
                rotations=rotations,
                triangle=s.triangle.at[:, j].set(column),
                rhs=rhs,
                count=j + 1,
                residual_norm=jnp.abs(rhs[j + 1]),
                broken=invariant | ~jnp.isfinite(height),
            )

        def finish(s: _State) -> Vector:
            live = jnp.arange(m) < s.count
            # A zero on the diagonal belongs to a singular operator: no component in that direction.
            pivots = jnp.diagonal(s.triangle)
            live &= jnp.abs(pivots) > jnp.finfo(s.residual_norm.dtype).eps * jnp.max(jnp.abs(pivots))
            triangle = jnp.where(
                live[:, None] & live[None, :], s.triangle, jnp.eye(m, dtype=s.triangle.dtype)
            )
            y = jax.scipy.linalg.solve_triangular(triangle, jnp.where(live, s.rhs[:m], 0))
            _, unravel = ravel_pytree(s.x)
            if s.corrections is not None:
                return axpy(1, unravel(_multiply(y, s.corrections)), s.x)
            return axpy(1, system.precondition(unravel(_multiply(y, s.basis[:m]))), s.x)

        return Method(
            start,
            step,
            finish,
            cycle_length=m,
            least_progress=0.9999,
            restarts_when_broken=True,
        )


class GMRES(_AbstractGMRES):
    """Restarted GMRES with right preconditioning, for any square operator.

    The robust choice for systems that are not symmetric.  The residual that is minimised is the true one, in
    the 2-norm.  Restarting bounds the memory and can stall: a cycle that gains less than 0.01 % ends the
    solve with `RESULTS.stagnation`; enlarge `restart` or precondition better.  Singular systems end
    successfully only if the residual says so.

    Cost of a step: one product, one application of `M`, and orthogonalisation against the basis by classical
    Gram-Schmidt done twice (four passes over it); `restart + 1` vectors are kept.  `num_steps` counts
    Arnoldi steps over all cycles.

    Stopping rule, common fields, options and statistics: see `nsolve.linear.AbstractIterativeSolver`.

    Saad and Schultz (1986), doi:10.1137/0907058; Giraud, Langou and Rozloznik (2005) for "twice is enough",
    doi:10.1016/j.camwa.2005.08.009.
    """

    rtol: Any
    atol: Any = 0.0
    max_steps: int | None = None
    preconditioner: Preconditioner | None = None
    history: bool = False
    restart: int = 30

    def keeps_corrections(self) -> bool:
        return False


class FGMRES(_AbstractGMRES):
    """Flexible GMRES: the preconditioner may be anything, and differ from step to step.

    As `GMRES`, but the preconditioned vectors are kept as well (`2 restart + 1` vectors in all), so that the
    solution is put together from what the preconditioner really did.

    Stopping rule, common fields, options and statistics: see `nsolve.linear.AbstractIterativeSolver`.

    Saad (1993), doi:10.1137/0914028.
    """

    rtol: Any
    atol: Any = 0.0
    max_steps: int | None = None
    preconditioner: Preconditioner | None = None
    history: bool = False
    restart: int = 30

    def keeps_corrections(self) -> bool:
        return True

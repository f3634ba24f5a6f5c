"""Restarted generalised minimal residuals, with a fixed or a varying preconditioner."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array

from .. import _basis
from .._stopping import Method
from .._system import System
from .._variable import AbstractVariablePreconditioner
from .._vectors import Vector, axpy, size
from ..monitor import AbstractMonitor
from ._arnoldi import Arnoldi, advance, begin, solution
from .base import (
    AbstractIterativeSolver,
    Preconditioner,
    Work,
    constant_field,
)


class _AbstractGMRES(AbstractIterativeSolver):
    restart: eqx.AbstractVar[int]

    squares_products: ClassVar[bool] = True

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

    def cost(self) -> Work:
        return Work(
            products_per_step=1,
            applications_per_step=1,
            applications_per_cycle=0 if self.keeps_corrections() else 1,
        )

    def method(self, system: System) -> Method:
        m = min(self.restart, size(system.operator.in_structure()))

        def finish_with_residual(s: Arnoldi) -> tuple[Vector, Vector, Array]:
            y, left, rounding = solution(s)
            if s.corrections is not None:
                r = _basis.combine(left, s.basis)
                return axpy(1, _basis.combine(y, s.corrections), s.x), r, rounding
            # One pass over the basis.
            both = _basis.combine(jnp.stack([jnp.append(y, jnp.zeros_like(y[:1])), left]), s.basis)
            z, r = (_basis.vector(both, k) for k in (0, 1))
            return axpy(1, system.precondition(z), s.x), r, rounding

        method = Method(
            start=lambda x, r, memory=None: begin(x, r, m, self.keeps_corrections(), memory),
            step=lambda s: advance(s, system),
            finish=lambda s: finish_with_residual(s)[0],
            cycle_length=m,
            least_progress=0.9999,
            restarts_when_broken=True,
            broken_means="singular",
            flat_means="flat_cycle",
            finish_with_residual=finish_with_residual,
        )
        if isinstance(system.preconditioner, AbstractVariablePreconditioner):
            method = method.with_variable(system.memory(), lambda s: s.memory)
        return method


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

    rtol: Any = constant_field()
    atol: Any = constant_field(default=0.0)
    max_steps: int | None = None
    preconditioner: Preconditioner | None = None
    history: bool = False
    monitor: AbstractMonitor | None = None
    restart: int = 30

    def keeps_corrections(self) -> bool:
        return False


class FGMRES(_AbstractGMRES):
    """Flexible GMRES: the preconditioner may be any function of a vector, and differ from step to step.

    As `GMRES`, but the preconditioned vectors are kept as well (`2 restart + 1` vectors in all), so that the
    solution is put together from what the preconditioner really did.  See `nsolve.preconditioners.Variable`.

    Stopping rule, common fields, options and statistics: see `nsolve.linear.AbstractIterativeSolver`.

    Saad (1993), doi:10.1137/0914028.
    """

    rtol: Any = constant_field()
    atol: Any = constant_field(default=0.0)
    max_steps: int | None = None
    preconditioner: Preconditioner | None = None
    history: bool = False
    monitor: AbstractMonitor | None = None
    restart: int = 30

    takes_variable: ClassVar[bool] = True

    def keeps_corrections(self) -> bool:
        return True

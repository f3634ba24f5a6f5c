"""Successive over-relaxation."""

from typing import Any

import equinox as eqx
import lineax as lx

from .._stopping import Method
from .._system import System
from ..monitor import AbstractMonitor
from ..preconditioners.ssor import Ordering, Relaxation, Sweep, check_relaxation
from .base import (
    AbstractIterativeSolver,
    Preconditioner,
    Work,
    constant_field,
)
from .richardson import stationary


class SOR(AbstractIterativeSolver):
    """Successive over-relaxation: `x <- x + omega (D + omega L)^-1 (b - A x)` with `A = L + D + U`.

    Gauss-Seidel for `omega = 1`.  For any square sparse matrix or stencil with a non-zero diagonal;
    it converges for every `0 < omega < 2` where `A` is Hermitian positive definite, and for `omega
    <= 1` where `A` is diagonally dominant.  Mostly a smoother, and a method whose parameter repays
    tuning; as a solver on its own, `CG` with `preconditioners.SSOR` is faster.

    * `omega`: the relaxation parameter; may be traced.
    * `sweep`: `"forward"`, `"backward"`, or `"symmetric"`, one after the other.
    * `ordering`: `"lexicographic"`, exact sweeps through the unknowns in the order given (compiled
      on CPUs, level by level elsewhere); or `"multicolour"`, sorted by the colours of a greedy
      colouring, for accelerators.

    `preconditioner` must stay None: the sweep is the preconditioner.

    Cost of a step: one product and one triangular solve (two for symmetric sweeps); two vectors are
    kept, and a scaled copy of the entries.  An iteration that diverges ends with
    `RESULTS.breakdown`, one that gains less than 0.01 % in 1000 steps with `RESULTS.stagnation`.  A
    zero on the diagonal ends with `RESULTS.breakdown` as well, and `stats["reason"]` says so;
    `nsolve.preconditioners.SSOR()(A)`, called on a concrete operator, names the row.

    Stopping rule, common fields, options and statistics: see
    `nsolve.linear.AbstractIterativeSolver`.

    Young (1954), doi:10.1090/S0002-9947-1954-0059635-7; Saad, *Iterative Methods for Sparse Linear
    Systems* (2003), section 4.1.
    """

    rtol: Any = constant_field()
    atol: Any = constant_field(default=0.0)
    max_steps: int | None = None
    preconditioner: Preconditioner | None = None
    history: bool = False
    monitor: AbstractMonitor | None = None
    omega: Any = 1.0
    sweep: Sweep = eqx.field(default="forward", static=True)
    ordering: Ordering = eqx.field(default="lexicographic", static=True)

    def __check_init__(self):
        check_relaxation("SOR", self.omega, self.sweep, self.ordering)

    def check(self, operator: lx.AbstractLinearOperator) -> None:
        del operator

    def prepare(self, system: System) -> System:
        if system.preconditioner is not None:
            raise ValueError(
                "`SOR` takes no preconditioner: the sweep is one. To combine both, use `FGMRES` "
                "or `CG` with `preconditioners.SSOR`."
            )
        sweep = Relaxation(self.omega, self.sweep, self.ordering)
        return System(system.operator, sweep.build(system.operator))

    def cost(self) -> Work:
        return Work(products_per_step=1, applications_per_step=0, applications_per_cycle=0)

    def method(self, system: System) -> Method:
        return stationary(system, system.precondition)

"""The one table of samplers: what each claims. `tests/test_diffusion_laws.py` holds every row to it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from nsolve import diffusion as D


@dataclass(frozen=True)
class Case:
    """A sampler, the global order that it has with exact starting values, and how many of these it needs.

    `form`, `variable`, `degree`: it is exact where the output in that form is a polynomial of that degree in
    that variable ("lam", "t", "rho" = sigma/alpha, "snr" = alpha/sigma, "flow" = sigma/(alpha+sigma)); degree
    None: no such claim. `invariant`: the same in every schedule. `first`: the number of steps from which its
    error falls regularly.
    """

    sampler: Any
    order: int
    known: int = 0
    form: str = "x0"
    variable: str = "lam"
    degree: int | None = None
    stochastic: bool = False
    invariant: bool = True
    first: int = 40

    @property
    def name(self) -> str:
        fields = [
            f"{key}={value}"
            for key, value in vars(self.sampler).items()
            if isinstance(value, str | int | float) and not (key == "legacy" and not value)
        ]
        return f"{type(self.sampler).__name__}({', '.join(fields)})"


def _statistics() -> D.Statistics:
    """Of normal data with standard deviation 0.9 there would be this l; s and b are any smooth functions."""
    lam = np.linspace(-6.0, 6.0, 121)
    return D.Statistics(lam, 1 / (1 + 0.8 * np.exp(2 * lam)), np.cos(lam / 2), 0.2 / (1 + lam**2))


_STATISTICS = _statistics()

CASES = [
    Case(D.DDIM(), 1, form="x0", degree=0),
    # DPM-Solver and DPM-Solver++
    Case(D.DPMSolver(1), 1, form="eps", degree=0),
    Case(D.DPMSolver(2), 2, known=1, form="eps", degree=0),
    Case(D.DPMSolver(2, variant="heun"), 2, known=1, form="eps", degree=1),
    Case(D.DPMSolver(3), 3, known=2, form="eps", degree=2),
    Case(D.DPMSolver(4), 4, known=3, form="eps", degree=3),
    Case(D.DPMSolver(2, "single"), 2, form="eps", degree=0),
    Case(D.DPMSolver(2, "single", variant="heun"), 2, form="eps", degree=1),
    Case(D.DPMSolver(3, "single"), 3, form="eps", degree=1),
    Case(D.DPMSolver(3, "single", variant="heun"), 3, form="eps", degree=2),
    Case(D.DPMSolver(2, "fast"), 2, form="eps", degree=0),
    Case(D.DPMSolverPP(2), 2, known=1, degree=0),
    Case(D.DPMSolverPP(2, variant="heun"), 2, known=1, degree=1),
    Case(D.DPMSolverPP(3), 3, known=2, degree=2),
    Case(D.DPMSolverPP(3, legacy=True), 2, known=2, degree=1, first=80),
    Case(D.DPMSolverPP(4), 4, known=3, degree=3),
    Case(D.DPMSolverPP(2, "single"), 2, degree=0),
    Case(D.DPMSolverPP(3, "single"), 3, degree=1),
    Case(D.DPMSolverPP(3, "single", variant="heun"), 3, degree=2),
    # UniPC: the corrector adds one
    Case(D.UniPC(1), 2, degree=0),
    Case(D.UniPC(2), 3, known=1, degree=1),
    Case(D.UniPC(2, variant="bh1"), 3, known=1, degree=0),
    Case(D.UniPC(2, variant="bh2"), 3, known=1, degree=0),
    Case(D.UniPC(3), 4, known=2, degree=2),
    Case(D.UniPC(3, prediction="eps"), 4, known=2, form="eps", degree=2, first=80),
    Case(D.UniPC(3, corrector=False), 3, known=2, degree=2),
    Case(D.UniPC(4, corrector=False), 4, known=3, degree=3),
    # DEIS, and the Adams methods of PNDM (of each kind the last row is the one whose table is traced)
    Case(D.DEIS(3, "log_rho"), 3, known=2, form="eps", degree=2),
    *(
        Case(D.DEIS(n, name), n, known=n - 1, form="eps", variable=name, degree=n - 1, first=80)
        for name in ("rho", "t")
        for n in (1, 2, 3, 4)
    ),
    *(Case(D.IPNDM(n, legacy=True), min(n, 2), known=n - 1, form="eps", degree=0) for n in (1, 2, 3, 4)),
    *(Case(D.IPNDM(n), n, known=n - 1, form="eps", variable="t", degree=n - 1, first=80) for n in (2, 3, 4)),
    *(Case(D.PNDM(kind, legacy=True), 2, form="eps", variable="t", degree=0) for kind in ("S", "F", "PLMS")),
    Case(D.PNDM("S"), 2, form="eps", variable="t", degree=0),
    Case(D.PNDM("PLMS"), 4, form="eps", variable="t", degree=0, first=80),
    Case(D.PNDM("F"), 4, form="eps", variable="t", degree=0, first=80),
    # Runge-Kutta in sigma / alpha and in sigma / (alpha + sigma)
    *(
        Case(D.RhoRK(name), n, form="eps", variable="rho", degree=n - 1)
        for name, n in (
            ("euler", 1),
            ("midpoint", 2),
            ("heun", 2),
            ("kutta3", 3),
            ("ralston3", 3),
            ("heun3", 3),
            ("vdh3", 3),
            ("ssprk3", 3),
            ("rk4", 4),
        )
    ),
    *(
        Case(D.FlowRK(name), n, form="flow", variable="flow", degree=n - 1)
        for name, n in (("euler", 1), ("midpoint", 2), ("heun", 2), ("ralston3", 3), ("rk4", 4))
    ),
    Case(D.RFSolver(), 2, form="flow", variable="flow", degree=1),
    Case(D.EDMHeun(), 2, form="eps", variable="rho", degree=1),
    Case(D.EDMHeun(alpha=2 / 3), 2, form="eps", variable="rho", degree=1),
    Case(D.AcceleratedDDIM(), 2, known=1, form="eps", degree=0),
    Case(D.AcceleratedDDIM(reuse=False), 2, form="eps", degree=0),
    # SA-Solver and ER-SDE without noise
    Case(D.SASolver(3, 0, tau=0.0), 3, known=2, degree=2),
    Case(D.SASolver(2, 4, tau=0.0), 3, known=2, degree=1),
    Case(D.SASolver(3, 2, tau=0.0, legacy=True), 2, known=2, degree=0),
    *(Case(D.ERSDE(n, "ode"), n, known=n - 1, variable="rho", degree=n - 1) for n in (1, 2, 3)),
    # DPM-Solver-v3, with statistics about those of the problem
    Case(D.DPMSolverV3(_STATISTICS, 1, corrector=False), 1),
    Case(D.DPMSolverV3(_STATISTICS, 2), 3, known=1),
    Case(D.DPMSolverV3(_STATISTICS, 3, corrector=False), 3, known=2),
    Case(D.DPMSolverV3(_STATISTICS, 3), 4, known=2),
    Case(D.DPMSolverV3(_STATISTICS, 3, pseudo="both"), 2, known=2),
    # Stochastic: `order` is that of the drift
    Case(D.DDIM(0.5), 1, stochastic=True),
    Case(D.DDIM(1.0), 1, stochastic=True),
    Case(D.DDPM(), 1, stochastic=True),
    Case(D.DDPM("large"), 1, stochastic=True, invariant=False),
    Case(D.DPMSolverPP(2, sde=True), 2, known=1, stochastic=True),
    Case(D.DPMSolverPP(3, sde=True), 3, known=2, stochastic=True),
    Case(D.EDMHeun(churn=2.0), 2, stochastic=True),
    Case(D.AcceleratedDDPM(), 2, stochastic=True),
    Case(D.SASolver(2, 0), 2, known=1, stochastic=True),
    Case(D.SASolver(3, 4, tau=0.6), 3, known=2, stochastic=True),
    Case(D.SASolver(2, 3, prediction="eps"), 2, known=1, stochastic=True),
    Case(D.SASolver(2, 3, tau=lambda t: 2.0 * t), 2, known=1, stochastic=True, invariant=False),
    Case(D.ERSDE(1, "sde2"), 1, stochastic=True),
    Case(D.ERSDE(2, "sde"), 2, known=1, stochastic=True),
    Case(D.ERSDE(3), 3, known=2, stochastic=True),
]

DETERMINISTIC = [case for case in CASES if not case.stochastic]
STOCHASTIC = [case for case in CASES if case.stochastic]

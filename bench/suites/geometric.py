"""Geometric multigrid beside geometric multigrid: PETSc's PCMG on the hierarchy of a DMDA, which halves an
odd number of points."""

from ..engine.suite import Group, Suite
from ..work import linear

_SOLVERS = ("cg+multigrid", "petsc:cg+mg", "petsc:cg+mg[smoother=jacobi]")

SUITE = Suite(
    "Geometric: multigrid that knows its grid, on Poisson problems",
    linear.WORK,
    (
        Group("poisson2d", _SOLVERS, size=[255, 511, 1023]),
        Group("poisson3d", _SOLVERS, size=[63, 127]),
    ),
)

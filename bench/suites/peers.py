"""The same method takes the same number of iterations in every library."""

from functools import partial

from ..engine.suite import Group, Suite
from ..work import linear

_group = partial(Group, repeats=1, history=True)

SUITE = Suite(
    "Peers: iteration counts of one method across libraries",
    linear.WORK,
    (
        _group(["poisson2d", "heat2d"], ["cg", "scipy:cg", "petsc:cg"], size=[64, 128]),
        # Lognormal systems take thousands of steps without a preconditioner; there rounding alone moves the
        # count (SciPy's and PETSc's differ too), so they are compared preconditioned only.
        _group(
            ["poisson2d", "heat2d", "lognormal2d[contrast=1e4]"],
            ["cg+jacobi", "scipy:cg+jacobi", "petsc:cg+jacobi", "cg+ssor", "petsc:cg+ssor",
             "cg+ssor[omega=1.5]", "petsc:cg+ssor[omega=1.5]", "cg+ic", "petsc:cg+icc"],
            size=[64, 128],
        ),
        _group(
            "fem2d",
            ["cg", "scipy:cg", "petsc:cg", "cg+jacobi", "petsc:cg+jacobi", "cg+ssor", "petsc:cg+ssor",
             "cg+ic", "petsc:cg+icc"],
            size=64,
        ),
        _group(["helmholtz2d", "poisson2d"], ["minres", "scipy:minres[stop=norm]"], size=64),
        _group(
            "convection_diffusion2d",
            ["bicgstab", "scipy:bicgstab", "petsc:bicgstab", "gmres[restart=30]+ilu",
             "petsc:gmres[restart=30]+ilu", "gmres[restart=30]", "petsc:gmres[restart=30]"],
            size=64,
        ),
    ),
)  # fmt: skip

"""What `make bench` runs: our solvers beside the libraries people use today, on small systems."""

from functools import partial

from ..engine.suite import Group, Suite
from ..work import linear

_group = partial(Group, max_steps=5000, history=True)

SUITE = Suite(
    "Quick: small systems of six kinds, to a true relative residual of 1e-8",
    linear.WORK,
    (
        _group(
            "poisson2d",
            ["cg", "cg[form=stencil]", "cg+ic", "cg+multigrid",
             "scipy:cg", "pyamg:ruge_stuben+cg", "lineax:cg", "jax.scipy:cg", "solvax:cg"],
            size=[64, 128, 256],
        ),
        _group(
            "lognormal2d[contrast=1e4]",
            ["cg+jacobi", "cg+ssor", "cg+ic", "cg+multigrid",
             "scipy:cg+jacobi", "pyamg:ruge_stuben+cg", "pyamg:smoothed_aggregation+cg",
             "lineax:cg+jacobi", "jax.scipy:cg+jacobi", "solvax:cg+jacobi"],
            size=128,
        ),
        _group(
            "lognormal2d[contrast=1e4]",
            ["cg+ic", "scipy:cg+jacobi", "pyamg:ruge_stuben+cg"],
            size=128,
            rtol=[1e-4, 1e-11],
        ),
        _group(
            "convection_diffusion2d",
            ["bicgstab", "bicgstab+ilu", "gmres+ilu",
             "scipy:bicgstab", "scipy:gmres+ilu", "lineax:bicgstab", "jax.scipy:bicgstab", "solvax:gmres"],
            size=64,
        ),
        _group(
            "helmholtz2d",
            ["minres", "gmres+ilu", "scipy:minres", "lineax:bicgstab", "solvax:cg", "scipy:splu"],
            size=64,
        ),
        _group("fem2d", ["cg+ic", "scipy:cg", "pyamg:smoothed_aggregation+cg", "jax.scipy:cg"], size=64),
        _group("pyamg[example=airfoil]", ["cg+ic", "scipy:cg", "pyamg:ruge_stuben+cg"]),
    ),
)  # fmt: skip

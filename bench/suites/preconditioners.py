"""Preconditioners: what each saves in steps and in seconds, on meshes, on grids and for waves.

Set-up and solve together, every column of a system in one run; the judge is the true relative residual.
Libraries that are not here are left out.
"""

from functools import partial

import polars as pl

from ..engine.suite import Group, Suite
from ..report.format import number, seconds
from ..report.tables import Table, Value
from ..work import linear

_NAMES = {
    "fem2d": "P1 triangles",
    "elasticity2d": "Elasticity, triangles",
    "elasticity3d": "Elasticity, tetrahedra",
    "media2d[law=smooth]": "Lognormal coefficient, sigma 2",
    "waves2d": "Waves, 12 points a wavelength",
}
_AGGREGATION = (
    "cg+jacobi", "cg+ict", "cg+amg[method=smoothed_aggregation]",
    "amgcl:smoothed_aggregation+cg", "pyamg:smoothed_aggregation+cg",
)  # fmt: skip
_group = partial(Group, repeats=3, kill_s=300.0, max_steps=3000)

SUITE = Suite(
    "Preconditioners: steps and seconds, set-up included",
    linear.WORK,
    (
        _group(
            "fem2d",
            ["cg+jacobi", "cg+ssor", "cg+fsai", "cg+fsai[entries=12]", "cg+ic", "cg+ict", "cg+amg",
             "amgcl:ruge_stuben+cg", "amgcl:smoothed_aggregation+cg",
             "pyamg:ruge_stuben+cg", "pyamg:smoothed_aggregation+cg"],
            size=[128, 450],
        ),
        _group("elasticity2d", _AGGREGATION, size=300),
        _group("elasticity3d", _AGGREGATION, size=24),
        _group(
            "media2d[law=smooth]",
            ["cg+jacobi", "cg+ssor", "cg+fsai", "cg+fsai[entries=12]", "cg+ic", "cg+ict", "cg+chebyshev",
             "cg+amg", "cg+multigrid"],
            size=256,
            rtol=1e-6,
        ),
        _group(
            "waves2d",
            ["fgmres[restart=20]+shifted_laplacian", "scipy:splu[ordering=COLAMD]"],
            size=[256, 512],
            rtol=1e-6,
        ),
    ),
    tables=(
        Table(
            name="preconditioned",
            title=lambda rows: f"{_NAMES[rows['problem'][0]]}, {rows['unknowns'][0]:,} unknowns",
            rows=("solver",),
            where=pl.col("result") != "missing",
            values=(
                Value("steps", number, "num_steps"),
                Value("set-up", seconds, "setup_s"),
                Value("solve", seconds, "seconds"),
                Value("both", seconds, "total"),
            ),
        ),
    ),
)  # fmt: skip

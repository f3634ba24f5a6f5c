"""Sequences of related systems: what carrying the subspace, sorting and warm starts are each worth, and what
a symmetric solver or multigrid takes for the same systems.

Columns without memory are measured on a few systems of the sequence; means per system are compared.  GMRES
stops at 10^4 steps.  GCRO-DR(40, 20) of the literature searches 40 dimensions: restart=20, recycle=20.
"""

from functools import partial

import polars as pl

from nsolve.gallery import drifting

from ..engine.suite import Group, Suite
from ..report.format import count, number
from ..report.tables import Table, Value, first
from ..work import sequence

_group = partial(Group, repeats=1, max_steps=10000)
_small = partial(_group, size=200, count=5, rtol=1e-10, repeats=9)
_large = partial(_group, count=200, sample=4)
_TO_TWO = [1e-5, 1e-8]
_KINDS = pl.col("problem").is_in(list(drifting.KINDS))


def _crossed(form):
    """A cross marks a column that did not solve all of its systems."""
    return lambda value, ok: form(value) + ("" if ok else " ✗")


def _methods(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(
        ("`" + pl.col("method") + "`").alias("method"),
        pl.col("preconditioner").replace("", "none"),
        pl.col("index").min().over("preconditioner").alias("place"),
    ).sort("problem", "size", "place", pl.col("rtol").neg(), maintain_order=True)


SUITE = Suite(
    "Recycle: sequences of systems, recycled, sorted and started warm",
    sequence.WORK,
    (
        # Small dense systems that drift, every product counted.
        _small(
            ["outliers", "laplacian1d", "wellconditioned"],
            ["gmres[restart=30]", "gmres[restart=60]", "gcro_dr[restart=30,recycle=10]",
             "gcro_dr[restart=30,recycle=10]@carried",
             "solvax:gcrot[restart=30,recycle=10,strategy=harmonic]@carried",
             "solvax:gcrot[restart=30,recycle=10,strategy=fifo]@carried"],
        ),
        _small(["outliers", "laplacian1d"], ["cg", "cg[recycle=10]@carried"]),
        # 6400 unknowns: every preconditioner.
        _large(
            "darcy",
            ["gmres[restart=40]", "gmres[restart=200]", "gcro_dr[restart=20,recycle=20]",
             "gcro_dr[restart=20,recycle=20]@carried,sorted",
             "gmres[restart=40]+jacobi", "gcro_dr[restart=20,recycle=20]+jacobi",
             "gcro_dr[restart=20,recycle=20]+jacobi@carried,sorted",
             "gmres[restart=40]+ssor", "gcro_dr[restart=20,recycle=20]+ssor",
             "gcro_dr[restart=20,recycle=20]+ssor@carried,sorted",
             "gmres[restart=40]+ilu", "gmres[restart=200]+ilu", "gcro_dr[restart=20,recycle=20]+ilu",
             "gcro_dr[restart=20,recycle=20]+ilu@carried,sorted",
             "gmres[restart=40]+ic", "gcro_dr[restart=20,recycle=20]+ic",
             "gcro_dr[restart=20,recycle=20]+ic@carried,sorted",
             "minres", "cg", "cg+jacobi", "cg+ssor", "cg+ic", "cg+multigrid",
             "cg[recycle=20]@carried,sorted", "cg[recycle=20]+ic@carried,sorted"],
            size=80,
            rtol=[1e-2, *_TO_TWO],
        ),
        _group(
            "darcy",
            ["gcro_dr[restart=20,recycle=20]@carried", "gcro_dr[restart=20,recycle=20]@carried,sorted,warm",
             "gcro_dr[restart=20,recycle=20]+ilu@carried",
             "gcro_dr[restart=20,recycle=20]+ilu@carried,sorted,warm",
             "gcro_dr[restart=40,recycle=40]@carried,sorted",
             "gcro_dr[restart=40,recycle=40]+jacobi@carried,sorted",
             "gcro_dr[restart=40,recycle=40]+ssor@carried,sorted",
             "gcro_dr[restart=40,recycle=40]+ilu@carried,sorted"],
            size=80,
            count=200,
            rtol=_TO_TWO,
        ),
        _large(
            "helmholtz",
            ["gmres[restart=40]", "gcro_dr[restart=20,recycle=20]",
             "gcro_dr[restart=20,recycle=20]@carried,sorted"],
            size=100,
            rtol=1e-5,
        ),
        _large(
            "helmholtz",
            ["gmres[restart=40]+ilu", "gmres[restart=200]+ilu", "gcro_dr[restart=20,recycle=20]+ilu",
             "gcro_dr[restart=20,recycle=20]+ilu@carried",
             "gcro_dr[restart=20,recycle=20]+ilu@carried,sorted",
             "gcro_dr[restart=20,recycle=20]+ilu@carried,sorted,warm", "minres"],
            size=100,
            rtol=_TO_TWO,
        ),
        _large(
            ["thermal", "darcy"],
            ["gmres[restart=40]", "gcro_dr[restart=20,recycle=20]",
             "gcro_dr[restart=20,recycle=20]@carried,sorted"],
            size=100,
        ),
        _large(
            ["thermal", "darcy"],
            ["gmres[restart=40]+ilu", "gmres[restart=200]+ilu", "gcro_dr[restart=20,recycle=20]+ilu",
             "gcro_dr[restart=20,recycle=20]+ilu@carried",
             "gcro_dr[restart=20,recycle=20]+ilu@carried,sorted",
             "gcro_dr[restart=20,recycle=20]+ilu@carried,sorted,warm",
             "minres", "cg", "cg+ic", "cg+multigrid", "cg[recycle=20]+ic@carried,sorted"],
            size=100,
            rtol=_TO_TWO,
        ),
    ),
    tables=(
        Table(
            name="recycling",
            title="{system}, {unknowns:,} unknowns, {length} systems: mean steps",
            where=~_KINDS,
            group=("problem", "size", "dtype", "device", "seed", "length"),
            derive=_methods,
            rows=("preconditioner", "rtol"),
            across="method",
            across_key=lambda method: (method.split("@")[0], len(method)),  # more handed on, further right
            values=(Value("", _crossed(number), first("steps"), first("ok")),),
            verdict=False,
        ),
        Table(
            name="drifting",
            title="Products in all",
            where=_KINDS,
            group=(),
            across="problem",
            values=(Value("", _crossed(count), first("num_matvecs"), first("ok")),),
            verdict=False,
        ),
    ),
)  # fmt: skip

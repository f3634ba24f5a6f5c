"""The speed and memory that the project promises, each beside the libraries that set the mark."""

import polars as pl

from ..engine.suite import Group, Suite
from ..report.format import count, seconds
from ..report.tables import Promise, Promises, Table, Value
from ..work import linear

_512 = {"problem": "poisson2d", "size": 512, "solver": "cg"}


def _beside(form: str, **libraries: str) -> dict[str, dict]:
    return {name.replace("_", "."): {"solver": f"{library}:{form}"} for name, library in libraries.items()}


PROMISES = (
    Promise(
        "product, 1024² sparse",
        {"problem": "poisson2d", "size": 1024, "solver": "product"},
        {"SciPy": {"solver": "scipy:product"}, "JAX's BCOO": {"solver": "jax.scipy:product[form=bcoo]"}},
    ),
    Promise("CG, 512², sparse", _512, _beside("cg[form=sparse]", jax_scipy="jax.scipy", lineax="lineax")),
    Promise(
        "CG, 512², stencil",
        _512 | {"solver": "cg[form=stencil]"},
        _beside("cg[form=stencil]", jax_scipy="jax.scipy", lineax="lineax", solvax="solvax"),
    ),
    Promise("CG, 512², sparse", _512, _beside("cg", PETSc="petsc", SciPy="scipy")),
    Promise(
        "IC(0)-CG, 512², with set-up",
        _512 | {"solver": "cg+ic"},
        {"PETSc": {"solver": "petsc:cg+icc"}},
        "total",
    ),
    Promise(
        "geometric multigrid-CG, 512², with set-up",
        _512 | {"solver": "cg+multigrid"},
        {
            "AMGCL, algebraic": {"solver": "amgcl:smoothed_aggregation+cg"},
            "hypre, algebraic": {"solver": "petsc:cg+hypre"},
            "PyAMG, algebraic": {"solver": "pyamg:ruge_stuben+cg"},
        },
        "total",
    ),
    Promise(
        "geometric multigrid-CG, 511², with set-up",  # of the suite geometric, if its records are there
        _512 | {"size": 511, "solver": "cg+multigrid"},
        {"PETSc, geometric": {"solver": ["petsc:cg+mg", "petsc:cg+mg[smoother=jacobi]"]}},
        "total",
    ),
    Promise(
        "first call of CG, 512², sparse", _512, _beside("cg[form=sparse]", lineax="lineax"), "first_call_s"
    ),
    Promise(
        "first call of geometric multigrid-CG, 512²", _512 | {"solver": "cg+multigrid"}, value="first_call_s"
    ),
)
PHASES = Table(
    name="phases",
    title="",
    where=(pl.col("problem") == "poisson2d") & (pl.col("size") == 512) & (pl.col("library") == "nsolve"),
    values=(
        Value("steps", count, "num_steps"),
        # Without a preconditioner there is nothing to set up.
        Value("set-up", seconds, pl.when(pl.col("preconditioner") != "").then("setup_s").first()),
        Value("compile, once", seconds, "compile_s"),
        Value("solve", seconds, "seconds"),
    ),
    verdict=False,
)

SUITE = Suite(
    "Foundation: products, CG, incomplete Cholesky and multigrid on Poisson problems",
    linear.WORK,
    (
        Group(
            "poisson2d",
            ["product", "product[form=stencil]", "scipy:product",
             "jax.scipy:product[form=bcoo]", "jax.scipy:product[form=bcsr]"],
            size=1024,
        ),
        Group(
            "poisson2d",
            ["cg", "cg[form=stencil]", "jax.scipy:cg[form=sparse]", "jax.scipy:cg[form=stencil]",
             "lineax:cg[form=sparse]", "lineax:cg[form=stencil]", "solvax:cg[form=stencil]"],
            size=512,
            first_call=3,
        ),
        Group("poisson2d", ["scipy:cg", "petsc:cg", "jax.scipy:cg[form=bcoo]"], size=512),
        Group("poisson2d", ["cg+ic", "petsc:cg+icc"], size=512),
        Group("poisson2d", "cg+multigrid", size=512, first_call=3),
        Group(
            "poisson2d",
            ["amgcl:smoothed_aggregation+cg", "amgcl:ruge_stuben+cg", "petsc:cg+hypre",
             "petsc:cg+gamg", "pyamg:ruge_stuben+cg", "pyamg:smoothed_aggregation+cg"],
            size=512,
        ),
        Group("poisson3d", "cg+multigrid", size=[64, 128, 256], memory=True),
    ),
    tables=(Promises(PROMISES), PHASES),
)  # fmt: skip

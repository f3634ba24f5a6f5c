"""A pytest plugin that points the test suite of lineax, optimistix or diffrax at this package, in memory.

* Where a test names one of lineax's Krylov solvers it gets ours of the same name.
* `lineax.AutoLinearSolver`, the default of every root finder, least-squares solver and implicit adjoint,
  chooses our `GMRES` for general square operators, where it chose `LU`, and our `CG` for definite ones.
* lineax's list of operators is extended by ours.

What is known to fail is listed in `exceptions.py`, each with its reason.
"""

import importlib
import os
from pathlib import Path

import jax
import lineax as lx
import pytest

import nsolve as ns

from exceptions import EXPECTED  # isort: skip

# As all three suites set it; their helpers read it when they are imported.
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

SUITE = os.environ["UPSTREAM_SUITE"]


def sparse_operator(getkey, matrix, tags):
    """A row of `make_operators`: the matrix as a `SparseLinearOperator` on its full pattern."""
    del getkey
    rows, columns = (axis.reshape(-1) for axis in jax.numpy.indices(matrix.shape))
    return ns.SparseLinearOperator.from_coo(matrix.reshape(-1), rows, columns, matrix.shape, tags)


def _ours(value):
    inner = getattr(value, "inner_solver", value)
    return type(inner).__module__.startswith("nsolve") or value is sparse_operator


def _row(item):
    return getattr(getattr(item, "callspec", None), "params", {})


def pytest_configure():
    if SUITE == "lineax":
        for name in ("CG", "GMRES", "BiCGStab"):
            setattr(lx, name, getattr(ns, name))
        importlib.import_module("tests.helpers").make_operators.append(sparse_operator)
    else:
        choices = importlib.import_module("lineax._solver")
        # On Rosenbrock's function of twenty unknowns (condition 4e4) less is out of reach, and said to be so.
        choices.LU = lambda: ns.GMRES(rtol=1e-11)
        choices.Cholesky = lambda: ns.CG(rtol=1e-10)


def pytest_collection_modifyitems(config, items):
    if SUITE == "lineax":
        # Rows of lineax's own solvers on its own operators say nothing of us, and two kinds of its operators
        # are enough for our solvers: one that has a matrix, one that has none.
        def about_us(item):
            row = _row(item)
            if "make_operator" in row and not _ours(row["make_operator"]):
                kinds = ("make_matrix_operator", "make_jac_operator")
                return "solver" in row and _ours(row["solver"]) and row["make_operator"].__name__ in kinds
            return "make_operator" in row or "solver" not in row or _ours(row["solver"])

        config.hook.pytest_deselected(items=[item for item in items if not about_us(item)])
        items[:] = filter(about_us, items)
    for item in items:
        for names, condition, raises, reason in EXPECTED[SUITE]:
            if item.originalname in names and condition(_row(item)):
                item.add_marker(pytest.mark.xfail(reason=reason, raises=raises, strict=True))


_MAPS = Path("/proc/self/maps")


def pytest_runtest_teardown():
    """Drops compiled programs before the process has as many memory maps as Linux allows (65 530): XLA aborts
    there."""
    if _MAPS.exists() and len(_MAPS.read_bytes().splitlines()) > 30_000:
        jax.clear_caches()

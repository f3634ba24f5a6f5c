"""A pytest plugin that points the test suite of lineax, optimistix or diffrax at this package, in memory.

* Where a test names one of lineax's Krylov solvers it gets ours of the same name.
* `lineax.AutoLinearSolver`, the default of every root finder, least-squares solver and implicit adjoint,
  chooses our `GMRES` for general square operators, where it chose `LU`, and our `CG` for definite ones.
* lineax's list of operators is extended by ours.

What is known to fail is listed in `exceptions.py`, each with its reason.
"""

import importlib
import os

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


def pytest_configure():
    if SUITE == "lineax":
        for name in ("CG", "GMRES", "BiCGStab"):
            setattr(lx, name, getattr(ns, name))
        importlib.import_module("tests.helpers").make_operators.append(sparse_operator)
    else:
        choices = importlib.import_module("lineax._solver")
        choices.LU = lambda: ns.GMRES(rtol=1e-12)
        choices.Cholesky = lambda: ns.CG(rtol=1e-12)


def pytest_collection_modifyitems(config, items):
    if SUITE == "lineax":
        # Rows of lineax's own solvers on its own operators say nothing of us.
        def about_us(item):
            given = getattr(getattr(item, "callspec", None), "params", {})
            chosen = [given[name] for name in ("solver", "make_operator") if name in given]
            return not chosen or any(map(_ours, chosen))

        config.hook.pytest_deselected(items=[item for item in items if not about_us(item)])
        items[:] = filter(about_us, items)
    for item in items:
        for name, condition, reason in EXPECTED.get(SUITE, ()):
            parameters = getattr(getattr(item, "callspec", None), "params", {})
            if item.originalname == name and condition(parameters):
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))

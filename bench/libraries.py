"""How the probes ask each library: its solvers as its own documentation calls them.

The benchmark's columns (`bench.peers`) give every library the fairest stopping rule that it can
express. The probes ask the plain question instead, `rtol` given and `atol` zero, and take the
library at its word: `claim` is True where it says success, False where it says failure or raises,
None where it says nothing.
"""

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.sparse.linalg as jspla
import lineax as lx
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import nsolve as ns

MAX_STEPS = 6_000
LIBRARIES = ("nsolve", "solvax", "lineax", "jax.scipy", "scipy", "pyamg")


@dataclass(frozen=True)
class Reply:
    """An answer, and what the library says of it."""

    x: np.ndarray | None
    claim: bool | None
    error: str = ""


@dataclass(frozen=True)
class Asked:
    """One solver of one library.

    `admits` is `spd`, `symmetric` or `any`. `solve(A, b, rtol)` takes a CSR matrix, or for
    `traced` solvers any function of a vector, and gives `(x, claim)`. `differentiable` maps
    `(matvec, b, rtol)` to `x` under JAX's transformations. A `direct` solver has no tolerance.
    """

    library: str
    name: str
    admits: str
    solve: Callable[[Any, Any, float], tuple[Any, Any]]
    differentiable: Callable[[Any, Any, float], Any] | None = None
    direct: bool = False

    def reply(self, matrix: Any, b: np.ndarray, rtol: float) -> Reply:
        """Ask; whatever is raised counts as a refusal."""
        try:
            with warnings.catch_warnings():
                # Not `simplefilter`, which PyAMG overrides; a library is judged by what it returns.
                warnings.showwarning = lambda *_, **__: None
                x, claim = self.solve(matrix, b, rtol)
            x = np.asarray(x)
        except Exception as error:
            text = " ".join(str(error).split())
            return Reply(None, False, f"{type(error).__name__}: {text}"[:200])
        return Reply(x, None if claim is None else bool(claim))


def columns(names: list[str] | None = None) -> tuple[list[Asked], list[str]]:
    """The solvers of the named libraries (all by default), and the libraries not installed."""
    names = list(LIBRARIES) if names is None else names
    for name in names:
        if name not in LIBRARIES:
            raise ValueError(f"no library {name!r} to probe: choose from {', '.join(LIBRARIES)}")
    absent = [n for n in names if n in ("solvax", "pyamg") and not importlib.util.find_spec(n)]
    makers = {
        "nsolve": _nsolve,
        "solvax": _solvax,
        "lineax": _lineax,
        "jax.scipy": _jax_scipy,
        "scipy": _scipy,
        "pyamg": _pyamg,
    }
    return [asked for n in names if n not in absent for asked in makers[n]()], absent


def product(matrix: Any) -> Callable[[Any], Any]:
    """A function of a JAX vector that multiplies with the matrix; functions pass as they are."""
    if callable(matrix):
        return matrix
    dense = jnp.asarray(matrix.toarray())
    return lambda x: dense @ x


def _through_lineax(
    make: Callable[[float], Any], tag: Any, as_operator: Callable = lx.FunctionLinearOperator
) -> tuple[Callable, Callable]:
    tags = frozenset() if tag is None else frozenset({tag})

    def solution(matvec, b, rtol):
        operator = as_operator(matvec, jax.eval_shape(lambda: b), tags)
        return lx.linear_solve(operator, b, make(rtol), throw=False)

    def solve(matrix, b, rtol):
        answer = solution(product(matrix), jnp.asarray(b), rtol)
        return answer.value, answer.result == lx.RESULTS.successful

    return solve, lambda matvec, b, rtol: solution(matvec, b, rtol).value


def _nsolve() -> list[Asked]:
    spd, symmetric = lx.positive_semidefinite_tag, lx.symmetric_tag
    table = (
        ("cg", "spd", spd, ns.CG),
        ("flexible_cg", "spd", spd, ns.FlexibleCG),
        ("minres", "symmetric", symmetric, ns.MINRES),
        ("bicgstab", "any", None, ns.BiCGStab),
        ("gmres", "any", None, ns.GMRES),
        ("fgmres", "any", None, ns.FGMRES),
    )
    found = []
    for name, admits, tag, cls in table:
        solve, differentiable = _through_lineax(
            lambda rtol, cls=cls: cls(rtol=rtol, max_steps=MAX_STEPS), tag, ns.function_operator
        )
        found.append(Asked("nsolve", name, admits, solve, differentiable))
    return found


def _lineax() -> list[Asked]:
    table = (
        ("cg", "spd", lx.positive_semidefinite_tag, lx.CG),
        ("bicgstab", "any", None, lx.BiCGStab),
        ("gmres", "any", None, lx.GMRES),
    )
    found = []
    for name, admits, tag, cls in table:
        solve, differentiable = _through_lineax(
            lambda rtol, cls=cls: cls(rtol=rtol, atol=0.0, max_steps=MAX_STEPS), tag
        )
        found.append(Asked("lineax", name, admits, solve, differentiable))
    return found


def _jax_scipy() -> list[Asked]:
    found = []
    for name, admits in (("cg", "spd"), ("bicgstab", "any"), ("gmres", "any")):
        function = getattr(jspla, name)
        # GMRES counts restarts of 20.
        limit = MAX_STEPS // 20 if name == "gmres" else MAX_STEPS

        def answer(matvec, b, rtol, function=function, limit=limit):
            return function(matvec, b, tol=rtol, atol=0.0, maxiter=limit)

        def solve(matrix, b, rtol, answer=answer):
            x, info = answer(product(matrix), jnp.asarray(b), rtol)
            return x, None if info is None else info == 0

        def differentiable(matvec, b, rtol, answer=answer):
            return answer(matvec, b, rtol)[0]

        found.append(Asked("jax.scipy", name, admits, solve, differentiable))
    return found


def _solvax() -> list[Asked]:
    import solvax

    def pcg(matrix, b, rtol):
        answer = solvax.pcg(product(matrix), jnp.asarray(b), rtol=rtol, max_steps=MAX_STEPS)
        return answer.x, answer.converged

    def gmres(matrix, b, rtol):
        answer = solvax.gmres(product(matrix), jnp.asarray(b), rtol=rtol, max_restarts=MAX_STEPS // 30)
        return answer.x, answer.converged

    def gcrot(matrix, b, rtol):
        answer = solvax.gcrot(product(matrix), jnp.asarray(b), rtol=rtol, max_restarts=MAX_STEPS // 30)
        return answer.x, answer.converged

    def implicit(method):
        def differentiable(matvec, b, rtol):
            def inner(matvec, b):
                return method(matvec, b, rtol=rtol, max_restarts=MAX_STEPS // 30).x

            return solvax.linear_solve(matvec, b, inner)

        return differentiable

    def implicit_pcg(matvec, b, rtol):
        return solvax.pcg_linear_solve(matvec, b, rtol=rtol, max_steps=MAX_STEPS).x

    return [
        Asked("solvax", "pcg", "spd", pcg, implicit_pcg),
        Asked("solvax", "gmres", "any", gmres, implicit(solvax.gmres)),
        Asked("solvax", "gcrot", "any", gcrot, implicit(solvax.gcrot)),
    ]


def _as_scipy(matrix: Any, n: int) -> Any:
    """A CSR matrix as it is; a function as a SciPy linear operator."""
    return spla.LinearOperator((n, n), matvec=matrix) if callable(matrix) else matrix


def _scipy() -> list[Asked]:
    def krylov(name, **keywords):
        def solve(matrix, b, rtol):
            system = _as_scipy(matrix, len(b))
            x, info = getattr(spla, name)(system, b, rtol=rtol, **keywords)
            return x, info == 0

        return solve

    def spsolve(matrix, b, rtol):
        if callable(matrix):
            raise TypeError("SuperLU needs a matrix")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            x = spla.spsolve(sp.csc_matrix(matrix), b)
        singular = any(issubclass(w.category, spla.MatrixRankWarning) for w in caught)
        return x, False if singular else None

    steps = {"maxiter": MAX_STEPS, "atol": 0.0}
    return [
        Asked("scipy", "cg", "spd", krylov("cg", **steps)),
        Asked("scipy", "minres", "symmetric", krylov("minres", maxiter=MAX_STEPS)),
        Asked("scipy", "bicgstab", "any", krylov("bicgstab", **steps)),
        Asked("scipy", "gmres", "any", krylov("gmres", maxiter=MAX_STEPS // 20, atol=0.0)),
        Asked("scipy", "spsolve", "any", spsolve, direct=True),
    ]


def _pyamg() -> list[Asked]:
    import pyamg
    import pyamg.krylov

    def krylov(name, limit=MAX_STEPS, **keywords):
        def solve(matrix, b, rtol):
            system = _as_scipy(matrix, len(b))
            function = getattr(pyamg.krylov, name)
            x, info = function(system, b, tol=rtol, maxiter=limit, **keywords)
            return x, info == 0

        return solve

    def ruge_stuben(matrix, b, rtol):
        if callable(matrix):
            raise TypeError("multigrid set-up needs a matrix")
        # int32 indices are what PyAMG's compiled set-up takes.
        hierarchy = pyamg.ruge_stuben_solver(sp.csr_matrix(matrix))
        x, info = hierarchy.solve(b, tol=rtol, maxiter=200, accel="cg", return_info=True)
        return x, info == 0

    return [
        Asked("pyamg", "cg", "spd", krylov("cg")),
        Asked("pyamg", "bicgstab", "any", krylov("bicgstab")),
        Asked("pyamg", "gmres", "any", krylov("gmres", limit=MAX_STEPS // 30, restart=30)),
        Asked("pyamg", "ruge_stuben+cg", "spd", ruge_stuben),
    ]

"""SciPy: CG, MINRES, BiCGStab, GMRES, SuperLU and the CSR product; for kernel systems LAPACK's Cholesky
factors.

Stopping rules. `cg`, `bicgstab`: `||r|| <= rtol ||b||` on the recurrence. `gmres`: the same on the
true residual at each restart; left preconditioned inside. `minres` by default has its own rule,
`||r|| <= rtol ||A|| ||x||`, which is weaker; `minres[stop=norm]` checks `||b - A x|| <= rtol ||b||`
from a callback (one more product a step: for counts, not for times).
Preconditioners: `jacobi`, and `ilu` which is SuperLU's threshold factorisation (not ILU(0)).
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg as sl
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from ..engine.options import Option
from ..engine.work import Answer, Library, Offer, Run, Task
from . import _plain

SOLVERS = {
    "cg": {},
    "minres": {"stop": Option(choices=("own", "norm"))},
    "bicgstab": {},
    "gmres": {"restart": Option(least=1)},
    "splu": {"ordering": Option(choices=("MMD_AT_PLUS_A", "MMD_ATA", "COLAMD", "NATURAL"))},
    "product": {},
}
# SuperLU would end the whole process over other numbers.
PRECONDITIONERS = {
    "jacobi": {},
    "ilu": {"drop_tol": Option(least=0.0, most=1.0), "fill_factor": Option(least=1.0)},
}


class _Converged(Exception):
    def __init__(self, x):
        self.x = x


class KrylovRun(Run):
    """One of SciPy's Krylov methods."""

    def setup(self) -> Any:
        if self.spec.preconditioner is None:
            return None
        return _preconditioner(self.task.problem.matrix, self.spec.preconditioner)

    def solve(self, program: Any) -> Any:
        task, name, options = self.task, self.spec.solver.name, self.spec.solver.options
        matrix, rhs = task.problem.matrix, task.problem.rhs
        norms: list[float] = []
        count = 0
        norm_b = np.linalg.norm(rhs)
        by_norm = options.get("stop", "own") == "norm"

        def callback(x):
            nonlocal count
            count += 1
            if np.ndim(x) == 0:  # GMRES hands over its own residual norm, relative to b
                norms.append(float(x))
            elif by_norm:
                norms.append(float(np.linalg.norm(rhs - matrix @ x) / norm_b))
                if norms[-1] <= task.rtol:
                    raise _Converged(x.copy())

        keywords: dict[str, Any] = {"rtol": task.rtol, "M": program, "callback": callback}
        if name == "minres":
            # Its own test must not end a run that the norm test decides.
            keywords["rtol"] = 1e-300 if by_norm else task.rtol
            keywords["maxiter"] = task.max_steps
        elif name == "gmres":
            restart = int(options.get("restart", 30))
            keywords |= {"atol": 0.0, "restart": restart, "callback_type": "pr_norm"}
            keywords["maxiter"] = -(-task.max_steps // restart)
        else:
            keywords |= {"atol": 0.0, "maxiter": task.max_steps}
        try:
            x, info = getattr(spla, name)(matrix, rhs, **keywords)
        except _Converged as converged:
            x, info = converged.x, 0
        return x, info, count, norms

    def answer(self, raw: Any) -> Answer:
        x, info, count, norms = raw
        products = count * (2 if self.spec.solver.name == "bicgstab" else 1)
        return Answer(
            "successful" if info == 0 else "max_steps_reached" if info > 0 else "breakdown",
            x,
            {
                "num_steps": count,
                "num_matvecs": products,
                "num_preconditioner_applications": products if self.spec.preconditioner else 0,
            },
            residual_norms=[1.0, *norms] if norms and self.task.history else None,
        )


class DirectRun(Run):
    """Sparse LU (SuperLU): the set-up factorises, the solve is two triangular solves."""

    def setup(self) -> Any:
        ordering = str(self.spec.solver.options.get("ordering", "MMD_AT_PLUS_A"))
        return spla.splu(self.task.problem.matrix.tocsc(), permc_spec=ordering)

    def solve(self, program: Any) -> Any:
        return program.solve(self.task.problem.rhs)

    def answer(self, raw: Any) -> Answer:
        return Answer("successful", raw, {"num_steps": 0, "num_matvecs": 0})


class CholeskyRun(Run):
    """The set-up forms the dense matrix of a kernel system and factorises it in its place."""

    def setup(self) -> Any:
        # As LAPACK wants it by columns; it is symmetric.
        return sl.cho_factor(self.task.problem.dense().T, lower=True, overwrite_a=True, check_finite=False)

    def solve(self, program: Any) -> Any:
        return sl.cho_solve(program, self.task.problem.rhs, check_finite=False)

    def answer(self, raw: Any) -> Answer:
        return Answer("successful", raw, {"num_steps": 0, "num_matvecs": 0})


class ProductRun(Run):
    """y = A b with SciPy's CSR."""

    def setup(self) -> Any:
        return self.task.problem.matrix

    def solve(self, program: Any) -> Any:
        return program @ self.task.problem.rhs

    def answer(self, raw: Any) -> Answer:
        return Answer("successful", raw, {"num_steps": 0, "num_matvecs": 1})


def _preconditioner(matrix: sp.csr_array, part: Any) -> spla.LinearOperator:
    if part.name == "jacobi":
        inverse = 1 / matrix.diagonal()
        return spla.LinearOperator(matrix.shape, lambda x: inverse * x, dtype=matrix.dtype)
    factors = spla.spilu(matrix.tocsc(), **part.options)
    return spla.LinearOperator(matrix.shape, factors.solve, dtype=matrix.dtype)


def prepare(task: Task) -> Run:
    """The run of one column."""
    kinds = {"splu": DirectRun, "product": ProductRun}
    return kinds.get(task.spec.solver.name, KrylovRun)(task)


def _asked(name: str, admits: str, **keywords: Any) -> Callable[[], _plain.Asked]:
    def solve(matrix, b, rtol):
        system = spla.LinearOperator((len(b),) * 2, matvec=matrix) if callable(matrix) else matrix
        x, info = getattr(spla, name)(system, b, rtol=rtol, **keywords)
        return x, info == 0

    return lambda: _plain.Asked(admits, solve)


def _spsolve(matrix: Any, b: np.ndarray, rtol: float) -> tuple[np.ndarray, bool | None]:
    if callable(matrix):
        raise TypeError("SuperLU needs a matrix")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        x = spla.spsolve(sp.csc_matrix(matrix), b)
    singular = any(issubclass(w.category, spla.MatrixRankWarning) for w in caught)
    return x, False if singular else None


_ASKED = {
    "cg": _asked("cg", "spd", maxiter=_plain.MAX_STEPS, atol=0.0),
    "minres": _asked("minres", "symmetric", maxiter=_plain.MAX_STEPS),
    "bicgstab": _asked("bicgstab", "any", maxiter=_plain.MAX_STEPS, atol=0.0),
    "gmres": _asked("gmres", "any", maxiter=_plain.MAX_STEPS // 20, atol=0.0),
    "spsolve": lambda: _plain.Asked("any", _spsolve, direct=True),
}


LIBRARY = Library(
    "scipy",
    "scipy",
    {
        "linear": Offer(prepare, SOLVERS, PRECONDITIONERS),
        "kernel": Offer(CholeskyRun, {"cholesky": {}}),
        "probes": _plain.offer(_ASKED),
    },
)

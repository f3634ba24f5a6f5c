"""jax.scipy.sparse.linalg: CG, BiCGStab, GMRES, and the product with JAX's own formats.

Stopping rule: `||r|| <= rtol ||b||` on the recurrence (GMRES: on the true residual at each
restart). These functions report neither steps nor failure: products are counted by one more,
untimed run with a counter inside, and a run that used fewer than it was allowed counts as claimed
to be successful.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.sparse.linalg as jspla
import numpy as np

from ..engine.options import Option
from ..engine.work import Answer, Library, Offer, Run, Task
from . import _jax, _plain

SOLVERS = {
    "cg": {"form": _jax.FORM},
    "bicgstab": {"form": _jax.FORM},
    "gmres": {"form": _jax.FORM, "restart": Option(least=1)},
    "product": {"form": _jax.FORM},
}
PRECONDITIONERS = {"jacobi": {}}


class KrylovRun(_jax.JaxRun):
    """One of JAX's Krylov methods."""

    def method(self, multiply: Any, rhs: jax.Array, state: Any) -> jax.Array:
        name, options = self.spec.solver.name, self.spec.solver.options
        keywords: dict[str, Any] = {"tol": self.task.rtol, "atol": 0.0}
        keywords["maxiter"] = self.task.max_steps
        keywords["M"] = None if state is None else lambda x: state * x
        if name == "gmres":
            restart = int(options.get("restart", 30))
            keywords |= {"restart": restart, "maxiter": -(-self.task.max_steps // restart)}
        return getattr(jspla, name)(multiply, rhs, **keywords)[0]

    def function(self, throw: bool = False):
        return lambda matrix, rhs, state: self.method(lambda x: _jax.apply(matrix, x), rhs, state)

    def answer(self, raw: Any) -> Answer:
        x = np.asarray(raw).ravel()
        count = _jax.count_products(self, self.method, self.setup())
        # All begin with one product for the initial residual; BiCGStab then takes two a step. GMRES
        # takes one more at each restart, so that its steps cannot be told from its products.
        steps = {"cg": count - 1, "bicgstab": (count - 1) // 2}.get(self.spec.solver.name)
        used = count if steps is None else steps
        result = "max_steps_reached" if used >= self.task.max_steps else "successful"
        if not np.all(np.isfinite(x)):
            result = "nonfinite"
        return Answer(result, x, counts={"num_steps": steps, "num_matvecs": count})


class ProductRun(_jax.JaxRun):
    """y = A b."""

    def function(self, throw: bool = False):
        return lambda matrix, rhs, state: _jax.apply(matrix, rhs)

    def answer(self, raw: Any) -> Answer:
        return Answer("successful", np.asarray(raw).ravel(), counts={"num_steps": 0, "num_matvecs": 1})


def prepare(task: Task) -> Run:
    """The run of one column."""
    return (ProductRun if task.spec.solver.name == "product" else KrylovRun)(task)


def _asked(name: str, admits: str, limit: int) -> Callable[[], _plain.Asked]:
    def answer(matvec, b, rtol):
        return getattr(jspla, name)(matvec, b, tol=rtol, atol=0.0, maxiter=limit)

    def solve(matrix, b, rtol):
        x, info = answer(_plain.product(matrix), jnp.asarray(b), rtol)
        return x, None if info is None else info == 0

    return lambda: _plain.Asked(admits, solve, lambda matvec, b, rtol: answer(matvec, b, rtol)[0])


_ASKED = {
    "cg": _asked("cg", "spd", _plain.MAX_STEPS),
    "bicgstab": _asked("bicgstab", "any", _plain.MAX_STEPS),
    "gmres": _asked("gmres", "any", _plain.MAX_STEPS // 20),  # it counts restarts of 20
}


LIBRARY = Library(
    "jax.scipy",
    "jax",
    {
        "linear": Offer(prepare, SOLVERS, PRECONDITIONERS),
        "probes": _plain.offer(_ASKED),
    },
)

"""solvax: PCG, flexible GMRES and GCROT.

Stopping rule: `||r|| <= rtol ||b||`; PCG on the recurrence, GMRES on the true residual at each
restart.
"""

from typing import Any

import numpy as np

from ..engine.work import Answer, Library, Offer
from . import _jax

SOLVERS = {
    "cg": ("form",),
    "gmres": ("form", "restart"),
    "gcrot": ("form", "restart", "recycle", "strategy"),
}
PRECONDITIONERS = {"jacobi": ()}


class SolvaxRun(_jax.JaxRun):
    """PCG, FGMRES or GCROT from solvax."""

    def function(self, throw: bool = False):
        import solvax

        task, name = self.task, self.spec.solver.name

        @_jax.promoting()
        def solve(matrix, rhs, state):
            keywords: dict[str, Any] = {"rtol": task.rtol, "atol": 0.0}
            keywords["precond"] = None if state is None else lambda x: state * x
            if name == "cg":
                # Its history has a place for each step that is allowed: part of its product.
                return solvax.pcg(lambda x: _jax.apply(matrix, x), rhs, max_steps=task.max_steps, **keywords)
            options = self.spec.solver.options
            restart = int(options.get("restart", 30))
            keywords["max_restarts"] = -(-task.max_steps // restart)
            if name == "gcrot":
                keywords |= {"m": restart, "k": int(options.get("recycle", 10))}
                keywords["recycle_strategy"] = str(options.get("strategy", "fifo"))
                return solvax.gcrot(lambda x: _jax.apply(matrix, x), rhs, **keywords)
            keywords["restart"] = restart
            return solvax.gmres(lambda x: _jax.apply(matrix, x), rhs, **keywords)

        return solve

    def answer(self, raw: Any) -> Answer:
        steps = int(raw.iterations)
        result = "successful" if bool(raw.converged) else "max_steps_reached"
        norms = None
        if self.spec.solver.name == "cg":
            from solvax.pcg import status_name

            names = {"converged": "successful", "max_iterations": "max_steps_reached"}
            status = status_name(int(raw.status))
            result = names.get(status, status)
            if self.task.history:
                norms = _jax.relative(raw.residual_history, float(np.linalg.norm(self.task.problem.rhs)))
                norms = norms[: steps + 1]
        return Answer(result, np.asarray(raw.x).ravel(), {"num_steps": steps}, residual_norms=norms)


LIBRARY = Library("solvax", "solvax", {"linear": Offer(SolvaxRun, SOLVERS, PRECONDITIONERS)})

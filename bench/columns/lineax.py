"""lineax's own CG, BiCGStab and GMRES.

Stopping rule. lineax tests `norm(r / (atol + rtol |b|)) <= 1` entry by entry with a maximum norm,
and the same for the last change of x, which is another question than ours (and with `atol=0` fails
on zeros in b). The nearest to ours that its options express: `rtol=0`, `atol=rtol ||b||_2` and the
2-norm, whose first part is exactly `||r||_2 <= rtol ||b||_2`. Its second part bounds the last
change of x by the same number. Its GMRES counts restarts, not steps, so products are counted by one
more, untimed run with a counter inside.
"""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from nsolve._results import result_name

from ..engine.options import Option
from ..engine.work import Answer, Library, Offer, Task
from . import _jax, _plain

SOLVERS = {
    "cg": {"form": _jax.FORM},
    "bicgstab": {"form": _jax.FORM},
    "gmres": {"form": _jax.FORM, "restart": Option(least=1)},
}
PRECONDITIONERS = {"jacobi": {}}


class LineaxRun(_jax.JaxRun):
    """One of lineax's Krylov methods."""

    def method(self, multiply: Any, rhs: jax.Array, state: Any, throw: bool = False) -> lx.Solution:
        task, name = self.task, self.spec.solver.name
        keywords: dict[str, Any] = {"rtol": 0.0, "atol": task.rtol * np.linalg.norm(task.problem.rhs)}
        keywords |= {"norm": jnp.linalg.norm, "max_steps": task.max_steps}
        if self.form == "stencil":
            keywords["norm"] = lambda x: jnp.linalg.norm(x.ravel())
        if name == "gmres":
            keywords["restart"] = int(self.spec.solver.options.get("restart", 30))
        solver = {"cg": lx.CG, "bicgstab": lx.BiCGStab, "gmres": lx.GMRES}[name](**keywords)

        structure = jax.eval_shape(lambda: rhs)
        system = lx.FunctionLinearOperator(multiply, structure, _jax.tags(task))
        options = {}
        if state is not None:
            options["preconditioner"] = lx.FunctionLinearOperator(
                lambda x: state * x, structure, lx.positive_semidefinite_tag
            )
        return lx.linear_solve(system, rhs, solver, options=options, throw=throw)

    def function(self, throw: bool = False):
        return lambda matrix, rhs, state: self.method(lambda x: _jax.apply(matrix, x), rhs, state, throw)

    def answer(self, raw: Any) -> Answer:
        restarts = self.spec.solver.name == "gmres"
        return Answer(
            result_name(raw.result),
            np.asarray(raw.value).ravel(),
            counts={
                "num_steps": None if restarts else int(raw.stats["num_steps"]),
                "num_matvecs": _jax.count_products(self, self.method, self.setup()) if restarts else None,
            },
        )


def prepare(task: Task) -> LineaxRun:
    """The run of one column."""
    return LineaxRun(task)


_ASKED = {
    "cg": _plain.through_lineax("spd", lx.CG, atol=0.0),
    "bicgstab": _plain.through_lineax("any", lx.BiCGStab, atol=0.0),
    "gmres": _plain.through_lineax("any", lx.GMRES, atol=0.0),
}


LIBRARY = Library(
    "lineax",
    "lineax",
    {
        "linear": Offer(prepare, SOLVERS, PRECONDITIONERS, traced=True),
        "probes": _plain.offer(_ASKED),
    },
)

"""This project's transport solvers. Stopping rule: `|P 1 - a|_1 + |P^T 1 - b|_1 <= rtol` for weights that sum
to 1.

Names are short forms of the classes, their fields are the parameters; `form` is `matrix` (default) or
`points`, where costs are computed from the points, tile by tile.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

import nsolve as ns
from nsolve._results import RESULTS, result_code

from ...engine.options import options_of
from ...engine.spec import Part, Spec
from ...engine.work import Answer, Offer, Task
from ...work.transport import Coupling
from .. import _transport

CLASSES = {"sinkhorn": "Sinkhorn", "sinkhorn_newton": "SinkhornNewton"}
# Set by the benchmark for every column alike, so not parameters of a spec.
COMMON = ("rtol", "max_steps")
# Counts of iterations by their names in `stats`, where a solver keeps them.
COUNTS = ("num_steps", "num_sweeps", "num_newton_steps", "num_cg_steps")
SOLVERS = {
    name: {**options_of(getattr(ns.transport, cls), COMMON), "form": _transport.FORM}
    for name, cls in CLASSES.items()
}


def make_solver(part: Part, rtol: Any, max_steps: int) -> Any:
    """The solver of a column."""
    options = {name: value for name, value in part.params if name != "form"}
    return getattr(ns.transport, CLASSES[part.name])(rtol=rtol, max_steps=max_steps, **options)


class NsolveRun(_transport.JaxTransportRun):
    """One of our solvers."""

    def __init__(self, task: Task):
        super().__init__(task)
        self.limited = self.spec.solver.name == "sinkhorn"  # a Newton step costs what its inner solve costs

    @staticmethod
    def found(solver, max_steps, data, a, b, epsilon, rtol):
        if isinstance(data, tuple):
            geometry = ns.transport.PointCloud(*data, epsilon=epsilon)
        else:
            geometry = ns.transport.CostMatrix(data, epsilon=epsilon)
        return ns.transport.solve(geometry, a, b, make_solver(solver, rtol, max_steps), throw=False)

    @staticmethod
    def told(found):
        # The cost and the certificate of `stats` too.
        return found.f, found.g, found.marginal_error, result_code(found.result), found.stats, found.cost

    @staticmethod
    def parts(found, a, b, epsilon):
        return found.cost, found.f, (found.f + epsilon * jnp.log(a), found.g + epsilon * jnp.log(b))

    def read(self, raw: Any) -> Answer:
        f, g, error, codes, stats, _ = raw
        failures = [RESULTS[code] for code in np.ravel(codes) if code]
        counts: dict[str, Any] = {name: int(np.max(stats[name])) for name in COUNTS if name in stats}
        if self.task.problem.is_batch:
            counts["steps"] = np.asarray(stats["num_steps"]).tolist()
        coupling = Coupling(np.asarray(f), np.asarray(g), weighted=True)
        claimed = {"claimed_error": float(np.max(error))}
        return Answer(failures[0] if failures else "successful", coupling, counts, claimed)


def _check(spec: Spec, part: Part) -> None:
    _transport.check(spec, part)
    try:
        make_solver(spec.solver, 1e-6, 1)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{spec}: {error}") from None


OFFER = Offer(_transport.prepare_with(NsolveRun), SOLVERS, modes=("gradient",), check=_check)

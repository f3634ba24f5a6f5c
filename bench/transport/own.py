"""This project's transport solvers. Stopping rule: `|P 1 - a|_1 + |P^T 1 - b|_1 <= rtol` for weights that sum
to 1.

Names are short forms of the classes, their fields are the parameters; `form` is `matrix` (default) or
`points`, where costs are computed from the points, tile by tile.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

import nsolve as ns

from ..environment import version as _version
from ..peers.lineax import RESULTS, result_code
from ..specs import Spec
from .columns import Column
from .jax_column import JaxColumn
from .judge import Claim
from .problems import Problem

CLASSES = {"sinkhorn": "Sinkhorn", "sinkhorn_newton": "SinkhornNewton"}
#: Set by the benchmark for every column alike, so not parameters of a spec.
COMMON = {"rtol", "max_steps"}
#: Counts of iterations by their names in `stats`, where a solver keeps them.
COUNTS = ("num_steps", "num_sweeps", "num_newton_steps", "num_cg_steps")
SOLVERS = {
    name: (*(f.name for f in dataclasses.fields(getattr(ns.transport, cls)) if f.name not in COMMON), "form")
    for name, cls in CLASSES.items()
}


def version() -> str | None:
    """The installed version of nsolve."""
    return _version("nsolve")


def make(spec: Spec) -> Column:
    """The column."""
    return NsolveColumn(spec)


class NsolveColumn(JaxColumn):
    """One of our solvers."""

    def timed(self, problem: Problem) -> bool:
        return self.spec.solver.name == "sinkhorn"  # a Newton step costs what its inner solve costs

    def trace(self, max_steps: int):
        def run(given, a, b, epsilon, rtol):
            found = self._solve(max_steps, given, a, b, epsilon, rtol)
            # Everything that a caller gets is computed, the cost and the certificate of `stats` too.
            return found.f, found.g, found.marginal_error, result_code(found.result), found.stats, found.cost

        return run

    def differentiable(self, max_steps: int):
        def run(given, a, b, epsilon, rtol):
            found = self._solve(max_steps, given, a, b, epsilon, rtol)
            potentials = found.f + epsilon * jnp.log(a), found.g + epsilon * jnp.log(b)
            return found.cost, found.f, potentials

        return run

    def read(self, raw: Any, problem: Problem, rtol: float) -> Claim:
        f, g, error, codes, stats, _ = raw
        failures = [RESULTS[code] for code in np.ravel(codes) if code]
        totals: dict[str, Any] = {name: int(np.max(stats[name])) for name in COUNTS if name in stats}
        if problem.is_batch:
            totals["steps"] = np.asarray(stats["num_steps"]).tolist()
        return Claim(
            failures[0] if failures else "successful",
            np.asarray(f),
            np.asarray(g),
            weighted=True,
            counts=totals,
            claimed_error=float(np.max(error)),
        )

    def _solve(self, max_steps: int, given: Any, a: Any, b: Any, epsilon: Any, rtol: Any) -> Any:
        spec = self.spec.solver
        options = {name: value for name, value in spec.params if name != "form"}
        solver = getattr(ns.transport, CLASSES[spec.name])(rtol=rtol, max_steps=max_steps, **options)
        if isinstance(given, tuple):
            geometry = ns.transport.PointCloud(*given, epsilon=epsilon)
        else:
            geometry = ns.transport.CostMatrix(given, epsilon=epsilon)
        return ns.transport.solve(geometry, a, b, solver, throw=False)

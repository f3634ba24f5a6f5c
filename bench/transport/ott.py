"""ott-jax beside us: Sinkhorn in the log domain, plain and accelerated, in float64, compiled.

Stopping rule: ott looks every 10 sweeps at `|P^T 1 - b|_1` (`norm_error=1`), since after a plain sweep the
other marginal is exact; `threshold` is the tolerance.  Over-relaxed sweeps leave both marginals off by about
as much, so there the threshold is half of the tolerance.  `form` is `matrix` (default) or `points`, where
costs are computed from the points, `batch_size` rows at a time.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..environment import version as _version
from ..peers._jax import promoting
from ..peers.base import Missing
from ..specs import Spec
from .columns import Column
from .jax_column import JaxColumn
from .judge import Claim
from .problems import Problem

_COMMON = ("form", "batch_size")
SOLVERS = {
    "sinkhorn": _COMMON,
    "momentum": ("value", *_COMMON),
    "lehmann": ("start", *_COMMON),
    "anderson": ("memory", *_COMMON),
}
OVER_RELAXED = ("momentum", "lehmann")


def version() -> str | None:
    """The installed version of ott-jax, or None."""
    return _version("ott-jax")


def make(spec: Spec) -> Column:
    """The column."""
    if version() is None:
        raise Missing("ott-jax is not installed (pip install 'nsolve[peers]')")
    return OttColumn(spec)


class OttColumn(JaxColumn):
    """One of ott's modes."""

    def trace(self, max_steps: int):
        def run(given, a, b, epsilon, rtol):
            found = self._solve(max_steps, given, a, b, epsilon, rtol)
            last = found.errors[jnp.maximum(0, jnp.sum(found.errors != -1) - 1)]
            return found.f, found.g, found.n_iters, last, found.converged, found.reg_ot_cost

        return run

    def differentiable(self, max_steps: int):
        def run(given, a, b, epsilon, rtol):
            found = self._solve(max_steps, given, a, b, epsilon, rtol)
            return found.reg_ot_cost, found.f - epsilon * jnp.log(a), (found.f, found.g)

        return run

    @promoting()
    def compile(self, run: Callable[..., Any], *given: Any) -> tuple[Any, float]:
        return super().compile(run, *given)

    def read(self, raw: Any, problem: Problem, rtol: float) -> Claim:
        f, g, sweeps, error, converged, _ = map(np.asarray, raw)
        finite = bool(np.all(np.isfinite(error)))
        result = "successful" if converged.all() else "max_steps_reached" if finite else "nonfinite_output"
        counts: dict[str, Any] = {"num_steps": int(sweeps.max()), "num_sweeps": int(sweeps.max())}
        if problem.is_batch:
            counts["steps"] = sweeps.tolist()
        return Claim(result, f, g, counts=counts, claimed_error=float(error.max()))

    def _solve(self, max_steps: int, given: Any, a: Any, b: Any, epsilon: Any, rtol: Any) -> Any:
        from ott.geometry import geometry, pointcloud
        from ott.problems.linear import linear_problem
        from ott.solvers.linear import acceleration, sinkhorn

        name = self.spec.solver.name
        options: dict[str, Any] = dict(self.spec.solver.options)
        if isinstance(given, tuple):
            geom = pointcloud.PointCloud(*given, epsilon=epsilon, batch_size=options.get("batch_size"))
        else:
            geom = geometry.Geometry(cost_matrix=given, epsilon=epsilon)
        accelerated: dict[str, Any] = {}
        if name == "momentum":
            accelerated["momentum"] = acceleration.Momentum(value=float(options.get("value", 1.5)))
        elif name == "lehmann":
            accelerated["momentum"] = acceleration.Momentum(start=int(options.get("start", 100)))
        elif name == "anderson":
            accelerated["anderson"] = acceleration.AndersonAcceleration(memory=int(options.get("memory", 2)))
        solver = sinkhorn.Sinkhorn(
            threshold=rtol / 2 if name in OVER_RELAXED else rtol,
            norm_error=1,
            max_iterations=max_steps,
            **accelerated,
        )
        return solver(linear_problem.LinearProblem(geom, a=a, b=b))

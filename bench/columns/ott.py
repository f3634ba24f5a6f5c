"""ott-jax: Sinkhorn in the log domain, plain and accelerated, in float64, compiled.

Stopping rule: ott looks every 10 sweeps at `|P^T 1 - b|_1` (`norm_error=1`), since after a plain sweep the
other marginal is exact; `threshold` is the tolerance.  Over-relaxed sweeps leave both marginals off by about
as much, so there the threshold is half of the tolerance.  `form` is `matrix` (default) or `points`, where
costs are computed from the points, `batch_size` rows at a time.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ..engine.options import Option
from ..engine.work import Answer, Library, Offer
from ..work.transport import Coupling
from . import _transport
from ._jax import promoting

_COMMON = {"form": _transport.FORM, "batch_size": Option(least=1)}
SOLVERS = {
    "sinkhorn": _COMMON,
    "momentum": {"value": Option(least=0.0)} | _COMMON,
    "lehmann": {"start": Option(least=0)} | _COMMON,
    "anderson": {"memory": Option(least=1)} | _COMMON,
}
OVER_RELAXED = ("momentum", "lehmann")


class OttRun(_transport.JaxTransportRun):
    """One of ott's modes."""

    around = staticmethod(promoting)

    @staticmethod
    def found(solver, max_steps, data, a, b, epsilon, rtol):
        from ott.geometry import geometry, pointcloud
        from ott.problems.linear import linear_problem
        from ott.solvers.linear import acceleration, sinkhorn

        options: dict[str, Any] = dict(solver.options)
        if isinstance(data, tuple):
            geom = pointcloud.PointCloud(*data, epsilon=epsilon, batch_size=options.get("batch_size"))
        else:
            geom = geometry.Geometry(cost_matrix=data, epsilon=epsilon)
        accelerated: dict[str, Any] = {}
        if solver.name == "momentum":
            accelerated["momentum"] = acceleration.Momentum(value=float(options.get("value", 1.5)))
        elif solver.name == "lehmann":
            accelerated["momentum"] = acceleration.Momentum(start=int(options.get("start", 100)))
        elif solver.name == "anderson":
            accelerated["anderson"] = acceleration.AndersonAcceleration(memory=int(options.get("memory", 2)))
        made = sinkhorn.Sinkhorn(
            threshold=rtol / 2 if solver.name in OVER_RELAXED else rtol,
            norm_error=1,
            max_iterations=max_steps,
            **accelerated,
        )
        return made(linear_problem.LinearProblem(geom, a=a, b=b))

    @staticmethod
    def told(found):
        last = found.errors[jnp.maximum(0, jnp.sum(found.errors != -1) - 1)]
        return found.f, found.g, found.n_iters, last, found.converged, found.reg_ot_cost

    @staticmethod
    def parts(found, a, b, epsilon):
        return found.reg_ot_cost, found.f - epsilon * jnp.log(a), (found.f, found.g)

    def read(self, raw: Any) -> Answer:
        f, g, sweeps, error, converged, _ = map(np.asarray, raw)
        finite = bool(np.all(np.isfinite(error)))
        result = "successful" if converged.all() else "max_steps_reached" if finite else "nonfinite_output"
        counts: dict[str, Any] = {"num_steps": int(sweeps.max()), "num_sweeps": int(sweeps.max())}
        if self.task.problem.is_batch:
            counts["steps"] = sweeps.tolist()
        return Answer(result, Coupling(f, g), counts, {"claimed_error": float(error.max())})


OFFER = Offer(_transport.prepare_with(OttRun), SOLVERS, modes=("gradient",), check=_transport.check)
LIBRARY = Library("ott", "ott-jax", {"transport": OFFER})

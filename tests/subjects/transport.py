"""The table of optimal transport: costs, solves, divergences and bridges."""

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from nsolve.transport import (
    CostMatrix,
    Grid,
    LightBridge,
    PointCloud,
    Sinkhorn,
    SinkhornNewton,
    sinkhorn_divergence,
    solve,
)

from .. import transport_reference as plain
from ..contract import Subject

_rng = np.random.default_rng(6)
_x, _y = _rng.uniform(0.2, 1.2, (5, 2)), _rng.uniform(0.2, 1.2, (4, 2))
_C = _rng.uniform(0, 1, (5, 4))
_a, _b = _rng.uniform(0.5, 1.5, 5), _rng.uniform(0.5, 1.5, 4)
EPSILON = 0.3


def _precise(kind, like, **fields):
    return kind(rtol=1e-13 if like.dtype == float else 1e-6, **fields)


def _outputs(C, a, b, tau=None, kind=SinkhornNewton, **fields):
    """Weights of mass one, so that every change of them is allowed."""
    a, b = a / a.sum(), b / b.sum()
    solution = solve(
        CostMatrix(C, EPSILON), a, b, _precise(kind, C, **fields), tau=tau, certificate=False, throw=False
    )
    return solution.cost, solution.transport_cost, solution.f, solution.g, solution.plan.as_matrix()


def _exact(C, a, b, tau=(None, None)):
    a, b = a / a.sum(), b / b.sum()
    f, g, P, cost = plain.solve(C, EPSILON, a, b, tau)
    return cost, np.sum(P * C), f, g, P


def _half_divergence(x, y, a, b):
    return plain.solve(cdist(x, y, "sqeuclidean"), EPSILON, a, b).cost


def _divergence(x, y, a, b):
    a, b = a / a.sum(), b / b.sum()
    solver = _precise(SinkhornNewton, x)
    return sinkhorn_divergence(x, y, a, b, solver, epsilon=EPSILON, throw=False).value


def _exact_divergence(x, y, a, b):
    a, b = a / a.sum(), b / b.sum()
    alone = _half_divergence(x, x, a, a) + _half_divergence(y, y, b, b)
    return np.array(_half_divergence(x, y, a, b) - alone / 2)


def _costs(name, metric) -> Subject:
    return Subject(
        f"transport-points-{name}",
        lambda x, y: PointCloud(x, y, name, epsilon=EPSILON).cost_matrix(),
        (_x, _y),
        lambda x, y: cdist(x, y, metric),
        rtol=1e-10,
    )


def _grid(s, t):
    return Grid([s, t], epsilon=EPSILON).cost_matrix()


def _grid_costs(s, t):
    first, second = (s[:, None] - s) ** 2, (t[:, None] - t) ** 2
    return (first[:, None, :, None] + second[None, :, None, :]).reshape(2 * (s.size * t.size,))


def _bridge(log_weights, means, covariances, x, y):
    bridge = LightBridge(log_weights, means, covariances, 0.5)
    return bridge.log_prob(y, x), bridge.drift(0.0, x), bridge.loss(x, y)


def _gaussian_mixture(log_weights, means, covariances, x, y):
    """The conditional plan's density, its mean's drift at time zero, and the loss, component by component."""
    quadratic = (covariances * x[:, None] ** 2).sum(-1) + 2 * (means * x[:, None]).sum(-1)
    logs = log_weights + quadratic / (2 * 0.5)
    normaliser = logsumexp(logs, axis=1)
    mean, variance = means + covariances * x[:, None], 0.5 * covariances

    def gaussians(centre, at):
        parts = (at[:, None] - centre) ** 2 / (2 * variance) + np.log(2 * np.pi * variance) / 2
        return -parts.sum(-1)

    density = logsumexp(logs - normaliser[:, None] + gaussians(mean, y), axis=1)
    drift = np.einsum("nk,nkd->nd", np.exp(logs - normaliser[:, None]), mean) - x
    potential = logsumexp(log_weights + gaussians(means[None], y), axis=1)
    return density, drift, np.mean(normaliser) - np.mean(potential)


_log_weights, _means = _rng.standard_normal(3), _rng.standard_normal((3, 2))
_covariances, _from, _to = _rng.uniform(0.5, 2, (3, 2)), *_rng.standard_normal((2, 4, 2))

SUBJECTS = [
    _costs("squared_euclidean", "sqeuclidean"),
    _costs("euclidean", "euclidean"),
    _costs("manhattan", "cityblock"),
    _costs("cosine", "cosine"),
    Subject("transport-grid", _grid, tuple(_rng.uniform(0, 1, (2, 3))), _grid_costs, rtol=1e-10),
    Subject("transport-newton", _outputs, (_C, _a, _b), _exact, single=1e-4, rtol=1e-9),
    Subject(
        "transport-relaxed",
        lambda C, a, b: _outputs(C, a, b, (0.5, 1.0), Sinkhorn, max_steps=2000),
        (_C, _a, _b),
        lambda C, a, b: _exact(C, a, b, (0.5, 1.0)),
        smooth=False,  # tested with its potentials in tests/test_transport.py
        single=1e-4,
        rtol=1e-9,
    ),
    Subject("transport-divergence", _divergence, (_x, _y, _a, _b), _exact_divergence, single=1e-3, rtol=1e-9),
    Subject("transport-bridge", _bridge, (_log_weights, _means, _covariances, _from, _to), _gaussian_mixture),
]

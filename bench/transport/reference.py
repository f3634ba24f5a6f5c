"""The exact answer of a small problem and its derivatives, by dense Newton steps in NumPy.

Independent of the solvers measured: damped Newton on the dual with the whole Hessian, from a large `epsilon`
down.
"""

import numpy as np

from .problems import Problem


def potentials(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """`f` and `g` with `P = a b^T exp((f + g - C) / epsilon)`, to rounding; `f` has a mean of zero under `a`.

    RuntimeError where Newton's method does not get there."""
    cost, a, b = problem.cost, problem.a, problem.b
    f, g = np.zeros(len(a)), np.zeros(len(b))
    levels = [problem.epsilon]
    while levels[-1] < 0.1 * cost.max():
        levels.append(2 * levels[-1])
    for epsilon in reversed(levels):
        for _ in range(20):
            f, g = _sweep(cost, a, b, f, g, epsilon)
        f, g = _newton(cost, a, b, f, g, epsilon, 1e-13 if epsilon == problem.epsilon else 1e-6)
    shift = a @ f / a.sum()
    return f - shift, g + shift


def plan(problem: Problem, f: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The plan of these potentials."""
    return _plan(problem.cost, problem.a, problem.b, f, g, problem.epsilon)


def potential_gradients(problem: Problem, p: np.ndarray, v: np.ndarray) -> dict[str, np.ndarray]:
    """The gradient of `<f, v>`, for `v` that sums to zero, in the cost matrix, `a` and `b`.

    With `M = [[diag(a), P], [P^T, diag(b)]]` and `M (s, t) = (v, 0)` it is `P_ij (s_i + t_j)` in the costs,
    `epsilon (s_i - v_i / a_i)` in `a` and `epsilon t_j` in `b`."""
    n = len(v)
    solution = _solve(p, np.concatenate([v, np.zeros(p.shape[1])]))
    s, t = solution[:n], solution[n:]
    return {
        "cost": p * (s[:, None] + t[None, :]),
        "a": problem.epsilon * (s - v / problem.a),
        "b": problem.epsilon * t,
    }


def in_points(problem: Problem, in_cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gradient in the points, of squared Euclidean costs, from that in the cost matrix."""
    assert problem.points is not None
    x, y = problem.points
    in_x = 2 * (in_cost.sum(axis=1)[:, None] * x - in_cost @ y)
    return in_x, 2 * (in_cost.sum(axis=0)[:, None] * y - in_cost.T @ x)


def _plan(cost, a, b, f, g, epsilon):
    return a[:, None] * b[None, :] * np.exp((f[:, None] + g[None, :] - cost) / epsilon)


def _sweep(cost, a, b, f, g, epsilon):
    f = -epsilon * _log_sum_exp((g[None, :] - cost) / epsilon + np.log(b)[None, :], axis=1)
    g = -epsilon * _log_sum_exp((f[:, None] - cost) / epsilon + np.log(a)[:, None], axis=0)
    return f, g


def _log_sum_exp(values: np.ndarray, axis: int) -> np.ndarray:
    top = values.max(axis=axis, keepdims=True)
    return np.log(np.exp(values - top).sum(axis=axis)) + np.squeeze(top, axis)


def _newton(cost, a, b, f, g, epsilon, tolerance):
    best = np.inf
    for _ in range(200):
        p = _plan(cost, a, b, f, g, epsilon)
        residual = np.concatenate([a - p.sum(axis=1), b - p.sum(axis=0)])
        error = np.abs(residual).sum()
        if error <= tolerance or (error < 1e-11 and error >= best):
            return f, g
        best = min(best, error)
        step = epsilon * _solve(p, residual)
        df, dg = step[: len(a)], step[len(a) :]
        value, slope, length = a @ f + b @ g - epsilon * p.sum(), residual @ step, 1.0
        while length > 1e-10:
            with np.errstate(over="ignore"):
                q = _plan(cost, a, b, f + length * df, g + length * dg, epsilon)
            new = a @ (f + length * df) + b @ (g + length * dg) - epsilon * q.sum()
            if new >= value + 1e-4 * length * slope - 1e-15:
                break
            length /= 2
        f, g = f + length * df, g + length * dg
    raise RuntimeError(f"the reference did not converge: marginal error {best:.1e}")


def _solve(p: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The solution of the symmetric system with marginals on the diagonal; the null vector `(1, -1)` is left
    out."""
    n, m = p.shape
    system = np.block([[np.diag(p.sum(axis=1)), p], [p.T, np.diag(p.sum(axis=0))]])
    # Scaled to a unit diagonal, where the null vector becomes the root of the marginals.
    scale = 1 / np.sqrt(np.diag(system))
    null = np.concatenate([np.ones(n), -np.ones(m)]) / scale
    null /= np.linalg.norm(null)
    scaled = scale[:, None] * system * scale[None, :] + np.outer(null, null)
    right = scale * right
    return scale * np.linalg.solve(scaled, right - null * (null @ right))

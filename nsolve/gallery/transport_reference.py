"""The exact answer of a small entropic transport problem and its derivatives, by dense Newton steps in NumPy:
what solvers are judged by.

Independent of `nsolve.transport`: damped Newton on the dual with the whole Hessian, from a large `epsilon`
down. Costs are `(n, m)`, weights `a` `(n,)` and `b` `(m,)` sum to the same; work grows as `(n + m)^3`.
"""

from typing import NamedTuple

import numpy as np

from ._checks import static_positive

_MOST_STEPS = 200


class Potentials(NamedTuple):
    """`f` `(n,)` and `g` `(m,)`, whose plan is `a_i b_j exp((f_i + g_j - C_ij) / epsilon)`."""

    f: np.ndarray
    g: np.ndarray


class Gradients(NamedTuple):
    """Of a number, in the costs `(n, m)` and in both weights, `(n,)` and `(m,)`; those in weights are known
    up to a constant, as weights sum to the same."""

    cost: np.ndarray
    a: np.ndarray
    b: np.ndarray


def potentials(cost: np.ndarray, a: np.ndarray, b: np.ndarray, epsilon: float) -> Potentials:
    """The potentials of the exact plan, to rounding; `f` has a mean of zero under `a`.

    ValueError where shapes do not fit; RuntimeError where Newton's method does not get there."""
    epsilon = static_positive(epsilon, "epsilon")
    if cost.shape != (*a.shape, *b.shape) or cost.ndim != 2:
        raise ValueError(
            f"`cost` must have the shape (n, m) of `a` (n,) and `b` (m,), but they have {cost.shape}, "
            f"{a.shape} and {b.shape}."
        )
    f, g = np.zeros(len(a)), np.zeros(len(b))
    levels = [epsilon]
    while levels[-1] < 0.1 * cost.max():
        levels.append(2 * levels[-1])
    for level in reversed(levels):
        for _ in range(20):
            f = -level * _log_sum_exp((g[None, :] - cost) / level + np.log(b)[None, :], axis=1)
            g = -level * _log_sum_exp((f[:, None] - cost) / level + np.log(a)[:, None], axis=0)
        f, g = _newton(cost, a, b, f, g, level, 1e-13 if level == epsilon else 1e-6)
    shift = a @ f / a.sum()
    return Potentials(f - shift, g + shift)


def plan(
    cost: np.ndarray, a: np.ndarray, b: np.ndarray, f: np.ndarray, g: np.ndarray, epsilon: float
) -> np.ndarray:
    """The plan `(n, m)` of potentials."""
    return a[:, None] * b[None, :] * np.exp((f[:, None] + g[None, :] - cost) / epsilon)


def cost_gradients(plan: np.ndarray, found: Potentials) -> Gradients:
    """Of the least `<C, P> + epsilon KL(P | a b^T)`: the plan, and the potentials, by the envelope
    theorem."""
    return Gradients(plan, found.f, found.g)


def potential_gradients(plan: np.ndarray, v: np.ndarray, a: np.ndarray, epsilon: float) -> Gradients:
    """Of `<f, v>`, for `v` `(n,)` that sums to zero.

    With `M = [[diag(a), P], [P^T, diag(b)]]` and `M (s, t) = (v, 0)` it is `P_ij (s_i + t_j)` in the costs,
    `epsilon (s_i - v_i / a_i)` in `a` and `epsilon t_j` in `b`."""
    solution = _solve(plan, np.concatenate([v, np.zeros(plan.shape[1])]))
    s, t = solution[: len(v)], solution[len(v) :]
    return Gradients(plan * (s[:, None] + t[None, :]), epsilon * (s - v / a), epsilon * t)


def in_points(in_cost: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gradient in points `(n, d)` and `(m, d)`, whose squared distances are the costs, from that in the
    costs `(n, m)`."""
    in_x = 2 * (in_cost.sum(axis=1)[:, None] * x - in_cost @ y)
    return in_x, 2 * (in_cost.sum(axis=0)[:, None] * y - in_cost.T @ x)


def _log_sum_exp(values: np.ndarray, axis: int) -> np.ndarray:
    top = values.max(axis=axis, keepdims=True)
    return np.log(np.exp(values - top).sum(axis=axis)) + np.squeeze(top, axis)


def _newton(cost, a, b, f, g, epsilon, tolerance):
    best = np.inf
    for _ in range(_MOST_STEPS):
        p = plan(cost, a, b, f, g, epsilon)
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
                q = plan(cost, a, b, f + length * df, g + length * dg, epsilon)
            new = a @ (f + length * df) + b @ (g + length * dg) - epsilon * q.sum()
            if new >= value + 1e-4 * length * slope - 1e-15:
                break
            length /= 2
        f, g = f + length * df, g + length * dg
    raise RuntimeError(f"the reference did not converge: marginal error {best:.1e}")


def _solve(p: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The solution of the symmetric system with the plan's marginals on the diagonal; the null vector `(1,
    -1)` is left out."""
    n, m = p.shape
    system = np.block([[np.diag(p.sum(axis=1)), p], [p.T, np.diag(p.sum(axis=0))]])
    # Scaled to a unit diagonal, where the null vector becomes the root of the marginals.
    scale = 1 / np.sqrt(np.diag(system))
    null = np.concatenate([np.ones(n), -np.ones(m)]) / scale
    null /= np.linalg.norm(null)
    scaled = scale[:, None] * system * scale[None, :] + np.outer(null, null)
    right = scale * right
    return scale * np.linalg.solve(scaled, right - null * (null @ right))

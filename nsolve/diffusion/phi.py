"""The functions of exponential integrators, phi_k(z) = int_0^1 e^{(1-s) z} s^{k-1} / (k-1)! ds.

phi_0 = exp, phi_{k+1}(z) = (phi_k(z) - 1/k!) / z, phi_k(0) = 1/k! (Hochbruck & Ostermann, Acta Numerica 2010,
doi:10.1017/S0962492910000048). The recurrence loses every digit at small z; the integral has a positive
integrand and loses none.
"""

import math
from typing import Any

import numpy as np

from ._arrays import namespace

# Gauss-Legendre on [0, 1]: for |z| <= _NEAR the integral is exact to the last digit of float64.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)
_NODES, _WEIGHTS = 0.5 * (_NODES + 1.0), 0.5 * _WEIGHTS
_NEAR = 6.0


def phi(order: int, z: Any) -> Any:
    """phi_order(z), elementwise, to rounding for every real z; z = -inf gives 0 (1 for order 0 has no such
    limit)."""
    xp = namespace(z)
    z = xp.asarray(z)
    if order == 0:
        return xp.exp(z)
    # Each branch sees only arguments that suit it, so that no NaN enters a gradient.
    is_near = xp.abs(z) <= _NEAR
    near = xp.where(is_near, z, 0.0)[..., None]
    factor = _WEIGHTS * _NODES ** (order - 1) / math.factorial(order - 1)
    integral = xp.sum(factor.astype(z.dtype) * xp.exp((1.0 - _NODES.astype(z.dtype)) * near), axis=-1)
    far = xp.where(is_near, _NEAR, z)
    value = xp.exp(far)
    for k in range(order):
        value = (value - 1.0 / math.factorial(k)) / far
    return xp.where(is_near, integral, value)


def lagrange(nodes: Any) -> Any:
    """Coefficients of the Lagrange polynomials: nodes (..., n) -> (..., n, n), [j, k] belongs to node j and
    power k."""
    xp = namespace(nodes)
    n = nodes.shape[-1]
    rows = []
    for j in range(n):
        coefficients = [xp.ones_like(nodes[..., 0])]
        for i in range(n):
            if i == j:
                continue
            scale = 1.0 / (nodes[..., j] - nodes[..., i])
            lower = [-nodes[..., i] * scale * c for c in coefficients]
            raised = [scale * c for c in coefficients]
            coefficients = [
                (lower[k] if k < len(lower) else 0.0) + (raised[k - 1] if k > 0 else 0.0)
                for k in range(len(coefficients) + 1)
            ]
        rows.append(xp.stack(coefficients, axis=-1))
    return xp.stack(rows, axis=-2)


def gauss_legendre() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1], for integrals that have no closed form."""
    return _NODES, _WEIGHTS


__all__ = ["gauss_legendre", "lagrange", "phi"]

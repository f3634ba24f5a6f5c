"""The functions of exponential integrators, phi_k(z) = int_0^1 e^{(1-s) z} s^{k-1} / (k-1)! ds.

phi_0 = exp, phi_{k+1}(z) = (phi_k(z) - 1/k!) / z, phi_k(0) = 1/k! (Hochbruck & Ostermann, Acta Numerica 2010,
doi:10.1017/S0962492910000048). The recurrence loses every digit at small z; the integral has a positive
integrand and loses none.
"""

import math
from typing import Any

import numpy as np

from ._arrays import beside, namespace

# Gauss-Legendre on [0, 1]: for |z| <= _NEAR the integral is exact to the last digit of float64.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)
_NODES, _WEIGHTS = 0.5 * (_NODES + 1.0), 0.5 * _WEIGHTS
_NEAR = 6.0


def phis(largest: int, z: Any) -> Any:
    """phi_1(z) ... phi_largest(z) along a new last axis, to rounding for every real z."""
    xp = namespace(z)
    z = xp.asarray(z)[..., None]
    orders = np.arange(1, largest + 1)
    factorials = np.array([float(math.factorial(k - 1)) for k in orders])
    # Each branch sees only arguments that suit it, so that no NaN enters a gradient.
    is_near = xp.abs(z) <= _NEAR
    kernel = _WEIGHTS[:, None] * _NODES[:, None] ** (orders - 1) / factorials
    rest = beside((1.0 - _NODES).astype(z.dtype), z)
    near = xp.exp(rest * xp.where(is_near, z, 0.0)) @ kernel.astype(z.dtype)
    far = xp.where(is_near, _NEAR, z)
    values = [xp.exp(far)]
    for k in range(largest):
        values.append((values[-1] - 1.0 / math.factorial(k)) / far)
    return xp.where(is_near, near, xp.concatenate(values[1:], axis=-1))


def phi(order: int, z: Any) -> Any:
    """phi_order(z), elementwise, for order >= 1."""
    return phis(order, z)[..., -1]


def lagrange(nodes: Any) -> Any:
    """Coefficients of the Lagrange polynomials: nodes (..., n) -> (..., n, n) by node and power."""
    xp = namespace(nodes)
    n = nodes.shape[-1]
    # The product of all (x - node), lowest power first; then divided by one factor after the other (Horner).
    zero, product = xp.zeros_like(nodes[..., :1]), xp.ones_like(nodes[..., :1])
    for i in range(n):
        product = xp.concatenate([zero, product], axis=-1) - nodes[..., i : i + 1] * xp.concatenate(
            [product, zero], axis=-1
        )
    quotients = [xp.ones_like(nodes)]
    for k in range(n - 1, 0, -1):
        quotients.append(product[..., k : k + 1] + nodes * quotients[-1])
    differences = nodes[..., :, None] - nodes[..., None, :]
    differences = differences + beside(np.eye(n, dtype=nodes.dtype), differences)
    return xp.stack(quotients[::-1], axis=-1) / xp.prod(differences, axis=-1)[..., None]


def gauss_legendre() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1], for integrals that have no closed form."""
    return _NODES, _WEIGHTS

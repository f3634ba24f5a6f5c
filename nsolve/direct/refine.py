"""Solutions by factors of the host, refined with residuals in double precision.

Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed. (2002), algorithm 12.1,
doi:10.1137/1.9780898718027.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from .._reasons import CODES
from .factors import Factors, Quality, Side, norm, unit_of

_MAX_REFINEMENTS = 10
#: A backward error of so many units of rounding is a stable solver's.
_STABLE = 32
_SINGULAR = CODES["singular_matrix"], CODES["not_definite"]


class Solved(NamedTuple):
    """A solution, why its refinement ended, its steps, the norm of its residual, and its backward error
    `||b - A x|| / (||A|| ||x|| + ||b||)`, in the Euclidean and the Frobenius norm."""

    value: np.ndarray
    code: int
    steps: int
    residual_norm: float
    backward_error: float


def solve(
    factors: Factors | None,
    quality: Quality,
    b: np.ndarray,
    side: Side,
    rtol: float,
    atol: float,
) -> Solved:
    """`op(A) x = b` for one vector, refined until `||b - op(A) x|| <= max(rtol ||b||, atol)`; with a
    negative `rtol`, until it is as small as rounding allows; with an infinite one, not looked at again."""
    if not np.isfinite(b).all():
        return Solved(np.full_like(b, np.nan), CODES["nonfinite_vector"], 0, np.nan, np.nan)
    unit = unit_of(b)
    if factors is None or unit == 0:
        # Zero solves every homogeneous system; that it is no other's solution is asked of `rtol < 0`.
        fine = unit == 0 and (quality.code == CODES["converged"] or (rtol >= 0 and quality.code in _SINGULAR))
        code = CODES["converged"] if fine else quality.code
        return Solved(
            np.zeros_like(b), code, 0, norm(b / unit) * unit if unit else 0.0, 0.0 if unit == 0 else 1.0
        )
    wide, size, product = np.promote_types(b.dtype, np.float64), factors.size, factors.products[side]
    eps = float(np.finfo(b.dtype).eps)
    target = b.astype(wide) / unit
    b_norm = norm(target)
    limit = max(rtol * b_norm, atol / unit)
    with np.errstate(all="ignore"):
        if math.isinf(rtol):
            value = (_applied(factors, target, b.dtype, side, size) * unit / size).astype(b.dtype)
            return Solved(value, quality.code, 0, math.nan, math.nan)
        # What is judged is the answer in its own precision.
        x = _rounded(_applied(factors, target, b.dtype, side, size), b.dtype)
        best, best_norm, error, steps = np.zeros_like(x), b_norm, 1.0, 0
        while True:
            residual = target - product @ x
            r_norm = norm(residual)
            gained = r_norm < 0.5 * best_norm
            if r_norm < best_norm:
                best, best_norm = x, r_norm
                error = r_norm / (factors.norm * norm(x) + b_norm)
            done = best_norm <= limit if rtol >= 0 else error <= eps
            if done or not gained or steps == _MAX_REFINEMENTS:
                break
            steps += 1
            x = _rounded(best + _applied(factors, residual, b.dtype, side, size), b.dtype)
        value = (best * (unit / size) if np.isfinite(unit / size) else best * unit / size).astype(b.dtype)
    if rtol >= 0:
        code = CODES["converged"] if best_norm <= limit else CODES["precision"]
    else:
        code = CODES["converged"] if error <= _STABLE * eps else CODES["precision"]
    if quality.code != CODES["converged"] and (rtol < 0 or code != CODES["converged"]):
        code = quality.code
    largest = float(abs(value).max(initial=0))
    if not np.isfinite(largest) or (largest == 0 and best.any()):
        code = CODES["range"]
    return Solved(value, code, steps, best_norm * unit, error)


def _applied(factors: Factors, b: np.ndarray, dtype: Any, side: Side, size: float) -> np.ndarray:
    """`op(A / size)^-1 b`, in double precision around factors of another."""
    unit = unit_of(b)
    if unit == 0:
        return np.zeros_like(b)
    return factors.apply((b / unit).astype(dtype), side).astype(b.dtype) * size * unit


def _rounded(x: np.ndarray, dtype: Any) -> np.ndarray:
    return x.astype(dtype).astype(x.dtype)

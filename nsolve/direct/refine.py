"""Solutions by factors of the host, refined with residuals in double precision.

Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed. (2002), algorithm 12.1,
doi:10.1137/1.9780898718027.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from .._reasons import CODES
from .factors import Factors, Quality, Side
from .norms import norm, unit_of

_MAX_REFINEMENTS = 10
#: A backward error of so many units of rounding is a stable solver's.
_STABLE = 32
_SINGULAR = CODES["singular_matrix"], CODES["not_definite"]


class Solved(NamedTuple):
    """A solution, why its refinement ended, its steps, the norm of its residual, its backward error
    `||b - A x|| / (||A|| ||x|| + ||b||)`, in the Euclidean and the Frobenius norm, and the residual's norm
    over that of `b`."""

    value: np.ndarray
    code: int
    steps: int
    residual_norm: float
    backward_error: float
    relative_residual: float


@np.errstate(all="ignore")  # what leaves the range is seen in the end
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
    wide = np.promote_types(b.dtype, np.float64)
    target = b.astype(wide, copy=False)
    unit = unit_of(target)
    if not math.isfinite(unit):
        return Solved(np.full_like(b, np.nan), CODES["nonfinite_vector"], 0, *[math.nan] * 3)
    if factors is None or unit == 0:
        # Zero solves every homogeneous system; that it is no other's solution is asked of `rtol < 0`.
        fine = unit == 0 and (quality.code == CODES["converged"] or (rtol >= 0 and quality.code in _SINGULAR))
        code = CODES["converged"] if fine else quality.code
        zero, share = np.zeros_like(b), float(unit != 0)
        return Solved(zero, code, 0, norm(target / unit) * unit if unit else 0.0, share, share)
    dtype, size, eps = b.dtype, factors.size, float(np.finfo(b.dtype).eps)

    def applied(b: np.ndarray) -> np.ndarray:
        """`op(A / size)^-1 b` for numbers near one."""
        return factors.apply(b.astype(dtype, copy=False), side).astype(wide, copy=False) * size

    target = target / unit
    b_norm = norm(target)
    limit = max(rtol * b_norm, atol / unit)
    x = applied(target)
    if math.isinf(rtol):
        return Solved((x * unit / size).astype(dtype), quality.code, 0, *[math.nan] * 3)
    # What is judged is the answer in its own precision.
    x = _rounded(x, dtype)
    best, best_norm, error, steps = np.zeros(len(x), wide), b_norm, 1.0, 0
    while True:
        residual = target - factors.product(x, side)
        r_norm = norm(residual)
        gained = r_norm < 0.5 * best_norm
        if r_norm < best_norm:
            best, best_norm = x, r_norm
            error = r_norm / (factors.norm * norm(x) + b_norm)
        done = best_norm <= limit if rtol >= 0 else error <= eps
        if done or not gained or steps == _MAX_REFINEMENTS:
            break
        steps += 1
        scale = unit_of(residual)
        x = _rounded(best + applied(residual / scale) * scale, dtype)
    scale = unit / size
    value = best * scale if math.isfinite(scale) else best * unit / size
    value = value.astype(dtype, copy=False)
    if rtol >= 0:
        code = CODES["converged"] if best_norm <= limit else CODES["precision"]
    else:
        code = CODES["converged"] if error <= _STABLE * eps else CODES["precision"]
    if quality.code != CODES["converged"] and (rtol < 0 or code != CODES["converged"]):
        code = quality.code
    largest = unit_of(value)
    if not math.isfinite(largest) or (largest == 0 and best.any()):
        code = CODES["range"]
    return Solved(value, code, steps, best_norm * unit, error, best_norm / b_norm)


def _rounded(x: np.ndarray, dtype: Any) -> np.ndarray:
    return x.astype(dtype, copy=False).astype(x.dtype, copy=False)

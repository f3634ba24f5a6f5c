"""Norms of vectors, and of inverses of which solves are known.

Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed. (2002), algorithm 15.1,
doi:10.1137/1.9780898718027.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

#: Numbers up to which BLAS sums alone.
_SHORT = 10_000


def uneven(n: int, dtype: Any) -> np.ndarray:
    """Positive numbers of much the same size, with the sum one, whose sums and differences all round."""
    numbers = 1 + np.modf(np.sqrt(2) * np.arange(n))[0]
    return (numbers / numbers.sum()).astype(dtype)


def inverse_norm(
    solve: Callable[[np.ndarray, Literal["N", "H"]], np.ndarray], b: np.ndarray, x: np.ndarray
) -> float:
    """A lower bound of `||A^-1||_1`, rarely too small by more than three, by a few solves beside `x` for `b`,
    which is `uneven` (Higham's algorithm 15.1; SciPy's `onenormest` is for blocks of vectors, with which
    SuperLU takes longer than one by one)."""
    n, dtype = len(x), x.dtype
    start, signs, best, last = b, _signs(x), max(0.0, float(np.abs(x).sum())), -1
    for _ in range(4):
        z = solve(signs, "H")
        j = int(np.argmax(np.abs(z)))
        if j == last or not np.abs(z[j]) > abs(np.vdot(z, start)):
            break
        start, last = np.zeros(n, dtype), j
        start[j] = 1
        y = solve(start, "N")
        grown, old, signs = float(np.abs(y).sum()), signs, _signs(y)
        if not grown > best:
            break
        best = grown
        if np.array_equal(signs, old):  # so were the next `z` and `j`
            break
    waves = 1 + np.arange(n) / max(n - 1, 1)
    waves[1::2] *= -1
    return max(best, float(2 * np.abs(solve(waves.astype(dtype), "N")).sum() / (3 * n)))


def _signs(x: np.ndarray) -> np.ndarray:
    """Of modulus one, and in the direction of each number."""
    if not np.iscomplexobj(x):
        return np.copysign(x.dtype.type(1), x)
    size = np.abs(x)
    return np.where(size > 0, x / np.where(size > 0, size, 1), 1).astype(x.dtype)


def norm(x: np.ndarray) -> float:
    """The Euclidean norm."""
    parts = _parts(x)
    # For long vectors BLAS would wake up its threads.
    return math.sqrt(parts.dot(parts) if len(parts) < _SHORT else np.add.reduce(np.square(parts)))


def unit_of(x: np.ndarray) -> float:
    """A power of two near the norm, or near the largest entry where the norm may leave the range; zero for
    none, and not finite where an entry is not."""
    size = norm(x)
    if not 1e-100 < size < 1e100:
        size = float(np.abs(_parts(x)).max(initial=0))
    return math.ldexp(1.0, math.frexp(size)[1] - 1) if 0 < size < math.inf else size


def _parts(x: np.ndarray) -> np.ndarray:
    """Real and imaginary parts."""
    return x.view(np.finfo(x.dtype).dtype) if x.dtype.kind == "c" else x

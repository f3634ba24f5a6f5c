"""Short sequences of small dense systems, each a drift away from the one before, all right-hand sides new.

They hold what recycling can and cannot do: a few small eigenvalues that it removes (`outliers`), a spectrum
that reaches down to zero evenly (`laplacian1d`), and one with nothing to gain (`wellconditioned`).
"""

from collections.abc import Callable

import numpy as np


def outliers(size: int, rng: np.random.Generator) -> np.ndarray:
    """Symmetric positive definite, condition 2000: eight small eigenvalues below an even bulk."""
    eigenvalues = np.concatenate([np.geomspace(1e-3, 1e-2, 8), np.linspace(1.0, 2.0, size - 8)])
    q, _ = np.linalg.qr(rng.standard_normal((size, size)))
    return (q * eigenvalues) @ q.T


def laplacian1d(size: int, rng: np.random.Generator) -> np.ndarray:
    """Symmetric positive definite, condition 390: the second difference plus 0.01 I."""
    return 2.01 * np.eye(size) - np.eye(size, k=1) - np.eye(size, k=-1)


def wellconditioned(size: int, rng: np.random.Generator) -> np.ndarray:
    """Not symmetric, condition about 11: an uneven diagonal plus a random matrix."""
    return np.diag(np.linspace(1.0, 5.0, size)) + 1.1 * rng.standard_normal((size, size)) / np.sqrt(size)


#: By name: the first matrix, whether all are symmetric positive definite, and the drift's 2-norm.
DRIFTING: dict[str, tuple[Callable[[int, np.random.Generator], np.ndarray], bool, float]] = {
    "outliers": (outliers, True, 1.1e-3),
    "laplacian1d": (laplacian1d, True, 1e-3),
    "wellconditioned": (wellconditioned, False, 2e-3),
}


def drift(name: str, size: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` matrices and right-hand sides.

    Definite matrices go on as `(I + E) A (I + E)^T`, others as `A + E`, with a new random `E` each time."""
    first, definite, norm = DRIFTING[name]
    rng = np.random.default_rng(seed)
    matrices = [first(size, rng)]
    while len(matrices) < count:
        change = rng.standard_normal((size, size))
        change *= norm / np.linalg.norm(change, 2)
        before = matrices[-1]
        if definite:
            whole = np.eye(size) + change
            after = whole @ before @ whole.T
            matrices.append((after + after.T) / 2)
        else:
            matrices.append(before + change)
    return np.stack(matrices), rng.standard_normal((count, size))

"""Short sequences of small dense systems, each a drift away from the one before, all right-hand sides new.

They hold what recycling can and cannot do: a few small eigenvalues that it removes (`outliers`), a spectrum
that reaches down to zero evenly (`laplacian1d`), and one with nothing to gain (`wellconditioned`).
"""

from collections.abc import Callable

import lineax as lx
import numpy as np
from jaxtyping import Array

from ._checks import choice, positive_integer
from ._draw import Key, generator


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
KINDS: dict[str, tuple[Callable[[int, np.random.Generator], np.ndarray], bool, float]] = {
    "outliers": (outliers, True, 1.1e-3),
    "laplacian1d": (laplacian1d, True, 1e-3),
    "wellconditioned": (wellconditioned, False, 2e-3),
}


class Drifting:
    """Dense systems of `size` unknowns that drift: the `kind` says from where.

    * `"outliers"`: symmetric positive definite, condition 2000, eight small eigenvalues below an even bulk;
    * `"laplacian1d"`: symmetric positive definite, condition 390, the second difference plus 0.01 I;
    * `"wellconditioned"`: not symmetric, condition about 11.

    Definite matrices go on as `(I + E) A (I + E)^T`, others as `A + E`, with a new random `E` of 2-norm about
    1e-3 each time.  Parks, de Sturler, Mackey, Johnson & Maiti 2006, doi:10.1137/040607277, say why such
    sequences are where recycled subspaces pay.
    """

    def __init__(self, size: int, kind: str = "outliers"):
        choice(kind, "kind", KINDS)
        self.size = positive_integer(size, "size", least=9)  # eight outliers, and one eigenvalue beside them
        self.kind = kind

    def draw(self, key: Key, count: int) -> tuple[np.ndarray, np.ndarray]:
        """`count` matrices `(count, size, size)` and N(0, 1) right-hand sides `(count, size)`, in float64,
        made on the host: what `ns.solve_sequence` is given."""
        first, definite, norm = KINDS[self.kind]
        count, rng = positive_integer(count, "count"), generator(key)
        matrices = [first(self.size, rng)]
        while len(matrices) < count:
            change = rng.standard_normal((self.size, self.size))
            change *= norm / np.linalg.norm(change, 2)
            before = matrices[-1]
            if definite:
                whole = np.eye(self.size) + change
                after = whole @ before @ whole.T
                matrices.append((after + after.T) / 2)
            else:
                matrices.append(before + change)
        return np.stack(matrices), rng.standard_normal((count, self.size))

    def operator(self, matrix: Array) -> lx.MatrixLinearOperator:
        """A matrix of the sequence with the tag that it deserves."""
        return lx.MatrixLinearOperator(matrix, lx.positive_semidefinite_tag if KINDS[self.kind][1] else ())

"""How large, how symmetric, how definite and how singular a sparse matrix is; on the host, with proofs.

Hager (1984, doi:10.1137/0905023) and Higham (1988, doi:10.1145/50063.214386) for the condition number; Rump,
*Verification of positive definiteness* (2006, doi:10.1007/s10543-006-0056-1).
"""

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from .factors import Side
from .matching import rows_of
from .norms import inverse_norm, uneven
from .ordering import Fill, minimum_degree, predicted_fill

if TYPE_CHECKING:
    import scipy.sparse as sp

Verdict = Literal["proved", "disproved", "unknown"]

#: A factorisation with more entries or operations is not made for a measurement.
MOST_ENTRIES, MOST_FLOPS = 2e7, 1e10


class Definiteness(NamedTuple):
    """Whether a matrix is positive definite, why, and whether not even semidefinite."""

    verdict: Verdict
    why: str
    not_semidefinite: bool = False


class Condition(NamedTuple):
    """Condition numbers in the 1-norm, of the matrix and of the scaled one, and a nearly null vector of
    length one with `||A x|| / ||A||_F`; None where they are not known, for the reason `why`."""

    number: float | None
    scaled: float | None
    why: str
    vector: np.ndarray | None = None
    smallness: float | None = None


def asymmetry(matrix: "sp.csr_array", conjugate: bool) -> float:
    """The largest entry of `A - A^T`, or `A - A^H`, over the largest of `A`."""
    largest = abs(matrix).max() if matrix.nnz else 0.0
    other = matrix.conj().T if conjugate else matrix.T
    return float(abs(matrix - other).max() / largest) if largest else 0.0


def dominance(matrix: "sp.csr_array") -> float:
    """The least, over the rows, of the diagonal's modulus over the sum of the others'."""
    diagonal, sums = np.abs(matrix.diagonal()), _row_sums(matrix)
    others = np.maximum(sums - diagonal, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(others > 0, diagonal / others, np.where(diagonal > 0, np.inf, 0))
    return float(ratios.min(initial=np.inf))


def definiteness(matrix: "sp.csr_array") -> Definiteness:
    """Of a Hermitian matrix in double precision, by its diagonal, Gershgorin's discs, or a factorisation.

    Proofs allow for the rounding of their own: a positive verdict is one on a matrix shifted down by more."""
    n, eps = matrix.shape[0], np.finfo(np.float64).eps
    diagonal = matrix.diagonal().real
    if n == 0:
        return Definiteness("proved", "there are no unknowns")
    i = int(np.argmin(diagonal))
    if diagonal[i] < 0:
        return Definiteness("disproved", f"the diagonal entry of row {i} is {diagonal[i]:.3g}", True)
    if diagonal[i] == 0:
        coupled = bool(np.diff(matrix.indptr)[i])
        return Definiteness("disproved", f"the diagonal entry of row {i} is zero", coupled)
    if np.all(2 * diagonal > _row_sums(matrix) * (1 + n * eps)):
        return Definiteness("proved", "the diagonal dominates every row")
    order = minimum_degree(matrix)
    fill = predicted_fill(matrix, order)
    if fill.entries > MOST_ENTRIES or fill.flops > MOST_FLOPS:
        return _by_lanczos(matrix)
    import scipy.sparse as sp
    from scipy.sparse.linalg import splu, spsolve_triangular

    # Diagonal near one by powers of two, then shifted by what rounding may do to a factorisation.
    unit = np.exp2(-np.round(np.log2(diagonal) / 2))
    scaled = sp.csr_array(sp.diags_array(unit) @ matrix @ sp.diags_array(unit))[order][:, order]
    shift = 4 * eps * n * min(n, 2 * np.sqrt(fill.flops) + 2)
    try:
        lu = splu(
            sp.csc_array(scaled - shift * sp.eye_array(n)),
            permc_spec="NATURAL",
            diag_pivot_thresh=0,
            options={"SymmetricMode": True},
        )
    except RuntimeError:
        return Definiteness("unknown", "a factorisation found it singular to rounding")
    pivots = lu.U.diagonal().real
    if not np.array_equal(lu.perm_r, np.arange(n)):
        return Definiteness("unknown", "a factorisation met a zero pivot")
    if np.all(pivots > 0):
        return Definiteness("proved", "a Cholesky factorisation of it, shifted down by rounding, exists")
    # The first negative pivot d belongs to a vector x with x^H A x = d.
    k = int(np.argmax(~(pivots > 0)))
    upper = sp.csr_array(lu.L.conj().T)
    x = spsolve_triangular(upper, np.eye(1, n, k)[0].astype(matrix.dtype), lower=False)
    return _curvature(scaled, x) or Definiteness("unknown", "its smallest pivot is at rounding level")


def _curvature(matrix: "sp.csr_array", x: np.ndarray) -> Definiteness | None:
    """A disproof where `x^H A x` is negative, beyond what rounding can do."""
    eps = np.finfo(np.float64).eps
    value, largest = np.vdot(x, matrix @ x).real, np.abs(x) @ (abs(matrix) @ np.abs(x))
    widest = int(np.diff(matrix.indptr).max(initial=0))
    if not value < -(matrix.shape[0] + widest + 3) * eps * largest:
        return None
    return Definiteness("disproved", "a direction of negative curvature was found", True)


def _by_lanczos(matrix: "sp.csr_array", steps: int = 40) -> Definiteness:
    """A disproof by the smallest Ritz vector, where there is one."""
    basis, tridiagonal = lanczos(lambda x: matrix @ x, matrix.shape[0], matrix.dtype, steps)
    _, vectors = np.linalg.eigh(tridiagonal)
    found = _curvature(matrix, basis @ vectors[:, 0])
    return found or Definiteness("unknown", "a factorisation is too large to try, and Lanczos found nothing")


def lanczos(product: Any, n: int, dtype: Any, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal vectors `(n, k)` and the tridiagonal matrix `(k, k)` of a Hermitian operator on them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(n).astype(dtype)
    basis, alphas, betas = [x / np.linalg.norm(x)], [], []
    for k in range(min(steps, n)):
        w = np.asarray(product(basis[k]))
        alphas.append(np.vdot(basis[k], w).real)
        for _ in range(2):  # twice is enough
            kept = np.stack(basis, axis=1)
            w = w - kept @ (kept.conj().T @ w)
        beta = np.linalg.norm(w)
        if not beta > 1e-10 * np.abs(alphas).max() or k + 1 == min(steps, n):
            break
        betas.append(beta)
        basis.append(w / beta)
    k = len(alphas)
    off = np.array(betas[: k - 1])
    return np.stack(basis[:k], axis=1), np.diag(alphas) + np.diag(off, 1) + np.diag(off, -1)


def condition(matrix: "sp.csr_array", scaling: Any, fill: Fill, symmetric: bool) -> Condition:
    """By a factorisation of the scaled matrix, where that is cheap; rarely too small by more than three."""
    import scipy.sparse as sp
    from scipy.sparse.linalg import splu

    n = matrix.shape[0]
    if n == 0:
        return Condition(1.0, 1.0, "")
    if fill.entries > MOST_ENTRIES or fill.flops > MOST_FLOPS:
        return Condition(None, None, "a factorisation is too large to try")
    scaled = sp.csc_array(scaling.apply(matrix))
    try:
        lu = splu(scaled, permc_spec="MMD_AT_PLUS_A" if symmetric else "COLAMD")
    except RuntimeError:
        return Condition(np.inf, np.inf, "a pivot is exactly zero")
    left, right, b = scaling.row_scale, scaling.column_scale, uneven(n, scaled.dtype)

    def solve(b: np.ndarray, side: Side) -> np.ndarray:
        return lu.solve(b.astype(scaled.dtype), side)

    def solve_given(b: np.ndarray, side: Side) -> np.ndarray:
        first, last = (left, right) if side == "N" else (right, left)
        return last * solve(first * b, side)

    with np.errstate(over="ignore", invalid="ignore"):
        numbers = [
            _one_norm(of) * inverse_norm(by, b, by(b, "N"))
            for of, by in ((matrix, solve_given), (scaled, solve))
        ]
        x = solve(solve(np.random.default_rng(0).standard_normal(n), "H"), "N")
        x = x / np.abs(x).max() if np.all(np.isfinite(x)) else np.ones(n)
        x = right * x
        x = x / np.linalg.norm(x)
        smallness = float(np.linalg.norm(matrix @ x) / np.linalg.norm(matrix.data))
    given, of_scaled = (float(number) if np.isfinite(number) else np.inf for number in numbers)
    return Condition(given, of_scaled, "", x, smallness)


def _one_norm(matrix: Any) -> float:
    return float(abs(matrix).sum(axis=0).max())


def _row_sums(matrix: "sp.csr_array") -> np.ndarray:
    return np.bincount(rows_of(matrix), np.abs(matrix.data), matrix.shape[0])

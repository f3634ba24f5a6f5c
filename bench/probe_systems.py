"""The small systems that the probes ask about: matrix (CSR) and right-hand side."""

import numpy as np
import scipy.sparse as sp


def laplacian(n: int) -> sp.csr_array:
    """1-D Poisson with Dirichlet ends."""
    return sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n), format="csr")


def laplacian_2d(n: int) -> sp.csr_array:
    one, identity = laplacian(n), sp.eye_array(n)
    return sp.csr_array(sp.kron(one, identity) + sp.kron(identity, one))


def singular(n: int) -> sp.csr_array:
    """1-D Poisson with Neumann ends: constants are in its null space."""
    matrix = laplacian(n).tolil()
    matrix[0, 0] = matrix[n - 1, n - 1] = 1.0
    return sp.csr_array(matrix)


def random(n: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(n)


def e1(n: int) -> np.ndarray:
    return np.eye(n)[0]


def with_nan(n: int) -> np.ndarray:
    b = random(n)
    b[n // 2] = np.nan
    return b


def ill_conditioned() -> tuple[sp.csr_array, np.ndarray]:
    """Eigenvalues from 1 down to 1e-10, `b` rich in the small ones.

    Then `|A| |x|` is so far above `|b|` that no vector of doubles has a residual of 1e-8: a
    recurrence may go on shrinking, the true residual cannot.
    """
    n = 60
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((n, n)))
    values = np.logspace(0, -10, n)
    matrix = (basis * values) @ basis.T
    matrix = (matrix + matrix.T) / 2
    b = basis[:, -20:] @ rng.standard_normal(20)
    return sp.csr_array(matrix), b


def consistent() -> tuple[sp.csr_array, np.ndarray]:
    matrix = singular(32)
    return matrix, matrix @ random(32)


def shifted() -> tuple[sp.csr_array, np.ndarray]:
    return sp.csr_array(laplacian(32) - 0.5 * sp.eye_array(32)), random(32)


def plus_and_minus() -> tuple[sp.csr_array, np.ndarray]:
    return sp.csr_array(np.diag([1.0, -1.0])), np.ones(2)

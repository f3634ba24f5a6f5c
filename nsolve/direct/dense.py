"""Factors of LAPACK, for sparse matrices with few zeros, where SuperLU is no match for it."""

import warnings
from typing import Any, NamedTuple

import numpy as np


class DenseFactors(NamedTuple):
    """What is used of SuperLU's factors."""

    solve: Any
    nnz: int


def dense_lu(matrix: Any) -> DenseFactors:
    import scipy.linalg as la

    with warnings.catch_warnings():  # a zero on the diagonal is seen in the condition
        warnings.simplefilter("ignore", la.LinAlgWarning)
        factors = la.lu_factor(matrix.toarray(), overwrite_a=True, check_finite=False)
    return DenseFactors(
        lambda b, side: la.lu_solve(factors, b, "NTH".index(side), check_finite=False), matrix.shape[0] ** 2
    )


def dense_cholesky(matrix: Any) -> DenseFactors | None:
    """None where the matrix is not positive definite."""
    import scipy.linalg as la

    try:
        factors = la.cho_factor(matrix.toarray(), overwrite_a=True, check_finite=False)
    except la.LinAlgError:
        return None

    def solve(b: np.ndarray, side: str) -> np.ndarray:
        b = b.conj() if side == "T" else b  # the matrix is its own adjoint
        x = la.cho_solve(factors, b, check_finite=False)
        return x.conj() if side == "T" else x

    return DenseFactors(solve, matrix.shape[0] ** 2)

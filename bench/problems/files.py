"""Systems that come as they are: PyAMG's shipped examples and Matrix Market files."""

from pathlib import Path

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import nsolve as ns

from ..specs import check_name
from .base import Problem, csr, random_rhs


def pyamg_example(seed: int, example: str = "unit_square") -> Problem:
    """One of the example systems that PyAMG ships (pyamg.gallery.load_example)."""
    try:
        from pyamg.gallery import example as gallery
    except ImportError:
        from ..peers.base import Missing

        raise Missing("pyamg is not installed (pip install 'nsolve[peers]')") from None
    check_name("PyAMG example", example, gallery.example_names)
    matrix = csr(gallery.load_example(example)["A"])
    return _from_matrix("pyamg", matrix, seed)


def matrix_market(seed: int, path: str = "") -> Problem:
    """A Matrix Market file. ValueError names the file, and what is wrong in it, when it cannot be read."""
    if not path:
        raise ValueError("problem 'matrix_market' needs a file: matrix_market[path=FILE.mtx]")
    if not Path(path).is_file():
        raise ValueError(f"problem 'matrix_market': there is no file {path}")
    try:
        matrix = csr(ns.read_matrix_market(path)[0])
    except (ValueError, OSError) as error:
        raise ValueError(f"problem 'matrix_market': cannot read {error}") from None
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"problem 'matrix_market': {path} is not square, shape {matrix.shape}")
    return _from_matrix("matrix_market", matrix, seed)


def _from_matrix(name: str, matrix: sp.csr_array, seed: int) -> Problem:
    matrix = matrix.astype(np.complex128 if np.iscomplexobj(matrix.data) else np.float64)
    n = matrix.shape[0]
    rhs = random_rhs(n, seed, np.iscomplexobj(matrix.data))
    return Problem(name, n, matrix, rhs, tags(matrix))


def tags(matrix: sp.csr_array) -> frozenset[str]:
    """What the entries prove: `symmetric` (Hermitian), and `spd` by an LU of it."""
    difference = matrix - matrix.conj().T
    scale = abs(matrix).max() if matrix.nnz else 0.0
    if difference.nnz and abs(difference).max() > 1e-12 * scale:
        return frozenset()
    return frozenset({"symmetric", "spd"} if _is_positive_definite(matrix) else {"symmetric"})


def _is_positive_definite(matrix: sp.csr_array) -> bool:
    """Sylvester's law: LU without pivoting of a Hermitian matrix has the signs of its spectrum. Where nothing
    but rounding is left of a diagonal entry, the matrix is singular for all that can be said."""
    diagonal = matrix.diagonal().real
    if not np.all(diagonal > 0):
        return False
    try:
        lu = spla.splu(
            matrix.tocsc(),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
    except RuntimeError:  # exactly singular
        return False
    unpivoted = np.array_equal(lu.perm_r, lu.perm_c)
    rounding = len(diagonal) * np.finfo(float).eps * diagonal[np.argsort(lu.perm_c)]
    return bool(unpivoted and np.all(lu.U.diagonal().real > rounding))

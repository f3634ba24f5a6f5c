"""Matrix Market files, through SciPy's reader, with the header's symmetry as tags."""

import gzip
import os
import zlib
from typing import Any

import lineax as lx
import numpy as np
import scipy.io
import scipy.sparse as sp

from .base import hermitian_tag

_SYMMETRY_TAGS = {"symmetric": lx.symmetric_tag, "hermitian": hermitian_tag}


def read_matrix_market(path: Any) -> tuple[sp.coo_array, frozenset[object]]:
    """Reads a matrix (`.mtx` or `.mtx.gz`; real, complex, integer or pattern; any symmetry).

    Returns the whole matrix (the stored triangle mirrored) and the tags that its header promises.  Pattern
    files get ones; integers become float64.  A file that is missing, malformed, truncated, or holds NaN or
    Inf is a `ValueError` (`FileNotFoundError`) that names file and, where SciPy's reader knows it, line.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no file {path!r}.")
    try:
        *_, symmetry = scipy.io.mminfo(path)
        matrix = scipy.io.mmread(path)
    except (ValueError, OverflowError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: not a readable Matrix Market file: {error}") from None
    matrix = sp.coo_array(matrix)
    if not np.issubdtype(matrix.dtype, np.inexact):
        matrix = matrix.astype(np.float64)
    bad = ~np.isfinite(matrix.data)
    if bad.any():
        first = int(np.argmax(bad))
        rows, columns = matrix.coords
        raise ValueError(
            f"{path}: entry ({rows[first] + 1}, {columns[first] + 1}) is {matrix.data[first]}, and "
            f"{int(bad.sum())} of {matrix.nnz} entries are not finite; mend the file."
        )
    tag = _SYMMETRY_TAGS.get(symmetry)
    return matrix, frozenset() if tag is None else frozenset({tag})


def write_matrix_market(path: Any, operator: Any, comment: str = "") -> None:
    """Writes an operator with `as_scipy()`, a SciPy matrix or a dense array; gzipped where the name ends so.

    Symmetric (Hermitian, skew) matrices are stored as one triangle, 17 digits, so that reading gives back the
    same numbers.
    """
    matrix = operator.as_scipy() if hasattr(operator, "as_scipy") else operator
    if not sp.issparse(matrix):
        matrix = np.asarray(matrix)
    options = {"comment": comment, "precision": 17, "symmetry": _symmetry(matrix)}
    path = os.fspath(path)
    if path.endswith(".gz"):
        with gzip.open(path, "wb") as file:
            scipy.io.mmwrite(file, matrix, **options)
    else:
        scipy.io.mmwrite(path, matrix, **options)


def _symmetry(matrix: Any) -> str:
    """Matrix Market's word for the symmetry that the entries have."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        return "general"

    def vanishes(difference) -> bool:
        return difference.count_nonzero() == 0 if sp.issparse(difference) else not difference.any()

    if vanishes(matrix - matrix.T):
        return "symmetric"
    if vanishes(matrix - matrix.conj().T):
        return "hermitian"
    return "skew-symmetric" if vanishes(matrix + matrix.T) else "general"

"""Row and column scalings by powers of two, which round nothing.

Ruiz, *A scaling algorithm to equilibrate both rows and columns norms in matrices* (RAL-TR-2001-034, 2001).
Here logarithms are scaled, so that nothing over- or underflows, and rounded to integers at the end.
"""

from typing import Any, NamedTuple

import numpy as np

from .matching import host_matrix, log2_modulus, row_maxima, rows_of


class Scaling(NamedTuple):
    """Binary exponents of the factors of rows and columns, `int32`: see `equilibrate`."""

    rows: np.ndarray
    columns: np.ndarray

    @property
    def row_scale(self) -> np.ndarray:
        """`2.0 ** rows`, `(rows,)` in float64."""
        return np.ldexp(1.0, self.rows)

    @property
    def column_scale(self) -> np.ndarray:
        """`2.0 ** columns`, `(columns,)` in float64."""
        return np.ldexp(1.0, self.columns)

    def apply(self, matrix: Any) -> Any:
        """The scaled matrix, CSR, without rounding (but where a number leaves the range of its dtype)."""
        matrix = host_matrix(matrix).copy()
        matrix.data = self.applied(matrix.data, rows_of(matrix), matrix.indices)
        return matrix

    def applied(self, values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """The same for entries that stand in these rows and columns."""
        exponents = self.rows[rows] + self.columns[columns]
        parts = 2 if np.iscomplexobj(values) else 1
        real = values.view(np.finfo(values.dtype).dtype).reshape(len(values), parts)
        return np.ldexp(real, exponents[:, None]).reshape(-1).view(values.dtype)


def equilibrate(matrix: Any, symmetric: bool = False, max_steps: int = 20) -> Scaling:
    """Scalings by which the largest entry of each row and each column is near one.

    `S = diag(2.0 ** rows) @ matrix @ diag(2.0 ** columns)`: the largest moduli of its rows and columns lie
    between about one half and two once the iteration has converged, which takes a few of the `max_steps`.
    `symmetric`: one factor for a row and its column, so that a symmetric or Hermitian matrix stays so
    (it does anyway; of other matrices the larger of the two is then brought to one).  Empty rows and columns
    keep their factor one.

    `matrix`: a SciPy sparse array, real or complex, any shape.  **Cost:** two passes over the entries a step.
    **Raises** `ValueError` for NaN and infinity, and for `symmetric` matrices that are not square.
    """
    matrix = host_matrix(matrix)
    if not np.all(np.isfinite(matrix.data)):
        raise ValueError("`matrix` holds NaN or infinity: no scaling mends it.")
    if symmetric and matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"`symmetric` matrices are square, but this one has shape {matrix.shape}.")
    scaled = log2_modulus(matrix.data)
    by_columns = matrix.copy()
    by_columns.data = np.arange(matrix.nnz)
    by_columns = by_columns.T.tocsr()
    order, i, j = by_columns.data, rows_of(matrix), matrix.indices
    rows, columns = np.zeros(matrix.shape[0]), np.zeros(matrix.shape[1])
    for _ in range(max_steps):
        of_rows, of_columns = _maxima(matrix, scaled), _maxima(by_columns, scaled[order])
        if symmetric:
            of_rows = of_columns = np.maximum(of_rows, of_columns)
        if max(np.abs(of_rows).max(initial=0), np.abs(of_columns).max(initial=0)) < _NEAR_ONE:
            break
        of_rows, of_columns = of_rows / 2, of_columns / 2
        rows, columns = rows - of_rows, columns - of_columns
        scaled -= of_rows[i] + of_columns[j]
    return rounded(rows, columns)


#: Of the binary logarithm of a norm.
_NEAR_ONE = 0.1


def _maxima(matrix: Any, values: np.ndarray) -> np.ndarray:
    """Of each row; zero of an empty one."""
    return row_maxima(matrix, values, empty=0.0)


def rounded(rows: np.ndarray, columns: np.ndarray) -> Scaling:
    """The powers of two next to factors given by their logarithms."""
    limit = 1000  # float64's own
    return Scaling(*(np.clip(np.rint(x), -limit, limit).astype(np.int32) for x in (rows, columns)))

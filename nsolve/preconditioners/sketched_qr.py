"""The triangular factor of a random sketch, for least squares."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PRNGKeyArray

from .._dense import fourier_of_columns, solve_triangular, triangular_factor
from .._vectors import take
from ..operators.base import untagged
from ..operators.convert import as_sparse, knows_its_entries, what_lacks_entries
from .base import AbstractApproximateInverse, AbstractPreconditioner

#: Entries in each column of a sparse sketch.
_SIGNS = 8


class SketchedInverse(AbstractApproximateInverse):
    """`R^-1` of an upper triangle, or `R^-T`."""

    factor: Array
    structure: jax.ShapeDtypeStruct = eqx.field(static=True)
    transposed: bool = eqx.field(static=True)
    constructor: "SketchedQR"
    tags: frozenset[object] = eqx.field(static=True, default=frozenset())

    def mv(self, vector: Array) -> Array:
        return solve_triangular(self.factor, vector, self.transposed)

    def refresh(self, operator: lx.AbstractLinearOperator) -> "SketchedInverse":
        return self.constructor(operator)  # pyright: ignore[reportReturnType]

    def transpose(self) -> "SketchedInverse":
        return SketchedInverse(self.factor, self.structure, not self.transposed, self.constructor)

    def conj(self) -> "SketchedInverse":
        return SketchedInverse(self.factor.conj(), self.structure, self.transposed, self.constructor)

    def __repr__(self) -> str:
        size = self.in_size()
        return f"SketchedQR preconditioner ({size} unknowns; {size**2} multiply-adds an application)"


class SketchedQR(AbstractPreconditioner):
    """`R^-1`, from the QR factorisation of a random sketch `S A`: makes tall least-squares problems easy.

    For `LSMR`, `LSQR` and `CGLS` on operators with many more rows than columns, ill-conditioned ones above
    all: the condition of `A R^-1` is about 3 whatever that of `A` is, and each step gains a factor of 2.  Of
    a wide operator the transpose is sketched, and `R^-T` multiplies its equations.

    * `oversampling`: rows of the sketch for each column of `A`; the condition is about
      `(sqrt(c) + 1) / (sqrt(c) - 1)` for `c` of them.  More are worth it where columns are few.
    * `key`: a key of `jax.random`; without one the same is used each time.

    Dense operators are sketched by random signs, a Fourier transform and a choice of its frequencies, which
    works for every matrix; sparse ones by 8 random signs in each column of `S`.  Operators that know their
    entries.

    **Cost** for `m` rows, `n` columns, `s = oversampling n`: `m n log m` operations, or 8 for each entry of
    a sparse matrix, and `2 s n^2` for the factorisation; `s n` numbers are held meanwhile (for dense
    operators `m n`), `n^2` to the end.
    Applying it costs `n^2` multiply-adds.

    Columns (of a wide operator: rows) that depend on each other have no `R^-1`: a `ValueError` for concrete
    operators, otherwise the solve ends in `RESULTS.breakdown`.  Without a preconditioner, or with damping,
    the solvers take such operators.

    Avron, Maymounkov and Toledo (2010), doi:10.1137/090767911; Meng, Saunders and Mahoney (2014),
    doi:10.1137/120866580.  That the solvers start again from the computed residual is what makes the result
    as good as a direct solver's: Meier, Nakatsukasa, Townsend and Webb (2024), arXiv:2302.07202; Epperly,
    Meier and Nakatsukasa (2024), arXiv:2406.03468.
    """

    oversampling: float = 4.0
    key: PRNGKeyArray | None = None

    def __check_init__(self):
        if not isinstance(self.oversampling, int | float) or not 1 < self.oversampling < math.inf:
            raise ValueError(
                f"`SketchedQR(oversampling=...)` must be a number above 1, but is {self.oversampling!r}."
            )

    def build(self, operator: lx.AbstractLinearOperator) -> SketchedInverse:
        structure = operator.out_structure(), operator.in_structure()
        if not all(isinstance(part, jax.ShapeDtypeStruct) and len(part.shape) == 1 for part in structure):
            raise ValueError(
                f"`SketchedQR` acts on single flat arrays, but the operator maps {structure[1]} to "
                f"{structure[0]}; flatten them with `jax.flatten_util.ravel_pytree`."
            )
        if not knows_its_entries(operator):
            raise ValueError(f"`SketchedQR` needs the entries, but {what_lacks_entries(operator)}")
        wide = operator.out_size() < operator.in_size()
        tall = operator.transpose() if wide else operator
        key = jax.random.key(0) if self.key is None else self.key
        num_rows = math.ceil(self.oversampling * tall.in_size())
        if num_rows >= tall.out_size():  # then `A` itself is no larger than a sketch
            sketch = tall.as_matrix()
        elif isinstance(inner := untagged(tall), lx.MatrixLinearOperator):
            sketch = _trigonometric(inner.matrix, num_rows, key)
        else:
            sketch = _sparse_signs(as_sparse(tall), num_rows, key)
        factor = triangular_factor(sketch)
        return SketchedInverse(_of_full_rank(factor), structure[0 if wide else 1], wide, self)


def _trigonometric(matrix: Array, num_rows: int, key: PRNGKeyArray) -> Array:
    """Random signs, a Fourier transform of the columns, and some of its frequencies; real for real ones."""
    import scipy.fft  # slow to import

    of_signs, of_choice = jax.random.split(key)
    size = len(matrix)
    mixed = jax.random.rademacher(of_signs, (size, 1), matrix.dtype) * matrix
    padded, is_complex = scipy.fft.next_fast_len(size), jnp.iscomplexobj(matrix)
    transform = fourier_of_columns(mixed, padded)
    count = num_rows if is_complex else -(-num_rows // 2)
    chosen = jax.random.choice(of_choice, len(transform), (min(count, len(transform)),), replace=False)
    rows = take(transform, chosen)
    if not is_complex:
        rows = jnp.concatenate([rows.real, rows.imag])
    return rows / jnp.asarray(math.sqrt(len(rows) if is_complex else len(rows) / 2), matrix.dtype)


def _sparse_signs(matrix: Any, num_rows: int, key: PRNGKeyArray) -> Array:
    """Each row of the matrix is added to, or taken from, a few rows of the sketch."""
    rows, columns, (size, width) = matrix.pattern.rows, matrix.pattern.indices, matrix.pattern.shape
    if num_rows * width >= np.iinfo(np.int32).max:
        raise ValueError(
            f"The sketch of `SketchedQR` would have {num_rows} x {width} entries: use less `oversampling`, "
            "or no preconditioner."
        )
    values = matrix.values

    def add(sketch: Array, key: PRNGKeyArray) -> tuple[Array, None]:
        of_signs, of_places = jax.random.split(key)
        signs = jax.random.rademacher(of_signs, (size,), values.dtype)
        places = jax.random.randint(of_places, (size,), 0, num_rows, jnp.int32)
        entries = take(places, rows) * width + columns.astype(np.int32)
        return sketch.at[entries].add(take(signs, rows) * values, mode="promise_in_bounds"), None

    sketch = jnp.zeros(num_rows * width, values.dtype)
    sketch, _ = jax.lax.scan(add, sketch, jax.random.split(key, _SIGNS))
    return (sketch / jnp.asarray(math.sqrt(_SIGNS), sketch.dtype)).reshape(num_rows, width)


def _of_full_rank(factor: Array) -> Array:
    """The triangle; NaN, or an error, where a column depends on those before it."""
    lengths = jnp.linalg.norm(factor, axis=0)
    pivots = jnp.abs(jnp.diagonal(factor))
    dependent = ~(pivots > len(factor) * jnp.finfo(factor.dtype).eps * lengths) & jnp.isfinite(lengths)
    if not isinstance(dependent, Tracer) and dependent.any():
        raise ValueError(
            f"`SketchedQR` needs columns (of a wide operator: rows) that do not depend on each other, but "
            f"{int(dependent.sum())} of {len(pivots)} depend on those before them, the first of them number "
            f"{int(jnp.argmax(dependent))}. Leave them out, or solve without a preconditioner or with "
            "`damping`."
        )
    return jnp.where(dependent.any(), jnp.nan, factor)

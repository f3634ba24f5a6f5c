"""Stencils: operators on grids that couple each point to fixed neighbours, never assembled."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, ArrayLike, Inexact

from .._arrays import is_traced
from .._upstream import bounded_cache
from .base import AbstractOperator, as_tags, hermitian_tag
from .finite_volumes import Boundary, Offset, as_cell_fields, finite_volumes, unit_offset
from .pattern import SparsityPattern
from .sparse import SparseLinearOperator
from .values import as_coefficients, fit

if TYPE_CHECKING:
    import scipy.sparse as sp


class StencilLinearOperator(AbstractOperator):
    """A stencil on a 1-D, 2-D or 3-D grid: `y[i] = sum_o coefficients[o][i] * x[i + o]`.

    Build one with `poisson`, `diffusion` or `from_stencil`.  It acts on arrays of the grid's
    shape: `shape -> shape`.  A neighbour outside of the grid counts as zero, or lies on the other
    side where the axis is periodic.

    * `offsets`: the neighbours, integer tuples, static.
    * `coefficients`: one array for each offset, broadcastable to the grid: scalars for constant
      stencils, arrays of the grid's shape for varying ones.  Differentiable; may be complex.
    * `periodic`: for each axis whether it wraps around.

    One product costs a multiply-add for each neighbour and point; a constant stencil reads and
    writes nothing but the vector.  The structure is static: a function that takes the operator is
    traced once per grid and set of offsets.
    """

    coefficients: tuple[Array, ...]
    offsets: tuple[Offset, ...] = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    periodic: tuple[bool, ...] = eqx.field(static=True)
    tags: frozenset[object] = eqx.field(static=True, default=frozenset())

    @staticmethod
    def from_stencil(
        stencil: Mapping[Offset, ArrayLike],
        shape: Sequence[int],
        periodic: bool | Sequence[bool] = False,
        tags: Any = (),
    ) -> "StencilLinearOperator":
        """From any stencil, `{offset: coefficient}`: `{(0,): 2.0, (-1,): -1.0, (1,): -1.0}`.

        Coefficients are broadcastable to the grid's `shape` and may be traced; where they point out
        of the grid their value is irrelevant, but must be finite.  `periodic`: for all axes or one
        for each.  A symmetry tag that concrete coefficients contradict is a `ValueError`, and so is
        a coefficient that is not finite.
        """
        shape = _grid(shape)
        wraps = _per_axis(periodic, len(shape), "periodic")
        offsets = tuple(tuple(int(k) for k in np.atleast_1d(offset)) for offset in stencil)
        if not offsets:
            raise ValueError("`stencil` is empty; it needs at least one offset, such as {(0,): 1.0}.")
        given = [as_coefficients(c, f"stencil[{offset}]") for offset, c in stencil.items()]
        with jax.numpy_dtype_promotion("standard"):
            dtype = jnp.result_type(*given)
        if not jnp.issubdtype(dtype, jnp.inexact):
            dtype = jnp.result_type(float)
        coefficients = []
        for offset, coefficient in zip(offsets, given, strict=True):
            if len(offset) != len(shape):
                raise ValueError(
                    f"`stencil` has the offset {offset} with {len(offset)} entries, but the grid "
                    f"{shape} has {len(shape)} axes."
                )
            size = jnp.shape(coefficient)
            if len(size) > len(shape) or any(
                n not in (1, m) for n, m in zip(size[::-1], shape[::-1], strict=False)
            ):
                raise ValueError(
                    f"`stencil[{offset}]` has shape {size}, which does not broadcast to the grid {shape}."
                )
            if not is_traced(coefficient) and not np.all(np.isfinite(coefficient)):
                raise ValueError(f"`stencil[{offset}]` must be finite, but contains NaN or infinity.")
            if not isinstance(coefficient, jax.Array):
                coefficient = fit(coefficient, dtype, f"stencil[{offset}]")
            full = size and (1,) * (len(shape) - len(size)) + size
            coefficients.append(jnp.asarray(coefficient, dtype).reshape(full))
        operator = StencilLinearOperator(
            coefficients=tuple(coefficients),
            offsets=offsets,
            shape=shape,
            periodic=wraps,
            tags=as_tags(tags),
        )
        _check_symmetry_tags(operator)
        return operator

    @staticmethod
    def poisson(
        shape: Sequence[int], spacing: float | Sequence[float] = 1.0, dtype: Any = None
    ) -> "StencilLinearOperator":
        """The negative Laplacian, `2d + 1` points scaled by `1 / spacing**2`, Dirichlet.

        The grid holds the interior points only; the walls lie one spacing beyond the outermost.
        `spacing`: one for all axes or one for each.  Tagged positive semidefinite.
        """
        shape = _grid(shape)
        dtype = dtype or jnp.result_type(float)
        weights = [1 / h**2 for h in _spacings(spacing, len(shape))]
        offsets, coefficients = [(0,) * len(shape)], [2 * sum(weights)]
        for axis, weight in enumerate(weights):
            for step in (-1, 1):
                offsets.append(unit_offset(len(shape), axis, step))
                coefficients.append(-weight)
        fitting = (c if is_traced(c) else fit(c, dtype, "1 / spacing**2") for c in coefficients)
        return StencilLinearOperator(
            coefficients=tuple(jnp.asarray(c, dtype) for c in fitting),
            offsets=tuple(offsets),
            shape=shape,
            periodic=(False,) * len(shape),
            tags=as_tags(lx.positive_semidefinite_tag),
        )

    @staticmethod
    def diffusion(
        coefficient: Inexact[ArrayLike, "..."] | Sequence[ArrayLike],
        spacing: float | Sequence[float] = 1.0,
        boundary: Boundary | Sequence[Boundary] = "dirichlet",
    ) -> "StencilLinearOperator":
        """Finite volumes for `-div(coefficient grad u)`, differentiable in the coefficient.

        * `coefficient`: one value in each cell, an array of the grid's shape (positive where real,
          or zero); or a tuple with such an array for each axis.  May be traced.
        * `spacing`: the cells' width, one for all axes or one for each.
        * `boundary`: `"dirichlet"`, `"neumann"` or `"periodic"`, one for all axes or one for each.
          A Dirichlet wall (value zero) is the outer face of the last cell, half a cell from its
          centre.

        Faces carry the harmonic mean of their two cells, which keeps fluxes right across jumps.
        The operator is tagged positive semidefinite for real coefficients and symmetric for complex
        ones; without a Dirichlet axis it is singular, the constants being its null space.

        Cells in which the coefficient is zero (along every axis) are *inactive*: obstacles, or what
        lies outside of a domain.  Nothing flows through their faces, and their row is the
        identity's times the largest diagonal entry: give the right-hand side zeros there, and the
        solution is zero there.  Active cells that inactive ones cut off from every Dirichlet wall
        make the operator singular: constants on such a pocket are in its null space, and the
        right-hand side must sum to zero over it, or the solve reports failure; a pocket of one cell
        is a zero row, which only `Multigrid` among the preconditioners takes.  Derivatives in the
        coefficient are zero at inactive cells, which stay so.
        """
        cells = as_cell_fields(coefficient)
        shape = _grid(cells[0].shape)
        spacings = _spacings(spacing, len(shape))
        boundaries = _per_axis(boundary, len(shape), "boundary")
        with np.errstate(over="ignore", invalid="ignore"):  # told below
            stencil = finite_volumes(cells, spacings, boundaries)
        centre = stencil[(0,) * len(shape)]
        if not is_traced(centre) and not np.all(np.isfinite(centre)):
            raise ValueError(
                f"`coefficient / spacing**2` overflows {centre.dtype}: the coefficient reaches "
                f"{max(abs(field).max() for field in cells):g}, `spacing` is {spacing}. Scale the system."
            )
        tag = lx.symmetric_tag if jnp.iscomplexobj(centre) else lx.positive_semidefinite_tag
        return StencilLinearOperator(
            coefficients=tuple(map(jnp.asarray, stencil.values())),
            offsets=tuple(stencil),
            shape=shape,
            periodic=tuple(kind == "periodic" for kind in boundaries),
            tags=as_tags(tag),
        )

    @property
    def dtype(self):
        """Type of the coefficients."""
        return jnp.result_type(*self.coefficients)

    def neighbour(self, x: Array, offset: Offset) -> Array:
        """`x[i + offset]` at every grid point `i`: zero or wrapped around outside of the grid."""
        return shifted(x, offset, self.periodic)

    def mv(self, vector: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        """`A x` for an array of the grid's shape."""
        terms = zip(self.coefficients, self.offsets, strict=True)
        total = sum(c * self.neighbour(vector, offset) for c, offset in terms)
        return jnp.asarray(total)

    def add_diagonal(self, d: ArrayLike) -> "StencilLinearOperator":
        """`A + diag(d)`, `d` a number or an array that broadcasts to the grid; may be traced.

        Keeps the tags by the rules of sums: positive semidefinite stays so where `d` is known to be
        nowhere negative."""
        from .algebra import add_diagonal

        return add_diagonal(self, d)

    def as_sparse(self) -> SparseLinearOperator:
        """As a sparse matrix on flat vectors (C order).  Legal while tracing."""
        pattern, source, segments = _assembly(self.shape, self.offsets, self.periodic)
        host = not any(map(is_traced, self.coefficients))
        xp = np if host else jnp
        full = [xp.broadcast_to(xp.asarray(c), self.shape).reshape(-1) for c in self.coefficients]
        values = xp.concatenate(full)[source]
        if segments is not None:  # short periodic axes: several offsets reach the same point
            if isinstance(values, np.ndarray):
                values = np.add.reduceat(values, np.searchsorted(segments, np.arange(pattern.nnz)))
            else:
                values = jax.ops.segment_sum(values, segments, pattern.nnz, indices_are_sorted=True)
        return SparseLinearOperator(values, pattern, tags_of_values=self.tags)

    def as_scipy(self) -> "sp.csr_array":
        """As a SciPy CSR array on flat vectors, C order (concrete coefficients only)."""
        return self.as_sparse().as_scipy()

    def as_matrix(self) -> Array:
        return self.as_sparse().as_matrix()

    def diagonal(self) -> Array:
        total = jnp.zeros(self.shape, self.dtype)
        for coefficient, offset in zip(self.coefficients, self.offsets, strict=True):
            itself = [
                k % n == 0 if wraps else k == 0
                for k, n, wraps in zip(offset, self.shape, self.periodic, strict=True)
            ]
            if all(itself):
                total = total + coefficient
        return total.reshape(-1)

    def transpose(self) -> "StencilLinearOperator":
        # Also where a tag says that nothing changes: coefficients that were fitted may not keep what it says.
        coefficients, offsets = _transposed(self)
        return StencilLinearOperator(
            coefficients=coefficients,
            offsets=offsets,
            shape=self.shape,
            periodic=self.periodic,
            tags=as_tags(lx.transpose_tags(self.tags)),
        )

    def conj(self) -> "StencilLinearOperator":
        coefficients = tuple(c.conj() for c in self.coefficients)
        return eqx.tree_at(lambda operator: operator.coefficients, self, coefficients)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.shape, self.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.shape, self.dtype)

    def is_structurally(self, tag: object) -> bool:
        if all(not any(offset) for offset in self.offsets):
            return tag in (
                lx.diagonal_tag,
                lx.tridiagonal_tag,
                lx.lower_triangular_tag,
                lx.upper_triangular_tag,
            )
        if len(self.shape) > 1 or self.periodic[0]:
            return False
        reach = [offset[0] for offset in self.offsets]
        limits: dict[object, tuple[float, float]] = {
            lx.tridiagonal_tag: (-1, 1),
            lx.lower_triangular_tag: (-np.inf, 0),
            lx.upper_triangular_tag: (0, np.inf),
        }
        return tag in limits and limits[tag][0] <= min(reach) and max(reach) <= limits[tag][1]

    def __repr__(self) -> str:
        grid = " x ".join(map(str, self.shape))
        kind = "constant" if all(c.size == 1 for c in self.coefficients) else "varying"
        wraps = f", periodic={self.periodic}" if any(self.periodic) else ""
        tags = f", tags={{{', '.join(sorted(map(repr, self.tags)))}}}" if self.tags else ""
        points = f"{len(self.offsets)} points, {kind}"
        return f"StencilLinearOperator({grid} grid, {points}, {self.dtype}{wraps}{tags})"


def shifted(x: Array, offset: Offset, periodic: Sequence[bool]) -> Array:
    """`x[i + offset]` at every grid point `i`: zero outside of the grid, or wrapped around."""
    padding = []
    for axis, (step, wraps) in enumerate(zip(offset, periodic, strict=True)):
        if wraps and step:
            x = jnp.roll(x, -step, axis)
        # XLA forbids cutting more than the axis holds; what lies further out is zero anyway.
        step = 0 if wraps else max(-x.shape[axis], min(step, x.shape[axis]))
        padding.append((-step, step, 0))
    return jax.lax.pad(x, jnp.zeros((), x.dtype), padding) if any(p[0] for p in padding) else x


def _transposed(operator: StencilLinearOperator):
    """`A[i, i + o]` stands in row `i + o` of the transpose, at offset `-o`."""
    offsets, coefficients = [], []
    for coefficient, offset in zip(operator.coefficients, operator.offsets, strict=True):
        back = tuple(-k for k in offset)
        offsets.append(back)
        # Where the coefficient is constant it stays so: entries that leave the grid are moot.
        if coefficient.ndim > 0:
            step = tuple(k if n > 1 else 0 for k, n in zip(back, coefficient.shape, strict=True))
            coefficient = shifted(coefficient, step, operator.periodic)
        coefficients.append(coefficient)
    if sorted(offsets) == sorted(operator.offsets):  # the same structure, then, for what is compiled for it
        order = [offsets.index(offset) for offset in operator.offsets]
        offsets, coefficients = ([x[k] for k in order] for x in (offsets, coefficients))
    return tuple(coefficients), tuple(offsets)


@bounded_cache(16)
def _assembly(shape: tuple[int, ...], offsets: tuple[Offset, ...], periodic: tuple[bool, ...]):
    """The pattern, the entries' places among the stacked coefficients, and which share a slot."""
    size = int(np.prod(shape))
    points = np.indices(shape).reshape(len(shape), -1)
    rows, columns, source = [], [], []
    for k, offset in enumerate(offsets):
        target = points + np.reshape(offset, (-1, 1))
        inside = np.ones(size, bool)
        for axis, n in enumerate(shape):
            if periodic[axis]:
                target[axis] %= n
            else:
                inside &= (target[axis] >= 0) & (target[axis] < n)
        (row,) = np.nonzero(inside)
        rows.append(row)
        columns.append(np.ravel_multi_index(tuple(target[:, inside]), shape))
        source.append(row + k * size)
    rows, columns, source = map(np.concatenate, (rows, columns, source))
    order = np.lexsort((columns, rows))
    rows, columns, source = rows[order], columns[order], source[order]
    first = np.ones(len(rows), bool)
    first[1:] = (np.diff(rows) != 0) | (np.diff(columns) != 0)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows[first], minlength=size))])
    pattern = SparsityPattern(indptr, columns[first], (size, size))
    return pattern, source, None if first.all() else np.cumsum(first) - 1


def _grid(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, Sequence):
        raise TypeError(f"`shape` must be a tuple of integers, such as (64, 64), but is {shape!r}.")
    shape = tuple(int(n) for n in shape)
    if not 1 <= len(shape) <= 3 or min(shape) < 1:
        raise ValueError(f"`shape` must have one to three axes of at least one point each, but is {shape}.")
    return shape


def _per_axis(value: Any, dim: int, name: str) -> tuple:
    if isinstance(value, list | tuple):
        if len(value) != dim:
            raise ValueError(f"`{name}` has {len(value)} entries, but the grid has {dim} axes.")
        return tuple(value)
    return (value,) * dim


def _spacings(spacing: Any, dim: int) -> tuple:
    if isinstance(spacing, np.ndarray) and spacing.ndim == 1:
        spacing = tuple(spacing)
    spacings = _per_axis(spacing, dim, "spacing")
    for h in spacings:
        if not is_traced(h) and not (np.isfinite(h) and h > 0):
            raise ValueError(f"`spacing` must be positive and finite, but is {spacing}.")
    return spacings


def _check_symmetry_tags(operator: StencilLinearOperator) -> None:
    definite = {lx.positive_semidefinite_tag, lx.negative_semidefinite_tag, hermitian_tag}
    claims = operator.tags & (definite | {lx.symmetric_tag})
    if not claims or any(map(is_traced, operator.coefficients)):
        return
    matrix = operator.as_scipy()
    for tag in claims:
        transpose = matrix.T if tag is lx.symmetric_tag else matrix.conj().T
        if abs(matrix - transpose).max() > 1e-10 * abs(matrix).max():
            raise ValueError(
                f"`tags` contain {tag}, but the stencil is not so: its entries differ from its "
                "transpose's. Leave the tag out, or symmetrise the coefficients."
            )

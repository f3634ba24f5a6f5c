"""What a geometry is: two sets of sites, the cost between them, and the entropic regularisation."""

import abc
import copy
from collections.abc import Callable
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from .._arrays import is_traced

# A cost matrix with at most so many entries may be stored: 32 MiB of float64.  Larger ones are computed tile
# by tile, each a sixteenth of this, which stays in a core's cache.
TILE = 2**22


class AbstractGeometry(eqx.Module):
    """Costs `C` (n, m) between n source and m target sites, and `epsilon`, the weight of the entropy.

    A transport solver sees a problem only through the sums below, over the entropic plan

        P_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon)

    of potentials `f` (n,), `g` (m,) and weights `a` (n,), `b` (m,), all of the geometry's dtype.  Sums over
    the other axis are those of `geometry.T`.  Each is differentiable to any order, forward and reverse, in
    all of its arguments, in `epsilon` and in the arrays that the geometry holds; works under `jit` and
    `vmap`; and takes O(n m) exponentials unless its class says otherwise.  Sites without weight contribute
    nothing, whatever their potential and costs, if finite, and have the right derivatives.  Where costs may
    not be finite, `prepared` comes first.
    """

    epsilon: eqx.AbstractVar[Array]

    @property
    @abc.abstractmethod
    def source_shape(self) -> tuple[int, ...]:
        """The shape in which users give `a` and get `f`: `(n,)`, or a grid's."""

    @property
    @abc.abstractmethod
    def target_shape(self) -> tuple[int, ...]:
        """The shape in which users give `b` and get `g`."""

    @property
    @abc.abstractmethod
    def dtype(self) -> np.dtype:
        """float32 or float64."""

    @property
    @abc.abstractmethod
    def T(self) -> "AbstractGeometry":
        """The same costs with source and target exchanged."""

    @abc.abstractmethod
    def softmin(self, g: Array, b: Array) -> Array:
        """`f_i = -epsilon log sum_j b_j exp((g_j - C_ij) / epsilon)`, shape (n,).

        Never NaN for finite arguments, however small `epsilon`, if any weight is positive.
        """

    @abc.abstractmethod
    def apply(self, f: Array, g: Array, a: Array, b: Array, v: Array) -> Array:
        """`sum_j P_ij v_j`, shape (n,) or (n, k) for `v` (m,) or (m, k)."""

    @abc.abstractmethod
    def squares(self, f: Array, g: Array, a: Array, b: Array, v: Array) -> Array:
        """`sum_j P_ij^2 v_j`, shape (n,)."""

    @abc.abstractmethod
    def transport_cost(self, f: Array, g: Array, a: Array, b: Array) -> Array:
        """`sum_ij P_ij C_ij`, a scalar."""

    @abc.abstractmethod
    def check(self, a: Array, b: Array) -> None:
        """Raise `ValueError` for costs between sites with weight that are not finite, or too large for
        `epsilon`; all numbers are known.
        """

    @abc.abstractmethod
    def prepared(self, a: Array, b: Array, rows: bool, columns: bool) -> tuple[Self, Array, Array]:
        """`(geometry, u, v)`: a geometry with the costs `C_ij - u_i - v_j`, and these, constants (n,), (m,).

        The offsets are such that the smallest cost of each site, among sites with weight, is about zero; `u`
        is zero unless `rows`, `v` unless `columns`.  All costs are finite if those between sites with weight
        are: a site without weight whose costs are not takes the place of the heaviest.
        """

    @abc.abstractmethod
    def largest_cost(self, a: Array, b: Array) -> Array:
        """`max |C_ij|` between sites with weight, or a bound of it; a constant to derivatives."""

    @abc.abstractmethod
    def cost_rows(self, start: ArrayLike) -> Array:
        """Rows `start, ..., start + tile_rows - 1` of `C`; those beyond the last one repeat it."""

    @abc.abstractmethod
    def cost_matrix(self) -> Array:
        """`C` as an array (n, m), however large."""

    @abc.abstractmethod
    def precomputed(self) -> "AbstractGeometry":
        """The same costs for many sums: stored as a matrix where that is faster and fits in one tile."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of source and of target sites, `(n, m)`."""
        return int(np.prod(self.source_shape)), int(np.prod(self.target_shape))

    @property
    def fits(self) -> bool:
        """Whether the cost matrix is a single tile."""
        n, m = self.shape
        return n * m <= TILE

    @property
    def tile_rows(self) -> int:
        """Number of rows of `C` that are computed at once."""
        n, m = self.shape
        return n if self.fits else max(1, TILE // 16 // m)

    def with_epsilon(self, epsilon: ArrayLike) -> Self:
        """The same costs with another regularisation."""
        return replaced(self, epsilon=as_epsilon(epsilon, self.dtype))


def heaviest(weights: Array, sites: Array) -> Array:
    """The site of the largest weight, a constant."""
    return jax.lax.stop_gradient(sites[jnp.argmax(weights)])


def offsets(
    lowest_of_rows: Callable, lowest_of_columns: Callable, a: Array, b: Array, rows: bool, columns: bool
) -> tuple[Array, Array]:
    """`u` and `v` of `prepared`, from the functions `g -> min_j C_ij - g_j` and `f -> min_i C_ij - f_i`."""

    def finite(u: Array) -> Array:
        return jnp.where(jnp.isfinite(u), u, 0)

    u, v = jnp.zeros_like(a), jnp.zeros_like(b)
    if rows:
        u = finite(lowest_of_rows(jnp.where(b > 0, v, -jnp.inf)))
    if columns:
        v = finite(lowest_of_columns(jnp.where(a > 0, u, -jnp.inf)))
    return u, v


def replaced(module: Any, **fields: Any) -> Any:
    """A copy with other values in some fields, whose checks are not repeated."""
    new = copy.copy(module)
    for name, value in fields.items():
        object.__setattr__(new, name, value)
    return new


def as_real(name: str, values: Any, finite: bool = True, waits: bool = True) -> Any:
    """Real floating-point numbers; Python numbers and integers become floats.

    Where they are known they must be finite, or not wholly without finite numbers: some sites may be padding.
    `waits`: whether numbers that may still be on their way from a device count as known.
    """
    if not is_traced(values):
        values = values if hasattr(values, "dtype") else np.asarray(values)
    dtype = np.dtype(values.dtype)
    if np.issubdtype(dtype, np.integer) or np.issubdtype(dtype, np.bool_):
        dtype = np.dtype(float)
    dtype = jax.dtypes.canonicalize_dtype(dtype)  # without x64 JAX has no float64
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"`{name}` has dtype {values.dtype}; transport needs float32 or float64.")
    if not is_traced(values) and (waits or not isinstance(values, jax.Array)):
        known = np.isfinite(np.asarray(values))
        if not np.all(known) and (finite or not np.any(known)):
            raise ValueError(f"`{name}` must be finite, but contains NaN or infinity.")
    return jnp.asarray(values, dtype)


def as_epsilon(epsilon: Any, dtype: Any) -> Array:
    """A positive scalar of the geometry's dtype; a traced one is taken at its word."""
    array = as_real("epsilon", epsilon)
    if array.shape != ():
        raise ValueError(
            f"`epsilon` must be one number, but has shape {array.shape}; "
            "for a batch of problems use `jax.vmap`."
        )
    if not is_traced(epsilon) and not float(epsilon) > 0:
        raise ValueError(
            f"`epsilon` must be positive, but is {float(epsilon)}; a small fraction of the largest cost, "
            "such as 1e-2 or 1e-3 of it, comes close to unregularised transport."
        )
    return array.astype(dtype)


def check_finite(name: str, values: Any, weights: Any) -> None:
    """Refuse sites with weight at which numbers are not finite; `values` has a row for each site."""
    bad = ~np.all(np.isfinite(np.asarray(values)), axis=-1) & (np.asarray(weights) > 0)
    if np.any(bad):
        raise ValueError(
            f"`{name}` must be finite, but contains NaN or infinity: row {np.argmax(bad)}, which has "
            "weight.  Sites that only fill up an array need the weight zero."
        )


def check_costs(largest: Any, epsilon: Any, dtype: Any) -> None:
    """Refuse costs that are not finite, and an `epsilon` that `dtype` cannot tell from zero beside them.

    The exponent `(f + g - C) / epsilon` carries the rounding errors of `C`, divided by `epsilon`.
    """
    if not np.isfinite(largest):
        raise ValueError(
            f"The cost between some sites is not finite: NaN, or too large for {np.dtype(dtype).name}."
        )
    least = float(jnp.finfo(dtype).eps) * float(largest)
    if float(epsilon) < least:
        advice = " or use float64" if np.dtype(dtype) == np.float32 else ""
        raise ValueError(
            f"`epsilon` is {float(epsilon):.3g}, too small for costs up to {float(largest):.3g} in "
            f"{np.dtype(dtype).name}: rounding errors alone exceed it.  Take at least {least:.3g} "
            f"(a thousand times that for a few right digits){advice}."
        )

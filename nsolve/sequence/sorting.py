"""An order in which systems resemble their neighbours, so that what one teaches serves the next.

Runs on the host, before any system is assembled, on the parameters alone.
"""

from typing import Literal, get_args

import jax
import numpy as np
from jaxtyping import PyTree

Method = Literal["greedy", "grouped", "hilbert"]

#: Most systems that a nearest-neighbour search looks through at once.
GROUP = 1000
#: Principal components that a curve is drawn through.
COMPONENTS = 7
#: Rows and columns of Fourier coefficients that stand for a field.
FREQUENCIES = 12


def sort_systems(parameters: PyTree, method: Method = "greedy") -> np.ndarray:
    """A permutation of the systems along which parameters change little, shape `(T,)`.

    * `parameters`: an array of shape `(T, ...)`, or a pytree of such; integer, real or complex.  What belongs
      to one system is flattened and concatenated, and distances are Euclidean: where leaves have different
      units, scale them first.
    * `method`:
        - `"greedy"`: from system 0 on to the nearest that is left; in general the shortest path of the
          three.  `O(T^2 p)` work for `p` numbers a system: for up to some 10^4 systems.
        - `"grouped"`: along a Hilbert curve through the principal components (at most 7), cut into groups
          of at most 1000, greedy inside each.  `O(1000 T p)` work: for 10^5 systems and more.
        - `"hilbert"`: for fields of shape `(T, h, w)`: components of the 12 x 12 lowest Fourier
          coefficients, one cell for each combination of their halves, cells in the order of a Hilbert
          curve, greedy inside each cell.  Fine structure of the fields counts inside cells only.  Other
          leaves are taken as they are.

    The first of every group is the nearest to the last of the group before.  `parameters[order]` sorts, and
    `values[numpy.argsort(order)]` puts results back.  A `ValueError` or `TypeError` says what is wrong with
    parameters that are empty, not finite, not numbers, or of different lengths.

    Wang, Hao et al. (2024), arXiv:2401.09516; Skilling (2004), doi:10.1063/1.1751381.
    """
    if method not in get_args(Method):
        raise ValueError(f"`method` must be one of {get_args(Method)}, not {method!r}.")
    leaves = _leaves(parameters)
    rows = _rows(leaves)
    if method == "greedy":
        return _greedy(rows, 0)
    if method == "grouped":
        components = _principal_components(rows)
        # one unit for all axes: short ones must not count as much as long ones
        index = hilbert_index(_to_grid(components, np.ptp(components, axis=0).max()))
        order = np.argsort(index, kind="stable")
        cells = np.zeros(len(order), np.int64)
    else:
        components = _principal_components(_rows([_low_frequencies(leaf) for leaf in leaves]))
        index = hilbert_index(_to_grid(components, np.ptp(components, axis=0)))
        order = np.argsort(index, kind="stable")
        # the top bit of each axis is the coarsest level of the curve
        cells = (index >> np.uint64((_bits(components.shape[1]) - 1) * components.shape[1]))[order]
    return _greedy_in_groups(rows, order, cells)


def hilbert_index(points: np.ndarray) -> np.ndarray:
    """The position of grid points along a Hilbert curve, uint64 of shape `(T,)`.

    `points` has shape `(T, n)`, unsigned integers below `2^b` with `b = 63 // n` (at most 16).  Points with
    consecutive positions are neighbours on the grid.  Skilling's transform: undo the rotations and
    reflections of each level from the coarsest down, then decode the Gray code that is left.
    """
    axes = [np.array(axis, np.uint64) for axis in points.T]
    n, bits = len(axes), _bits(points.shape[1])
    for level in range(bits - 1, 0, -1):
        below = np.uint64((1 << level) - 1)
        for i in range(n):
            reflect = ((axes[i] >> np.uint64(level)) & np.uint64(1)).astype(bool)
            exchange = np.where(reflect, 0, (axes[0] ^ axes[i]) & below)
            axes[0] ^= np.where(reflect, below, exchange)
            axes[i] ^= exchange
    for i in range(1, n):
        axes[i] ^= axes[i - 1]
    parity = np.zeros_like(axes[0])
    for level in range(bits - 1, 0, -1):
        odd = ((axes[-1] >> np.uint64(level)) & np.uint64(1)).astype(bool)
        parity ^= np.where(odd, np.uint64((1 << level) - 1), np.uint64(0))
    index = np.zeros_like(axes[0])
    for level in range(bits - 1, -1, -1):
        for axis in axes:
            bit = ((axis ^ parity) >> np.uint64(level)) & np.uint64(1)
            index = (index << np.uint64(1)) | bit
    return index


def _bits(dimensions: int) -> int:
    """Bits for each axis, such that a position fits into 63."""
    return min(63 // dimensions, 16)


def _to_grid(components: np.ndarray, extent: np.ndarray | float) -> np.ndarray:
    extent = np.where(np.asarray(extent) > 0, extent, 1)
    cells = 2 ** _bits(components.shape[1])
    unit = (components - components.min(axis=0)) / extent
    return np.minimum(unit * cells, cells - 1).astype(np.uint64)


def _leaves(parameters: PyTree) -> list[np.ndarray]:
    """Checked, and divided by their largest number: distances then neither overflow nor vanish."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(parameters)]
    if any(leaf.dtype.kind not in "biufc" for leaf in leaves):
        raise TypeError(
            f"`parameters` must hold numbers, but its leaves have dtypes {[leaf.dtype for leaf in leaves]}."
        )
    shapes = [leaf.shape for leaf in leaves]
    if not leaves or () in shapes or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(
            "`parameters` must be an array, or a pytree of arrays, whose leading axis numbers the systems, "
            f"but its leaves have the shapes {shapes}."
        )
    if 0 in {leaf.size for leaf in leaves}:
        raise ValueError(f"`parameters` is empty: its leaves have the shapes {shapes}. Give some numbers.")
    for leaf in leaves:
        finite = np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"`parameters` holds NaN or Inf in system {int(np.argmin(finite))} "
                f"({int((~finite).sum())} systems have some). Drop these systems before sorting."
            )
    largest = max(float(np.abs([part.max(), part.min()], dtype=float).max()) for part in map(_real, leaves))
    single = np.result_type(np.float32, *leaves) in (np.float32, np.complex64)
    real, complex_ = (np.float32, np.complex64) if single else (np.float64, np.complex128)
    unit = largest if largest > np.finfo(real).tiny else 1.0
    return [leaf.astype(complex_ if leaf.dtype.kind == "c" else real) / unit for leaf in leaves]


def _real(leaf: np.ndarray) -> np.ndarray:
    """One row of real numbers for each system."""
    flat = leaf.reshape(len(leaf), -1)
    return np.concatenate([np.real(flat), np.imag(flat)], axis=1) if flat.dtype.kind == "c" else flat


def _rows(leaves: list[np.ndarray]) -> np.ndarray:
    """One row for each system, centred."""
    rows = np.concatenate([_real(leaf) for leaf in leaves], axis=1)
    return rows - rows.mean(axis=0)


def _principal_components(rows: np.ndarray) -> np.ndarray:
    """The leading coordinates of centred rows, shape `(T, n)`, by subspace iteration from a fixed start.

    Halko, Martinsson & Tropp (2011), doi:10.1137/090771806.
    """
    systems, size = rows.shape
    number = min(COMPONENTS, systems, size)
    basis = np.random.default_rng(0).standard_normal((size, min(size, number + 8))).astype(rows.dtype)
    for _ in range(3):
        basis = np.linalg.qr(rows.T @ (rows @ basis))[0]
    coordinates = rows @ basis
    _, rotation = np.linalg.eigh(coordinates.T @ coordinates)
    return coordinates @ rotation[:, ::-1][:, :number]


def _low_frequencies(leaf: np.ndarray) -> np.ndarray:
    """The lowest Fourier coefficients of fields, of a unitary transform; anything else as it is."""
    if leaf.ndim != 3:
        return leaf
    _, height, width = leaf.shape
    rows = np.fft.fftfreq(height, 1 / height)
    rows = rows[np.argsort(np.abs(rows), kind="stable")][:FREQUENCIES]
    columns = np.arange(min(FREQUENCIES, width if np.iscomplexobj(leaf) else width // 2 + 1))
    left = np.exp(-2j * np.pi * np.outer(rows, np.arange(height)) / height)
    right = np.exp(-2j * np.pi * np.outer(np.arange(width), columns) / width)
    if not np.iscomplexobj(leaf):
        right[:, 1:] *= np.sqrt(2)  # these stand for their conjugates too
    blocks = [left @ (leaf[i : i + GROUP] @ right) for i in range(0, len(leaf), GROUP)]
    return np.concatenate(blocks) / np.sqrt(height * width)


def _greedy(rows: np.ndarray, start: int) -> np.ndarray:
    """From `start` always to the nearest row that is left."""
    order = np.empty(len(rows), np.int64)
    # ||row||^2, and infinity for the visited; ||row - here||^2 differs from this by -2 row . here + constant
    squares = np.einsum("ij,ij->i", rows, rows)
    here = start
    for k in range(len(rows)):
        order[k] = here
        squares[here] = np.inf
        here = np.argmin(squares - 2 * (rows @ rows[here]))
    return order


def _greedy_in_groups(rows: np.ndarray, order: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Greedy inside each run of equal `cells` along `order`, in groups of at most `GROUP` systems."""
    borders = np.flatnonzero(np.diff(cells)) + 1
    pieces = []
    last = order[0]
    for cell in np.split(order, borders):
        for group in np.array_split(cell, -(-len(cell) // GROUP)):
            members = rows[group]
            start = np.argmin(((members - rows[last]) ** 2).sum(axis=1))
            pieces.append(group[_greedy(members, int(start))])
            last = pieces[-1][-1]
    return np.concatenate(pieces)

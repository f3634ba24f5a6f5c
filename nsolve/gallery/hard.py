"""Systems on which solvers fail: saddle points, circuits, bad units, a matrix that is all but singular.

Patterns are made on the host, of sizes and the integer `pattern` alone, so that all keys share them; numbers
are drawn of the `key`, which may be traced.
"""

from typing import Any

import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, ArrayLike

from .._upstream import bounded_cache
from ..operators import SparseLinearOperator, StencilLinearOperator, as_sparse
from ._checks import grid_shape, positive, positive_integer, real_dtype
from ._draw import Key, normal, split, uniform
from .grids import combined
from .problem import LinearProblem, with_normal_vector


def stokes(key: Key, size: int, viscosity: ArrayLike = 1.0, dtype: Any = None) -> LinearProblem:
    """`-viscosity Δu + grad p = f`, `div u = g` on the unit square, with `u = 0` on the walls: a staggered
    grid of `size` x `size` cells, velocities on faces and pressures in cells.

    `[[A, B], [B^T, 0]]`, symmetric and indefinite: as many positive eigenvalues as there are velocities, as
    many negative ones as pressures.  Unknowns: `size (size - 1)` velocities along x, as many along y, and
    `size^2 - 1` pressures; that of the last cell is zero, as only differences count.  Harlow & Welch 1965,
    doi:10.1063/1.1761178; for solvers Benzi, Golub & Liesen 2005, doi:10.1017/S0962492904000212.

    The zeros on the diagonal stop incomplete factorisations and relaxation.  `viscosity` may be traced.
    """
    size, dtype = positive_integer(size, "size", least=2), real_dtype(dtype)
    positive(viscosity, "viscosity")
    rows, cols, viscous, coupling, velocities = _staggered(size)
    values = jnp.asarray(viscous, dtype) * jnp.asarray(viscosity, dtype) + jnp.asarray(coupling, dtype)
    count = velocities + size**2 - 1
    operator = SparseLinearOperator.from_coo(values, rows, cols, (count, count), lx.symmetric_tag)
    return with_normal_vector(operator, key)


def kkt(
    key: Key,
    size: int,
    constraints: int | None = None,
    decades: ArrayLike = 6.0,
    pattern: int = 0,
    dtype: Any = None,
) -> LinearProblem:
    """A step of an interior point method: the optimality conditions `[[H, J^T], [J, 0]]` of a quadratic
    program of `size` variables with so many equality `constraints`, by default half as many.

    `H`, a barrier's diagonal over `decades` powers of ten plus a second difference, is positive definite, and
    `J`, three random numbers a row, has full rank: symmetric and indefinite, nonsingular, `size` positive and
    `constraints` negative eigenvalues.  Variables and constraints are in random order.  Conditions grow with
    `decades`, which may be traced (Wright 1997, doi:10.1137/1.9781611971453, chapter 11).
    `parts`: `barrier`.
    """
    size = positive_integer(size, "size", least=2)
    count = positive_integer(size // 2 if constraints is None else constraints, "constraints")
    if count > size:
        raise ValueError(f"`constraints` must be at most `size`, {size}, but is {count}.")
    positive(decades, "decades", or_zero=True)
    dtype = real_dtype(dtype)
    variables, first, second, row, column = _chain(size, count, positive_integer(pattern, "pattern", least=0))
    of_barrier, of_rows, of_vector = split(key, 3)
    barrier = _powers(of_barrier, size, decades, dtype)
    # The first number of each row leads it; none can cancel it, so that no row depends on others.
    jacobian = jnp.asarray(normal(of_rows, row.shape, dtype)).at[:count].set(1)
    difference = jnp.ones(first.shape, dtype)
    values = [barrier, difference, difference, -difference, -difference, jacobian, jacobian]
    rows = [variables, first, second, first, second, row, column]
    cols = [variables, first, second, second, first, column, row]
    whole = size + count
    operator = SparseLinearOperator.from_coo(
        jnp.concatenate(values), np.concatenate(rows), np.concatenate(cols), (whole, whole), lx.symmetric_tag
    )
    vector = jnp.asarray(normal(of_vector, (whole,), dtype))
    return LinearProblem(operator, vector, {"barrier": barrier})


def circuit(
    key: Key,
    size: int,
    sources: int | None = None,
    decades: ArrayLike = 6.0,
    pattern: int = 0,
    dtype: Any = None,
) -> LinearProblem:
    """Modified nodal analysis of a random circuit: `size` nodes beside the ground, resistors, voltage
    `sources` and as many transistors, by default an eighth of the nodes.

    Unknowns are the nodes' voltages and the sources' currents; `[[G, S], [S^T, 0]]` with conductances over
    `decades` powers of ten, up to 1.  Sources put zeros on the diagonal, of their own rows and of nodes with
    no resistor; transistors, currents that other nodes' voltages control, make `G` unsymmetric.  The
    right-hand side is zero but for the sources' N(0, 1) voltages.  Resistors and sources connect all nodes,
    and no sources form a loop.  Ho, Ruehli & Brennan 1975, doi:10.1109/TCS.1975.1084079.

    `decades` may be traced.  `parts`: `resistors`, `transistors` (drain and gate) and `sources`, pairs of
    nodes of which 0 is the ground; `conductance` of the resistors, `gain` of the transistors.
    """
    size = positive_integer(size, "size", least=2)
    count = positive_integer(max(1, size // 8) if sources is None else sources, "sources")
    if count > size:
        raise ValueError(f"`sources` must be at most `size`, {size}, but is {count}.")
    positive(decades, "decades", or_zero=True)
    dtype = real_dtype(dtype)
    resistors, gates, branches = _network(size, count, positive_integer(pattern, "pattern", least=0))
    of_resistors, of_gates, of_vector = split(key, 3)
    half = jnp.asarray(decades, dtype) / 2
    conductance = _powers(of_resistors, len(resistors), decades, dtype) * 10**-half
    gain = _powers(of_gates, len(gates), decades, dtype) * 10**-half
    (a, b), (drain, gate), (plus, minus) = resistors.T, gates.T, branches.T
    unit, current = jnp.ones(count, dtype), size + 1 + np.arange(count)
    values = [conductance, conductance, -conductance, -conductance, gain, unit, unit, -unit, -unit]
    rows = [a, b, a, b, drain, plus, current, minus, current]
    cols = [a, b, b, a, gate, current, plus, current, minus]
    rows, cols = np.concatenate(rows) - 1, np.concatenate(cols) - 1
    inside = (rows >= 0) & (cols >= 0)  # the ground's voltage is zero
    whole = size + count
    operator = SparseLinearOperator.from_coo(
        jnp.concatenate(values)[inside], rows[inside], cols[inside], (whole, whole)
    )
    voltages = jnp.asarray(normal(of_vector, (count,), dtype))
    vector = jnp.concatenate([jnp.zeros(size, dtype), voltages])
    parts = {"resistors": resistors, "transistors": gates, "sources": branches}
    return LinearProblem(operator, vector, parts | {"conductance": conductance, "gain": gain})


def badly_scaled(
    key: Key, operator: lx.AbstractLinearOperator, decades: ArrayLike = 12.0, symmetric: bool = False
) -> LinearProblem:
    """`D1 A D2`: any operator in other units, random ones over `decades` powers of ten; with `symmetric`,
    `D A D`, which keeps symmetry and definiteness.

    As hard as `A` for who scales first; else conditions grow by up to `10^(2 decades)`.  The right-hand side
    is in its equations' units, `D1` times N(0, 1).  `decades` may be traced.  The diagonals are
    the `parts` `left` and `right`.
    """
    positive(decades, "decades", or_zero=True)
    plain = as_sparse(operator)
    part = jnp.finfo(plain.dtype).dtype
    of_left, of_right, of_vector = split(key, 3)
    left = _powers(of_left, plain.out_size(), decades, part)
    right = left if symmetric else _powers(of_right, plain.in_size(), decades, part)
    units = left[plain.pattern.rows] * right[plain.pattern.indices]
    scaled = SparseLinearOperator(
        plain.values * units.astype(plain.dtype), plain.pattern, plain.tags if symmetric else ()
    )
    vector = jnp.asarray(normal(of_vector, left.shape, plain.dtype)) * left.astype(plain.dtype)
    return LinearProblem(scaled, vector, {"left": left, "right": right})


def nearly_singular(
    key: Key, shape: tuple[int, ...], shift: ArrayLike = 1e-8, dtype: Any = None
) -> LinearProblem:
    """The Laplacian between walls that nothing flows through, plus `shift I`, on a grid of one to three axes
    with spacing 1.

    Symmetric positive definite, but only just: constants have the eigenvalue `shift`, all others are far
    above, so that residuals are small long before solutions are right.  A stencil on arrays of the grid's
    shape.  `shift` may be traced.
    """
    shape, dtype = grid_shape(shape), real_dtype(dtype)
    positive(shift, "shift")
    laplacian = StencilLinearOperator.diffusion(jnp.ones(shape, dtype), 1.0, "neumann")
    operator = combined(laplacian, 1.0, jnp.asarray(shift, dtype), lx.positive_semidefinite_tag)
    return with_normal_vector(operator, key)


def _powers(key: Any, count: int, decades: Any, dtype: Any) -> Array:
    """Powers of ten, uniform in the exponent, from `-decades / 2` to `decades / 2`."""
    exponents = jnp.asarray(uniform(key, (count,), dtype, -0.5, 0.5))
    return 10 ** (exponents * jnp.asarray(decades, dtype))


@bounded_cache(8)
def _staggered(size: int) -> tuple[Any, ...]:
    """Positions, their viscous and their coupling numbers, and how many velocities there are."""
    ones, h = np.ones(size), 1 / size
    step = sp.diags([ones[1:], -ones[1:]], [1, 0], (size - 1, size)) / h  # from cells to the faces between
    at_faces = step @ step.T
    # Along a wall the velocity is zero on it, half a cell away.
    at_cells = sp.diags([2 * ones + (np.arange(size) % (size - 1) == 0), -ones, -ones], [0, 1, -1]) / h**2
    at_cells = at_cells.tocsr()[:size, :size]
    cells, faces = sp.eye(size), sp.eye(size - 1)
    along_x = sp.kron(at_faces, cells) + sp.kron(faces, at_cells)
    along_y = sp.kron(at_cells, faces) + sp.kron(cells, at_faces)
    gradient = sp.vstack([sp.kron(step, cells), sp.kron(cells, step)]).tocsr()[:, :-1]
    velocity, gradient = sp.block_diag([along_x, along_y]).tocoo(), gradient.tocoo()
    below = velocity.shape[0]
    rows = np.concatenate([velocity.row, gradient.row, gradient.col + below])
    cols = np.concatenate([velocity.col, gradient.col + below, gradient.row])
    viscous = np.concatenate([velocity.data, np.zeros(2 * gradient.nnz)])
    coupling = np.concatenate([np.zeros(velocity.nnz), gradient.data, gradient.data])
    return rows, cols, viscous, coupling, below


@bounded_cache(8)
def _chain(size: int, count: int, seed: int) -> tuple[np.ndarray, ...]:
    """Of `kkt`: the variables, neighbours in the chain, and where the constraints' numbers stand."""
    rng = np.random.default_rng(seed)
    variables, constraints = rng.permutation(size), size + rng.permutation(count)
    leads = np.arange(count) * size // count  # each to the right of the one before
    others = leads + rng.integers(1, 9, (2, count))
    places = np.concatenate([leads[None], others]).ravel()
    row, inside = np.tile(constraints, 3), places < size
    return variables, variables[:-1], variables[1:], row[inside], variables[places[inside]]


@bounded_cache(8)
def _network(size: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of `circuit`: pairs of nodes with a resistor, a transistor, a source; node 0 is the ground."""
    rng = np.random.default_rng(seed)
    names = np.concatenate([[0], 1 + rng.permutation(size)])
    nodes = np.arange(1, size + 1)

    def near(some: np.ndarray) -> np.ndarray:  # an earlier node, not far away
        return np.maximum(some - rng.integers(1, 17, some.shape), 0)

    tree = np.stack([nodes, near(nodes)], axis=1)
    is_source = np.zeros(size, bool)
    is_source[rng.permutation(size)[:count]] = True
    chosen = rng.integers(1, size + 1, size // 2)
    more = np.stack([chosen, near(chosen)], axis=1)
    drains = rng.integers(1, size + 1, count)
    gates = np.stack([drains, near(drains)], axis=1)
    resistors = np.concatenate([tree[~is_source], more])
    return names[resistors], names[gates], names[tree[is_source]]

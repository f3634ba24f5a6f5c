"""The operators' table: products in every form, as functions of what the operator is made of."""

import lineax as lx
import numpy as np
import scipy.sparse as sp

import nsolve as ns

from ..contract import Bad, Subject
from ..gallery_reference import diffusion

_rng = np.random.default_rng(5)
_n, _shape = 6, (4, 3)
_pattern = sp.random_array((_n, _n), density=0.4, rng=_rng, format="csr") + sp.eye_array(_n, format="csr")
_other = sp.random_array((_n, _n), density=0.3, rng=_rng, format="csr") + sp.eye_array(_n, format="csr")
SPARSE = ns.SparseLinearOperator.from_scipy(_pattern)
OTHER = ns.SparseLinearOperator.from_scipy(_other)
_values = np.asarray(SPARSE.values)
_x, _d = _rng.standard_normal(_n), _rng.uniform(1, 2, _n)
_complex = _values * np.exp(1j * _rng.uniform(0, 1, len(_values)))
_field, _on_grid = np.exp(0.3 * _rng.standard_normal(_shape)), _rng.standard_normal(_shape)
_left, _right = _rng.standard_normal((2, _n, 2))


def forms(operator, x):
    """Everything that an operator does with a vector, and its diagonal."""
    return operator.mv(x), operator.transpose().mv(x), lx.conj(operator).mv(x), lx.diagonal(operator)


def dense_forms(matrix, x):
    return matrix @ x, matrix.T @ x, matrix.conj() @ x, np.diag(matrix)


def dense(values, like=SPARSE) -> np.ndarray:
    matrix = np.zeros(like.pattern.shape, values.dtype)
    matrix[np.asarray(like.pattern.rows), np.asarray(like.pattern.indices)] = values
    return matrix


def other(like):
    return OTHER.with_values(OTHER.values.astype(like.dtype))


def _of_values(name, make, matrix, values=_values, x=_x, **fields) -> Subject:
    """What becomes of a sparse operator, as a function of its values."""
    return Subject(
        f"operators-{name}",
        lambda values, x: forms(make(SPARSE.with_values(values)), x),
        (values, x),
        lambda values, x: dense_forms(matrix(dense(values)), x),
        **fields,
    )


def _on_cells(field, x):
    matrix = diffusion(field, 0.5)
    return (*(y.reshape(field.shape) for y in 3 * (matrix @ x.ravel(),)), matrix.diagonal())


def _star(values) -> ns.StencilLinearOperator:
    """Upwind on four by three points, periodic along the first axis, one value a point in the centre."""
    stencil = {(0, 0): values["centre"], (-1, 0): values["west"], (0, 1): values["north"]}
    return ns.StencilLinearOperator.from_stencil(stencil, _shape, (True, False))


def _star_matrix(values) -> np.ndarray:
    index, matrix = np.arange(12).reshape(_shape), np.diag(values["centre"].ravel())
    for i, j in np.ndindex(_shape):
        matrix[index[i, j], index[i - 1, j]] += values["west"][()]
        if j + 1 < _shape[1]:
            matrix[index[i, j], index[i, j + 1]] += values["north"][i, j]
    return matrix


_star_values = {"centre": _field, "west": np.array(-0.4), "north": -0.3 * _field}


def _star_forms(values, x):
    *products, diagonal = dense_forms(_star_matrix(values), x.ravel())
    return (*(y.reshape(_shape) for y in products), diagonal)


def _low_rank(d, left, right, x):
    operator = ns.LowRankPlusDiagonalLinearOperator(d, left, right)
    return *forms(operator, x), operator.inverse().mv(x)


def _dense_low_rank(d, left, right, x):
    matrix = np.diag(d) + left @ right.conj().T
    return *dense_forms(matrix, x), np.linalg.solve(matrix, x)


S = ns.StencilLinearOperator
_ones = np.ones(3)
WRONG_STENCILS = {
    "shape": Bad(lambda: S.poisson((0, 3)), "`shape`"),
    "four axes": Bad(lambda: S.poisson((2, 2, 2, 2)), "`shape`"),
    "number as shape": Bad(lambda: S.poisson(5), "`shape` must be a tuple", TypeError),  # pyright: ignore
    "spacing": Bad(lambda: S.poisson((3, 3), -1.0), "`spacing` must be positive"),
    "one spacing of two": Bad(lambda: S.poisson((3, 3), (1.0,)), "`spacing` has 1 entries"),
    "negative": Bad(lambda: S.diffusion(np.array([1.0, -1.0])), "`coefficient` must be positive"),
    "inactive": Bad(lambda: S.diffusion(np.zeros(3)), "no cell is active"),
    "overflow": Bad(lambda: S.diffusion(np.full(3, 1e300), 1e-10), "overflows float64"),
    "nan": Bad(lambda: S.diffusion(np.array([1.0, np.nan])), "`coefficient` must be finite"),
    "tuple": Bad(lambda: S.diffusion((np.ones((2, 2)), np.ones((2, 3)))), "`coefficient` as a tuple"),
    "boundary": Bad(lambda: S.diffusion(_ones, 1.0, "robin"), "`boundary` must be"),  # pyright: ignore
    "two boundaries": Bad(lambda: S.diffusion(_ones, 1.0, ("neumann",) * 2), "`boundary` has 2"),
    "empty": Bad(lambda: S.from_stencil({}, (3,)), "`stencil` is empty"),
    "offset": Bad(lambda: S.from_stencil({(0,): 1.0}, (3, 3)), "offset"),
    "values": Bad(lambda: S.from_stencil({(0,): np.ones(4)}, (3,)), "does not broadcast"),
    "infinite": Bad(lambda: S.from_stencil({(0,): np.inf}, (3,)), "must be finite"),
    "tags": Bad(
        lambda: S.from_stencil({(0,): 2.0, (1,): -1.0}, (3,), tags=lx.symmetric_tag),
        "`tags` contain symmetric_tag",
    ),
}
_two = np.ones((3, 2))
WRONG_LOW_RANK = {
    "left": Bad(
        lambda: ns.LowRankPlusDiagonalLinearOperator(_ones, np.ones((4, 2))), "`left` must have shape"
    ),
    "right": Bad(
        lambda: ns.LowRankPlusDiagonalLinearOperator(_ones, _two, np.ones((3, 1))), "`right` must have shape"
    ),
}

_points, _lengths = _rng.standard_normal((5, 2)), np.array([0.8, 1.3])


def _kernel(points, length, nugget, x):
    radial = ns.operators.RadialKernel("matern52", length)
    return forms(ns.KernelLinearOperator(points, radial, nugget), x)


def _dense_kernel(points, length, nugget, x):
    s = np.sqrt(5) * np.linalg.norm((points[:, None] - points) / length, axis=-1)
    return dense_forms((1 + s + s**2 / 3) * np.exp(-s) + np.diag(nugget), x)


def _kernel_of(*arguments):
    return lambda: ns.KernelLinearOperator(*arguments)


_matern = ns.operators.RadialKernel("matern32")
WRONG_KERNELS = {
    "points": Bad(_kernel_of(_ones, _matern), r"`points` must be real, of shape \(n, d\)"),
    "complex": Bad(_kernel_of(1j * _two, _matern), "`points` must be real"),
    "kernel": Bad(_kernel_of(_two, "matern32"), "`kernel` must be a function", TypeError),
    "vector": Bad(_kernel_of(_two, lambda x, y: x * y), r"`kernel\(x, y\)` .* must be one real number"),
    "nugget": Bad(
        _kernel_of(_two, _matern, np.ones(2)), "`nugget` must be a number, or one for each of the 3"
    ),
    "negative": Bad(_kernel_of(_two, _matern, -1.0), "`nugget` must be finite and not negative"),
    "name": Bad(lambda: ns.operators.RadialKernel("cubic"), "must be one of"),  # pyright: ignore
    "length": Bad(lambda: ns.operators.RadialKernel("gaussian", 0.0), "must be positive and finite"),
}

SUBJECTS = [
    _of_values("sparse", lambda A: A, lambda A: A),
    _of_values("sparse-complex", lambda A: A, lambda A: A, _complex, _x + 0.5j * _d),
    _of_values(
        "shifted",
        lambda A: 2.0 * A + 0.5 * ns.as_sparse(lx.IdentityLinearOperator(A.in_structure())),
        lambda A: 2 * A + 0.5 * np.eye(_n),
    ),
    _of_values("sum", lambda A: A - other(A), lambda A: A - _other.toarray()),
    _of_values("product", lambda A: A @ other(A), lambda A: A @ _other.toarray()),
    _of_values(
        "selected", lambda A: A.select([3, 0, 1], [2, 3, 5]), lambda A: A[[3, 0, 1]][:, [2, 3, 5]], x=_x[:3]
    ),
    _of_values("diagonal-added", lambda A: A.add_diagonal(_d), lambda A: A + np.diag(_d)),
    Subject(
        "operators-diffusion",
        lambda field, x: forms(S.diffusion(field, 0.5), x),
        (_field, _on_grid),
        _on_cells,
        WRONG_STENCILS,
    ),
    Subject(
        "operators-stencil",
        lambda values, x: forms(_star(values), x),
        (_star_values, _on_grid),
        _star_forms,
    ),
    Subject(
        "operators-low-rank",
        _low_rank,
        (_d, 0.3 * _left, 0.3 * _right, _x),
        _dense_low_rank,
        WRONG_LOW_RANK,
    ),
    Subject(
        "operators-kernel",
        _kernel,
        (_points, _lengths, _rng.uniform(0.5, 1, 5), _rng.standard_normal(5)),
        _dense_kernel,
        WRONG_KERNELS,
    ),
]

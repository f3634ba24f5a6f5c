"""The preconditioners' table: what each makes of a vector, linear in it and constant in the operator."""

from importlib.util import find_spec

import lineax as lx
import numpy as np

import nsolve as ns

from ..contract import Subject
from ..test_kl_cholesky import dense_factor as kl_factor
from ..test_sparse_inverse import dense_factor, dense_spai
from ..test_threshold_cholesky import dense_inverse
from .linear import PSD, normal

_rng = np.random.default_rng(8)
_n = 12
_lower = np.where(_rng.random((_n, _n)) < 0.3, _rng.uniform(-1, 1, (_n, _n)), 0)
_lower = np.tril(_lower, -1)
_matrix = _lower + _lower.T + np.diag(abs(_lower + _lower.T).sum(1) + 0.5)
A = ns.SparseLinearOperator.from_scipy(_matrix, PSD)
_untagged = ns.SparseLinearOperator.from_scipy(_matrix)
_x = np.asarray(normal(_rng, _n, float))


#: A saddle point: half of the unknowns are constraints.
_half = _n // 2
_coupling = np.eye(_half) + np.where(
    _rng.random((_half, _half)) < 0.3, _rng.uniform(-1, 1, (_half, _half)), 0
)
_saddle = np.block([[_matrix[:_half, :_half], _coupling.T], [_coupling, -0.1 * _matrix[_half:, _half:]]])
K = ns.SparseLinearOperator.from_scipy(_saddle, lx.symmetric_tag)


def _dense(operator, values) -> np.ndarray:
    matrix = np.zeros((_n, _n))
    matrix[np.asarray(operator.pattern.rows), np.asarray(operator.pattern.indices)] = values
    return matrix


def _ssor(a, omega):
    """From its definition as a product of sweeps."""
    d, low = np.diag(np.diag(a)), omega * np.tril(a, -1)
    return omega * (2 - omega) * np.linalg.inv(d + low.T) @ d @ np.linalg.inv(d + low)


def _kept(a):
    """Gaussian elimination that drops what falls outside of the pattern: L U."""
    a, kept = a.copy(), a != 0
    for k in range(len(a)):
        for i in range(k + 1, len(a)):
            if kept[i, k]:
                a[i, k] /= a[k, k]
                a[i, k + 1 :] -= np.where(kept[i, k + 1 :], a[i, k] * a[k, k + 1 :], 0)
    return (np.tril(a, -1) + np.eye(len(a))) @ np.triu(a)


def _local(a, labels, overlap, coarse=False):
    """The sum of the inverses on groups of unknowns, and on the constants of each group."""
    inverse, labels = np.zeros_like(a), np.asarray(labels)
    sums = (labels[None, :] == np.unique(labels)[:, None]).astype(float)
    for inside in sums > 0:
        for _ in range(overlap):
            inside = (a != 0) @ inside
        inverse[np.ix_(inside, inside)] += np.linalg.inv(a[np.ix_(inside, inside)])
    return inverse + sums.T @ np.linalg.inv(sums @ a @ sums.T) @ sums if coarse else inverse


def _blocks(k):
    """Of a saddle point: the leading block's diagonal, and an incomplete factor of what is left."""
    a, b, c = k[:_half, :_half], k[_half:, :_half], -k[_half:, _half:]
    inverse = np.zeros_like(k)
    inverse[:_half, :_half] = np.diag(1 / np.diag(a))
    inverse[_half:, _half:] = np.linalg.inv(_kept(c + b / np.diag(a) @ b.T))
    return inverse


def _row(name, make, inverse, operator=A, **fields) -> Subject:
    def call(values, x):
        M = make(operator.with_values(values))
        return M.mv(x), M.transpose().mv(x)

    def reference(values, x):
        dense = inverse(_dense(operator, values))
        return dense @ x, dense.T @ x

    # M is constant by contract: its gradient in the values is none
    return Subject(
        f"preconditioners-{name}", call, (np.asarray(operator.values), _x), reference, moves=(1,), **fields
    )


def _polynomial(a):
    """Of degree two: `e_2 I - e_1 A + A^2`, in the units of the trace."""
    trace = np.trace(a)
    second = (trace**2 - np.sum(a**2)) / 2
    return (np.eye(_n) - (trace * a - a @ a) / second) / trace


def _level(a, high):
    """Two steps towards zero, `R(l) = (16 l^2 - 20 l + 5) / 5` with `l` in units of `high`; scaled."""
    d = np.diag(1 / np.diag(a))
    return (20 * np.eye(_n) - 16 / high * d @ a) / (5 * high) @ d


_points = _rng.random((_n, 2))
P = ns.preconditioners
SUBJECTS = [
    _row("jacobi", P.Jacobi(), lambda a: np.diag(1 / np.diag(a))),
    _row("block-jacobi", P.BlockJacobi(5), lambda a: _local(a, np.arange(_n) // 5, 0)),
    _row("schwarz", P.Schwarz(np.arange(_n) % 3), lambda a: _local(a, np.arange(_n) % 3, 1, coarse=True)),
    _row("ssor", P.SSOR(omega=1.3), lambda a: _ssor(a, 1.3)),
    _row("incomplete-cholesky", P.IncompleteCholesky(), lambda a: np.linalg.inv(_kept(a))),
    _row("incomplete-lu", P.IncompleteLU(), lambda a: np.linalg.inv(_kept(a))),
    _row("threshold-cholesky", P.ThresholdCholesky(0.1), lambda a: dense_inverse(a, 0.1)),
    # So few unknowns are one level, and M the inverse.
    *([_row("algebraic-multigrid", P.AlgebraicMultigrid(), np.linalg.inv)] if find_spec("pyamg") else []),
    _row("saddle-point", P.SaddlePoint(_half, block=P.Jacobi()), _blocks, K),
    _row("fsai", P.SparseApproximateInverse(), lambda a: (g := dense_factor(a)).T @ g),
    _row("spai", P.SparseApproximateInverse(), dense_spai, _untagged),
    _row("kl-cholesky", P.KLCholesky(_points, 4), lambda a: (g := kl_factor(a, _points, 4)).T @ g),
    _row("polynomial", P.Polynomial(2), _polynomial),
    _row("polynomial-least-squares", P.Polynomial(1, "least_squares", 3.0), lambda a: _level(a, 3.0)),
    _row("nystrom", P.Nystrom(_n, shift=0.1), np.linalg.inv),
]

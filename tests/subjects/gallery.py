"""The gallery's table: matrices as functions of their numbers, for points and noise that are drawn once."""

import numpy as np
from scipy.spatial.distance import cdist

import nsolve as ns

from ..contract import Bad, Subject

_POINTS = np.asarray(ns.gallery.kernel_matrix(3, 6, dtype=float).parts["points"])
_KERNELS = {
    "gaussian": lambda s: np.exp(-(s**2) / 2),
    "exponential": lambda s: np.exp(-s),
    "matern32": lambda s: (1 + np.sqrt(3) * s) * np.exp(-np.sqrt(3) * s),
    "matern52": lambda s: (1 + np.sqrt(5) * s + 5 / 3 * s**2) * np.exp(-np.sqrt(5) * s),
}
_SMALL = np.array([0.3, 0.01])


def _kernel(name) -> Subject:
    def call(numbers):
        length, nugget = numbers
        return ns.gallery.kernel_matrix(3, 6, 2, name, length, nugget, numbers.dtype).operator.as_matrix()

    def reference(numbers):
        return _KERNELS[name](cdist(_POINTS, _POINTS) / numbers[0]) + numbers[1] * np.eye(6)

    wrong = {
        "length": Bad(lambda: ns.gallery.kernel_matrix(3, 6, kernel=name, length=0.0), "`length`"),
        "nugget": Bad(lambda: ns.gallery.kernel_matrix(3, 6, kernel=name, nugget=-1.0), "`nugget`"),
        "kernel": Bad(lambda: ns.gallery.kernel_matrix(3, 6, kernel=name + "?"), "`kernel`"),
    }
    return Subject(f"gallery-{name}", call, (_SMALL,), reference, wrong)


SUBJECTS = [_kernel(name) for name in _KERNELS]

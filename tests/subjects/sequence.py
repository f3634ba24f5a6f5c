"""The table of sequences: every system's solution, as a function of all systems and vectors."""

import jax.numpy as jnp
import lineax as lx
import numpy as np

import nsolve as ns

from ..contract import Subject
from .linear import PSD

_rng = np.random.default_rng(4)
_n, _count = 8, 3
_line = 2 * np.eye(_n) - np.eye(_n, k=1) - np.eye(_n, k=-1)
LINE = ns.SparseLinearOperator.from_scipy(_line, PSD)


def _solve(shifts, vectors):
    def shifted(shift):
        line = LINE.with_values(LINE.values.astype(shift.dtype))
        return lx.TaggedLinearOperator(line.add_diagonal(jnp.full(_n, shift)), PSD)

    rtol = 1e-13 if vectors.dtype == float else 1e-6
    return ns.solve_sequence(shifted, shifts, vectors, ns.CG(rtol=rtol), y0="extrapolate").value


def _dense(shifts, vectors):
    return np.stack(
        [np.linalg.solve(_line + s * np.eye(_n), b) for s, b in zip(shifts, vectors, strict=True)]
    )


SUBJECTS = [
    Subject(
        "sequence-extrapolated",
        _solve,
        (_rng.uniform(0.5, 1, _count), _rng.standard_normal((_count, _n))),
        _dense,
        single=1e-4,
    )
]

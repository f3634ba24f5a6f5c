"""Kernel matrices: preconditioners of CG beside each other and beside SciPy's dense Cholesky factors.

To a true relative residual of 1e-8 in space, of 1e-6 in the plane, where points are nearer to each other: the
condition of 20 000 is above 1e9 there, and CG's rounding errors leave more than 1e-8 of the residual, as one
cell shows.  Each step is a dense product, so who does not help is stopped early.  Dense factors are of 5000
points alone: of 20 000, OpenBLAS's Cholesky ends the process where it has two threads (SciPy 1.17.1).
"""

from functools import partial

from ..engine.suite import Group, Suite
from ..work import kernel

_group = partial(Group, repeats=1, isolate=True, kill_s=1200.0)
_OTHERS = ["cg+block_jacobi[block_size=256]", "cg+nystrom[rank=512]"]

SUITE = Suite(
    "Kernel matrices: steps and seconds, set-up included",
    kernel.WORK,
    (
        _group(
            "kernel_matrix",
            ["cg", "cg+kl_cholesky", *_OTHERS, "scipy:cholesky"],
            size=5000,
            rtol=1e-6,
            max_steps=300,
        ),
        _group("kernel_matrix", ["cg+kl_cholesky", *_OTHERS], size=20_000, rtol=1e-6, max_steps=100),
        _group("kernel_matrix", "cg+kl_cholesky", size=20_000, max_steps=100),
        _group(
            "kernel_matrix[dim=3]", ["cg+kl_cholesky[neighbours=50]", *_OTHERS], size=20_000, max_steps=100
        ),
    ),
)

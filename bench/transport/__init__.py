"""Optimal transport as cells of the benchmark: `nsolve-bench run transport`.

A cell's `rtol` is the L1 error of both marginals, `|P 1 - a|_1 + |P^T 1 - b|_1`; a problem's `eta` is the
inverse of `epsilon` in units of the largest cost.  A column may ask for derivatives too:
`sinkhorn_newton@gradient`.
"""

from ..specs import Part
from .columns import MODULES as MODULES
from .columns import check as check
from .columns import find as find
from .problems import PROBLEMS as PROBLEMS
from .problems import is_sized as is_sized
from .problems import options as options
from .problems import parse as parse

DTYPES = ("float64",)


def is_transport(problem: str | Part) -> bool:
    """Whether a problem, by its name or its text, is one of these."""
    name = problem.name if isinstance(problem, Part) else problem.split("[")[0].strip()
    return name in PROBLEMS

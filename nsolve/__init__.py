"""nsolve: numerical solvers as differentiable Equinox modules."""

from . import preconditioners as preconditioners
from .linear import CG as CG
from .operators import SparseLinearOperator as SparseLinearOperator
from .operators import hermitian_tag as hermitian_tag

__version__ = "0.1.0"

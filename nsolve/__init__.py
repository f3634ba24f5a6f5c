"""nsolve: numerical solvers as differentiable Equinox modules."""

import importlib
from typing import TYPE_CHECKING, Any

from . import linear as linear
from . import operators as operators
from . import preconditioners as preconditioners
from . import sequence as sequence
from .auto import auto as auto
from .diagnose import diagnose as diagnose
from .direct import Equilibrated as Equilibrated
from .direct import SparseCholesky as SparseCholesky
from .direct import SparseLU as SparseLU
from .linear import CG as CG
from .linear import CGLS as CGLS
from .linear import FGMRES as FGMRES
from .linear import GCRODR as GCRODR
from .linear import GMRES as GMRES
from .linear import LSMR as LSMR
from .linear import LSQR as LSQR
from .linear import MINRES as MINRES
from .linear import SOR as SOR
from .linear import BiCGStab as BiCGStab
from .linear import Chebyshev as Chebyshev
from .linear import FlexibleCG as FlexibleCG
from .linear import IterativeRefinement as IterativeRefinement
from .linear import Projected as Projected
from .linear import Richardson as Richardson
from .linear import solve_many as solve_many
from .monitor import Forecast as Forecast
from .monitor import Monitor as Monitor
from .monitor import Progress as Progress
from .operators import KernelLinearOperator as KernelLinearOperator
from .operators import LowRankPlusDiagonalLinearOperator as LowRankPlusDiagonalLinearOperator
from .operators import SparseLinearOperator as SparseLinearOperator
from .operators import StencilLinearOperator as StencilLinearOperator
from .operators import as_sparse as as_sparse
from .operators import function_operator as function_operator
from .operators import hermitian_tag as hermitian_tag
from .operators import read_matrix_market as read_matrix_market
from .operators import write_matrix_market as write_matrix_market
from .sequence import ChebCB as ChebCB
from .sequence import EpsilonGreedy as EpsilonGreedy
from .sequence import Fixed as Fixed
from .sequence import SequenceSolver as SequenceSolver
from .sequence import ThompsonSampling as ThompsonSampling
from .sequence import TsallisINF as TsallisINF
from .sequence import solve_sequence as solve_sequence
from .sequence import sort_systems as sort_systems
from .unroll import unroll as unroll

if TYPE_CHECKING:
    from . import diffusion as diffusion
    from . import gallery as gallery
    from . import transport as transport

__version__ = "0.1.0"

#: Packages that are imported when they are first asked for: many come for the linear solvers alone.
_LATER = ("diffusion", "gallery", "transport")


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})

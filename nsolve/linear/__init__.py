"""Linear solvers for `lineax.linear_solve`."""

from .._reasons import REASONS as REASONS
from ._recycled import Recycled as Recycled
from .base import AbstractIterativeSolver as AbstractIterativeSolver
from .bicgstab import BiCGStab as BiCGStab
from .cg import CG as CG
from .cgls import CGLS as CGLS
from .chebyshev import Chebyshev as Chebyshev
from .flexible_cg import FlexibleCG as FlexibleCG
from .gcro_dr import GCRODR as GCRODR
from .gmres import FGMRES as FGMRES
from .gmres import GMRES as GMRES
from .least_squares import AbstractLeastSquaresSolver as AbstractLeastSquaresSolver
from .lsmr import LSMR as LSMR
from .lsqr import LSQR as LSQR
from .many import ManySolution as ManySolution
from .many import solve_many as solve_many
from .minres import MINRES as MINRES
from .projected import Projected as Projected
from .refinement import IterativeRefinement as IterativeRefinement
from .richardson import Richardson as Richardson
from .sor import SOR as SOR

"""Preconditioners: constructors that turn an operator `A` into an operator `M ~ A^-1`."""

from .._variable import AbstractVariablePreconditioner as AbstractVariablePreconditioner
from .base import AbstractApproximateInverse as AbstractApproximateInverse
from .base import AbstractPreconditioner as AbstractPreconditioner
from .block_jacobi import BlockJacobi as BlockJacobi
from .chebyshev import Chebyshev as Chebyshev
from .composite import Composite as Composite
from .deflation import Deflation as Deflation
from .incomplete import IncompleteCholesky as IncompleteCholesky
from .incomplete import IncompleteLU as IncompleteLU
from .jacobi import Jacobi as Jacobi
from .kl_cholesky import KLCholesky as KLCholesky
from .multigrid import AlgebraicMultigrid as AlgebraicMultigrid
from .multigrid import Multigrid as Multigrid
from .multigrid import ShiftedLaplacian as ShiftedLaplacian
from .nystrom import Nystrom as Nystrom
from .polynomial import Polynomial as Polynomial
from .precision import LowPrecision as LowPrecision
from .saddle_point import SaddlePoint as SaddlePoint
from .schwarz import Schwarz as Schwarz
from .sketched_qr import SketchedQR as SketchedQR
from .sparse_inverse import SparseApproximateInverse as SparseApproximateInverse
from .ssor import SSOR as SSOR
from .threshold import ThresholdCholesky as ThresholdCholesky
from .threshold import ThresholdLU as ThresholdLU
from .variable import Variable as Variable

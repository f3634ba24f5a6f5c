"""Multigrid: levels made from a stencil (`geometric`), and one cycle that runs on them (`cycle`); of a
matrix alone, on the host (`algebraic`)."""

from .algebraic import AlgebraicMultigrid as AlgebraicMultigrid
from .geometric import Multigrid as Multigrid
from .geometric import MultigridInverse as MultigridInverse
from .k_cycle import KCycle as KCycle
from .shifted_laplacian import ShiftedLaplacian as ShiftedLaplacian

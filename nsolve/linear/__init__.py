"""Linear solvers for `lineax.linear_solve`."""

from .base import AbstractIterativeSolver as AbstractIterativeSolver
from .cg import CG as CG

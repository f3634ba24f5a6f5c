"""Direct solvers, and what is done to a matrix before it is factorised."""

from .equilibrated import Equilibrated as Equilibrated
from .memory import forget as forget
from .sparse_cholesky import SparseCholesky as SparseCholesky
from .sparse_lu import SparseLU as SparseLU

"""Linear operators: sparse matrices, stencils, kernels, low rank plus diagonal, functions."""

from .base import hermitian_tag as hermitian_tag
from .convert import as_sparse as as_sparse
from .convert import as_stencil as as_stencil
from .function import function_operator as function_operator
from .kernel import KernelLinearOperator as KernelLinearOperator
from .kernel import RadialKernel as RadialKernel
from .low_rank import LowRankPlusDiagonalLinearOperator as LowRankPlusDiagonalLinearOperator
from .matrix_market import read_matrix_market as read_matrix_market
from .matrix_market import write_matrix_market as write_matrix_market
from .pattern import SparsityPattern as SparsityPattern
from .sparse import SparseLinearOperator as SparseLinearOperator
from .stencil import StencilLinearOperator as StencilLinearOperator

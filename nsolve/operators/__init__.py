"""Linear operators: what a system is."""

from .base import hermitian_tag as hermitian_tag
from .pattern import SparsityPattern as SparsityPattern
from .sparse import SparseLinearOperator as SparseLinearOperator
from .stencil import StencilLinearOperator as StencilLinearOperator

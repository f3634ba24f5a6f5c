"""Direct solvers, and what is done to a matrix before it is factorised."""

from .equilibrate import equilibrate as equilibrate
from .equilibrated import Equilibrated as Equilibrated
from .matching import block_triangular as block_triangular
from .matching import maximum_product as maximum_product
from .memory import forget as forget
from .ordering import minimum_degree as minimum_degree
from .ordering import predicted_fill as predicted_fill
from .ordering import reverse_cuthill_mckee as reverse_cuthill_mckee
from .sparse_cholesky import SparseCholesky as SparseCholesky
from .sparse_lu import SparseLU as SparseLU

"""Families: parametrised systems of one sparsity pattern, for neural operators and sequence solvers."""

from .base import AbstractFamily as AbstractFamily
from .base import AbstractGridFamily as AbstractGridFamily
from .base import Parameter as Parameter
from .darcy import Darcy as Darcy
from .heat import Heat as Heat
from .helmholtz import Helmholtz as Helmholtz
from .poisson import Poisson as Poisson
from .thermal import Thermal as Thermal

#: By name.
FAMILIES: dict[str, type[AbstractFamily]] = {
    family.name: family for family in (Darcy, Thermal, Poisson, Helmholtz, Heat)
}

"""Problems to solve, train on and measure with, as functions of a key and a size."""

from . import clouds as clouds
from . import families as families
from . import finite_elements as finite_elements
from . import mixtures as mixtures
from .coefficients import blocks as blocks
from .coefficients import checkerboard as checkerboard
from .coefficients import lognormal as lognormal
from .coefficients import lognormal_contrast as lognormal_contrast
from .drifting import Drifting as Drifting
from .fields import gaussian_field as gaussian_field
from .grids import anisotropic as anisotropic
from .grids import convection_diffusion as convection_diffusion
from .grids import diffusion as diffusion
from .grids import heat as heat
from .grids import poisson as poisson
from .grids import rotated_anisotropy as rotated_anisotropy
from .helmholtz import helmholtz as helmholtz
from .kernels import kernel_matrix as kernel_matrix
from .obstacles import balls as balls
from .obstacles import boxes as boxes
from .obstacles import free_surface as free_surface
from .obstacles import pressure as pressure
from .problem import LinearProblem as LinearProblem
from .random import random_spd as random_spd
from .tuned import HeatTrajectory as HeatTrajectory
from .tuned import ShiftedLaplacian as ShiftedLaplacian

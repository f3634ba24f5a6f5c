"""Diffusion models as differential equations: samplers of proven order, differentiable in everything."""

from .denoiser import Denoiser as Denoiser
from .grids import Grid as Grid
from .grids import karras_grid as karras_grid
from .grids import log_snr_grid as log_snr_grid
from .grids import quadratic_grid as quadratic_grid
from .grids import uniform_grid as uniform_grid
from .noise import AbstractNoise as AbstractNoise
from .noise import IndependentNoise as IndependentNoise
from .plan import Plan as Plan
from .points import Points as Points
from .sample import Trajectory as Trajectory
from .sample import sample as sample
from .samplers import DDIM as DDIM
from .samplers import DDPM as DDPM
from .samplers import DPMSolver as DPMSolver
from .samplers import DPMSolverPP as DPMSolverPP
from .samplers import UniPC as UniPC
from .samplers.base import AbstractSampler as AbstractSampler
from .schedules import EDM as EDM
from .schedules import VE as VE
from .schedules import AbstractSchedule as AbstractSchedule
from .schedules import Discrete as Discrete
from .schedules import Flow as Flow
from .schedules import FromFunctions as FromFunctions
from .schedules import VPCosine as VPCosine
from .schedules import VPLinear as VPLinear

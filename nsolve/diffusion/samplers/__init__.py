"""Samplers: each a module of options whose `plan` is a table of numbers."""

from .accelerated import AcceleratedDDIM as AcceleratedDDIM
from .accelerated import AcceleratedDDPM as AcceleratedDDPM
from .adaptive import AdaptiveDPMSolver as AdaptiveDPMSolver
from .adaptive import AdaptiveMultistep as AdaptiveMultistep
from .base import AbstractAdaptiveSampler as AbstractAdaptiveSampler
from .base import AbstractSampler as AbstractSampler
from .ddim import DDIM as DDIM
from .ddim import DDPM as DDPM
from .deis import DEIS as DEIS
from .dpm_solver import DPMSolver as DPMSolver
from .dpm_solver import DPMSolverPP as DPMSolverPP
from .dpm_solver_v3 import DPMSolverV3 as DPMSolverV3
from .edm import EDMHeun as EDMHeun
from .er_sde import ERSDE as ERSDE
from .pndm import IPNDM as IPNDM
from .pndm import PNDM as PNDM
from .runge_kutta import FlowRK as FlowRK
from .runge_kutta import RFSolver as RFSolver
from .runge_kutta import RhoRK as RhoRK
from .sa_solver import SASolver as SASolver
from .unipc import UniPC as UniPC

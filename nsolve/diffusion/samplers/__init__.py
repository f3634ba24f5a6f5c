"""Samplers: each a module of options whose `plan` is a table of numbers."""

from .ddim import DDIM as DDIM
from .ddim import DDPM as DDPM
from .dpm_solver import DPMSolver as DPMSolver
from .dpm_solver import DPMSolverPP as DPMSolverPP
from .unipc import UniPC as UniPC

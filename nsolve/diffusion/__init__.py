"""Diffusion models as differential equations: samplers of proven order, differentiable in everything.

Here is what most programs need.  The rest is one level down: `samplers`, `schedules`, `grids`, `noise`,
`guidance`, `inverse`, `tuning`, `statistics`, `likelihood`, `feynman_kac`, `interpolant`, `pfgm`,
`predictor_corrector`, `points`.
"""

import importlib
from typing import Any

from . import inverse as inverse
from . import samplers as samplers
from . import schedules as schedules
from . import tuning as tuning
from .adaptive import sample_adaptive as sample_adaptive
from .as_diffrax import as_diffrax as as_diffrax
from .brownian import BrownianPath as BrownianPath
from .denoiser import Denoiser as Denoiser
from .grids import karras_grid as karras_grid
from .grids import log_snr_grid as log_snr_grid
from .grids import quadratic_grid as quadratic_grid
from .grids import uniform_grid as uniform_grid
from .guidance import ClassifierFree as ClassifierFree
from .inverse import invert as invert
from .likelihood import log_likelihood as log_likelihood
from .plan import Plan as Plan
from .sample import Sample as Sample
from .sample import sample as sample
from .samplers import DDIM as DDIM
from .samplers import AdaptiveMultistep as AdaptiveMultistep
from .samplers import DPMSolverPP as DPMSolverPP
from .samplers import UniPC as UniPC
from .schedules import EDM as EDM
from .schedules import VE as VE
from .schedules import Discrete as Discrete
from .schedules import Flow as Flow
from .schedules import VPCosine as VPCosine
from .schedules import VPLinear as VPLinear

_PUBLIC = [name for name, part in globals().items() if getattr(part, "__module__", "").startswith(__name__)]
#: Where the other public names are; each is found here as well.
_BELOW = {
    "samplers": (
        *("AbstractAdaptiveSampler", "AbstractSampler", "AcceleratedDDIM", "AcceleratedDDPM"),
        *("AdaptiveDPMSolver", "DDPM", "DEIS", "DPMSolver", "DPMSolverV3", "EDMHeun", "ERSDE", "FlowRK"),
        *("IPNDM", "PNDM", "RFSolver", "RhoRK", "SASolver"),
    ),
    "schedules": ("AbstractSchedule", "FromFunctions"),
    "grids": ("TimeGrid",),
    "noise": ("AbstractNoise", "IndependentNoise"),
    "guidance": ("DynamicThreshold",),
    "inverse": (
        *("Inversion", "KrylovConsistency", "TotalVariationConsistency", "sample_decomposed"),
        *("sample_ensemble_kalman", "second_order_tweedie"),
    ),
    "tuning": (
        *("Choice", "SearchResult", "fit_coefficients", "plan_of_choices", "reference_path"),
        *("search_plan", "tune"),
    ),
    "statistics": ("Statistics", "fit_statistics"),
    "likelihood": ("bits_per_dim",),
    "sample": ("Trajectory",),
    "feynman_kac": ("Particles", "sample_feynman_kac"),
    "interpolant": ("Interpolant", "one_sided_denoiser", "sample_interpolant"),
    "pfgm": ("PFGMField", "pfgm_noise"),
    "predictor_corrector": ("sample_predictor_corrector",),
    "points": ("Points",),
}


def __getattr__(name: str) -> Any:
    for module, names in _BELOW.items():
        if name in names or name == module:
            found = importlib.import_module(f".{module}", __name__)
            return found if name == module else getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*_PUBLIC, *_BELOW})

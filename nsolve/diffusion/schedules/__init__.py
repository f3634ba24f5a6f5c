"""Noise schedules: how much signal and noise there is at each time."""

from .base import EDM as EDM
from .base import VE as VE
from .base import AbstractSchedule as AbstractSchedule
from .base import Flow as Flow
from .base import TrueTime as TrueTime
from .base import VPCosine as VPCosine
from .base import VPLinear as VPLinear
from .own import Discrete as Discrete
from .own import FromFunctions as FromFunctions

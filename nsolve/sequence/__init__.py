"""Sequences of related linear systems: warm starts, recycled subspaces, tuned parameters."""

from .base import AbstractTuner as AbstractTuner
from .cheb_cb import ChebCB as ChebCB
from .epsilon_greedy import EpsilonGreedy as EpsilonGreedy
from .fixed import Fixed as Fixed
from .oracles import best_fixed as best_fixed
from .oracles import instance_optimal as instance_optimal
from .oracles import regret as regret
from .solve import SequenceSolution as SequenceSolution
from .solve import solve_sequence as solve_sequence
from .sorting import sort_systems as sort_systems
from .steps import SequenceSolver as SequenceSolver
from .steps import SequenceState as SequenceState
from .thompson_sampling import ThompsonSampling as ThompsonSampling
from .tsallis_inf import TsallisINF as TsallisINF

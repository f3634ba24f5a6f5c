"""From a state to its latent, and samples that agree with measurements."""

from .data_consistency import KrylovConsistency as KrylovConsistency
from .data_consistency import TotalVariationConsistency as TotalVariationConsistency
from .data_consistency import sample_decomposed as sample_decomposed
from .ensemble_kalman import sample_ensemble_kalman as sample_ensemble_kalman
from .inversion import Inversion as Inversion
from .inversion import invert as invert
from .tweedie import second_order_tweedie as second_order_tweedie

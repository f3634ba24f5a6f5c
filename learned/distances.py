"""How far two sets of points are from each other."""

import numpy as np
from jaxtyping import Array, Float
from scipy.spatial.distance import cdist

Points = Array | np.ndarray


def energy_distance(p: Float[Points, "n d"], q: Float[Points, "m d"]) -> float:
    """`2 E|p - q| - E|p - p'| - E|q - q'|` of two sets of points: 0 where they are the same, else positive.

    Szekely & Rizzo (2013), doi:10.1016/j.jspi.2013.03.018."""

    def mean(a, b):
        return cdist(np.asarray(a, float), np.asarray(b, float)).mean()

    return float(2 * mean(p, q) - mean(p, p) - mean(q, q))


def nearest_distance(p: Float[Points, "n d"], q: Float[Points, "m d"]) -> float:
    """The mean distance from a point of `p` to the one of `q` next to it: large for points far from where `q`
    was drawn, small for copies."""
    return float(cdist(np.asarray(p, float), np.asarray(q, float)).min(1).mean())

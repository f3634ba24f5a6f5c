"""Compatible relaxation: whether the points of a coarse grid can stand for all."""

from typing import Any

import jax
import numpy as np

from ..._arrays import namespace
from .stencils import Stencil, product

#: Sweeps by dimension.
_SWEEPS = {1: 8, 2: 8, 3: 16}


def unrelaxed(
    stencil: Stencil, inverse_diagonal: Any, axes: tuple[int, ...], periodic: tuple[bool, ...]
) -> Any:
    """The share of dropped points whose error relaxation leaves above a half."""
    error, dropped = relaxed(stencil, inverse_diagonal, axes, periodic)
    xp = namespace(error)
    return xp.sum(error > 0.5) / xp.maximum(xp.sum(dropped), 1)


def relaxed(
    stencil: Stencil, inverse_diagonal: Any, axes: tuple[int, ...], periodic: tuple[bool, ...]
) -> tuple[Any, Any]:
    """What is left of an error of one on the dropped points by sweeps of Jacobi's method that run on these
    alone, while the kept ones have none; and which points are dropped.  Where much is left, a coarse point is
    missing (compatible relaxation; Brandt 2000, Electron. Trans. Numer. Anal. 10, 1-20; Livne 2004,
    doi:10.1002/nla.378)."""
    xp, shape = namespace(inverse_diagonal), inverse_diagonal.shape
    kept = np.ones((1,) * len(shape), bool)
    for axis in axes:
        n = shape[axis]
        first = 0 if periodic[axis] and n % 2 else 1
        there = np.arange(n) % 2 == first
        kept = kept & there.reshape([n if k == axis else 1 for k in range(len(shape))])
    dropped = xp.broadcast_to(xp.asarray(~kept), shape) & (inverse_diagonal != 0)
    error = dropped.astype(inverse_diagonal.dtype)
    step = 0.8 * inverse_diagonal * error

    def sweep(e):
        return e - step * product(stencil, e, periodic)

    if xp is np:
        for _ in range(_SWEEPS[len(shape)]):
            error = sweep(error)
    else:
        error = jax.lax.fori_loop(0, _SWEEPS[len(shape)], lambda _, e: sweep(e), error)
    return error, dropped

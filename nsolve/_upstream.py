"""Private names of JAX, Equinox and lineax: the only file that may import them."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import lineax as lx
from jax._src import api_util, util


def checkpointed_scan(step: Any, carry: Any, table: Any, length: int, checkpoints: int) -> tuple[Any, Any]:
    """`jax.lax.scan` whose reverse mode keeps at most `checkpoints` carries, however long it is.

    Online checkpointing (Stumm & Walther, doi:10.1137/080742439) as in Equinox; no forward mode."""
    return eqxi.scan(step, carry, table, length, kind="checkpointed", checkpoints=checkpoints)


def checkpointed_while_loop(condition: Any, body: Any, carry: Any, max_steps: int) -> Any:
    """`jax.lax.while_loop` of at most `max_steps` turns that reverse mode can go through."""
    return eqxi.while_loop(condition, body, carry, max_steps=max_steps, kind="checkpointed")


def solve_throws() -> bool:
    """Whether the `lx.linear_solve` that called the caller, a solver's `compute`, raises when that fails.

    lineax raises with texts of its own, which name parameters of its own solvers, and does not tell `compute`
    whether it will.  Where it cannot be seen (another version of lineax, `compute` called by somebody else),
    the answer is no, and lineax's text stands."""
    frame = sys._getframe(2)
    # Between lie wrappers of Equinox's methods, and solvers of lineax's around ours (`Normal`, `Auto...`).
    while frame is not None and frame.f_code.co_filename.startswith(_WRAPPERS):
        if frame.f_code.co_name == "_linear_solve_impl":
            return frame.f_locals.get("throw") is True
        frame = frame.f_back
    return False


_WRAPPERS = tuple(f"{Path(str(package.__file__)).parent}{os.sep}" for package in (lx, eqx))


def bounded_cache(maxsize: int) -> Callable:
    """`functools.lru_cache` for large results: `jax.clear_caches()` empties it."""

    def decorate(function: Callable) -> Any:
        cached = functools.lru_cache(maxsize)(function)
        _clear_with_jax(cached)
        return cached

    return decorate


def _clear_with_jax(cached: Any) -> None:
    if hasattr(util, "register_cache") and hasattr(cached, "cache_clear"):
        util.register_cache(cached, cached.__qualname__)


# A cache that keeps the structures of all arguments that ever went through `equinox.filter_jit`, sparsity
# patterns among them, and that JAX (seen in 0.10) does not clear by itself.
_clear_with_jax(getattr(api_util, "donation_vector", None))

"""Names of upstream that are nobody's promise; the only file that may import them."""

import sys
from typing import Any

import equinox.internal as eqxi


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
    for _ in range(3):  # the wrapper of an Equinox module's method lies between
        if frame is None:
            return False
        if frame.f_code.co_name == "_linear_solve_impl":
            return frame.f_locals.get("throw") is True
        frame = frame.f_back
    return False

"""Names of upstream that are nobody's promise; the only file that may import them."""

from typing import Any

import equinox.internal as eqxi


def checkpointed_scan(step: Any, carry: Any, table: Any, length: int, checkpoints: int) -> tuple[Any, Any]:
    """`jax.lax.scan` whose reverse mode keeps at most `checkpoints` carries, however long it is.

    Online checkpointing (Stumm & Walther, doi:10.1137/080742439) as in Equinox; no forward mode."""
    return eqxi.scan(step, carry, table, length, kind="checkpointed", checkpoints=checkpoints)


def checkpointed_while_loop(condition: Any, body: Any, carry: Any, max_steps: int) -> Any:
    """`jax.lax.while_loop` of at most `max_steps` turns that reverse mode can go through."""
    return eqxi.while_loop(condition, body, carry, max_steps=max_steps, kind="checkpointed")

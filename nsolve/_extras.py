"""Libraries that only some functions need, and the extras of this package that bring them."""

import importlib
from typing import Any


def needed(module: str, extra: str, who: str) -> Any:
    """The module; raises where it is not installed, and says what brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name != module.partition(".")[0]:
            raise
        raise ModuleNotFoundError(
            f"{who} needs {error.name}, which is not installed: `pip install 'nsolve[{extra}]'`.",
            name=error.name,
        ) from None

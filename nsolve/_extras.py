"""Libraries that only some functions need, and the extras of this package that bring them."""

import importlib
from typing import Any


def needed(module: str, extra: str, who: str) -> Any:
    """The module; raises where it is not installed, and says what brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        library = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != library:
            raise
        raise ModuleNotFoundError(
            f"{who} needs {library}, which is not installed: `pip install 'nsolve[{extra}]'`.",
            name=library,
        ) from None

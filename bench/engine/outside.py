"""Python code from outside: a module that can be imported, or a file."""

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType


def module(name: str) -> ModuleType:
    """The module of that name, or of that `.py` file, which is run anew; what stands beside the file can be
    imported by it, as by a script.

    Raises ValueError naming it, what it raised, and the line of the file."""
    path = Path(name) if name.endswith(".py") else None
    try:
        return importlib.import_module(name) if path is None else _run(path)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        if path is None:
            hint = "give a module, or a file that ends in .py"
            raise ValueError(f"cannot import {name}: {said}; {hint}") from None
        line = _line(error, path)
        if line is not None:
            raise ValueError(f"cannot import {path}, line {line}: {said}") from None
        if isinstance(error, OSError):  # of the file itself
            raise ValueError(f"cannot read {path}: {error.strerror or error}") from None
        raise ValueError(f"cannot import {path}: {said}") from None


def _run(path: Path) -> ModuleType:
    path = path.resolve()
    loader = importlib.util.spec_from_file_location(f"nsolve_bench_{path.stem}", path)
    assert loader is not None and loader.loader is not None
    made = importlib.util.module_from_spec(loader)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[made.__name__] = made  # dataclasses look their modules up
    loader.loader.exec_module(made)
    return made


def _line(error: Exception, path: Path) -> int | None:
    """Where in the file it was raised."""
    if isinstance(error, SyntaxError):
        return error.lineno
    here = str(path.resolve())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == here]
    return lines[-1] if lines else None

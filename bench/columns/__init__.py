"""Who stands side by side: a file a library, for all works.

A name that is none of these is somebody else's: a module that can be imported, or a file
(`bench.columns.user`).
"""

import functools
import importlib
import importlib.metadata
from typing import Any

from ..engine.spec import OWN, check_name
from ..engine.work import Library, Work

# A column's prefix and the module that runs it. Modules are loaded when first asked for.
MODULES = {
    OWN: "nsolve",
    "scipy": "scipy",
    "pyamg": "pyamg",
    "amgcl": "amgcl",
    "lineax": "lineax",
    "jax.scipy": "jax_scipy",
    "solvax": "solvax",
    "petsc": "petsc",
    "klujax": "klujax",
    "sparsax": "sparsax",
    "splineax": "splineax",
    "ott": "ott",
    "pot": "pot",
    "diffusers": "diffusers",
}
ENTRY_POINTS = "nsolve.bench.columns"


def find(name: str, work: Work) -> Library:
    """The library of that name; ValueError with the nearest names of those that serve the work."""
    if name in MODULES:
        return _load(name)
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS, name=name):
        return _checked(point.value, point.load())
    if "." in name or "/" in name:
        from .user import library

        return library(name)
    check_name("library", name, names(work))
    raise AssertionError


def names(work: Work) -> list[str]:
    """The libraries that serve a work, installed packages' among them."""
    added = [point.name for point in importlib.metadata.entry_points(group=ENTRY_POINTS)]
    return [*work.columns, *added]


@functools.cache
def _load(name: str) -> Library:
    return importlib.import_module(f"{__name__}.{MODULES[name]}").LIBRARY


def _checked(where: str, found: Any) -> Library:
    if not isinstance(found, Library):
        raise ValueError(f"{where} is no bench.Library but {type(found).__name__}")
    return found

"""The gallery's families by name: `make("helmholtz[waves=3]", size=100)`."""

import dataclasses

from nsolve.gallery.families import AbstractFamily, Darcy, Heat, Helmholtz, Poisson, Thermal

from .specs import check_part, parse_part

FAMILIES: dict[str, type[AbstractFamily]] = {
    family.name: family for family in (Darcy, Thermal, Poisson, Helmholtz, Heat)
}
#: What solves a family fastest.
SOLVERS = {
    "darcy": "cg+multigrid",
    "thermal": "cg+multigrid",
    "poisson": "cg+multigrid",
    "helmholtz": "minres+multigrid",
    "heat": "cg",
}


def options(name: str) -> dict[str, object]:
    """The options of a family with their defaults."""
    return {f.name: f.default for f in dataclasses.fields(FAMILIES[name]) if f.init and f.name != "size"}


def make(text: str, size: int) -> AbstractFamily:
    """A family on `size` x `size` cells, by its name with options.

    ValueError names what is unknown, with the nearest names, or the option that is out of bounds."""
    part = parse_part(text)
    check_part("family", part, {name: options(name) for name in FAMILIES})
    if size < 2:
        raise ValueError(f"family {part.name!r} needs a size of at least 2 cells along an axis, got {size}")
    return FAMILIES[part.name](size=size, **part.options)  # pyright: ignore

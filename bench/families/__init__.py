"""Families of systems by name: `make("helmholtz[waves=3]", size=100)`."""

import dataclasses

from ..specs import check_part, parse_part
from .base import AbstractFamily as AbstractFamily
from .base import AbstractGridFamily as AbstractGridFamily
from .base import Parameter as Parameter
from .darcy import Darcy
from .heat import Heat
from .helmholtz import Helmholtz
from .poisson import Poisson
from .random_fields import gaussian_random_field as gaussian_random_field
from .thermal import Thermal

FAMILIES: dict[str, type[AbstractFamily]] = {
    family.name: family for family in (Darcy, Thermal, Poisson, Helmholtz, Heat)
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

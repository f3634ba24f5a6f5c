"""The problems by name: `build("lognormal2d[contrast=1e4]", size=128, seed=0)`."""

import functools
import inspect
from collections.abc import Callable

from ..specs import Part, check_part, parse_part
from . import files, named
from .base import Problem

PROBLEMS: dict[str, Callable[..., Problem]] = {
    "poisson1d": named.poisson1d,
    "poisson2d": named.poisson2d,
    "poisson3d": named.poisson3d,
    "anisotropic2d": named.anisotropic2d,
    "anisotropic3d": named.anisotropic3d,
    "lognormal2d": named.lognormal2d,
    "lognormal3d": named.lognormal3d,
    "convection_diffusion2d": named.convection_diffusion2d,
    "helmholtz2d": named.helmholtz2d,
    "heat2d": named.heat2d,
    "fem2d": named.fem2d,
    "pyamg": files.pyamg_example,
    "matrix_market": files.matrix_market,
}


def options(name: str) -> dict[str, object]:
    """The options of a problem with their defaults."""
    parameters = inspect.signature(PROBLEMS[name]).parameters
    return {k: p.default for k, p in parameters.items() if k not in ("size", "seed")}


def is_sized(name: str) -> bool:
    """Whether the problem comes in sizes (a file does not)."""
    return "size" in inspect.signature(PROBLEMS[name]).parameters


def parse(text: str) -> Part:
    """A problem's name with options, checked; a path ending in `.mtx` or `.mtx.gz` is a problem
    too. ValueError names what is unknown, with the nearest names."""
    if text.strip().endswith((".mtx", ".mtx.gz")) and "[" not in text:
        text = f"matrix_market[path={text.strip()}]"
    part = parse_part(text)
    check_part("problem", part, {name: options(name) for name in PROBLEMS})
    return part


@functools.lru_cache(maxsize=2)
def build(text: str, size: int | None, seed: int) -> Problem:
    """Make a problem. `size` is ignored by those that have one size only."""
    part = parse(text)
    if not is_sized(part.name):
        return PROBLEMS[part.name](seed=seed, **part.options)
    if size is None or size < 2:
        raise ValueError(f"problem {part.name!r} needs a size of at least 2, got {size}")
    return PROBLEMS[part.name](size=size, seed=seed, **part.options)
